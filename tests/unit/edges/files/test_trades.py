"""Trade files row by row: the forms, what is refused and how, and the recorded data."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from pks.base.errors import Code
from pks.base.limits import ROW_BYTES_MAX
from pks.base.units import parse_scaled
from pks.edges.files.desk import packaged_desk
from pks.edges.files.forms import Options, print_fee
from pks.edges.files.rows import FIELDS, RowError, TradeRow
from pks.edges.files.trades import ignored_columns, read_trades, sort_rows

DATA = Path(os.environ.get("PKS_SHARED_DATA", Path(__file__).parents[5] / "shared" / "data"))
recorded = pytest.mark.skipif(not DATA.is_dir(), reason=f"no recorded data at {DATA}")
HEADER = "trade_id,book,instrument,side,quantity,price,trade_time\n"
GOOD = "T1,B,I,BUY,1,2,2025-03-14T10:05:11Z\n"


def rows_of(data: bytes | str, format: str | None = None, options: Options | None = None) -> list[TradeRow | RowError]:
    return list(read_trades(io.BytesIO(data if isinstance(data, bytes) else data.encode()), format, options))


def errors_of(data: bytes | str, format: str | None = None) -> list[tuple[int, int, Code, str]]:
    return [(row.line, row.row, row.code, row.field) for row in rows_of(data, format) if isinstance(row, RowError)]


def trade_ids(data: bytes | str, format: str | None = None) -> list[str]:
    return [row.trade_id for row in rows_of(data, format) if isinstance(row, TradeRow)]


def test_the_desk_headers_are_aliases() -> None:
    rows = list(read_trades(packaged_desk() / "trades.csv"))
    first = rows[0]
    assert isinstance(first, TradeRow)
    assert (first.line, first.row, first.book, first.account, first.quantity) == (2, 1, "RU-EQ", "NSD-RU-01", "12000")
    assert (first.fee_currency, first.trade_time, first.trade_time_assumed_utc) == ("RUB", "2025-03-14T10:05:11Z", True)
    child = list(read_trades(packaged_desk() / "allocations.csv"))[1]
    assert isinstance(child, TradeRow)
    assert (child.trade_id, child.parent_id, child.quantity, child.fee) == ("T0004-A2", "T0004", "3000", "38.83")


def test_columns_that_are_no_field_are_named(tmp_path: Path) -> None:
    file = tmp_path / "trades.csv"
    file.write_text("trade_id,book,instrument,side,quantity,price,trade_time,acount,Colour\n" + GOOD.strip() + ",A,red\n")
    assert ignored_columns(file, None, Options()) == ["acount", "Colour"]
    assert trade_ids(file.read_bytes()) == ["T1"], "its rows are taken all the same"
    for other in (HEADER + GOOD, '[{"trade_id": "T1", "colour": "red"}]', "", "no header of ours\n", "\x00" * 64):
        file.write_text(other)
        assert ignored_columns(file, None, Options()) == []
    assert ignored_columns(packaged_desk() / "trades.csv", None, Options()) == []


def test_every_field_in_csv_and_json() -> None:
    values = {field: f"{field}-value" for field in FIELDS}
    csv_row = rows_of(",".join(values) + "\n" + ",".join(values.values()) + "\n")[0]
    json_row = rows_of(json.dumps([values]))[0]
    for row in (csv_row, json_row):
        assert isinstance(row, TradeRow)
        assert {field: getattr(row, field) for field in FIELDS} == values


@pytest.mark.parametrize(
    ("data", "code", "field"),
    [
        (b"", Code.BAD_ROW, ""),
        (b" \n\n", Code.BAD_ROW, ""),
        (HEADER.encode(), Code.BAD_ROW, ""),
        (HEADER.encode("utf-16"), Code.BAD_ENCODING, ""),
        (HEADER.encode("utf-16-le"), Code.BAD_ENCODING, ""),
        (bytes(range(256)) * 100, Code.BAD_ENCODING, ""),
        (b"PK\x03\x04\x14\x00\x06\x00" + b"\x8b" * 40, Code.BAD_ENCODING, ""),
        (b"a;b;c\n1;2;3\n4;5;6\n", Code.BAD_ROW, ""),
        (b"book,price\n1,2\n1,2\n", Code.MISSING_FIELD, "trade_id"),
        (b"trade_id,qty,quantity\n1,2,3\n", Code.BAD_ROW, "quantity"),
        (b'trade_id,"price\n1,2\n', Code.BAD_ROW, ""),
        (b"[]", Code.BAD_ROW, ""),
        (b"ts_ms,agg_trade_id,taker_side,price,qty\n1,1,buy,1,1\n", Code.MISSING_FIELD, "instrument"),
    ],
)
def test_a_file_that_is_none_gives_one_error(data: bytes, code: Code, field: str) -> None:
    rows = rows_of(data)
    assert [(row.row, row.code, row.field) for row in rows if isinstance(row, RowError)] == [(0, code, field)]
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("line", "code", "field"),
    [
        (b"T2,B,I,BUY,1,2", Code.BAD_ROW, ""),
        (b"T2,B,I,BUY,1,2,x,y", Code.BAD_ROW, ""),
        (b"T2,B,\xcf\xf0,BUY,1,2,x", Code.BAD_ENCODING, "instrument"),
        (b"T2,B,I\x00,BUY,1,2,x", Code.BAD_TEXT, "instrument"),
        (b"T\x0b2,B,I,BUY,1,2,x", Code.BAD_TEXT, "trade_id"),
        (b'T2,"B"x,I,BUY,1,2,x', Code.BAD_ROW, ""),
        (b'"T2,B,I,BUY,1,2,x', Code.BAD_ROW, ""),
        (b"T2," + b"x" * ROW_BYTES_MAX + b",I,BUY,1,2,x", Code.BAD_ROW, ""),
    ],
)
def test_a_bad_row_is_named_and_the_rest_goes_on(line: bytes, code: Code, field: str) -> None:
    data = HEADER.encode() + GOOD.encode() + line + b"\n" + GOOD.replace("T1,", "T3,").encode()
    assert errors_of(data) == [(3, 2, code, field)]
    assert trade_ids(data) == ["T1", "T3"]


def test_a_quote_that_is_never_closed_costs_one_row() -> None:
    data = HEADER + '"T0,B\n' + "".join(GOOD.replace("T1,", f"T{number},") for number in range(1, 200))
    assert errors_of(data) == [(2, 1, Code.BAD_ROW, "")]
    assert len(trade_ids(data)) == 199


def test_quotes_bom_blanks_and_ends_of_lines() -> None:
    for end in ("\n", "\r\n", "\r"):
        data = "\ufefftrade_id,note,price\n" + '"T,1","say ""x""",  1.5 \n\n T2 ,,2\n'
        rows = rows_of(data.replace("\n", end))
        assert [(row.trade_id, row.note, row.price) for row in rows if isinstance(row, TradeRow)] == [
            ("T,1", 'say "x"', "1.5"),
            ("T2", "", "2"),
        ]
        assert [row.line for row in rows] == [2, 4]


