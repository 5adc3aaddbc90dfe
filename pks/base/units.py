"""Exact integer numbers: checked 64-bit and 128-bit arithmetic for kernels, and decimal text to scaled integers and back.

Owns scaling, rounding, 128-bit multiply, divide and overflow checks, and the 64-bit mixing used for record checksums; every
room may call it, kernels and Python alike. Knows no instrument, scale table or record. May not use a float, and may not log,
wait, or keep state.

A 128-bit number is two int64 words `(hi, lo)`: value = hi * 2**64 + (lo read as unsigned). `lo` is a bit pattern, so kernels
stay in int64 throughout; a uint64 `lo` is taken as well, a float never. Where a result has an `overflow` word it is 0 or 1,
and 1 means the other words must not be used. Nothing here emits a 128-bit divide: division goes by 64-bit steps on unsigned
magnitudes. Inside, sums that are meant to wrap are uint64 or LLVM integers, because numba marks int64 arithmetic as never wrapping.
"""

# mypy: disable-error-code="no-any-return"
# Intrinsics are untyped for mypy; numba itself infers and checks every kernel.

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.errors import TypingError
from numba.extending import intrinsic as _numba_intrinsic

INT64_MIN = -(1 << 63)
INT64_MAX = (1 << 63) - 1
INT128_MIN = -(1 << 127)
INT128_MAX = (1 << 127) - 1
EXPONENT_MAX = 99  # the widest exponent accepted in text; money has 38 digits, so anything further is a mistake
SCALE_MAX = 38  # decimal places that a 128-bit integer can still carry

POWERS_OF_TEN = np.array([10**digits for digits in range(19)], dtype=np.int64)
"""int64[19]: 10**0 .. 10**18, every power of ten an int64 holds."""

Word = Any
"""A uint64 inside a kernel, which mypy cannot tell from an int."""

_I64 = ir.IntType(64)
_I128 = ir.IntType(128)
_MASK_64 = (1 << 64) - 1
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_HALF_BITS = np.uint64(32)
_HALF_MASK = np.uint64(0xFFFFFFFF)
_HALF_BASE = np.uint64(1 << 32)


# --- LLVM building blocks -------------------------------------------------------------------------------------------------


def intrinsic(typing: Callable[..., Any]) -> Any:
    """numba's decorator, untyped: its stub counts the typing context among the arguments."""
    return _numba_intrinsic(typing)


def _typed(results: Any, *arguments: Any, words: Any = types.int64) -> Any:
    """The signature of an intrinsic over 64-bit words; refuses every argument that is not an integer."""
    for argument in arguments:
        if not isinstance(argument, types.Integer):
            raise TypingError(f"exact arithmetic takes integers, not {argument}")
    return results(*[words] * len(arguments))


def _tuple(count: int, words: Any = types.int64) -> Any:
    uniform: Any = types.UniTuple
    return uniform(words, count)


def _constant(value: int, kind: Any = _I128) -> Any:
    return ir.Constant(kind, value)


def _join(builder: Any, high: Any, low: Any) -> Any:
    """The i128 of two words."""
    shifted = builder.shl(builder.zext(high, _I128), _constant(64))
    return builder.or_(shifted, builder.zext(low, _I128))


def _split(context: Any, builder: Any, signature: Any, wide: Any, *flags: Any) -> Any:
    """(high word, low word, one word for each i1 of `flags`)."""
    high = builder.trunc(builder.lshr(wide, _constant(64)), _I64)
    low = builder.trunc(wide, _I64)
    return context.make_tuple(builder, signature.return_type, [high, low, *[builder.zext(flag, _I64) for flag in flags]])


def _checked(context: Any, builder: Any, signature: Any, outcome: Any) -> Any:
    """(result, overflow) or (high, low, overflow) of an LLVM `with.overflow` pair."""
    result, overflow = builder.extract_value(outcome, 0), builder.extract_value(outcome, 1)
    if result.type == _I128:
        return _split(context, builder, signature, result, overflow)
    return context.make_tuple(builder, signature.return_type, [result, builder.zext(overflow, _I64)])


