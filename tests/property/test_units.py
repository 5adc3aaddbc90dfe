"""Laws of `pks.base.units` against Python integers and fractions, over generated words and the extremes."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pks.base import units
from pks.base.units import INT64_MAX, INT64_MIN, INT128_MAX, INT128_MIN, from_int, to_int


def near(*centres: int, low: int, high: int) -> st.SearchStrategy[int]:
    """Integers of the range, with those around `centres` and all magnitudes drawn often."""
    around = st.sampled_from(centres).flatmap(lambda centre: st.integers(max(low, centre - 3), min(high, centre + 3)))
    magnitudes = st.integers(0, high.bit_length()).flatmap(lambda bits: st.integers(max(low, -(1 << bits)), min(high, (1 << bits))))
    return st.one_of(around, magnitudes, st.integers(low, high))


int64s = near(0, INT64_MIN, INT64_MAX, 1 << 31, 1 << 32, 1 << 62, -(1 << 32), 10**18, low=INT64_MIN, high=INT64_MAX)
int128s = near(
    0, INT64_MIN, INT64_MAX, 1 << 64, -(1 << 64), 1 << 96, 1 << 126, INT128_MIN, INT128_MAX, 10**38, low=INT128_MIN, high=INT128_MAX
)
divisors = int64s.filter(bool)
quantities = near(1, 1 << 32, 10**9, INT64_MAX, low=1, high=INT64_MAX)
digit_counts = st.integers(0, 36)


@pytest.fixture(scope="module", autouse=True)
def _compile_first() -> None:
    """So that no example pays for the compiler."""
    one = (0, 1)
    for kernel in (units.add_64, units.sub_64, units.mul_64_checked, units.mul_64):
        kernel(1, 1)
    for kernel in (units.add_128, units.sub_128, units.compare_128):
        kernel(*one, *one)
    for kernel in (units.neg_128, units.sign_128, units.is_zero_128, units.fits_64):
        kernel(*one)
    for kernel in (units.mul_128_64, units.scale_up_128, units.divmod_128_64, units.div_half_even_128_64):
        kernel(*one, 1)
    for kernel in (units.share_128, units.ratio_128):
        kernel(*one, 1, 1)
    units.value_128(1, 1, 0)
    units.inverse_value_128(1, 1, 0)
    units.neg_64(1)
    units.abs_64(1)
    units.mix_64(1)
    units.hash_words(np.zeros(4, np.int64), 0, 4, 0)


def agrees_64(outcome: tuple[int, int], exact: int) -> bool:
    """Whether (result, overflow) is what int64 arithmetic should say of the exact result."""
    result, overflow = outcome
    return overflow == 0 and result == exact if INT64_MIN <= exact <= INT64_MAX else overflow == 1


def agrees_128(outcome: tuple[int, int, int], exact: int) -> bool:
    high, low, overflow = outcome
    return overflow == 0 and to_int(high, low) == exact if INT128_MIN <= exact <= INT128_MAX else overflow == 1


@given(int64s, int64s)
def test_checked_64(a: int, b: int) -> None:
    assert agrees_64(units.add_64(a, b), a + b)
    assert agrees_64(units.sub_64(a, b), a - b)
    assert agrees_64(units.mul_64_checked(a, b), a * b)
    assert agrees_64(units.neg_64(a), -a)
    assert agrees_64(units.abs_64(a), abs(a))
    assert to_int(*units.mul_64(a, b)) == a * b


@given(int128s)
def test_words_round_trip(a: int) -> None:
    high, low = from_int(a)
    assert INT64_MIN <= high <= INT64_MAX
    assert INT64_MIN <= low <= INT64_MAX
    assert to_int(high, low) == a
    assert to_int(high, low & (1 << 64) - 1) == a


@given(int128s, int128s)
def test_add_sub_compare_128(a: int, b: int) -> None:
    words = (*from_int(a), *from_int(b))
    assert agrees_128(units.add_128(*words), a + b)
    assert agrees_128(units.sub_128(*words), a - b)
    assert agrees_128(units.neg_128(*from_int(a)), -a)
    assert units.compare_128(*words) == (a > b) - (a < b)
    assert units.compare_128(*from_int(a), *from_int(a)) == 0
    assert units.sign_128(*from_int(a)) == (a > 0) - (a < 0)
    assert units.is_zero_128(*from_int(a)) == (a == 0)
    assert units.fits_64(*from_int(a)) == (INT64_MIN <= a <= INT64_MAX)


@given(int128s, int64s)
def test_mul_128_64(a: int, b: int) -> None:
    assert agrees_128(units.mul_128_64(*from_int(a), b), a * b)


@given(st.integers(-2, 2), divisors)
def test_mul_128_64_at_the_edge(offset: int, b: int) -> None:
    for edge in (INT128_MAX, INT128_MIN):
        a = edge // b + offset
        assume(INT128_MIN <= a <= INT128_MAX)
        assert agrees_128(units.mul_128_64(*from_int(a), b), a * b)


@given(int128s, digit_counts)
def test_scale_up(a: int, digits: int) -> None:
    assert agrees_128(units.scale_up_128(*from_int(a), digits), a * 10**digits)
    inside = a // 10**digits
    assert agrees_128(units.scale_up_128(*from_int(inside), digits), inside * 10**digits)


@settings(max_examples=400)
@given(int128s, divisors)
@example(INT128_MIN, INT64_MIN)
@example(INT128_MAX, (1 << 32) + 1)
@example(((1 << 63) - 2 << 64) | (1 << 64) - 1, INT64_MAX)  # first digit estimated too high by two
def test_divmod(a: int, d: int) -> None:
    assume((a, d) != (INT128_MIN, -1))
    quotient = abs(a) // abs(d) * (1 if (a < 0) == (d < 0) else -1)
    qh, ql, rest = units.divmod_128_64(*from_int(a), d)
    assert (to_int(qh, ql), rest) == (quotient, a - quotient * d)


@settings(max_examples=400)
@given(st.integers(1, (1 << 32) - 1), st.integers(1, (1 << 32) - 1), st.integers(-3, 3), st.integers(0, 31))
def test_divmod_where_digits_are_misjudged(high_digit: int, quotient: int, offset: int, shift: int) -> None:
    """Divisors with a full low digit, dividends next to a multiple: the cases that need the correcting steps."""
    d = ((high_digit << 32) | 0xFFFFFFFF) >> shift & INT64_MAX
    a = d * ((quotient << 32) | 0xFFFFFFFF) + offset
    q, r = divmod(a, d)
    assume(a >= 0)
    assert units.divmod_128_64(*from_int(a), d) == (*from_int(q), r)
    assert to_int(*units.div_half_even_128_64(*from_int(a), d)) == round(Fraction(a, d))


@given(int128s, divisors)
def test_div_half_even(a: int, d: int) -> None:
    assume((a, d) != (INT128_MIN, -1))
    assert to_int(*units.div_half_even_128_64(*from_int(a), d)) == round(Fraction(a, d))


@given(near(0, 1 << 62, 1 << 64, 1 << 100, low=-(1 << 100), high=1 << 100), st.integers(1, 1 << 25))
def test_div_half_even_on_ties(quotient: int, half: int) -> None:
    a, d = quotient * 2 * half + half, 2 * half
    assert to_int(*units.div_half_even_128_64(*from_int(a), d)) == round(Fraction(a, d))
    assert to_int(*units.div_half_even_128_64(*from_int(a), -d)) == round(Fraction(a, -d))


@settings(max_examples=400)
@given(int128s, quantities, st.data())
def test_share(value: int, quantity: int, data: st.DataObject) -> None:
    taken = data.draw(near(0, quantity // 2, quantity, low=0, high=quantity))
    high, low, overflow = units.share_128(*from_int(value), taken, quantity)
    assert overflow == 0
    assert to_int(high, low) == round(Fraction(value * taken, quantity))
    assert units.share_128(*from_int(value), quantity, quantity) == (*from_int(value), 0)


@given(near(0, 1 << 64, 1 << 100, low=-(1 << 100), high=1 << 100), st.integers(1, 1 << 20), st.integers(1, 1 << 20))
def test_share_on_ties(value: int, half: int, taken_odd: int) -> None:
    """Odd values over an even quantity end on exact halves often; the parity of the whole decides."""
    value, quantity = (2 * value + 1) * half, 2 * half
    taken = min(2 * taken_odd - 1, quantity)
    assert units.share_128(*from_int(value), taken, quantity) == (*from_int(round(Fraction(value * taken, quantity))), 0)


@given(int128s, st.lists(st.integers(1, 10**12), min_size=1, max_size=8))
def test_shares_sum_to_the_whole(value: int, parts: list[int]) -> None:
    """Each part is taken from what is left; the last takes all, and flat costs exactly 0."""
    left, quantity = from_int(value), sum(parts)
    total = 0
    for part in parts:
        high, low, overflow = units.share_128(*left, part, quantity)
        assert overflow == 0
        total += to_int(high, low)
        *left_words, overflow = units.sub_128(*left, high, low)
        assert overflow == 0
        left = (left_words[0], left_words[1])
        quantity -= part
    assert left == (0, 0)
    assert total == value


@settings(max_examples=400)
@given(int128s, int64s, quantities)
@example(INT128_MIN, INT64_MIN, INT64_MAX)
@example(INT128_MIN, INT64_MAX, INT64_MAX)
@example(1 << 126, -2, 1)
def test_ratio(value: int, num: int, den: int) -> None:
    assert agrees_128(units.ratio_128(*from_int(value), num, den), round(Fraction(value * num, den)))


@given(divisors, quantities, st.integers(-2, 2), st.sampled_from([INT128_MIN, INT128_MAX]))
def test_ratio_at_the_edge(num: int, den: int, offset: int, edge: int) -> None:
    """Values whose result falls next to the last integer that fits."""
    value = edge * den // num + offset
    assume(INT128_MIN <= value <= INT128_MAX)
    assert agrees_128(units.ratio_128(*from_int(value), num, den), round(Fraction(value * num, den)))


@given(int64s, int64s, digit_counts)
def test_value(qty: int, price: int, digits: int) -> None:
    assert agrees_128(units.value_128(qty, price, digits), qty * price * 10**digits)


@settings(max_examples=400)
@given(int64s, divisors, digit_counts)
@example(INT64_MIN, INT64_MIN, 36)
@example(INT64_MIN, -1, 18)
def test_inverse_value(qty: int, price: int, digits: int) -> None:
    assert agrees_128(units.inverse_value_128(qty, price, digits), round(Fraction(qty * 10**digits, price)))


def mixed(x: int) -> int:
    mask = (1 << 64) - 1
    x &= mask
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
    x ^= x >> 31
    return x - (1 << 64) if x >> 63 else x


@given(int64s)
def test_mix(x: int) -> None:
    assert units.mix_64(x) == mixed(x)


@given(st.lists(int64s, min_size=1, max_size=40), int64s, int64s, st.data())
def test_hash_sees_any_change_of_a_word(words: list[int], seed: int, other: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(words) - 1))
    assume(words[index] != other)
    array: Any = np.array(words, np.int64)
    before = units.hash_words(array, 0, len(words), seed)
    assert before == units.hash_words(array.copy(), 0, len(words), seed)
    array[index] = other
    assert units.hash_words(array, 0, len(words), seed) != before


# --- text -----------------------------------------------------------------------------------------------------------------


@given(near(0, INT64_MIN, INT64_MAX, low=INT64_MIN, high=INT64_MAX), st.integers(0, 38))
def test_format_and_parse_are_inverse(raw: int, scale: int) -> None:
    text = units.format_scaled(raw, scale)
    assert units.parse_scaled(text, scale) == raw
    assert Decimal(text) == units.to_decimal(raw, scale)
    assert units.to_decimal(raw, scale).as_tuple().exponent == -scale
    assert units.digits_of(text) == (len(text.partition(".")[2]))
    assert not ("." in text and text.endswith("0"))


def sensible(text: str, scale: int, bits: int) -> int | type[ValueError]:
    """What `parse_scaled` should say of a well-formed text, by fractions."""
    exact = Fraction(Decimal(text)) * 10**scale
    if not -(1 << bits - 1) <= exact <= (1 << bits - 1) - 1:
        return units.OutOfRange
    return int(exact) if exact.denominator == 1 else units.NotExact


@settings(max_examples=400)
@given(
    st.from_regex(r"[+-]?(0{0,3}[0-9]{1,22}(\.[0-9]{0,22}0{0,3})?|\.[0-9]{1,22})([eE][+-]?0?[0-9]{1,2})?", fullmatch=True),
    st.integers(0, 38),
    st.sampled_from([64, 128]),
)
def test_parse_agrees_with_decimal(text: str, scale: int, bits: int) -> None:
    assume(text.isascii())
    expected = sensible(text, scale, bits)
    if isinstance(expected, int):
        assert units.parse_scaled(text, scale, bits) == expected
        exact = Fraction(Decimal(text))
        places = units.digits_of(text)
        assert (exact * 10**places).denominator == 1
        assert places == 0 or (exact * 10 ** (places - 1)).denominator != 1
    else:
        with pytest.raises(expected) as refusal:
            units.parse_scaled(text, scale, bits)
        assert type(refusal.value) is expected


@settings(max_examples=400)
@given(st.text(st.sampled_from("0123456789+-.eE_ ,x\u0661"), max_size=8), st.integers(0, 12))
def test_parse_of_any_text_answers_or_refuses(text: str, scale: int) -> None:
    try:
        raw = units.parse_scaled(text, scale)
    except units.InexactNumber as refusal:
        assert refusal.value == text
        return
    assert Fraction(Decimal(text)) * 10**scale == raw


@given(st.integers(), st.integers().filter(bool))
def test_python_rounding(numerator: int, denominator: int) -> None:
    exact = Fraction(numerator, denominator)
    assert units.round_half_even(numerator, denominator) == round(exact)
    up = units.round_half_up(numerator, denominator)
    assert abs(up - exact) <= Fraction(1, 2)
    if abs(up - exact) == Fraction(1, 2):
        assert abs(up) > abs(exact)
