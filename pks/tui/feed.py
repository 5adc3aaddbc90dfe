"""The connection to the running system: attach, poll, notice that it is gone, attach again when it is back.

Owns what the screens share: board, tape, names and the cursors of the system. A poll never raises for a system that stops, hangs or is
not there: that is a state, with its reason, and the last figures stay. Reads segments only, and may not draw.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pks.base.clock import Clock, SystemClock
from pks.segments.errors import LayoutUnknown, NotASegment, SegmentMissing, SegmentNotReady, StaleHost, UnstableSlot
from pks.segments.journal_errors import JournalFileDamaged, JournalGap, JournalMismatch, JournalTooLong
from pks.segments.journal_view import JournalView
from pks.segments.ring import ring_cursor
from pks.segments.stream import StreamReader
from pks.segments.table import RefdataTable
from pks.topology import Host
from pks.tui.board import Board
from pks.tui.columns import Line
from pks.tui.names import Names
from pks.tui.tape import JOURNAL_RECORDS_MAX, TAPE_LINES, Tape

Words = NDArray[np.int64]

RETRY_NS = 500_000_000
"""Between two attempts to attach: a start takes seconds, and a failed attempt costs nothing."""

_NO_ROWS: Words = np.empty(0, np.int64)


class FeedState(enum.IntEnum):
    """What stands behind the figures."""

    ABSENT = 1  # never attached
    LIVE = 2
    STALE = 3  # it was there: what is shown is its last state


FEED_MOVES = {
    FeedState.ABSENT: {FeedState.LIVE},
    FeedState.LIVE: {FeedState.STALE},
    FeedState.STALE: {FeedState.LIVE},
}
assert FEED_MOVES.keys() == set(FeedState), "every state has its moves"


class Cursors(NamedTuple):
    """How far the system is: last event in the order, on disk, applied by every accumulator."""

    accepted: int = 0
    durable: int = 0
    applied: int = 0


@dataclass(frozen=True, slots=True)
class News:
    """What a poll brought. rows: of positions that changed; attached: all is new, forget what was shown."""

    rows: Words
    tape_count: int = 0
    names: bool = False
    attached: bool = False
    state: bool = False


class Feed:
    """One system, by name and data directory, while it comes and goes."""

    def __init__(self, instance: str, data_dir: Path | None, clock: Clock | None = None) -> None:
        self.instance, self.data_dir = instance, data_dir
        self.label = instance  # the name that screens show
        self.clock: Clock = SystemClock() if clock is None else clock
        self.state, self.reason, self.since_ns = FeedState.ABSENT, "not attached yet", self.clock.wall_ns()
        self.host: Host | None = None
        self.board: Board | None = None
        self.tape: Tape | None = None
        self.names: Names | None = None
        self.cursors = Cursors()
        self.unstable_count = 0
        self.journal_note = ""
        self._places: tuple[int, tuple[int, ...]] | None = None
        self._tried_ns: int | None = None

    def poll(self) -> News:
        """Look at the system once."""
        if self.state != FeedState.LIVE:
            return self._try_attach()
        assert self.host is not None and self.board is not None and self.tape is not None and self.names is not None, "live means attached"
        try:
            self.cursors = self._read_cursors(self.host)  # before the slots: what is called durable then is so
            names = self.names.refresh()
            rows = self.board.poll()
            return News(rows, self.tape.poll(), names)
        except StaleHost as error:
            self._move(FeedState.STALE, str(error))
            return News(_NO_ROWS, state=True)
        except UnstableSlot:
            self.unstable_count += 1  # the rows are still new at the next poll
            return News(_NO_ROWS)

    def line(self, row: int) -> Line | None:
        """A position with what its cells need; None while its names are not known."""
        assert self.board is not None and self.names is not None, "a row comes from a board"
        view = self.board.view(row)
        if view is None:
            return None
        book_id, instrument_id = int(view.record["book_id"]), int(view.record["instrument_id"])
        return Line(view, self.names.place(book_id), self.names.symbol(instrument_id), self.clock.wall_ns(), self.cursors.durable)

    def _try_attach(self) -> News:
        now_ns = self.clock.monotonic_ns()
        if self._tried_ns is not None and now_ns - self._tried_ns < RETRY_NS:
            return News(_NO_ROWS)
        self._tried_ns = now_ns
        try:
            self._attach()
        except (SegmentMissing, SegmentNotReady, StaleHost, UnstableSlot) as error:
            changed = self.state == FeedState.ABSENT and self.reason != str(error)
            if self.state == FeedState.ABSENT:
                self.reason = str(error)
            return News(_NO_ROWS, state=changed)
        except (LayoutUnknown, NotASegment, PermissionError) as error:  # another version or another user's: said, and tried again
            self.reason = str(error)
            return News(_NO_ROWS, state=True)
        self._move(FeedState.LIVE, "")
        assert self.board is not None, "attached"
        return News(self.board.rows, names=True, attached=True, state=True)

    def _attach(self) -> None:
        host = Host.open(self.instance, self.data_dir)
        names = Names(RefdataTable(host.refdata))
        board = Board(host.positions, names)
        tape = Tape(host.events, names, self._open_journal(host), self._verdicts_of(host))
        board.poll()
        tape.poll()
        self._places = None
        self.cursors = self._read_cursors(host)
        self.host, self.names, self.board, self.tape = host, names, board, tape

    def _open_journal(self, host: Host) -> JournalView | None:
        """The journal's end, for the tape alone: without it, or with one that cannot be read, the tape begins with the ring."""
        self.journal_note = ""
        if host.paths is None:
            return None
        try:
            return JournalView(host.paths.journal, max(0, host.events.head - JOURNAL_RECORDS_MAX))
        except (JournalGap, JournalMismatch, JournalFileDamaged, JournalTooLong, PermissionError) as error:
            self.journal_note = str(error)
            return None

    def _verdicts_of(self, host: Host) -> list[StreamReader]:
        """What the accumulators refused, from a little before now on; nothing without the data directory, where a late reader reads on."""
        if host.paths is None:
            return []
        streams = [host.verdicts(shard) for shard in range(host.shards)]
        return [stream.reader(max(-1, stream.ring.head - TAPE_LINES)) for stream in streams]

    def _read_cursors(self, host: Host) -> Cursors:
        ring = host.events
        if self._places is None:
            named = [place.name for place in ring.places]
            self._places = named.index("journal"), tuple(n for n, name in enumerate(named) if name.startswith("accumulator-"))
        journal, accumulators = self._places
        durable = int(ring_cursor(ring.control, journal))
        applied = min(int(ring_cursor(ring.control, place)) for place in accumulators)
        return Cursors(ring.head, durable, applied)

    def _move(self, state: FeedState, reason: str) -> None:
        assert state in FEED_MOVES[self.state], f"feed: {self.state.name} -> {state.name}"
        self.state, self.reason, self.since_ns = state, reason, self.clock.wall_ns()
