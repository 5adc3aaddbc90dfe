"""Large CSV trade files as columns: batches of numpy arrays at millions of rows a second, with the same meaning as `trades`.

Owns the batches and the way back from a row to its text. The bulk booker calls it; it takes ids and scales by dictionary code, so names
are looked up once and not once a row. What the compiled scan does not settle is marked, and `Columns.row` gives it as
`trades.read_trades` would: a TradeRow or a RowError. It may not look anything up in reference data.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pks.base.clock import parse_time
from pks.base.limits import ROW_BYTES_MAX
from pks.edges.files.csv_lines import Record, Records
from pks.edges.files.forms import FieldsForm, Form, Options, PrintsForm
from pks.edges.files.rows import RowError, TradeRow
from pks.edges.files.scan import (
    ID_BYTES,
    Arrays,
    Cell,
    Name,
    bytes_of_name,
    intern,
    new_arrays,
    new_names,
    rescale,
    scan_rows,
)
from pks.edges.files.trades import HEAD_BYTES, Row, csv_lines, file_fault, lf_lines, read_header

BATCH_ROWS = 1 << 12
"""Rows in a batch: enough that the Python around it does not count, read while the system still works on what an intake ring holds."""

_FIELD_CELLS: dict[str, Cell] = {
    **{name: Cell[name.upper()] for name in ("book", "instrument", "account", "source", "fee_currency", "venue")},
    **{name: Cell[name.upper()] for name in ("trade_id", "leg", "kind", "side", "quantity", "price", "fee")},
    **{name: Cell[name.upper()] for name in ("trade_time", "business_date", "settle_date", "order_id")},
    "counterparty": Cell.DETAIL,
    "note": Cell.DETAIL,
    **{name: Cell.SLOW for name in ("to_book", "at", "open_date", "parent_id", "lot_id")},
    "": Cell.IGNORED,
}
_PRINT_CELLS: dict[str, Cell] = {
    "trade_id": Cell.PRINT_ID,
    "time": Cell.PRINT_TIME,
    "side": Cell.PRINT_SIDE,
    "maker": Cell.PRINT_MAKER,
    "price": Cell.PRICE,
    "quantity": Cell.QUANTITY,
}


class Columns:
    """A batch of rows. Arrays are cut to `count` and are valid until the reader makes the next batch.

    slow: uint8[count], 0 for a row that the columns hold whole; else a scan.Cell, and `row` gives the row. The other arrays are as in
    scan.Arrays, which `arrays` has for compiled code; trade_id and order_id are S40. qty_raw and price_raw: int64[count], set by `scale`.
    """

    def __init__(self, reader: ColumnReader, arrays: Arrays, count: int, first_row: int, made: dict[int, Row]) -> None:
        self._reader, self._made = reader, made
        self.count, self.first_row = count, first_row
        self.arrays = Arrays._make(array[:count] for array in arrays)
        self.line, self.slow = arrays.line[:count], arrays.slow[:count]
        self.trade_id = _texts(arrays.trade_id, count)
        self.order_id = _texts(arrays.order_id, count)
        self.leg, self.side = arrays.leg[:count], arrays.side[:count]
        self.qty, self.qty_digits = arrays.qty[:count], arrays.qty_digits[:count]
        self.price, self.price_digits = arrays.price[:count], arrays.price_digits[:count]
        self.fee, self.fee_digits, self.has_fee = arrays.fee[:count], arrays.fee_digits[:count], arrays.has_fee[:count]
        self.trade_time_ns = arrays.trade_time_ns[:count]
        self.business_date, self.settle_date = arrays.business_date[:count], arrays.settle_date[:count]
        self.has_detail, self.names = arrays.has_detail[:count], arrays.names[:count]
        self.qty_raw, self.price_raw = reader.qty_raw[:count], reader.price_raw[:count]
        self._offset, self._length = arrays.offset[:count], arrays.length[:count]

    def codes(self, name: Name) -> npt.NDArray[np.int32]:
        """int32[count]: codes of a column of names; 0 is none. `ColumnReader.names` tells the texts."""
        return self.names[:, name]

    def scale(self, price_scales: npt.NDArray[np.int64], qty_scales: npt.NDArray[np.int64]) -> None:
        """Fill qty_raw and price_raw. price_scales, qty_scales: int64[instrument codes], -1 for an instrument that is not known.

        A row of an unknown instrument, or whose numbers do not fit its scales exactly, becomes slow.
        """
        codes = np.ascontiguousarray(self.codes(Name.INSTRUMENT))
        rescale(self.qty, self.qty_digits, codes, qty_scales, self.slow, int(Cell.QUANTITY), self.qty_raw)
        rescale(self.price, self.price_digits, codes, price_scales, self.slow, int(Cell.PRICE), self.price_raw)

    def row(self, index: int) -> Row:
        """Row `index` of the batch as text, fast or slow: what read_trades gives for it."""
        made = self._made.get(index)
        if made is not None:
            return made
        record = self._reader.record_at(int(self._offset[index]), int(self._length[index]), int(self.line[index]))
        form = self._reader.form
        if isinstance(form, FieldsForm):
            return form.row(record, self.first_row + index)
        row = form.row_alone(record, self.first_row + index)
        if isinstance(row, TradeRow):
            row.order_id = self.order_id[index].decode()
        return row


class ColumnReader:
    """Iterates the batches of a CSV file. Made by open_columns; close it, or use it as a context manager."""

    def __init__(self, path: Path, form: Form, first_byte: int, first_line: int, batch_rows: int) -> None:
        self.form = form
        self._file = open(path, "rb")
        self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self._data: npt.NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self._at, self._line, self._rows = first_byte, first_line, 0
        self._batch_rows, self._let_go_to = batch_rows, 0
        self._arrays, self._names = new_arrays(batch_rows), new_names()
        self.qty_raw, self.price_raw = np.zeros(batch_rows, np.int64), np.zeros(batch_rows, np.int64)
        self._texts: list[list[str]] = [[""] for _ in Name]
        self._cells = np.array(_cells_of(form), np.int64)
        self._room = np.zeros(len(self._cells), np.int64), np.zeros(len(self._cells), np.int64)
        self._constants, self._book_codes = self._take_options(form)
        self._run: tuple[int, int] | None = None
        self._run_id = bytes(ID_BYTES)
        self._side_codes = {"BUY": 1, "SELL": -1}  # and a code from 2 for each other text that stands in the side's cell

    def __enter__(self) -> ColumnReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back; no batch may be used behind this."""
        self._data = np.zeros(0, np.uint8)
        self._map.close()
        self._file.close()

    @property
    def bytes_count(self) -> int:
        """Size of the file, for a progress bar."""
        return len(self._map)

    @property
    def bytes_read(self) -> int:
        """Where reading has come to."""
        return self._at

    def names(self, name: Name) -> Sequence[str]:
        """The texts of a column's codes so far, by code; 0 is "". It grows from batch to batch, and no code changes."""
        texts = self._texts[name]
        for code in range(len(texts), int(self._names.counts[name]) + 1):
            texts.append(bytes_of_name(self._names, name, code).decode("ascii"))
        return texts

    def __iter__(self) -> Iterator[Columns]:
        while self._at < self._data.size:
            made: dict[int, Row] = {}
            first_row = self._rows + 1
            count = self._fill(made)
            if not count:
                return
            self._rows += count
            self._let_go()
            if isinstance(self.form, PrintsForm):
                self._number_runs(count, first_row, made)
            yield Columns(self, self._arrays, count, first_row, made)

    def _let_go(self) -> None:
        """Hand back the pages that were read: a file of any size takes no memory of ours. Columns.row reads its line again."""
        behind = self._at - self._at % mmap.PAGESIZE
        if behind > self._let_go_to:
            self._map.madvise(mmap.MADV_DONTNEED, self._let_go_to, behind - self._let_go_to)
            self._let_go_to = behind

    def _fill(self, made: dict[int, Row]) -> int:
        count = 0
        while count < self._batch_rows and self._at < self._data.size:
            assumed_utc = isinstance(self.form, FieldsForm) and self.form.assumed_utc
            prints = isinstance(self.form, PrintsForm)
            count, at, line, quoted = scan_rows(
                self._data,
                self._at,
                self._line,
                self._cells,
                self._constants,
                prints,
                assumed_utc,
                self._book_codes,
                count,
                self._batch_rows,
                self._arrays,
                self._names,
                *self._room,
            )
            self._at, self._line = int(at), int(line)
            if quoted:
                made[count] = self._read_quoted(self._rows + count + 1, count)
                count += 1
        return int(count)

    def _read_quoted(self, row: int, index: int) -> Row:
        """The record with quotes at the place reached, the slow way, and the place behind it."""
        self._file.seek(self._at)
        records = Records(lf_lines(self._file), self._line)
        record = next(records)
        self._arrays.line[index], self._arrays.slow[index] = record.line, Cell.ROW
        self._arrays.offset[index] = self._arrays.length[index] = 0
        for _ in range(records.line - self._line):
            end = self._map.find(b"\n", self._at)
            self._at = end + 1 if end >= 0 else len(self._map)
        self._line = records.line
        form = self.form
        return form.row(record, row) if isinstance(form, FieldsForm) else form.row_alone(record, row)

    def record_at(self, offset: int, length: int, line: int) -> Record:
        """The record of a line that the scan has split."""
        # Cut as lf_lines cuts a line that is too long.
        data = self._map[offset : offset + min(length, ROW_BYTES_MAX + 2)]
        return next(Records(iter([data]), line))

    def _take_options(self, form: Form) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        constants = np.zeros(len(Name), np.int64)
        if isinstance(form, FieldsForm):
            return constants, np.zeros(0, np.int64)
        options = form.options
        texts = {
            Name.INSTRUMENT: options.instrument,
            Name.ACCOUNT: options.account,
            Name.SOURCE: form.source,
            Name.FEE_CURRENCY: options.quote_currency,
            Name.VENUE: "BINANCE",
        }
        for name, text in texts.items():
            constants[name] = self._intern(name, text)
        return constants, np.array([self._intern(Name.BOOK, book) for book in options.books], np.int64)

    def _intern(self, name: Name, text: str) -> int:
        data = np.frombuffer(text.encode(), np.uint8)
        return int(intern(data, 0, data.size, int(name), self._names))

    def _number_runs(self, count: int, first_row: int, made: dict[int, Row]) -> None:
        """Give prints their order ids: the first trade id of a run of one side and millisecond, also over the border of two batches."""
        arrays = self._arrays
        milliseconds = arrays.trade_time_ns[:count] // 1_000_000
        sides = arrays.side[:count].astype(np.int64)
        taken = np.ones(count, np.bool_)
        columns = Columns(self, arrays, count, first_row, made)
        for index in np.flatnonzero(arrays.slow[:count]).tolist():
            row = columns.row(index)
            made[index] = row
            taken[index] = isinstance(row, TradeRow) and self._place_slow(row, index, milliseconds, sides)
        places = np.flatnonzero(taken)
        if not places.size:
            return
        milliseconds, sides = milliseconds[places], sides[places]
        opens = np.ones(places.size, np.bool_)
        opens[1:] = (milliseconds[1:] != milliseconds[:-1]) | (sides[1:] != sides[:-1])
        goes_on = self._run == (int(milliseconds[0]), int(sides[0]))
        firsts = np.maximum.accumulate(np.where(opens, np.arange(places.size), 0))
        arrays.order_id[places] = arrays.trade_id[places[firsts]]
        if goes_on:
            head = firsts == 0
            arrays.order_id[places[head]] = np.frombuffer(self._run_id, np.uint8)
        self._run = (int(milliseconds[-1]), int(sides[-1]))
        self._run_id = arrays.order_id[places[-1]].tobytes()
        for index, row in made.items():
            if isinstance(row, TradeRow):
                row.order_id = arrays.order_id[index].tobytes().rstrip(b"\0").decode()

    def _place_slow(self, row: TradeRow, index: int, milliseconds: Any, sides: Any) -> bool:
        """Put what a slow print adds to the runs into the arrays."""
        milliseconds[index] = parse_time(row.trade_time) // 1_000_000
        sides[index] = self._side_codes.setdefault(row.side, len(self._side_codes))
        self._arrays.trade_id[index] = np.frombuffer(row.trade_id.encode().ljust(ID_BYTES, b"\0"), np.uint8)
        return True


