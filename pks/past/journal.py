"""The journal of a data directory up to its last durable event, and positions folded from it.

Owns where the durable end is (the running system says; at rest the last whole batch) and the fold from the newest fitting checkpoint. Used
with and without a running system. Reads only: it takes no claim and writes no file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pks.base.config import Config
from pks.base.errors import Fatal, PksError, Retryable
from pks.engine.booking.keys import LONG_ID_MARK, NO_LOT
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.events import learn_definition
from pks.layouts.codes import Flag, Kind
from pks.layouts.detail import group_at, text_of
from pks.past.progress import Progress, unseen
from pks.running import NotRunning, Running, find_running
from pks.segments.journal_recovery import find_end
from pks.segments.journal_view import JournalView
from pks.topology import Host, Paths
from pks.workers.checkpoint import Checkpoint, latest_checkpoint, load_definitions, load_positions
from pks.workers.positions import Positions

FOLD_STEP = 1 << 15
"""Events between two steps of the progress bar."""


class NoJournal(Retryable):
    """The data directory has no journal."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(f"there is no journal in the data directory {data_dir}; pks run makes one")
        self.data_dir = data_dir


class BeyondJournal(Retryable):
    """A sequence was asked for that is not durable yet, or never was."""

    def __init__(self, wanted: int, last: int) -> None:
        super().__init__(f"event {wanted} is not in the journal, whose last durable event is {last}")
        self.wanted, self.last = wanted, last


@dataclass(frozen=True)
class Past:
    """Events 1..last of the journal: event n is view.records[n]. running: the system that writes on, if one does. progress: who is told
    how far something long has come.
    """

    data_dir: Path
    view: JournalView
    last: int
    running: Running | None
    progress: Progress = unseen

    @property
    def records(self) -> Any:
        """EVENT[...]; only 1..last may be read."""
        return self.view.records

    @cached_property
    def paths(self) -> Paths:
        return Paths(self.data_dir)

    def upto(self, known_at: int | None) -> int:
        """The last event that counts. Raises BeyondJournal."""
        if known_at is None:
            return self.last
        if known_at > self.last:
            raise BeyondJournal(known_at, self.last)
        return known_at

    def checkpoint(self, upto: int) -> Checkpoint | None:
        """The newest sound checkpoint that reflects no event behind `upto`."""
        return latest_checkpoint(self.paths.checkpoints, upto)

    def fold(self, upto: int, *, whole: bool = False, taken: Callable[[Any], None] | None = None) -> Positions:
        """Positions of all books after event `upto`, from a checkpoint; whole: from the first event. taken: sees results as they come."""
        checkpoint = None if whole else self.checkpoint(upto)
        positions = Positions(self.records, keys=1 << 12, lots=1 << 14)
        if checkpoint is not None:
            load_positions(positions, checkpoint)
        advance(positions, self.records, checkpoint.sequence if checkpoint else 0, upto, taken, self.progress)
        settle(positions)
        return positions

    def catalogue(self, upto: int) -> Catalogue:
        """The reference data after event `upto`."""
        checkpoint = self.checkpoint(upto)
        catalogue = Catalogue()
        first = 1
        if checkpoint is not None:
            load_definitions(checkpoint, lambda subject, row_id, at, definition: catalogue.apply(subject, row_id, definition, at))
            first = checkpoint.sequence + 1
        for start in range(first, upto + 1, FOLD_STEP):
            kinds = self.records[start : min(upto, start + FOLD_STEP - 1) + 1]["kind"]
            for i in np.flatnonzero(kinds == Kind.REFDATA).tolist():
                learn_definition(catalogue, group_at(self.records, -1, start + i))
        return catalogue

    def text_at(self, sequence: int) -> dict[str, Any]:
        """What the DETAIL records behind an event say, {} without any."""
        e = self.records[sequence]
        if int(e["kind"]) == Kind.REFDATA or int(e["group_index"]) or not int(e["flags"]) & Flag.HAS_DETAIL:
            return {}
        found = msgspec.json.decode(text_of(group_at(self.records, -1, sequence)))
        assert isinstance(found, dict), f"event {sequence}: capture takes objects only"
        return found

    def trade_id(self, sequence: int) -> str:
        """The whole id of a trade."""
        inline = bytes(self.records[sequence]["trade_id"])
        if inline.startswith(LONG_ID_MARK):
            return str(self.text_at(sequence).get("trade_id", inline.decode(errors="backslashreplace")))
        return inline.decode("utf-8", "replace")

    def lot_id(self, sequence: int, leg: int) -> str:
        """The name of the lot that a trade opened: the one that it gave, else its own id; with the leg where it first closed another."""
        if leg:
            return f"{self.trade_id(sequence)}/{leg}"
        gave_name = int(self.records[sequence]["kind"]) == Kind.TRADE and int(self.records[sequence]["lot"]) == NO_LOT
        return str((gave_name and self.text_at(sequence).get("lot_id")) or self.trade_id(sequence))


def settle(positions: Positions) -> None:
    """Derive the keys that wait for the end of a batch: the question ends within one."""
    positions.shard.derive_dirty()
    positions.shard.flush()


def advance(
    positions: Positions,
    records: Any,
    first: int,
    last: int,
    taken: Callable[[Any], None] | None = None,
    progress: Progress = unseen,
) -> Positions:
    """Apply events first + 1..last to a fold of all books. records: from here on its history too."""
    positions.shard.records = records  # an older view may not reach this far
    with progress(last - first, "folding the journal") as bar:
        for start in range(first + 1, last + 1, FOLD_STEP):
            stop = min(last, start + FOLD_STEP - 1)
            positions.apply(records, -1, start, stop, taken)
            positions.shard.sets_out.clear()
            positions.shard.reentries.clear()
            bar.update(stop - start + 1)
    return positions


def running_system(settings: Config) -> Running | None:
    """The system that runs in the data directory, if one does."""
    try:
        return find_running(Path(settings.data_dir))
    except NotRunning:
        return None


def open_past(settings: Config, progress: Progress = unseen) -> Past:
    """The journal of the data directory. Raises NoJournal, and what is wrong with the journal."""
    data_dir = Path(settings.data_dir)
    paths = Paths(data_dir)
    if not paths.journal.is_dir():
        raise NoJournal(data_dir)
    running = running_system(settings)
    last = None if running is None else _durable(running)
    if last is None:
        checkpoint = latest_checkpoint(paths.checkpoints, 2**62)
        last = find_end(paths.journal, checkpoint.sequence if checkpoint else 0).last
    view = JournalView(paths.journal)
    if last > view.extent[1]:
        raise BeyondJournal(last, view.extent[1])
    return Past(data_dir, view, last, running, progress)


def _durable(running: Running) -> int | None:
    """What the running system says is on disk; None while it starts, and when it ends under our hands."""
    try:
        return Host.open(running.instance, running.data_dir).durable_sequence
    except Fatal:
        raise
    except PksError:
        return None