def test_a_note_may_have_lines_and_an_id_may_not() -> None:
    rows = rows_of('trade_id,note\n1,"two\nlines"\n"2\n3",x\n4,x\n')
    assert isinstance(rows[0], TradeRow)
    assert rows[0].note == "two\nlines"
    assert isinstance(rows[1], RowError)
    assert (rows[1].line, rows[1].code, rows[1].field) == (4, Code.BAD_TEXT, "trade_id")
    assert (rows[2].line, rows[2].row) == (6, 3)


def test_json_numbers_keep_their_digits() -> None:
    text = '[{"trade_id": "1", "price": 0.1000000000000000055, "qty": 1e2, "fee": NaN, "leg": 99999999999999999999, "note": null}]'
    row = rows_of(text)[0]
    assert isinstance(row, TradeRow)
    assert (row.price, row.quantity, row.fee, row.leg, row.note) == ("0.1000000000000000055", "1e2", "NaN", "99999999999999999999", "")


def test_json_rows_that_are_none() -> None:
    items = [
        '{"trade_id": "1"}', "7", '{"trade_id": true}', '{"trade_id": "2", "trade_id": "3"}', '{"qty": 1, "quantity": 2}', '{"book": [1]}',
        '{"trade_id": "\\ud800"}', '{"trade_id": "a\\u0000"}', '{"trade_id": "4", }', '{"trade_id": "9"}',
    ]  # fmt: skip
    array = "[" + ",\n".join(items) + "]"
    codes = [Code.BAD_ROW] * 5 + [Code.BAD_ENCODING, Code.BAD_TEXT, Code.BAD_ROW]
    assert [code for _, _, code, _ in errors_of(array)] == codes
    assert [line for line, _, _, _ in errors_of(array)] == list(range(2, 10))
    assert [code for _, _, code, _ in errors_of("\n".join(items), "ndjson")] == codes
    assert trade_ids(array) == trade_ids("\n".join(items), "ndjson") == ["1", "9"]


def test_a_json_row_that_is_refused_keeps_its_trade_id() -> None:
    rows = rows_of(
        '[{"trade_id": "a", "quantity": {"of": 1}}, {"quantity": [1], "trade_id": "b"}, {"qty": "1", "quantity": "2", "trade_id": "c"}]',
        "json",
    )
    assert [(row.trade_id, row.field) for row in rows if isinstance(row, RowError)] == [
        ("a", "quantity"),
        ("b", "quantity"),
        ("c", "quantity"),
    ]


def test_json_that_breaks_off() -> None:
    assert trade_ids('[{"trade_id": "1"}, {"trade_id": "2"') == ["1"]
    assert errors_of('[{"trade_id": "1"}, {"trade_id": "2"') == [(1, 2, Code.BAD_ROW, "")]
    assert errors_of('[{"trade_id": "1"}] tail') == [(1, 2, Code.BAD_ROW, "")]
    deep = '[{"trade_id": "1"}, ' + "[" * 100_000 + "]" * 100_000 + "]"
    assert (errors_of(deep, "json"), trade_ids(deep, "json")) == ([(1, 2, Code.BAD_ROW, "")], ["1"])


