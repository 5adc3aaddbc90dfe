"""A position's figures against the same figures in fractions, and against `pks calc lots`."""

from __future__ import annotations

import decimal
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pks.base.units import from_int
from pks.engine.lots import calc
from pks.engine.positions.view import (
    AVERAGE_EXTRA_DIGITS,
    MULTIPLIER_DIGITS,
    TEXT_FIELDS,
    PositionTerms,
    PositionView,
    places_of,
    plain,
    total,
)
from pks.layouts.codes import PositionFlag, Subject
from pks.layouts.refdata import ROW
from pks.layouts.slots import POSITION_SLOT

RUB, USD = 1, 2
CODES = {RUB: "RUB", USD: "USD"}

int64 = st.integers(-(2**63) + 1, 2**63 - 1)
int128 = st.integers(-(2**127) + 1, 2**127 - 1)
scales = st.integers(0, 18)
money_scales = st.integers(0, 36)
divisors = st.sampled_from([1, 2, 100, 1000, 10**18, 3, 7, 1024, 12, 3 * 2**20])


def slot(**fields: int | list[int]) -> np.void:
    """A POSITION_SLOT; cost, realised, clearing_cost, variation and fees are given as whole integers."""
    rows = np.zeros(1, POSITION_SLOT)
    for name, value in fields.items():
        if name == "fees":
            for cell, fee in enumerate(value):
                hi, lo = from_int(fee)
                rows["fees_hi"][0, cell], rows["fees_lo"][0, cell] = hi, lo & (2**64 - 1)
        elif f"{name}_hi" in POSITION_SLOT.names:
            hi, lo = from_int(value)
            rows[f"{name}_hi"], rows[f"{name}_lo"] = hi, lo & (2**64 - 1)
        else:
            rows[name] = value
    return rows[0]


def terms(numerator: int = 1, denominator: int = 1, fees_in_cost: bool = False) -> PositionTerms:
    instrument, book = np.zeros(1, ROW), np.zeros(1, ROW)
    instrument["subject"], instrument["code"], instrument["pnl_currency"] = Subject.INSTRUMENT, b"SBER.MOEX", b"RUB"
    instrument["pnl_currency_id"], instrument["multiplier_numerator"] = RUB, numerator
    instrument["multiplier_denominator"] = denominator
    book["subject"], book["code"], book["fees_in_cost"] = Subject.BOOK, b"RU-EQ", fees_in_cost
    return PositionTerms.from_rows(instrument[0], book[0], CODES)


def is_rounded(shown: Decimal, exact: Fraction, digits: int) -> bool:
    """True when `shown` is `exact` half-even at `digits` places."""
    return Fraction(shown) == Fraction(round(exact * 10**digits), 10**digits)  # Python rounds fractions half-even


@given(raw=int64, scale=scales)
def test_quantity_is_exact(raw: int, scale: int) -> None:
    view = PositionView.from_record(slot(qty_raw=raw, qty_scale=scale), terms())
    assert Fraction(view.quantity) == Fraction(raw, 10**scale)
    assert view.is_flat == (raw == 0)


@given(cost=int128, realised=int128, scale=money_scales, numerator=st.integers(1, 10**18), denominator=divisors)
def test_money_has_the_multiplier_and_is_exact_where_it_can_be(cost, realised, scale, numerator, denominator) -> None:
    view = PositionView.from_record(slot(cost=cost, realised=realised, money_scale=scale), terms(numerator, denominator))
    for shown, raw in ((view.cost, cost), (view.realised_gross, realised)):
        exact = Fraction(raw * numerator, denominator * 10**scale)
        if denominator % 3 and denominator % 7:
            assert Fraction(shown) == exact
        else:
            assert is_rounded(shown, exact, scale + max(MULTIPLIER_DIGITS, 18 - scale))


@given(qty=int64.filter(bool), cost=int128, qty_scale=scales, price_scale=scales, money_scale=money_scales, inverse=st.booleans())
def test_average_is_cost_over_quantity_half_even(qty, cost, qty_scale, price_scale, money_scale, inverse) -> None:
    flags = PositionFlag.INVERSE if inverse else 0
    record = slot(qty_raw=qty, cost=cost, qty_scale=qty_scale, price_scale=price_scale, money_scale=money_scale, flags=flags)
    shown = PositionView.from_record(record, terms(1000, 7)).average_price
    quantity, money = Fraction(qty, 10**qty_scale), Fraction(cost, 10**money_scale)
    exact = (quantity / money if money else Fraction(0)) if inverse else money / quantity
    assert is_rounded(shown, exact, price_scale + AVERAGE_EXTRA_DIGITS)


