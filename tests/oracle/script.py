"""Events written by hand for the oracle's own tests: one call a line of the journal, shortest words.

Owns the sequence counter and the defaults. Knows no rule; may be used by any test that wants journal lines without a running system.
"""

from __future__ import annotations

from typing import Any

from .key import Event, Lot
from .model import Model, Position

DAY = 86_400 * 10**9
EVER = "1970-01-01"
DATES = ("2025-03-10", "2025-03-11", "2025-03-12", "2025-03-13", "2025-03-14", "2025-03-15")


class Script:
    """A journal in the making, with a model that follows it. A date is a day number, 0 to 5; its time is the day's start + sequence."""

    def __init__(self, method: str = "FIFO", oversell: str = "FLIP", fees_in_cost: bool = False, **instrument: Any) -> None:
        self.events: list[Event] = []
        self.model = Model()
        for book in ("A", "B", "C"):
            self.book_row(book, method if book == "A" else "FIFO", oversell if book == "A" else "FLIP", fees_in_cost)
        self.instrument_row("X", **instrument)

    def add(self, kind: str, day: int = 0, **values: Any) -> int:
        """Append an event, let the model take it, and return its sequence."""
        sequence = len(self.events) + 1
        event: dict[str, Any] = dict.fromkeys(
            (
                "book",
                "to_book",
                "instrument",
                "account",
                "to_account",
                "side",
                "quantity",
                "price",
                "fee",
                "fee_currency",
                "lot_date",
                "settle_date",
                "original",
                "lot",
                "lot_leg",
                "cash_price",
            )
        )
        event |= {
            "sequence": sequence,
            "kind": kind,
            "flags": [],
            "trade_id": f"t{sequence}",
            "source": "TEST",
            "leg": 0,
            "recorded_ns": sequence,
            "effective_date": DATES[day],
            "trade_time_ns": day * DAY + sequence,
        }
        event |= values
        self.events.append(event)
        self.model.apply(event)
        return sequence

    def book_row(self, book: str, method: str, oversell: str = "FLIP", fees_in_cost: bool = False, day: int | None = None) -> int:
        """`day` of a later change; without one it is the book's first row and holds since ever."""
        return self.add(
            "REFDATA",
            day or 0,
            effective_date=EVER if day is None else DATES[day],
            definition={
                "type": "book",
                "id": book,
                "entity": "E",
                "method": method,
                "oversell": oversell,
                "fees_in_cost": fees_in_cost,
                "zone": "UTC",
            },
        )

    def instrument_row(
        self,
        instrument: str,
        kind: str = "LINEAR",
        currency: str = "USD",
        base: str | None = None,
        pnl: str | None = None,
        multiplier: tuple[int, int] = (1, 1),
        price_scale: int = 2,
        qty_scale: int = 4,
        money_scale: int = 18,
    ) -> int:
        return self.add(
            "REFDATA",
            definition={
                "type": "instrument",
                "id": instrument,
                "kind": kind,
                "asset_class": "EQUITY",
                "currency": currency,
                "pnl_currency": pnl or currency,
                "base_currency": base,
                "multiplier_numerator": multiplier[0],
                "multiplier_denominator": multiplier[1],
                "price_scale": price_scale,
                "qty_scale": qty_scale,
                "money_scale": money_scale,
                "negative_price": False,
            },
        )

    def fill(self, side: str, quantity: str, price: str, day: int = 0, fee: str | None = None, **values: Any) -> int:
        """A TRADE in book A. `fee` is "amount currency"."""
        return self.add("TRADE", day, **{**_filled(side, quantity, price, fee), **values})

    def buy(self, quantity: str, price: str, day: int = 0, fee: str | None = None, **values: Any) -> int:
        return self.fill("BUY", quantity, price, day, fee, **values)

    def sell(self, quantity: str, price: str, day: int = 0, fee: str | None = None, **values: Any) -> int:
        return self.fill("SELL", quantity, price, day, fee, **values)

    def amend(self, original: int, **changes: Any) -> int:
        """The whole trade as first booked, with `changes`, as capture writes it (`fee` as amount and `fee_currency`)."""
        whole = {name: value for name, value in self.events[original - 1].items() if name not in ("sequence", "kind", "recorded_ns")}
        return self.add("AMEND", **{**whole, **changes, "original": original})

    def cancel(self, original: int, day: int = 0, **values: Any) -> int:
        return self.add("CANCEL", day, original=original, **values)

    def fee(self, original: int, fee: str, day: int = 0, **values: Any) -> int:
        amount, currency = fee.split()
        return self.add("FEE", day, original=original, fee=amount, fee_currency=currency, **values)

    def opening(self, side: str, quantity: str, price: str, lot_date: str, day: int = 0, **values: Any) -> int:
        return self.add("OPENING", day, **{**_filled(side, quantity, price, None), "lot_date": lot_date, **values})

    def transfer(self, quantity: str, day: int = 0, book: str = "A", to_book: str = "B", **values: Any) -> int:
        return self.add(
            "TRANSFER", day, **{"book": book, "to_book": to_book, "instrument": "X", "account": "ACC", "quantity": quantity, **values}
        )

    def split(self, numerator: int, denominator: int, day: int = 1, whole: bool = False, cash_price: str | None = None) -> int:
        return self.add(
            "ACTION",
            day,
            instrument="X",
            numerator=numerator,
            denominator=denominator,
            cash_price=cash_price,
            flags=(["WHOLE_UNITS"] if whole else []) + (["HAS_CASH_PRICE"] if cash_price is not None else []),
        )

    def position(self, book: str = "A") -> Position:
        return self.model.positions()[book, "X"]

    def lots(self, book: str = "A") -> list[tuple[str, str, str, str]]:
        """Open lots, oldest first: (lot id, quantity, price, cost before the multiplier)."""
        return [lot_text(lot) for lot in self.position(book).open_lots]


def lot_text(lot: Lot) -> tuple[str, str, str, str]:
    """A lot in short, numbers as the shortest exact text ("1/3" where no decimal is exact)."""
    return lot.lot_id, str(lot.quantity), str(lot.price), str(lot.cost)


def _filled(side: str, quantity: str, price: str, fee: str | None) -> dict[str, Any]:
    amount, currency = fee.split() if fee else (None, None)
    return {
        "book": "A",
        "instrument": "X",
        "account": "ACC",
        "side": side,
        "quantity": quantity,
        "price": price,
        "fee": amount,
        "fee_currency": currency,
    }
