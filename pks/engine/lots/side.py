"""A key folded on the side: which versions of its events live, and the lots and match sets that follow from them, in chunks.

Owns the scratch state of such a fold. Used by the shard for re-derivations and by questions about the past; touches no live key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pks.engine.lots.fold import MORE_ROOM, PLACE_MAX, TIME_MAX, fold_key, keep_live, load_entries, resolve, take_changes
from pks.engine.lots.state import (
    ACCOUNTS_COUNT,
    KEYS_COUNT,
    LOTS_FREE,
    LOTS_TOP,
    MATCHES,
    Array,
    Results,
    State,
    new_results,
    new_state,
    power_of_two,
)
from pks.layouts.event import EVENT

CHUNK = 1024
"""Entries loaded and folded between two beats: with their match records they stay in the second-level cache."""


@dataclass(frozen=True)
class Live:
    """The live versions of a key's events, in order."""

    firsts: Array  # int64[n]: sequence of the original
    versions: Array  # int64[n]: the event that made it what it is
    kinds: Array  # uint8[n]: the original's
    places: Array  # int64[n]: ascending
    fee_first: Array  # int64[n]: the entry's last FEE event, an index into `fees`, or -1
    fees: Array  # int64[m, 5]: raw, scale, currency, sequence, next fee of the entry

    def __len__(self) -> int:
        return len(self.firsts)


class Versions:
    """The versions of a key's events, taken in the order of their sequences, as far as one asks."""

    def __init__(self, state: State, records: Array, mask: int, sequences: Array, key: Any, time_max: int = int(TIME_MAX)) -> None:
        """sequences: ascending, those of the key `key` (a KEY row). time_max: trades and fees of a later trade time do not count."""
        size = len(sequences)
        self._state, self._records, self._mask, self._sequences, self._time_max = state, records, mask, sequences, time_max
        self._book_id, self._instrument_id = int(key["book_id"]), int(key["instrument_id"])
        self._firsts, self._versions, self._fee_first = np.empty((3, size), np.int64)
        self._kinds, self._fees = np.empty(size, np.uint8), np.empty((size, 5), np.int64)
        self._counts = np.zeros(2, np.int64)
        self._at = 0

    def live(self, known: int) -> Live:
        """What lives, as known at `known`, which must not go back."""
        self._at = resolve(
            self._state, self._records, self._mask, self._sequences, self._at, known, self._book_id, self._instrument_id, self._time_max,
            self._firsts, self._versions, self._kinds, self._fee_first, self._fees, self._counts,
        )  # fmt: skip
        size = int(self._counts[0])
        firsts, versions, fee_first, places = np.empty((4, size), np.int64)
        kinds = np.empty(size, np.uint8)
        count, is_sorted = keep_live(
            self._records, self._mask, size, self._time_max, self._firsts, self._versions, self._kinds, self._fee_first,
            firsts, versions, kinds, fee_first, places,
        )  # fmt: skip
        chosen: Any = slice(0, count) if is_sorted else np.argsort(places[:count], kind="stable")
        return Live(firsts[chosen], versions[chosen], kinds[chosen], places[chosen], fee_first[chosen], self._fees)


class Desk:
    """What a fold on the side is made on: a state of one key, results, loaded entries. One fold at a time uses it."""

    def __init__(self, entries: int = CHUNK) -> None:
        """entries: of the folds that it is for, about."""
        size = min(entries, CHUNK)
        empty = new_state(1, 2 * size + 8, 2 * size + 8, 1, 1, 2)
        self.state, self.out, self.entries = empty, new_results(2 * size + 64, 8), np.empty(size + 1, EVENT)
        self._buckets = empty.buckets

    def clear(self, state: State, book_id: int, size: int) -> State:
        """The emptied state: it shares the instruments and the verdicts of `state`, and has the policy of that book. size: lots, about."""
        old = self.state
        books = old.books if len(old.books) == len(state.books) else state.books.copy()
        books[book_id] = state.books[book_id]
        buckets = power_of_two(min(max(size, 16), 1 << 20))
        if buckets > len(self._buckets):
            self._buckets = np.empty(buckets, np.int32)
        self._buckets[:buckets] = -1
        old.meta[:] = 0
        old.meta[KEYS_COUNT], old.meta[LOTS_FREE] = 1, -1
        old.keys[:] = 0
        self.out.counts[:] = 0
        shared = {name: getattr(state, name) for name in ("instruments", "methods", "rules", "refused")}
        self.state = old._replace(books=books, buckets=self._buckets[:buckets], **shared)
        return self.state


