"""The second copy of the journal, as `back_office.journal_copy` has it: read in order."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Any

ROWS_AHEAD = 8


async def read_copy(connection: Any) -> AsyncIterator[tuple[int, bytes]]:
    """(first sequence, 256-byte records) of every part, in order. connection: of asyncpg, with the owner's rights."""
    async with connection.transaction(readonly=True):
        async for row in connection.cursor("select first, records from back_office.journal_copy order by first", prefetch=ROWS_AHEAD):
            yield int(row["first"]), zlib.decompress(row["records"])


async def copied_upto(connection: Any) -> int:
    """Last record of the copy; 0 for none."""
    return int(await connection.fetchval("select coalesce(max(last), 0) from back_office.journal_copy"))
