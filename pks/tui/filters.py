"""What the filter line says: words to be found in book, instrument and symbol, and comparisons with columns.

    sber            book, instrument or symbol contains it (capitals do not matter)
    !ofz            none of them does
    qty>0 net<=-1k  a figure compared; k and m are thousands and millions
    book=RU-EQ      a text compared; ~ is "contains"

All of it must hold. Owns the language and its judgement; comparisons are exact: float64 settles what is clearly apart, and the figure
itself what is near. Takes a board, and may not read segments or draw.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np
from numpy.typing import NDArray

from pks.base.clock import NS_PER_SECOND
from pks.base.errors import PksError
from pks.tui.board import Board
from pks.tui.columns import BY_KEY, BY_NAME, Column, Line

Words = NDArray[np.int64]
Mask = NDArray[np.bool_]
LineOf = Callable[[int], Line | None]

_TERM = re.compile(r"([A-Za-z_]+)(<=|>=|!=|=|<|>|~)(.+)")
_FACTORS = {"k": Decimal(1000), "m": Decimal(1_000_000)}
_NEAR = 1e-9
_AGE_NS_MAX = 1 << 62
_SEARCHED = ("book", "instrument", "symbol")
_TEXT_OPERATORS = ("=", "!=", "~")
_COMPARE: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


class FilterError(PksError):
    """A part of the filter line cannot be understood."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part!r}: {reason}")
        self.part, self.reason = part, reason


@dataclass(frozen=True, slots=True)
class Term:
    """One part of the line. column: None for a word; number: what a figure is compared with."""

    operator: str
    text: str
    column: Column | None = None
    number: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """A line that was understood; no terms let everything through."""

    line: str = ""
    terms: tuple[Term, ...] = ()

    def mask(self, board: Board, rows: Words, line_of: LineOf, now_ns: int) -> Mask:
        """Which of `rows` (int64[n]) it lets through: bool[n].

        line_of: a row's figures, for those that must be looked at exactly. now_ns: wall clock, for ages.
        """
        passed = np.ones(len(rows), np.bool_)
        for term in self.terms:
            if term.column is not None and term.column.key == "age":
                passed &= _judge_age(term, now_ns - board.records["recorded_ns"][rows])
            else:
                passed &= _judge(term, board, rows, line_of)
        return passed


NO_FILTER = Filter()
"""Lets everything through."""


def parse_filter(line: str) -> Filter:
    """Read a filter line. Raises FilterError."""
    return Filter(line.strip(), tuple(_term(part) for part in line.split()))


def _term(part: str) -> Term:
    found = _TERM.fullmatch(part)
    if found is None:
        if any(sign in part for sign in "<>="):
            raise FilterError(part, "a comparison is written column>value, without blanks")
        word = part.removeprefix("!")
        if not word:
            raise FilterError(part, "a word is missing behind the !")
        return Term("!" if part.startswith("!") else "", word.lower())
    name, operator, text = found.groups()
    column = BY_NAME.get(name.lower())
    if column is None:
        raise FilterError(part, f"there is no column {name}; columns are {', '.join(BY_KEY)}")
    if _is_text(column):
        if operator not in _TEXT_OPERATORS:
            raise FilterError(part, f"{column.key} is a text: compare with =, != or ~")
        return Term(operator, text.lower(), column)
    if column.key == "last_trade":
        raise FilterError(part, "compare age instead: age<60 is the last minute")
    if operator == "~":
        raise FilterError(part, f"{column.key} is a number: compare with <, <=, =, !=, >= or >")
    return Term(operator, text, column, _number(part, text))


def _is_text(column: Column) -> bool:
    return column.left


def _number(part: str, text: str) -> Decimal:
    factor = _FACTORS.get(text[-1:].lower(), Decimal(1))
    digits = (text[:-1] if text[-1:].lower() in _FACTORS else text).replace(",", "").replace("_", "")
    try:
        number = Decimal(digits)
    except InvalidOperation:
        raise FilterError(part, f"{text} is not a number") from None
    if not number.is_finite():
        raise FilterError(part, f"{text} is not a number")
    return number * factor


def _judge(term: Term, board: Board, rows: Words, line_of: LineOf) -> Mask:
    if term.column is None:
        found = np.zeros(len(rows), np.bool_)
        for key in _SEARCHED:
            found |= _contains(BY_KEY[key].order(board, rows), term.text)
        return ~found if term.operator == "!" else found
    if term.number is None:
        if term.column.key == "marks":
            texts = np.array([_exact_text(term.column, line_of(row)) for row in rows.tolist()], np.str_)
        else:
            texts = term.column.order(board, rows)
        if term.operator == "~":
            return _contains(texts, term.text)
        same: Mask = np.char.lower(texts) == term.text if len(texts) else np.zeros(0, np.bool_)
        return ~same if term.operator == "!=" else same
    return _compare(term, board, rows, line_of)


def _contains(texts: NDArray[np.str_], word: str) -> Mask:
    if not len(texts):
        return np.zeros(0, np.bool_)
    found: Mask = np.char.find(np.char.lower(texts), word) >= 0
    return found


def _exact_text(column: Column, line: Line | None) -> str:
    return "" if line is None else str(column.value(line))


def _compare(term: Term, board: Board, rows: Words, line_of: LineOf) -> Mask:
    assert term.column is not None and term.number is not None, "a figure is compared with a number"
    passed = np.zeros(len(rows), np.bool_)
    values, bound = term.column.order(board, rows).astype(np.float64), float(term.number)
    apart = np.abs(values - bound) > _NEAR * np.maximum(np.abs(values), abs(bound))
    clear = {"<": values < bound, "<=": values < bound, ">": values > bound, ">=": values > bound, "!=": apart}
    passed = clear.get(term.operator, passed) & apart
    for place in np.flatnonzero(~apart & ~np.isnan(values)).tolist():
        line = line_of(int(rows[place]))
        value = None if line is None else term.column.value(line)
        passed[place] = isinstance(value, (int, Decimal)) and _COMPARE[term.operator](Decimal(value), term.number)
    return passed


def _judge_age(term: Term, ages_ns: Words) -> Mask:
    """Ages are whole nanoseconds, so a bound between two of them is rounded away from those it lets through."""
    assert term.number is not None, "an age is compared with a number"
    bound = term.number * NS_PER_SECOND
    low, high = (max(-_AGE_NS_MAX, min(_AGE_NS_MAX, edge)) for edge in (math.floor(bound), math.ceil(bound)))
    equal: Mask = (ages_ns == low) & (low == high)
    passed: Mask = {
        "<": ages_ns < high, "<=": ages_ns <= low, ">": ages_ns > low, ">=": ages_ns >= high, "=": equal, "!=": ~equal,
    }[term.operator]  # fmt: skip
    return passed
