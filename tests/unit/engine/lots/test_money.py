"""Long division of 128-bit words, and a fee as money."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pks.base.units import from_int
from pks.engine.lots.money import fee_in_money, quotient_128
from pks.layouts.refdata import INSTRUMENT_POLICY

WIDE = st.integers(-(2**126), 2**126)
quotient_128(0, 1, 0, 1)


def words(value: int) -> tuple[int, int]:
    hi, lo = from_int(value)
    return int(hi), int(np.int64(np.uint64(int(lo) & (2**64 - 1))))


@given(WIDE, WIDE)
def test_quotient_is_half_even(above: int, below: int) -> None:
    got = int(quotient_128(*words(above), *words(below)))
    expected = round(Fraction(above, below)) if below else 0
    assert got == max(-(2**63 - 1), min(2**63 - 1, expected))


@given(st.integers(-(2**62), 2**62), st.integers(1, 1000), st.integers(1, 1000), st.integers(0, 24))
def test_fee_becomes_money_half_even(fee: int, numerator: int, denominator: int, money_scale: int) -> None:
    policy = np.zeros(1, INSTRUMENT_POLICY)
    policy["money_scale"], policy["multiplier_numerator"], policy["multiplier_denominator"] = money_scale, numerator, denominator
    hi, lo, over = fee_in_money(policy[0], *words(fee))
    exact = Fraction(fee * denominator, numerator) * Fraction(10) ** (money_scale - 18)
    if not over:
        assert words(round(exact)) == (int(hi), int(lo))
    else:
        assert abs(exact) > 2**100 or money_scale > 18
