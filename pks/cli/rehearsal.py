"""`pks book --dry-run`: what would become of rows, by the very fold that would book them, on a copy of the running state.

Folds the journal of the data directory, then admits and applies the rows behind it in memory. Writes nothing, needs no running system.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.clock import SystemClock
from pks.base.errors import Code, Refused
from pks.client.bulk import Outcome, outcome_of, refused_outcome
from pks.engine.booking.border import Border, joined
from pks.engine.instruments.definitions import Source
from pks.engine.instruments.events import definition_event
from pks.engine.lots.state import VERDICTS, Results
from pks.layouts.codes import Subject
from pks.layouts.event import EVENT, FIELD_NUMBER, REPLY
from pks.segments.journal_recovery import find_end
from pks.segments.journal_view import JournalView
from pks.topology import Paths
from pks.workers.booking import Booking, DayFiles
from pks.workers.positions import Positions

ROOM = 1 << 16


class Rehearsal:
    """A copy of the core in memory, as of the journal's end."""

    def __init__(self, data_dir: Path, folder: Path) -> None:
        paths = Paths(data_dir)
        last = find_end(paths.journal).last if paths.journal.exists() else 0
        view = JournalView(paths.journal)
        self.records = np.zeros(last + ROOM, EVENT)
        self.records[1 : last + 1] = view.records[1 : last + 1]
        self.booking = Booking(lambda sequence: self.records[sequence], DayFiles(folder))
        self.booking.learn(self.records, -1, 1, last)
        self.positions = Positions(self.records)
        self.verdicts: dict[int, int] = {}
        self.booking.admission.verdict_of = lambda sequence: self.verdicts.get(sequence, 0)
        self.positions.apply(self.records, -1, 1, last, self._taken)
        self.clock = SystemClock()

    def _taken(self, out: Results) -> None:
        for verdict in out.verdicts[: out.counts[VERDICTS]]:
            self.verdicts[int(verdict["sequence"])] = int(verdict["code"])

    def book(self, group: Any) -> Any:
        """REPLY: what the system would answer to the group."""
        reply = np.zeros(1, REPLY)[0]
        now_ns = self.clock.wall_ns()
        outcome = self.booking.admit(np.array(group, EVENT), now_ns)
        reply["code"], reply["sequence"] = outcome.code, outcome.sequence
        reply["field"], reply["value"], reply["other"] = FIELD_NUMBER.get(outcome.field_name, 0), outcome.value, outcome.other
        if outcome.records is not None:
            first = self.booking.sequence + 1
            if first + len(outcome.records) >= len(self.records):
                self._grow()
            placed = self.booking.place(outcome.records, now_ns, 0)
            self.records[first : first + len(placed)] = placed
            self.positions.apply(self.records, -1, first, self.booking.sequence, self._taken)
            reply["sequence"] = first
        if int(reply["code"]) in (Code.ACCEPTED, Code.DUPLICATE):
            reply["code"] = self.verdicts.get(int(reply["sequence"]), int(reply["code"]))
        return reply

    def _grow(self) -> None:
        longer = np.zeros(2 * len(self.records), EVENT)
        longer[: len(self.records)] = self.records
        self.records = self.positions.shard.records = longer


def rehearse(data_dir: Path, rows: Iterable[Any], say: Callable[[list[Outcome]], None]) -> None:
    """Say the outcome that each row (TradeRow or RowError) would have."""
    with tempfile.TemporaryDirectory() as folder:
        core = Rehearsal(data_dir, Path(folder))
        border = Border(core.booking.catalogue)
        block: list[Any] = []
        for row in rows:
            if hasattr(row, "code"):
                say([Outcome(row.line, row.trade_id, "REFUSED", 0, row.code.name, row.field, row.value, row.reason)])
                continue
            if block and row.parent_id != block[0].parent_id:
                _book_block(core, border, block, say)
                block = []
            if row.parent_id:
                block.append(row)
            else:
                _book_rows(core, border, [row], say)
        if block:
            _book_block(core, border, block, say)


def _group_of(core: Rehearsal, border: Border, row: Any) -> Any:
    source = border.source_of(row)
    if source and not core.booking.catalogue.id_of(Subject.SOURCE, source):
        core.book(definition_event(Source(code=source)))
    return border.group_of(row)


def _book_rows(core: Rehearsal, border: Border, rows: list[Any], say: Callable[[list[Outcome]], None]) -> None:
    for row in rows:
        try:
            reply = core.book(_group_of(core, border, row))
        except Refused as error:
            say([refused_outcome(row.line, row.trade_id or row.lot_id, error)])
        else:
            say([outcome_of(reply, row.line, row.trade_id or row.lot_id, row)])


def _book_block(core: Rehearsal, border: Border, rows: list[Any], say: Callable[[list[Outcome]], None]) -> None:
    try:
        group = joined([_group_of(core, border, row) for row in rows])
    except Refused as error:
        say([refused_outcome(row.line, row.trade_id, error) for row in rows])
        return
    reply = core.book(group)
    say([outcome_of(reply, row.line, row.trade_id, row) for row in rows])