def open_columns(path: Path | str, options: Options | None = None, batch_rows: int = BATCH_ROWS) -> ColumnReader | None:
    """A reader of batches, or None where only trades.read_trades will do: not CSV, lines ended by CR alone, or no header of ours.

    Raises OSError where the file cannot be opened.
    """
    path = Path(path)
    with io.BufferedReader(io.FileIO(path), 2 * HEAD_BYTES) as file:
        head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
        opening = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if file_fault(head) is not None or opening in (b"[", b"{") or (b"\r" in head and b"\n" not in head):
            return None
        records = Records(csv_lines(file, head))
        form = read_header(records, options or Options())
        if isinstance(form, RowError):
            return None
    return ColumnReader(path, form, _skip_lines(path, records.line - 1), records.line, batch_rows)


def _skip_lines(path: Path, count: int) -> int:
    """The byte behind the first `count` lines."""
    with open(path, "rb") as file:
        for _ in range(count):
            file.readline()
        return file.tell()


def _cells_of(form: Form) -> list[int]:
    if isinstance(form, FieldsForm):
        if form.openings:
            # A file of opening lots has no trade in it.
            return [Cell.SLOW for _ in form.fields]
        return [_FIELD_CELLS[field] for field in form.fields]
    cells = [int(Cell.IGNORED)] * len(form.header)
    for name, cell in _PRINT_CELLS.items():
        if form.place(name) >= 0:
            cells[form.place(name)] = cell
    return cells


def _texts(array: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.bytes_]:
    return array[:count].view(f"S{ID_BYTES}")[:, 0]
