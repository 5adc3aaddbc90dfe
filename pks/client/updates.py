"""The conflated stream of changes: each changed position once, at its latest, however often it changed.

Owns the cursors of one reader over the updates rings and the versions that it has given out. A free reader: the writers do not know it,
cannot be held back by it, and lap it when it sleeps too long. After a lap it compares every slot with what it gave out, so the latest
state never has a gap. May not write, and never blocks for longer than its time-out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pks.client.kernels import rows_changed, updates_changed
from pks.client.positions import Positions
from pks.engine.positions.view import PositionView
from pks.segments.ring import LAPPED, Ring, ring_head
from pks.segments.slots import SlotTable

Records = NDArray[Any]

NAP_SECONDS_MIN, NAP_SECONDS_MAX = 0.00005, 0.001
"""Between two looks at the rings: short after a change, longer while nothing comes; a reader has no place to be woken at."""

NAP_GROWTH = 1.25


class Updates:
    """An iterator over changed positions. `poll` does not wait; `stop`, from any thread, ends the iteration."""

    def __init__(
        self, table: SlotTable, positions: Positions, rings: Sequence[Ring], book: str | None, timeout: float | None, initial: bool
    ) -> None:
        self._table, self._positions, self._rings = table, positions, rings
        self._book_id = None if book is None else positions.book_id(book)
        self._timeout, self._stopped = timeout, False
        self._pending: list[PositionView] = []
        # Cursors first: what changes between the two lines is read from its slot below, or found in the ring and given out.
        self._at = np.array([0, *(int(ring_head(ring.control)) for ring in rings)], np.int64)
        self._given = np.zeros(len(table.slots), np.int64)
        self._listed = np.empty(len(table.slots), np.int64)
        if not initial:
            records = positions.snapshot(rows := positions.rows())
            self._given[rows] = records["version"]
        self._look_everywhere = initial
        self.laps_count = 0
        """How often a ring was overrun and all slots were compared instead."""

    def __iter__(self) -> Iterator[PositionView]:
        return self

    def __next__(self) -> PositionView:
        """The next changed position. StopIteration after `stop`, or when nothing came for the time-out. Raises StaleHost."""
        if not self._pending and not self._wait():
            raise StopIteration
        return self._pending.pop()

    def _wait(self) -> bool:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        nap = NAP_SECONDS_MIN
        while not self._stopped:
            found = self.poll()
            if found:
                self._pending = found[::-1]
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(nap)
            nap = min(nap * NAP_GROWTH, NAP_SECONDS_MAX)
        return False

    def stop(self) -> None:
        """End the iteration within a millisecond."""
        self._stopped = True

    def poll(self) -> list[PositionView]:
        """Positions that changed since the last look, by their last event; perhaps none. Raises StaleHost, UnstableSlot."""
        _, records = self.poll_records(len(self._listed))
        if self._book_id is not None:
            records = records[records["book_id"] == self._book_id]
        return self._positions.views(records[np.argsort(records["last_sequence"], kind="stable")])

    def poll_records(self, most: int) -> tuple[NDArray[np.int64], Records]:
        """At most `most` rows that changed since they were given out last (int64[n]), of any book, and their slots (POSITION_SLOT[n]).

        What is beyond `most` comes with the next calls, at its latest then. Raises StaleHost, UnstableSlot, after which nothing is lost.
        """
        self._table.segment.check_live()
        self._list_changed()
        rows = self._listed[: min(self.waiting_count, most)].copy()
        records = self._positions.snapshot(rows)
        self._given[rows] = records["version"]
        rest = self._listed[len(rows) : self.waiting_count].copy()
        self._listed[: len(rest)] = rest
        self._at[0] = len(rest)
        return rows, records

    @property
    def waiting_count(self) -> int:
        """Rows that are known to have changed and were not given out yet."""
        return int(self._at[0])

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to give out: one compiled look a ring, which does not ask whether the host lives."""
        if self._at[0] or self._look_everywhere:
            return False
        return all(ring_head(ring.control) == self._at[place] for place, ring in enumerate(self._rings, start=1))

    def _list_changed(self) -> None:
        table, everywhere = self._table, self._look_everywhere
        for place, ring in enumerate(self._rings, start=1):
            if updates_changed(ring.control, ring.records, table.slots, self._given, self._listed, self._at, place) == LAPPED:
                self._at[place] = int(ring_head(ring.control))
                self.laps_count += 1
                everywhere = True
        if everywhere:
            rows_changed(table.counts, table.slots, self._given, self._listed, self._at)
        self._look_everywhere = False
