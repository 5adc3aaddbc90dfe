"""Output forms of the reading commands: a table for people; JSON, CSV and Arrow for programs; a progress bar on long folds.

Owns how rows become text and bytes, and where they go. Rows are dicts in the words of the JSON answer, decimals as texts, and may come
from a generator: no form but the table's first page is held in memory. Any command may call it; it may not know what a row means.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import wraps
from pathlib import Path
from typing import IO, Any, TypeVar

import click
import msgspec

from pks.base.clock import parse_date, parse_time
from pks.base.errors import Retryable
from pks.past.progress import Bar

F = TypeVar("F", bound=Callable[..., Any])
Row = Mapping[str, Any]
Footer = Callable[[], Iterable[str]]

WIDTH_ROWS = 1000
"""Rows that a table looks at before it writes the first one; a wider value further down moves its own line only."""

ARROW_ROWS = 1 << 14
"""Rows of one Arrow record batch."""

ARROW_DIGITS, ARROW_SCALE = 38, 18
"""Every raw int64 at any scale up to 18 fits: 20 digits before the point, 18 behind."""

PEOPLE_PLACES = 8
"""Places of money in tables for people, as a coin has them; JSON and CSV are exact."""

WIDE = Context(prec=100)
"""Digits enough for 128-bit money with a multiplier."""

GAP = "  "


class CannotWrite(Retryable):
    """The file that was asked for cannot be written."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path} cannot be written: {error.strerror or error}")
        self.path = path


def no_lines() -> Iterable[str]:
    """Nothing below a table."""
    return ()


@dataclass(frozen=True, slots=True)
class Column:
    """One column. shown: False leaves it out of the table for people.

    kind: text, decimal (of 64 bits), money (any decimal; text in Arrow), int, time (RFC 3339), date (ISO), map (name to decimal).
    """

    name: str
    kind: str = "text"
    title: str = ""
    shown: bool = True

    @property
    def heading(self) -> str:
        return self.title or self.name.replace("_", " ")

    @property
    def right(self) -> bool:
        """Are its values right-aligned?"""
        return self.kind in ("decimal", "money", "int")


@dataclass(frozen=True, slots=True)
class Output:
    """The form that the user asked for."""

    as_json: bool = False
    as_csv: bool = False
    arrow: str | None = None

    @property
    def for_people(self) -> bool:
        return not (self.as_json or self.as_csv or self.arrow)

    def write(self, columns: Sequence[Column], rows: Iterable[Row], footer: Footer = no_lines, empty: str = "") -> None:
        """Write all rows. footer: lines below a table for people, asked for after its last row. empty: said there instead of no rows."""
        if self.as_json:
            write_json(rows)
        elif self.as_csv:
            write_csv(columns, rows)
        elif self.arrow:
            write_arrow(columns, rows, self.arrow)
        else:
            write_table(columns, rows, footer, empty)


def output_options(function: F) -> F:
    """--json, --csv and --arrow, given to the command as `output: Output`."""

    @click.option("--json", "as_json", is_flag=True, help="one JSON array; decimals are strings")
    @click.option("--csv", "as_csv", is_flag=True, help="CSV with a header line, exact")
    @click.option(
        "--arrow",
        is_flag=False,
        flag_value="-",
        metavar="[FILE]",
        help="an Arrow stream on stdout; with FILE an Arrow file (IPC file format)",
    )
    @wraps(function)
    def wrapped(*args: Any, as_json: bool, as_csv: bool, arrow: str | None, **kwargs: Any) -> Any:
        if as_json + as_csv + (arrow is not None) > 1:
            raise click.UsageError("give one of --json, --csv and --arrow")
        return function(*args, output=Output(as_json, as_csv, arrow), **kwargs)

    return wrapped  # type: ignore[return-value]


# For programs.


def write_json(rows: Iterable[Row]) -> None:
    """One JSON array, a row a line, UTF-8 whatever the locale."""
    encode = msgspec.json.Encoder().encode
    with binary_stdout() as out:
        opening = b"["
        for row in rows:
            out.write(opening + b"\n" + encode(row))
            opening = b","
        out.write(b"[]\n" if opening == b"[" else b"\n]\n")


def write_ndjson(rows: Iterable[Row]) -> None:
    """One JSON object a line."""
    encode = msgspec.json.Encoder().encode
    with binary_stdout() as out:
        for row in rows:
            out.write(encode(row) + b"\n")


def write_csv(columns: Sequence[Column], rows: Iterable[Row]) -> None:
    """RFC 4180 with plain line ends, UTF-8; a map is "USD 1.2; BTC 0.001"; what is null is empty."""
    with binary_stdout() as out:
        text = io.TextIOWrapper(out, "utf-8", newline="", write_through=False)
        try:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow([column.name for column in columns])
            names = [column.name for column in columns]
            maps = [place for place, column in enumerate(columns) if column.kind == "map"]
            for row in rows:
                values = list(map(row.get, names))
                for place in maps:
                    values[place] = cell(values[place])
                writer.writerow(values)
            text.flush()
        finally:
            text.detach()


