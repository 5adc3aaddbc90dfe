"""What a quantity at a price is worth, what part of a lot costs, and whether a sum still fits: 128-bit words in, words out.

Every value is without the instrument's multiplier, at its money_scale. Source: design.md section 3.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import numpy as np

from pks.base.kernels import inlined, kernel
from pks.base.units import (
    abs_64,
    add_128,
    compare_128,
    inverse_value_128,
    mul_64_checked,
    mul_128_64,
    neg_128,
    ratio_128,
    scale_up_128,
    share_128,
    sub_128,
    value_128,
)
from pks.layouts.codes import Contract, LotFlag
from pks.layouts.slots import FEE_SCALE

INVERSE = int(Contract.INVERSE)
EXACT = int(LotFlag.EXACT)


@inlined
def trade_value(policy, qty_raw, price_raw):
    """(hi, lo, overflow) of `qty_raw` at `price_raw`: the product, or for an inverse contract the quotient, half-even."""
    if policy.contract == INVERSE:
        return inverse_value_128(qty_raw, price_raw, policy.value_digits)
    return value_128(qty_raw, price_raw, policy.value_digits)


@inlined
def part_cost(policy, lot, taken):
    """(hi, lo) of the cost of `taken` (> 0, at most the lot's size) units of `lot`; the last part takes all."""
    size = abs(lot.qty_raw)
    hi, lo = lot.cost_hi, np.int64(lot.cost_lo)
    if taken < size:
        if lot.flags & EXACT:
            hi, lo, _ = value_128(taken if lot.qty_raw > 0 else -taken, lot.price_raw, policy.value_digits)
        else:
            hi, lo, _ = share_128(hi, lo, taken, size)
    return hi, lo


@inlined
def magnitude(hi, lo):
    """(hi, lo, overflow) of the absolute value."""
    if hi < 0:
        return neg_128(hi, lo)
    return hi, lo, 0


@inlined
def sum_fits(a_hi, a_lo, b_hi, b_lo):
    """Does |a| + |b| fit in 127 bits? Then a + b, a - b and every part of them do."""
    a_hi, a_lo, a_over = magnitude(a_hi, a_lo)
    b_hi, b_lo, b_over = magnitude(b_hi, b_lo)
    _, _, over = add_128(a_hi, a_lo, b_hi, b_lo)
    return (a_over | b_over | over) == 0


@inlined
def fee_amount(fee_raw, fee_scale):
    """(hi, lo) of a fee at FEE_SCALE; always fits, 10**18 x int64 having at most 123 bits."""
    hi, lo, _ = scale_up_128(np.int64(-1) if fee_raw < 0 else np.int64(0), np.int64(fee_raw), FEE_SCALE - fee_scale)
    return hi, lo


@kernel
def fee_in_money(policy, hi, lo):
    """(hi, lo, overflow): a fee in P&L currency as money on the position, that is divided by the multiplier, half-even."""
    digits = np.int64(policy.money_scale) - FEE_SCALE
    if digits < 0:
        divisor, over = np.int64(policy.multiplier_numerator), 0
        for _ in range(-digits):
            divisor, more = mul_64_checked(divisor, 10)
            over |= more
        if over:
            return fee_in_coarse_money(policy, hi, lo, -digits)
        return ratio_128(hi, lo, policy.multiplier_denominator, divisor)
    hi, lo, over = scale_up_128(hi, lo, digits)
    if over:
        return hi, lo, over
    return ratio_128(hi, lo, policy.multiplier_denominator, policy.multiplier_numerator)


@inlined
def base_fee_raw(fee_raw, fee_scale, qty_scale):
    """A fee in the traded asset as a quantity at qty_scale; capture has seen to it that it is exact."""
    while fee_scale > qty_scale:
        fee_raw //= 10
        fee_scale -= 1
    while fee_scale < qty_scale:
        fee_raw *= 10
        fee_scale += 1
    return fee_raw


@inlined
def size_of(qty_raw):
    """|quantity|; the least int64 never stands on a position."""
    return abs_64(qty_raw)[0]


@kernel
def ten_to_the(qty_raw, digits):
    """(hi, lo, overflow) of qty_raw x 10**digits."""
    return scale_up_128(np.int64(-1) if qty_raw < 0 else np.int64(0), np.int64(qty_raw), digits)


@kernel
def quotient_128(above_hi, above_lo, below_hi, below_lo):
    """above / below half-even as an int64, both 128 bits; the largest int64 of that sign where it does not fit, 0 where below is 0.

    Long division by one bit at a time: for shown prices only, where the divisor has more than 64 bits.
    """
    negative = (above_hi < 0) != (below_hi < 0)
    above_hi, above_lo, _ = magnitude(above_hi, above_lo)
    below_hi, below_lo, _ = magnitude(below_hi, below_lo)
    if below_hi == 0 and below_lo == 0:
        return np.int64(0)
    quotient = np.int64(0)
    for bit in range(62, -1, -1):
        tried = quotient | (np.int64(1) << bit)
        hi, lo, over = mul_128_64(below_hi, below_lo, tried)
        if over == 0 and compare_128(hi, lo, above_hi, above_lo) <= 0:
            quotient = tried
    hi, lo, _ = mul_128_64(below_hi, below_lo, quotient)
    rest_hi, rest_lo, _ = sub_128(above_hi, above_lo, hi, lo)
    other_hi, other_lo, _ = sub_128(below_hi, below_lo, rest_hi, rest_lo)
    past_half = compare_128(rest_hi, rest_lo, other_hi, other_lo)
    if (past_half > 0 or (past_half == 0 and quotient & 1 == 1)) and quotient < 2**63 - 1:
        quotient += 1
    return -quotient if negative else quotient


@kernel
def fee_in_coarse_money(policy, hi, lo, digits):
    """The same where multiplier x 10**digits has more than 64 bits."""
    hi, lo, over = mul_128_64(hi, lo, policy.multiplier_denominator)
    below_hi, below_lo, more = ten_to_the(policy.multiplier_numerator, digits)
    quotient = quotient_128(hi, lo, below_hi, below_lo)
    if over or more or quotient >= 2**63 - 1 or quotient <= -(2**63 - 1):
        return np.int64(0), np.int64(0), 1
    return np.int64(-1) if quotient < 0 else np.int64(0), quotient, 0
