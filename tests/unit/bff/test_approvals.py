"""What a trade is worth against a limit, and which limit holds."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

from pks.bff.approvals import command_key, notional_of, over_limit
from pks.edges.files.rows import TradeRow
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import Currency, Instrument
from pks.layouts.codes import Subject


def instrument(**words: object) -> Instrument:
    fields: dict[str, object] = {
        "code": "X", "asset_class": "EQUITY", "currency": "USD", "settle_ccy": "USD", "quote_factor": "1", "price_scale": 4, "qty_scale": 4,
        "money_scale": 18, "negative_price": True, "zero_price": True, "cleared": False, "traded_asset": False,
    }  # fmt: skip
    return Instrument(**(fields | words))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "quantity", "price", "worth"),
    [
        (instrument(), "10", "2.5", Fraction(25)),
        (instrument(), "10", "-2.5", Fraction(25)),
        (instrument(multiplier="1000"), "2", "3", Fraction(6000)),
        (instrument(quote_factor="1/100"), "50", "98", Fraction(49)),
        (instrument(contract_type="INVERSE", multiplier="100", base_currency="BTC", settle_ccy="BTC"), "3", "50000", Fraction(300, 50000)),
        (instrument(contract_type="INVERSE", multiplier="100", base_currency="BTC", settle_ccy="BTC"), "3", "0", None),
        (instrument(), "ten", "1", None),
        (instrument(), "1e999999999", "1", None),
        (instrument(), "9" * 400, "1", None),
        (instrument(), "1", "1.00001", None),
    ],
)
def test_what_a_trade_is_worth(one: Instrument, quantity: str, price: str, worth: Fraction | None) -> None:
    assert notional_of(one, quantity, price) == worth


def test_the_limit_of_the_currency_holds_else_that_of_any() -> None:
    catalogue = Catalogue()
    catalogue.apply(Subject.CURRENCY, 1, Currency(code="USD", minor_digits=2), 1)
    catalogue.apply(Subject.INSTRUMENT, 1, instrument(), 2)
    assert over_limit(catalogue, {"USD": "25"}, "X", "", "10", "2.5") is None, "at the limit is not above it"
    assert over_limit(catalogue, {"USD": "24.9", "*": "1000"}, "X", "", "10", "2.5") == (Decimal(25), "USD", Decimal("24.9"))
    assert over_limit(catalogue, {"EUR": "1", "*": "20"}, "X", "", "10", "2.5") == (Decimal(25), "USD", Decimal(20))
    assert over_limit(catalogue, {"EUR": "1"}, "X", "", "10", "2.5") is None
    assert over_limit(catalogue, {"*": "1"}, "NOBODY", "", "10", "2.5") is None, "refused where it is booked"
    assert over_limit(catalogue, {}, "X", "", "10", "2.5") is None


def test_a_command_is_named_by_its_key_else_by_what_it_says() -> None:
    row, other_line = TradeRow(line=1, row=1, trade_id="T", quantity="1"), TradeRow(line=9, row=8, trade_id="T", quantity="1")
    assert command_key(row, "") == command_key(other_line, "") != command_key(TradeRow(line=1, row=1, trade_id="T", quantity="2"), "")
    assert command_key(row, "k") == "key k"