def write_arrow(columns: Sequence[Column], rows: Iterable[Row], target: str) -> None:
    """An Arrow stream on stdout for "-", else an Arrow file, which is there whole or not at all. Raises CannotWrite."""
    import pyarrow as pa

    schema = pa.schema([(column.name, _arrow_type(pa, column.kind)) for column in columns])

    def batches() -> Iterator[Any]:
        source = iter(rows)
        while batch := list(itertools.islice(source, ARROW_ROWS)):
            arrays = [_arrow_array(pa, column, [row.get(column.name) for row in batch]) for column in columns]
            yield pa.record_batch(arrays, schema=schema)

    write_batches(schema, batches(), target)


def write_batches(schema: Any, batches: Iterable[Any], target: str) -> None:
    """Arrow record batches of one schema to where `write_arrow` says. Raises CannotWrite."""
    import pyarrow as pa

    if target == "-":
        with binary_stdout() as out, pa.ipc.new_stream(pa.PythonFile(out, "w"), schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        return
    path = Path(target)
    making = path.with_name(path.name + ".making")
    try:
        with making.open("wb") as file, pa.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        making.rename(path)
    except OSError as error:
        making.unlink(missing_ok=True)
        raise CannotWrite(path, error) from error


def _arrow_type(pa: Any, kind: str) -> Any:
    return {
        "text": pa.string(),
        "decimal": pa.decimal128(ARROW_DIGITS, ARROW_SCALE),
        "money": pa.string(),
        "int": pa.int64(),
        "time": pa.timestamp("ns", "UTC"),
        "date": pa.date32(),
        "map": pa.map_(pa.string(), pa.string()),
    }[kind]


def _arrow_array(pa: Any, column: Column, values: list[Any]) -> Any:
    kind = _arrow_type(pa, column.kind)
    if column.kind == "decimal":
        values = [None if value is None else Decimal(value) for value in values]
    elif column.kind == "time":
        values = [None if value is None else parse_time(value) for value in values]
    elif column.kind == "date":
        return pa.array([None if value is None else parse_date(value) for value in values], pa.int32()).cast(kind)
    elif column.kind == "map":
        values = [None if value is None else list(value.items()) for value in values]
    return pa.array(values, kind)


def cell(value: Any) -> str:
    """A value as the text of a CSV field."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {amount}" for name, amount in value.items())
    return str(value)


@contextlib.contextmanager
def binary_stdout() -> Iterator[IO[bytes]]:
    """Standard output for bytes, flushed at the end, so that a reader who went away is noticed here and not when the interpreter ends."""
    sys.stdout.flush()
    out = sys.stdout.buffer
    yield out
    out.flush()


# For people.


def write_table(columns: Sequence[Column], rows: Iterable[Row], footer: Footer = no_lines, empty: str = "") -> None:
    """Aligned columns under a heading; numbers to the right."""
    shown = [column for column in columns if column.shown]
    source = (tuple(_for_people(column, row.get(column.name)) for column in shown) for row in rows)
    first = list(itertools.islice(source, WIDTH_ROWS))
    if first:
        headings = tuple(column.heading for column in shown)
        widths = [max(width_of(line[place]) for line in (headings, *first)) for place in range(len(shown))]
        out = io.StringIO()
        for number, line in enumerate(itertools.chain([headings], first, source)):
            padded = (pad(text, width, column.right) for text, width, column in zip(line, widths, shown, strict=True))
            out.write(GAP.join(padded).rstrip() + "\n")
            if number % WIDTH_ROWS == 0 and number:
                say(out.getvalue())
                out = io.StringIO()
        say(out.getvalue())
    elif empty:
        say(empty + "\n")
    for text in footer():
        say(text + "\n")


def say(text: str) -> None:
    """Write text on stdout; characters that the terminal's encoding lacks are shown by their codes."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def _for_people(column: Column, value: Any) -> str:
    if value is None:
        return ""
    if column.kind == "money":
        return rounded(str(value), PEOPLE_PLACES)
    return "".join(character if character.isprintable() else " " for character in cell(value))


def rounded(text: str, places: int) -> str:
    """A decimal's text with at most so many places, half-even."""
    if len(text.partition(".")[2]) <= places:
        return text
    value = Decimal(text).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN, WIDE)
    return format(value if value else abs(value), "f").rstrip("0").rstrip(".")


def width_of(text: str) -> int:
    """Columns of a terminal that the text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def pad(text: str, width: int, right: bool) -> str:
    """The text with blanks to `width` columns."""
    blanks = " " * max(0, width - width_of(text))
    return blanks + text if right else text + blanks


# For those who wait.


def progress(length: int, label: str) -> AbstractContextManager[Bar]:
    """A progress bar on stderr, where that is a terminal."""
    return click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty())


def note(text: str) -> None:
    """A line on stderr that is no error."""
    click.echo(f"pks: {' '.join(text.split())}", err=True)
