"""Which positions the table shows, and in which order.

Owns the choice: node of the tree, filter line, flat positions or not, column of the order. Pure over a board's arrays; may not draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pks.tui.board import Board
from pks.tui.columns import BY_KEY, Line, TextOrder
from pks.tui.filters import NO_FILTER, Filter

Words = NDArray[np.int64]

_BOOK, _INSTRUMENT = TextOrder("code", "book_id"), TextOrder("code", "instrument_id")


@dataclass(frozen=True, slots=True)
class Choice:
    """books: ids of the tree's node, None for all. sort: a column's key."""

    books: frozenset[int] | None = None
    filter: Filter = NO_FILTER
    flat: bool = True
    sort: str = "book"
    descending: bool = False

    def rows(self, board: Board, line_of: Callable[[int], Line | None], now_ns: int) -> Words:
        """The rows to be shown, in order; ties by book and instrument, and positions without a figure last: int64[n]."""
        rows = board.rows
        if self.books is not None:
            rows = rows[np.isin(board.records["book_id"][rows], np.array(sorted(self.books), np.uint32))]
        if not self.flat:
            rows = rows[board.records["qty_raw"][rows] != 0]
        if self.filter.terms:
            rows = rows[self.filter.mask(board, rows, line_of, now_ns)]
        order = BY_KEY[self.sort].order
        keys = order.ranks(board, rows) if isinstance(order, TextOrder) else order(board, rows)
        chosen: Words = rows[np.lexsort((_INSTRUMENT.ranks(board, rows), _BOOK.ranks(board, rows), -keys if self.descending else keys))]
        return chosen

    def moves(self) -> bool:
        """Whether a changed figure may change what is shown or its order, so that the choice must be made again now and then."""
        by_text = isinstance(BY_KEY[self.sort].order, TextOrder)
        return not (self.flat and by_text) or any(term.column is not None for term in self.filter.terms)
