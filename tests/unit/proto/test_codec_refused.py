"""A refusal in words: what a record says is said, what it cannot say is left out, and nothing makes the encoder fail."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from pks.base.errors import CODES, Code
from pks.layouts.codes import Flag, Kind, Subject
from pks.layouts.detail import with_text
from pks.layouts.event import EVENT, FIELD_NUMBER
from pks.proto.codec import Encoder, Names
from pks.proto.pks.v1 import booking_pb2


class Row(NamedTuple):
    code: str


KNOWN = {
    (Subject.BOOK, 1): "ALPHA",
    (Subject.INSTRUMENT, 2): "SBER",
    (Subject.SOURCE, 3): "DESK",
    (Subject.ACCOUNT, 4): "acc",
    (Subject.CURRENCY, 5): "RUB",
}


def no_id(sequence: int) -> str:
    raise AssertionError("a refused record's sequences are not followed")


ENCODER = Encoder(Names(lambda subject, row: Row(KNOWN[subject, row]) if (subject, row) in KNOWN else None), no_id, {})


def refused(group: Any, code: Code = Code.BAD_RECORD, field: str = "", value: int = 0) -> Any:
    """The Rejection, over the wire and back."""
    made = ENCODER.refused(group, 77, code.name, CODES[code], FIELD_NUMBER.get(field, 0), value)
    return booking_pb2.TradeRejected.FromString(booking_pb2.TradeRejected(rejections=[made]).SerializeToString()).rejections[0]


def a_trade(**fields: Any) -> Any:
    record = np.zeros(1, EVENT)
    record["kind"], record["side"], record["group_count"] = Kind.TRADE, 1, 1
    record["book_id"], record["instrument_id"], record["source_id"], record["account_id"], record["fee_currency_id"] = 1, 2, 3, 4, 5
    record["qty_raw"], record["qty_scale"], record["price_raw"], record["price_scale"] = 125, 1, 30050, 2
    record["fee_raw"], record["fee_scale"], record["flags"] = 7, 1, Flag.HAS_FEE
    record["trade_time_ns"], record["trade_id"] = 1_767_607_200_000_000_000, b"X-1"
    for name, value in fields.items():
        record[name] = value
    return record


def test_a_trade_is_said_as_far_as_it_goes() -> None:
    group = with_text(a_trade(book_id=99)[0], b'{"note": "from the desk", "trade_id": "X-1 in full"}')
    made = refused(group, Code.UNKNOWN_BOOK, "book_id", 99)
    assert (made.code, made.field, made.value, made.reason) == ("UNKNOWN_BOOK", "book", "99", CODES[Code.UNKNOWN_BOOK])
    assert (made.source, made.trade_id, made.sequence, made.recorded_ns) == ("DESK", "X-1 in full", 0, 77)
    assert made.original == group.tobytes()
    trade = made.trade
    assert (trade.kind, trade.side, trade.book, trade.instrument, trade.account) == ("TRADE", "BUY", "", "SBER", "acc")
    assert (trade.quantity, trade.price, trade.fee, trade.fee_currency) == ("12.5", "300.5", "0.7", "RUB")
    assert (trade.note, trade.business_date, trade.sequence, trade.recorded_ns) == ("from the desk", "", 0, 77)


@pytest.mark.parametrize(
    ("field", "fields", "said"),
    [
        ("qty_raw", {"qty_raw": 0}, ("quantity", "0")),
        ("qty_raw", {"qty_raw": -(2**63), "qty_scale": 255}, ("quantity", "")),
        ("price_raw", {"price_raw": -5}, ("price", "-0.05")),
        ("trade_id", {}, ("trade_id", "X-1")),
        ("original", {"kind": Kind.CANCEL}, ("trade_id", "X-1")),
        ("effective_date", {"effective_date": 20_000}, ("business_date", "2024-10-04")),
        ("settle_date", {"settle_date": -(2**31)}, ("settle_date", "")),
        ("source_id", {"source_id": 2**32 - 1}, ("source", "4294967295")),
        ("book_id", {}, ("book", "ALPHA")),
    ],
)
def test_the_offending_field_in_words(field: str, fields: dict[str, Any], said: tuple[str, str]) -> None:
    made = refused(a_trade(**fields), field=field)
    assert (made.field, made.value) == said


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[1]", b"\xff\xfe", b'{"trade_id": 7, "note": {"a": 1}}', b'{"note": "\\ud800"}', b"[" * 5000, b"9" * 5000,
        b'{"note": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_texts_that_are_none(text: bytes) -> None:
    group = with_text(a_trade()[0], text)
    made = refused(group)
    assert made.trade_id == "X-1"
    assert made.original == group.tobytes()


def test_bytes_of_chance_are_always_said(seed: int) -> None:
    chance = np.random.default_rng(seed)
    for _ in range(3000):
        count = int(chance.integers(1, 5))
        group = np.frombuffer(chance.bytes(count * EVENT.itemsize), EVENT).copy()
        if chance.random() < 0.5:
            group["kind"] = chance.integers(0, 20, count)
        if chance.random() < 0.5:
            group["flags"] |= int(Flag.HAS_DETAIL)
        field = int(chance.integers(0, len(FIELD_NUMBER) + 3))
        made = ENCODER.refused(group, int(chance.integers(-(2**63), 2**63)), "BAD_RECORD", "", field, int(chance.integers(-(2**63), 2**63)))
        back = booking_pb2.Rejection.FromString(made.SerializeToString())
        assert back.original == group.tobytes()
        assert back.sequence == 0
