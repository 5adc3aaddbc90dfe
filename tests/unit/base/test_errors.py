"""Codes are stable and complete; errors say what a reader needs."""

from __future__ import annotations

import re

import pytest

from pks.base.errors import CODES, MEANINGS, SHOWN_CHARACTERS_MAX, Code, Decider, Fatal, PksError, Refused, Retryable, shown

# What other people's programs and old journals hold. A line is only ever added here.
KEPT = {
    "ACCEPTED": 0,
    "DUPLICATE": 1,
    "BAD_ENCODING": 10,
    "BAD_ROW": 11,
    "BAD_RECORD": 12,
    "BAD_TEXT": 13,
    "METHOD_UNKNOWN": 14,
    "UNKNOWN_FIELD": 15,
    "MISSING_FIELD": 20,
    "NOT_A_NUMBER": 21,
    "OUT_OF_RANGE": 22,
    "OVER_PRECISE": 23,
    "NOT_POSITIVE": 24,
    "NEGATIVE_PRICE": 25,
    "ZERO_PRICE": 26,
    "WRONG_SIDE": 27,
    "UNKNOWN_KIND": 28,
    "SCALE_MISMATCH": 29,
    "BAD_RATIO": 30,
    "CASH_PRICE_REQUIRED": 31,
    "BAD_TIME": 40,
    "BAD_DATE": 41,
    "TIME_TOO_OLD": 42,
    "TIME_IN_FUTURE": 43,
    "SETTLES_BEFORE_TRADE": 44,
    "UNKNOWN_ZONE": 45,
    "UNKNOWN_BOOK": 60,
    "UNKNOWN_INSTRUMENT": 61,
    "UNKNOWN_ACCOUNT": 62,
    "UNKNOWN_CURRENCY": 63,
    "NO_ROUTE": 64,
    "SAME_BOOK": 65,
    "IDEMPOTENCY_CONFLICT": 80,
    "UNKNOWN_TRADE": 81,
    "AMBIGUOUS_ORIGINAL": 82,
    "ALREADY_CANCELLED": 83,
    "INVALID_TRANSITION": 84,
    "NOTHING_CHANGED": 85,
    "PERIOD_LOCKED": 86,
    "PARKED": 87,
    "PARKING_FULL": 88,
    "ALLOCATION_MISMATCH": 100,
    "NOT_A_BLOCK": 101,
    "ALREADY_ALLOCATED": 102,
    "GROUP_TOO_LARGE": 103,
    "GROUP_REFUSED": 104,
    "OVERSELL": 120,
    "INSUFFICIENT_POSITION": 121,
    "UNKNOWN_LOT": 122,
    "LOT_EXCEEDED": 123,
    "LOT_REQUIRED": 124,
    "QUANTITY_OVERFLOW": 125,
    "MONEY_OVERFLOW": 126,
    "FEE_CURRENCY_LIMIT": 127,
    "BUSY": 140,
    "SHUTTING_DOWN": 141,
}


def test_numbers_never_change() -> None:
    now = {name: int(code) for name, code in Code.__members__.items()}  # __members__ shows an alias of a reused number too
    assert {name: now.get(name) for name in KEPT} == KEPT
    assert len(set(now.values())) == len(now)
    assert now.keys() == KEPT.keys(), "a new code gets its line here"


@pytest.mark.parametrize("code", Code)
def test_meaning_is_one_clear_line(code: Code) -> None:
    text, decided_by, _ = MEANINGS[code]
    assert re.fullmatch(r"\S.{8,118}[^\s.]", text)
    assert isinstance(decided_by, Decider)
    assert CODES[code] == text


def test_texts_differ() -> None:
    assert len(set(CODES.values())) == len(CODES)


def test_groups_share_the_root_and_do_not_overlap() -> None:
    for group in (Refused, Retryable, Fatal):
        assert group.__bases__ == (PksError,)


def test_refused_carries_what_was_offered() -> None:
    error = Refused(Code.NOT_POSITIVE, "quantity", "-5")
    assert (error.code, error.field, error.value, error.reason) == (Code.NOT_POSITIVE, "quantity", "-5", CODES[Code.NOT_POSITIVE])
    assert str(error) == "NOT_POSITIVE: quantity = '-5': must be greater than zero; the direction is in the side"


def test_refused_without_a_field_has_the_reason_alone() -> None:
    assert str(Refused(Code.BAD_ENCODING, "", b"\xff", "line 3 is not UTF-8")) == "BAD_ENCODING: line 3 is not UTF-8"


def test_shown_keeps_a_text_to_one_bounded_line() -> None:
    assert shown("a\nb\x1b[31m") == r"'a\nb\x1b[31m'"
    long = shown("x" * 10_000)
    assert len(long) < SHOWN_CHARACTERS_MAX + 30
    assert long.endswith("... (10002 characters)")
