"""The columns of the positions table, in one list: title, width, the catalogue's fields behind it, its figure, its text, its order.

Owns what can be shown of a position. The value of a column is exact and comes from `engine.positions.view`; its order is float64 over all
rows, for sorting and for a first look by filters. A test checks `fields` against the field catalogue. May not read segments or draw.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pks.base.clock import NS_PER_SECOND
from pks.engine.positions.view import PositionView, plain
from pks.tui.board import Board
from pks.tui.figures import NOTHING, age, cut, figure, moment, money
from pks.tui.names import BookPlace

AVERAGE_PLACES = 2

Words = NDArray[np.int64]
Value = str | int | Decimal | None


@dataclass(frozen=True, slots=True)
class Line:
    """One position as its cells see it. now_ns: wall clock; durable: last sequence on disk."""

    view: PositionView
    place: BookPlace
    symbol: str
    now_ns: int
    durable: int


@dataclass(frozen=True, slots=True)
class Column:
    """key: its name in filters and settings. value: exact, None where there is none. order: over rows, ascending."""

    key: str
    title: str
    width: int
    meaning: str
    fields: tuple[str, ...]  # "layout.field" of the catalogue
    value: Callable[[Line], Value]
    order: Callable[[Board, Words], NDArray[Any]]
    text: Callable[[Any, Line, int], str] | None = None  # of its value, in a width; None: the value itself
    left: bool = False
    signed: bool = False  # coloured by its sign
    default: bool = True  # shown unless the user chose otherwise
    timed: bool = False  # changes with the clock, or with the disk, while the position does not
    aliases: tuple[str, ...] = ()  # other names in filters

    def cell(self, line: Line) -> tuple[Value, str]:
        """The value, and its text, not yet padded."""
        value = self.value(line)
        if self.text is not None:
            return value, self.text(value, line, self.width)
        if value is None:
            return value, NOTHING
        return value, value if isinstance(value, str) else figure(Decimal(value), self.width)


@dataclass(frozen=True, slots=True)
class TextOrder:
    """A text of the book's or the instrument's row: as texts for filters, as ranks for sorting (both cost one look an id, not a row)."""

    field: str
    id_field: str

    def __call__(self, board: Board, rows: Words) -> NDArray[Any]:
        by = board.by_book if self.id_field == "book_id" else board.by_instrument
        return by(rows, self._text, "", np.str_)

    def ranks(self, board: Board, rows: Words) -> Words:
        """Place of each row's text among all of them, int64[n]."""
        return board.ranks(rows, self.id_field, self._text)

    def _text(self, row: Any) -> str:
        return bytes(row[self.field]).decode("utf-8", "replace")


def _raw_order(field: str, factor: int = 1) -> Callable[[Board, Words], NDArray[Any]]:
    return lambda board, rows: board.records[field][rows].astype(np.int64) * factor


def _money(name: str) -> Callable[[Board, Words], NDArray[Any]]:
    return lambda board, rows: board.money_order(rows, name)


def _average_text(average: Decimal | None, line: Line, width: int) -> str:
    """An average is a quotient and seldom ends: AVERAGE_PLACES beyond the price's own, fewer where the width says so, without a mark."""
    if average is None:
        return NOTHING
    whole_digits = max(1, average.adjusted() + 1)
    room = width - 2 - whole_digits - (whole_digits - 1) // 3 - (average < 0)
    places = int(line.view.record["price_scale"]) + AVERAGE_PLACES
    return figure(cut(average, max(0, min(places, room))), width)


def _money_text(amount: Decimal, _: Line, width: int) -> str:
    return money(amount, width)


def _fees_text(_: Decimal, line: Line, width: int) -> str:
    fees = line.view.fees
    if not fees:
        return NOTHING
    text = " ".join(f"{code} {plain(fee)}" for code, fee in fees.items())
    return text if len(text) <= width else text[: width - 1] + "…"


def _own_fee(line: Line) -> Decimal:
    """Fees in the currency of P&L: what stands between gross and net."""
    view = line.view
    return view.fees.get(view.currency, Decimal(0))


def _fee_order(board: Board, rows: Words) -> NDArray[Any]:
    own = board.records["fee_currency_id"][rows] == board.pnl_currency_ids(rows)[:, None]
    fees = board.records["fees_hi"][rows] * 2.0**64 + board.records["fees_lo"][rows].astype(np.float64)
    summed: NDArray[np.float64] = (fees * own).sum(axis=1)
    return summed / 1e18


def _marks(line: Line) -> str:
    view = line.view
    return (
        ("*" if view.last_sequence > line.durable else "")
        + ("?" if view.fee_unknown else "")
        + ("F" if view.forced else "")
        + ("I" if view.is_inverse else "")
    )


def _age_ns(line: Line) -> int:
    return line.now_ns - line.view.recorded_ns


_MONEY_FIELDS = ("position.money_scale", "refdata.multiplier_numerator", "refdata.multiplier_denominator")

