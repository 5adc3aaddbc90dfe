"""What the blotter asks for one position: its lots and the trades behind them.

Owns the form of the question and of the answer. The answer comes from the journal and is made elsewhere: the command that starts the
blotter hands it in, since this room may not know the workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LotLine:
    """One open lot. quantity: below zero for a short; cost: with multiplier; price: None where it has none of its own (a pool)."""

    lot_id: str
    date: str
    quantity: Decimal
    price: Decimal | None
    cost: Decimal
    sequence: int


@dataclass(frozen=True, slots=True)
class TradeLine:
    """One event behind a position. state: BOOKED, AMENDED, CANCELLED or REFUSED with its reason; fees: with
    their currencies."""

    sequence: int
    time: str
    kind: str
    side: str
    quantity: Decimal | None
    price: Decimal | None
    fees: str
    account: str
    trade_id: str
    state: str


class Detail(Protocol):
    """Answers from the journal; each call may take a while, and is made outside the drawing thread."""

    def lots(self, book: str, instrument: str) -> Sequence[LotLine]:
        """Open lots, in the order of the book's method. Raises PksError."""

    def trades(self, book: str, instrument: str) -> Sequence[TradeLine]:
        """Events of the position, the last one first. Raises PksError."""
