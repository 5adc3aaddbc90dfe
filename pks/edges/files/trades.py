"""Trade files, row by row: CSV, JSON and NDJSON in our form, the demo desk's and the recorded venues'.

Owns opening a file, telling its format and encoding, and going on behind every row that cannot be read. The command line and the batch
interface call it; `columns` is the quick way for large CSV files and gives the same rows. It makes no numbers and knows no reference
data. Memory is bounded by the longest row, whatever the file's size.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pks.base.clock import TIME_NS_MAX, TIME_NS_MIN, parse_time
from pks.base.errors import Code, Refused
from pks.base.limits import ROW_BYTES_MAX
from pks.edges.files.csv_lines import Records
from pks.edges.files.forms import FieldsForm, Form, Options, form_of, object_row, unique_object
from pks.edges.files.rows import RowError, TradeRow, row_error

FORMATS = ("csv", "json", "ndjson")

HEAD_BYTES = 1 << 16
"""How much of a file is looked at to tell its format; also the least that a JSON row may take."""

CONTROL_SHARE_MAX = 0.05
"""More control characters than this share of the head make a file binary: random bytes have a tenth, text has none."""

JSON_CHUNK_BYTES = 1 << 18
"""Bytes read at a time from a JSON file; at least two rows of the largest size."""
assert JSON_CHUNK_BYTES >= 2 * ROW_BYTES_MAX

_BOM = codecs.BOM_UTF8
_WIDE_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_CONTROL = bytes(range(9)) + bytes(range(14, 32)) + b"\x0b\x0c\x7f"
_BETWEEN = re.compile(r"[\s,]*")
_NEXT_OBJECT = re.compile(r"\}\s*,?\s*(?=\{)")

Row = TradeRow | RowError


def read_trades(path: Path | str | BinaryIO, format: str | None = None, options: Options | None = None) -> Iterator[Row]:
    """Every row of a trade file in its order: a TradeRow, or a RowError for one that is not understood; the others go on.

    format: csv, json or ndjson; None takes the name's ending, else the first character. A file that is no trade file at all gives one
    RowError with row 0. Raises OSError where the file cannot be opened, ValueError for an unknown format.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format {format!r}: must be one of {', '.join(FORMATS)}")
    options = options or Options()
    if isinstance(path, Path | str):
        with open(path, "rb", buffering=2 * HEAD_BYTES) as file:
            yield from _read(file, format or _format_of_name(Path(path)), options)
    else:
        yield from _read(io.BufferedReader(path, 2 * HEAD_BYTES), format, options)


def sort_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows by trade_time; ties, and rows alike below, keep the file's order.

    Errors come first, then opening lots without a time. Other rows without a readable time come last: corrections need none, and follow
    the trades that they correct.
    """
    return sorted(rows, key=_sort_key)


def file_fault(head: bytes) -> RowError | None:
    """What makes a file with these first bytes no text file, as the one error for all of it; None for text."""
    if not head.strip():
        return row_error(Code.BAD_ROW, "the file is empty")
    if head.startswith(_WIDE_BOMS):
        return row_error(Code.BAD_ENCODING, "the file is UTF-16 or UTF-32; it must be UTF-8", value=head[:4])
    controls_count = len(head) - len(head.translate(None, _CONTROL))
    if controls_count > CONTROL_SHARE_MAX * len(head):
        reason = f"not a text file: {controls_count} control characters in the first {len(head)} bytes"
        return row_error(Code.BAD_ENCODING, reason, value=head[:16])
    return None


def csv_lines(file: BinaryIO, head: bytes) -> Iterator[bytes]:
    """The lines of a file at its start, without their ends and without a BOM; a line over ROW_BYTES_MAX is cut just beyond it."""
    lines = _cr_lines(file) if b"\r" in head and b"\n" not in head else lf_lines(file)
    first = next(lines, b"")
    yield first.removeprefix(_BOM)
    yield from lines


def ignored_columns(path: Path, format: str | None, options: Options) -> list[str]:
    """Names in the header of a CSV file in our form that are no field: a misspelt one would be missed by nobody but its owner."""
    if not path.is_file():
        return []  # a pipe is read once
    with io.BufferedReader(io.FileIO(path), 2 * HEAD_BYTES) as file:
        head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
        opening = head.removeprefix(_BOM).lstrip()[:1]
        if (format or _format_of_name(path) or "csv") != "csv" or opening in (b"[", b"{", b"") or file_fault(head) is not None:
            return []
        form = read_header(Records(csv_lines(file, head)), options)
    return [name for name, field in zip(form.header, form.fields, strict=True) if not field] if isinstance(form, FieldsForm) else []


def _format_of_name(path: Path) -> str | None:
    ending = path.suffix.lower().lstrip(".")
    return {"jsonl": "ndjson", "txt": "csv"}.get(ending, ending if ending in FORMATS else None)


def _read(file: Any, format: str | None, options: Options) -> Iterator[Row]:
    head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
    fault = file_fault(head)
    if fault is not None:
        yield fault
        return
    opening = head.removeprefix(_BOM).lstrip()[:1]
    if format is None:
        format = {b"[": "json", b"{": "ndjson"}.get(opening, "csv")
    rows = 0
    for row in _READERS[format](file, head, options):
        rows += 1
        yield row
    if not rows:
        yield row_error(Code.BAD_ROW, "the file has no rows" if format != "csv" else "the file has a header and no rows", line=1)


def _read_csv(file: BinaryIO, head: bytes, options: Options) -> Iterator[Row]:
    records = Records(csv_lines(file, head))
    form = read_header(records, options)
    if isinstance(form, RowError):
        yield form
        return
    for number, record in enumerate(records, start=1):
        yield form.row(record, number)


def read_header(records: Records, options: Options) -> Form | RowError:
    """The form that the next record, a header, says; a RowError with row 0 for a header of no form."""
    header = next(records)
    if header.fault:
        return row_error(header.code, f"the header: {header.fault}", line=header.line)
    try:
        return form_of(header.cells, options)
    except Refused as refused:
        return row_error(refused.code, refused.reason, line=header.line, field=refused.field, value=refused.value)


def lf_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file from where it stands, without their LF or CR LF; one over ROW_BYTES_MAX is cut two bytes beyond it."""
    longest = ROW_BYTES_MAX + 2  # a line of the largest size, with its CR LF
    while line := file.readline(longest):
        if line.endswith(b"\n"):
            yield line[:-2] if line.endswith(b"\r\n") else line[:-1]
            continue
        yield line
        while len(line) == longest and not line.endswith(b"\n"):
            line = file.readline(longest)


