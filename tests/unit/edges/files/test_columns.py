"""The quick way: what it takes, what it leaves to the slow way, and its dictionaries. Agreement on any input is a property test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pks.edges.files.columns import ColumnReader, open_columns
from pks.edges.files.desk import packaged_desk
from pks.edges.files.forms import Options
from pks.edges.files.rows import RowError, TradeRow
from pks.edges.files.scan import Cell, Name, days_from_civil, intern, new_names, parse_decimal

HEADER = "trade_id,book,instrument,side,quantity,price,trade_time\n"
GOOD = "T1,B,I,BUY,1,2,2025-03-14T10:05:11Z\n"


def reader_of(path: Path, text: str, batch_rows: int = 8, options: Options | None = None) -> ColumnReader:
    path.write_text(text, encoding="utf-8")
    reader = open_columns(path, options, batch_rows)
    assert reader is not None
    return reader


def test_the_desk_goes_the_fast_way_whole() -> None:
    reader = open_columns(packaged_desk() / "trades.csv")
    assert reader is not None
    with reader:
        batches = list(reader)
        assert [batch.count for batch in batches] == [21]
        columns = batches[0]
        assert not columns.slow.any()
        assert columns.trade_id[20] == b"T0021"
        assert reader.names(Name.INSTRUMENT)[columns.names[0, Name.INSTRUMENT]] == "SBER.MOEX"
        assert columns.names[3, Name.BOOK] == 0, "a block has no book"
        scales = np.full(len(reader.names(Name.INSTRUMENT)), 6, np.int64)
        columns.scale(scales, scales)
        assert (columns.qty_raw[17], columns.price_raw[17]) == (2_500_000, 83_900_000_000)
        assert (columns.fee[17], columns.fee_digits[17]) == (25, 4)


@pytest.mark.parametrize(
    ("line", "cell"),
    [
        ("T2,B,I,BUY,1e3,2,2025-03-14T10:05:11Z", Cell.QUANTITY),
        ("T2,B,I,buy,1,2,2025-03-14T10:05:11Z", Cell.SIDE),
        ("T2,B,I,BUY,1,NaN,2025-03-14T10:05:11Z", Cell.PRICE),
        ("T2,B,I,BUY,1,2,2025-03-14T10:05:11+01:00", Cell.TRADE_TIME),
        ("T2,B,I,BUY,1,2,2025-02-29T10:05:11Z", Cell.TRADE_TIME),
        (",B,I,BUY,1,2,2025-03-14T10:05:11Z", Cell.ROW),
        ("T2,B,,BUY,1,2,2025-03-14T10:05:11Z", Cell.ROW),
        ("T" * 41 + ",B,I,BUY,1,2,2025-03-14T10:05:11Z", Cell.TRADE_ID),
        ("T2," + "B" * 65 + ",I,BUY,1,2,2025-03-14T10:05:11Z", Cell.BOOK),
        ("T2,B,I,BUY,1,2", Cell.ROW),
        ("Té,B,I,BUY,1,2,2025-03-14T10:05:11Z", Cell.ROW),
        ('"T""2",B,I,BUY,1,2,2025-03-14T10:05:11Z', Cell.ROW),
    ],
)
def test_what_is_out_of_the_ordinary_goes_the_slow_way(tmp_path: Path, line: str, cell: Cell) -> None:
    with reader_of(tmp_path / "a.csv", HEADER + GOOD + line + "\n" + GOOD.replace("T1,", "T3,")) as reader:
        columns = next(iter(reader))
        assert columns.slow.tolist() == [0, cell, 0]
        assert columns.line.tolist() == [2, 3, 4]
        row = columns.row(1)
        assert (row.line, row.row) == (3, 2)


def test_scales_that_do_not_hold_a_number(tmp_path: Path) -> None:
    lines = [GOOD.replace(",1,2,", f",{number},") for number in ("1,2", "1.5,2", "1,2.55", "9223372036854775,2", "100,2.50")]
    with reader_of(tmp_path / "a.csv", HEADER + "".join(lines) + GOOD.replace(",I,", ",J,")) as reader:
        columns = next(iter(reader))
        qty_scales, price_scales = np.array([-1, 0, -1]), np.array([-1, 1, -1])
        columns.scale(price_scales, qty_scales)
        assert columns.slow.tolist() == [0, Cell.QUANTITY, Cell.PRICE, 0, 0, Cell.QUANTITY]
        assert (columns.qty_raw[4], columns.price_raw[4]) == (100, 25)
        row = columns.row(1)
        assert isinstance(row, TradeRow)
        assert row.quantity == "1.5"


def test_batches_share_their_dictionaries(tmp_path: Path) -> None:
    text = HEADER + "".join(GOOD.replace(",I,", f",I{number % 7},") for number in range(50))
    with reader_of(tmp_path / "a.csv", text, batch_rows=8) as reader:
        seen: list[str] = []
        for columns in reader:
            assert columns.first_row == len(seen) + 1
            names = reader.names(Name.INSTRUMENT)
            seen += [names[code] for code in columns.codes(Name.INSTRUMENT)]
        assert seen == [f"I{number % 7}" for number in range(50)]
        assert len(reader.names(Name.INSTRUMENT)) == 8
        assert reader.bytes_read == reader.bytes_count == len(text)


def test_a_run_of_prints_goes_on_over_batches(tmp_path: Path) -> None:
    text = "ts_ms,agg_trade_id,taker_side,price,qty\n" + "".join(f"1570752011620,{number},buy,1,1\n" for number in range(10, 21))
    options = Options(instrument="P", quote_currency="Q", books=("A", "B", "C"))
    with reader_of(tmp_path / "a.csv", text, 4, options) as reader:
        for columns in reader:
            assert set(columns.order_id.tolist()) == {b"10"}
            numbers = columns.trade_id.astype(np.int64)
            assert [reader.names(Name.BOOK)[code] for code in columns.codes(Name.BOOK)] == ["ABC"[number % 3] for number in numbers]
            assert set(columns.fee.tolist()) == {1}
            assert set(columns.fee_digits.tolist()) == {3}


@pytest.mark.parametrize("text", ["", '[{"trade_id": "1"}]', "a,b\n1,2\n", "trade_id,price\r1,2\r", "trade_id,price,px\x00\x00\x00\n"])
def test_what_only_the_slow_way_reads(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    assert open_columns(path) is None


def test_a_broken_quote_gives_its_error(tmp_path: Path) -> None:
    with reader_of(tmp_path / "a.csv", HEADER + GOOD + '"T2,B\n' + GOOD) as reader:
        columns = next(iter(reader))
        assert columns.slow.tolist() == [0, Cell.ROW, 0]
        assert isinstance(columns.row(1), RowError)


def test_more_names_than_the_dictionary_holds() -> None:
    names = new_names()
    names.counts[0] = (1 << 16) - 2
    for text, expected in ((b"A", (1 << 16) - 1), (b"B", -1), (b"A", (1 << 16) - 1)):
        data = np.frombuffer(text, np.uint8)
        assert intern(data, 0, 1, 0, names) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1.500", (True, 15, 1)), (b"-0.10", (True, -1, 1)), (b"000", (True, 0, 0)),
        (b"999999999999999999", (True, 999999999999999999, 0)),
        (b"1000000000000000000", (False, 0, 0)), (b".", (False, 0, 0)),
        (b"1.2.3", (False, 0, 0)), (b"+1", (False, 0, 0)), (b"", (False, 0, 0)),
    ],
)  # fmt: skip
def test_decimals(text: bytes, expected: tuple[bool, int, int]) -> None:
    data = np.frombuffer(text, np.uint8)
    assert parse_decimal(data, 0, data.size) == expected


def test_civil_days() -> None:
    from datetime import date

    for ordinal in range(date(1970, 1, 1).toordinal(), date(2262, 1, 1).toordinal(), 97):
        day = date.fromordinal(ordinal)
        assert days_from_civil(day.year, day.month, day.day) == ordinal - date(1970, 1, 1).toordinal()