@given(realised=int128, fees=st.lists(int128, min_size=4, max_size=4), in_cost=st.booleans(), denominator=divisors, scale=money_scales)
def test_net_is_gross_less_the_fees_in_its_currency(realised, fees, in_cost, denominator, scale) -> None:
    record = slot(realised=realised, fees=fees, fee_currency_id=[USD, RUB, 9, 0], money_scale=scale)
    view = PositionView.from_record(record, terms(10, denominator, in_cost))
    exact = Fraction(realised * 10, denominator * 10**scale) - (0 if in_cost else Fraction(fees[1], 10**18))
    digits = scale + max(MULTIPLIER_DIGITS, 18 - scale, places_of(denominator))
    assert is_rounded(view.realised_net, exact, digits)
    assert {code: Fraction(fee) for code, fee in view.fees.items()} == {
        code: Fraction(fee, 10**18) for code, fee in zip(("USD", "RUB", "#9"), fees, strict=False)
    }


@given(values=st.lists(st.tuples(int128, money_scales)))
def test_a_total_is_exact_in_any_context(values) -> None:
    with decimal.localcontext(prec=3):
        views = [PositionView.from_record(slot(cost=raw, money_scale=scale), terms()).cost for raw, scale in values]
        assert Fraction(total(views)) == sum((Fraction(raw, 10**scale) for raw, scale in values), Fraction(0))


@given(value=st.integers(1, 10**30))
def test_places_make_every_multiple_exact(value: int) -> None:
    places = places_of(value)
    terminates = pow(10, 400, value) == 0
    assert terminates == (10**places % value == 0)
    if terminates and places:
        assert 10 ** (places - 1) % value


def test_a_flat_position_has_no_average() -> None:
    view = PositionView.from_record(slot(realised=10**18, money_scale=18, trades_count=2, event_time_ns=1_741_946_711_000_000_001), terms())
    assert view.average_price is None
    assert view.as_dict() == {
        "book": "RU-EQ", "instrument": "SBER.MOEX", "quantity": "0", "average_price": None, "cost": "0", "realised_gross": "1",
        "realised_net": "1", "fees": {}, "open_lots": 0, "currency": "RUB", "last_trade_time": "2025-03-14T10:05:11.000000001Z",
        "last_sequence": 0,
    }  # fmt: skip
    assert tuple(view.as_dict()) == TEXT_FIELDS


def test_large_and_small_figures_are_written_without_exponents() -> None:
    view = PositionView.from_record(slot(qty_raw=1, qty_scale=18, cost=10**37, money_scale=0), terms(10**18))
    assert view.as_dict()["quantity"] == "0.000000000000000001"
    assert view.as_dict()["cost"] == "1" + "0" * 55


def test_a_view_does_not_change_with_the_record_it_was_made_of() -> None:
    record = slot(qty_raw=5, version=3)
    view = PositionView.from_record(record, terms())
    record["qty_raw"] = 6
    assert view.quantity == 5
    assert view == PositionView.from_record(slot(qty_raw=5, version=3), terms())
    assert view != PositionView.from_record(record, terms())
    assert len({view, PositionView.from_record(slot(qty_raw=5, version=3), terms())}) == 1
    with pytest.raises(AttributeError):
        view.quantity = Decimal(6)  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        view.record["qty_raw"] = 7


def test_flags_and_futures_figures() -> None:
    flags = PositionFlag.FORCED | PositionFlag.FEE_UNKNOWN
    record = slot(flags=flags, clearing_cost=-25, variation=7, money_scale=1, last_price_raw=-150, price_scale=2, trades_count=1)
    view = PositionView.from_record(record, terms(2))
    assert (view.forced, view.fee_unknown, view.is_inverse) == (True, True, False)
    assert (view.clearing_cost, view.variation, view.last_price) == (Decimal("-5"), Decimal("1.4"), Decimal("-1.5"))


def test_the_rounding_is_that_of_calc_lots() -> None:
    assert (AVERAGE_EXTRA_DIGITS, MULTIPLIER_DIGITS) == (calc.AVERAGE_EXTRA_DIGITS, calc.MULTIPLIER_DIGITS)


@given(cost=int128, qty=int64.filter(bool))
def test_plain_texts_are_those_of_calc_lots(cost: int, qty: int) -> None:
    view = PositionView.from_record(slot(qty_raw=qty, cost=cost, money_scale=18, price_scale=2), terms())
    assert plain(view.cost) == calc.plain(Fraction(cost, 10**18), 30)
    assert plain(view.average_price) == calc.plain(Fraction(cost, 10**18) / qty, 8)
