"""Synthetic desks and fills for the benches: reference data booked as events, plain trades made as arrays.

Every number is drawn from a fixed seed, so two runs book the same. Makes no process and no segment.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.clock import NS_PER_DAY
from pks.engine.instruments.definitions import AnyDefinition, Book, Currency, Entity, Instrument, Source
from pks.engine.instruments.events import definition_event
from pks.layouts.codes import Flag, Kind, Method, Side
from pks.layouts.event import EVENT
from pks.workers.booking import Booking, DayFiles

DAY = 20_000  # 2024-10-04
NOW_NS = (DAY + 1) * NS_PER_DAY
PRICE_SCALE = QTY_SCALE = FEE_SCALE_USED = 2
MONEY_SCALE = 18
VALUE_DIGITS = MONEY_SCALE - PRICE_SCALE - QTY_SCALE
ACCOUNT, SOURCE, USD = 0, 1, 1


def definitions(books: int, instruments: int, method: Method = Method.FIFO) -> list[AnyDefinition]:
    """A currency, an entity, a source, so many books of that lot method and so many linear instruments; ids count from 1."""
    return [
        Currency(code="USD", minor_digits=2),
        Entity(code="E", functional_currency="USD", timezone="UTC"),
        Source(code="S"),
        *(
            Book(code=f"B{number}", entity="E", method=method.name, oversell="FLIP", report_currency="USD", zone="UTC")
            for number in range(1, books + 1)
        ),
        *(
            Instrument(
                code=f"I{number}", asset_class="EQUITY", currency="USD", settle_ccy="USD", quote_factor="1", price_scale=PRICE_SCALE,
                qty_scale=QTY_SCALE, money_scale=MONEY_SCALE, negative_price=False, zero_price=False, cleared=False, traded_asset=False,
            )
            for number in range(1, instruments + 1)
        ),
    ]  # fmt: skip


class Desk:
    """Reference data as the first events of a journal, and the fold of capture that has taken them."""

    def __init__(self, folder: Path, made: list[AnyDefinition], keys: int = 1 << 12) -> None:
        """keys: idempotency keys that capture's fold holds in memory."""
        groups: list[Any] = []
        self._at: Callable[[int], Any] = lambda sequence: np.concatenate(groups)[sequence - 1]
        self.booking = Booking(lambda sequence: self._at(sequence), DayFiles(folder / "keys"), keys=keys)
        for definition in made:
            outcome = self.booking.admit(definition_event(definition), NOW_NS)
            assert outcome.records is not None, f"{definition.code} is admitted"
            groups.append(self.booking.place(outcome.records, NOW_NS, 0))
        self.events = np.concatenate(groups)

    @property
    def last(self) -> int:
        """Sequence of the last definition."""
        return len(self.events)

    def journal(self, trades: Any) -> Any:
        """EVENT[n + 1]: definitions and `trades` (their sequences set behind `last`), event n at place n."""
        whole = np.zeros(1 + len(self.events) + len(trades), EVENT)
        whole[1 : 1 + len(self.events)] = self.events
        whole[1 + len(self.events) :] = trades
        return whole


def trades(
    count: int, first: int, books: int, instruments: int, *, seed: int = 1, fee: bool = True, sell: float = 0.5, known: bool = True
) -> Any:
    """EVENT[count]: plain trades at sequences first, first + 1, ..., on (book, instrument) at random.

    sell: part of them that sells. known: as capture has placed them; else as a producer sends them, without sequence and dates.
    """
    chance = np.random.default_rng(seed)
    made = np.zeros(count, EVENT)
    numbers = np.arange(count)
    made["kind"], made["group_count"] = Kind.TRADE, 1
    made["side"] = np.where(chance.random(count) < sell, int(Side.SELL), int(Side.BUY))
    made["flags"] = Flag.HAS_PRICE | (Flag.HAS_FEE if fee else 0)
    made["trade_time_ns"] = DAY * NS_PER_DAY + numbers * 1000
    made["qty_raw"] = chance.integers(1, 100, count) * 100
    made["price_raw"] = chance.integers(9_000, 11_000, count)
    made["book_id"] = chance.integers(1, books + 1, count)
    made["instrument_id"] = chance.integers(1, instruments + 1, count)
    made["account_id"], made["source_id"] = ACCOUNT, SOURCE
    if fee:
        made["fee_raw"], made["fee_scale"], made["fee_currency_id"] = 125, FEE_SCALE_USED, USD
    made["price_scale"], made["qty_scale"] = PRICE_SCALE, QTY_SCALE
    made["trade_id"] = np.char.add(f"T{seed}-", numbers.astype("U12")).astype("S40")
    if known:
        made["sequence"] = first + numbers
        made["recorded_ns"] = NOW_NS + numbers
        made["effective_date"] = made["lot_date"] = DAY
        made["money_scale"] = MONEY_SCALE
        made["key_hi"], made["key_lo"] = chance.integers(1, 2**63, (2, count))
        made["flags"][-1] |= Flag.END_OF_BATCH
    return made
