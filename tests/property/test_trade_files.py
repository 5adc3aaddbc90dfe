"""The two readers of trade files agree on every row, whatever stands in the file, and neither loses one."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pks.base.clock import parse_date, parse_time
from pks.base.errors import Refused
from pks.base.units import NotExact, OutOfRange, digits_of, parse_scaled
from pks.edges.files.columns import ColumnReader, Columns, open_columns
from pks.edges.files.forms import Options
from pks.edges.files.rows import RowError, TradeRow
from pks.edges.files.scan import DATE_NONE, PLAIN, Name, parse_decimal, parse_iso_date, parse_utc_time, split_line
from pks.edges.files.trades import read_trades

PRINTS = Options(instrument="XRPETH", quote_currency="ETH", books=("A", "B", "C"))
SCALE = 8

nice_number = st.one_of(
    st.integers(0, 10**12).map(str),
    st.decimals(0, 10**6, allow_nan=False, allow_infinity=False, places=4).map(lambda value: f"{value:f}"),
)
nasty = st.sampled_from(
    [
        "", " ", "  12 ", "-1", "+1", "1e3", "1E-3", ".5", "5.", ".", "-", "NaN", "inf", "0", "00.10", "-0", "0x10", "1_000", "１２",
        "9223372036854775807", "9223372036854775808", "0.000000000000000001", "0.0000000000000000001", "1" * 19, "1" * 41, "1,5", '"1,5"',
        '"', '""', '"a""b"', 'a"b', '"a', 'a"', '"a\nb"', '"12"', '" 12 "', "\x00", "a\x07b", "\t7\t", "é", "\udcff", "x" * 70, "a\rb",
        "=1+1", "12 ", "T0001", "SELL", "buy", "TRADE", "CANCEL",
    ]
)  # fmt: skip
good_times = st.datetimes(datetime(1970, 1, 1), datetime(2261, 12, 31)).map(lambda moment: f"{moment.isoformat()}Z")
times = st.one_of(
    good_times,
    good_times,
    good_times,
    st.sampled_from(
        [
            "2025-03-14T10:05:11Z", "2025-03-14 10:05:11Z", "2025-03-14T10:05:11", "2025-03-14T10:05:11.123456789Z", "2024-02-29T23:59:59Z",
            "2025-02-29T00:00:00Z", "2025-03-14T10:05:11+03:00", "2025-03-14T24:00:00Z", "2025-03-14T10:05:60Z", "2025-13-01T00:00:00Z",
            "2025-03-14T10:05:11.1234567890Z", "2025-03-14T10:05:11.Z", "1969-12-31T23:59:59Z", "2262-04-11T23:47:16Z", "2025-03-14",
            "2025-03-14T10:05:11.5", "2025-03-14t10:05:11z", "0000-00-00T00:00:00Z",
        ]
    ),
)  # fmt: skip
good_dates = st.dates(date(1970, 1, 1), date(2261, 12, 31)).map(str)
dates = st.one_of(good_dates, good_dates, good_dates, st.sampled_from(["2025-02-30", "20250314", "2025-3-14", "1969-12-31", "9999-12-31"]))
ids = st.one_of(st.text("ABCDEFGHIJ0123456789-:", min_size=1, max_size=8), st.text("AB-:", min_size=38, max_size=42))
names = st.sampled_from(["RU-EQ", "SBER.MOEX", "US-EQ", "NSD-RU-01", "RUB", "EXCHANGE", "BLOCK"])
columns_of = {
    "trade_id": ids, "trade_time_utc": times, "trade_time": times, "business_date": dates, "settle_date": dates, "book_id": names,
    "account_id": names, "instrument_id": names, "side": st.sampled_from(["BUY", "SELL"]), "qty": nice_number, "price": nice_number,
    "fee": nice_number, "fee_ccy": names, "source": names, "leg": st.sampled_from(["", "0", "1", "65535", "65536"]),
    "kind": st.sampled_from(["", "TRADE", "TRADE", "AMEND"]),
    "order_id": ids, "venue": names, "note": st.text(max_size=20),
    "lot_id": st.sampled_from(["", "", "", "L1"]), "colour": st.sampled_from(["", "red"]),
}  # fmt: skip
required = ["trade_id", "side", "qty", "price", "instrument_id"]


@st.composite
def field_files(draw: st.DrawFn) -> bytes:
    """A file in our form: mostly good cells, some nasty ones, some broken lines."""
    time_column = draw(st.sampled_from(["trade_time", "trade_time_utc"]))
    others = [name for name in columns_of if name not in required and not name.startswith("trade_time")]
    header = draw(st.permutations([*required, time_column, *draw(st.lists(st.sampled_from(others), unique=True, max_size=8))]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    lines = [",".join(header)]
    for _ in range(draw(st.integers(0, 10))):
        cells = [draw(nasty if draw(st.integers(0, 60)) == 37 else columns_of[name]) for name in header]
        for place, cell in enumerate(cells):
            if header[place] == "note" and any(mark in cell for mark in ',"\n\r'):
                cells[place] = '"' + cell.replace('"', '""') + '"'
            elif draw(st.integers(0, 9)) == 7 and '"' not in cell:
                cells[place] = f'"{cell}"'
        line = ",".join(cells)
        match draw(st.integers(0, 40)):
            case 11:
                line += ","
            case 23:
                line = line.replace(",", "", 1)
            case 31:
                lines.append(draw(st.sampled_from(["", "   ", ",,,", "\t"])))
        lines.append(line)
    body = end.join(lines) + draw(st.sampled_from(["", end, end + end]))
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + body.encode("utf-8", "surrogateescape")


@st.composite
def print_files(draw: st.DrawFn) -> bytes:
    """A file of prints, some cells nasty."""
    header = draw(
        st.sampled_from(
            [
                ["ts_ms", "agg_trade_id", "taker_side", "price", "qty", "cost"],
                ["", "timestamp", "id", "type", "side", "price", "amount", "cost", "date"],
                ["id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match"],
            ]
        )
    )
    start = draw(st.sampled_from([1570752011620, 1570752011620, 1738368000000000, 0, 9223372036853]))
    lines = [",".join(header)]
    for number in range(draw(st.integers(0, 12))):
        values = {
            "price": draw(nice_number), "qty": draw(nice_number), "amount": draw(nice_number), "cost": "1.5", "quote_qty": "2", "type": "",
            "side": draw(st.sampled_from(["buy", "sell", "BUY"])), "taker_side": draw(st.sampled_from(["buy", "sell"])),
            "is_buyer_maker": draw(st.sampled_from(["true", "false", "True"])),
            "id": str(1000 + number), "agg_trade_id": str(1000 + number),
        }  # fmt: skip
        values["ts_ms"] = values["time"] = values["timestamp"] = str(start + draw(st.integers(0, 2)))
        cells = [draw(nasty) if draw(st.integers(0, 29)) == 17 else values.get(name, "") for name in header]
        lines.append(",".join(cells))
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def both(path: Path, options: Options, batch_rows: int) -> tuple[list[TradeRow | RowError], ColumnReader | None]:
    return list(read_trades(path, "csv", options)), open_columns(path, options, batch_rows)


def check_fast_row(columns: Columns, index: int, row: TradeRow, reader: ColumnReader) -> None:
    """What the columns hold is what the text says."""
    assert columns.trade_id[index].decode() == row.trade_id
    assert columns.order_id[index].decode() == row.order_id
    assert columns.line[index] == row.line
    assert columns.side[index] == {"BUY": 1, "SELL": -1}[row.side]
    assert columns.leg[index] == int(row.leg or 0)
    assert row.kind in ("", "TRADE")
    assert columns.qty_raw[index] == parse_scaled(row.quantity, SCALE)
    assert columns.price_raw[index] == parse_scaled(row.price, SCALE)
    assert columns.has_fee[index] == (row.fee != "")
    if row.fee:
        digits = int(columns.fee_digits[index])
        assert columns.fee[index] == parse_scaled(row.fee, digits)
        assert digits == 0 or columns.fee[index] % 10
    assert columns.trade_time_ns[index] == parse_time(row.trade_time, assume_utc=row.trade_time_assumed_utc)
    for found, text in ((columns.business_date[index], row.business_date), (columns.settle_date[index], row.settle_date)):
        assert found == (parse_date(text) if text else DATE_NONE)
    for name in Name:
        assert reader.names(name)[columns.names[index, name]] == getattr(row, name.name.lower())
    assert not (row.lot_id or row.parent_id or row.to_book or row.at or row.open_date)
    if row.note or row.counterparty:
        assert columns.has_detail[index]


def check_agreement(path: Path, options: Options, batch_rows: int) -> int:
    """How many rows went the fast way."""
    slow_rows, reader = both(path, options, batch_rows)
    if reader is None:
        assert len(slow_rows) == 1 or not any(isinstance(row, TradeRow) and row.trade_id == "T1" for row in slow_rows)
        return 0
    fast = at = 0
    if len(slow_rows) == 1 and slow_rows[0].row == 0:
        slow_rows = []  # a header without rows is no row of the columns
    with reader:
        for columns in reader:
            scales = np.full(len(reader.names(Name.INSTRUMENT)), SCALE, np.int64)
            was_slow = columns.slow.copy()
            columns.scale(scales, scales)
            for index in range(columns.count):
                row = slow_rows[at]
                at += 1
                assert columns.row(index) == row
                if not columns.slow[index]:
                    assert isinstance(row, TradeRow)
                    check_fast_row(columns, index, row, reader)
                    fast += 1
                elif not was_slow[index]:
                    assert isinstance(row, TradeRow)
                    with pytest.raises((OutOfRange, NotExact)):
                        parse_scaled(row.quantity, SCALE), parse_scaled(row.price, SCALE)
        assert reader.bytes_read == reader.bytes_count
    assert at == len(slow_rows)
    return fast


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trade_files")
    warm = path / "warm.csv"
    warm.write_text("trade_id,book,instrument,side,quantity,price,trade_time\nT1,B,I,BUY,1,2,2025-03-14T10:05:11Z\n")
    assert check_agreement(warm, Options(), 4) == 1
    return path


SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@SETTINGS
@given(data=field_files(), batch_rows=st.sampled_from([1, 3, 64]))
@example(
    data=b'trade_id,instrument_id,side,qty,price,trade_time\nA,I,BUY,"1\n",2,x\n"B,I,BUY,1,2,\nC,I,BUY,1,2,2025-03-14T10:05:11Z',
    batch_rows=2,
)
@example(data=b"trade_id,note\r\n1,a\rb\r\n\r\r\n2,\r", batch_rows=3)
def test_fast_and_slow_reader_agree_on_trades(folder: Path, data: bytes, batch_rows: int) -> None:
    path = folder / "fields.csv"
    path.write_bytes(data)
    check_agreement(path, Options(), batch_rows)


@SETTINGS
@given(data=print_files(), batch_rows=st.sampled_from([1, 3, 64]))
def test_fast_and_slow_reader_agree_on_prints(folder: Path, data: bytes, batch_rows: int) -> None:
    path = folder / "prints.csv"
    path.write_bytes(data)
    check_agreement(path, PRINTS, batch_rows)


@SETTINGS
@given(data=st.binary(max_size=400), head=st.sampled_from([b"", b"trade_id,price\n", b"[", b"{", b'[{"trade_id":"1"},']))
def test_no_bytes_make_a_reader_fail(folder: Path, data: bytes, head: bytes) -> None:
    path = folder / "garbage.csv"
    path.write_bytes(head + data)
    for format in ("csv", "json", "ndjson", None):
        rows = list(read_trades(path, format))
        assert rows, "a file gives at least one row or error"
        for row in rows:
            repr(row).encode()
    reader = open_columns(path)
    if reader is not None:
        with reader:
            count = sum(len([batch.row(index) for index in range(batch.count)]) for batch in reader)
        assert count == len([row for row in read_trades(path, "csv") if row.row])


@SETTINGS
@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from(["trade_id", "price", "qty", "note", "book"]), st.text(max_size=8), min_size=1), min_size=1
    ),
    indent=st.sampled_from([None, 1]),
)
def test_json_forms_agree(folder: Path, rows: list[dict[str, str]], indent: int | None) -> None:
    array, lines = folder / "rows.json", folder / "rows.ndjson"
    array.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    from_array, from_lines = list(read_trades(array)), list(read_trades(lines))
    assert len(from_array) == len(from_lines) == len(rows)
    for number, (one, other) in enumerate(zip(from_array, from_lines, strict=True), start=1):
        assert one.row == other.row == number
        one.line = other.line
        assert one == other


EXACT = settings(max_examples=1500, deadline=None)
plain_decimals = st.from_regex(r"-?[0-9]{0,21}(\.[0-9]{0,21})?", fullmatch=True) | st.from_regex(
    r"-?0{0,3}[1-9]{1,3}0{0,17}", fullmatch=True
)
day_texts = st.from_regex(r"(1969|197[0-9]|20[0-9]{2}|226[0-3]|1900|2100)-(0[0-9]|1[0-3])-([0-2][0-9]|3[0-2])", fullmatch=True)
clock_texts = st.from_regex(r"[T ]([01][0-9]|2[0-4]):[0-6][0-9]:[0-6][0-9](\.[0-9]{0,10})?(Z|z|)", fullmatch=True)


def bytes_of(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


@EXACT
@given(text=plain_decimals)
def test_a_decimal_is_its_text(text: str) -> None:
    good, mantissa, digits = parse_decimal(bytes_of(text), 0, len(text))
    significant = text.replace(".", "").lstrip("-0")
    if good:
        assert digits == digits_of(text)
        assert mantissa == parse_scaled(text, digits, 128)
    else:
        has_no_digit = not any(character.isdigit() for character in text)
        assert has_no_digit or len(significant) > 18 or len(text.partition(".")[2]) > 18


@EXACT
@given(text=day_texts)
@example(text="2000-02-29")
@example(text="2100-02-29")
@example(text="2025-02-29")
def test_a_date_is_its_text(text: str) -> None:
    good, days = parse_iso_date(bytes_of(text), 0, len(text))
    try:
        expected = parse_date(text)
    except Refused:
        assert not good
        return
    assert good == (1970 <= int(text[:4]) <= 2261)
    assert not good or days == expected


@EXACT
@given(day=day_texts, clock=clock_texts, assumed_utc=st.booleans())
def test_a_time_is_its_text(day: str, clock: str, assumed_utc: bool) -> None:
    text = day + clock
    good, time_ns = parse_utc_time(bytes_of(text), 0, len(text), assumed_utc)
    try:
        expected = parse_time(text, assume_utc=assumed_utc)
    except Refused:
        assert not good
        return
    if good:
        assert time_ns == expected
    else:
        fraction = clock.rstrip("Zz").partition(".")[2]
        assert not 1970 <= int(day[:4]) <= 2261 or clock.endswith("z") or len(fraction) > 9


@EXACT
@given(cells=st.lists(st.text(st.characters(max_codepoint=200, exclude_characters="\r\n"), max_size=4), min_size=1, max_size=4))
@example(cells=["a\x7f"])
@example(cells=["\x80"])
def test_a_plain_line_is_its_cells(cells: list[str]) -> None:
    line = ",".join(cells)
    data = np.frombuffer(line.encode() + b"\n", np.uint8)
    begins, ends = np.zeros(len(cells), np.int64), np.zeros(len(cells), np.int64)
    outcome, _, _ = split_line(data, 0, len(cells), begins, ends)
    ordinary = line.isascii() and line.isprintable() and '"' not in line
    if ordinary and line.count(",") == len(cells) - 1:
        assert outcome == PLAIN or not line.strip()
    if outcome == PLAIN and ordinary:
        assert [bytes(data[begin:end]).decode() for begin, end in zip(begins, ends, strict=True)] == [cell.strip(" ") for cell in cells]
    assert outcome != PLAIN or (line.isascii() and line.isprintable())
