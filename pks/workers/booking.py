"""Capture's state as a fold of the journal: keys, links, versions, reference data; and placing what was admitted behind the last event.

The capture worker holds one and adds to it as it sequences; the shadow holds another, made from the journal alone, and puts it into
checkpoints. Publishes and answers nothing itself.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from pks.base.clock import NS_PER_DAY
from pks.base.errors import Code, Refused
from pks.base.limits import DEDUP_DATES_IN_MEMORY
from pks.base.zones import zone_tables
from pks.engine.booking.admit import Admission, Admitted, Versions, refused
from pks.engine.booking.dedup import (
    ENTRY_WORDS,
    SEQUENCE,
    TAIL,
    by_key,
    dedup_add,
    dedup_home,
    filled,
    found_in_rows,
    rows_of_dates,
    without_dates,
)
from pks.engine.booking.keys import NO_LOT
from pks.engine.booking.links import chain_home, chain_swap, link
from pks.engine.booking.tables import CHAINS_COUNT, IN_MEMORY, KEYS_COUNT, KEYS_LIMIT, PARTLY_IN_FILE, Tables, new_tables
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import Account, AnyDefinition, Book, ClassMethod, Currency, Instrument, Source, decode, encode
from pks.engine.instruments.events import learn_definition
from pks.engine.instruments.rows import book_policy, instrument_policy
from pks.layouts.codes import Flag, Kind, Subject
from pks.layouts.detail import group_at, text_of, with_text
from pks.layouts.event import EVENT
from pks.segments.atomics import prefetch_write
from pks.segments.journal_file import FULL_ERRNOS

KEYED = (Kind.TRADE, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER, Kind.ACTION, Kind.FIXING)
PLAIN_KINDS = (int(Kind.TICK), int(Kind.EPOCH), int(Kind.DETAIL))
TRADE = int(Kind.TRADE)
KEYS_AT_FIRST = 1 << 16
"""Keys for which there is room before the first one comes: 4 MB; a table that is longer than its day needs costs memory and misses."""

AHEAD = 16
"""How many events ahead `learn_plain` asks for lines."""

SPECIAL_FLAGS = int(Flag.BLOCK | Flag.GROUP_LEG)


@njit(cache=True)
def learn_plain(t, records, mask, first, last):
    """Add the keys and chains of plain trades from `first` on; the first sequence that needs more (or last + 1), for `Booking.learn`."""
    n = first
    while n <= last:
        if n + AHEAD <= last:  # the table of a day's keys is larger than any cache: its lines are asked for while others are filled
            e = records[(n + AHEAD) & mask]
            prefetch_write(t.dedup, dedup_home(t.dedup, np.int64(e.key_lo)) * ENTRY_WORDS)
            prefetch_write(t.chains, chain_home(t.chains, e.book_id, e.instrument_id) * 2)
        e = records[n & mask]
        kind = e.kind
        if kind == TRADE and e.flags & SPECIAL_FLAGS == 0 and e.second_key_lo == 0 and e.second_key_hi == 0 and e.lot != NO_LOT:
            if t.counts[KEYS_COUNT] >= t.counts[KEYS_LIMIT] or 2 * (t.counts[CHAINS_COUNT] + 1) > t.chains.shape[0]:
                return n
            if t.dates[e.effective_date] == 0:
                return n
            dedup_add(t.dedup, np.int64(e.key_hi), np.int64(e.key_lo), np.int64(e.discriminator), np.int64(e.effective_date), e.sequence)
            t.counts[KEYS_COUNT] += 1
            chain_swap(t.chains, t.counts, e.book_id, e.instrument_id, e.sequence)
        elif kind != 15 and kind != 14 and kind != 16:
            return n
        n += 1
    return n


@njit(cache=True)
def link_group(t, group):
    """Link every record of a placed group."""
    for i in range(group.shape[0]):
        link(t.chains, t.counts, t.instrument_chain, group[i])


class Room(Enum):
    """Is there room in memory for one more idempotency key?"""

    MADE = "yes"
    LATER = "when the events of other dates are durable, whose keys can go then"
    NONE = "no: one date alone fills it, or the disk does not take the others"


class DayFiles:
    """The keys of dates that memory no longer holds: one sorted file a date, of durable events only, so that a file is never wrong.

    Capture and the shadow both put keys there, each the same ones sooner or later; a lock makes the merges follow each other.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, date: int) -> Path:
        """Where the date's keys lie."""
        return self.directory / f"{date:06d}.keys.npy"

    def dates(self) -> list[int]:
        """Dates that have a file."""
        return sorted(int(path.name.split(".")[0]) for path in self.directory.glob("*.keys.npy"))

    def rows(self, date: int) -> Any:
        """int64[n, 4]: the date's entries, sorted by key, read from the file where they are needed."""
        if not self.path(date).exists():
            return np.zeros((0, 4), np.int64)
        return np.load(self.path(date), mmap_mode="r")

    def find(self, hi: int, lo: int, dates: Iterable[int]) -> Iterable[tuple[int, int]]:
        """(sequence, discriminator) of every entry with that key on those dates."""
        for date in dates:
            for entry in found_in_rows(self.rows(date), hi, lo):
                yield int(entry[SEQUENCE]), int(entry[TAIL]) >> 32

    def add(self, date: int, rows: Any) -> None:
        """Put `rows` into the date's file, durably, before memory forgets them."""
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            both = np.concatenate([np.array(self.rows(date)), rows])
            _, firsts = np.unique(both[:, SEQUENCE], return_index=True)
            both = by_key(both[firsts])
            making = self.path(date).with_suffix(".making")
            with making.open("wb") as out:
                np.save(out, both)
                out.flush()
                os.fsync(out.fileno())
            making.rename(self.path(date))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Booking:
    """What capture knows, as of event `sequence`."""

    def __init__(
        self,
        record_at: Callable[[int], Any],
        files: DayFiles,
        *,
        keys: int = 1 << 16,
        dense: bool = False,
        durable: Callable[[], int] = lambda: 2**62,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """keys: idempotency keys to hold in memory, at most. dense: for who only learns keys and looks none up, so that long probes cost
        nobody an answer: the table is three quarters full before it grows. durable: the last event on disk; younger keys stay in memory.

        beat: called between the parts of what takes long, such as writing the files of many dates.
        """
        self.tables: Tables = new_tables(min(keys, KEYS_AT_FIRST))
        self.slots_max = max(len(self.tables.dedup), 2 * keys)
        self._dense = dense
        self._limit_keys()
        self.catalogue = Catalogue()
        self.versions = Versions()
        self.files, self.durable, self.beat = files, durable, beat
        self.sequence, self.recorded_ns, self.epoch = 0, 0, 0
        self.last_kind = 0
        self.defined: list[tuple[Subject, int, AnyDefinition]] = []  # since the caller last looked
        self.admission = Admission(self.tables, self.versions, self.catalogue, record_at, self._keys_in_files)

    # the fold

    def learn(self, records: Any, mask: int, first: int, last: int) -> None:
        """Take events first..last of the journal (event n at records[n & mask])."""
        n = first
        while n <= last:
            n = int(learn_plain(self.tables, records, mask, n, last))
            if n <= last:
                n = self._learn_one(records, mask, n)
        if last >= first:
            end = records[last & mask]
            self.sequence, self.recorded_ns = last, max(self.recorded_ns, int(end["recorded_ns"]))
            self.epoch, self.last_kind = max(self.epoch, int(end["epoch"])), int(end["kind"])

    def _learn_one(self, records: Any, mask: int, n: int) -> int:
        e = records[n & mask]
        kind = int(e["kind"])
        if kind == Kind.REFDATA:
            group = group_at(records, mask, n)
            self.take_definition(*learn_definition(self.catalogue, group))
            return n + len(group)
        if self.make_room(int(e["effective_date"])) is not Room.MADE:
            self._lengthen()
        link_group(self.tables, np.array([e], EVENT))
        if kind in KEYED and not (kind == Kind.TRADE and e["original"]):
            self._add_key(e)
        self.versions.learn(e)
        if kind == TRADE and int(e["lot"]) == NO_LOT:
            self.versions.learn_lot(group_at(records, mask, n))
        return n + 1

    def _add_key(self, e: Any) -> None:
        date = int(e["effective_date"])
        self.hold_date(date)
        hi, lo = _signed(int(e["key_hi"])), _signed(int(e["key_lo"]))
        dedup_add(self.tables.dedup, hi, lo, int(e["discriminator"]), date, int(e["sequence"]))
        self.tables.counts[KEYS_COUNT] += 1

    def load_tables(self, dedup: Any, dates: Any, chains: Any, instrument_chain: Any) -> None:
        """Take the tables of a checkpoint; ours must be empty."""
        slots = len(self.tables.dedup)
        while len(dedup) > self._keys_full(slots):
            slots *= 2
        table = filled(np.zeros((slots, dedup.shape[1]), np.int64), dedup)
        places = len(self.tables.chains)
        while 2 * (len(chains) + 2) > places:
            places *= 2
        chained, counts = np.zeros((places, 2), np.int64), np.zeros(8, np.int64)
        for packed, sequence in chains.tolist():
            chain_swap(chained, counts, packed >> 32, packed & 0xFFFFFFFF, sequence)
        counts[KEYS_COUNT] = len(dedup)
        self._replace(dedup=table, dates=np.array(dates), chains=chained, counts=counts, instrument_chain=np.array(instrument_chain))
        self._limit_keys()

    # dates and tables

    def hold_date(self, date: int) -> None:
        """See to it that keys of that date are kept in memory; when there are too many dates the older half leaves for its files."""
        dates = self.tables.dates
        if dates[date]:
            return
        held = np.flatnonzero(dates)
        if len(held) >= DEDUP_DATES_IN_MEMORY:
            self.evict(held[: len(held) // 2].tolist())
        dates[date] = PARTLY_IN_FILE if self.files.path(date).exists() else IN_MEMORY

    def evict(self, dates: list[int]) -> Room:
        """Move the keys of some dates to their files, except of dates with an event that is not durable yet. LATER when all have one.

        A full disk keeps them in memory.
        """
        gone, durable, room = [], self.durable(), Room.NONE
        for date, rows in rows_of_dates(self.tables.dedup, dates).items():
            self.beat()
            if len(rows) and rows[:, SEQUENCE].max() > durable:
                room = Room.LATER
                continue
            try:
                self.files.add(date, rows)
            except OSError as error:
                if error.errno not in FULL_ERRNOS:
                    raise
                room = Room.NONE
                break
            gone.append(date)
        self.beat()
        self.tables.dedup[:] = without_dates(self.tables.dedup, gone)
        self.beat()
        self.tables.counts[KEYS_COUNT] = int((self.tables.dedup[:, SEQUENCE] != 0).sum())
        self.tables.dates[gone] = 0
        return Room.MADE if gone else room

    def make_room(self, date: int) -> Room:
        """Called when a table may be full: make it longer, or when it has its full length move the oldest dates out, but `date`."""
        self._room()
        while self.tables.counts[KEYS_COUNT] >= self.tables.counts[KEYS_LIMIT]:
            if len(self.tables.dedup) < self.slots_max:
                self._lengthen()
                continue
            others = [held for held in np.flatnonzero(self.tables.dates).tolist() if held != date]
            room = self.evict(others[: max(1, len(others) // 2)]) if others else Room.NONE
            if room is not Room.MADE:
                return room
        return Room.MADE

    def _lengthen(self) -> None:
        """Twice as many slots for keys."""
        self.beat()
        held = self.tables.dedup[self.tables.dedup[:, SEQUENCE] != 0]
        self._replace(dedup=filled(np.zeros((2 * len(self.tables.dedup), ENTRY_WORDS), np.int64), held))
        self._limit_keys()
        self.beat()

    def _keys_full(self, slots: int) -> int:
        """With how many keys a table of so many slots is full."""
        return 3 * slots // 4 if self._dense else slots // 2

    def _limit_keys(self) -> None:
        """Say when the table is to be made longer; dense or not, memory holds as many keys at most."""
        slots = len(self.tables.dedup)
        self.tables.counts[KEYS_LIMIT] = min(self._keys_full(slots), max(slots, self.slots_max) // 2)

    def _room(self) -> None:
        if 2 * (self.tables.counts[CHAINS_COUNT] + 2) > len(self.tables.chains):
            chains = np.zeros((2 * len(self.tables.chains), 2), np.int64)
            unused = np.zeros(8, np.int64)
            for packed, sequence in self.tables.chains[self.tables.chains[:, 0] != 0].tolist():
                chain_swap(chains, unused, packed >> 32, packed & 0xFFFFFFFF, sequence)
            self._replace(chains=chains)

    def _replace(self, **arrays: Any) -> None:
        self.tables = self.tables._replace(**arrays)
        self.admission.tables = self.tables

    def _keys_in_files(self, hi: int, lo: int, date: int | None) -> Iterable[tuple[int, int]]:
        return self.files.find(hi, lo, self.files.dates() if date is None else (date,))

    # reference data

    def take_definition(self, subject: Subject, row_id: int, definition: AnyDefinition) -> None:
        """Let a definition that is in the catalogue change what capture checks against."""
        self.defined.append((subject, row_id, definition))
        t = self.tables
        if isinstance(definition, Instrument):
            t = self._with_row("instruments", row_id, instrument_policy(definition, self.catalogue)[0])
            if row_id >= len(t.instrument_chain):
                chain = np.zeros(len(t.instruments), np.int64)
                chain[: len(t.instrument_chain)] = t.instrument_chain
                self._replace(instrument_chain=chain)
        elif isinstance(definition, Book):
            self._with_row("books", row_id, book_policy(definition, self.catalogue)[0])
            zones = zone_tables(self.catalogue.zones)
            self._replace(zone_starts=zones.starts, zone_stops=zones.stops, zone_utc_ns=zones.utc_ns, zone_offset_s=zones.offset_s)
        elif isinstance(definition, Account):
            self._with_row("accounts", row_id, 1)
        elif isinstance(definition, Currency):
            self._with_row("currencies", row_id, 1)
        elif isinstance(definition, Source):
            self._with_row("sources", row_id, definition.recurs + 1)

    def _with_row(self, table: str, row_id: int, value: Any) -> Tables:
        rows = getattr(self.tables, table)
        if row_id >= len(rows):
            longer = np.zeros(max(2 * len(rows), row_id + 1), rows.dtype)
            longer[: len(rows)] = rows
            self._replace(**{table: longer})
            rows = longer
        rows[row_id] = value
        return self.tables

    # new events

    def admit(self, group: Any, now_ns: int) -> Admitted:
        """What becomes of a group that the compiled loop left. Nothing changes before `place`."""
        if int(group[0]["kind"]) == Kind.REFDATA:
            try:
                return self._admit_definition(group, now_ns)
            except Refused as error:
                return refused(error.code, "definition")
        outcome = self.admission.admit(group, now_ns)
        if outcome.records is not None:
            date = int(outcome.records[0]["effective_date"])
            if int(outcome.records[0]["kind"]) in KEYED:
                room = self.make_room(date)
                if room is not Room.MADE:
                    return replace(refused(Code.BUSY, "effective_date", date), later=room is Room.LATER)
                self.hold_date(date)
        return outcome

    def _admit_definition(self, group: Any, now_ns: int) -> Admitted:
        definition = decode(text_of(group))
        subject = Subject(int(group[0]["subject"]))
        row_id = self.catalogue.id_of(subject, definition.code)
        known = self.catalogue.get(subject, row_id) if row_id else None
        if known is not None and encode(known) == encode(definition):
            return Admitted(int(Code.DUPLICATE), None, self.catalogue.sequence_of(subject, row_id))
        new_id = row_id or self.catalogue.next_id(subject)
        self.catalogue.check_change(subject, new_id, definition)
        made = with_text(group[0], encode(definition))
        made[0]["original"] = new_id
        given = int(group[0]["effective_date"])
        is_change = row_id or (isinstance(definition, ClassMethod) and self._has_events(definition.book))
        made[0]["effective_date"] = (given or now_ns // NS_PER_DAY) if is_change else 0
        return Admitted(int(Code.ACCEPTED), made)

    def _has_events(self, book: str) -> bool:
        book_id = self.catalogue.id_of(Subject.BOOK, book)
        return bool(((self.tables.chains[:, 0] >> 32) == book_id).any())

    def place(self, records: Any, recorded_ns: int, intake: int, *, tick: bool = False) -> Any:
        """Give an admitted group its place behind the last event: sequences, times, links, keys. Not sealed, not published."""
        self._room()
        count = len(records)
        records["sequence"] = np.arange(self.sequence + 1, self.sequence + 1 + count)
        self.recorded_ns = max(self.recorded_ns, recorded_ns)
        records["recorded_ns"], records["epoch"], records["intake"] = self.recorded_ns, self.epoch, intake
        records["flags"] &= np.uint16(0xFFFF ^ Flag.END_OF_BATCH)
        records[-1]["flags"] = int(records[-1]["flags"]) | Flag.END_OF_BATCH
        for name in ("batch_first", "batch_last", "batch_check", "checksum"):
            records[name] = 0
        link_group(self.tables, records)
        for e in records:
            kind = int(e["kind"])
            if kind in KEYED and not (kind == Kind.TRADE and e["original"]):
                self._add_key(e)
            if kind != Kind.DETAIL:
                self.versions.learn(e)
        self.versions.learn_lot(records)
        if int(records[0]["kind"]) == Kind.REFDATA:
            self.take_definition(*learn_definition(self.catalogue, records))
        self.sequence += count
        self.last_kind = int(records[-1]["kind"])
        return records


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word
