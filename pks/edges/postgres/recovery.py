"""The journal's second copy in Postgres, read back.

Owns the reading of `back_office.journal_copy`. What is read goes to `pks.segments.journal_rebuild`, as records from any other copy do.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Any

from pks.base.errors import Fatal
from pks.layouts.event import EVENT_BYTES

ROWS_AT_ONCE = 64


class CopyDamaged(Fatal):
    """The copy has a gap, or a row that is not what it says."""

    def __init__(self, sequence: int, reason: str) -> None:
        super().__init__(f"postgres: the copy of the journal at event {sequence}: {reason}")
        self.sequence, self.reason = sequence, reason


async def read_records(connection: Any, after: int = 0) -> AsyncIterator[tuple[int, bytes]]:
    """(first sequence, records of 256 bytes) of each slice behind event `after`, in order, without a gap. Raises CopyDamaged."""
    expected = after + 1
    while True:
        found = await connection.fetch(
            "select first, last, records from back_office.journal_copy where first >= $1 order by first limit $2", expected, ROWS_AT_ONCE
        )
        for row in found:
            first, last = int(row["first"]), int(row["last"])
            if first != expected:
                raise CopyDamaged(expected, f"the next that is there is {first}")
            try:
                raw = zlib.decompress(row["records"])
            except zlib.error as error:
                raise CopyDamaged(first, str(error)) from error
            if len(raw) != (last - first + 1) * EVENT_BYTES:
                raise CopyDamaged(first, f"{len(raw)} bytes for events {first} to {last}")
            yield first, raw
            expected = last + 1
        if len(found) < ROWS_AT_ONCE:
            return
