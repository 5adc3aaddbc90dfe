"""Fixed cases of `pks.base.units`: the extremes, what text is refused and why, and what the compiler made of the kernels."""

from __future__ import annotations

import math
import re
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from pks.base import units
from pks.base.units import INT64_MAX, INT64_MIN, INT128_MAX, INT128_MIN

KERNELS: dict[str, int] = {  # name: number of int64 arguments
    "add_64": 2,
    "sub_64": 2,
    "mul_64_checked": 2,
    "neg_64": 1,
    "abs_64": 1,
    "add_128": 4,
    "sub_128": 4,
    "neg_128": 2,
    "compare_128": 4,
    "sign_128": 2,
    "is_zero_128": 2,
    "fits_64": 2,
    "mul_64": 2,
    "mul_128_64": 3,
    "scale_up_128": 3,
    "divmod_128_64": 3,
    "div_half_even_128_64": 3,
    "share_128": 4,
    "ratio_128": 4,
    "value_128": 3,
    "inverse_value_128": 3,
    "mix_64": 1,
}


def compiled(name: str) -> Any:
    kernel = getattr(units, name)
    kernel(*[1] * KERNELS[name])
    return kernel


def words_of(*values: int) -> list[int]:
    return [word for value in values for word in units.from_int(value)]


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_to_integers_without_library_calls(name: str) -> None:
    cached = compiled(name)
    kernel = njit(cached.py_func)  # numba cannot inspect code that it loaded from its cache
    for signature in cached.signatures:
        kernel.compile(signature)
    for signature in kernel.signatures:
        bitcode = kernel.inspect_llvm(signature)
        assert re.search(r"\b(double|float|half)\b", bitcode) is None, "a uint64 met an int64 and became a float"
        assert re.search(r"\b[su](div|rem) i128\b", bitcode) is None
        assembly = kernel.inspect_asm(signature)
        assert re.search(r"__\w*ti\d\b|__mulo\w+", assembly) is None, "128-bit arithmetic went to a run-time routine"


@pytest.mark.parametrize("name", ["add_128", "sub_128", "mul_64", "mul_128_64", "compare_128", "fits_64"])
def test_small_kernels_vanish_into_their_caller(name: str) -> None:
    count = KERNELS[name]
    kernel = compiled(name)
    arguments = ", ".join(f"a{index}" for index in range(count))
    scope: dict[str, Any] = {"kernel": kernel}
    exec(f"def caller({arguments}):\n    return kernel({arguments})", scope)
    caller = njit(scope["caller"])
    caller(*[1] * count)
    assembly = caller.inspect_asm(caller.signatures[0])
    body = re.search(r"^_ZN\S*caller\S*:\n(.*?)^\.Lfunc_end", assembly, re.M | re.S)
    assert body is not None
    assert re.search(r"^\s+(ret|retq)$", body[1], re.M) is not None, "the whole function was read"
    assert re.search(r"^\s+(call|callq|bl|blr)\b", body[1], re.M) is None


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_refuse_floats(name: str) -> None:
    kernel = compiled(name)
    for position in range(KERNELS[name]):
        arguments: list[Any] = [1] * KERNELS[name]
        arguments[position] = 1.5
        if name in {"scale_up_128", "value_128", "inverse_value_128"} and position == KERNELS[name] - 1:
            continue  # a digit count, used as an index
        with pytest.raises(TypingError):
            kernel(*arguments)


def test_an_unsigned_low_word_means_the_same_bits() -> None:
    value = -(3 << 70) - 12345
    high, low = units.from_int(value)
    unsigned = np.uint64(low & (1 << 64) - 1)
    assert units.add_128(high, unsigned, 0, 1) == (*units.from_int(value + 1), 0)
    assert units.share_128(high, unsigned, 1, 3) == units.share_128(high, low, 1, 3)
    assert units.divmod_128_64(high, unsigned, 7) == units.divmod_128_64(high, low, 7)
    assert units.to_int(high, int(unsigned)) == value


