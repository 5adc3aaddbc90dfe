"""One shard: its state, and the order in which events, re-derivations, transfers and instrument events act on it.

Owns growth of the tables and the store of moved lots. Pure: events come in as arrays, what happened goes out through `taken`; it is
the same object in an accumulator, in the shadow, in an as-of question and in `pks calc lots`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pks.base.errors import Code, Fatal
from pks.engine.lots.apply import give, rebase, receive, settle, split
from pks.engine.lots.fold import (
    MORE_ROOM,
    PLACE_MAX,
    TIME_MAX,
    accounts_of,
    changed_sets,
    common,
    fold_key,
    holds,
    install,
    lots_of,
    put_key,
    reissue,
    rescale_moves,
    resolve,
    take_changes,
    walk,
)
from pks.engine.lots.keys import (
    changes_of,
    key_at,
    key_clear,
    key_find,
    key_verdict,
    locked_until,
    mark_changed,
    refuse,
    shard_of,
)
from pks.engine.lots.pool import bucket_add
from pks.engine.lots.run import ANCHOR, DERIVE, ROOM, SPECIAL, place_fee, run, wants_anchor
from pks.engine.lots.state import (
    ACCOUNTS_COUNT,
    CANCELLED_COUNT,
    CHANGED,
    CHANGED_ACCOUNTS,
    DIRTY_COUNT,
    KEYS_COUNT,
    LOCKS_COUNT,
    LOTS_TOP,
    LOTS_USED,
    MATCHES,
    METHODS_COUNT,
    REFUSED_COUNT,
    REVISIONS_COUNT,
    RUN,
    SEQUENCE,
    VERDICTS,
    Array,
    Results,
    State,
    clear,
    new_results,
    new_state,
    power_of_two,
)
from pks.engine.lots.tables import pair_copy, pair_find, pair_set
from pks.layouts.codes import Flag, Kind, MatchFlag, MatchKind, Method, Oversell
from pks.layouts.match import MATCH
from pks.layouts.refdata import METHOD_CHANGE

ANCHORS_MAX = 10
"""Anchors of one key (design section 4)."""

ANCHOR_LOTS_MAX = 1 << 18
"""Lots in all anchors of a shard: 25 MB; a key with more than half of them has none and is walked whole, 0.1 s for 100,000 events."""

CORRECTIONS = (Kind.AMEND, Kind.CANCEL, Kind.FEE)
OF_INSTRUMENT = (Kind.ACTION, Kind.FIXING)


@dataclass(frozen=True)
class MovedSet:
    """The lots that a transfer moved, as its giver knew them at event `version`; `code` is set when the giver refused it."""

    transfer: int
    version: int
    code: int
    moves: Array  # MATCH[n]


@dataclass
class Fold:
    """A key being folded on the side: row 0 of `scratch`, and the match records of its entries."""

    scratch: State
    out: Results
    entries: Array  # EVENT[n], in order
    versions: Array  # int64[n]
    fee_first: Array
    fee_next: Array
    fees: Array
    changes: Array  # keys.changes_of
    moves: Array  # MATCH[n]
    move_first: Array
    move_count: Array
    judged: int
    sets: Array  # int64[n + 1]
    at: int = 0  # entries folded
    change_at: int = 0

    def run(self, stop: int = -1, *, keep: bool = True) -> tuple[int, int]:
        """Fold on up to entry `stop` (default: all). (0, 0), or code and sequence of the event that cannot be.

        keep: the match records of these entries will be looked at.
        """
        stop = len(self.entries) if stop < 0 else stop
        while True:
            self.at, self.change_at, code, blamed = fold_key(
                self.scratch,
                self.out,
                self.entries,
                self.versions,
                self.fee_first,
                self.fee_next,
                self.fees,
                self.changes,
                self.moves,
                self.move_first,
                self.move_count,
                self.judged,
                self.sets,
                self.at,
                stop,
                self.change_at,
            )
            if code != MORE_ROOM:
                break
            if keep or not self.out.counts[MATCHES]:
                self.out = self.out._replace(matches=_longer(self.out.matches, 4 * len(self.out.matches)))
            else:
                self.out.counts[MATCHES] = 0
        if not keep:
            self.out.counts[MATCHES] = 0
        return int(code), int(blamed)

    def finish(self) -> None:
        """Take the changes of policy behind the last entry: the key is then as it stands now."""
        self.change_at = int(take_changes(self.scratch, self.changes, self.change_at, PLACE_MAX))

    def records(self, entry: int | None = None) -> Array:
        """The match records of one folded entry, or of all."""
        if entry is None:
            return self.out.matches[: self.out.counts[MATCHES]].copy()
        return self.out.matches[self.sets[entry] : self.sets[entry + 1]].copy()

    def hand(self, entry: int, moves: Array) -> None:
        """Let the transfer at that entry, not yet folded, bring these lots."""
        self.move_first[entry], self.move_count[entry] = len(self.moves), len(moves)
        self.moves = np.concatenate([self.moves, moves])
        if len(self.scratch.lots) < int(self.scratch.meta[LOTS_TOP]) + len(self.entries) + len(self.moves) + 8:
            self.scratch = self.scratch._replace(lots=_longer(self.scratch.lots, 2 * len(self.scratch.lots) + len(self.moves)))

    def copy_scratch(self) -> State:
        """The folded key once more, to go on with in another way."""
        scratch, top = self.scratch, int(self.scratch.meta[LOTS_TOP])
        lots = np.zeros(len(scratch.lots), scratch.lots.dtype)
        lots[:top] = scratch.lots[:top]
        shared = {"instruments", "methods", "rules", "refused", "cancelled", "revisions", "locks", "lots"}
        own = {name: getattr(scratch, name).copy() for name in scratch._fields if name not in shared}
        return scratch._replace(lots=lots, **own)


@dataclass(frozen=True)
class Anchor:
    """A key as it was before its first event of a date: where a walk back for a correction of that date or a later one may stop."""

    date: int
    sequence: int  # that first event
    key: Array  # KEY[1]
    lots: Array  # LOT[n], oldest first
    accounts: Array  # ACCOUNT[n], ascending


def _nothing(_: Results) -> None:
    """For folds whose matches nobody wants."""


@dataclass
class Shard:
    """Positions of the books with mix(book) mod shards == index, as of event `sequence`."""

    state: State
    out: Results
    records: Array  # EVENT[n]: event n at records[n & mask]; the history that re-derivations read
    mask: int = -1
    index: int = 0
    shards: int = 1
    taken: Callable[[Results], None] = _nothing
    refdata: Callable[[Any], None] | None = None  # what to do with a REFDATA, PERIOD_LOCK or RULES event
    sets: dict[int, list[MovedSet]] = field(default_factory=dict)
    reentries: list[tuple[int, int]] = field(default_factory=list)  # (transfer, cause) whose moved lots changed
    sets_out: list[MovedSet] = field(default_factory=list)  # for other shards, in order
    wait_for_set: Callable[[int, int], MovedSet] | None = None  # (transfer, version) from another shard
    ready: Callable[[int], None] | None = None  # make sure that `records` holds every event up to this one
    applying: int = 0  # the event that `special` is about
    anchors: dict[int, list[Anchor]] = field(default_factory=dict)  # by key row, oldest first
    anchors_order: deque[tuple[int, Anchor]] = field(default_factory=deque)
    anchors_lots: int = 0  # lots in `anchors_order`

    @property
    def sequence(self) -> int:
        """Every event up to this one is applied."""
        return int(self.state.meta[SEQUENCE])

    def owns(self, book_id: int) -> bool:
        """Is this the shard of the book?"""
        return bool(book_id) and (self.shards == 1 or int(shard_of(book_id, self.shards)) == self.index)

    # events in

    def apply(self, events: Array, mask: int, first: int, last: int) -> None:
        """Apply events first..last (event n at events[n & mask]); `taken` is called with what came of them."""
        following = first
        while following <= last:
            following, reason = run(self.state, self.out, events, mask, following, last, self.index, self.shards)
            if reason == ROOM:
                self.grow(self._lots_of(events[following & mask]))
            elif reason == DERIVE:
                self._derive_after(events[(following - 1) & mask])
            elif reason == ANCHOR:
                e = events[following & mask]
                self.anchor(int(key_find(self.state, int(e["book_id"]), int(e["instrument_id"]))), int(e["effective_date"]), following)
            elif reason == SPECIAL:
                self.derive_dirty()  # such an event finds every key derived up to it, wherever its batch began
                self.special(events[following & mask])
                self.state.meta[SEQUENCE] = following
                following += 1
            self.flush()

    def flush(self) -> None:
        """Hand on what was said since the last time."""
        counts = self.out.counts
        if counts[MATCHES] or counts[VERDICTS] or counts[CHANGED] or counts[CHANGED_ACCOUNTS]:
            self.taken(self.out)
        clear(self.out)
        self.state.meta[RUN] += 1  # a key that changes again is listed again

    def _room(self, matches: int = 0, accounts: int = 0) -> None:
        """Make the results hold that many more records and account changes, and one more key and verdict."""
        counts, out = self.out.counts, self.out
        if (
            counts[MATCHES] + matches > len(out.matches)
            or counts[CHANGED_ACCOUNTS] + accounts > len(out.changed_accounts)
            or counts[CHANGED] + 2 > len(out.changed)
            or counts[VERDICTS] + 2 > len(out.verdicts)
        ):
            self.flush()
        if matches > len(out.matches):
            self.out = self.out._replace(matches=np.zeros(2 * matches, MATCH))
        if accounts > len(out.changed_accounts):
            self.out = self.out._replace(changed_accounts=np.zeros((2 * accounts, 2), np.int32))

    def _lots_of(self, e: Any) -> int:
        """How many lots the event may meet."""
        k = key_find(self.state, int(e["book_id"]), int(e["instrument_id"]))
        return int(self.state.keys[k]["open_lots"]) if k >= 0 else 0

    def special(self, e: Any) -> None:
        """An event that acts on many keys, on two books, or on reference data."""
        kind = int(e["kind"])
        self.applying = int(e["sequence"])
        self.derive_dirty()
        if kind == Kind.TRANSFER or kind in CORRECTIONS:
            self.transfer(e)
        elif kind in OF_INSTRUMENT:
            self.instrument_event(e)
        elif kind == Kind.PERIOD_LOCK:
            self.lock(int(e["book_id"]), int(e["effective_date"]))
        elif self.refdata is not None:
            self.refdata(e)

    # growth

    def grow(self, open_lots: int = 0) -> None:
        """Double every table that is nearly full, and the results if one event may fill them."""
        state, meta = self.state, self.state.meta
        grown: dict[str, Array] = {}
        if meta[KEYS_COUNT] + 2 > len(state.keys):
            grown["keys"], grown["dirty"] = _longer(state.keys), _longer(state.dirty)
            index = np.zeros((2 * len(state.index), 2), np.int64)
            pair_copy(state.index, index)
            grown["index"] = index
        if meta[ACCOUNTS_COUNT] + 4 > len(state.accounts):
            grown["accounts"] = _longer(state.accounts)
        for name, count in (
            ("refused", REFUSED_COUNT),
            ("cancelled", CANCELLED_COUNT),
            ("revisions", REVISIONS_COUNT),
            ("locks", LOCKS_COUNT),
        ):
            table = getattr(state, name)
            if 2 * (meta[count] + 2) > len(table):
                grown[name] = np.zeros((2 * len(table), 2), np.int64)
                pair_copy(table, grown[name])
        self.state = state._replace(**grown)
        if meta[LOTS_USED] + 4 > len(state.lots):
            self.grow_lots(2 * len(state.lots))
        if open_lots + 4 > len(self.out.matches):
            self._room(open_lots + 4)

    def grow_lots(self, size: int) -> None:
        """Make the lot pool `size` rows long."""
        lots = _longer(self.state.lots, size)
        buckets = np.full(power_of_two(size), -1, np.int32)
        self.state = self.state._replace(lots=lots, buckets=buckets)
        _refill_buckets(self.state)

    # re-derivation

    def _derive_after(self, e: Any) -> None:
        """Derive what waits at the end of a batch; inside one only the key of event `e`, whose book may refuse it."""
        if int(e["flags"]) & Flag.END_OF_BATCH:
            self.derive_dirty()
            return
        state, k = self.state, int(key_find(self.state, int(e["book_id"]), int(e["instrument_id"])))
        waiting = state.dirty[: state.meta[DIRTY_COUNT]]
        others = waiting[waiting != k]
        state.dirty[: len(others)] = others
        state.meta[DIRTY_COUNT] = len(others)
        self.derive(k, self.sequence)

    def derive_dirty(self) -> None:
        """Derive every key that waits for it."""
        waiting = sorted(int(k) for k in self.state.dirty[: self.state.meta[DIRTY_COUNT]])
        self.state.meta[DIRTY_COUNT] = 0
        for k in waiting:
            self.derive(k, self.sequence)

    def anchor(self, k: int, date: int, sequence: int) -> None:
        """Keep key `k` as it is before event `sequence`, its first of a later date. Bounded: the oldest anchors go."""
        key = self.state.keys[k]
        key["anchor"] = key["trades_count"]
        if int(key["open_lots"]) > ANCHOR_LOTS_MAX // 2:
            return
        rows, row = [], int(key["accounts"])
        while row >= 0:
            rows.append(row)
            row = int(self.state.accounts[row]["next"])
        made = Anchor(date, sequence, self.state.keys[k : k + 1].copy(), lots_of(self.state, k), self.state.accounts[rows])
        self.anchors.setdefault(k, []).append(made)
        self.anchors_order.append((k, made))
        self.anchors_lots += len(made.lots)
        if len(self.anchors[k]) > ANCHORS_MAX:
            self.anchors[k].pop(0)
        while self.anchors_lots > ANCHOR_LOTS_MAX:
            of_key, oldest = self.anchors_order.popleft()
            self.anchors_lots -= len(oldest.lots)
            if self.anchors[of_key] and self.anchors[of_key][0] is oldest:
                self.anchors[of_key].pop(0)

    def _anchor_before(self, k: int, date: int, sequence: int) -> None:
        if wants_anchor(self.state, k, date):
            self.anchor(k, date, sequence)

    def _holding_anchor(self, k: int, at: int) -> tuple[Anchor | None, Array]:
        """The newest anchor of key `k` that still holds, and the sequences to fold from there; those that hold no more are dropped."""
        key, kept = self.state.keys[k], self.anchors.get(k, [])
        class_id = int(self.state.instruments[int(key["instrument_id"])]["asset_class_id"])
        changes = changes_of(self.state, int(key["book_id"]), class_id, at)
        while kept:
            newest = kept[-1]
            sequences = self.sequences_of(k, newest.sequence - 1)
            if holds(self.records, self.mask, sequences, changes, newest.date, newest.sequence):
                return newest, sequences
            kept.pop()
        return None, self.sequences_of(k)

    def sequences_of(self, k: int, before: int = 0) -> Array:
        """Ascending sequences > `before` of every event of key `k`, its instrument's among them."""
        key = self.state.keys[k]
        chain = int(self.state.instruments[int(key["instrument_id"])]["chain"])
        into = np.empty(max(1024, 2 * int(key["trades_count"])), np.int64)
        while True:
            count = walk(self.records, self.mask, int(key["book_id"]), int(key["instrument_id"]), int(key["chain"]), chain, before, into)
            if count >= 0:
                return np.sort(into[:count])
            into = np.empty(4 * len(into), np.int64)

    def fold(self, k: int, sequences: Array, known: int, judged: int, time_max: int = int(TIME_MAX), anchor: Anchor | None = None) -> Fold:
        """Key `k` about to be folded on the side from `sequences`, as known at `known` and as of `time_max`; they go on from `anchor`."""
        state, key = self.state, self.state.keys[k]
        book_id, instrument_id = int(key["book_id"]), int(key["instrument_id"])
        resolved = resolve(state, self.records, self.mask, sequences, book_id, instrument_id, known, time_max)
        entries, versions, fee_first, fee_next, fees = resolved
        changes = changes_of(state, book_id, int(state.instruments[instrument_id]["asset_class_id"]), known)
        moves, move_first, move_count = self._moves(entries, versions, book_id)
        lots, accounts = (len(anchor.lots), len(anchor.accounts)) if anchor is not None else (0, 0)
        scratch = _scratch(state, len(entries) + len(moves) + lots + 8, 2 * len(entries) + accounts + 8)
        key_clear(scratch, 0, book_id, instrument_id, Method.FIFO)
        scratch.books[book_id]["oversell"], scratch.books[book_id]["fees_in_cost"] = Oversell.FLIP, 0
        taken = 0
        if anchor is not None:
            put_key(scratch, anchor.key[0], anchor.lots, anchor.accounts)
            taken = int((changes[:, 0] < anchor.date).sum())
            if taken:
                scratch.books[book_id]["oversell"], scratch.books[book_id]["fees_in_cost"] = changes[taken - 1, 3], changes[taken - 1, 4]
        return Fold(
            scratch,
            new_results(2 * len(entries) + len(moves) + lots + 64, 8),
            entries,
            versions,
            fee_first,
            fee_next,
            fees,
            changes,
            moves,
            move_first,
            move_count,
            judged,
            np.zeros(len(entries) + 1, np.int64),
            change_at=taken,
        )

    def _moves(self, entries: Array, versions: Array, book_id: int) -> tuple[Array, Array, Array]:
        """The lots that came with each TRANSFER received by the book, as the giver knew them at the version that counts."""
        first, count = np.zeros(len(entries), np.int64), np.zeros(len(entries), np.int64)
        parts: list[Array] = []
        total = 0
        for i in np.flatnonzero((entries["kind"] == Kind.TRANSFER) & (entries["to_book_id"] == book_id)):
            moves = self.moved(int(entries[i]["sequence"]), int(versions[i]))
            first[i], count[i] = total, len(moves)
            parts.append(moves)
            total += len(moves)
        return (np.concatenate(parts) if parts else np.zeros(0, MATCH)), first, count

    def moved(self, transfer: int, known: int) -> Array:
        """The lots of the latest accepted set of a transfer with a version <= known, in the instrument's present scales."""
        chosen = np.zeros(0, MATCH)
        for moved_set in self.sets.get(transfer, ()):
            if moved_set.version <= known and not moved_set.code:
                chosen = moved_set.moves
        if len(chosen):
            policy = self.state.instruments[int(chosen[0]["instrument_id"])]
            if any(chosen[0][name] != policy[name] for name in ("price_scale", "qty_scale", "money_scale")):
                chosen = chosen.copy()
                rescale_moves(chosen, self.state.instruments, int(chosen[0]["instrument_id"]))
        return chosen

    def derive(self, k: int, at: int, *, touched: bool = False, old_policy: Any = None) -> Fold:
        """Derive key `k` again, every event up to `at` being known: refuse what must be refused, say the match sets that changed.

        touched: event `at` is no event of the key but changes it (a policy, a scale), and counts as its last. old_policy: the instrument's,
        by whose scales the key was folded before.
        Returns the new fold; its match sets are there from the first entry on that differs from what was folded before.
        """
        if self.ready is not None:
            self.ready(at)
        judged = int(self.state.keys[k]["judged"])
        if old_policy is None:
            anchor, sequences = self._holding_anchor(k, at)
            old = self.fold(k, sequences, judged, judged, anchor=anchor)
        else:
            self.anchors.pop(k, None)
            anchor, sequences = None, self.sequences_of(k)
            old = self._fold_in_old_scales(k, sequences, judged, old_policy)
        new = self.fold(k, sequences, at, judged, anchor=anchor)
        same = int(
            common(
                old.entries,
                old.versions,
                old.fee_first,
                old.fee_next,
                new.entries,
                new.versions,
                new.fee_first,
                new.fee_next,
                new.changes,
                judged,
            )
        )
        if old_policy is not None:
            same = 0
        if same:
            self._past(k, *old.run(same, keep=False))
            new.scratch, new.at, new.change_at = old.copy_scratch(), old.at, old.change_at
        if new.run()[0]:
            self._judge(k, sequences, judged, at, anchor)
            new = self.fold(k, sequences, at, at, anchor=anchor)
            self._past(k, *new.run())
        new.finish()
        if old_policy is None:
            self._past(k, *old.run())
        self._reissue(k, old, new, same, judged)
        self._install(k, new, sequences, at, touched, int(anchor.key[0]["last_date"]) if anchor is not None else 0)
        return new

    def _fold_in_old_scales(self, k: int, sequences: Array, judged: int, old_policy: Any) -> Fold:
        """The key as it was folded before its instrument's scales became finer, its match records brought to the finer ones."""
        instruments, instrument_id = self.state.instruments, int(self.state.keys[k]["instrument_id"])
        new_policy = instruments[instrument_id].copy()
        instruments[instrument_id] = old_policy
        old = self.fold(k, sequences, judged, judged)
        self._past(k, *old.run())
        instruments[instrument_id] = new_policy
        rescale_moves(old.out.matches[: old.out.counts[MATCHES]], instruments, instrument_id)
        return old

    def _past(self, k: int, code: int, blamed: int) -> None:
        """What was judged before must fold."""
        if code:
            key = self.state.keys[k]
            raise Fatal(f"key {key['book_id']}/{key['instrument_id']}: its own past does not fold, code {code} at {blamed}")

    def _judge(self, k: int, sequences: Array, judged: int, at: int, anchor: Anchor | None) -> None:
        """Judge the key's new events one after another, each by the fold of the events up to it."""
        for sequence in sequences[(sequences > judged) & (sequences <= at)].tolist():
            code, _ = self.fold(k, sequences, sequence, judged, anchor=anchor).run()
            if code:
                e = self.records[sequence & self.mask]
                self._room()
                refuse(self.state, self.out, e, self._verdict(k, e), code)
                if int(e["kind"]) == Kind.CANCEL:
                    pair_set(self.state.cancelled, int(e["original"]), -1)
                self.grow()
            judged = sequence

    def _verdict(self, k: int, e: Any) -> int:
        """Where the key's verdict on the event is kept: with the event, or where each key judges for itself, with the key."""
        key, sequence = self.state.keys[k], int(e["sequence"])
        receives = int(e["to_book_id"]) == int(key["book_id"])
        if int(e["kind"]) in OF_INSTRUMENT or receives:
            return int(key_verdict(int(key["book_id"]), int(key["instrument_id"]), sequence))
        return sequence

    def _install(self, k: int, new: Fold, sequences: Array, at: int, touched: bool, anchor_date: int) -> None:
        """Put the new fold in place of the key. `anchor_date`: the last date of what it was folded on."""
        state, scratch = self.state, new.scratch
        while state.meta[LOTS_USED] + int(scratch.keys[0]["open_lots"]) + 4 > len(self.state.lots):
            self.grow_lots(2 * len(self.state.lots))
        while state.meta[ACCOUNTS_COUNT] + int(scratch.meta[ACCOUNTS_COUNT]) + 4 > len(self.state.accounts):
            self.state = self.state._replace(accounts=_longer(self.state.accounts))
        self._room(0, int(accounts_of(self.state, k)) + int(accounts_of(scratch, 0)))
        key = self.state.keys[k]
        last = self._last_accepted(k, sequences, at) if not touched else at
        install(self.state, self.out, k, scratch, max(last, int(key["last_sequence"])))
        instrument = self.state.instruments[int(key["instrument_id"])]
        dates = [anchor_date, int(instrument["last_action_date"]), *new.changes[:, 0].tolist()]
        if len(new.entries):
            dates.append(int(new.entries["effective_date"].max()))
        key["last_date"], key["dirty"], key["judged"] = max(0, *dates), 0, at
        if last > key["last_sequence"]:
            mark_changed(self.state, self.out, k, self.records[last & self.mask])

    def _last_accepted(self, k: int, sequences: Array, at: int) -> int:
        """The latest of the key's events up to `at` that was not refused; 0 is none."""
        for sequence in sequences[::-1].tolist():
            if sequence <= at and pair_find(self.state.refused, sequence) < 0:
                e = self.records[sequence & self.mask]
                is_givers = int(e["kind"]) == Kind.FEE and int(e["to_book_id"]) == int(self.state.keys[k]["book_id"])
                if not is_givers and pair_find(self.state.refused, self._verdict(k, e)) < 0:
                    return int(sequence)
        return 0

    def _reissue(self, k: int, old: Fold, new: Fold, first_entry: int, judged: int) -> None:
        """Say the match sets that are new or changed, of entries from `first_entry` on."""
        key, start = self.state.keys[k], min(first_entry, new.at)
        old_sets, new_sets = old.sets[first_entry:], new.sets[start:]
        old_sequences = np.ascontiguousarray(old.entries["sequence"][first_entry:])  # one type of array, also where one is left
        new_sequences = np.ascontiguousarray(new.entries["sequence"][start:])
        into = np.empty((len(old_sequences) + len(new_sequences) + 1, 5), np.int64)
        count = changed_sets(old.out.matches, old_sequences, old_sets, new.out.matches, new_sequences, new_sets, into)
        cause = int(key["cause"])
        recorded_ns = int(self.records[cause & self.mask]["recorded_ns"])
        locked = int(locked_until(self.state, int(key["book_id"])))
        moved = np.zeros(count + 1, np.int64)
        done = 0
        while done < count:
            done = int(
                reissue(
                    self.state, self.out, k, into, done, count, new.out.matches, old.out.matches, judged, cause, recorded_ns, locked, moved
                )
            )
            self.reentries += [(sequence, cause) for sequence in moved[1 : moved[0] + 1].tolist()]
            moved[0] = 0
            if done < count:
                self._room(max(1, int(into[done, 2])))
                self.grow()

    def lock(self, book_id: int, date: int) -> None:
        """The book (0: every book) is locked up to `date`: sets of events up to it that come later say so."""
        if pair_set(self.state.locks, book_id + 1, date):
            self.state.meta[LOCKS_COUNT] += 1
            self.grow()

    # transfers

    def transfer(self, e: Any) -> None:
        """A TRANSFER, or a correction of one: the giver's half, then the receiver's."""
        kind, sequence = int(e["kind"]), int(e["sequence"])
        original = int(e["original"]) if kind != Kind.TRANSFER else sequence
        giver, receiver = self.owns(int(e["book_id"])), self.owns(int(e["to_book_id"]))
        if kind == Kind.FEE:
            self._fee_of_transfer(e, giver, receiver)
            return
        if giver:
            self._remember(self._give(e, original))
        elif receiver and self.wait_for_set is not None:
            self._remember(self.wait_for_set(original, sequence))
        if receiver:
            self._receive(e, original)

    def _fee_of_transfer(self, e: Any, giver: bool, receiver: bool) -> None:
        """A transfer's fee is the giver's, and moves no lot."""
        if giver:
            k = self._key_for(e, int(e["book_id"]))
            self.state.keys[k]["chain"] = e["sequence"]
            code = self._refusal(int(e["original"]))
            if code:
                refuse(self.state, self.out, e, int(e["sequence"]), code)
            else:
                place_fee(self.state, self.out, k, e)
        if receiver:
            k = self._key_for(e, int(e["to_book_id"]))
            self.state.keys[k]["chain"] = e["sequence"]

    def _refusal(self, original: int) -> int:
        """Code why the event cannot be corrected, or 0."""
        if pair_find(self.state.cancelled, original) >= 0:
            return int(Code.ALREADY_CANCELLED)
        if pair_find(self.state.refused, original) >= 0:
            return int(Code.INVALID_TRANSITION)
        return 0

    def _remember(self, moved_set: MovedSet) -> None:
        known = self.sets.setdefault(moved_set.transfer, [])
        if not known or known[-1].version < moved_set.version:
            known.append(moved_set)
        if moved_set.code and pair_set(self.state.refused, moved_set.version, moved_set.code):
            self.state.meta[REFUSED_COUNT] += 1
            self.grow()

    def _give(self, e: Any, original: int) -> MovedSet:
        """The giver's half of event `e`; what it moved goes to `sets_out`."""
        sequence, kind = int(e["sequence"]), int(e["kind"])
        k = self._key_for(e, int(e["book_id"]))
        key = self.state.keys[k]
        key["chain"] = sequence
        code, moves = 0, np.zeros(0, MATCH)
        if kind != Kind.TRANSFER:
            code = self._refusal(original)
        if code:
            refuse(self.state, self.out, e, sequence, code)
        elif kind == Kind.TRANSFER and e["effective_date"] >= key["last_date"]:
            self._anchor_before(k, int(e["effective_date"]), sequence)
            first = int(self.out.counts[MATCHES])
            code = int(give(self.state, self.out, k, e, False))
            key["last_date"], key["judged"] = e["effective_date"], sequence
            if code:
                refuse(self.state, self.out, e, sequence, code)
            else:
                records = self.out.matches[first : self.out.counts[MATCHES]]
                moves = records.copy()
                if int(e["effective_date"]) <= int(locked_until(self.state, int(e["book_id"]))):
                    records["flags"] |= np.uint8(MatchFlag.PRIOR_PERIOD)
                mark_changed(self.state, self.out, k, e)
        else:
            if kind == Kind.CANCEL:
                self._set_cancelled(original, sequence)
            before = len(self.reentries)
            key["cause"] = sequence
            new = self.derive(k, sequence)
            self.reentries[before:] = [pair for pair in self.reentries[before:] if pair[0] != original]
            code = max(0, int(pair_find(self.state.refused, sequence)))
            at = np.flatnonzero(new.entries["sequence"] == original)
            if len(at) and not code:
                moves = new.records(int(at[0]))
        made = MovedSet(original, sequence, code, moves[moves["kind"] == MatchKind.MOVED])
        self.sets_out.append(made)
        return made

    def _set_cancelled(self, original: int, sequence: int) -> None:
        if pair_set(self.state.cancelled, original, sequence):
            self.state.meta[CANCELLED_COUNT] += 1
            self.grow()

    def _receive(self, e: Any, original: int) -> None:
        """The receiver's half of event `e`, with the lots of its latest set."""
        sequence = int(e["sequence"])
        k = self._key_for(e, int(e["to_book_id"]))
        key = self.state.keys[k]
        key["chain"] = sequence
        if pair_find(self.state.refused, sequence) >= 0:
            return
        if int(e["kind"]) == Kind.CANCEL:
            self._set_cancelled(original, sequence)
        if int(e["kind"]) != Kind.TRANSFER or e["effective_date"] < key["last_date"]:
            key["cause"] = sequence
            self.derive(k, sequence)
            return
        self._anchor_before(k, int(e["effective_date"]), sequence)
        moves = self.moved(original, sequence)
        while self.state.meta[LOTS_USED] + len(moves) + 4 > len(self.state.lots):
            self.grow_lots(2 * len(self.state.lots))
        self._room(int(key["open_lots"]) + len(moves) + 4, 2)
        first = int(self.out.counts[MATCHES])
        code = int(receive(self.state, self.out, k, e, moves, 0, len(moves)))
        key["last_date"], key["judged"] = e["effective_date"], sequence
        if code:
            refuse(self.state, self.out, e, self._verdict(k, e), code)
            return
        if int(e["effective_date"]) <= int(locked_until(self.state, int(e["to_book_id"]))):
            self.out.matches[first : self.out.counts[MATCHES]]["flags"] |= np.uint8(MatchFlag.PRIOR_PERIOD)
        mark_changed(self.state, self.out, k, e)

    def _key_for(self, e: Any, book_id: int) -> int:
        """Row of the event's key on the side of `book_id`, with room for one more event on it."""
        k = int(key_find(self.state, book_id, int(e["instrument_id"])))
        self.grow(int(self.state.keys[k]["open_lots"]) if k >= 0 else 0)
        if k < 0:
            k = int(key_at(self.state, book_id, int(e["instrument_id"]), int(e["effective_date"]), int(e["sequence"])))
        self._room(int(self.state.keys[k]["open_lots"]) + 4, int(accounts_of(self.state, k)) + 2)
        return k

    # instruments and methods

    def keys_of_instrument(self, instrument_id: int) -> Iterator[int]:
        """Rows of every key of the instrument."""
        k = int(self.state.instruments[instrument_id]["first_key"])
        while k >= 0:
            yield k
            k = int(self.state.keys[k]["next_of_instrument"])

    def instrument_event(self, e: Any) -> None:
        """A split or a clearing: on every key of the instrument, and on those that a later backdated trade opens."""
        instrument = self.state.instruments[int(e["instrument_id"])]
        sequence, date, is_action = int(e["sequence"]), int(e["effective_date"]), int(e["kind"]) == Kind.ACTION
        instrument["chain"] = sequence
        instrument["last_action_date"] = max(int(instrument["last_action_date"]), date)
        for k in self.keys_of_instrument(int(e["instrument_id"])):
            self._key_for(e, int(self.state.keys[k]["book_id"]))
            key = self.state.keys[k]
            if date < key["last_date"] or (is_action and date == key["last_date"]):
                key["cause"] = sequence
                self.derive(k, sequence)
                continue
            self._anchor_before(k, date, sequence)
            first = int(self.out.counts[MATCHES])
            code = int(split(self.state, self.out, k, e, False) if is_action else settle(self.state, k, e))
            key["last_date"], key["judged"] = date, sequence
            if code:
                refuse(self.state, self.out, e, self._verdict(k, e), code)
                continue
            if date <= int(locked_until(self.state, int(key["book_id"]))):
                self.out.matches[first : self.out.counts[MATCHES]]["flags"] |= np.uint8(MatchFlag.PRIOR_PERIOD)
            mark_changed(self.state, self.out, k, e)

    def rescale(self, instrument_id: int, old: Any) -> None:
        """The instrument's scales became finer than in its policy `old`: every key of it is derived again in them."""
        new = self.state.instruments[instrument_id]
        if all(new[name] == old[name] for name in ("price_scale", "qty_scale", "money_scale")):
            return
        for k in self.keys_of_instrument(instrument_id):
            self.state.keys[k]["cause"] = self.applying
            self.derive(k, self.applying, touched=True, old_policy=old)

    def change_method(self, book_id: int, asset_class_id: int, method: int, date: int, sequence: int) -> None:
        """The book's lots (of one asset class, or 0: of all without their own method) go by `method` from (date, sequence) on.

        With class 0 the oversell policy and fees_in_cost of the book's row, as they stand in the state, hold from there on too.
        """
        state, book, count = self.state, self.state.books[book_id], int(self.state.meta[METHODS_COUNT])
        if count == len(state.methods):
            self.state = state = state._replace(methods=_longer(state.methods), rules=_longer(state.rules))
        state.methods[count] = np.array((book_id, asset_class_id, date, int(method), sequence), METHOD_CHANGE)
        state.rules[count] = (-1, -1) if asset_class_id else (book["oversell"], book["fees_in_cost"])
        state.meta[METHODS_COUNT] = count + 1
        latest = changes_of(state, book_id, 0, TIME_MAX)
        if len(latest):
            book["oversell"], book["fees_in_cost"] = latest[-1, 3], latest[-1, 4]
        k = int(book["first_key"])
        while k >= 0:
            key = self.state.keys[k]
            following = int(key["next_of_book"])
            class_id = int(self.state.instruments[int(key["instrument_id"])]["asset_class_id"])
            if not asset_class_id or asset_class_id == class_id:
                self._change_policy(k, class_id, date, sequence)
            k = following

    def _change_policy(self, k: int, class_id: int, date: int, sequence: int) -> None:
        """Let key `k` go by a change of policy that was just added."""
        key = self.state.keys[k]
        key["cause"] = sequence
        if date < key["last_date"]:
            self.derive(k, sequence, touched=True)
            return
        rebase(self.state, k, int(changes_of(self.state, int(key["book_id"]), class_id, TIME_MAX)[-1, 2]))
        key["last_date"], key["judged"] = date, sequence
        self._room()
        mark_changed(self.state, self.out, k, self.records[sequence & self.mask])


