"""Ids to codes: the blotter's own copy of the reference data, brought up to date when its table says that it changed.

Owns the rows by (subject, id) and the terms of each (book, instrument). Used by the other modules of the blotter; asks no server and may
not write.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pks.engine.positions.view import PositionTerms
from pks.layouts.codes import Subject
from pks.segments.table import RefdataTable


class BookPlace(NamedTuple):
    """Where a book stands in the tree."""

    entity: str
    desk: str
    book: str


class Names:
    """The reference data as of the last `refresh`."""

    def __init__(self, table: RefdataTable) -> None:
        self._table = table
        self._seen = np.zeros(len(table.table.slots), np.int64)
        self._version = -1
        self._rows: dict[tuple[int, int], Any] = {}
        self._terms: dict[tuple[int, int], PositionTerms] = {}
        self.currency_codes: dict[int, str] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Take what has changed; whether anything had. Raises StaleHost, UnstableSlot."""
        version = self._table.version
        if version == self._version:
            return False
        rows = self._table.read_changed(self._seen)
        for row in rows:
            subject, row_id = int(row["subject"]), int(row["row_id"])
            self._rows[subject, row_id] = row
            if subject == Subject.CURRENCY:
                self.currency_codes[row_id] = _text(row["code"])
        self._version = version
        self._terms = {}
        return len(rows) > 0

    def row(self, subject: Subject, row_id: int) -> Any:
        """REFDATA_SLOT of an id, None for one that is not known yet."""
        return self._rows.get((int(subject), row_id))

    def code(self, subject: Subject, row_id: int) -> str:
        """Code of an id; "" for 0, "#7" for one that is not known yet."""
        row = self._rows.get((int(subject), row_id))
        return _text(row["code"]) if row is not None else (f"#{row_id}" if row_id else "")

    def text(self, subject: Subject, row_id: int, field: str) -> str:
        """Another text field of a row, "" where there is none."""
        row = self._rows.get((int(subject), row_id))
        return "" if row is None else _text(row[field])

    def symbol(self, instrument_id: int) -> str:
        """Symbol of an instrument, "" where it has none."""
        return self.text(Subject.INSTRUMENT, instrument_id, "symbol")

    def books(self) -> list[tuple[int, BookPlace]]:
        """(id, place) of every book, in the order of the tree."""
        found = [(row_id, self.place(row_id)) for subject, row_id in self._rows if subject == Subject.BOOK]
        return sorted(found, key=lambda pair: pair[1])

    def place(self, book_id: int) -> BookPlace:
        """Entity, desk and code of a book; an absent entity or desk is a dash."""
        entity, desk = self.text(Subject.BOOK, book_id, "parent"), self.text(Subject.BOOK, book_id, "group")
        return BookPlace(entity or "-", desk or "-", self.code(Subject.BOOK, book_id))

    def terms(self, book_id: int, instrument_id: int) -> PositionTerms | None:
        """What the figures of a position need; None while one of its rows is not known."""
        terms = self._terms.get((book_id, instrument_id))
        if terms is None:
            instrument, book = self.row(Subject.INSTRUMENT, instrument_id), self.row(Subject.BOOK, book_id)
            if instrument is None or book is None:
                return None
            terms = self._terms[book_id, instrument_id] = PositionTerms.from_rows(instrument, book, self.currency_codes)
        return terms


def _text(value: Any) -> str:
    return bytes(value).decode("utf-8", "replace")
