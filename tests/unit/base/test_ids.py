"""Keys of events: kept values, and that different inputs give different keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pks.base.errors import Code, Refused
from pks.base.ids import discriminator_of, key_of
from pks.base.limits import NAME_BYTES_MAX, TRADE_ID_BYTES_MAX

INPUT = st.tuples(st.text("ab|\0", max_size=4), st.text("ab|\0", max_size=4), st.integers(0, 2))
PARTS = st.tuples(
    st.none() | st.text("ab\0", max_size=3),
    st.none() | st.text("ab\0", max_size=3),
    st.none() | st.integers(-1, 1),
    st.none() | st.integers(-2, 2),
)


# Computed from the description in `ids` by a second program, once. They are in journals for ever.
KEPT_KEYS = [
    (-8789691871865820550, 5164791193991687745),
    (6539082057817841787, 1327630542201934831),
    (5783784820662413261, -2679984884971679373),
]
KEPT_DISCRIMINATORS = [1463652580, 1124185045]


def test_kept_values_are_those_in_journals() -> None:
    assert key_of("EXCHANGE", "T0001", 0) == KEPT_KEYS[0]
    assert key_of("EXCHANGE", "T0001", 1) == KEPT_KEYS[1]
    assert key_of("", "", 0) == KEPT_KEYS[2]
    assert discriminator_of("NSD-RU-01", "SBER.MOEX", 1, 20161) == KEPT_DISCRIMINATORS[0]
    assert discriminator_of(date=20161) == KEPT_DISCRIMINATORS[1]


@given(INPUT, INPUT)
def test_keys_are_equal_only_for_equal_inputs(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    assert (key_of(*one) == key_of(*other)) is (one == other)


@given(st.text(max_size=16), st.text(max_size=64), st.integers(0, 0xFFFF_FFFF))
def test_words_are_signed_64_bits_and_text_is_its_utf8(source: str, external_id: str, leg: int) -> None:
    hi, lo = key_of(source, external_id, leg)
    assert -(1 << 63) <= hi < 1 << 63
    assert -(1 << 63) <= lo < 1 << 63
    assert (hi, lo) != (0, 0)
    assert key_of(source, external_id.encode(), leg) == (hi, lo)


@pytest.mark.parametrize(
    ("source", "external_id", "leg", "code", "field"),
    [
        ("S", "x" * (TRADE_ID_BYTES_MAX + 1), 0, Code.BAD_TEXT, "trade_id"),
        ("S", "\u044f" * (TRADE_ID_BYTES_MAX // 2 + 1), 0, Code.BAD_TEXT, "trade_id"),
        ("S" * (NAME_BYTES_MAX + 1), "x", 0, Code.BAD_TEXT, "source"),
        ("S", "\ud800", 0, Code.BAD_ENCODING, "trade_id"),
        ("S", "x", -1, Code.OUT_OF_RANGE, "leg"),
        ("S", "x", 1 << 32, Code.OUT_OF_RANGE, "leg"),
    ],
)
def test_bad_input_is_refused_by_name(source: str, external_id: str, leg: int, code: Code, field: str) -> None:
    with pytest.raises(Refused) as caught:
        key_of(source, external_id, leg)
    assert (caught.value.code, caught.value.field) == (code, field)


def test_limits_are_inclusive() -> None:
    assert key_of("S" * NAME_BYTES_MAX, "x" * TRADE_ID_BYTES_MAX, 0xFFFF_FFFF) != (0, 0)


@given(PARTS, PARTS)
def test_discriminators_are_equal_only_for_equal_parts(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    # 32 bits may meet by chance: once in four billion pairs.
    assert (discriminator_of(*one) == discriminator_of(*other)) is (one == other)  # type: ignore[arg-type]


def test_no_parts_is_zero_and_nothing_else_is() -> None:
    assert discriminator_of() == 0
    assert all(0 < discriminator_of(date=day) < 1 << 32 for day in range(2000))