@pytest.mark.parametrize(
    ("kernel", "arguments", "expected"),
    [
        (units.add_64, (INT64_MAX, 1), (INT64_MIN, 1)),
        (units.sub_64, (INT64_MIN, 1), (INT64_MAX, 1)),
        (units.mul_64_checked, (INT64_MIN, -1), (INT64_MIN, 1)),
        (units.mul_64_checked, (-(1 << 31), 1 << 32), (INT64_MIN, 0)),
        (units.neg_64, (INT64_MIN,), (INT64_MIN, 1)),
        (units.abs_64, (INT64_MIN,), (INT64_MIN, 1)),
        (units.abs_64, (-INT64_MAX,), (INT64_MAX, 0)),
        (units.add_128, (*words_of(INT128_MAX, 1),), (*words_of(INT128_MIN), 1)),
        (units.sub_128, (*words_of(INT128_MIN, 1),), (*words_of(INT128_MAX), 1)),
        (units.neg_128, (*words_of(INT128_MIN),), (*words_of(INT128_MIN), 1)),
        (units.mul_64, (INT64_MIN, INT64_MIN), (*words_of(1 << 126),)),
        (units.mul_128_64, (*words_of(1 << 64), INT64_MIN), (*words_of(INT128_MIN), 0)),
        (units.mul_128_64, (*words_of(-(1 << 64)), INT64_MIN), (*words_of(INT128_MIN), 1)),
        (units.divmod_128_64, (*words_of(INT128_MIN), INT64_MIN), (*words_of(1 << 64), 0)),
        (units.divmod_128_64, (*words_of(-7), 2), (*words_of(-3), -1)),
        (units.divmod_128_64, (*words_of(INT128_MIN), 1), (*words_of(INT128_MIN), 0)),
        (units.div_half_even_128_64, (*words_of(5), 2), (*words_of(2),)),
        (units.div_half_even_128_64, (*words_of(-7), 2), (*words_of(-4),)),
        (units.div_half_even_128_64, (*words_of((1 << 65) - 1), 2), (*words_of(1 << 64),)),
        (units.scale_up_128, (*words_of(1), 36), (*words_of(10**36), 0)),
        (units.scale_up_128, (*words_of(0), 36), (*words_of(0), 0)),
        (units.inverse_value_128, (1, INT64_MIN, 36), (*words_of(-108420217248550443), 0)),
    ],
)
def test_extremes(kernel: Any, arguments: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert kernel(*arguments) == expected


@pytest.mark.parametrize(
    ("kernel", "arguments"),
    [
        (units.share_128, (*words_of(100), 4, 3)),
        (units.share_128, (*words_of(100), -1, 3)),
        (units.share_128, (*words_of(100), 0, 0)),
        (units.ratio_128, (*words_of(100), 1, 0)),
        (units.ratio_128, (*words_of(100), 1, -1)),
        (units.ratio_128, (*words_of(INT128_MAX), 2, 1)),
        (units.ratio_128, (*words_of(INT128_MIN), -1, 1)),
        (units.inverse_value_128, (1, 0, 5)),
        (units.inverse_value_128, (1, 1, 37)),
        (units.inverse_value_128, (1, 1, -1)),
        (units.value_128, (1, 1, 37)),
        (units.value_128, (INT64_MAX, INT64_MAX, 1)),
        (units.scale_up_128, (*words_of(1), -1)),
        (units.scale_up_128, (*words_of(1), 37)),
        (units.scale_up_128, (*words_of(INT128_MAX), 36)),
    ],
)
def test_what_cannot_be_answered_is_overflow(kernel: Any, arguments: tuple[int, ...]) -> None:
    assert kernel(*arguments)[2] == 1


def test_ratio_reaches_the_minimum() -> None:
    assert units.ratio_128(*words_of(INT128_MIN), 5, 5) == (*words_of(INT128_MIN), 0)
    assert units.ratio_128(*words_of(1 << 126), -2, 1) == (*words_of(INT128_MIN), 0)


def test_share_breaks_ties_by_the_whole_result() -> None:
    """3 * 2**70 + 3 over 2 ends on a half; its even neighbour is not the one that rounding the remainder alone would give."""
    value = (1 << 70) + 3
    assert units.share_128(*words_of(value), 1, 2) == (*words_of((1 << 69) + 2), 0)
    assert units.share_128(*words_of(-value), 1, 2) == (*words_of(-(1 << 69) - 2), 0)


@pytest.mark.parametrize("divide", [units.divmod_128_64, units.div_half_even_128_64])
def test_division_asserts_its_domain(divide: Any) -> None:
    with pytest.raises(AssertionError):
        divide(0, 1, 0)
    with pytest.raises(AssertionError):
        divide(INT64_MIN, 0, -1)


def test_powers_of_ten() -> None:
    assert units.POWERS_OF_TEN.dtype == np.int64
    assert units.POWERS_OF_TEN.tolist() == [10**digits for digits in range(19)]


# --- checksum -------------------------------------------------------------------------------------------------------------


def test_hash_step_is_one_to_one() -> None:
    """A multiplication modulo 2**64 - 1 can be undone where the factor shares no divisor with it."""
    assert math.gcd(int(units._LANE_FACTOR), (1 << 64) - 1) == 1
    assert all(int(getattr(units, f"_LANE_{lane}")) % 2 == 1 for lane in range(8))


def test_hash_sees_every_bit_and_every_swap() -> None:
    random = np.random.default_rng(20240601)
    record = random.integers(INT64_MIN, INT64_MAX, 32, dtype=np.int64)
    seen = {units.hash_words(record, 0, 31, 7)}
    for word in range(31):
        for bit in range(64):
            record[word] ^= np.int64(INT64_MIN) if bit == 63 else np.int64(1 << bit)
            seen.add(units.hash_words(record, 0, 31, 7))
            record[word] ^= np.int64(INT64_MIN) if bit == 63 else np.int64(1 << bit)
    assert len(seen) == 1 + 31 * 64
    for left in range(31):
        for right in range(left + 1, 31):
            record[[left, right]] = record[[right, left]]
            seen.add(units.hash_words(record, 0, 31, 7))
            record[[left, right]] = record[[right, left]]
    assert len(seen) == 1 + 31 * 64 + 31 * 30 // 2


def test_hash_tells_apart_nearly_empty_records() -> None:
    """Zero records with one or two single bits set, at every length and two seeds: the poorest input there is."""
    seen: set[int] = set()
    count = 0
    for length in range(32):
        for seed in (0, 1):
            seen.add(units.hash_words(np.zeros(32, np.int64), 0, length, seed))
            count += 1
    record = np.zeros(31, np.int64)
    for first in range(31):
        for bit in (0, 1, 31, 34, 62, 63):
            for second in range(first + 1, 31):
                record[first] = record[second] = np.int64(INT64_MIN) if bit == 63 else np.int64(1 << bit)
                seen.add(units.hash_words(record, 0, 31, 0))
                count += 1
                record[first] = record[second] = 0
    assert len(seen) == count


def test_hash_spreads_a_bit_over_half_the_result() -> None:
    random = np.random.default_rng(5)
    flips = np.zeros(64, np.int64)
    trials = 0
    for _ in range(40):
        record = random.integers(INT64_MIN, INT64_MAX, 31, dtype=np.int64)
        before = units.hash_words(record, 0, 31, 0)
        for word in range(31):
            changed = record.copy()
            changed[word] ^= np.int64(1 << int(random.integers(0, 62)))
            difference = (units.hash_words(changed, 0, 31, 0) ^ before) & (1 << 64) - 1
            flips += [difference >> bit & 1 for bit in range(64)]
            trials += 1
    assert np.all(np.abs(flips / trials - 0.5) < 0.08)  # five standard deviations of 1240 fair coins are 0.071


def test_hash_reads_strides_and_offsets_alike() -> None:
    words = np.arange(-40, 40, dtype=np.int64)
    spaced = np.zeros(160, np.int64)
    spaced[::2] = words
    for start, stop in ((0, 0), (3, 4), (3, 10), (1, 32), (5, 80)):
        expected = units.hash_words(words[start:stop].copy(), 0, stop - start, 9)
        assert units.hash_words(words, start, stop, 9) == expected
        assert units.hash_words(spaced[::2], start, stop, 9) == expected
        assert units.hash_words(words.view(np.uint64), start, stop, 9) == expected


def test_hash_is_the_recorded_one() -> None:
    """Journals keep these checksums: a change of the function is a change of format."""
    assert units.hash_words(np.arange(32, dtype=np.int64), 1, 32, 0) == 3557562297461605357
    assert units.mix_64(1) == 0x5692161D100B05E5  # first step of Stafford's variant 13 on 1


def test_hash_refuses_other_arrays() -> None:
    with pytest.raises(TypingError):
        units.hash_words(np.zeros(8, np.float64), 0, 8, 0)
    with pytest.raises(TypingError):
        units.hash_words(np.zeros((2, 8), np.int64), 0, 8, 0)


# --- text -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "scale", "raw"),
    [
        ("-12.50", 2, -1250),
        ("+1", 0, 1),
        (".5", 1, 5),
        ("-.5", 1, -5),
        ("5.", 2, 500),
        ("1e-3", 3, 1),
        ("1.5E+2", 0, 150),
        ("25e-1", 1, 25),
        ("-0", 5, 0),
        ("0e99", 0, 0),
        ("1.2500", 2, 125),
        ("100.000", 0, 100),
        ("0.000", 0, 0),
        ("007", 1, 70),
        ("0" * 100 + "7." + "0" * 100, 1, 70),
        ("0." + "0" * 60 + "1e60", 2, 10),
        ("9223372036854775807", 0, INT64_MAX),
        ("-9223372036854775808", 0, INT64_MIN),
        ("-9.223372036854775808", 18, INT64_MIN),
        ("1" + "0" * 30 + "e-30", 0, 1),
    ],
)
def test_parse(text: str, scale: int, raw: int) -> None:
    assert units.parse_scaled(text, scale) == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        " 1",
        "1 ",
        "1\n",
        "nan",
        "NaN",
        "inf",
        "-Infinity",
        "1_000",
        "1,000",
        "1.2.3",
        "--1",
        "+-1",
        "-",
        "+",
        ".",
        "-.",
        ".-5",
        "1.-5",
        "1.+5",
        "e5",
        ".e5",
        "1e",
        "1e+",
        "1e1.5",
        "0x10",
        "1d5",
        "\u0661\u0662",
        "1\u00b2",
        "\uff11",
        "\u22121",
        "1\x00",
        "1/2",
        "$1",
        "(1)",
    ],
)
def test_parse_refuses_what_is_no_number(text: str) -> None:
    for read in (lambda: units.parse_scaled(text, 4), lambda: units.digits_of(text)):
        with pytest.raises(units.NotANumber) as refusal:
            read()
        assert refusal.value.value == text
        assert refusal.value.reason
        assert isinstance(refusal.value, ValueError)


