"""The condition of a question about trades, in the words of SQL that both stores share; what differs is how each writes a time.

Owns which rows answer which question: tombstones none, prices and volume only what was dealt and stands. Values are parameters, never text.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from pks.edges.questdb.store import AMENDED, BLOCK, BOOKED, MOVED, Wanted

TRADED = ("TRADE", BLOCK)
"""Kinds that make prices and volume over all books: what was dealt with others, once."""

TRADED_IN_BOOK = ("TRADE", "ALLOCATION")
"""Kinds that make prices and volume of one book: what came to it by dealing; a block is in no book."""


class Rows(Enum):
    """Which rows a question is about."""

    ALL = "as they stand, cancelled ones too"
    STANDING = "without cancelled ones"
    TRADED = "what makes prices and volume"


Given = Callable[[object], str]
"""Takes a value as a parameter; its place in the text."""

Bound = Callable[[str, int, Given], str]
"""(">=" or "<=", time_ns, given) -> the condition on the time."""

Behind = Callable[[int, str, Given], str]
"""(time_ns, trade_id, given) -> the condition for rows behind that one."""


def condition(wanted: Wanted, rows: Rows, bound: Bound, behind: Behind) -> tuple[str, list[object]]:
    """The text behind `where`, and its parameters."""
    arguments: list[object] = []

    def given(value: object) -> str:
        arguments.append(value)
        return f"${len(arguments)}"

    parts = [f"status != '{MOVED}'" if rows is Rows.ALL else f"status in ('{BOOKED}', '{AMENDED}')"]
    if wanted.book is not None:
        place = given(wanted.book)
        parts.append(f"(book = {place} or to_book = {place})" if rows is Rows.ALL else f"book = {place}")
    if rows is Rows.TRADED:
        kinds = TRADED if wanted.book is None else TRADED_IN_BOOK
        parts.append(f"kind in ({', '.join(repr(kind) for kind in kinds)})")
    if wanted.instrument is not None:
        parts.append(f"instrument = {given(wanted.instrument)}")
    if wanted.first_ns is not None:
        parts.append(bound(">=", wanted.first_ns, given))
    if wanted.last_ns is not None:
        parts.append(bound("<=", wanted.last_ns, given))
    if wanted.after is not None and rows is Rows.ALL:
        parts.append(behind(*wanted.after, given))
    return " and ".join(parts), arguments
