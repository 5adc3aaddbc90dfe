"""The worker `records`: every durable, judged event as rows of Postgres, once.

Owns the way from the feed to the writer, and the look at whether the database belongs to this journal. A database that knows events which
the journal does not have is not written to; it says so until somebody decides (`pks recover`, `pks refill`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from pks.base.errors import Fatal
from pks.servers.endpoints import Endpoint
from pks.workers.edges.feed import Feed, Slice
from pks.workers.runtime import Context

if TYPE_CHECKING:
    from pks.edges.postgres.encode import Rows
    from pks.edges.postgres.names import Names
    from pks.edges.postgres.writer import Writer
    from pks.workers.edges.edge import EdgeWorker

SLICE_EVENTS = 1 << 12
"""Enough that a commit's cost does not count, few enough that a slice is written in some ten milliseconds."""


class OtherJournal(Fatal):
    """What Postgres has is not of this journal: another one's, or of a future that this one has lost."""

    def __init__(self, cursor: int, last: int) -> None:
        reason = f"the journal ends at {last}" if cursor > last else "that event is another one in the journal"
        super().__init__(
            f"postgres has events up to {cursor}, {reason}: `pks recover --from postgres` makes the journal anew, "
            "`pks refill postgres` empties the tables"
        )
        self.cursor, self.last = cursor, last


class Records:
    """Implements edge.Edge."""

    name: ClassVar[str] = "postgres"

    def __init__(self, context: Context) -> None:
        self.context, self.cursor = context, 0
        self.feed = Feed(context.host, context.paths, context.beat)
        self._writer: Writer | None = None
        self._names: Names | None = None
        self._writing: tuple[asyncio.Task[None], int] | None = None  # the transaction under way and the event that it ends with
        self.rows_written = context.cells.counter("rows_written")

    async def connect(self, endpoint: Endpoint) -> bool:
        """The cursor is the database's; its checksum says whether it is of our journal."""
        from pks.edges.postgres.connection import DERIVED, connect
        from pks.edges.postgres.names import Names
        from pks.edges.postgres.writer import Writer

        if not self.feed.open(0):
            return False
        self._writer = Writer(await connect(endpoint, **DERIVED), self.context.config.instance)
        cursor, checksum = await self._writer.begin()
        self._check(cursor, checksum)
        if cursor > self.feed.limit():
            await self.close()
            return False
        if not self.feed.open(cursor):
            return False
        self._names = Names(self.feed.catalogue)
        self.cursor = cursor
        return True

    def _check(self, cursor: int, checksum: int) -> None:
        last = self.feed.host.events.head
        if cursor > last:
            raise OtherJournal(cursor, last)
        if cursor:
            if cursor > self.feed.view.extent[1]:
                self.feed.view.refresh()
            if int(self.feed.view.records[cursor : cursor + 1]["checksum"].view("<i8")[0]) != checksum:
                raise OtherJournal(cursor, last)

    async def turn(self) -> int:
        """One slice is made while the one before it is written."""
        made = self.feed.take(SLICE_EVENTS)
        rows = None if made is None else self._rows(made)
        done = await self._finish()
        if rows is not None:
            assert self._writer is not None, "connected"
            self._writing = asyncio.create_task(self._writer.write(rows)), rows.last
            await asyncio.sleep(0)
        return done + (rows is not None)

    async def _finish(self) -> int:
        """Wait for the transaction under way; 1 if there was one."""
        if self._writing is None:
            return 0
        (task, last), self._writing = self._writing, None
        await task
        self.rows_written.add(last - self.cursor)
        self.cursor = last
        self.feed.finish(last)
        return 1

    def _rows(self, made: Slice) -> Rows:
        import msgspec

        from pks.edges.postgres.encode import encode, lifecycle_places, plain_id
        from pks.layouts.codes import Flag
        from pks.layouts.detail import text_of
        from pks.workers.dump import dump_event

        assert self._names is not None, "connected"
        words: dict[int, bytes] = {}
        for at in lifecycle_places(made.events, made.refused):
            e = made.events[at].copy()
            e["trade_id"] = plain_id(bytes(e["trade_id"]))
            has_text = int(e["flags"]) & Flag.HAS_DETAIL and not int(e["group_index"])
            text = text_of(made.events[at : at + int(e["group_count"])]) if has_text else b""
            words[made.first + at] = msgspec.json.encode(dump_event(e, self.feed.catalogue, text))
        return encode(made.events, made.refused, made.matches, words, self._names)

    def lag(self) -> tuple[int, int]:
        """As edge.Edge."""
        return self.feed.lag, self.feed.waits_since_ns()

    async def close(self) -> None:
        """Let go of the connection and of slices under way."""
        if self._writing is not None:
            self._writing[0].cancel()
            await asyncio.gather(self._writing[0], return_exceptions=True)
            self._writing = None
        writer, self._writer = self._writer, None
        self.feed.rewind()
        if writer is not None:
            writer.connection.terminate()


def make(context: Context) -> EdgeWorker:
    """The worker."""
    from pks.workers.edges.edge import EdgeWorker

    return EdgeWorker(context, Records(context))


def warm() -> None:
    """Compile the kernels of this worker."""
    from pks.workers.edges.warm import warm_feed

    warm_feed()
