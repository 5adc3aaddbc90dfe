"""Questions about the past and their answers, as they travel between the gateway and the worker `past`.

Owns the messages and their bounds. Names are codes, times nanoseconds UTC; rows of answers are in the words of `pks positions --json` and
its like. Who asks on behalf of a user gives the books that he may see; a book that is not among them does not show. `known_at` counts
events up to that sequence, `as_of` trades up to that time; an answer says by its `sequence` what it reflects, and the next page is asked
for with that as known_at.
"""

from __future__ import annotations

from typing import Any

import msgspec

ROWS_MAX = 5_000
"""Rows of one answer at most: some megabytes. The rest is asked for with `after`."""

WHATIF_ROWS_MAX = 10_000
"""Rows of one what-if question."""

QUESTION_BYTES_MAX = 8 << 20
"""A question, packed."""

ANSWER_BYTES_MAX = 32 << 20
"""An answer, packed; a longer one is refused as TOO_LARGE and is to be asked for in smaller pages."""

WAITING_MAX = 64
"""Questions that wait for their turn; one more is told BUSY."""

Row = dict[str, Any]


class Question(msgspec.Struct, kw_only=True, frozen=True):
    """What all have in common."""

    as_of: int | None = None
    known_at: int | None = None


class PositionsAt(Question, kw_only=True, frozen=True, tag="positions"):
    """Positions at a moment, by book and instrument. books: None are all. after: (book, instrument) of the last row before the page."""

    books: tuple[str, ...] | None = None
    instruments: tuple[str, ...] = ()
    flat: bool = False
    after: tuple[str, str] | None = None
    limit: int = ROWS_MAX


class LotsOf(Question, kw_only=True, frozen=True, tag="lots"):
    """Open lots of one position, oldest first. after: how many rows went before."""

    book: str
    instrument: str
    after: int = 0
    limit: int = ROWS_MAX


class Trades(Question, kw_only=True, frozen=True, tag="trades"):
    """Trades as they stand, by sequence. Empty filters are any; kinds: names of `layouts.codes.Kind`. after: sequence before the page."""

    books: tuple[str, ...] | None = None
    instruments: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    trade_ids: tuple[str, ...] = ()
    first_ns: int | None = None
    last_ns: int | None = None
    unallocated: bool = False
    newest_first: bool = False
    after: int | None = None
    limit: int = 1000


class TradeOf(Question, kw_only=True, frozen=True, tag="trade"):
    """One trade by its sequence, or all of an id, each with `matches`: the lots that it closed or moved."""

    sequence: int | None = None
    trade_id: str = ""
    books: tuple[str, ...] | None = None


class History(Question, kw_only=True, frozen=True, tag="history"):
    """Everything that was booked into one position, in order, each with `matches`. after: the last sequence before the page."""

    book: str
    instrument: str
    after: int = 0
    limit: int = 1000


class Held(Question, kw_only=True, frozen=True, tag="held"):
    """What accounts hold, by account and instrument. accounts: empty are all. after: how many rows went before."""

    accounts: tuple[str, ...] = ()
    books: tuple[str, ...] | None = None
    instruments: tuple[str, ...] = ()
    flat: bool = False
    after: int = 0
    limit: int = ROWS_MAX


class WhatIf(msgspec.Struct, kw_only=True, frozen=True, tag="whatif"):
    """What rows of the trade input would do to positions now; nothing is booked. marks: instrument -> price to value what is open."""

    rows: tuple[dict[str, str | dict[str, Any]], ...]
    marks: dict[str, str] = {}
    books: tuple[str, ...] | None = None


AnyQuestion = PositionsAt | LotsOf | Trades | TradeOf | History | Held | WhatIf


class Page(msgspec.Struct, kw_only=True, frozen=True, tag="page"):
    """Rows, and from where the next page goes on: the question's `after`; None at the end."""

    rows: list[Row]
    sequence: int
    next: int | tuple[str, str] | None = None


class Imagined(msgspec.Struct, kw_only=True, frozen=True, tag="imagined"):
    """What would be. outcomes: a row each, as `pks book --json`. before, after: positions that change (with `unrealised` where a mark was
    given); lots: theirs afterwards, matches: those that come or change, both with book and instrument; changes: quantity, realised P&L and
    fees that each position gains.
    """

    sequence: int
    outcomes: list[Row]
    before: list[Row]
    after: list[Row]
    changes: list[Row]
    lots: list[Row]
    matches: list[Row]


class Failed(msgspec.Struct, kw_only=True, frozen=True, tag="failed"):
    """The question has no answer. code: of `base.errors.Code`, or one of ours below. retry: it may have one later."""

    code: str
    field: str = ""
    value: str = ""
    reason: str = ""
    retry: bool = False


BEYOND_JOURNAL, NO_JOURNAL, TOO_LARGE, TOO_LONG, INTERNAL = "BEYOND_JOURNAL", "NO_JOURNAL", "TOO_LARGE", "TOO_LONG", "INTERNAL"
"""A sequence that is not durable; no event yet; an answer beyond its bounds; a question that took too long; a mistake of ours."""

AnyAnswer = Page | Imagined | Failed


class Asked(msgspec.Struct, kw_only=True, frozen=True, array_like=True):
    """A question on the wire. id: the asker's own, in the answer again. patience_ms: when it is over nobody waits for the answer."""

    id: int
    patience_ms: int
    question: AnyQuestion


class Answered(msgspec.Struct, kw_only=True, frozen=True, array_like=True):
    """An answer on the wire."""

    id: int
    answer: AnyAnswer