@pytest.mark.parametrize(
    ("text", "scale"), [("0.001", 2), ("1.5", 0), ("1e-19", 18), ("-1.2345", 3), ("0." + "1" * 5000, 10), ("1e-99", 30)]
)
def test_parse_refuses_what_the_scale_cannot_hold(text: str, scale: int) -> None:
    with pytest.raises(units.NotExact) as refusal:
        units.parse_scaled(text, scale)
    assert (refusal.value.value, "decimal places" in refusal.value.reason) == (text, True)


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        ("9223372036854775808", 0),
        ("-9223372036854775809", 0),
        ("9223372036854775807.5", 0),
        ("-9223372036854775808.1", 0),
        ("10", 18),
        ("1e19", 0),
        ("1e100", 0),
        ("1e-100", 0),
        ("0e999999999999999999999", 0),
        ("1" * 50, 0),
        ("9" * 6000, 0),
        ("9" * 6000 + ".5", 0),
        ("1e" + "9" * 6000, 0),
    ],
)
def test_parse_refuses_what_does_not_fit(text: str, scale: int) -> None:
    with pytest.raises(units.OutOfRange) as refusal:
        units.parse_scaled(text, scale)
    assert refusal.value.value == text
    assert len(str(refusal.value)) < 200, "an error does not repeat a text of any length"