@intrinsic
def _emit_add_64(typingctx: Any, a: Any, b: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _checked(context, builder, signature, builder.sadd_with_overflow(*args))

    return _typed(_tuple(2), a, b), emit


@intrinsic
def _emit_sub_64(typingctx: Any, a: Any, b: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _checked(context, builder, signature, builder.ssub_with_overflow(*args))

    return _typed(_tuple(2), a, b), emit


@intrinsic
def _emit_mul_64_checked(typingctx: Any, a: Any, b: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _checked(context, builder, signature, builder.smul_with_overflow(*args))

    return _typed(_tuple(2), a, b), emit


@intrinsic
def _emit_add_128(typingctx: Any, ah: Any, al: Any, bh: Any, bl: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        outcome = builder.sadd_with_overflow(_join(builder, *args[:2]), _join(builder, *args[2:]))
        return _checked(context, builder, signature, outcome)

    return _typed(_tuple(3), ah, al, bh, bl), emit


@intrinsic
def _emit_sub_128(typingctx: Any, ah: Any, al: Any, bh: Any, bl: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        outcome = builder.ssub_with_overflow(_join(builder, *args[:2]), _join(builder, *args[2:]))
        return _checked(context, builder, signature, outcome)

    return _typed(_tuple(3), ah, al, bh, bl), emit


@intrinsic
def _emit_compare_128(typingctx: Any, ah: Any, al: Any, bh: Any, bl: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = _join(builder, *args[:2]), _join(builder, *args[2:])
        above = builder.zext(builder.icmp_signed(">", a, b), _I64)
        below = builder.zext(builder.icmp_signed("<", a, b), _I64)
        return builder.sub(above, below)

    return _typed(types.int64, ah, al, bh, bl), emit


@intrinsic
def _emit_fits_64(typingctx: Any, h: Any, low: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.icmp_signed("==", args[0], builder.ashr(args[1], _constant(63, _I64)))

    return _typed(types.boolean, h, low), emit


@intrinsic
def _emit_is_zero_128(typingctx: Any, h: Any, low: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.icmp_unsigned("==", builder.or_(*args), _constant(0, _I64))

    return _typed(types.boolean, h, low), emit


@intrinsic
def _emit_mul_64(typingctx: Any, a: Any, b: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = (builder.sext(arg, _I128) for arg in args)
        return _split(context, builder, signature, builder.mul(a, b))

    return _typed(_tuple(2), a, b), emit


@intrinsic
def _emit_mul_128_64(typingctx: Any, h: Any, low: Any, b: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # low is unsigned: low * b = signed(low) * b + (b * 2**64 where its top bit is set); both products fit 128 bits.
        high, low, factor = (builder.sext(arg, _I128) for arg in args)
        carried = builder.and_(builder.ashr(low, _constant(64)), factor)
        lower = builder.add(builder.mul(low, factor), builder.shl(carried, _constant(64)))
        upper = builder.add(builder.mul(high, factor), builder.ashr(lower, _constant(64)))
        kept = builder.trunc(upper, _I64)
        overflow = builder.icmp_signed("!=", builder.sext(kept, _I128), upper)
        wide = _join(builder, kept, builder.trunc(lower, _I64))
        return _split(context, builder, signature, wide, overflow)

    return _typed(_tuple(3), h, low, b), emit


@intrinsic
def _magnitude_64(typingctx: Any, a: Any) -> Any:
    """|a| as uint64; 2**63 for the int64 minimum."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        negative = builder.icmp_signed("<", args[0], _constant(0, _I64))
        return builder.select(negative, builder.sub(_constant(0, _I64), args[0]), args[0])

    return _typed(types.uint64, a), emit


@intrinsic
def _magnitude_128(typingctx: Any, h: Any, low: Any) -> Any:
    """|value| as two uint64 words; 2**127 for the minimum."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = _join(builder, *args)
        negative = builder.icmp_signed("<", wide, _constant(0))
        return _split(context, builder, signature, builder.select(negative, builder.sub(_constant(0), wide), wide))

    return _typed(_tuple(2, types.uint64), h, low), emit


@intrinsic
def _with_sign_128(typingctx: Any, h: Any, low: Any, sign: Any) -> Any:
    """(hi, lo, overflow) of an unsigned magnitude, negated where the sign bit of `sign` is set."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = _join(builder, *args[:2])
        negative = builder.icmp_signed("<", args[2], _constant(0, _I64))
        limit = builder.add(_constant(INT128_MAX), builder.zext(negative, _I128))
        value = builder.select(negative, builder.sub(_constant(0), wide), wide)
        return _split(context, builder, signature, value, builder.icmp_unsigned(">", wide, limit))

    return _typed(_tuple(3), h, low, sign), emit


@intrinsic
def _with_sign_64(typingctx: Any, magnitude: Any, sign: Any) -> Any:
    """An unsigned magnitude up to 2**63 as int64, negated where the sign bit of `sign` is set."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        negative = builder.icmp_signed("<", args[1], _constant(0, _I64))
        return builder.select(negative, builder.sub(_constant(0, _I64), args[0]), args[0])

    return _typed(types.int64, magnitude, sign), emit


@intrinsic
def _multiply_add(typingctx: Any, h: Any, low: Any, factor: Any, addend: Any) -> Any:
    """(h, low) * factor + addend over uint64; the high word is all ones where the result passes 128 bits."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        high, low, factor, addend = (builder.zext(arg, _I128) for arg in args)
        lower = builder.add(builder.mul(low, factor), addend)
        upper = builder.add(builder.mul(high, factor), builder.lshr(lower, _constant(64)))
        passed = builder.icmp_unsigned(">", upper, _constant(_MASK_64))
        kept = builder.select(passed, _constant(_MASK_64, _I64), builder.trunc(upper, _I64))
        return _split(context, builder, signature, _join(builder, kept, builder.trunc(lower, _I64)))

    return _typed(_tuple(2, types.uint64), h, low, factor, addend, words=types.uint64), emit


@intrinsic
def _divide_64(typingctx: Any, a: Any, b: Any) -> Any:
    """Unsigned (quotient, remainder) of two words; b is not 0, checked by the caller (the machine would trap)."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.make_tuple(builder, signature.return_type, [builder.udiv(*args), builder.urem(*args)])

    return _typed(_tuple(2, types.uint64), a, b, words=types.uint64), emit


@intrinsic
def _leading_zeros(typingctx: Any, a: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))

    return _typed(types.uint64, a, words=types.uint64), emit


@intrinsic
def _shift_left_wide(typingctx: Any, h: Any, low: Any, bits: Any) -> Any:
    """Two uint64 words shifted left together by 0 to 63 bits."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _split(context, builder, signature, builder.shl(_join(builder, *args[:2]), builder.zext(args[2], _I128)))

    return _typed(_tuple(2, types.uint64), h, low, bits, words=types.uint64), emit


# --- 64-bit, checked ------------------------------------------------------------------------------------------------------


@njit(cache=True, forceinline=True)
def add_64(a: int, b: int) -> tuple[int, int]:
    """(a + b, overflow) over int64."""
    return _emit_add_64(a, b)


@njit(cache=True, forceinline=True)
def sub_64(a: int, b: int) -> tuple[int, int]:
    """(a - b, overflow) over int64."""
    return _emit_sub_64(a, b)


@njit(cache=True, forceinline=True)
def mul_64_checked(a: int, b: int) -> tuple[int, int]:
    """(a * b, overflow) over int64."""
    return _emit_mul_64_checked(a, b)


@njit(cache=True, forceinline=True)
def neg_64(a: int) -> tuple[int, int]:
    """(-a, overflow) over int64; the minimum has no opposite."""
    return _emit_sub_64(0, a)


@njit(cache=True, forceinline=True)
def abs_64(a: int) -> tuple[int, int]:
    """(|a|, overflow) over int64; the built-in abs returns the minimum unchanged, still negative."""
    magnitude = _with_sign_64(_magnitude_64(a), 0)
    return magnitude, 1 if magnitude < 0 else 0


# --- 128-bit --------------------------------------------------------------------------------------------------------------


@njit(cache=True, forceinline=True)
def add_128(ah: int, al: int, bh: int, bl: int) -> tuple[int, int, int]:
    """(hi, lo, overflow) of a + b."""
    return _emit_add_128(ah, al, bh, bl)


@njit(cache=True, forceinline=True)
def sub_128(ah: int, al: int, bh: int, bl: int) -> tuple[int, int, int]:
    """(hi, lo, overflow) of a - b."""
    return _emit_sub_128(ah, al, bh, bl)


@njit(cache=True, forceinline=True)
def neg_128(h: int, low: int) -> tuple[int, int, int]:
    """(hi, lo, overflow) of the value's opposite; the minimum has none."""
    return _emit_sub_128(0, 0, h, low)


@njit(cache=True, forceinline=True)
def compare_128(ah: int, al: int, bh: int, bl: int) -> int:
    """-1, 0 or 1 as a is below, equal to or above b."""
    return _emit_compare_128(ah, al, bh, bl)


@njit(cache=True, forceinline=True)
def sign_128(h: int, low: int) -> int:
    """-1, 0 or 1."""
    return _emit_compare_128(h, low, 0, 0)


@njit(cache=True, forceinline=True)
def is_zero_128(h: int, low: int) -> bool:
    """Whether the value is 0."""
    return _emit_is_zero_128(h, low)


@njit(cache=True, forceinline=True)
def fits_64(h: int, low: int) -> bool:
    """Whether the value is an int64; its low word is then that int64."""
    return _emit_fits_64(h, low)


@njit(cache=True, forceinline=True)
def mul_64(a: int, b: int) -> tuple[int, int]:
    """(hi, lo) of a * b for int64 a and b; always fits."""
    return _emit_mul_64(a, b)


@njit(cache=True, forceinline=True)
def mul_128_64(h: int, low: int, b: int) -> tuple[int, int, int]:
    """(hi, lo, overflow) of value * b for int64 b."""
    return _emit_mul_128_64(h, low, b)


@njit(cache=True, forceinline=True)
def scale_up_128(h: int, low: int, digits: int) -> tuple[int, int, int]:
    """(hi, lo, overflow) of value * 10**digits, digits 0..36; digits outside count as overflow."""
    if digits < 0 or digits > 36:
        return 0, 0, 1
    if digits <= 18:
        return _emit_mul_128_64(h, low, POWERS_OF_TEN[digits])
    h, low, overflow = _emit_mul_128_64(h, low, POWERS_OF_TEN[digits - 18])
    if overflow:
        return h, low, overflow
    return _emit_mul_128_64(h, low, POWERS_OF_TEN[18])


# --- division -------------------------------------------------------------------------------------------------------------


@njit(cache=True)
def _divide_narrow(h: Word, low: Word, d: Word) -> tuple[Word, Word]:
    """(quotient, remainder) of two uint64 words by one, for h < d, by two digits of 32 bits.

    Source: Knuth, The Art of Computer Programming vol. 2, 4.3.1, algorithm D; Warren, Hacker's Delight, 9-4 (divlu).
    """
    bits = _leading_zeros(d)
    d = d << bits
    d_high = d >> _HALF_BITS
    d_low = d & _HALF_MASK
    h, low = _shift_left_wide(h, low, bits)
    next_digit = low >> _HALF_BITS

    first, rest = _divide_64(h, d_high)
    while first >= _HALF_BASE or first * d_low > ((rest << _HALF_BITS) | next_digit):
        first -= _ONE
        rest += d_high
        if rest >= _HALF_BASE:
            break
    h = ((h << _HALF_BITS) | next_digit) - first * d
    next_digit = low & _HALF_MASK

    second, rest = _divide_64(h, d_high)
    while second >= _HALF_BASE or second * d_low > ((rest << _HALF_BITS) | next_digit):
        second -= _ONE
        rest += d_high
        if rest >= _HALF_BASE:
            break
    h = ((h << _HALF_BITS) | next_digit) - second * d
    return (first << _HALF_BITS) + second, h >> bits


@njit(cache=True)
def _divide_wide(h: Word, low: Word, d: Word) -> tuple[Word, Word, Word]:
    """(quotient high, quotient low, remainder), all uint64, of two uint64 words by one that is not 0."""
    if h == _ZERO:
        quotient, rest = _divide_64(low, d)
        return _ZERO, quotient, rest
    upper = _ZERO
    if h >= d:
        upper, h = _divide_64(h, d)
    quotient, rest = _divide_narrow(h, low, d)
    return upper, quotient, rest


@njit(cache=True, forceinline=True)
def _rounds_up(rest: Word, d: Word, odd: Word) -> Word:
    """uint64 1 where remainder `rest` of d is past the half, or on it and the quotient is odd (low bit of `odd`)."""
    other = d - rest
    if rest > other or (rest == other and odd & _ONE == _ONE):
        return _ONE
    return _ZERO


@njit(cache=True)
def divmod_128_64(h: int, low: int, d: int) -> tuple[int, int, int]:
    """(quotient hi, quotient lo, remainder) truncated toward zero; the remainder has the dividend's sign.

    d: int64, not 0. The one quotient that does not fit (the 128-bit minimum by -1) and d = 0 are the caller's mistakes.
    """
    assert d != 0
    upper, lower = _magnitude_128(h, low)
    upper, lower, rest = _divide_wide(upper, lower, _magnitude_64(d))
    qh, ql, overflow = _with_sign_128(upper, lower, h ^ d)
    assert overflow == 0
    return qh, ql, _with_sign_64(rest, h)


@njit(cache=True)
def _div_half_even(h: int, low: int, d: int) -> tuple[int, int, int]:
    """(hi, lo, overflow) of value / d rounded half to even; d is not 0."""
    divisor = _magnitude_64(d)
    upper, lower = _magnitude_128(h, low)
    upper, lower, rest = _divide_wide(upper, lower, divisor)
    # A carry out of the low word needs the general step: quotient * 1 + the rounding.
    upper, lower = _multiply_add(upper, lower, _ONE, _rounds_up(rest, divisor, lower))
    return _with_sign_128(upper, lower, h ^ d)


@njit(cache=True)
def div_half_even_128_64(h: int, low: int, d: int) -> tuple[int, int]:
    """(hi, lo) of value / d rounded half to even.

    d: int64, not 0. The one result that does not fit (the 128-bit minimum by -1) and d = 0 are the caller's mistakes.
    """
    assert d != 0
    qh, ql, overflow = _div_half_even(h, low, d)
    assert overflow == 0
    return qh, ql


@njit(cache=True)
def _ratio(h: int, low: int, num: int, den: int) -> tuple[int, int, int]:
    """(hi, lo, overflow) of value * num / den rounded half to even; den is not 0.

    Divides first: value = q * den + r, so the result is q * num + r * num / den, both parts of one sign. The tie is broken by
    the parity of the whole sum, not of its second part.
    """
    if _emit_fits_64(h, low):
        h, low = _emit_mul_64(low, num)
        return _div_half_even(h, low, den)
    factor = _magnitude_64(num)
    divisor = _magnitude_64(den)
    upper, lower = _magnitude_128(h, low)
    upper, lower, rest = _divide_wide(upper, lower, divisor)
    rest_upper, rest_lower = _multiply_add(_ZERO, rest, factor, _ZERO)
    _, part, rest = _divide_wide(rest_upper, rest_lower, divisor)
    part += _rounds_up(rest, divisor, (lower & factor) ^ part)
    upper, lower = _multiply_add(upper, lower, factor, part)
    return _with_sign_128(upper, lower, h ^ num ^ den)


@njit(cache=True)
def share_128(h: int, low: int, taken: int, quantity: int) -> tuple[int, int, int]:
    """(hi, lo, overflow) of value * taken / quantity rounded half to even, for 0 <= taken <= quantity and quantity > 0.

    Within those bounds nothing overflows; outside them the overflow word is 1. All of the quantity takes the value itself,
    so what is left after the last part is exactly 0. Source: design.md section 3.
    """
    if taken < 0 or taken > quantity or quantity <= 0:
        return 0, 0, 1
    if taken == quantity:
        return _emit_add_128(h, low, 0, 0)
    return _ratio(h, low, taken, quantity)


@njit(cache=True)
def ratio_128(h: int, low: int, num: int, den: int) -> tuple[int, int, int]:
    """(hi, lo, overflow) of value * num / den rounded half to even, for int64 num of any sign and den > 0.

    Exact whenever the result fits, whatever the intermediate product; den <= 0 counts as overflow.
    """
    if den <= 0:
        return 0, 0, 1
    return _ratio(h, low, num, den)


@njit(cache=True)
def value_128(qty_raw: int, price_raw: int, digits: int) -> tuple[int, int, int]:
    """(hi, lo, overflow) of qty_raw * price_raw * 10**digits, digits 0..36 (money_scale - qty_scale - price_scale)."""
    h, low = _emit_mul_64(qty_raw, price_raw)
    if digits == 0:
        return h, low, 0
    return scale_up_128(h, low, digits)


@njit(cache=True)
def inverse_value_128(qty_raw: int, price_raw: int, digits: int) -> tuple[int, int, int]:
    """(hi, lo, overflow) of qty_raw * 10**digits / price_raw rounded half to even, digits 0..36.

    The value of an inverse contract: digits = money_scale + price_scale - qty_scale. Exact whenever the result fits; a price
    of 0 and digits outside count as overflow.
    """
    if price_raw == 0 or digits < 0 or digits > 36:
        return 0, 0, 1
    if digits <= 18:
        h, low = _emit_mul_64(qty_raw, POWERS_OF_TEN[digits])
        return _div_half_even(h, low, price_raw)
    h, low = _emit_mul_64(qty_raw, POWERS_OF_TEN[digits - 18])
    return _ratio(h, low, POWERS_OF_TEN[18], price_raw)


# --- mixing ---------------------------------------------------------------------------------------------------------------

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MIX_SHIFT_1, _MIX_SHIFT_2, _MIX_SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_LANE_FACTOR = np.uint64(0x9E3779B185EBCA87)
_LENGTH_FACTOR = np.uint64(0xC2B2AE3D27D4EB4F)
# Where each lane starts, and made odd what it is multiplied by when the lanes meet: the fraction of pi, so none are alike.
_LANE_0 = np.uint64(0x243F6A8885A308D3)
_LANE_1 = np.uint64(0x13198A2E03707345)
_LANE_2 = np.uint64(0xA4093822299F31D1)
_LANE_3 = np.uint64(0x082EFA98EC4E6C89)
_LANE_4 = np.uint64(0x452821E638D01377)
_LANE_5 = np.uint64(0xBE5466CF34E90C6D)
_LANE_6 = np.uint64(0xC0AC29B7C97C50DD)
_LANE_7 = np.uint64(0x3F84D5B5B5470917)


@intrinsic
def _absorb(typingctx: Any, lane: Any, word: Any) -> Any:
    """(lane ^ word) * _LANE_FACTOR modulo 2**64 - 1, over uint64.

    Modulo 2**64 - 1 a changed bit moves the product by a rotation of the factor, so no bit is weak; modulo 2**64 the top bit
    would pass through alone, and one flip in the next word would hide it. The factor shares no divisor with 2**64 - 1, and the
    two zeros 0 and 2**64 - 1 stay apart, so the step is one-to-one.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        mixed = builder.zext(builder.xor(*args), _I128)
        product = builder.mul(mixed, _constant(int(_LANE_FACTOR)))
        low, high = builder.trunc(product, _I64), builder.trunc(builder.lshr(product, _constant(64)), _I64)
        outcome = builder.uadd_with_overflow(low, high)
        return builder.add(builder.extract_value(outcome, 0), builder.zext(builder.extract_value(outcome, 1), _I64))

    return _typed(types.uint64, lane, word, words=types.uint64), emit


@intrinsic
def _address_of(typingctx: Any, array: Any) -> Any:
    """(address of element 0, stride in bytes) of a one-dimensional array of 64-bit integers.

    Reading through it spares `hash_words` the atomic reference counting and the negative indexes of numba arrays.
    """
    if not (isinstance(array, types.Array) and array.ndim == 1 and array.dtype in (types.int64, types.uint64)):
        raise TypingError(f"words are a one-dimensional array of 64-bit integers, not {array}")

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, args[0])
        contiguous = signature.args[0].layout in "CF"
        stride = _constant(8, _I64) if contiguous else builder.extract_value(view.strides, 0)
        return context.make_tuple(builder, signature.return_type, [builder.ptrtoint(view.data, _I64), stride])

    return _tuple(2)(array), emit


@intrinsic
def _load_word(typingctx: Any, address: Any, index: Any, stride: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        at = builder.add(args[0], builder.mul(args[1], args[2]))
        return builder.load(builder.inttoptr(at, _I64.as_pointer()), align=1)

    return types.uint64(types.int64, types.int64, types.int64), emit


@njit(cache=True, forceinline=True)
def _finish(x: Word) -> Word:
    x = (x ^ (x >> _MIX_SHIFT_1)) * _MIX_1
    x = (x ^ (x >> _MIX_SHIFT_2)) * _MIX_2
    return x ^ (x >> _MIX_SHIFT_3)


@njit(cache=True, forceinline=True)
def mix_64(x: int) -> int:
    """A one-to-one scramble of int64: each input bit moves each output bit about half the time; 0 stays 0.

    Source: Stafford's variant 13 of the MurmurHash3 finaliser (the output step of SplitMix64).
    """
    return _with_sign_64(_finish(np.uint64(_with_sign_64(x, 0))), 0)


@njit(cache=True)
def hash_words(array: np.ndarray[Any, Any], start: int, stop: int, seed: int) -> int:
    """A 64-bit checksum, as int64, of the words array[start:stop] under `seed`: order and number of the words count.

    array: int64[words]; 0 <= start <= stop <= words. Every step is one-to-one in the lane and in the word, so a change
    inside a single word always changes the result; wider damage escapes about once in 2**64. Not for keyed or hostile use.
    """
    base = np.uint64(_with_sign_64(seed, 0)) ^ (np.uint64(stop - start) * _LENGTH_FACTOR)
    l0, l1, l2, l3 = base ^ _LANE_0, base ^ _LANE_1, base ^ _LANE_2, base ^ _LANE_3
    l4, l5, l6, l7 = base ^ _LANE_4, base ^ _LANE_5, base ^ _LANE_6, base ^ _LANE_7
    address, stride = _address_of(array)
    at = start
    while at + 8 <= stop:
        l0 = _absorb(l0, _load_word(address, at, stride))
        l1 = _absorb(l1, _load_word(address, at + 1, stride))
        l2 = _absorb(l2, _load_word(address, at + 2, stride))
        l3 = _absorb(l3, _load_word(address, at + 3, stride))
        l4 = _absorb(l4, _load_word(address, at + 4, stride))
        l5 = _absorb(l5, _load_word(address, at + 5, stride))
        l6 = _absorb(l6, _load_word(address, at + 6, stride))
        l7 = _absorb(l7, _load_word(address, at + 7, stride))
        at += 8
    if at + 4 <= stop:
        l0 = _absorb(l0, _load_word(address, at, stride))
        l1 = _absorb(l1, _load_word(address, at + 1, stride))
        l2 = _absorb(l2, _load_word(address, at + 2, stride))
        l3 = _absorb(l3, _load_word(address, at + 3, stride))
        at += 4
    if at < stop:
        l4 = _absorb(l4, _load_word(address, at, stride))
    if at + 1 < stop:
        l5 = _absorb(l5, _load_word(address, at + 1, stride))
    if at + 2 < stop:
        l6 = _absorb(l6, _load_word(address, at + 2, stride))
    even = l0 * _LANE_0 + l2 * _LANE_2 + l4 * _LANE_4 + l6 * _LANE_6
    odd = l1 * _LANE_1 + l3 * _LANE_3 + l5 * _LANE_5 + l7 * _LANE_7
    return _with_sign_64(_finish(even + odd), 0)


# --- Python integers and text ---------------------------------------------------------------------------------------------


class InexactNumber(ValueError):
    """A number cannot be taken as given. `value` is what was offered, `reason` why not."""

    def __init__(self, value: object, reason: str) -> None:
        shown = repr(value)
        super().__init__(f"{shown if len(shown) <= 80 else shown[:77] + '...'}: {reason}")
        self.value, self.reason = value, reason


class NotANumber(InexactNumber):
    """The text is not a plain decimal number."""


class NotExact(InexactNumber):
    """The number has more decimal places than the scale holds."""


class OutOfRange(InexactNumber):
    """The number does not fit the integer at this scale."""


class Overflow(InexactNumber):
    """The integer does not fit 128 bits."""


_TENS = tuple(10**digits for digits in range(SCALE_MAX + 1))
_PLAIN = re.compile(r"([+-]?)(?=[0-9.])([0-9]*)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]+))?", re.ASCII)


def to_int(hi: int, lo: int) -> int:
    """The Python integer of two words; `lo` may be signed or unsigned."""
    return (int(hi) << 64) | (int(lo) & _MASK_64)


def from_int(value: int) -> tuple[int, int]:
    """(hi, lo), both int64, of a Python integer; Overflow where it does not fit 128 bits."""
    if not INT128_MIN <= value <= INT128_MAX:
        raise Overflow(value, "does not fit 128 bits")
    low = value & _MASK_64
    return value >> 64, low - (1 << 64) if low > INT64_MAX else low


def _read_plain(text: str) -> tuple[bool, str, int]:
    """(negative, digits, exponent) with value = digits * 10**exponent; digits has no zeros at its ends, and is "" for 0."""
    if not text or text.isspace():
        raise NotANumber(text, "blank")
    match = _PLAIN.fullmatch(text)
    if match is None:
        raise NotANumber(text, "not a plain decimal number")
    sign, whole, fraction, exponent_text = match.groups(default="")
    if not whole and not fraction:
        raise NotANumber(text, "has no digits")
    # Measured by its digits before int(), so that an absurd exponent costs nothing.
    exponent_digits = exponent_text.lstrip("+-").lstrip("0")
    if len(exponent_digits) > len(str(EXPONENT_MAX)):
        raise OutOfRange(text, f"exponent beyond {EXPONENT_MAX}")
    exponent = int(exponent_digits or "0")
    if exponent_text.startswith("-"):
        exponent = -exponent
    digits = (whole + fraction).lstrip("0")
    kept = digits.rstrip("0")
    return sign == "-", kept, exponent - len(fraction) + len(digits) - len(kept)


def _parse_slow(text: str, scale: int, bits: int) -> int:
    """`parse_scaled` for every text the fast path does not settle, and for all refusals."""
    negative, digits, exponent = _read_plain(text)
    if not digits:
        return 0
    limit = (1 << (bits - 1)) - (0 if negative else 1)
    shift = exponent + scale
    whole_digits_count = len(digits) + shift
    if whole_digits_count > len(str(limit)):
        raise OutOfRange(text, f"does not fit {bits} bits at scale {scale}")
    whole = int(digits[: max(whole_digits_count, 0)] or "0") * 10 ** max(shift, 0)
    if whole > limit or (whole == limit and shift < 0):
        raise OutOfRange(text, f"does not fit {bits} bits at scale {scale}")
    if shift < 0:
        raise NotExact(text, f"needs {-exponent} decimal places, the scale has {scale}")
    return -whole if negative else whole


def parse_scaled(text: str, scale: int, bits: int = 64) -> int:
    """The integer text * 10**scale, exactly.

    text: a plain ASCII decimal such as -12.50, +1, .5 or 1e-3, without blanks or separators. scale: 0..38. bits: 64, or 128
    for money. Raises NotANumber, OutOfRange (beyond the integer, or an exponent beyond 99), NotExact (more places than the
    scale after trailing zeros); a number that is both too large and too fine is OutOfRange.
    """
    assert 0 <= scale <= SCALE_MAX
    if text.isascii():
        whole, _, fraction = text.partition(".")
        if len(fraction) > scale:
            fraction = fraction.rstrip("0")
        spare = scale - len(fraction)
        if spare >= 0 and len(whole) < 40:
            digits = whole + fraction
            if digits.isdigit() or (digits[:1] in ("-", "+") and whole and digits[1:].isdigit()):
                raw = int(digits) * _TENS[spare]
                if INT64_MIN <= raw <= INT64_MAX:
                    return raw
    return _parse_slow(text, scale, bits)


def digits_of(text: str) -> int:
    """The decimal places a plain decimal needs once trailing zeros are gone ("1.50" 1, "1e-3" 3, "100" 0); raises as `parse_scaled`."""
    _, digits, exponent = _read_plain(text)
    return max(-exponent, 0) if digits else 0


def to_decimal(raw: int, scale: int) -> Decimal:
    """raw / 10**scale as a Decimal with `scale` places, exact under any decimal context."""
    return Decimal(f"{int(raw)}E{-scale}")


def format_scaled(raw: int, scale: int) -> str:
    """raw / 10**scale in plain notation without trailing zeros: "101.25", "0", "-0.5"."""
    digits = str(raw)
    if scale == 0 or digits == "0":
        return digits
    sign = ""
    if digits[0] == "-":
        sign, digits = "-", digits[1:]
    if len(digits) <= scale:
        digits = digits.zfill(scale + 1)
    fraction = digits[-scale:].rstrip("0")
    whole = sign + digits[:-scale]
    return f"{whole}.{fraction}" if fraction else whole


def round_half_even(numerator: int, denominator: int) -> int:
    """numerator / denominator to the nearest integer, halves to the even one; ZeroDivisionError for a denominator of 0."""
    if denominator < 0:
        numerator, denominator = -numerator, -denominator
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    return quotient + (twice > denominator or (twice == denominator and quotient & 1))


def round_half_up(numerator: int, denominator: int) -> int:
    """numerator / denominator to the nearest integer, halves away from zero (HALF_UP); ZeroDivisionError for a denominator of 0."""
    negative = (numerator < 0) != (denominator < 0)
    divisor = abs(denominator)
    magnitude = (2 * abs(numerator) + divisor) // (2 * divisor)
    return -magnitude if negative else magnitude