def _longer(table: Array, size: int = 0) -> Array:
    """A copy of the table with `size` rows (default twice as many), the new ones zero."""
    longer = np.zeros(size or 2 * len(table), table.dtype)
    longer[: len(table)] = table
    return longer


def _refill_buckets(state: State) -> None:
    """Find specific lots by id again after the bucket table was made anew."""
    for k in np.flatnonzero(state.keys["method"][: state.meta[KEYS_COUNT]] == Method.SPECIFIC):
        row = int(state.keys[k]["oldest"])
        while row >= 0:
            bucket_add(state, int(k), row)
            row = int(state.lots[row]["newer"])


def _scratch(state: State, lots: int, accounts: int) -> State:
    """A state with one key that shares the instruments and the verdicts of `state`, and has books of its own."""
    empty = new_state(1, lots, accounts, 1, 1, 2)
    empty.meta[KEYS_COUNT] = 1
    shared = {name: getattr(state, name) for name in ("instruments", "methods", "rules", "refused")}
    return empty._replace(books=state.books.copy(), **shared)


def new_shard(
    records: Array,
    mask: int = -1,
    *,
    keys: int = 1 << 10,
    lots: int = 1 << 12,
    instruments: int = 1 << 10,
    books: int = 1 << 8,
    index: int = 0,
    shards: int = 1,
) -> Shard:
    """An empty shard that reads its history from `records`."""
    return Shard(new_state(keys, lots, 2 * keys, instruments, books), new_results(4096, 4096), records, mask, index, shards)
