"""The edge of time series: every booked trade as a row in QuestDB, or in Postgres where QuestDB cannot be had.

Owns the choice of the store while the worker lives, the pipeline (rows of one slice are made while those of the one before are
written), and the rows that no store takes. Each trade is there once by the store itself: a row's key is its own, and the cursor is what
the table says, so after a crash, a wipe or a change of the store the rest is written again from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pks.servers.endpoints import Endpoint
from pks.workers.edges.edge import EdgeWorker
from pks.workers.edges.feed import Feed
from pks.workers.edges.warm import warm_feed
from pks.workers.runtime import Context

if TYPE_CHECKING:
    from pks.edges.questdb.store import TimeSeriesStore, TradeRow

CHECK_NS = 5_000_000_000
"""How often the table is looked at, and whether another store is to be used."""

TURN_NS = 500_000_000
"""How long a turn goes on while there is more."""

STAND_IN = "timeseries_stand_in"
"""Gauge: 1 while rows go to Postgres because QuestDB cannot be had."""


class _Sending(NamedTuple):
    task: asyncio.Task[None]
    last: int
    events: int


class TimeSeries:
    """Implements edge.Edge."""

    name: ClassVar[str] = "questdb"

    def __init__(self, context: Context) -> None:
        from pks.edges.questdb import choice, rows
        from pks.edges.questdb.aside import AsideFile

        self._choice, self._rows = choice, rows
        self.context = context
        self.feed = Feed(context.host, context.paths, context.beat)
        self.aside = AsideFile(context.paths.run / "bo_positions.aside.jsonl")
        self.store: TimeSeriesStore | None = None
        self.written = context.cells.counter("rows_written")
        self.set_aside = context.cells.counter("rows_set_aside")
        self.stand_in = context.cells.gauge(STAND_IN)
        self.chosen = choice.choose(context.config)
        self._said = ""
        self._sending: _Sending | None = None
        self._check_ns = 0
        self.cursor = 0  # last event whose row is stored, with all before it

    def place(self) -> Endpoint | None:
        """Where the store is; None while it has never started."""
        self.chosen = self._choice.choose(self.context.config)
        if self.chosen.reason != self._said:
            self._said = self.chosen.reason
            self.context.log.info(
                "time series are kept in Postgres" if self._said else "time series are kept in QuestDB", because=self._said or None
            )
        self.stand_in.set(int(self.chosen.name != self.name))
        return self.chosen.place

    async def connect(self, endpoint: Endpoint) -> bool:
        """As the port says; the store is the one chosen by `place`."""
        from pks.edges.questdb.errors import StoreAhead

        if not self.context.is_system_ready() or not self.feed.open(0):
            return False
        self.store = self._choice.store_of(self.chosen._replace(place=endpoint))
        await self.store.open()
        if await self.store.empty_if_asked():
            self.context.log.info("table emptied, to be filled from the first event", store=self.store.name)
        cursor, limit = await self.store.cursor(), self.feed.limit()
        if cursor > limit:
            raise StoreAhead(self.store.name, cursor, limit)
        self._reached(cursor)
        self.names = self._rows.Names(self.feed.catalogue)
        self._check_ns = self.context.clock.monotonic_ns() + CHECK_NS
        return True

    async def turn(self) -> int:
        """As the port says: slices one after the other, the next one's rows made while the last one's are under way."""
        await self._look()
        done, end_ns = 0, self.context.clock.monotonic_ns() + TURN_NS
        while self.context.clock.monotonic_ns() < end_ns and not self.context.stop[0]:
            made = self.feed.take()
            if made is None:
                break
            rows, aside = self._rows.rows_of(self.feed.view.records, made.first, made.last, made.refused, self.names)
            for one in aside:
                self._put_aside(one.row, one.reason)
            done += await self._finish()
            self._sending = _Sending(asyncio.ensure_future(self._write(rows, made.last)), made.last, made.last - made.first + 1)
            await asyncio.sleep(0)
        return done + await self._finish()

    async def _finish(self) -> int:
        """Wait for what is under way; events that the store has since."""
        sending, self._sending = self._sending, None
        if sending is None:
            return 0
        await sending.task
        self._reached(sending.last)
        return sending.events

    def _reached(self, last: int) -> None:
        self.feed.finish(last)
        self.cursor = last

    async def _write(self, rows: Sequence[TradeRow], last: int) -> None:
        """Rows, by halves where the server refuses some, until each is written or set aside."""
        from pks.edges.questdb.errors import RowsRefused

        assert self.store is not None, "connected"
        if not rows:
            return
        try:
            await self.store.write(rows, last)
            self.written.add(len(rows))
        except RowsRefused as error:
            if len(rows) == 1:
                self._put_aside(rows[0], error.reason)
                return
            middle = len(rows) // 2
            await self._write(rows[:middle], rows[middle - 1].last_sequence)
            await self._write(rows[middle:], last)

    def _put_aside(self, row: TradeRow, reason: str) -> None:
        self.aside.put(row, reason)
        if not self.set_aside.value():
            self.context.log.warning("a row was set aside", trade_id=row.trade_id, reason=reason, file=str(self.aside.path))
        self.set_aside.add()

    async def _look(self) -> None:
        """Now and then: is the table still there, is another store to be used?"""
        from pks.edges.questdb.errors import StoreChanged

        assert self.store is not None, "connected"
        now = self.context.clock.monotonic_ns()
        if now < self._check_ns:
            return
        self._check_ns = now + CHECK_NS
        before = self.chosen.name
        self.place()
        if self.chosen.name != before:
            raise StoreChanged(before, self.chosen.name)
        await self.store.check()

    def lag(self) -> tuple[int, int]:
        """As the port says."""
        return self.feed.lag, self.feed.waits_since_ns()

    async def close(self) -> None:
        """As the port says. What was under way is taken again from the store's cursor."""
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.task.cancel()
            await asyncio.gather(sending.task, return_exceptions=True)
        self.feed.close()
        store, self.store = self.store, None
        if store is not None:
            await store.close()


class TimeSeriesWorker(EdgeWorker):
    """The edge's own choice of a server instead of the one of its name."""

    def __init__(self, context: Context) -> None:
        self.series = TimeSeries(context)
        super().__init__(context, self.series)

    async def _connected(self) -> bool:
        found = self.series.place()
        return found is not None and await self.series.connect(found)


def make(context: Context) -> TimeSeriesWorker:
    """The worker."""
    return TimeSeriesWorker(context)


def warm() -> None:
    """What the feed calls."""
    warm_feed()
