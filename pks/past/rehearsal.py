"""What would become of rows: admitted and applied behind the journal's last event by the very folds that would book them, in memory.

Owns the copy of the core that takes them, row by row, and the words of its answers, which are those of `pks book --json`; a dry run of that
command and what-if questions use it. It writes no file: records go into a draft behind the journal's view, keys of dates into memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.clock import Clock, SystemClock
from pks.base.errors import Code, Refused
from pks.client.bulk import Outcome, outcome_of, refused_outcome
from pks.engine.booking.border import Border, joined
from pks.engine.booking.dedup import SEQUENCE, by_key
from pks.engine.instruments.definitions import Source
from pks.engine.instruments.events import definition_event
from pks.engine.lots.reentry import reentry_event
from pks.engine.lots.state import MATCHES, Results
from pks.engine.lots.tables import pair_find
from pks.layouts.codes import MatchKind, Subject
from pks.layouts.event import EVENT, FIELD_NUMBER, REPLY
from pks.past.journal import Past
from pks.past.progress import Progress, unseen
from pks.workers.booking import Booking, DayFiles
from pks.workers.checkpoint import load_booking
from pks.workers.positions import Positions

ROOM = 1 << 14
"""Records that a draft is longer by, each time: 4 MB."""

SETTLED_EVENTS = 1 << 14
"""Events learned between two steps of a progress bar."""


class KeysAside(DayFiles):
    """The keys of older dates for who must not write: what memory forgets is kept here, beside the files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory  # there may be none: nothing was ever put there
        self._aside: dict[int, Any] = {}

    def dates(self) -> list[int]:
        """Dates that have a file or rows here."""
        return sorted({*super().dates(), *self._aside})

    def rows(self, date: int) -> Any:
        """int64[n, 4]: the date's entries, sorted by key."""
        return self._aside[date] if date in self._aside else super().rows(date)

    def add(self, date: int, rows: Any) -> None:
        """Keep the date's rows with those of its file."""
        both = np.concatenate([np.array(self.rows(date)), rows])
        _, firsts = np.unique(both[:, SEQUENCE], return_index=True)
        self._aside[date] = by_key(both[firsts])


class Rehearsal:
    """A copy of the core in memory, behind event past.last. It takes over the view of `past`, and a fold of all books up to there."""

    def __init__(self, past: Past, positions: Positions, clock: Clock | None = None) -> None:
        self.past, self.positions, self.clock = past, positions, clock or SystemClock()
        self.sets: dict[tuple[int, int, int], Any] = {}  # (trade, book id, instrument id) -> MATCH[n] as the rows left it
        self._drafts: list[tuple[int, Any]] = []  # (first record, EVENT[n]) behind one another
        self._drafted = past.last  # records up to this one may be written
        self.booking = _booking_at(past, past.progress)
        self.booking.admission.verdict_of = self._verdict_of
        positions.shard.records = past.records

    def _verdict_of(self, sequence: int) -> int:
        return max(0, int(pair_find(self.positions.shard.state.refused, sequence)))

    def _taken(self, out: Results) -> None:
        matches = out.matches[: out.counts[MATCHES]].copy()
        fields = ("sequence", "book_id", "instrument_id")
        names = list(zip(*(matches[field].tolist() for field in fields), strict=True))
        for name in dict.fromkeys(names):
            self.sets.pop(name, None)  # the latest comes last
            self.sets[name] = matches[[other == name for other in names]]

    def book(self, group: Any) -> Any:
        """REPLY: what the system would answer to the group."""
        reply = np.zeros(1, REPLY)[0]
        now_ns = self.clock.wall_ns()
        outcome = self.booking.admit(np.array(group, EVENT), now_ns)
        reply["code"], reply["sequence"] = outcome.code, outcome.sequence
        reply["field"], reply["value"], reply["other"] = FIELD_NUMBER.get(outcome.field_name, 0), outcome.value, outcome.other
        if outcome.records is not None:
            first = self.booking.sequence + 1
            placed = self.booking.place(outcome.records, now_ns, 0)
            self._write(first, placed)
            self.positions.apply(self.past.records, -1, first, self.booking.sequence, self._taken)
            self.positions.shard.sets_out.clear()
            reply["sequence"] = first
            self._reenter()
        if int(reply["code"]) in (Code.ACCEPTED, Code.DUPLICATE):
            reply["code"] = self._verdict_of(int(reply["sequence"])) or int(reply["code"])
        return reply

    def _reenter(self) -> None:
        """Book the amendments by which changed lots of transfers reach their receivers, as the accumulators would."""
        owed, self.positions.shard.reentries = self.positions.shard.reentries, []
        for transfer, cause in owed:
            self.book(reentry_event(self.past.records[transfer], cause))

    def _write(self, first: int, placed: Any) -> None:
        last = first + len(placed) - 1
        if last > self._drafted:
            start, records = self._drafted + 1, max(ROOM, last - self._drafted)
            self._drafts.append((start, self.past.view.draft(start, records)))
            self._drafted += records
        for start, rows in self._drafts:
            low, high = max(first, start), min(last, start + len(rows) - 1)
            if low <= high:
                rows[low - start : high - start + 1] = placed[low - first : high - first + 1]


def _booking_at(past: Past, progress: Progress = unseen) -> Booking:
    """Capture's fold as of past.last, which puts no key into a file."""
    booking = Booking(lambda sequence: past.records[sequence], KeysAside(past.paths.keys), durable=lambda: past.last)
    checkpoint = past.checkpoint(past.last)
    if checkpoint is not None:
        load_booking(booking, checkpoint)
    with progress(past.last - booking.sequence, "learning keys") as bar:
        for first in range(booking.sequence + 1, past.last + 1, SETTLED_EVENTS):
            last = min(past.last, first + SETTLED_EVENTS - 1)
            booking.learn(past.records, -1, first, last)
            booking.defined.clear()
            bar.update(last - first + 1)
    return booking


def rehearse(core: Rehearsal, rows: Iterable[Any]) -> Iterator[Outcome]:
    """The outcome that each row (TradeRow or RowError) would have, in order; the children of a block together."""
    border, block = Border(core.booking.catalogue), list[Any]()
    for row in rows:
        if block and getattr(row, "parent_id", "") != block[0].parent_id:
            yield from _book(core, border, block)
            block = []
        if hasattr(row, "code"):
            yield Outcome(row.line, row.trade_id, "REFUSED", 0, row.code.name, row.field, row.value, row.reason)
        elif row.parent_id:
            block.append(row)
        else:
            yield from _book(core, border, [row])
    if block:
        yield from _book(core, border, block)


def _group_of(core: Rehearsal, border: Border, row: Any) -> Any:
    source = border.source_of(row)
    if source and not core.booking.catalogue.id_of(Subject.SOURCE, source):
        core.book(definition_event(Source(code=source)))
    return border.group_of(row)


def _book(core: Rehearsal, border: Border, rows: list[Any]) -> Iterator[Outcome]:
    """A row, or the children of one block as one group."""
    try:
        groups = [_group_of(core, border, row) for row in rows]
        reply = core.book(groups[0] if not rows[0].parent_id else joined(groups))
    except Refused as error:
        for row in rows:
            yield refused_outcome(row.line, row.trade_id or row.lot_id, error)
        return
    for row in rows:
        yield outcome_of(reply, row.line, row.trade_id or row.lot_id, row)


def gone(records: Any) -> bool:
    """Does a match set say that there is none any more?"""
    return int(records[0]["kind"]) == MatchKind.NO_MATCH
