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

from pks.client.positions import Positions
from pks.engine.positions.view import PositionView
from pks.layouts.slots import UPDATE_WORDS
from pks.segments.ring import LAPPED, Ring, ring_head, ring_read_free
from pks.segments.slots import SlotTable

Records = NDArray[Any]

READ_MAX = 4096
"""Updates copied at a time."""

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
        self._buffer = np.empty((READ_MAX, UPDATE_WORDS), np.int64)
        # Cursors first: what changes between the two lines is read from its slot below, or found in the ring and given out.
        self._cursors = [int(ring_head(ring.control)) for ring in rings]
        self._given = np.zeros(len(table.slots), np.int64)
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
        self._table.segment.check_live()
        rows = self._changed_rows()
        if not len(rows):
            return []
        records = self._positions.snapshot(rows)
        self._given[rows] = records["version"]
        if self._book_id is not None:
            records = records[records["book_id"] == self._book_id]
        return self._positions.views(records[np.argsort(records["last_sequence"], kind="stable")])

    def _changed_rows(self) -> NDArray[np.int64]:
        everywhere, self._look_everywhere = self._look_everywhere, False
        found: list[NDArray[np.int64]] = []
        for number, ring in enumerate(self._rings):
            while True:
                count = int(ring_read_free(ring.control, ring.records, self._cursors[number], self._buffer, READ_MAX))
                if count == LAPPED:
                    self._cursors[number] = int(ring_head(ring.control))
                    self.laps_count += 1
                    everywhere = True
                    break
                self._cursors[number] += count
                if count:
                    found.append(np.unique(self._buffer[:count, 1] & 0xFFFFFFFF))  # UPDATE: sequence, then slot in the lower half
                if count < READ_MAX:
                    break
        if everywhere:
            rows = self._positions.rows()
        elif found:
            rows = np.unique(np.concatenate(found))
            rows = rows[rows < len(self._table.slots)]
        else:
            return np.empty(0, np.int64)
        changed: NDArray[np.int64] = rows[self._table.slots[rows, 0] != self._given[rows]]
        return changed
