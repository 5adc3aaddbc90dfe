"""Roll-ups for the tree: how many positions a book has, and its realised P&L by currency, exact.

Owns the sums. They are integers in limbs of 32 bits, added up by (book, currency, scale, multiplier) over all rows at once, and only then
multiplied: no float, no order of addition, no drift. Takes a board's arrays, and may not read segments or draw.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pks.layouts.slots import FEE_SCALE
from pks.tui.board import Board

Words = NDArray[np.int64]

_LIMB = np.int64(0xFFFFFFFF)
_SCALES = 256


@dataclass(slots=True)
class Roll:
    """One node's sums. open_count: positions that are not flat; gross, net: realised P&L by currency."""

    count: int = 0
    open_count: int = 0
    gross: dict[str, Fraction] = field(default_factory=dict)
    net: dict[str, Fraction] = field(default_factory=dict)

    def add(self, other: Roll) -> None:
        """Add another node's sums."""
        self.count += other.count
        self.open_count += other.open_count
        for mine, its in ((self.gross, other.gross), (self.net, other.net)):
            for currency, amount in its.items():
                mine[currency] = mine.get(currency, Fraction(0)) + amount


def roll_books(board: Board) -> dict[int, Roll]:
    """Sums of every book that has positions, by book id."""
    rows, records = board.rows, board.records
    rolls: dict[int, Roll] = {}
    if not len(rows):
        return rolls
    books, places = np.unique(records["book_id"][rows], return_inverse=True)
    counts = np.bincount(places)
    opened = np.bincount(places[records["qty_raw"][rows] != 0], minlength=len(books))
    for book_id, count, open_count in zip(books.tolist(), counts.tolist(), opened.tolist(), strict=True):
        rolls[book_id] = Roll(count, open_count)
    terms: dict[tuple[int, int, int], int] = {}

    def number_of(row: Any) -> int:
        key = int(row["pnl_currency_id"]), int(row["multiplier_numerator"]), int(row["multiplier_denominator"])
        return terms.setdefault(key, len(terms))

    unknown = terms.setdefault((0, 0, 1), 0)
    kinds = board.by_instrument(rows, number_of, unknown, np.int64)
    of_kind = list(terms)
    groups = (places * len(of_kind) + kinds) * _SCALES + records["money_scale"][rows]
    for group, raw in _sums(groups, records["realised_hi"][rows], records["realised_lo"][rows]):
        rest, scale = divmod(group, _SCALES)
        place, kind = divmod(rest, len(of_kind))
        currency_id, numerator, denominator = of_kind[kind]
        _put(rolls[int(books[place])].gross, board, currency_id, Fraction(raw * numerator, denominator * 10**scale))
    for roll in rolls.values():
        roll.net = dict(roll.gross)
    currencies = np.array([currency_id for currency_id, _, _ in of_kind], np.int64)[kinds]
    keeps_fees = ~board.fees_in_cost(rows)
    for cell in range(records["fee_currency_id"].shape[1]):
        own = keeps_fees & (records["fee_currency_id"][rows, cell] == currencies) & (currencies != 0)
        chosen = rows[own]
        for group, raw in _sums(
            places[own] * len(of_kind) + kinds[own], records["fees_hi"][chosen, cell], records["fees_lo"][chosen, cell]
        ):
            place, kind = divmod(group, len(of_kind))
            _put(rolls[int(books[place])].net, board, of_kind[kind][0], Fraction(-raw, 10**FEE_SCALE))
    return rolls


def _put(into: dict[str, Fraction], board: Board, currency_id: int, amount: Fraction) -> None:
    code = board.names.currency_codes.get(currency_id, f"#{currency_id}" if currency_id else "?")
    into[code] = into.get(code, Fraction(0)) + amount


def _sums(groups: Words, high: NDArray[Any], low: NDArray[Any]) -> list[tuple[int, int]]:
    """(group, exact sum of its 128-bit values) of each distinct number in `groups` (int64[n]); n < 2**31."""
    if not len(groups):
        return []
    distinct, places = np.unique(groups, return_inverse=True)
    sums = np.zeros((4, len(distinct)), np.int64)
    words = np.ascontiguousarray(low).view(np.int64)
    parts = (words & _LIMB, (words >> 32) & _LIMB, high & _LIMB, high >> 32)  # the uppermost keeps the sign
    for limb, part in enumerate(parts):
        np.add.at(sums[limb], places, part)
    return [
        (group, first + (second << 32) + (third << 64) + (fourth << 96))
        for group, first, second, third, fourth in zip(distinct.tolist(), *sums.tolist(), strict=True)
    ]
