"""The past as commands read it: the journal of a data directory up to its last durable event, and positions folded from it.

Owns where the durable end is (the running system says; at rest the last whole batch), the fold from the newest fitting checkpoint, and
names by a catalogue. Used by the reading commands, with and without a running system. Reads only: it takes no claim and writes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pks.base.config import Config
from pks.base.errors import Fatal, PksError, Retryable
from pks.cli.asof import STEPS_A_KEY, keys_as_of
from pks.cli.running import NotRunning, Running, find_running
from pks.cli.tables import progress
from pks.client.errors import AmbiguousName, UnknownName
from pks.engine.booking.keys import LONG_ID_MARK, NO_LOT
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.errors import AmbiguousInstrument
from pks.engine.instruments.events import learn_definition
from pks.engine.instruments.rows import to_row
from pks.engine.lots.snapshot import export_state
from pks.engine.lots.state import KEYS_COUNT
from pks.engine.positions.view import PositionTerms
from pks.layouts.codes import Flag, Kind, Subject
from pks.layouts.detail import group_at, text_of
from pks.layouts.slots import ACCOUNT_SLOT
from pks.layouts.state import ACCOUNT, KEY, LOT
from pks.segments.journal_recovery import find_end
from pks.segments.journal_view import JournalView
from pks.topology import Host, Paths
from pks.workers.checkpoint import Checkpoint, latest_checkpoint, load_definitions, load_positions
from pks.workers.positions import Positions

FOLD_STEP = 1 << 15
"""Events between two steps of the progress bar."""

LONG_EVENTS = 1 << 17
"""A question as of a time about fewer events is answered before a progress bar is read."""


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
    """Events 1..last of the journal: event n is view.records[n]. running: the system that writes on, if one does."""

    data_dir: Path
    view: JournalView
    last: int
    running: Running | None

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
        advance(positions, self.records, checkpoint.sequence if checkpoint else 0, upto, taken)
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


@dataclass(frozen=True)
class Moment:
    """Positions of all books at one moment. keys: KEY[n]; held: ACCOUNT_SLOT[m], what each account holds of each key."""

    catalogue: Catalogue
    keys: Any
    held: Any
    lots: Callable[[int, int], Any]  # LOT[n] of (book id, instrument id), oldest first; empty where nothing was ever booked


def moment(past: Past, as_of: int | None, upto: int) -> Moment:
    """Positions from events with a sequence <= upto and, with `as_of`, a trade time (ns) <= it. Source: design.md section 4."""
    folded = past.fold(upto)
    return moment_of(folded) if as_of is None else moment_as_of(folded, as_of)


def moment_of(folded: Positions) -> Moment:
    """The moment up to which a fold of all books has come."""
    return _moment(folded.catalogue, export_state(folded.shard.state))


def moment_as_of(folded: Positions, time_ns: int) -> Moment:
    """What is left of a fold of all books when only trades up to `time_ns` count; verdicts stay as they were given."""
    shard = folded.shard
    if shard.sequence < LONG_EVENTS:
        found = keys_as_of(shard, time_ns)
    else:
        with progress(STEPS_A_KEY * int(shard.state.meta[KEYS_COUNT]), "folding as of that time") as bar:
            found = keys_as_of(shard, time_ns, lambda: bar.update(1))
    arrays = {
        "keys": np.array([one.key for one in found], KEY),
        "lots": np.concatenate([np.zeros(0, LOT), *(one.lots for one in found)]),
        "accounts": np.concatenate([np.zeros(0, ACCOUNT), *(one.accounts for one in found)]),
        "lot_ends": np.cumsum([len(one.lots) for one in found], dtype=np.int64),
        "account_ends": np.cumsum([len(one.accounts) for one in found], dtype=np.int64),
    }
    return _moment(folded.catalogue, arrays)


def _moment(catalogue: Catalogue, arrays: dict[str, Any]) -> Moment:
    keys, lots, lot_ends = arrays["keys"], arrays["lots"], arrays["lot_ends"]
    held = np.zeros(len(arrays["accounts"]), ACCOUNT_SLOT)
    owner = np.repeat(np.arange(len(keys)), np.diff(arrays["account_ends"], prepend=0))
    for name in ("account_id", "qty_raw", "last_sequence"):
        held[name] = arrays["accounts"][name]
    for name in ("book_id", "instrument_id", "qty_scale"):
        held[name] = keys[name][owner]

    def lots_of(book_id: int, instrument_id: int) -> Any:
        found = np.flatnonzero((keys["book_id"] == book_id) & (keys["instrument_id"] == instrument_id))
        if not len(found):
            return lots[:0]
        k = int(found[0])
        return lots[int(lot_ends[k - 1]) if k else 0 : int(lot_ends[k])]

    return Moment(catalogue, keys[keys["last_sequence"] > 0], held, lots_of)


def settle(positions: Positions) -> None:
    """Derive the keys that wait for the end of a batch: the question ends within one."""
    positions.shard.derive_dirty()
    positions.shard.flush()


def advance(positions: Positions, records: Any, first: int, last: int, taken: Callable[[Any], None] | None = None) -> Positions:
    """Apply events first + 1..last to a fold of all books, with a progress bar. records: from here on its history too."""
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


def open_past(settings: Config) -> Past:
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
    return Past(data_dir, view, last, running)


def _durable(running: Running) -> int | None:
    """What the running system says is on disk; None while it starts, and when it ends under our hands."""
    try:
        return Host.open(running.instance, running.data_dir).durable_sequence
    except Fatal:
        raise
    except PksError:
        return None


# Names.


class CatalogueNames:
    """Names to ids and back by a catalogue, in the words of `pks.client.names.Names`."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.currency_codes = {row_id: definition.code for row_id, definition in catalogue.rows(Subject.CURRENCY)}
        self._rows: dict[tuple[Subject, int], Any] = {}
        self._terms: dict[tuple[int, int], PositionTerms] = {}

    def book_id(self, code: str) -> int:
        """Id of a book. Raises UnknownName."""
        return self._id_of(Subject.BOOK, code)

    def account_id(self, code: str) -> int:
        """Id of an account. Raises UnknownName."""
        return self._id_of(Subject.ACCOUNT, code)

    def source_id(self, code: str) -> int:
        """Id of a source. Raises UnknownName."""
        return self._id_of(Subject.SOURCE, code)

    def instrument_id(self, name: str) -> int:
        """Id of an instrument by any of its names. Raises UnknownName, AmbiguousName."""
        try:
            found = self.catalogue.find_instrument(name)
        except AmbiguousInstrument as error:
            raise AmbiguousName("instrument", name, list(error.candidates)) from error
        if not found:
            raise UnknownName("instrument", name, self.codes(Subject.INSTRUMENT))
        return found

    def _id_of(self, subject: Subject, code: str) -> int:
        row_id = self.catalogue.id_of(subject, code)
        if not row_id:
            raise UnknownName(subject.name.lower(), code, self.codes(subject))
        return row_id

    def codes(self, subject: Subject) -> list[str]:
        """Codes of all rows of a subject."""
        return list(self.catalogue.ids(subject))

    def code_of(self, subject: Subject, row_id: int) -> str:
        """The code of an id."""
        definition = self.catalogue.get(subject, row_id)
        if definition is None:
            raise UnknownName(f"{subject.name.lower()} with the id", str(row_id))
        return definition.code

    def row(self, subject: Subject, row_id: int) -> Any:
        """refdata.ROW of an id. Raises UnknownName."""
        found = self._rows.get((subject, row_id))
        if found is None:
            definition = self.catalogue.get(subject, row_id)
            if definition is None:
                raise UnknownName(f"{subject.name.lower()} with the id", str(row_id))
            sequence = self.catalogue.sequence_of(subject, row_id)
            found = self._rows[subject, row_id] = to_row(definition, self.catalogue, row_id, sequence)[0]
        return found

    def terms(self, book_id: int, instrument_id: int) -> PositionTerms:
        """What a position of these two needs."""
        found = self._terms.get((book_id, instrument_id))
        if found is None:
            instrument, book = self.row(Subject.INSTRUMENT, instrument_id), self.row(Subject.BOOK, book_id)
            found = self._terms[book_id, instrument_id] = PositionTerms.from_rows(instrument, book, self.currency_codes)
        return found


def name_of(names: Any, subject: Subject, row_id: int) -> str | None:
    """The code of an id, None for 0, which is nobody."""
    return names.code_of(subject, row_id) if row_id else None


def ids_of(read: Callable[[str], int], names: Iterable[str]) -> Any:
    """int64[n] of the ids of some names; None for no names: any. Raises UnknownName."""
    found = [read(name) for name in names]
    return np.array(found, np.int64) if found else None
