"""Names to ids and back by the reference data of a moment.

Owns the words of `pks.client.names.Names` for a catalogue that was folded from the journal, where there are no slots to look into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from pks.client.errors import AmbiguousName, UnknownName
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.errors import AmbiguousInstrument
from pks.engine.instruments.rows import to_row
from pks.engine.positions.view import PositionTerms
from pks.layouts.codes import Subject


class CatalogueNames:
    """Names to ids and back by a catalogue, in the words of `pks.client.names.Names`."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.currency_codes = {row_id: definition.code for row_id, definition in catalogue.rows(Subject.CURRENCY)}
        self._rows: dict[tuple[Subject, int], Any] = {}
        self._terms: dict[tuple[int, int], PositionTerms] = {}

    def book_id(self, code: str) -> int:
        """Id of a book. Raises UnknownName."""
        return self._id_of(Subject.BOOK, code)

    def account_id(self, code: str) -> int:
        """Id of an account. Raises UnknownName."""
        return self._id_of(Subject.ACCOUNT, code)

    def source_id(self, code: str) -> int:
        """Id of a source. Raises UnknownName."""
        return self._id_of(Subject.SOURCE, code)

    def instrument_id(self, name: str) -> int:
        """Id of an instrument by any of its names. Raises UnknownName, AmbiguousName."""
        try:
            found = self.catalogue.find_instrument(name)
        except AmbiguousInstrument as error:
            raise AmbiguousName("instrument", name, list(error.candidates)) from error
        if not found:
            raise UnknownName("instrument", name, self.codes(Subject.INSTRUMENT))
        return found

    def _id_of(self, subject: Subject, code: str) -> int:
        row_id = self.catalogue.id_of(subject, code)
        if not row_id:
            raise UnknownName(subject.name.lower(), code, self.codes(subject))
        return row_id

    def codes(self, subject: Subject) -> list[str]:
        """Codes of all rows of a subject."""
        return list(self.catalogue.ids(subject))

    def code_of(self, subject: Subject, row_id: int) -> str:
        """The code of an id."""
        definition = self.catalogue.get(subject, row_id)
        if definition is None:
            raise UnknownName(f"{subject.name.lower()} with the id", str(row_id))
        return definition.code

    def row(self, subject: Subject, row_id: int) -> Any:
        """refdata.ROW of an id. Raises UnknownName."""
        found = self._rows.get((subject, row_id))
        if found is None:
            definition = self.catalogue.get(subject, row_id)
            if definition is None:
                raise UnknownName(f"{subject.name.lower()} with the id", str(row_id))
            sequence = self.catalogue.sequence_of(subject, row_id)
            found = self._rows[subject, row_id] = to_row(definition, self.catalogue, row_id, sequence)[0]
        return found

    def terms(self, book_id: int, instrument_id: int) -> PositionTerms:
        """What a position of these two needs."""
        found = self._terms.get((book_id, instrument_id))
        if found is None:
            instrument, book = self.row(Subject.INSTRUMENT, instrument_id), self.row(Subject.BOOK, book_id)
            found = self._terms[book_id, instrument_id] = PositionTerms.from_rows(instrument, book, self.currency_codes)
        return found


def name_of(names: Any, subject: Subject, row_id: int) -> str | None:
    """The code of an id, None for 0, which is nobody."""
    return names.code_of(subject, row_id) if row_id else None


def ids_of(read: Callable[[str], int], names: Iterable[str]) -> Any:
    """int64[n] of the ids of some names; None for no names: any. Raises UnknownName."""
    found = [read(name) for name in names]
    return np.array(found, np.int64) if found else None