class Fold:
    """A key being folded on the side: row 0 of `scratch`, and the match records of its entries."""

    def __init__(
        self, desk: Desk, live: Live, records: Array, mask: int, changes: Array, moves: Array, move_first: Array, move_count: Array,
        judged: int, beat: Callable[[], None],
    ) -> None:  # fmt: skip
        """desk: cleared. changes: keys.changes_of. moves, move_first, move_count: the lots that come with transfers (fold.fold_key)."""
        self.desk, self.live, self.records, self.mask, self.changes = desk, live, records, mask, changes
        self.moves, self.move_first, self.move_count, self.judged, self.beat = moves, move_first, move_count, judged, beat
        self.at = self.change_at = 0  # entries folded, changes of policy taken
        self.entries, self.base, self.loaded = desk.entries, 0, 0  # of entries base..loaded - 1
        self.sets = np.zeros(len(live) + 1, np.int64)  # the match records of entry i are out.matches[sets[i]:sets[i + 1]]

    @property
    def scratch(self) -> State:
        """The state with the key."""
        return self.desk.state

    @property
    def out(self) -> Results:
        """Its match records."""
        return self.desk.out

    def load(self, first: int, count: int) -> None:
        """Make entries first..first + count - 1 (at most CHUNK) ready to be folded."""
        live, instruments = self.live, self.scratch.instruments
        instrument_id = int(self.scratch.keys[0]["instrument_id"])
        load_entries(
            self.records,
            self.mask,
            live.firsts,
            live.versions,
            live.kinds,
            instruments,
            instrument_id,
            first,
            first + count,
            self.desk.entries,
        )
        self.entries, self.base, self.loaded = self.desk.entries, first, first + count

    def share(self, other: Fold, first: int) -> None:
        """Take what `other` has loaded as one's own entries from `first` on: both have the same versions there."""
        self.entries, self.base, self.loaded = other.entries, first, first + other.loaded - other.base

    def entry(self, i: int) -> Any:
        """EVENT: one entry."""
        self.load(i, 1)
        return self.desk.entries[0].copy()

    def run(self, stop: int = -1, *, keep: bool = True) -> tuple[int, int]:
        """Fold on up to entry `stop` (default: all). (0, 0), or code and sequence of the event that cannot be.

        keep: the match records of these entries will be looked at.
        """
        stop = len(self.live) if stop < 0 else stop
        live = self.live
        while self.at < stop:
            if not self.base <= self.at < self.loaded:
                self.load(self.at, min(CHUNK, len(live) - self.at))
            self._room()
            self.at, self.change_at, code, blamed = fold_key(
                self.scratch,
                self.out,
                self.entries,
                self.base,
                live.versions,
                live.places,
                live.fee_first,
                live.fees,
                self.changes,
                self.change_at,
                self.moves,
                self.move_first,
                self.move_count,
                self.judged,
                self.sets,
                self.at,
                min(stop, self.loaded),
            )
            if code == MORE_ROOM:
                if keep or not self.out.counts[MATCHES]:
                    self._grow()
                else:
                    self.forget()
            elif code:
                return int(code), int(blamed)
            else:
                self.beat()
        return 0, 0

    def _room(self) -> None:
        """Have a lot and two account rows for each loaded entry, and a lot for each that a transfer may bring."""
        meta, lots, accounts = self.scratch.meta, self.loaded - self.at + len(self.moves), 2 * (self.loaded - self.at)
        if meta[LOTS_TOP] + lots + 8 > len(self.scratch.lots) or meta[ACCOUNTS_COUNT] + accounts + 8 > len(self.scratch.accounts):
            self.desk.state = roomy(self.scratch, 2 * lots + int(meta[LOTS_TOP]), 2 * accounts)

    def _grow(self) -> None:
        """Make the results twice as long, and long enough for one entry that meets every open lot."""
        size = 2 * len(self.out.matches) + int(self.scratch.keys[0]["open_lots"]) + len(self.moves)
        matches = np.zeros(size, self.out.matches.dtype)  # no kernel writes the reserved bytes
        matches[: self.out.counts[MATCHES]] = self.out.matches[: self.out.counts[MATCHES]]
        self.desk.out = self.out._replace(matches=matches)

    def forget(self) -> None:
        """Drop the match records of everything folded so far."""
        self.out.counts[MATCHES] = 0

    def finish(self) -> None:
        """Take the changes of policy behind the last entry: the key is then as it stands now."""
        self.change_at = int(take_changes(self.scratch, self.changes, self.change_at, PLACE_MAX))

    def set_of(self, entry: int) -> Array:
        """The match records of one folded entry."""
        return self.out.matches[self.sets[entry] : self.sets[entry + 1]].copy()

    def go_on_from(self, other: Fold) -> None:
        """Be where `other`, a fold of the same key, has come to: all that was folded there is the same here."""
        mine, used, accounts = self.scratch, int(other.scratch.meta[LOTS_TOP]), int(other.scratch.meta[ACCOUNTS_COUNT])
        self.desk.state = mine = roomy(mine, used, accounts)
        mine.lots[:used], mine.accounts[:accounts] = other.scratch.lots[:used], other.scratch.accounts[:accounts]
        mine.keys[0], mine.meta[:] = other.scratch.keys[0], other.scratch.meta
        book_id = int(mine.keys[0]["book_id"])
        mine.books[book_id] = other.scratch.books[book_id]
        if len(mine.buckets) != len(other.scratch.buckets):
            self.desk.state = mine = mine._replace(buckets=other.scratch.buckets.copy())
        else:
            mine.buckets[:] = other.scratch.buckets
        self.at, self.change_at = other.at, other.change_at

    def hand(self, entry: int, moves: Array) -> None:
        """Let the transfer at that entry, not yet folded, bring these lots."""
        self.move_first[entry], self.move_count[entry] = len(self.moves), len(moves)
        self.moves = np.concatenate([self.moves, moves])


def roomy(scratch: State, lots: int, accounts: int) -> State:
    """The scratch with room for that many more lots and accounts."""
    grown: dict[str, Array] = {}
    for name, more, count in (("lots", lots, LOTS_TOP), ("accounts", accounts, ACCOUNTS_COUNT)):
        table, used = getattr(scratch, name), int(scratch.meta[count])
        if len(table) < used + more + 8:
            grown[name] = np.zeros(used + more + 8, table.dtype)
            grown[name][:used] = table[:used]
    return scratch._replace(**grown)