def _cr_lines(file: BinaryIO) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(HEAD_BYTES):
        *lines, rest = (rest + chunk).split(b"\r")
        yield from lines
        if len(rest) > ROW_BYTES_MAX:
            rest = rest[: ROW_BYTES_MAX + 1]
    if rest:
        yield rest


def _read_ndjson(file: BinaryIO, head: bytes, options: Options) -> Iterator[Row]:
    decoder = _json_decoder()
    row = 0
    for line, data in enumerate(csv_lines(file, head), start=1):
        if not data.strip():
            continue
        row += 1
        if len(data) > ROW_BYTES_MAX:
            yield row_error(Code.BAD_ROW, f"longer than {ROW_BYTES_MAX} bytes", line=line, row=row)
            continue
        text = data.decode("utf-8", "surrogateescape")
        try:
            value = decoder.decode(text)
        except (json.JSONDecodeError, RecursionError) as error:
            yield row_error(_code_of(text), f"broken JSON: {_reason(error)}", line=line, row=row, value=text)
            continue
        yield object_row(value, line, row, options)


def _read_json(file: BinaryIO, head: bytes, options: Options) -> Iterator[Row]:
    """An array of objects, or objects one after the other."""
    text = _JsonText(file)
    decoder = _json_decoder()
    if text.next_character() == "[":
        text.skip(1)
    row = 0
    while character := text.next_character():
        if character == "]":
            text.skip(1)
            if text.next_character():
                yield row_error(Code.BAD_ROW, "text behind the end of the array", line=text.line, row=row + 1, value=text.shown())
            return
        row += 1
        line = text.line
        try:
            value, end = decoder.raw_decode(text.buffer, text.position)
        except (json.JSONDecodeError, RecursionError) as error:
            shown = text.shown()
            yield row_error(_code_of(shown), f"broken JSON: {_reason(error)}", line=line, row=row, value=shown)
            text.skip_to_next_object(getattr(error, "pos", text.position))
            continue
        text.skip(end - text.position)
        yield object_row(value, line, row, options)


class _JsonText:
    """A window over the text of a JSON file: always at least one row of the largest size, or all that is left."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._ended = False
        self.buffer, self.position, self.line = "", 0, 1
        self._fill()
        self.buffer = self.buffer.removeprefix("\ufeff")

    def _fill(self) -> None:
        while not self._ended and len(self.buffer) - self.position < ROW_BYTES_MAX:
            chunk = self._file.read(JSON_CHUNK_BYTES)
            self._ended = not chunk
            self.buffer = self.buffer[self.position :] + self._decode(chunk, self._ended)
            self.position = 0

    def skip(self, count: int) -> None:
        self.line += self.buffer.count("\n", self.position, self.position + count)
        self.position += count

    def next_character(self) -> str:
        """The first character that is neither blank nor a comma, "" at the end."""
        while True:
            self._fill()
            blanks = _BETWEEN.match(self.buffer, self.position)
            assert blanks is not None, "the pattern matches nothing as well"
            self.skip(blanks.end() - self.position)
            if self.position < len(self.buffer) or self._ended:
                return self.buffer[self.position : self.position + 1]

    def skip_to_next_object(self, broken_at: int) -> None:
        """Behind the next place where one object ends and another begins, from `broken_at` in the window; else to the end."""
        start = max(broken_at, self.position)
        while True:
            found = _NEXT_OBJECT.search(self.buffer, start)
            if found is not None:
                self.skip(found.end() - self.position)
                return
            # A row's end and the next one's beginning may lie on both sides of the window's end: a few blanks stay in it.
            kept_from = len(self.buffer) if self._ended else max(len(self.buffer) - HEAD_BYTES // 2, start)
            self.skip(kept_from - self.position)
            if self._ended:
                return
            self._fill()
            start = self.position

    def shown(self) -> str:
        return self.buffer[self.position : self.position + 200]


def _json_decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=unique_object, parse_float=str, parse_int=str, parse_constant=str)


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"


def _code_of(text: str) -> Code:
    return Code.BAD_ENCODING if any("\ud800" <= character <= "\udfff" for character in text) else Code.BAD_ROW


def _sort_key(row: Row) -> tuple[int, int]:
    if isinstance(row, RowError):
        return 0, TIME_NS_MIN
    if row.kind == "OPENING" and not row.trade_time:
        return 1, TIME_NS_MIN
    try:
        return 2, parse_time(row.trade_time, assume_utc=row.trade_time_assumed_utc)
    except Refused:
        return 3, TIME_NS_MAX  # no time, or one that is refused where the row is booked


_READERS = {"csv": _read_csv, "json": _read_json, "ndjson": _read_ndjson}
assert _READERS.keys() == set(FORMATS)
