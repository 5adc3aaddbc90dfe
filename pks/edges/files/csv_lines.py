"""CSV as records of cells, from bytes, one at a time and with its line.

Owns the splitting of lines, quotes after RFC 4180, and the recovery behind a quote that is never closed. Both readers of trade files
use it, so that they agree. Knows no field. Encoding faults stay in the cells as surrogates, for whoever knows the cell's name.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from pks.base.errors import Code
from pks.base.limits import ROW_BYTES_MAX

QUOTED_LINES_MAX = 64
"""Lines that one quoted record may span; with more the quote was never meant to be open so long."""

csv.field_size_limit(max(csv.field_size_limit(), ROW_BYTES_MAX))


class Record(NamedTuple):
    """A record: the line where it starts, its cells, or why it has none."""

    line: int
    cells: list[str]
    fault: str = ""
    code: Code = Code.BAD_ROW


def split_plain(data: bytes) -> list[str]:
    """The cells of a line without quotes and line end."""
    return data.decode("utf-8", "surrogateescape").split(",")


class _Feed:
    """Lines for csv.reader, counted, with a bound."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self.lines = lines
        self.pending: deque[bytes] = deque()
        self.taken: list[bytes] = []
        self.bytes_count = 0

    def next_line(self) -> bytes | None:
        return self.pending.popleft() if self.pending else next(self.lines, None)

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= QUOTED_LINES_MAX or self.bytes_count > ROW_BYTES_MAX:
            raise _QuoteTooLong
        data = self.next_line()
        if data is None:
            raise StopIteration
        self.taken.append(data)
        self.bytes_count += len(data)
        return data.decode("utf-8", "surrogateescape") + "\n"


class _QuoteTooLong(Exception):
    """A quoted record went over its bounds."""


class Records:
    """Iterates the records of lines (bytes without their ends). `line` of the first one is `first_line`. Blank lines are no records."""

    def __init__(self, lines: Iterator[bytes], first_line: int = 1) -> None:
        self._feed = _Feed(lines)
        self.line = first_line  # of the line that is read next

    def __iter__(self) -> Records:
        return self

    def __next__(self) -> Record:
        while True:
            data = self._feed.next_line()
            if data is None:
                raise StopIteration
            line = self.line
            self.line += 1
            if not data.strip():
                continue
            if len(data) > ROW_BYTES_MAX:
                return Record(line, [], f"a line of more than {ROW_BYTES_MAX} bytes")
            if b'"' in data:
                return self._quoted(data, line)
            return Record(line, split_plain(data))

    def _quoted(self, data: bytes, line: int) -> Record:
        """A record that may go on over the next lines; one that is not well formed takes its first line only."""
        feed = self._feed
        feed.pending.appendleft(data)
        feed.taken, feed.bytes_count = [], 0
        fault = ""
        cells: list[str] = []
        try:
            cells = next(csv.reader(feed, strict=True))
        except _QuoteTooLong:
            fault = f"a quote is still open after {QUOTED_LINES_MAX} lines or {ROW_BYTES_MAX} bytes"
        except StopIteration:
            fault = "a quote is never closed"
        except csv.Error as error:
            fault = "a quote is never closed" if "unexpected end of data" in str(error) else f"broken quoting: {error}"
        if fault:
            feed.pending.extendleft(reversed(feed.taken[1:]))
            return Record(line, [], fault)
        self.line += len(feed.taken) - 1
        return Record(line, cells)