def test_parse_to_128_bits() -> None:
    assert units.parse_scaled(str(INT128_MAX), 0, bits=128) == INT128_MAX
    assert units.parse_scaled(str(INT128_MIN), 0, bits=128) == INT128_MIN
    assert units.parse_scaled("12345678901234567890.5", 18, bits=128) == 12345678901234567890500000000000000000
    with pytest.raises(units.OutOfRange):
        units.parse_scaled(str(INT128_MAX + 1), 0, bits=128)


@pytest.mark.parametrize(
    ("text", "digits"), [("1.50", 1), ("1e-3", 3), ("100", 0), ("1e3", 0), ("0.000", 0), ("12.5e-2", 3), ("1200e-3", 1)]
)
def test_digits_of(text: str, digits: int) -> None:
    assert units.digits_of(text) == digits


@pytest.mark.parametrize(
    ("raw", "scale", "text"),
    [
        (1012500, 4, "101.25"),
        (0, 4, "0"),
        (-5, 1, "-0.5"),
        (5, 3, "0.005"),
        (-1500, 3, "-1.5"),
        (100, 0, "100"),
        (100, 2, "1"),
        (INT64_MIN, 18, "-9.223372036854775808"),
    ],
)
def test_format(raw: int, scale: int, text: str) -> None:
    assert units.format_scaled(raw, scale) == text
    assert units.format_scaled(np.int64(raw), scale) == text  # type: ignore[arg-type]


