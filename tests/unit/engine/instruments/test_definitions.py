"""Definitions: canonical bytes, checks with names, and the figures that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import msgspec
import pytest

from pks.base.errors import Code
from pks.engine.instruments import BadDefinition, Book, ClassMethod, Currency, Instrument, Route, Source, decode, encode
from pks.engine.instruments.definitions import check, identifier_warnings, price_rules, rational, text_fault, truth


def instrument(asset_class: str = "EQUITY", **changes: Any) -> Instrument:
    rules: Any = price_rules(
        asset_class, {name: str(changes.pop(name)) for name in ("price_scale", "qty_scale", "money_scale") if name in changes}
    )
    given: Any = {"code": "X", "currency": "USD", "settle_ccy": "USD", **rules, **changes}
    return Instrument(asset_class=asset_class, **given)


BOOK = Book(code="B", entity="E", method="FIFO", oversell="FLIP", report_currency="USD", zone="UTC+3", extra={"z": "1", "a": "2"})


def test_equal_definitions_are_equal_bytes() -> None:
    other = msgspec.structs.replace(BOOK, extra={"a": "2", "z": "1"})
    assert encode(BOOK) == encode(other)
    assert b'"type":"book"' in encode(BOOK)
    for definition in (BOOK, instrument(), Currency(code="RUB", minor_digits=2), Source(code="S"), Route(code="R", book="B")):
        assert decode(encode(definition)) == definition
        assert encode(decode(encode(definition))) == encode(definition)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff", b'{"type":"book"}', b'{"type":"moon","code":"x"}', b'{"type":"source","code":"x","y":1}']
)
def test_what_is_no_definition_is_refused(data: bytes) -> None:
    with pytest.raises(BadDefinition) as refused:
        decode(data)
    assert refused.value.code is Code.BAD_ROW


@dataclass
class Wrong:
    definition: Any
    field: str
    code: Code


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong(instrument(code=""), "code", Code.MISSING_FIELD),
        Wrong(instrument(code="x" * 49), "code", Code.BAD_TEXT),
        Wrong(instrument(symbol="A\nB"), "symbol", Code.BAD_TEXT),
        Wrong(instrument(symbol="A\udcff"), "symbol", Code.BAD_ENCODING),
        Wrong(instrument(name=" A"), "name", Code.BAD_TEXT),
        Wrong(instrument(extra={"x": "\x00"}), "x", Code.BAD_TEXT),
        Wrong(instrument(isin="US037833100"), "isin", Code.BAD_TEXT),
        Wrong(instrument(contract_type="QUANTO"), "contract_type", Code.BAD_TEXT),
        Wrong(instrument(multiplier="0"), "multiplier", Code.NOT_POSITIVE),
        Wrong(instrument(multiplier="-1"), "multiplier", Code.NOT_POSITIVE),
        Wrong(instrument(multiplier="NaN"), "multiplier", Code.NOT_A_NUMBER),
        Wrong(instrument(multiplier="1/0"), "multiplier", Code.NOT_POSITIVE),
        Wrong(instrument(multiplier="1" + "0" * 19), "multiplier", Code.OUT_OF_RANGE),
        Wrong(instrument(multiplier="1e400"), "multiplier", Code.OUT_OF_RANGE),
        Wrong(instrument(currency=""), "currency", Code.MISSING_FIELD),
        Wrong(instrument(expiry="2025-02-30"), "expiry", Code.BAD_DATE),
        Wrong(instrument(tick_size="a"), "tick_size", Code.NOT_A_NUMBER),
        Wrong(instrument(money_scale=11), "money_scale", Code.OUT_OF_RANGE),
        Wrong(instrument(price_scale=18, qty_scale=0, money_scale=20, contract_type="INVERSE"), "money_scale", Code.OUT_OF_RANGE),
        Wrong(msgspec.structs.replace(BOOK, method="BEST"), "method", Code.METHOD_UNKNOWN),
        Wrong(msgspec.structs.replace(BOOK, zone="UTC+99"), "zone", Code.UNKNOWN_ZONE),
        Wrong(msgspec.structs.replace(BOOK, oversell="MAYBE"), "oversell", Code.BAD_TEXT),
        Wrong(msgspec.structs.replace(BOOK, daily_loss_limit="-1"), "daily_loss_limit", Code.NOT_POSITIVE),
        Wrong(ClassMethod(code="B:X", book="B", asset_class="Y", method="FIFO"), "code", Code.BAD_TEXT),
        Wrong(Currency(code="RUBRUBRUBRUBR", minor_digits=2), "code", Code.BAD_TEXT),
        Wrong(Currency(code="RUB", minor_digits=19), "minor_digits", Code.OUT_OF_RANGE),
        Wrong(Source(code="S", recurs=16), "recurs", Code.OUT_OF_RANGE),
    ],
)
def test_each_mistake_has_its_name(wrong: Wrong) -> None:
    with pytest.raises(BadDefinition) as refused:
        check(wrong.definition)
    assert (refused.value.field, refused.value.code) == (wrong.field, wrong.code)
    assert refused.value.reason


def test_money_of_a_price() -> None:
    assert instrument("BOND", multiplier="1000").money_factor == 10  # an OFZ: one point of 1000 is 10
    assert instrument("BOND").money_factor == Fraction(1, 100)  # a Treasury: quantity is face
    assert instrument("CRYPTO_PERP", multiplier="0.1").money_factor == Fraction(1, 10)
    assert instrument().value_digits == 6
    inverse = instrument("CRYPTO_PERP", contract_type="INVERSE", settle_ccy="BTC")
    assert (inverse.pnl_currency, inverse.value_digits) == ("BTC", 18)
    quanto = instrument("FUTURE", settle_ccy="RUB")
    assert quanto.pnl_currency == "USD", "a linear contract's P&L is in the currency of its price"


def test_traded_asset() -> None:
    assert instrument("CRYPTO_SPOT", base_currency="BTC").traded_currency == "BTC"
    assert instrument("CRYPTO_PERP", base_currency="BTC").traded_currency == ""
    ndf: Any = price_rules("FX_FORWARD", {"contract_type": "NDF"})
    assert ndf["traded_asset"] is False


def test_explicit_figures_override_the_class() -> None:
    rules = price_rules("EQUITY", {"price_scale": "2", "qty_scale": "0", "quote_factor": "1/100", "negative_price": "true"})
    assert rules["price_scale"] == 2
    assert rules["money_scale"] == 18
    assert rules["quote_factor"] == "1/100"
    assert rules["negative_price"] is True
    assert price_rules("EQUITY", {"price_scale": "18", "qty_scale": "18"})["money_scale"] == 36
    for text in ("-1", "19", "1.5", "１"):
        with pytest.raises(BadDefinition):
            price_rules("EQUITY", {"price_scale": text})


def test_wrong_check_digits_are_a_warning() -> None:
    doubtful = instrument(isin="US0378331006")
    check(doubtful)
    assert identifier_warnings(doubtful) == [("isin", "US0378331006", "the check digit is wrong")]


def test_small_readers() -> None:
    assert rational("1/100", "f") == Fraction(1, 100)
    assert truth("TRUE", "f", False)
    assert truth("", "f", True)
    with pytest.raises(BadDefinition):
        truth("maybe", "f", True)
    assert text_fault("plain é") is None
    assert text_fault("a\tb", "\t") is None
    assert text_fault("a\tb") is not None
