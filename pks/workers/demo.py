"""The demo's trading day: plausible fills on a desk, from its marks, its books and a seed.

Each book trades the instruments that it holds at the start. Prices walk in ticks around the mark; quantities are small multiples of the lot
size, and a book that may not be short sells no more than it holds. Pure but for the seed: time comes from the caller.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pks.edges.files.rows import TradeRow
from pks.engine.booking.border import Border
from pks.layouts.codes import Subject

DEMO_SOURCE = "DEMO"
FEE_RATE = Decimal("0.0001")
FEE_PLACES = Decimal("0.00000001")
LOTS_MAX = 5
STEPS_MAX = 3


@dataclass
class Line:
    """One thing that one book trades."""

    book: str
    account: str
    instrument: str
    price: Decimal
    tick: Decimal
    size: Decimal
    held: Decimal
    long_only: bool
    factor: Decimal  # multiplier x quote factor
    inverse: bool

    def value(self, quantity: Decimal) -> Decimal:
        """What a quantity is worth at the line's price, in the currency of its P&L."""
        return quantity * self.factor / self.price if self.inverse else quantity * self.factor * self.price


class DemoDay:
    """Endless fills; `next_fill` gives the group of one."""

    def __init__(self, border: Border, opening_lots: Sequence[TradeRow], marks: Path, chance: random.Random, prefix: str) -> None:
        self.border, self.chance, self.prefix, self.number = border, chance, prefix, 0
        prices = _marks(marks)
        lines: dict[tuple[str, str], Line] = {}
        for lot in opening_lots:
            line = lines.get((lot.book, lot.instrument)) or self._line(lot, prices)
            line.held += Decimal(lot.quantity) if lot.side == "BUY" else -Decimal(lot.quantity)
            lines[lot.book, lot.instrument] = line
        self.lines = list(lines.values())

    def _line(self, lot: TradeRow, prices: dict[str, Decimal]) -> Line:
        catalogue: Any = self.border.catalogue
        instrument = catalogue.instrument(catalogue.find_instrument(lot.instrument))
        book = catalogue.book(catalogue.id_of(Subject.BOOK, lot.book))
        size = max(Decimal(instrument.lot_size or "1"), _round_size(Decimal(lot.quantity)))
        tick = Decimal(instrument.tick_size or "0.01")
        price = prices.get(lot.instrument, Decimal(lot.price))
        factor = Decimal(instrument.money_factor.numerator) / instrument.money_factor.denominator
        inverse = instrument.contract_type == "INVERSE"
        return Line(lot.book, lot.account, lot.instrument, price, tick, size, Decimal(0), book.oversell == "REJECT", factor, inverse)

    def next_fill(self, trade_time: str) -> Any:
        """EVENT[n]: one fill at `trade_time`."""
        line = self.chance.choice(self.lines)
        line.price = max(line.tick, line.price + line.tick * self.chance.randint(-STEPS_MAX, STEPS_MAX))
        quantity = line.size * self.chance.randint(1, LOTS_MAX)
        sells = self.chance.random() < 0.5 and (not line.long_only or line.held >= quantity)
        line.held += -quantity if sells else quantity
        self.number += 1
        row = TradeRow(
            line=0,
            row=0,
            trade_id=f"{self.prefix}-{self.number:08d}",
            source=DEMO_SOURCE,
            book=line.book,
            account=line.account,
            instrument=line.instrument,
            side="SELL" if sells else "BUY",
            quantity=str(quantity),
            price=str(line.price),
            fee=f"{(line.value(quantity) * FEE_RATE).quantize(FEE_PLACES).normalize():f}",
            trade_time=trade_time,
        )
        return self.border.group_of(row)


def _round_size(held: Decimal) -> Decimal:
    """A hundredth of what is held, as a power of ten: the size that such a book trades in."""
    return Decimal(1).scaleb((abs(held) / 100).adjusted())


def _marks(path: Path) -> dict[str, Decimal]:
    """Last mark by instrument; {} without the file."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["instrument_id"]: Decimal(row["price"]) for row in rows if row.get("price")}
