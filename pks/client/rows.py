"""Which rows of a slot table belong to whom: the ids of each row, read once, since a row never changes its key.

Owns the columns of ids and the choice of rows by them. Used by positions and accounts; reads slots through `segments`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pks.client.kernels import rows_between
from pks.segments.slots import SlotTable

Words = NDArray[np.int64]


class KeyedRows:
    """Rows that hold a key, with their ids; grows as the writers append."""

    def __init__(self, table: SlotTable, id_fields: tuple[str, ...]) -> None:
        self.table, self.id_fields = table, id_fields
        self._known = np.zeros(table.ranges, np.int64)
        self._room = np.empty(len(table.slots), np.int64)
        self._lock = threading.Lock()
        self.rows: Words = np.empty(0, np.int64)
        self.ids: dict[str, Words] = {name: np.empty(0, np.int64) for name in id_fields}

    def refresh(self) -> None:
        """Learn the rows that were appended. Raises StaleHost."""
        self.table.segment.check_live()
        with self._lock:
            known = self._known.copy()
            count = int(rows_between(self.table.counts, self.table.slots_per_range, known, self._room))
            if not count:
                return
            fresh = self._room[:count].copy()
            records = self.table.snapshot(fresh)
            self._known = known
            for name in self.id_fields:
                self.ids[name] = np.concatenate([self.ids[name], records[name].astype(np.int64)])
            self.rows = np.concatenate([self.rows, fresh])

    def choose(self, **wanted: int | Iterable[int] | None) -> Words:
        """Rows (int64[n]) whose ids are the wanted ones (one, or any of several; None: any), in the order of the table."""
        self.refresh()
        chosen = np.ones(len(self.rows), np.bool_)
        for name, value in wanted.items():
            if value is not None:
                values = [value] if isinstance(value, int) else list(value)
                chosen &= np.isin(self.ids[name], np.array(values, np.int64))
        return np.sort(self.rows[chosen])