def test_decimal_is_exact_in_any_context() -> None:
    with localcontext(Context(prec=3, Emax=5, Emin=-5)):
        assert str(units.to_decimal(INT128_MIN, 18)) == "-170141183460469231731.687303715884105728"
    assert units.to_decimal(-1250, 2) == Decimal("-12.50")
    assert units.to_decimal(7, 0) == 7


def test_words_of_python_integers() -> None:
    assert units.from_int(-1) == (-1, -1)
    assert units.from_int(1 << 63) == (0, INT64_MIN)
    for value in (INT128_MIN - 1, INT128_MAX + 1):
        with pytest.raises(units.Overflow) as refusal:
            units.from_int(value)
        assert refusal.value.value == value


@pytest.mark.parametrize(
    ("numerator", "denominator", "even", "up"),
    [
        (5, 2, 2, 3),
        (7, 2, 4, 4),
        (-5, 2, -2, -3),
        (5, -2, -2, -3),
        (-5, -2, 2, 3),
        (1, 3, 0, 0),
        (-2, 3, -1, -1),
        (0, -4, 0, 0),
        (-1, 2, 0, -1),
    ],
)
def test_rounding(numerator: int, denominator: int, even: int, up: int) -> None:
    assert units.round_half_even(numerator, denominator) == even
    assert units.round_half_up(numerator, denominator) == up
    assert int((Decimal(numerator) / denominator).quantize(Decimal(1), ROUND_HALF_UP)) == up


@pytest.mark.parametrize("rounding", [units.round_half_even, units.round_half_up])
def test_rounding_by_zero(rounding: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        rounding(1, 0)
