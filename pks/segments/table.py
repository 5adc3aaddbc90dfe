"""A table of fixed rows, each known by a pair of ids: rows are appended or written over, and readers learn cheaply that something changed.

Owns the way from a row to its slot, and the change count beside the slots. One writer, the holder of the table's claim; any number of
readers, which retry and never wait. Stands on one range of a slot table, so each row is whole. May not map memory, or know what rows mean
beyond the names of their two key fields. `RefdataTable` is the one of `/pks-refdata-v1`.

The change count is a word of the range's counts line: it grows after a row is written. Whoever reads it first and the rows after it has
at least every change that it counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pks.layouts.slots import REFDATA_SLOT
from pks.segments.atomics import read_word, write_word
from pks.segments.slots import SlotTable, slot_current

Words = NDArray[np.int64]
Records = NDArray[Any]

_CHANGES_WORD = 1  # of the range's counts line; word 0 counts the slots taken


class RowTable:
    """Rows of a slot table's one range, by the ids in two of their fields.

    A row's layout is the slot's without its version: `write` takes either, matching fields by name, and what is read has the version.
    """

    def __init__(self, table: SlotTable, key_fields: tuple[str, str]) -> None:
        assert table.ranges == 1, f"{table.name}: a table of rows has one writer, so one range"
        names = table.dtype.names or ()
        assert set(key_fields) <= set(names), f"{table.name}: no fields {key_fields}"
        self.table, self.key_fields = table, key_fields
        self._counts: Words = table.counts.reshape(-1)
        self._places: dict[tuple[int, int], int] = {}
        self._slot = np.zeros(1, table.dtype)
        self._shared = [name for name in names[1:] if not name.startswith("_")]

    # writing

    def take(self) -> int:
        """Begin to write, after claiming the table; the rows it holds. Mends what a dead writer left, and makes readers look again."""
        count = self.table.take_range(0)
        self._places = {self._key_of(self._held(place)): place for place in range(count)}
        self._count_change()
        return count

    def write(self, row: np.void | Records) -> bool:
        """Append `row`, or write over the one with its key when it differs; whether anything was written. Raises TableFull."""
        slot = self._as_slot(row)
        key = self._key_of(slot)
        place = self._places.get(key)
        if place is not None and self._is_there(place, slot):
            return False
        if place is None:
            self._places[key] = self.table.append(0, key, slot)
        else:
            self.table.write(place, slot)
        self._count_change()
        return True

    def _as_slot(self, row: np.void | Records) -> np.void:
        record = row if isinstance(row, np.void) else row.reshape(-1)[0]
        for name in self._shared:
            self._slot[name] = record[name]
        slot: np.void = self._slot[0]
        return slot

    def _key_of(self, row: np.void) -> tuple[int, int]:
        first, second = self.key_fields
        return int(row[first]), int(row[second])

    def _is_there(self, place: int, slot: np.void) -> bool:
        held = self._held(place)
        return all(held[name].tobytes() == slot[name].tobytes() for name in self._shared)

    def _held(self, place: int) -> np.void:
        """The writer's own look at its latest copy: it needs no check of the host, which is not live yet when rows are filled in."""
        first = int(slot_current(self.table.slots, place))
        held: np.void = self.table.slots.reshape(-1)[first : first + self.table.words].view(self.table.dtype)[0]
        return held

    def _count_change(self) -> None:
        write_word(self._counts, _CHANGES_WORD, self.version + 1)  # ORDER table-change: pairs with the load in version

    # reading

    @property
    def version(self) -> int:
        """The change count; the same number as before says that no row was written since. Only grows while the segment lives."""
        return int(read_word(self._counts, _CHANGES_WORD))  # ORDER table-change: pairs with the store after a row was written

    @property
    def changes(self) -> Words:
        """The change count's word, int64[1], for a reader that looks at it often."""
        return self._counts[_CHANGES_WORD : _CHANGES_WORD + 1]

    def __len__(self) -> int:
        return self.table.count(0)

    def read(self, first: int, second: int) -> np.void | None:
        """The row of a pair of ids, None when there is none. Raises StaleHost, UnstableSlot."""
        place = self.table.find((first, second))
        return None if place is None else self.table.read(place)

    def read_all(self) -> Records:
        """Every row in the order of their first writing, each whole. Raises StaleHost, UnstableSlot."""
        return self.table.snapshot()

    def read_changed(self, seen: Words) -> Records:
        """Rows whose version is not the one in `seen`, which is brought up to date: int64[slots], zero before the first call."""
        places = self.table.rows()
        changed = places[self.table.slots[places, 0] != seen[places]]
        rows = self.table.snapshot(changed)
        seen[changed] = rows[self.table.dtype.names[0]] if self.table.dtype.names else 0
        return rows


class RefdataTable(RowTable):
    """`/pks-refdata-v1`: layouts.refdata.ROW behind a version, by (subject, row_id). Written by capture, read by all."""

    def __init__(self, table: SlotTable) -> None:
        assert table.dtype == REFDATA_SLOT, f"{table.name} does not hold rows of reference data"
        super().__init__(table, ("subject", "row_id"))
