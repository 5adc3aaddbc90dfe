"""Empties what Postgres has of the journal, so that the edges begin at the first event again.

Owns the list of derived tables. Dead letters and alerts are not derived and stay.
"""

from __future__ import annotations

from typing import Any

from pks.edges.postgres import positions, writer

DERIVED = (
    *writer.REFERENCE_TABLES.values(),
    "trade.trade",
    "trade.fee",
    "trade.lifecycle_event",
    "position.lot_match",
    "back_office.position_snapshot",
    "back_office.shadow_state",
    "back_office.journal_copy",
)
EDGES = (writer.EDGE, positions.EDGE)


async def forget(connection: Any) -> dict[str, int]:
    """Truncate the derived tables and drop their cursors in one transaction; edge -> the event that it was at. connection: as the owner."""
    async with connection.transaction():
        rows = await connection.fetch("delete from back_office.edge_cursor where edge = any($1) returning edge, sequence", list(EDGES))
        await connection.execute(f"truncate {', '.join(DERIVED)}")
    return {row["edge"]: row["sequence"] for row in rows}
