"""A small desk for the engine's tests: two books, some instruments, and one call a row of input.

Owns defaults and short words, no meaning. Rows go through the border and capture's rules into a Core.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.clock import NS_PER_DAY, format_date, format_time
from pks.base.errors import Code
from pks.edges.files.rows import TradeRow
from pks.engine.booking.border import Border
from pks.engine.booking.keys import inline_id
from pks.engine.instruments.definitions import Account, Book, Currency, Entity, Instrument, Source
from pks.engine.instruments.events import definition_event
from pks.layouts.codes import Flag, Kind, Subject
from pks.layouts.event import EVENT
from tests.harness import NOW_NS, Core

DAY_0 = NOW_NS // NS_PER_DAY - 10


class Small:
    """Books A and B, instrument X (linear, price_scale 2); every method returns the code of the answer."""

    def __init__(
        self, folder: Path, method: str = "FIFO", oversell: str = "FLIP", shards: int = 1, *, batch: int = 1, **instrument: Any
    ) -> None:
        self.core = Core(folder, shards, batch=batch, keys=4, lots=8)
        for code in ("USD", "EUR", "BTC", "BNB", "RUB", "CHF"):
            self.core.define(Currency(code=code, minor_digits=2))
        self.core.define(Entity(code="E", functional_currency="USD", timezone="UTC"))
        for code in ("MANUAL", "BLOCK"):
            self.core.define(Source(code=code))
        self.core.define(Account(code="acc", entity="E"))
        for code in ("A", "B"):
            self.define_book(code, method, oversell)
        fields = {"price_scale": 2, "qty_scale": 0, "money_scale": 18, "cleared": False, "traded_asset": False, **instrument}
        self.core.define(
            Instrument(
                code="X",
                asset_class="EQUITY",
                currency="USD",
                settle_ccy="USD",
                quote_factor="1",
                negative_price=False,
                zero_price=False,
                **fields,
            )
        )
        self.border = Border(self.core.booking.catalogue)
        self.number = 0

    def define_book(self, code: str, method: str, oversell: str = "FLIP") -> int:
        return self.core.define(
            Book(code=code, entity="E", method=method, oversell=oversell, report_currency="USD", zone="UTC", name=f"{method} {oversell}")
        )

    def method(self, method: str, day: int, book: str = "A") -> Code:
        """Let the book go by another method from `day` on."""
        self.number += 1
        changed = Book(
            code=book, entity="E", method=method, oversell="FLIP", report_currency="USD", zone="UTC", name=f"{method} {self.number}"
        )
        group = definition_event(changed)
        group[0]["effective_date"] = DAY_0 + day
        return Code(self.core.book(group).code)

    def row(self, day: int = 0, **fields: str) -> Code:
        """Book one row; `day` gives trade_time where none is given."""
        self.number += 1
        fields.setdefault("trade_id", f"t{self.number}")
        if fields.get("kind", "") not in ("CANCEL", "AMEND", "FEE", "OPENING", "ALLOCATION"):
            fields.setdefault("trade_time", format_time((DAY_0 + day) * NS_PER_DAY + self.number * 10**9))
        return Code(self.core.book(self.border.group_of(TradeRow(line=1, row=1, **fields))).code)

    def buy(self, quantity: str, price: str, day: int = 0, **fields: str) -> Code:
        return self._fill("BUY", quantity, price, day, **fields)

    def sell(self, quantity: str, price: str, day: int = 0, **fields: str) -> Code:
        return self._fill("SELL", quantity, price, day, **fields)

    def _fill(self, side: str, quantity: str, price: str, day: int, **fields: str) -> Code:
        named = {"book": "A", "instrument": "X", "account": "acc", **fields}
        return self.row(day, side=side, quantity=quantity, price=price, **named)

    def transfer(self, quantity: str, day: int = 0, book: str = "A", to_book: str = "B", **fields: str) -> Code:
        named = {"instrument": "X", "account": "acc", **fields}
        return self.row(day, kind="TRANSFER", book=book, to_book=to_book, quantity=quantity, **named)

    def instrument_event(self, kind: Kind, day: int, **fields: Any) -> Code:
        """An ACTION or FIXING of X."""
        self.number += 1
        e = np.zeros(1, EVENT)
        catalogue = self.core.booking.catalogue
        e["kind"], e["group_count"], e["trade_id"] = kind, 1, inline_id(f"i{self.number}")
        e["instrument_id"] = catalogue.id_of(Subject.INSTRUMENT, "X")
        e["source_id"] = catalogue.id_of(Subject.SOURCE, "MANUAL")
        e["price_scale"], e["effective_date"] = catalogue.instrument(int(e["instrument_id"][0])).price_scale, DAY_0 + day
        for name, value in fields.items():
            e[name] = value
        return Code(self.core.book(e).code)

    def split(self, numerator: int, denominator: int, day: int, *, whole: bool = False) -> Code:
        flags = Flag.WHOLE_UNITS if whole else Flag(0)
        return self.instrument_event(Kind.ACTION, day, qty_raw=numerator, price_raw=denominator, flags=int(flags))

    def lock(self, day: int, book: str = "") -> Code:
        e = np.zeros(1, EVENT)
        e["kind"], e["group_count"], e["effective_date"] = Kind.PERIOD_LOCK, 1, DAY_0 + day
        e["book_id"] = self.core.booking.catalogue.id_of(Subject.BOOK, book) if book else 0
        return Code(self.core.book(e).code)

    def key(self, book: str = "A") -> Any:
        """The KEY of (book, X)."""
        book_id = self.core.booking.catalogue.id_of(Subject.BOOK, book)
        return next(key for key in self.core.keys() if int(key["book_id"]) == book_id)

    def quantity(self, book: str = "A") -> Fraction:
        key = self.key(book)
        return Fraction(int(key["qty_raw"]), 10 ** int(key["qty_scale"]))

    def last_code(self) -> Code:
        """The verdict on the last event, ACCEPTED when there is none."""
        return Code(self.core.verdicts.get(self.core.sequence, 0))

    def date(self, day: int) -> str:
        return format_date(DAY_0 + day)
