"""A checkpoint made of the positions that Postgres has, where the local ones are lost.

Owns the putting together: positions, lots and what else the fold holds come from the shadow's snapshot, capture's facts from learning the
journal up to the same event, which is much quicker than folding it. The journal must be there. It may be called while no system runs on the
data directory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pks.base.errors import Fatal
from pks.segments.journal_view import JournalView
from pks.topology import Paths
from pks.workers.booking import Booking, DayFiles
from pks.workers.checkpoint import capture_arrays, write_checkpoint

if TYPE_CHECKING:
    from pks.base.config import Config

LEARN_EVENTS = 1 << 14


class NoPositions(Fatal):
    """Postgres has no positions of this journal."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no checkpoint can be made from postgres: {reason}")
        self.reason = reason


async def checkpoint_from(
    connection: Any, config: Config, paths: Paths, newer_than: int = 0, said: Callable[[int, int], None] = lambda sequence, last: None
) -> Path:
    """Write a checkpoint as of the event of the snapshot; its file. connection: of asyncpg, as the owner.

    newer_than: the event of the best checkpoint that is there. said: told how far the journal is learnt, and how far it will be.
    Raises NoPositions, PositionsUnfit.
    """
    from pks.edges.postgres.positions import EDGE, read_positions

    if await connection.fetchval("select to_regclass('back_office.shadow_state')") is None:
        raise NoPositions("it has no tables of PKS")
    sequence, arrays = await read_positions(connection)
    if not sequence:
        raise NoPositions("it has no positions")
    if sequence <= newer_than:
        raise NoPositions(f"its positions are as of event {sequence}, and a sound checkpoint of event {newer_than} is there")
    view = JournalView(paths.journal)
    checksum = await connection.fetchval("select checksum from back_office.edge_cursor where edge = $1 and sequence = $2", EDGE, sequence)
    if sequence > view.extent[1] or int(view.records[sequence]["sequence"]) != sequence:
        raise NoPositions(f"it knows event {sequence}, which the journal does not have: the journal was lost, or is an old copy")
    if checksum is None:
        raise NoPositions(f"its cursor of positions is not at event {sequence}, of which they are")
    if int(view.records[sequence : sequence + 1]["checksum"].view("<i8")[0]) != checksum:
        raise NoPositions(f"its event {sequence} is another one in the journal: they are of another system")
    booking = Booking(lambda at: view.records[at], DayFiles(paths.keys), keys=config.dedup_keys)
    for first in range(1, sequence + 1, LEARN_EVENTS):
        booking.learn(view.records, -1, first, min(sequence, first + LEARN_EVENTS - 1))
        booking.defined.clear()
        said(first, sequence)
    facts, learnt = capture_arrays(booking)
    return write_checkpoint(paths.checkpoints, sequence, facts, learnt | arrays)
