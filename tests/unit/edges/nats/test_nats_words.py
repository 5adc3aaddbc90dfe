"""Messages as words and back, for people who mend them."""

from __future__ import annotations

import pytest

from pks.edges.nats.streams import CANONICAL, LIFECYCLE_APPLIED, TRADE_BOOKED
from pks.edges.nats.words import change, from_words, to_words
from pks.proto.pks.v1 import booking_pb2

TRADE = booking_pb2.Trade(
    trade_id="T1", book="RU-EQ", instrument="SBRE", side="BUY", quantity="10", price="101.25", trade_time_ns=1_700_000_000_000_000_001
)


@pytest.mark.parametrize("subject", [TRADE_BOOKED, CANONICAL])
def test_a_message_comes_back_as_it_was(subject: str) -> None:
    payload = booking_pb2.TradeBooked(trades=[TRADE, TRADE]).SerializeToString()
    words = to_words(subject, payload)
    assert words is not None
    assert words["trades"][0]["trade_time_ns"] == "1700000000000000001"
    assert from_words(subject, words) == payload


def test_a_field_of_the_only_trade_is_named_alone() -> None:
    words = to_words(TRADE_BOOKED, booking_pb2.TradeBooked(trades=[TRADE]).SerializeToString())
    assert words is not None
    change(words, "instrument", "SBER")
    change(words, "trades.0.price", "101.5")
    change(words, "note", "mended")  # was empty
    fixed = booking_pb2.TradeBooked.FromString(from_words(TRADE_BOOKED, words)).trades[0]
    assert (fixed.instrument, fixed.price, fixed.note, fixed.quantity) == ("SBER", "101.5", "mended", "10")


def test_a_field_of_a_lifecycle_event_is_its_trades() -> None:
    message = booking_pb2.LifecycleEventApplied(events=[booking_pb2.LifecycleEvent(trade=TRADE, changed=["price"])])
    words = to_words(LIFECYCLE_APPLIED, message.SerializeToString())
    assert words is not None
    change(words, "price", "99")
    assert booking_pb2.LifecycleEventApplied.FromString(from_words(LIFECYCLE_APPLIED, words)).events[0].trade.price == "99"


def test_what_cannot_be_is_told() -> None:
    words = to_words(TRADE_BOOKED, booking_pb2.TradeBooked(trades=[TRADE, TRADE]).SerializeToString())
    assert words is not None
    with pytest.raises(ValueError, match="the message has 2 parts; say which"):
        change(words, "price", "1")
    with pytest.raises(ValueError, match="there is no 2"):
        change(words, "trades.2.price", "1")
    change(words, "trades.1.trade_time_ns", "yesterday")
    with pytest.raises(ValueError, match="trade_time_ns"):
        from_words(TRADE_BOOKED, words)
    words["trades"][1]["trade_time_ns"] = "5"
    words["trades"][1]["colour"] = "red"
    with pytest.raises(ValueError, match="colour"):
        from_words(TRADE_BOOKED, words)


def test_bytes_that_are_no_message_have_no_words() -> None:
    assert to_words(TRADE_BOOKED, b"\xff\xff\xff") is None
    assert to_words("some.other.subject", b"") is None
