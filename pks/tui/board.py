"""The blotter's copy of every position: whole slots by row, and which of them changed since the last look.

Owns the copies, and the arrays by which rows are ordered and compared in bulk. A figure that is shown is a Decimal of
`engine.positions.view`; the float64 arrays here, named `_order`, only decide the order of rows and never reach the screen. Reads slots
through `segments`, and may not write or draw.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pks.engine.positions.view import PositionView
from pks.layouts.codes import PositionFlag, Subject
from pks.layouts.slots import FEE_SCALE, POSITION_SLOT
from pks.segments.slots import SlotTable
from pks.tui.names import Names

Words = NDArray[np.int64]
Floats = NDArray[np.float64]
Records = NDArray[Any]

_TEN = 10.0 ** np.arange(-64, 65)
_WORD = 2.0**64


class Board:
    """Positions by slot row. records: POSITION_SLOT[slots], zero where nothing was read; rows: int64[n], those that hold a key."""

    def __init__(self, table: SlotTable, names: Names) -> None:
        self._table, self.names = table, names
        self.records: Records = np.zeros(len(table.slots), POSITION_SLOT)  # pages that nobody touches take no memory
        self._seen: Words = self.records["version"]
        self.rows: Words = np.empty(0, np.int64)

    def poll(self) -> Words:
        """Read what was written since the last call; its rows (int64[n]). Raises StaleHost, UnstableSlot (then nothing was taken)."""
        self._table.segment.check_live()
        rows = self._table.rows()
        changed: Words = rows[self._table.slots[rows, 0] != self._seen[rows]]
        if len(changed):
            self.records[changed] = self._table.snapshot(changed)
        if len(rows) != len(self.rows):
            self.rows = rows.copy()
        return changed

    def view(self, row: int) -> PositionView | None:
        """The position of a row, None while its names are not known."""
        record = self.records[row]
        terms = self.names.terms(int(record["book_id"]), int(record["instrument_id"]))
        return None if terms is None else PositionView.from_record(record, terms)

    # columns of all rows

    def by_instrument(self, rows: Words, value: Callable[[Any], Any], absent: Any, dtype: Any) -> NDArray[Any]:
        """value(refdata row of the instrument) for each of `rows`; computed once an instrument."""
        return self._by_id(rows, Subject.INSTRUMENT, "instrument_id", value, absent, dtype)

    def by_book(self, rows: Words, value: Callable[[Any], Any], absent: Any, dtype: Any) -> NDArray[Any]:
        """value(refdata row of the book) for each of `rows`; computed once a book."""
        return self._by_id(rows, Subject.BOOK, "book_id", value, absent, dtype)

    def ranks(self, rows: Words, id_field: str, text: Callable[[Any], str]) -> Words:
        """Place of text(refdata row) of each of `rows` in the order of all texts; equal texts have one place."""
        subject = Subject.BOOK if id_field == "book_id" else Subject.INSTRUMENT
        ids, places = np.unique(self.records[id_field][rows], return_inverse=True)
        texts = ["" if (row := self.names.row(subject, row_id)) is None else text(row) for row_id in ids.tolist()]
        rank_of = {text: rank for rank, text in enumerate(sorted(set(texts)))}
        return np.array([rank_of[text] for text in texts], np.int64)[places]

    def _by_id(self, rows: Words, subject: Subject, field: str, value: Callable[[Any], Any], absent: Any, dtype: Any) -> NDArray[Any]:
        ids, places = np.unique(self.records[field][rows], return_inverse=True)
        known = [self.names.row(subject, row_id) for row_id in ids.tolist()]
        values = np.array([absent if row is None else value(row) for row in known], dtype)
        return values[places]

    def multiplier_order(self, rows: Words) -> Floats:
        """Multiplier x quote factor, float64."""
        return self.by_instrument(rows, lambda row: int(row["multiplier_numerator"]) / int(row["multiplier_denominator"]), 1.0, np.float64)

    def quantity_order(self, rows: Words) -> Floats:
        """Quantities, float64."""
        return self._scaled(rows, self.records["qty_raw"][rows].astype(np.float64), "qty_scale")

    def money_order(self, rows: Words, name: str) -> Floats:
        """128-bit money `name` with multiplier, float64."""
        wide = self.records[f"{name}_hi"][rows] * _WORD + self.records[f"{name}_lo"][rows].astype(np.float64)
        money: Floats = self._scaled(rows, wide, "money_scale") * self.multiplier_order(rows)
        return money

    def average_order(self, rows: Words) -> Floats:
        """Average prices, float64; NaN where flat."""
        quantity = self.quantity_order(rows)
        cost = self._scaled(rows, self.records["cost_hi"][rows] * _WORD + self.records["cost_lo"][rows].astype(np.float64), "money_scale")
        inverse = (self.records["flags"][rows] & PositionFlag.INVERSE) != 0
        with np.errstate(divide="ignore", invalid="ignore"):
            average: Floats = np.where(inverse, quantity / cost, cost / quantity)
        average[quantity == 0] = np.nan
        return average

    def price_order(self, rows: Words) -> Floats:
        """Prices of the last trade, float64; NaN before one."""
        prices = self._scaled(rows, self.records["last_price_raw"][rows].astype(np.float64), "price_scale")
        prices[self.records["trades_count"][rows] == 0] = np.nan
        return prices

    def net_order(self, rows: Words) -> Floats:
        """Realised P&L less the fees in its currency, float64."""
        fees = self.records["fees_hi"][rows] * _WORD + self.records["fees_lo"][rows].astype(np.float64)
        own = self.records["fee_currency_id"][rows] == self.pnl_currency_ids(rows)[:, None]
        taken = (fees * own).sum(axis=1) * _TEN[64 - FEE_SCALE]
        taken[self.fees_in_cost(rows)] = 0.0
        net: Floats = self.money_order(rows, "realised") - taken
        return net

    def pnl_currency_ids(self, rows: Words) -> Words:
        """Ids of the currencies of cost and P&L, int64."""
        return self.by_instrument(rows, lambda row: int(row["pnl_currency_id"]), 0, np.int64)

    def fees_in_cost(self, rows: Words) -> NDArray[np.bool_]:
        """Whether fees are part of the cost, by book."""
        return self.by_book(rows, lambda row: bool(row["fees_in_cost"]), False, np.bool_)

    def _scaled(self, rows: Words, values: Floats, scale: str) -> Floats:
        scaled: Floats = values * _TEN[64 - self.records[scale][rows].astype(np.int64)]
        return scaled
