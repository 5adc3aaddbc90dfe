"""Columns against the field catalogue, and their orders against their values."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from pks.layouts.fields import fields_of
from pks.tui.board import Board
from pks.tui.columns import BY_KEY, COLUMNS, DEFAULT_KEYS, Column, TextOrder, chosen
from pks.tui.feed import Feed

UNSEEN = {"_reserved"}
"""Fields of a position that no column is drawn from: room, which is zero."""


def test_every_column_is_drawn_from_fields_of_the_catalogue() -> None:
    known = {f"{layout}.{field.name}" for layout in ("position", "refdata") for field in fields_of(layout) if field.until is None}
    assert {field for column in COLUMNS for field in column.fields} <= known


def test_every_field_of_a_position_can_be_shown() -> None:
    drawn = {field.removeprefix("position.") for column in COLUMNS for field in column.fields}
    assert {field.name for field in fields_of("position")} - drawn == UNSEEN


def test_the_default_columns_fit_a_usual_terminal() -> None:
    kept = [BY_KEY[key] for key in DEFAULT_KEYS]
    assert sum(column.width + 1 for column in kept[: kept.index(BY_KEY["last_trade"]) + 1]) <= 150 - 31 - 2


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.key)
def test_a_column_orders_rows_by_its_values(column: Column, board: Board, feed: Feed) -> None:
    order = column.order(board, board.rows)
    assert len(order) == len(board.rows)
    lines = {row: feed.line(row) for row in board.rows.tolist()}
    values = [column.value(line) for line in lines.values() if line is not None]
    assert len(values) == len(board.rows), "every name is known"
    if isinstance(column.order, TextOrder):
        assert order.tolist() == values
        ranks = column.order.ranks(board, board.rows)
        assert [values[place] for place in np.argsort(ranks, kind="stable")] == sorted(map(str, values))
    elif column.key == "last_trade":
        assert [str(values[place]) for place in np.argsort(order, kind="stable")] == sorted(map(str, values))
    elif column.key != "marks":
        numbers = [value for value in values if value is not None]
        known = [value is not None for value in values]
        assert np.isnan(order[~np.array(known)].astype(np.float64)).all()
        by_order = [values[place] for place in np.argsort(order, kind="stable") if known[place]]
        assert by_order == sorted(numbers, key=lambda value: Decimal(value))


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.key)
def test_a_cell_fits_its_column(column: Column, board: Board, feed: Feed) -> None:
    for row in board.rows.tolist():
        line = feed.line(row)
        assert line is not None
        assert len(column.cell(line)[1]) <= max(column.width, len("2025-03-15") if column.left else 0)
    assert len(column.title) <= column.width


def test_unknown_columns_are_left_out_and_none_is_the_defaults() -> None:
    assert [column.key for column in chosen(("quantity", "colour", "book"))] == ["book", "quantity"]
    assert tuple(column.key for column in chosen(("colour",))) == DEFAULT_KEYS