COLUMNS = (
    Column(
        "entity", "Entity", 10, "entity of the book", ("refdata.parent",), lambda line: line.place.entity,
        TextOrder("parent", "book_id"), left=True, default=False,
    ),
    Column(
        "desk", "Desk", 12, "desk of the book", ("refdata.group",), lambda line: line.place.desk,
        TextOrder("group", "book_id"), left=True, default=False,
    ),
    Column(
        "book", "Book", 10, "the book", ("position.book_id", "refdata.code"), lambda line: line.view.book,
        TextOrder("code", "book_id"), left=True,
    ),
    Column(
        "instrument", "Instrument", 16, "the instrument", ("position.instrument_id", "refdata.code"), lambda line: line.view.instrument,
        TextOrder("code", "instrument_id"), left=True,
    ),
    Column(
        "symbol", "Symbol", 14, "the instrument's symbol", ("refdata.symbol",), lambda line: line.symbol,
        TextOrder("symbol", "instrument_id"), left=True, default=False,
    ),
    Column(
        "quantity", "Quantity", 13, "open quantity, long above zero", ("position.qty_raw", "position.qty_scale"),
        lambda line: line.view.quantity, lambda board, rows: board.quantity_order(rows), signed=True, aliases=("qty",),
    ),
    Column(
        "average_price", "Average price", 13, "of the open lots, without multiplier, to two places beyond the price's own",
        ("position.cost_hi", "position.cost_lo", "position.qty_raw", "position.price_scale"), lambda line: line.view.average_price,
        lambda board, rows: board.average_order(rows), _average_text, aliases=("average", "avg", "price"),
    ),
    Column(
        "cost", "Cost", 17, "cost of the open lots, with multiplier", ("position.cost_hi", "position.cost_lo", *_MONEY_FIELDS),
        lambda line: line.view.cost, _money("cost"), _money_text, default=False,
    ),
    Column(
        "realised_gross", "Realised gross", 14, "realised P&L since the opening lots, before fees",
        ("position.realised_hi", "position.realised_lo", *_MONEY_FIELDS), lambda line: line.view.realised_gross, _money("realised"),
        _money_text, signed=True, aliases=("gross", "realised"),
    ),
    Column(
        "realised_net", "Realised net", 14, "realised P&L less the fees in its currency",
        ("position.realised_hi", "position.realised_lo", "position.fees_hi", "position.fees_lo", "refdata.fees_in_cost", *_MONEY_FIELDS),
        lambda line: line.view.realised_net, lambda board, rows: board.net_order(rows),
        _money_text, signed=True, aliases=("net",),
    ),
    Column(
        "currency", "Ccy", 4, "currency of cost and P&L", ("refdata.pnl_currency",), lambda line: line.view.currency,
        TextOrder("pnl_currency", "instrument_id"), left=True, aliases=("ccy",),
    ),
    Column(
        "open_lots", "Lots", 5, "open lots", ("position.open_lots",), lambda line: line.view.open_lots, _raw_order("open_lots"),
        aliases=("lots",),
    ),
    Column(
        "age", "Age", 4, "since the last event was taken in; filters take seconds", ("position.recorded_ns",),
        lambda line: Decimal(_age_ns(line)) / NS_PER_SECOND, _raw_order("recorded_ns", -1), lambda _, line, __: age(_age_ns(line)),
        timed=True,
    ),
    Column(
        "last_trade", "Last trade UTC", 14, "time of the last trade, the venue's clock", ("position.event_time_ns",),
        lambda line: line.view.last_trade_time, _raw_order("event_time_ns"),
        lambda _, line, __: moment(line.view.last_trade_time_ns, line.now_ns),
    ),
    Column(
        "fees", "Fees", 14, "fees by currency; filters and order take the one in the currency of P&L",
        ("position.fee_currency_id", "position.fees_hi", "position.fees_lo"), _own_fee, _fee_order, _fees_text, aliases=("fee",),
    ),
    Column(
        "sequence", "Sequence", 10, "the event that the position reflects", ("position.last_sequence",),
        lambda line: line.view.last_sequence, _raw_order("last_sequence"), aliases=("seq",),
    ),
    Column(
        "marks", "!", 4, "* not on disk yet, ? a fee is unknown, F forced against the book's policy, I inverse contract",
        ("position.flags", "position.last_sequence"), _marks, _raw_order("flags"), left=True, timed=True,
    ),
    Column(
        "trades_count", "Trades", 7, "trades booked on the position", ("position.trades_count",), lambda line: line.view.trades_count,
        _raw_order("trades_count"), default=False, aliases=("trades",),
    ),
    Column(
        "last_price", "Last price", 13, "price of the last trade", ("position.last_price_raw", "position.price_scale"),
        lambda line: line.view.last_price, lambda board, rows: board.price_order(rows), default=False, aliases=("last",),
    ),
    Column(
        "clearing_cost", "Clearing cost", 15, "futures: cost since the last clearing",
        ("position.clearing_cost_hi", "position.clearing_cost_lo", *_MONEY_FIELDS), lambda line: line.view.clearing_cost,
        _money("clearing_cost"), _money_text, default=False,
    ),
    Column(
        "variation", "Variation", 15, "futures: variation margin, cumulative",
        ("position.variation_hi", "position.variation_lo", *_MONEY_FIELDS), lambda line: line.view.variation, _money("variation"),
        _money_text, signed=True, default=False,
    ),
    Column(
        "writes", "Writes", 8, "how often the slot was written", ("position.version",), lambda line: line.view.version,
        _raw_order("version"), default=False,
    ),
)  # fmt: skip
"""Every column, in the order in which they stand from left to right."""

BY_KEY = {column.key: column for column in COLUMNS}
assert len(BY_KEY) == len(COLUMNS), "a column's key is its own"

BY_NAME = {name: column for column in COLUMNS for name in (column.key, *column.aliases)}
assert len(BY_NAME) == sum(1 + len(column.aliases) for column in COLUMNS), "a name in filters means one column"

DEFAULT_KEYS = tuple(column.key for column in COLUMNS if column.default)


def chosen(keys: tuple[str, ...] | list[str]) -> tuple[Column, ...]:
    """The columns of these keys, in the order of COLUMNS; unknown keys are left out, and with none left it is the defaults."""
    found = tuple(column for column in COLUMNS if column.key in keys)
    return found or tuple(BY_KEY[key] for key in DEFAULT_KEYS)
