"""Events in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pks.layouts.codes import Flag, Kind, Side
from pks.layouts.event import EVENT
from pks.tui.feed import Feed
from pks.tui.tape import HIDDEN, SHOWN, TapeLine, describe
from tests.screens.blotter_host import NOW_NS


def event(**fields: Any) -> Any:
    record = np.zeros(1, EVENT)[0]
    record["sequence"], record["trade_time_ns"], record["qty_scale"], record["price_scale"] = 12_345, NOW_NS, 0, 2
    record["book_id"], record["instrument_id"] = 11, 21
    for name, value in fields.items():
        record[name] = value
    return record


def test_every_kind_is_shown_or_hidden() -> None:
    assert {*SHOWN, *HIDDEN} == set(Kind)


def test_a_trade(feed: Feed) -> None:
    assert feed.names is not None
    trade = event(kind=Kind.TRADE, side=Side.SELL, qty_raw=1_200, price_raw=31_640, account_id=31, trade_id="T1")
    assert describe(trade, feed.names, NOW_NS) == TapeLine(
        "12,345", "00:53:20.000", "TRADE", "SELL", "1,200", "SBER.MOEX", "316.4", "RU-EQ", "NSD-RU-01", "T1"
    )


@pytest.mark.parametrize(
    ("fields", "quantity", "price", "book"),
    [
        ({"kind": Kind.TRANSFER, "to_book_id": 12, "qty_raw": 5}, "5", "", "RU-EQ > RU-FI"),
        ({"kind": Kind.TRANSFER, "to_book_id": 12, "qty_raw": 5, "price_raw": 100, "flags": Flag.HAS_PRICE}, "5", "1", "RU-EQ > RU-FI"),
        ({"kind": Kind.FEE, "fee_raw": 125, "fee_scale": 2, "fee_currency_id": 1}, "1.25", "RUB", "RU-EQ"),
        ({"kind": Kind.ACTION, "qty_raw": 10, "price_raw": 1, "book_id": 0}, "10:1", "", ""),
        ({"kind": Kind.TRADE, "flags": Flag.BLOCK, "qty_raw": 9, "price_raw": 12_942, "book_id": 0}, "9", "129.42", "(block)"),
        ({"kind": Kind.CANCEL}, "", "", "RU-EQ"),
        ({"kind": Kind.OPENING, "qty_raw": 1, "price_raw": -100, "book_id": 99}, "1", "-1", "#99"),
    ],
)
def test_other_kinds(fields: dict[str, Any], quantity: str, price: str, book: str, feed: Feed) -> None:
    assert feed.names is not None
    line = describe(event(**fields), feed.names, NOW_NS)
    assert (line.kind, line.quantity, line.price, line.book) == (Kind(fields["kind"]).name, quantity, price, book)
