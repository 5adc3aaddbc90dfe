"""The fold of definitions: look-ups, changes that are allowed, and routing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pks.base.errors import Code, Refused
from pks.engine.instruments import (
    Account,
    AmbiguousInstrument,
    AnyDefinition,
    Book,
    Catalogue,
    ClassMethod,
    Currency,
    Entity,
    FixedField,
    IdTaken,
    Instrument,
    Route,
    Source,
    UnknownReference,
    subject_of,
)
from pks.engine.instruments.definitions import price_rules
from pks.layouts.codes import Subject


def instrument(code: str, asset_class: str = "EQUITY", **fields: Any) -> Instrument:
    rules: Any = price_rules(asset_class, {})
    return Instrument(**{"code": code, "asset_class": asset_class, "currency": "USD", "settle_ccy": "USD", **rules, **fields})


BASE: tuple[AnyDefinition, ...] = (
    Currency(code="USD", minor_digits=2),
    Currency(code="BTC", minor_digits=8),
    Entity(code="E", functional_currency="USD", timezone="UTC+3"),
    *(Book(code=code, entity="E", method="FIFO", oversell="FLIP", report_currency="USD", zone="UTC+3") for code in "ABC"),
    Account(code="ACC", entity="E"),
    Source(code="SRC"),
)


def catalogue(*more: AnyDefinition) -> Catalogue:
    made = Catalogue()
    for sequence, definition in enumerate((*BASE, *more), start=1):
        add(made, definition, sequence)
    return made


def add(made: Catalogue, definition: AnyDefinition, sequence: int = 1000) -> int:
    subject = subject_of(definition)
    row_id = made.id_of(subject, definition.code) or made.next_id(subject)
    made.apply(subject, row_id, definition, sequence)
    return row_id


def test_an_instrument_is_found_by_each_of_its_names() -> None:
    made = catalogue(instrument("AAPL.US", symbol="AAPL", isin="US0378331005", cusip="037833100", figi="BBG000B9XRY4", ric="AAPL.OQ"))
    row_id = made.id_of(Subject.INSTRUMENT, "AAPL.US")
    assert row_id > 0
    for name in ("AAPL.US", "AAPL", "US0378331005", "037833100", "BBG000B9XRY4", "AAPL.OQ"):
        assert made.find_instrument(name) == row_id
    assert made.find_instrument("MSFT") == 0
    assert made.find_instrument("") == 0


def test_a_symbol_of_two_is_refused_with_both() -> None:
    spot = instrument("BTC.SPOT", "CRYPTO_SPOT", symbol="BTCUSDT", base_currency="BTC")
    made = catalogue(spot, instrument("BTC-PERP", "CRYPTO_PERP", symbol="BTCUSDT", mic="XPRP"))
    with pytest.raises(AmbiguousInstrument) as refused:
        made.find_instrument("BTCUSDT")
    assert refused.value.candidates == ("BTC.SPOT", "BTC-PERP")
    assert made.find_instrument("BTCUSDT", venue="XPRP") == made.id_of(Subject.INSTRUMENT, "BTC-PERP")
    add(made, msgspec.structs.replace(spot, symbol="BTC/USDT"))
    assert made.find_instrument("BTCUSDT") == made.id_of(Subject.INSTRUMENT, "BTC-PERP")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"currency": "BTC"}, "currency"),
        ({"contract_type": "INVERSE"}, "contract"),
        ({"asset_class": "ETF"}, "asset_class"),
        ({"multiplier": "2"}, "money_factor"),
        ({"price_scale": 5}, "price_scale"),
        ({"qty_scale": 5}, "qty_scale"),
    ],
)
def test_what_positions_were_built_on_stays(changes: dict[str, Any], field: str) -> None:
    old = instrument("X")
    made = catalogue(old)
    with pytest.raises(FixedField) as refused:
        add(made, msgspec.structs.replace(old, **changes))
    assert refused.value.field == field
    assert made.instrument(1) == old, "a refused change changes nothing"


def test_names_and_finer_scales_may_change() -> None:
    old = instrument("X", symbol="OLD")
    made = catalogue(old)
    new = msgspec.structs.replace(old, symbol="NEW", price_scale=8, money_scale=20)
    add(made, new, 77)
    assert made.instrument(1) == new
    assert made.sequence_of(Subject.INSTRUMENT, 1) == 77
    assert (made.find_instrument("NEW"), made.find_instrument("OLD")) == (1, 0)


def test_ids_are_given_once() -> None:
    made = catalogue(instrument("X"))
    with pytest.raises(IdTaken):
        made.apply(Subject.INSTRUMENT, 2, instrument("X"), 99)
    with pytest.raises(IdTaken):
        made.apply(Subject.INSTRUMENT, 1, instrument("Y"), 99)
    with pytest.raises(IdTaken):
        made.apply(Subject.INSTRUMENT, 0, instrument("Y"), 99)
    assert made.next_id(Subject.INSTRUMENT) == 2


@pytest.mark.parametrize(
    ("definition", "code"),
    [
        (instrument("Y", currency="XXX"), Code.UNKNOWN_CURRENCY),
        (Account(code="Y", entity="NONE"), Code.UNKNOWN_FIELD),
        (ClassMethod(code="Z:EQUITY", book="Z", asset_class="EQUITY", method="LIFO"), Code.UNKNOWN_BOOK),
        (Route(code="r", book="Z"), Code.UNKNOWN_BOOK),
        (Route(code="r", book="A", account="Z"), Code.UNKNOWN_ACCOUNT),
    ],
)
def test_what_is_named_must_be_there(definition: AnyDefinition, code: Code) -> None:
    with pytest.raises(UnknownReference) as refused:
        add(catalogue(), definition)
    assert refused.value.code is code


def test_two_class_names_of_one_number_are_refused() -> None:
    # A pair of equal crc32, found by search: such names are rare, and must not share a lot method.
    made = catalogue(instrument("X", "plumless"))
    with pytest.raises(Refused) as refused:
        add(made, instrument("Y", "buckeroo"))
    assert refused.value.field == "asset_class"


def test_method_of_a_class() -> None:
    override = ClassMethod(code="A:EQUITY", book="A", asset_class="EQUITY", method="AVERAGE")
    made = catalogue(override)
    assert (made.method_of(1, "EQUITY"), made.method_of(1, "BOND"), made.method_of(2, "EQUITY")) == ("AVERAGE", "FIFO", "FIFO")
    add(made, msgspec.structs.replace(override, method=""))
    assert made.method_of(1, "EQUITY") == "FIFO"


def test_the_most_specific_route_wins() -> None:
    made = catalogue(
        Route(code="1", book="A"),
        Route(code="2", book="B", venue="XNAS"),
        Route(code="3", book="C", venue="XNAS", account="ACC"),
        Route(code="4", book="B", source="SRC", priority=1),
        Route(code="5", book="A", source="SRC", priority=9),
    )
    book = {code: made.id_of(Subject.BOOK, code) for code in "ABC"}
    assert made.route("", "", "") == book["A"]
    assert made.route("XNAS", "", "") == book["B"]
    assert made.route("XNAS", "ACC", "SRC") == book["C"]
    assert made.route("XLON", "ACC", "SRC") == book["A"], "of two equal rules the higher priority"
    add(made, Route(code="5", book="", source="SRC", priority=9))
    assert made.route("XLON", "", "SRC") == book["B"], "an emptied rule is gone"
    assert catalogue().route("XNAS", "ACC", "SRC") == 0


def test_zones_of_books() -> None:
    made = catalogue()
    assert made.zones == ("UTC", "UTC+3")
    assert (made.zone_id("UTC+3"), made.zone_id("UTC")) == (1, 0)
