"""Small real journals for the tests of the command line: booked through capture's and the shard's own code, written by JournalWriter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.errors import Code
from pks.edges.files.desk import packaged_desk, read_desk
from pks.edges.files.rows import TradeRow
from pks.edges.files.trades import read_trades
from pks.engine.booking.border import Border
from pks.engine.instruments.definitions import Source
from pks.layouts.event import EVENT_WORDS
from pks.segments.journal import JournalWriter
from pks.segments.journal_records import BATCH_RECORDS_MAX, seal, whole_groups
from tests.harness import NOW_NS, Core


@dataclass
class Booked:
    """A core with what was booked into it."""

    core: Core
    border: Border

    def book(self, rows: Iterable[Any]) -> list[tuple[str, str, int]]:
        """(trade id, code, sequence) of each row; a row that is not understood is an error of the test."""
        answers = []
        for row in rows:
            outcome = self.core.book(self.border.group_of(row))
            answers.append((row.trade_id or row.lot_id, Code(outcome.code).name, outcome.sequence))
        return answers

    def row(self, **fields: str) -> tuple[str, str, int]:
        """Book one row, given by its fields."""
        return self.book([TradeRow(line=1, row=1, **fields)])[0]

    def allocate(self, rows: Iterable[Any]) -> str:
        """Book the children of one block as a group; the code."""
        group = np.concatenate([self.border.group_of(row) for row in rows])
        group["group_count"], group["group_index"] = len(group), np.arange(len(group))
        return Code(self.core.book(group).code).name

    @property
    def last(self) -> int:
        return self.core.booking.sequence

    def write(self, data_dir: Path, records: int = 1 << 12, splits: tuple[int, ...] = ()) -> int:
        """Write everything as the journal of a data directory; the last sequence."""
        return write_journal(data_dir / "journal", self.core.records[1 : self.last + 1], records, splits)


def write_journal(directory: Path, events: Any, records: int, splits: tuple[int, ...] = ()) -> int:
    """Seal events 1..n and append them in batches of whole groups, files of `records` places; the last sequence.

    splits: batches end before these sequences, or at an end of a group near them.
    """
    events = np.ascontiguousarray(events).copy()
    rows = events.view(np.int64).reshape(-1, EVENT_WORDS)
    for i in range(len(rows)):
        seal(rows, i)
    writer = JournalWriter(directory, 0, wall_ns=lambda: NOW_NS, records=records)
    first = 1
    while first <= len(events):
        last = min(len(events), first + min(BATCH_RECORDS_MAX, records) - 1, *(split - 1 for split in splits if split > first))
        last = int(whole_groups(rows, -1, 1, first, last))
        if last < first:  # the split lies in the first group
            last = first + int(events[first - 1]["group_count"]) - 1
        writer.append(events[first - 1 : last], first, last)
        first = last + 1
    writer.close()
    return len(events)


def desk_core(folder: Path, capacity: int = 1 << 14) -> Booked:
    """A core that knows the packaged desk and its opening lots."""
    core = Core(folder, capacity=capacity)
    desk = read_desk(packaged_desk())
    assert not desk.errors, desk.errors[:3]
    for definition in [*desk.definitions, Source(code="MANUAL")]:
        core.define(definition)
    booked = Booked(core, Border(core.booking.catalogue))
    booked.book(desk.opening_lots)
    return booked


def desk_day(folder: Path) -> Booked:
    """The desk with its trades and allocations."""
    booked = desk_core(folder)
    for row in read_trades(packaged_desk() / "trades.csv"):
        assert isinstance(row, TradeRow), row
        booked.book([row])
    booked.allocate(read_trades(packaged_desk() / "allocations.csv"))
    return booked


def write_desk_journal(data_dir: Path) -> int:
    """The desk's day as a journal; its last sequence."""
    return desk_day(data_dir / "keys").write(data_dir)
