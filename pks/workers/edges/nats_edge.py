"""The edge of NATS: one connection, and the tasks that carry on it, each at its own cursor.

Owns the connection's life as `Edge` has it. What a task carries is its module's: `bus_out`, `bus_rejects`, `bus_in`,
`bus_positions`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar

from pks.base.errors import Retryable
from pks.edges.nats.connection import Connection, open_connection
from pks.edges.nats.origin import origin_of
from pks.edges.nats.outlog import OutLog
from pks.edges.nats.refill import RefillAsked, asked, forget
from pks.edges.nats.streams import (
    BOOKING,
    EVENTS,
    EVENTS_SUBJECT,
    HEADER_REFUSALS,
    LIFECYCLE_APPLIED,
    TRADE_BOOKED,
    TRADE_REJECTED,
    ensure_streams,
)
from pks.servers.endpoints import Endpoint
from pks.workers.edges.bus_in import BusIn, Reaper
from pks.workers.edges.bus_out import BookingOut, EventsOut
from pks.workers.edges.bus_positions import PositionsOut
from pks.workers.edges.bus_rejects import RejectsOut
from pks.workers.edges.edge import RESTS_AFTER_SECONDS, Pace
from pks.workers.edges.feed import Feed
from pks.workers.runtime import Context

LOOK_SECONDS = 0.1
"""How long a turn waits for the first task that fails."""

BEHIND_EVENTS = 1000
"""Events that wait from which on positions step back."""

REFILL_LOOK_SECONDS = 2.0
"""Between two looks whether somebody asked that the streams are emptied and filled again."""

OUR_SUBJECTS = (TRADE_BOOKED, LIFECYCLE_APPLIED, TRADE_REJECTED)


class AheadOfJournal(Retryable):
    """NATS has events of ours that this journal has not: the journal was lost, or restored from an old copy."""

    def __init__(self, cursor: int, limit: int) -> None:
        super().__init__(
            f"NATS has our events up to {cursor}, the journal up to {limit}: it was lost, or is an old copy; "
            "`pks recover --from nats` makes it anew where there is none, `pks refill nats` empties the streams"
        )
        self.cursor, self.limit = cursor, limit


class NatsEdge:
    """Implements edge.Edge."""

    name: ClassVar[str] = "nats"

    def __init__(self, context: Context) -> None:
        self.context = context
        self.feed = Feed(context.host, context.paths, context.beat)
        self.connection: Connection | None = None
        self.events: EventsOut | None = None
        self.booking: BookingOut | None = None
        self.rejects: RejectsOut | None = None
        self.failures: dict[int, int] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.cursor = 0  # last event that both streams have
        self.pace = Pace((RESTS_AFTER_SECONDS, LOOK_SECONDS))

    def _look(self) -> int:
        """Renew `cursor`; by how much it moved."""
        before = self.cursor
        if self.events is not None and self.booking is not None:
            self.cursor = min(self.events.cursor, self.booking.cursor)
        return self.cursor - before

    async def connect(self, endpoint: Endpoint) -> bool:
        """See Edge.connect."""
        if not self.context.is_system_ready() or not self.feed.open(self.cursor):
            return False
        origin = origin_of(self.feed.view.records[1])
        connection = self.connection = await open_connection(endpoint, f"pks bus {origin}")
        await ensure_streams(connection.stream)
        await self._refill_if_asked(connection, origin)
        booking_log = OutLog(connection.stream, BOOKING, OUR_SUBJECTS, origin, self.context.beat)
        events_log = OutLog(connection.stream, EVENTS, (EVENTS_SUBJECT,), origin, self.context.beat)
        events = EventsOut(self.feed, events_log, booking_log, self.context.beat)
        booking = BookingOut(self.feed, booking_log, self.context.beat)
        turns = booking_log.turns
        refusals = OutLog(connection.stream, BOOKING, (TRADE_REJECTED,), origin, self.context.beat, strand=HEADER_REFUSALS, turns=turns)
        rejects = RejectsOut(self.context, self.feed, refusals, lambda: events.cursor > self.context.host.events.start)
        await events.open()
        await booking.open(events_log.beside)
        await rejects.open()
        self._refuse_a_lost_journal(max(events.cursor, booking.cursor))
        self.events, self.booking, self.rejects = events, booking, rejects
        self.cursor = min(events.cursor, booking.cursor)
        inward = BusIn(self.context, connection, origin, self.failures)
        positions = PositionsOut(self.context, self.feed, connection, origin, self._is_behind)
        self._start(events.run(), booking.run(), rejects.run(), inward.run(), Reaper(connection, inward.consumer).run(), positions.run())
        self.tasks.add(asyncio.get_running_loop().create_task(self._watch_refill(connection, origin)))
        return True

    async def _refill_if_asked(self, connection: Connection, origin: str) -> None:
        refill = await asked(connection.stream, origin)
        if refill is None or refill.is_done:
            return
        removed = await forget(connection.stream, origin, self.context.beat)
        self.cursor = 0
        self.context.log.info("streams emptied, as pks refill asked", **removed)

    async def _watch_refill(self, connection: Connection, origin: str) -> None:
        """Raises RefillAsked when it is."""
        while True:
            await asyncio.sleep(REFILL_LOOK_SECONDS)
            refill = await asked(connection.stream, origin)
            if refill is not None and not refill.is_done:
                raise RefillAsked

    def _refuse_a_lost_journal(self, cursor: int) -> None:
        durable = self.context.host.durable_sequence
        if cursor > durable:
            raise AheadOfJournal(cursor, durable)

    def _start(self, *runs: Coroutine[Any, Any, None]) -> None:
        self.tasks = {asyncio.get_running_loop().create_task(run) for run in runs}

    async def turn(self) -> int:
        """Let the tasks work; raises what one of them raised."""
        assert self.connection is not None, "connected"
        done, _ = await asyncio.wait(self.tasks, timeout=self.pace.pause(), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        self.connection.check()
        moved = max(0, self._look())
        if moved:
            self.pace.worked()
        return moved

    def _is_behind(self) -> bool:
        self._look()
        return self.feed.limit() - self.cursor > BEHIND_EVENTS

    def lag(self) -> tuple[int, int]:
        """See Edge.lag."""
        self._look()
        limit, cursor = self.feed.limit(), self.cursor
        if limit <= cursor:
            return (0, 0) if self.rejects is None else self.rejects.lag()
        view = self.feed.view
        if cursor + 1 > view.extent[1]:
            view.refresh()
        return limit - cursor, int(view.records[cursor + 1]["recorded_ns"]) if cursor + 1 <= view.extent[1] else 0

    async def close(self) -> None:
        """See Edge.close."""
        tasks, self.tasks = self.tasks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        connection, self.connection = self.connection, None
        self._look()
        if self.rejects is not None:
            self.rejects.close()
        self.events = self.booking = self.rejects = None
        self.feed.close()
        if connection is not None:
            await connection.close()
