"""Names and factors by id, as columns: what a record's numbers are called, and what its money is multiplied by.

Owns arrays that grow with definitions. Codes, currencies and multipliers of a row are never changed by a later definition, so one set
of arrays holds for old events too. Looked at by the encoder of rows alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pks.edges.postgres.binary import FACTOR_MAX
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import AnyDefinition, Instrument
from pks.engine.positions.view import places_of
from pks.layouts.codes import Subject
from pks.layouts.refdata import CODE_BYTES

CODE = f"S{CODE_BYTES}"
CURRENCY = "S12"


class Names:
    """Arrays by row id; place 0 is no row."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._codes = {subject: np.zeros(64, CODE) for subject in Subject}
        self.pnl_currency = np.zeros(64, CURRENCY)
        self.factor = np.ones(64, np.uint64)  # of money: times factor, and `places` more decimal places
        self.places = np.zeros(64, np.int64)
        self.odd: dict[int, tuple[int, int]] = {}  # instrument -> multiplier as (numerator, denominator) where factor cannot say it
        for subject in Subject:
            for row_id, definition in catalogue.rows(subject):
                self.learn(subject, row_id, definition)

    def learn(self, subject: Subject, row_id: int, definition: AnyDefinition) -> None:
        """Take a definition."""
        codes = self._codes[subject] = _with_room(self._codes[subject], row_id)
        codes[row_id] = definition.code.encode()
        if isinstance(definition, Instrument):
            for name in ("pnl_currency", "factor", "places"):
                setattr(self, name, _with_room(getattr(self, name), row_id))
            self.pnl_currency[row_id] = definition.pnl_currency.encode()
            money = definition.money_factor
            places = places_of(money.denominator)
            whole = money * 10**places
            if whole.denominator != 1 or whole.numerator >= FACTOR_MAX:
                self.odd[row_id] = (money.numerator, money.denominator)
            else:
                self.factor[row_id], self.places[row_id] = whole.numerator, places

    def codes(self, subject: Subject, ids: Any) -> Any:
        """S48[n]: the codes of ids, empty where there is none."""
        codes = self._codes[subject]
        return codes[np.where(ids < len(codes), ids, 0)]


def _with_room(array: Any, row_id: int) -> Any:
    if row_id < len(array):
        return array
    longer = np.zeros(max(2 * len(array), row_id + 1), array.dtype)
    longer[: len(array)] = array
    return longer
