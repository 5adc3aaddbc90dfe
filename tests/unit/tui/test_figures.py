"""How numbers look."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pks.tui.figures import NOTHING, ROUNDED, age, cut, figure, moment, money, nanoseconds, rounded, sign

NOW_NS = 1_742_000_000_000_000_000  # 2025-03-15T00:53:20Z


@pytest.mark.parametrize(
    ("value", "width", "places", "text"),
    [
        ("0", 10, 0, "0"),
        ("0", 10, 2, "0.00"),
        ("-0.5", 10, 0, "-0.5"),
        ("1234567.890", 14, 0, "1,234,567.89"),
        ("1234567.891234", 12, 0, "~1,234,567.9"),
        ("1234567.891234", 10, 0, "~1,234,568"),
        ("-1234567.891234", 11, 0, "~-1,234,568"),
        ("123456789012", 10, 0, "~1.2346e11"),
        ("0.000000125", 12, 2, "0.000000125"),
        ("0.000000125", 10, 2, "~0.0000001"),
        ("99999.995", 9, 2, "~100,000"),
    ],
)
def test_a_figure_is_whole_or_marked(value: str, width: int, places: int, text: str) -> None:
    assert figure(Decimal(value), width, places) == text


def test_no_figure_is_a_dot() -> None:
    assert figure(None, 5) == NOTHING


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12, min_value=-(10**30), max_value=10**30), st.integers(9, 40))
def test_a_figure_fits_and_without_a_mark_it_is_the_value(value: Decimal, width: int) -> None:
    text = figure(value, width)
    assert len(text) <= width
    if not text.startswith(ROUNDED):
        assert Decimal(text.replace(",", "")) == value
    else:
        shown = Decimal(text.removeprefix(ROUNDED).replace(",", ""))
        assert abs(shown - value) <= max(abs(value) / 2, Decimal("0.5")), "a cut figure is still near"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0.00"),
        ("1250.5", "1,250.50"),
        ("1250.505", "~1,250.50"),
        ("-1250.515", "~-1,250.52"),
        ("99.12345678", "99.12345678"),
        ("0.000000001", "~0.00"),
        ("0.033555557851", "~0.03355556"),
    ],
)
def test_money_has_two_places_from_a_hundred_on(value: str, text: str) -> None:
    assert money(Decimal(value), 14) == text


def test_cut_rounds_half_even() -> None:
    assert [cut(Decimal(text), 1) for text in ("0.25", "0.35", "1")] == [Decimal("0.2"), Decimal("0.4"), Decimal(1)]


def test_a_roll_up_is_rounded_and_fits() -> None:
    assert rounded(Fraction(1, 3)) == "0.33"
    assert rounded(Fraction(-25_000_005, 1000)) == "-25,000.00"
    assert rounded(Fraction(-7_791_280_28, 100), width=12) == "~-7,791,280"
    assert rounded(Fraction(8_595_27, 100), 0) == "8,595"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0.0s"), (0.44, "0.4s"), (9.99, "9.9s"), (37, "37s"), (60, "1m"), (7199, "1h"), (86_400 * 80, "80d")],
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert age(int(seconds * 10**9)) == text


def test_moments_are_as_long_as_they_need() -> None:
    hour_ns = 3_600 * 10**9
    assert moment(0, NOW_NS) == NOTHING
    assert moment(NOW_NS - 95 * 10**9, NOW_NS) == "00:51:45.000"
    assert moment(NOW_NS - hour_ns, NOW_NS) == "03-14 23:53:20"
    assert moment(NOW_NS - 8_760 * hour_ns, NOW_NS) == "24-03-15 00:53"


@pytest.mark.parametrize(("value", "text"), [(850, "850ns"), (12_345, "12.3µs"), (4_560_000, "4.56ms"), (1_200_000_000, "1.2s")])
def test_latencies(value: int, text: str) -> None:
    assert nanoseconds(value) == text


def test_signs() -> None:
    assert [sign(value) for value in (Decimal(-3), 0, Fraction(1, 9), "text", None)] == [-1, 0, 1, 0, 0]
