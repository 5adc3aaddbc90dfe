"""Rows out of events: keys, corrections, moved times and what no store may be given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pks.base.clock import parse_date, parse_time
from pks.base.units import format_scaled
from pks.edges.files.rows import TradeRow as Row
from pks.edges.questdb.aside import ASIDE_BYTES_MAX, AsideFile
from pks.edges.questdb.rows import INT64_MIN, TIME_NS_LAST, Names, fault_of, newest, rows_of
from pks.edges.questdb.store import AMENDED, BOOKED, CANCELLED, MOVED, TradeRow
from pks.engine.booking.border import Border
from pks.engine.instruments.definitions import Account, Book, Currency, Entity, Instrument, Source
from pks.layouts.codes import Recurs
from tests.engine_script import RandomDay
from tests.harness import Core

T1, T2, T3 = (f"2025-03-14T10:00:0{second}Z" for second in (1, 2, 3))


class Desk:
    """A core with two books, and rows of what is booked there."""

    def __init__(self, folder: Path) -> None:
        self.core = Core(folder)
        for definition in (
            Currency(code="USD", minor_digits=2),
            Entity(code="E", functional_currency="USD", timezone="UTC"),
            Source(code="S"),
            Source(code="AGAIN", recurs=int(Recurs.SIDE)),
            Account(code="A1", entity="E"),
            *(Book(code=code, entity="E", method="FIFO", oversell="FLIP", report_currency="USD", zone="UTC") for code in ("X", "Y")),
            Instrument(
                code="I", asset_class="EQUITY", currency="USD", settle_ccy="USD", quote_factor="1", price_scale=2, qty_scale=0,
                money_scale=6, cleared=False, traded_asset=False, negative_price=False, zero_price=False,
            ),
        ):  # fmt: skip
            self.core.define(definition)
        self.border = Border(self.core.booking.catalogue)
        self.line = 0

    def book(self, **fields: str) -> None:
        self.line += 1
        filled = {"source": "S", "account": "A1", **fields} if fields.get("kind", "TRADE") == "TRADE" else {"source": "S", **fields}
        outcome = self.core.book(self.border.group_of(Row(line=self.line, row=self.line, **filled)))
        assert outcome.records is not None, outcome

    def trade(self, trade_id: str, **fields: str) -> None:
        common = {"book": "X", "instrument": "I", "side": "BUY", "quantity": "5", "price": "10.5", "trade_time": T1}
        self.book(trade_id=trade_id, **{**common, **fields})

    def rows(self) -> list[TradeRow]:
        rows, aside = rows_of(self.core.records, 1, self.core.sequence, self.core.verdicts, Names(self.core.booking.catalogue))
        assert not aside
        return rows

    def standing(self) -> list[tuple[Any, ...]]:
        return [(row.ts_ns, row.trade_id, row.status, row.book, row.qty_raw, row.price_raw) for row in newest(self.rows())]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_trade_is_a_row_with_names_and_exact_figures(desk: Desk) -> None:
    desk.trade("T1", quantity="7", price="10.25")
    (row,) = desk.rows()
    assert row == TradeRow(
        parse_time(T1), "S/T1/0", desk.core.sequence, desk.core.sequence, "TRADE", BOOKED, "X", None, "I", "A1", "S", "BUY", 7, 0, 1025, 2
    )
    assert (row.quantity, row.price) == (7.0, 10.25)


def test_corrections_write_the_row_again_under_its_key(desk: Desk) -> None:
    desk.trade("T1")
    desk.book(kind="AMEND", trade_id="T1", quantity="9")
    desk.book(kind="AMEND", trade_id="T1", price="11")
    desk.book(kind="FEE", trade_id="T1", fee="1", fee_currency="USD")
    time_ns = parse_time(T1)
    assert desk.standing() == [(time_ns, "S/T1/0", AMENDED, "X", 9, 1100)]
    desk.book(kind="CANCEL", trade_id="T1")
    assert desk.standing() == [(time_ns, "S/T1/0", CANCELLED, "X", 9, 1100)]
    assert {row.sequence for row in desk.rows()} == {desk.rows()[0].last_sequence}


def test_a_trade_that_moves_to_another_book_is_the_same_row(desk: Desk) -> None:
    desk.trade("T1")
    desk.book(kind="AMEND", trade_id="T1", book="Y")
    desk.book(kind="AMEND", trade_id="T1", quantity="6")
    assert desk.standing() == [(parse_time(T1), "S/T1/0", AMENDED, "Y", 6, 1050)]
    desk.book(kind="AMEND", trade_id="T1", book="X")
    desk.book(kind="CANCEL", trade_id="T1")
    assert desk.standing() == [(parse_time(T1), "S/T1/0", CANCELLED, "X", 6, 1050)]


def test_each_earlier_time_of_a_trade_is_left_as_moved(desk: Desk) -> None:
    desk.trade("T1")
    desk.book(kind="AMEND", trade_id="T1", trade_time=T2)
    desk.book(kind="AMEND", trade_id="T1", book="Y", trade_time=T3)
    desk.book(kind="AMEND", trade_id="T1", quantity="6")
    times = {one[0]: one[2] for one in desk.standing()}
    assert times == {parse_time(T1): MOVED, parse_time(T2): MOVED, parse_time(T3): AMENDED}
    desk.book(kind="AMEND", trade_id="T1", trade_time=T1)
    times = {one[0]: one[2] for one in desk.standing()}
    assert times == {parse_time(T1): AMENDED, parse_time(T2): MOVED, parse_time(T3): MOVED}


def test_an_opening_without_a_time_stands_at_its_date(desk: Desk) -> None:
    desk.book(kind="OPENING", lot_id="L1", book="X", instrument="I", side="BUY", quantity="5", price="9", account="A1",
              open_date="2025-01-02", business_date="2025-03-13")  # fmt: skip
    (row,) = desk.rows()
    assert row.kind == "OPENING"
    record = desk.core.records[desk.core.sequence]
    assert row.ts_ns == (int(record["trade_time_ns"]) or parse_date("2025-03-13") * 86_400_000_000_000)


def test_a_long_id_is_whole_and_ids_that_recur_are_kept_apart(desk: Desk) -> None:
    desk.trade("X" * 100)
    desk.book(kind="AMEND", trade_id="X" * 100, quantity="6")
    desk.trade("R", source="AGAIN")
    desk.trade("R", source="AGAIN", side="SELL")
    keys = [row.trade_id for row in newest(desk.rows())]
    assert keys[0] == f"S/{'X' * 100}/0"
    assert keys[1] != keys[2]
    assert all(key.startswith("AGAIN/R/0/") and len(key) == len("AGAIN/R/0/") + 8 for key in keys[1:])


def test_rows_by_parts_are_the_rows_of_the_whole(tmp_path: Path, seed: int) -> None:
    day = RandomDay(seed, tmp_path)
    for _ in range(300):
        day.step()
    core, names = day.core, Names(day.core.booking.catalogue)
    whole, aside = rows_of(core.records, 1, core.sequence, core.verdicts, names)
    assert not aside
    parts: list[TradeRow] = []
    first = 1
    while first <= core.sequence:
        last = first
        while last < core.sequence and core.records[last + 1]["group_index"]:
            last += 1
        parts += rows_of(core.records, first, last, core.verdicts, names)[0]
        first = last + 1
    assert parts == whole
    assert not {row.last_sequence for row in whole} & core.verdicts.keys(), "what was refused makes no row"
    for row in whole:
        record = core.records[row.last_sequence]
        assert format_scaled(row.qty_raw, row.qty_scale) == format_scaled(int(record["qty_raw"]), int(record["qty_scale"]))


@pytest.mark.parametrize(
    "fields",
    [
        {"ts_ns": -1}, {"ts_ns": TIME_NS_LAST + 1}, {"qty_raw": INT64_MIN}, {"price_raw": INT64_MIN},
        {"trade_id": b"S/\xff/0".decode(errors="replace")}, {"trade_id": "S/\0/0"},
    ],
)  # fmt: skip
def test_what_no_store_takes_is_told_before_it_is_sent(desk: Desk, fields: dict[str, Any]) -> None:
    desk.trade("T1")
    (row,) = desk.rows()
    assert fault_of(row) == ""
    assert fault_of(row._replace(**fields))


def test_rows_set_aside_are_kept_in_a_bounded_file(tmp_path: Path, desk: Desk) -> None:
    desk.trade("T1")
    (row,) = desk.rows()
    file = AsideFile(tmp_path / "aside.jsonl")
    file.put(row, "bad")
    assert '"reason":"bad"' in file.path.read_text()
    with file.path.open("ab") as stream:
        stream.truncate(ASIDE_BYTES_MAX)
    file.put(row, "worse")
    assert file.path.stat().st_size < 1000
    assert (tmp_path / "aside.jsonl.1").stat().st_size == ASIDE_BYTES_MAX
