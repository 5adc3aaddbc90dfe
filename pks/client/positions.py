"""Positions as a reader has them: one by name or handle, many by book, all at once as arrays.

Owns the way from names to rows and from copies to `PositionView`s. What a figure means is `engine.positions.view`'s affair. Every call asks
whether the system lives, and may not write.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pks.client.errors import NoPosition
from pks.client.kernels import CLOCK_WORDS, CLOSED, UNSTABLE, SlotArrays, read_held
from pks.client.names import Names
from pks.client.rows import KeyedRows
from pks.engine.positions.view import PositionView
from pks.layouts.codes import Subject
from pks.layouts.slots import POSITION_SLOT, POSITION_WORDS
from pks.segments.slots import TRIES_PYTHON, SlotTable, slots_snapshot_live

Words = NDArray[np.int64]
Records = NDArray[Any]


class PositionHandle:
    """One position, found once: `read` is a single compiled call, which also asks whether the system lives."""

    __slots__ = (
        "_held",
        "_names",
        "_place",
        "_slot",
        "_table",
        "_target",
        "_terms",
        "_terms_change",
        "_whole",
        "book_id",
        "instrument_id",
        "row",
    )

    def __init__(self, table: SlotTable, names: Names, row: int, book_id: int, instrument_id: int) -> None:
        self._table, self._names, self.row, self.book_id, self.instrument_id = table, names, row, book_id, instrument_id
        self._whole = table.segment.whole
        self._place = (table.slots.ctypes.data - self._whole.ctypes.data) // 8 + row * table.slots.shape[1]
        self._target = np.zeros(POSITION_WORDS + CLOCK_WORDS, np.int64)
        self._slot = self._target[:POSITION_WORDS]
        self._terms, self._terms_change = names.terms(book_id, instrument_id), names.change
        self._held: tuple[int, PositionView | None] = (UNSTABLE, None)

    def read(self) -> PositionView:
        """The position now; the same object as before while nothing has changed. Raises StaleHost, UnstableSlot."""
        version = read_held(self._whole, self._place, self._target)
        held, position = self._held
        if version == held and position is not None:
            return position
        if version < 0:
            version = self._again(version)
        # Threads may share a handle: what is in the target is whole, whoever put it there, and of this version or a later one.
        raw = self._slot.tobytes()
        if self._names.changes[0] != self._terms_change:
            self._names.refresh()
            self._terms_change, self._terms = self._names.change, self._names.terms(self.book_id, self.instrument_id)
        position = PositionView(raw, self._terms)
        self._held = (version, position)
        return position

    def _again(self, code: int) -> int:
        if code != UNSTABLE:
            self._table.segment.raise_stale(1 if code == CLOSED else 2, time.monotonic_ns())
        return self._table.read_into(self.row, self._slot)


class Positions:
    """All positions of the host. `positions["ALPHA", "SBER"]`, `for position in positions`, `len(positions)`, `key in positions`."""

    def __init__(self, table: SlotTable, names: Names) -> None:
        self._table, self._names = table, names
        self._keyed = KeyedRows(table, ("book_id", "instrument_id"))
        self._handles: dict[tuple[str, str], PositionHandle] = {}

    # one

    def __getitem__(self, key: tuple[str, str]) -> PositionView:
        """The position of (book, instrument); the instrument by code, ISIN, FIGI, RIC, CUSIP or symbol.

        Raises UnknownName or NoPosition (both are KeyErrors), StaleHost, UnstableSlot.
        """
        handle = self._handles.get(key)
        return (handle or self.handle(*key)).read()

    def handle(self, book: str, instrument: str) -> PositionHandle:
        """A kept place for reading one position again and again. Raises as `positions[...]`."""
        handle = self._handles.get((book, instrument))
        if handle is None:
            row, book_id, instrument_id = self._find(book, instrument)
            handle = self._handles[book, instrument] = PositionHandle(self._table, self._names, row, book_id, instrument_id)
        return handle

    def row(self, book: str, instrument: str) -> int:
        """Row of a position, for compiled code and `snapshot`; it stays the position's while the system runs."""
        return self._find(book, instrument)[0]

    def _find(self, book: str, instrument: str) -> tuple[int, int, int]:
        self._table.segment.check_live()
        book_id, instrument_id = self._names.book_id(book), self._names.instrument_id(instrument)
        row = self._table.find((book_id, instrument_id))
        if row is None:
            raise NoPosition(book, instrument)
        return row, book_id, instrument_id

    def get(self, book: str, instrument: str) -> PositionView | None:
        """The position, or None where nothing was ever booked; names must be known."""
        try:
            return self[book, instrument]
        except NoPosition:
            return None

    def __contains__(self, key: object) -> bool:
        try:
            self._find(*key)  # type: ignore[misc]
        except KeyError:
            return False
        return True

    # many

    def __len__(self) -> int:
        """Positions that ever were, flat ones too."""
        self._table.segment.check_live()
        return sum(self._table.count(number) for number in range(self._table.ranges))

    def __iter__(self) -> Iterator[PositionView]:
        """Every position, flat ones too, in the order of the table."""
        return iter(self.find(flat=True))

    def find(
        self, book: str | Iterable[str] | None = None, instrument: str | Iterable[str] | None = None, *, flat: bool = False
    ) -> list[PositionView]:
        """Positions of one or several books and instruments (None: of all). flat: also those with no quantity.

        Raises UnknownName, StaleHost, UnstableSlot.
        """
        return self.views(self.snapshot(self.rows(book, instrument)), flat=flat)

    def rows(self, book: str | Iterable[str] | None = None, instrument: str | Iterable[str] | None = None) -> Words:
        """Rows (int64[n]) of these books and instruments, for `snapshot` and compiled code. Raises UnknownName, StaleHost."""
        names = self._names
        books = None if book is None else [names.book_id(code) for code in _several(book)]
        instruments = None if instrument is None else [names.instrument_id(name) for name in _several(instrument)]
        return self._keyed.choose(book_id=books, instrument_id=instruments)

    def views(self, records: Records, *, flat: bool = True) -> list[PositionView]:
        """Records of `snapshot` as positions."""
        self._names.refresh()
        terms = self._names.terms
        chosen = records if flat else records[records["qty_raw"] != 0]
        keys = zip(chosen["book_id"].tolist(), chosen["instrument_id"].tolist(), strict=True)
        raw, size = chosen.tobytes(), POSITION_SLOT.itemsize
        return [PositionView(raw[at * size : (at + 1) * size], terms(*key)) for at, key in enumerate(keys)]

    def snapshot(self, rows: Words | None = None, target: Records | None = None) -> Records:
        """Raw slots of `rows` (int64[n], default all), each whole by itself: POSITION_SLOT[n], money without multiplier.

        target: POSITION_SLOT[>= n] to be filled, whose first n are returned: a loop that keeps one spares the taking of memory.
        Raises StaleHost, UnstableSlot.
        """
        wanted = self.rows() if rows is None else rows
        assert len(wanted) == 0 or (wanted.min() >= 0 and wanted.max() < len(self._table.slots)), "a row is outside the table"
        records = np.empty(len(wanted), POSITION_SLOT) if target is None else target[: len(wanted)]
        words = records.view(np.int64).reshape(len(wanted), POSITION_WORDS)
        versions, now_ns = np.empty(len(wanted), np.int64), time.monotonic_ns()
        table = self._table
        unstable = slots_snapshot_live(table.segment.header, table.slots, wanted, words, versions, now_ns, TRIES_PYTHON)
        if unstable < 0:
            table.segment.raise_stale(1 if unstable == CLOSED else 2, now_ns)
        if unstable:
            for at in np.flatnonzero(versions == UNSTABLE):
                table.read_into(int(wanted[at]), words[at])
        return records

    # as tables

    def to_numpy(self, books: Iterable[str] | None = None) -> Records:
        """Raw slots of some books or of all: POSITION_SLOT[n]; `pks shm fields --layout position` says what each field is."""
        return self.snapshot(self.rows(books))

    def to_dicts(self, books: Iterable[str] | None = None, *, flat: bool = True) -> list[dict[str, Any]]:
        """As `pks positions --json`."""
        return [position.as_dict() for position in self.find(books, flat=flat)]

    def to_arrow(self, books: Iterable[str] | None = None, *, flat: bool = True) -> Any:
        """A pyarrow.Table with the columns of `pks positions`; decimals are decimal128 where a column fits, else texts."""
        from pks.client.arrow import positions_table

        return positions_table(self.find(books, flat=flat))

    # compiled code

    @property
    def arrays(self) -> SlotArrays:
        """The table for the kernels of `pks.client.kernels`."""
        table = self._table
        return SlotArrays(table.segment.header, table.slots, table.indexes, table.counts)

    def book_id(self, code: str) -> int:
        """Id of a book, for `kernels.position_find`. Raises UnknownName."""
        return self._names.book_id(code)

    def instrument_id(self, name: str) -> int:
        """Id of an instrument, for `kernels.position_find`. Raises UnknownName, AmbiguousName."""
        return self._names.instrument_id(name)

    @property
    def books(self) -> list[str]:
        """Codes of all books, with and without positions."""
        return self._names.codes(Subject.BOOK)


def _several(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