def test_terms_of_an_otc_trade_stay_together() -> None:
    row = rows_of('{"trade_id": "1", "instrument": {"type": "IRS", "rate": 3.95}}')[0]
    assert isinstance(row, TradeRow)
    assert (row.instrument, row.instrument_terms) == ("", '{"rate":"3.95","type":"IRS"}')


def test_large_files_need_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with open(path, "w") as file:
        file.write("[")
        for number in range(60_000):
            file.write(f'{"," if number else ""}{{"trade_id": "{number}", "price": "1.5", "quantity": "10", "note": "{"x" * 80}"}}')
        file.write("]")
    assert path.stat().st_size > 8_000_000
    tracemalloc.start()
    count = sum(isinstance(row, TradeRow) for row in read_trades(path))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 60_000
    assert peak_bytes < 4_000_000


def test_rows_are_sorted_by_time_and_ties_stay() -> None:
    times = ["2025-01-02T00:00:00Z", "2025-01-01T00:00:00Z", "", "2025-01-02T00:00:00.0Z", "2025-01-02T03:00:00+03:00", "rubbish"]
    rows = rows_of(HEADER + "".join(f"T{number},B,I,BUY,1,2,{time}\n" for number, time in enumerate(times)) + "ragged\n")
    assert [row.trade_id for row in sort_rows(rows)] == ["", "T1", "T0", "T3", "T4", "T2", "T5"]


def test_opening_lots_come_before_the_trades() -> None:
    rows = rows_of("kind,trade_id,lot_id,trade_time\n,T1,,2025-01-01T00:00:00Z\nOPENING,,L1,\nCANCEL,T1,,\n")
    assert [row.kind for row in sort_rows(rows) if isinstance(row, TradeRow)] == ["OPENING", "", "CANCEL"]


def test_fee_of_a_print_is_exact() -> None:
    assert print_fee("0.00141342", "23") == "0.00003250866"
    assert print_fee("1666.8", "26.062") == "43.4401416"
    assert print_fee("NaN", "1") == ""


@recorded
def test_hyperliquid_fills() -> None:
    rows = [row for row in read_trades(DATA / "hyperliquid_user_fills_2023.json", options=Options(books=("HL",), account="A"))]
    assert len(rows) == 361
    fills = [row for row in rows if isinstance(row, TradeRow)]
    assert len({fill.trade_id for fill in fills}) == 361
    first = fills[0]
    assert first.trade_id == "0x3d4770d0527317ef77c404017559cb0103000b34010cc95e97b437cbc3b6087a:189324432:1.3189:142.7"
    assert (first.instrument, first.side, first.quantity, first.price) == ("SUI", "SELL", "142.7", "1.3189")
    assert (first.source, first.book, first.account, first.order_id, first.trade_time) == (
        "HYPERLIQUID", "HL", "A", "189324432", "2023-05-05T00:18:04.863Z",
    )  # fmt: skip
    for fill in fills:
        parse_scaled(fill.quantity, 8), parse_scaled(fill.price, 8)
    ordered = [row for row in sort_rows(fills) if isinstance(row, TradeRow)]
    assert [row.trade_time for row in ordered] == sorted(row.trade_time for row in fills)
    last_hash = first.trade_id.split(":")[0]
    assert [row.row for row in ordered if row.trade_id.startswith(last_hash)] == [1, 2, 3], "one hash stays in the order of execution"


@recorded
@pytest.mark.parametrize(
    ("name", "count", "fourth"),
    [
        (
            "binance_spot_XRPETH_trades_201910.csv",
            12477,
            ("13519810", "A", "BUY", "581", "0.00141379", "0.00082141199", "2019-10-11T00:00:28.907Z"),
        ),
        (
            "binance_usdm_public_trades_20230202.csv",
            1000,
            ("1206419190", "A", "BUY", "0.006", "1666.81", "0.01000086", "2023-02-02T09:20:00.228Z"),
        ),
    ],
)
def test_binance_prints(name: str, count: int, fourth: tuple[str, ...]) -> None:
    rows = list(read_trades(DATA / name, options=Options(instrument="PAIR", quote_currency="ETH", books=("A", "B"))))
    prints = [row for row in rows if isinstance(row, TradeRow)]
    assert len(rows) == len(prints) == count
    row = prints[3]
    assert (row.trade_id, row.book, row.side, row.quantity, row.price, row.fee, row.trade_time) == fourth
    run = ""
    last = ("", "")
    for row in prints:
        if (row.trade_time, row.side) != last:
            run, last = row.trade_id, (row.trade_time, row.side)
        assert row.order_id == run
        parse_scaled(row.quantity, 8), parse_scaled(row.price, 8)
