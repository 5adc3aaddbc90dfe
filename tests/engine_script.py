"""Random days for the engine's tests: a seed gives a journal with every kind of event, booked through the border and capture's rules.

Owns the choice of events and nothing of their meaning. The journal is judged elsewhere (`engine_compare`).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.clock import NS_PER_DAY, format_date, format_time
from pks.base.errors import Code, Refused
from pks.edges.files.rows import TradeRow
from pks.engine.booking.border import Border
from pks.engine.booking.keys import inline_id
from pks.engine.instruments.definitions import Account, Book, ClassMethod, Currency, Entity, Instrument, Source
from pks.engine.instruments.events import definition_event
from pks.layouts.codes import Flag, Kind, Method, Subject
from pks.layouts.event import EVENT
from tests.harness import NOW_NS, Core

DAY_0 = NOW_NS // NS_PER_DAY - 6
DAYS = 6
BOOKS = "ABCD"
METHODS = [method.name for method in Method]
ACCOUNTS = ("acc1", "acc2", "acc3")
CURRENCIES = ("USD", "EUR", "BTC", "BNB", "RUB", "CHF")
COMMON: dict[str, Any] = {"quote_factor": "1", "negative_price": False, "zero_price": False}


class RandomDay:
    """Books random events into `core`, one group a step."""

    def __init__(self, seed: int, folder: Path, *, calm: bool = False, batch: int = 1, late: float = 0.25) -> None:
        self.chance = random.Random(seed)
        self.core = Core(folder, batch=batch, keys=4, lots=8)
        self.late = late  # how often an event has any day of the six
        self.calm = calm  # no transfers and no changes of policy
        self.number, self.codes = 0, []  # type: int, list[int]
        self.trades: list[str] = []
        self.transfers: list[str] = []
        self.blocks: list[tuple[str, int]] = []
        self.rows: list[Any] = []
        self.instruments: dict[str, Instrument] = {}
        self.policies: dict[str, Book] = {}
        self._define()
        self.border = Border(self.core.booking.catalogue)

    # reference data

    def _define(self) -> None:
        chance = self.chance
        for code in CURRENCIES:
            self.core.define(Currency(code=code, minor_digits=2))
        self.core.define(Entity(code="E", functional_currency="USD", timezone="UTC"))
        self.core.define(Source(code="MANUAL"))
        self.core.define(Source(code="BLOCK"))
        for code in ACCOUNTS:
            self.core.define(Account(code=code, entity="E"))
        for code in BOOKS:
            self._define_book(code)
        if chance.random() < 0.3:
            self.core.define(ClassMethod(code="A:FUTURE", book="A", asset_class="FUTURE", method=chance.choice(METHODS)))
        linear = {"currency": "USD", "settle_ccy": "USD", **COMMON}
        scales = {"price_scale": 2, "qty_scale": chance.choice((0, 0, 3)), "money_scale": chance.choice((18, 18, 6))}
        multiplier = chance.choice(("1", "10", "1/100", "3"))
        made = (
            Instrument(code="EQ", asset_class="EQUITY", multiplier=multiplier, cleared=False, traded_asset=False, **scales, **linear),
            Instrument(code="FU", asset_class="FUTURE", multiplier="10", cleared=True, traded_asset=False, **scales, **linear),
            Instrument(code="SP", asset_class="CRYPTO_SPOT", base_currency="BTC", cleared=False, traded_asset=True, **scales, **linear),
            Instrument(
                code="IN",
                asset_class="CRYPTO_PERP",
                base_currency="BTC",
                currency="USD",
                settle_ccy="BTC",
                contract_type="INVERSE",
                multiplier=chance.choice(("1", "100")),
                cleared=False,
                traded_asset=True,
                price_scale=1,
                qty_scale=0,
                money_scale=chance.choice((18, 10)),
                **COMMON,
            ),
        )
        for instrument in made:
            self.core.define(instrument)
            self.instruments[instrument.code] = instrument
        self.focus = chance.choice(list(self.instruments))  # most events are on one instrument, so that they meet

    def _define_book(self, code: str, date: int = 0) -> None:
        chance = self.chance
        book = Book(
            code=code,
            entity="E",
            method=chance.choice(METHODS),
            oversell="REJECT" if chance.random() < 0.25 else "FLIP",
            fees_in_cost=chance.random() < 0.3,
            report_currency="USD",
            zone="UTC",
            name=str(chance.randrange(1000)),
        )
        group = definition_event(book)
        group[0]["effective_date"] = date
        self._take(group)

    # words

    def _take(self, group: Any) -> Any:
        outcome = self.core.book(group)
        self.codes.append(int(outcome.code))
        return outcome

    def _row(self, **fields: str) -> Any:
        row = TradeRow(line=1, row=1, **fields)
        self.rows.append(row)
        try:
            return self._take(self.border.group_of(row))
        except Refused as refused:
            self.codes.append(int(refused.code))
            return None

    def _id(self, stem: str) -> str:
        self.number += 1
        return f"{stem}{self.number}"

    def _day(self) -> int:
        steps = len(self.codes)
        usual = min(DAYS - 1, steps // 20)
        return usual if self.chance.random() >= self.late else self.chance.randrange(DAYS)

    def _time(self, day: int) -> str:
        return format_time((DAY_0 + day) * NS_PER_DAY + (self.number % 80_000) * 10**9)

    def _instrument(self) -> str:
        return self.focus if self.chance.random() < 0.75 else self.chance.choice(list(self.instruments))

    def _quantity(self, instrument: str, most: int = 20) -> str:
        whole = self.chance.randint(1, most)
        digits = self.instruments[instrument].qty_scale
        return f"{whole}.{self.chance.randrange(10**digits):0{digits}d}" if digits and self.chance.random() < 0.5 else str(whole)

    def _price(self, instrument: str) -> str:
        if self.chance.random() < 0.3:
            return self.chance.choice(("10", "12.5"))
        return f"{self.chance.randint(5, 15)}.{self.chance.randrange(10)}"

    def _fee(self) -> dict[str, str]:
        roll = self.chance.random()
        if roll < 0.35:
            return {}
        fee = self.chance.choice(("0.07", "1", "-0.02", "0", "2", "0.000003"))
        currency = self.chance.choice(CURRENCIES[:4]) if roll < 0.97 else self.chance.choice(CURRENCIES)
        return {"fee": fee, "fee_currency": currency}

    def _lot(self) -> dict[str, str]:
        if not self.trades or self.chance.random() < 0.4:
            return {}
        name = self.chance.choice([*self.trades[-12:], "NOPE", "MINE"])
        return {"lot_id": name + ("/2" if self.chance.random() < 0.15 else "")}

    # steps

    def step(self) -> None:
        """One random group."""
        steps: list[tuple[float, Any]] = [
            (50, self._trade),
            (4, self._opening),
            (6, self._cancel),
            (9, self._amend),
            (5, self._fee_event),
            (3, self._split),
            (3, self._fixing),
            (2, self._repeat),
            (3, self._block),
            (2, self._allocate),
            (1, self._lock),
        ]
        if not self.calm:
            steps += [(9, self._transfer), (3, self._correct_transfer), (1.5, self._policy), (0.5, self._rescale)]
        chosen = self.chance.choices([step for _, step in steps], [weight for weight, _ in steps])[0]
        chosen()

    def _trade(self) -> None:
        trade_id, instrument, day = self._id("t"), self._instrument(), self._day()
        self._row(
            trade_id=trade_id,
            book=self.chance.choice("AAABBCD"),
            instrument=instrument,
            side=self.chance.choice(("BUY", "SELL")),
            quantity=self._quantity(instrument),
            price=self._price(instrument),
            account=self.chance.choice((*ACCOUNTS, "")),
            trade_time=self._time(day),
            **self._fee(),
            **self._lot(),
        )
        self.trades.append(trade_id)

    def _opening(self) -> None:
        lot_id, instrument, day = self._id("o"), self._instrument(), self._day()
        self._row(
            kind="OPENING",
            lot_id=lot_id,
            book=self.chance.choice("AAABBCD"),
            instrument=instrument,
            side=self.chance.choice(("BUY", "SELL")),
            quantity=self._quantity(instrument),
            price=self._price(instrument),
            account=self.chance.choice(ACCOUNTS),
            open_date=format_date(DAY_0 + day - self.chance.randrange(30)),
            business_date=format_date(DAY_0 + day),
        )
        self.trades.append(lot_id)

    def _some(self, names: list[str]) -> str:
        return self.chance.choice(names) if names else "unknown"

    def _cancel(self) -> None:
        self._row(kind="CANCEL", trade_id=self._some(self.trades))

    def _amend(self) -> None:
        changes: dict[str, str] = {}
        instrument = self._instrument()
        for name, odds, value in (
            ("quantity", 0.5, lambda: str(self.chance.randint(1, 20))),
            ("price", 0.5, lambda: self._price(instrument)),
            ("side", 0.2, lambda: self.chance.choice(("BUY", "SELL"))),
            ("business_date", self.late, lambda: format_date(DAY_0 + self.chance.randrange(DAYS))),
            ("book", 0.1, lambda: self.chance.choice(BOOKS)),
        ):
            if self.chance.random() < odds:
                changes[name] = value()
        if self.chance.random() < 0.3:
            changes |= self._fee()
        if self.chance.random() < 0.05:
            changes["instrument"] = instrument
        self._row(kind="AMEND", trade_id=self._some(self.trades), **changes)

    def _fee_event(self) -> None:
        names = self.trades + self.transfers
        fee = {"fee": self.chance.choice(("0.5", "1", "2", "-1")), "fee_currency": self.chance.choice(CURRENCIES[:5])}
        time = self._time(self._day()) if self.chance.random() < 0.5 else ""
        self._row(kind="FEE", trade_id=self._some(names), trade_time=time, **fee)

    def _transfer(self) -> None:
        trade_id, instrument, day = self._id("m"), self._instrument(), self._day()
        book, to_book = self.chance.sample(BOOKS, 2)
        market = self.chance.random() < 0.4
        priced = market or self.chance.random() < 0.2
        self._row(
            kind="TRANSFER",
            trade_id=trade_id,
            book=book,
            to_book=to_book,
            instrument=instrument,
            quantity=self._quantity(instrument, 8),
            price=self._price(instrument) if priced else "",
            at="MARKET" if market else "COST",
            account=self.chance.choice(ACCOUNTS),
            trade_time=self._time(day),
            **(self._fee() if self.chance.random() < 0.3 else {}),
            **self._lot(),
        )
        self.transfers.append(trade_id)

    def _correct_transfer(self) -> None:
        name = self._some(self.transfers)
        if self.chance.random() < 0.4:
            self._row(kind="CANCEL", trade_id=name)
            return
        changes = {"quantity": str(self.chance.randint(1, 8))}
        if self.chance.random() < 0.3:
            changes["price"] = self._price(self.focus)
        if self.chance.random() < 0.3:
            changes["business_date"] = format_date(DAY_0 + self.chance.randrange(DAYS))
        self._row(kind="AMEND", trade_id=name, **changes)

    def _instrument_event(self, kind: Kind, instrument: str, day: int) -> Any:
        e = np.zeros(1, EVENT)
        catalogue = self.core.booking.catalogue
        e["kind"], e["group_count"], e["trade_id"] = kind, 1, inline_id(self._id("i"))
        e["instrument_id"] = catalogue.id_of(Subject.INSTRUMENT, instrument)
        e["source_id"] = catalogue.id_of(Subject.SOURCE, "MANUAL")
        e["price_scale"], e["effective_date"] = self.instruments[instrument].price_scale, DAY_0 + day
        e["trade_time_ns"] = (DAY_0 + day) * NS_PER_DAY
        return e

    def _split(self) -> None:
        instrument = self._instrument()
        e = self._instrument_event(Kind.ACTION, instrument, self._day())
        e["qty_raw"], e["price_raw"] = self.chance.choice(((2, 1), (3, 1), (1, 2), (1, 7), (3, 2), (2, 3)))
        if self.chance.random() < 0.4:
            e["flags"] |= np.uint16(Flag.WHOLE_UNITS)
        if self.chance.random() < 0.6:
            e["flags"] |= np.uint16(Flag.HAS_CASH_PRICE)
            e["fee_raw"] = self.chance.randint(1, 2000)
        self._take(e)

    def _fixing(self) -> None:
        instrument = self.chance.choice(("FU", self._instrument()))
        e = self._instrument_event(Kind.FIXING, instrument, self._day())
        e["flags"], e["price_raw"] = Flag.HAS_PRICE, self.chance.randint(500, 1500)
        self._take(e)

    def _lock(self) -> None:
        e = np.zeros(1, EVENT)
        e["kind"], e["group_count"], e["effective_date"] = Kind.PERIOD_LOCK, 1, DAY_0 + self.chance.randrange(DAYS)
        e["book_id"] = self.chance.choice((0, 1, 2))
        self._take(e)

    def _repeat(self) -> None:
        if self.rows:
            before = self.core.sequence
            row = self.chance.choice(self.rows)
            try:
                outcome = self._take(self.border.group_of(row))
            except Refused as refused:
                self.codes.append(int(refused.code))
                return
            if row.kind in ("", "OPENING", "TRANSFER") and not row.parent_id:
                assert self.core.sequence == before, f"a repeat books nothing: {row} {Code(outcome.code).name}"

    def _block(self) -> None:
        trade_id, instrument, day = self._id("b"), self._instrument(), self._day()
        quantity = self.chance.randint(2, 20)
        self._row(
            trade_id=trade_id,
            source="BLOCK",
            instrument=instrument,
            side=self.chance.choice(("BUY", "SELL")),
            quantity=str(quantity),
            price=self._price(instrument),
            account=self.chance.choice(ACCOUNTS),
            trade_time=self._time(day),
        )
        self.blocks.append((trade_id, quantity))
        if self.chance.random() < 0.2:
            self._row(kind="AMEND", trade_id=trade_id, price=self._price(instrument))
        if self.chance.random() < 0.1:
            self._row(kind="CANCEL", trade_id=trade_id)

    def _allocate(self) -> None:
        if not self.blocks:
            return
        block, quantity = self.blocks.pop()
        first = self.chance.randint(1, quantity - 1)
        children = []
        for part, book in zip((first, quantity - first), self.chance.sample(BOOKS, 2), strict=True):
            row = TradeRow(line=1, row=1, trade_id=self._id("c"), parent_id=block, book=book, quantity=str(part), **self._fee())
            self.rows.append(row)
            try:
                children.append(self.border.group_of(row))
            except Refused as refused:
                self.codes.append(int(refused.code))
                return
            self.trades.append(row.trade_id)
        group = np.concatenate(children)
        group["group_count"], group["group_index"] = len(group), np.arange(len(group))
        self._take(group)

    def _policy(self) -> None:
        date = DAY_0 + self.chance.randrange(DAYS)
        if self.chance.random() < 0.6:
            self._define_book(self.chance.choice(BOOKS), date)
            return
        asset_class = self.instruments[self.focus].asset_class
        method = self.chance.choice((*METHODS, ""))
        group = definition_event(ClassMethod(code=f"B:{asset_class}", book="B", asset_class=asset_class, method=method))
        group[0]["effective_date"] = date
        self._take(group)

    def _rescale(self) -> None:
        old = self.instruments[self.focus]
        fields = {name: getattr(old, name) for name in old.__struct_fields__}
        fields["qty_scale"] = min(4, old.qty_scale + self.chance.randrange(2))
        fields["price_scale"] = min(3, old.price_scale + self.chance.randrange(2))
        fields["money_scale"] = max(old.money_scale, fields["qty_scale"] + fields["price_scale"])
        new = Instrument(**fields)
        self._take(definition_event(new))
        self.instruments[self.focus] = new
