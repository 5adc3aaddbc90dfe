"""Roll-ups are the exact sums of what each position says."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

import numpy as np

from pks.layouts.codes import Subject
from pks.tui.board import Board
from pks.tui.feed import Feed
from pks.tui.rollup import Roll, roll_books
from tests.screens.blotter_host import BlotterHost, put_wide


def summed(board: Board) -> dict[int, Roll]:
    """The same by asking every position."""
    rolls: dict[int, Roll] = defaultdict(Roll)
    for row in board.rows.tolist():
        view = board.view(row)
        assert view is not None
        one = Roll(1, int(not view.is_flat), {view.currency: Fraction(view.realised_gross)}, {view.currency: Fraction(view.realised_net)})
        rolls[int(view.record["book_id"])].add(one)
    return dict(rolls)


def test_a_desk(board: Board) -> None:
    rolls = roll_books(board)
    assert rolls == summed(board)
    assert (rolls[11].count, rolls[11].open_count) == (3, 3)
    assert rolls[11].net == {"RUB": Fraction("8594.82")}
    assert set(rolls[13].gross) == {"USD", "BTC"}


def test_any_figures_up_to_the_edges_of_128_bits(desk: BlotterHost, feed: Feed, board: Board, rng: np.random.Generator) -> None:
    for _ in range(3):
        for book in desk.books:
            for instrument in desk.instruments:
                slot = desk.slot(book, instrument, int(rng.integers(-5, 5)), 100, fee=int(rng.integers(-(10**9), 10**9)))
                bits = int(rng.integers(1, 126))
                put_wide(slot, "realised", int.from_bytes(rng.bytes(16), "little", signed=True) >> (127 - bits))
                table, key = desk.host.positions, (int(slot["book_id"]), int(slot["instrument_id"]))
                row = table.find(key)
                if row is None:
                    table.append(key[0] % desk.shards, key, slot)
                else:
                    table.write(row, slot)
        feed.poll()
        assert roll_books(board) == summed(board)


def test_fees_in_cost_are_not_taken_twice(desk: BlotterHost, feed: Feed, board: Board) -> None:
    desk.define(Subject.BOOK, 11, "RU-EQ", parent="AUR-RU", group="RU desk", fees_in_cost=1)
    feed.poll()
    rolls = roll_books(board)
    assert rolls[11].net == rolls[11].gross
    assert rolls == summed(board)
