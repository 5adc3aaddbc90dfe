"""Names to ids and back: the reader's own copy of `/pks-refdata-v1`, brought up to date when the table says that it changed.

Owns the maps by code and identifier, and the terms of each (book, instrument). Used by the other modules of the client. It never asks a
server, and may not write.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from pks.client.errors import AmbiguousName, UnknownName
from pks.engine.positions.view import PositionTerms
from pks.layouts.codes import Subject
from pks.segments.table import RefdataTable

IDENTIFIERS = ("isin", "figi", "ric", "cusip", "symbol")
"""Where an instrument's name is looked for after its code, in the order of engine.instruments.catalogue."""

_SUBJECT_WORDS = {Subject.BOOK: "book", Subject.INSTRUMENT: "instrument", Subject.ACCOUNT: "account", Subject.CURRENCY: "currency"}


class Names:
    """The reference data as of the last look. Every look-up that fails looks again first, so a new instrument is found at once."""

    def __init__(self, table: RefdataTable) -> None:
        self._table = table
        self._seen = np.zeros(len(table.table.slots), np.int64)
        self.change = -1
        """The table's change count as of the last refresh."""
        self.changes: Any = memoryview(table.changes)  # type: ignore[arg-type]
        """One item, the change count now: a plain look at it, compared with `change`, is cheap enough for every read."""
        self._rows: dict[tuple[int, int], Any] = {}
        self._ids: dict[int, dict[str, int]] = {int(subject): {} for subject in Subject}
        self._identified: dict[str, dict[str, set[int]]] = {identifier: {} for identifier in IDENTIFIERS}
        self._terms: dict[tuple[int, int], PositionTerms] = {}
        self._lock = threading.Lock()
        self.currency_codes: dict[int, str] = {}
        self.refresh()

    def refresh(self, thorough: bool = False) -> bool:
        """Take what has changed; whether anything had. thorough: compare every row, whatever the change count says. Raises StaleHost."""
        with self._lock:
            version = self._table.version
            if version == self.change and not thorough:
                return False
            rows = self._table.read_changed(self._seen)
            for row in rows:
                self._take(row)
            if len(rows):
                self._terms = {}
            self.change = version
            return len(rows) > 0

    def _take(self, row: Any) -> None:
        subject, row_id, code = int(row["subject"]), int(row["row_id"]), _text(row["code"])
        old = self._rows.get((subject, row_id))
        self._rows[subject, row_id] = row
        self._ids.setdefault(subject, {})[code] = row_id
        if subject == Subject.CURRENCY:
            self.currency_codes[row_id] = code
        if subject == Subject.INSTRUMENT:
            for identifier, named in self._identified.items():
                if old is not None and old[identifier]:
                    named[_text(old[identifier])].discard(row_id)
                if row[identifier]:
                    named.setdefault(_text(row[identifier]), set()).add(row_id)

    # names to ids

    def book_id(self, code: str) -> int:
        """Id of a book. Raises UnknownName."""
        return self._id_of(Subject.BOOK, code)

    def account_id(self, code: str) -> int:
        """Id of an account. Raises UnknownName."""
        return self._id_of(Subject.ACCOUNT, code)

    def instrument_id(self, name: str) -> int:
        """Id of an instrument by code, else ISIN, FIGI, RIC, CUSIP or symbol. Raises UnknownName, AmbiguousName."""
        found = self._find_instrument(name)
        if not found and self.refresh(thorough=True):
            found = self._find_instrument(name)
        if not found:
            raise UnknownName("instrument", name, self._ids[Subject.INSTRUMENT])
        return found

    def _find_instrument(self, name: str) -> int:
        row_id = self._ids[Subject.INSTRUMENT].get(name, 0)
        if row_id:
            return row_id
        for identifier, named in self._identified.items():
            found = named.get(name)
            if found:
                if len(found) > 1:
                    raise AmbiguousName(f"instrument of {identifier}", name, [self.code_of(Subject.INSTRUMENT, row) for row in found])
                return next(iter(found))
        return 0

    def _id_of(self, subject: Subject, code: str) -> int:
        if code not in self._ids[subject]:
            self.refresh(thorough=True)
        row_id = self._ids[subject].get(code, 0)
        if not row_id:
            raise UnknownName(_SUBJECT_WORDS[subject], code, self._ids[subject])
        return row_id

    def codes(self, subject: Subject) -> list[str]:
        """Codes of all rows of a subject."""
        self.refresh(thorough=True)
        return list(self._ids[subject])

    # ids to rows

    def row(self, subject: Subject, row_id: int) -> Any:
        """The latest row of an id (REFDATA_SLOT). Raises UnknownName."""
        if (int(subject), row_id) not in self._rows:
            self.refresh(thorough=True)
        row = self._rows.get((int(subject), row_id))
        if row is None:
            raise UnknownName(f"{_SUBJECT_WORDS.get(subject, subject.name.lower())} with the id", row_id)
        return row

    def code_of(self, subject: Subject, row_id: int) -> str:
        """The code of an id. Raises UnknownName."""
        return _text(self.row(subject, row_id)["code"])

    def terms(self, book_id: int, instrument_id: int) -> PositionTerms:
        """What a position of these two needs. Raises UnknownName."""
        terms = self._terms.get((book_id, instrument_id))
        if terms is None:
            instrument, book = self.row(Subject.INSTRUMENT, instrument_id), self.row(Subject.BOOK, book_id)
            terms = self._terms[book_id, instrument_id] = PositionTerms.from_rows(instrument, book, self.currency_codes)
        return terms


def _text(value: Any) -> str:
    return bytes(value).decode()
