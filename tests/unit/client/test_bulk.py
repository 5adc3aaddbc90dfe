"""What became of a row is said in the row's own words: the field that was refused, and the value that it had."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from pks.base.clock import parse_time
from pks.base.errors import Code
from pks.client.bulk import FileBooker, Outcome, Sent, outcome_of
from pks.edges.files.rows import TradeRow
from pks.engine.instruments.catalogue import Catalogue
from pks.layouts.codes import Flag
from pks.layouts.event import EVENT, FIELD_NUMBER, REPLY

DAY = 20_161


def reply_of(code: Code, field: str = "", ticket: int = 0) -> Any:
    reply = np.zeros(1, REPLY)[0]
    reply["code"], reply["field"], reply["ticket"] = code, FIELD_NUMBER.get(field, 0), ticket
    return reply


def row_of(**fields: str) -> TradeRow:
    return TradeRow(line=2, row=1, **cast(Any, {"trade_id": "A1", "quantity": "5.0", "lot_id": "NOLOT"} | fields))


@pytest.mark.parametrize(
    ("code", "field", "said"),
    [
        (Code.NOT_POSITIVE, "qty_raw", ("quantity", "5.0")),
        (Code.NO_ROUTE, "book_id", ("book", "")),
        (Code.OVERSELL, "", ("quantity", "5.0")),
        (Code.UNKNOWN_LOT, "", ("lot_id", "NOLOT")),
        (Code.LOT_EXCEEDED, "", ("lot_id", "NOLOT")),
        (Code.IDEMPOTENCY_CONFLICT, "", ("trade_id", "A1")),
    ],
)
def test_a_row_is_refused_in_its_own_words(code: Code, field: str, said: tuple[str, str]) -> None:
    outcome = outcome_of(reply_of(code, field), 2, "A1", row_of())
    assert (outcome.field, outcome.value) == said


def test_what_has_no_id_is_named_by_its_lot() -> None:
    outcome = outcome_of(reply_of(Code.UNKNOWN_TRADE, "original"), 2, "NOLOT", row_of(trade_id=""))
    assert (outcome.field, outcome.value) == ("trade_id", "NOLOT")


def test_trades_that_went_as_columns_are_refused_with_the_values_that_were_sent() -> None:
    said: list[Outcome] = []
    booker = FileBooker(cast(Any, SimpleNamespace()), Catalogue(), accepted=False, say=said.extend)
    fields = ("qty_raw", "price_raw", "trade_time_ns", "book_id", "effective_date")
    sent = np.zeros(2 * len(fields) + 2, EVENT)  # each trade has a DETAIL behind it
    places = np.arange(0, len(sent), 2)
    sent["qty_scale"], sent["price_scale"], sent["qty_raw"], sent["price_raw"] = 6, 2, -3_000_000, -575
    sent["trade_time_ns"], sent["flags"], sent["effective_date"] = parse_time("1980-01-01T00:00:00Z"), Flag.HAS_BUSINESS_DATE, DAY
    first = 700
    booker.sent.append(Sent(first, sent, places))
    booker.open[first + places] = True
    booker.plain_out = len(places)
    booker.ids[first + places] = b"K1"
    replies = np.zeros(len(places), REPLY)
    replies["ticket"], replies["code"] = first + places, Code.BUSY
    replies["field"] = [*(FIELD_NUMBER[name] for name in fields), 0]
    replies["code"][-1] = Code.OVERSELL
    booker._match(replies)
    assert [(outcome.field, outcome.value) for outcome in said] == [
        ("quantity", "-3"),
        ("price", "-5.75"),
        ("trade_time", "1980-01-01T00:00:00Z"),
        ("book", ""),
        ("business_date", "2025-03-14"),
        ("quantity", "-3"),
    ]
    assert not booker.sent and not booker.plain_out
