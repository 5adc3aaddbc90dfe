"""One shard: its state, and the order in which events, re-derivations, transfers and instrument events act on it.

Owns growth of the tables and the store of moved lots. Pure: events come in as arrays, what happened goes out through `taken`; it is
the same object in an accumulator, in the shadow, in an as-of question and in `pks calc lots`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pks.base.errors import Code, Fatal
from pks.engine.lots.anchors import ANCHOR_LOTS_MAX, Anchor, Anchors, anchor_of, day_start, is_worth, stops
from pks.engine.lots.apply import give, rebase, receive, settle, split
from pks.engine.lots.fold import (
    COME,
    GONE,
    PAIR,
    PLACE_MAX,
    SEQUENCE_BITS,
    TIME_MAX,
    accounts_of,
    add_later_fees,
    change_place,
    common,
    differing,
    install,
    may_be_refused,
    no_match,
    put_key,
    reissue,
    rescale_moves,
    same_set,
    segments,
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
from pks.engine.lots.run import ANCHOR, DERIVE, JUDGE, ROOM, SPECIAL, place_fee, run, wants_anchor
from pks.engine.lots.side import CHUNK, Desk, Fold, Live, Versions, roomy
from pks.engine.lots.state import (
    ACCOUNTS_COUNT,
    ANCHOR_EVENTS,
    CANCELLED_COUNT,
    CHANGED,
    CHANGED_ACCOUNTS,
    DIRTY_COUNT,
    KEYS_COUNT,
    LOCKS_COUNT,
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

WALKED_MIN = 256
WALKED_MAX = 1 << 22
"""Sequences of walked keys that a shard remembers: 32 MB; a key of fewer than WALKED_MIN is walked again more quickly than looked up."""

FIFO = int(Method.FIFO)  # an IntEnum handed to a kernel costs 100 microseconds
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
class Differences:
    """The match sets in which two folds of a key differ: rows as `fold.differing` leaves them, and their records one behind another."""

    rows: list[Array] = field(default_factory=list)
    records: list[Array] = field(default_factory=list)
    gone: dict[int, Array] = field(default_factory=dict)  # sets of the old fold whose entry is not at its place any more
    moved: dict[int, Array] = field(default_factory=dict)  # sets of the new fold whose entry had another place
    anchors: list[Anchor] = field(default_factory=list)  # of the new fold
    anchored: int = 0  # entries before the last anchor

    def settle(self, key: Array) -> tuple[Array, Array]:
        """All rows and records; those of entries that moved come last, by sequence. key: KEY[1]."""
        empty = np.zeros(0, MATCH)
        for sequence in sorted({*self.gone, *self.moved}):
            old, new = self.gone.get(sequence, empty), self.moved.get(sequence, empty)
            if not same_set(old, 0, len(old), new, 0, len(new)):
                said = new
                if not len(new):
                    said = np.zeros(1, MATCH)
                    no_match(said[0], sequence, int(old[0]["effective_date"]), key)
                self.rows.append(np.array([(sequence, len(said), (new if len(new) else old)[0]["kind"])], np.int64))
                self.records.append(said)
        return _joined(self.rows, np.zeros((0, 3), np.int64)), _joined(self.records, empty)


def _joined(parts: list[Array], empty: Array) -> Array:
    """The parts one behind another. (np.concatenate looks at every field of a record first: 70 microseconds.)"""
    if len(parts) == 1:
        return parts[0]
    whole = np.empty((sum(map(len, parts)), *empty.shape[1:]), empty.dtype)
    at = 0
    for part in parts:
        whole[at : at + len(part)] = part
        at += len(part)
    return whole


def _nothing(_: Results) -> None:
    """For folds whose matches nobody wants."""


def _no_beat() -> None:
    """For folds that nobody watches."""


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
    beat: Callable[[], None] = _no_beat  # called every few milliseconds of a long derivation
    anchors: Anchors = field(default_factory=Anchors)
    walked: dict[int, Array] = field(default_factory=dict)  # by key row: sequences of its events as far as it was walked
    walked_count: int = 0
    desks: tuple[Desk, Desk] = field(default_factory=lambda: (Desk(), Desk()))  # for the old fold of a key and the new one

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
            following = self.attend(events, mask, following, reason)

    def attend(self, events: Array, mask: int, following: int, reason: int) -> int:
        """Do what `run` stopped for at event `following`, and hand on what was said; the event to go on with."""
        if reason == ROOM:
            self.grow(self._lots_of(events[following & mask]))
        elif reason == DERIVE:
            self._derive_after(events[(following - 1) & mask])
        elif reason == JUDGE:
            self._derive_one(events[following & mask])
        elif reason == ANCHOR:
            e = events[following & mask]
            self.anchor(int(key_find(self.state, int(e["book_id"]), int(e["instrument_id"]))), int(e["effective_date"]), following)
        elif reason == SPECIAL:
            self.derive_dirty()  # such an event finds every key derived up to it, wherever its batch began
            self.special(events[following & mask])
            self.state.meta[SEQUENCE] = following
            following += 1
        self.flush()
        return following

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
        self._derive_one(e)

    def _derive_one(self, e: Any) -> None:
        """Derive the key of event `e` up to what is applied."""
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
        """Keep key `k` as it is before event `sequence`, its first of a later date."""
        key = self.state.keys[k]
        key["anchor"] = key["trades_count"]
        if is_worth(int(key["open_lots"]), ANCHOR_LOTS_MAX):
            self.anchors.add(k, anchor_of(self.state, k, day_start(date), sequence - 1))

    def _anchor_before(self, k: int, date: int, sequence: int) -> None:
        if wants_anchor(self.state, k, date):
            self.anchor(k, date, sequence)

    def sequences_of(self, k: int) -> Array:
        """Ascending sequences of every event of key `k`, its instrument's among them."""
        key = self.state.keys[k]
        chain = int(self.state.instruments[int(key["instrument_id"])]["chain"])
        known = self.walked.pop(k, None)
        before = 0
        if known is not None:
            before = int(known[-1])
            self.walked_count -= len(known)
        into = np.empty(1024 if known is not None else max(1024, 2 * int(key["trades_count"])), np.int64)
        while True:
            count = walk(self.records, self.mask, int(key["book_id"]), int(key["instrument_id"]), int(key["chain"]), chain, before, into)
            if count >= 0:
                break
            into = np.empty(4 * len(into), np.int64)
        found = np.sort(into[:count])
        if known is not None:
            found = np.concatenate([known, found])
        if len(found) >= WALKED_MIN:
            self.walked[k] = found
            self.walked_count += len(found)
            while self.walked_count > WALKED_MAX:
                self.walked_count -= len(self.walked.pop(next(iter(self.walked))))
        return found

    def versions(self, k: int, sequences: Array, time_max: int = int(TIME_MAX)) -> Versions:
        """The versions of the events of key `k`, as of `time_max`."""
        return Versions(self.state, self.records, self.mask, sequences, self.state.keys[k], time_max)

    def fold(
        self, k: int, live: Live, known: int, judged: int, desk: Desk, anchor: Anchor | None = None, policies: Array | None = None
    ) -> Fold:
        """Key `k` about to be folded on the side, on `desk`, from its live versions as known at `known`; from `anchor` on.

        policies: INSTRUMENT_POLICY[instruments], where not the present ones count.
        """
        state, key = self.state, self.state.keys[k]
        book_id, instrument_id = int(key["book_id"]), int(key["instrument_id"])
        if policies is not None:
            state = state._replace(instruments=policies)
        changes = changes_of(state, book_id, int(state.instruments[instrument_id]["asset_class_id"]), known)
        moves, move_first, move_count = self._moves(live, book_id, state.instruments)
        scratch = desk.clear(state, book_id, len(live))
        key_clear(scratch, 0, book_id, instrument_id, FIFO)
        scratch.books[book_id]["oversell"], scratch.books[book_id]["fees_in_cost"] = Oversell.FLIP, 0
        made = Fold(desk, live, self.records, self.mask, changes, moves, move_first, move_count, judged, self.beat)
        if anchor is not None:
            desk.state = scratch = roomy(scratch, len(anchor.lots), len(anchor.accounts))
            put_key(scratch, anchor.key[0], anchor.lots, anchor.accounts)
            made.at = int(np.searchsorted(live.places, anchor.place))
            made.change_at = sum(int(change_place(changes, i)) < anchor.place for i in range(len(changes)))
            if made.change_at:
                row = changes[made.change_at - 1]
                scratch.books[book_id]["oversell"], scratch.books[book_id]["fees_in_cost"] = row[3], row[4]
            later = add_later_fees(
                scratch.keys, self.records, self.mask, live.versions, live.kinds, live.fee_first, live.fees, made.at, anchor.known
            )
            self._past(k, *later)
        return made

    def _moves(self, live: Live, book_id: int, policies: Array) -> tuple[Array, Array, Array]:
        """The lots that came with each TRANSFER received by the book, as the giver knew them at the version that counts."""
        first, count = np.zeros(len(live), np.int64), np.zeros(len(live), np.int64)
        parts: list[Array] = []
        total = 0
        for i in np.flatnonzero(live.kinds == Kind.TRANSFER).tolist():
            if int(self.records[int(live.versions[i]) & self.mask]["to_book_id"]) == book_id:
                moves = self.moved(int(live.firsts[i]), int(live.versions[i]), policies)
                first[i], count[i] = total, len(moves)
                parts.append(moves)
                total += len(moves)
        return _joined(parts, np.zeros(0, MATCH)), first, count

    def moved(self, transfer: int, known: int, policies: Array | None = None) -> Array:
        """The lots of the latest accepted set of a transfer with a version <= known, in the instrument's scales (default: present ones)."""
        chosen = np.zeros(0, MATCH)
        for moved_set in self.sets.get(transfer, ()):
            if moved_set.version <= known and not moved_set.code:
                chosen = moved_set.moves
        if len(chosen):
            policies = self.state.instruments if policies is None else policies
            policy = policies[int(chosen[0]["instrument_id"])]
            if any(chosen[0][name] != policy[name] for name in ("price_scale", "qty_scale", "money_scale")):
                chosen = chosen.copy()
                rescale_moves(chosen, policies, int(chosen[0]["instrument_id"]))
        return chosen

    def derive(self, k: int, at: int, *, touched: bool = False, old_policy: Any = None, wanted: int = 0) -> Array:
        """Derive key `k` again, every event up to `at` being known: refuse what must be refused, say the match sets that changed.

        touched: event `at` is no event of the key but changes it (a policy, a scale), and counts as its last. old_policy: the instrument's,
        by whose scales the key was folded before. Both folds go from the newest anchor before the first difference to the end, in step.
        Returns the match set of the entry with the sequence `wanted`, if that is among those that may have changed.
        """
        if self.ready is not None:
            self.ready(at)
        judged = int(self.state.keys[k]["judged"])
        sequences = self.sequences_of(k)
        policies = None
        if old_policy is not None:
            policies = self.state.instruments.copy()
            policies[int(self.state.keys[k]["instrument_id"])] = old_policy
            self.anchors.forget(k)
        versions = self.versions(k, sequences)
        old = versions.live(judged)
        if self._may_heal(k, sequences, judged, at):
            self._judge(k, sequences, judged, at)
            versions = self.versions(k, sequences)
        code, found, set_of_wanted, new = self._refold(k, old, versions.live(at), judged, at, judged, policies, wanted)
        if code:
            self._judge(k, sequences, judged, at)
            live = self.versions(k, sequences).live(at)
            code, found, set_of_wanted, new = self._refold(k, old, live, judged, at, at, policies, wanted)
            self._past(k, code, at)
        self._reissue(k, *found.settle(new.scratch.keys), judged)
        self._install(k, new, sequences, at, touched)
        for made in found.anchors:
            self.anchors.add(k, made)
        return set_of_wanted

    def _refold(
        self, k: int, old_live: Live, live: Live, judged: int, at: int, new_judged: int, policies: Array | None, wanted: int
    ) -> tuple[int, Differences, Array, Fold]:
        """The key as it was folded before and as it is to be: (code, what differs, the set of `wanted`, the new fold)."""
        same, place = self._first_difference(k, old_live, live, judged, at) if policies is None else (0, 0)
        anchor = self.anchors.newest(k, place)
        old = self.fold(k, old_live, judged, judged, self.desks[0], anchor, policies)
        found = Differences(anchored=old.at)
        places = stops(live.places, old.at, same, int(self.state.meta[ANCHOR_EVENTS]))
        for stop in places:
            if stop <= same:
                self._past(k, *old.run(stop, keep=False))
                self._keep(found, old, stop, at)
        self._past(k, *old.run(same, keep=False))
        new = self.fold(k, live, at, new_judged, self.desks[1])
        if policies is None:
            new.go_on_from(old)
        code, set_of_wanted = self._in_step(k, old, new, judged, [stop for stop in places if stop > same], found, at, wanted)
        if not code:
            new.finish()
        return code, found, set_of_wanted, new

    def _first_difference(self, k: int, old: Live, new: Live, judged: int, at: int) -> tuple[int, int]:
        """(how many entries from the first on are the same, the place behind which anything may differ)."""
        key = self.state.keys[k]
        class_id = int(self.state.instruments[int(key["instrument_id"])]["asset_class_id"])
        changes = changes_of(self.state, int(key["book_id"]), class_id, at)
        place = min((int(change_place(changes, i)) for i in range(len(changes)) if changes[i, 1] > judged), default=int(PLACE_MAX))
        same = int(
            common(old.firsts, old.versions, old.fee_first, old.fees, new.firsts, new.versions, new.fee_first, new.fees, new.places, place)
        )
        return same, min([place, *(int(live.places[same]) for live in (old, new) if same < len(live))])

    def _keep(self, found: Differences, fold: Fold, stop: int, known: int) -> None:
        """Make an anchor of a fold that has come to entry `stop`."""
        if is_worth(int(fold.scratch.keys[0]["open_lots"]), stop - found.anchored):
            found.anchored = stop
            found.anchors.append(anchor_of(fold.scratch, 0, int(fold.live.places[stop - 1]) + 1, known))

    def _in_step(
        self, k: int, old: Fold, new: Fold, judged: int, places: list[int], found: Differences, at: int, wanted: int
    ) -> tuple[int, Array]:
        """Fold both to their ends and note where their match sets differ; (code by which the new one stopped, the set of `wanted`)."""
        into = np.empty((2 * (len(old.live) - old.at + len(new.live) - new.at) + len(places) + 1, 4), np.int64)
        count = int(
            segments(old.live.places, new.live.places, new.live.firsts, old.at, new.at, judged, np.array(places, np.int64), CHUNK, into)
        )
        rescaled, instrument_id = old.scratch.instruments is not new.scratch.instruments, int(self.state.keys[k]["instrument_id"])
        set_of_wanted = np.zeros(0, MATCH)
        rows, said = np.empty((min(CHUNK, len(new.live)), 3), np.int64), np.zeros(min(CHUNK, len(new.live)), MATCH)
        for what, i, j, n in into[:count].tolist():
            if j in places and new.at == j:
                places.remove(j)
                self._keep(found, new, j, at)
            old.forget()
            new.forget()
            if what == GONE or what == PAIR:
                old.load(i, n)
                self._past(k, *old.run(i + n))
                if rescaled:
                    rescale_moves(old.out.matches[: old.out.counts[MATCHES]], self.state.instruments, instrument_id)
            if what == GONE:
                for entry in range(i, i + n):
                    if old.sets[entry + 1] > old.sets[entry]:
                        found.gone[int(old.live.firsts[entry])] = old.set_of(entry)
                continue
            if what == PAIR and not rescaled and np.array_equal(old.live.versions[i : i + n], new.live.versions[j : j + n]):
                new.share(old, j)
            else:
                new.load(j, n)
            code, _ = new.run(j + n)
            if code:
                return code, set_of_wanted
            if wanted and wanted in new.live.firsts[j : j + n]:
                set_of_wanted = new.set_of(j + int(np.flatnonzero(new.live.firsts[j : j + n] == wanted)[0]))
            if what == PAIR or what == COME:
                if len(said) < int(new.out.counts[MATCHES]) + n:
                    said = np.zeros(2 * int(new.out.counts[MATCHES]) + n, MATCH)
                row_count, record_count = differing(
                    old.out.matches,
                    old.sets,
                    i if what == PAIR else -1,
                    new.out.matches,
                    new.sets,
                    j,
                    n,
                    new.live.firsts,
                    new.scratch.keys,
                    rows,
                    said,
                )
                if row_count:
                    found.rows.append(rows[:row_count].copy())
                    found.records.append(said[:record_count].copy())
            else:
                for entry in range(j, j + n):
                    if new.sets[entry + 1] > new.sets[entry]:
                        found.moved[int(new.live.firsts[entry])] = new.set_of(entry)
        return 0, set_of_wanted

    def _past(self, k: int, code: int, blamed: int) -> None:
        """What was judged before must fold."""
        if code:
            key = self.state.keys[k]
            raise Fatal(f"key {key['book_id']}/{key['instrument_id']}: its own past does not fold, code {code} at {blamed}")

    def _may_heal(self, k: int, sequences: Array, judged: int, at: int) -> bool:
        """Are there several new events, of which one could hide in the fold of all that another must be refused?"""
        first, last = np.searchsorted(sequences, (judged + 1, at + 1)).tolist()
        if last - first < 2:
            return False
        key = self.state.keys[k]
        parts = [made.moves for made in self._sets_of(sequences)]
        moves = _joined(parts, np.zeros(0, MATCH))
        return bool(may_be_refused(self.state, self.records, self.mask, sequences[:last], moves, int(key["instrument_id"])))

    def _sets_of(self, sequences: Array) -> Iterator[MovedSet]:
        """Every set of moved lots that the transfers among the events had."""
        if self.sets:
            for sequence in sequences[np.isin(sequences, np.fromiter(self.sets, np.int64, len(self.sets)))].tolist():
                yield from self.sets[sequence]

    def _judge(self, k: int, sequences: Array, judged: int, at: int) -> None:
        """Judge the key's new events one after another, each by the fold of the events up to it."""
        old = self.versions(k, sequences).live(judged)
        for sequence in sequences[(sequences > judged) & (sequences <= at)].tolist():
            e = self.records[sequence & self.mask]
            if pair_find(self.state.refused, self._verdict(k, e)) >= 0:
                judged = sequence
                continue
            live = self.versions(k, sequences).live(sequence)
            _, place = self._first_difference(k, old, live, judged, sequence)
            code, _ = self.fold(k, live, sequence, judged, self.desks[1], self.anchors.newest(k, place)).run(keep=False)
            if code:
                self._room()
                refuse(self.state, self.out, e, self._verdict(k, e), code)
                if int(e["kind"]) == Kind.CANCEL:
                    pair_set(self.state.cancelled, int(e["original"]), -1)
                self.grow()
            else:
                old = live
            judged = sequence

    def _verdict(self, k: int, e: Any) -> int:
        """Where the key's verdict on the event is kept: with the event, or where each key judges for itself, with the key."""
        key, sequence = self.state.keys[k], int(e["sequence"])
        receives = int(e["to_book_id"]) == int(key["book_id"])
        if int(e["kind"]) in OF_INSTRUMENT or receives:
            return int(key_verdict(int(key["book_id"]), int(key["instrument_id"]), sequence))
        return sequence

    def _install(self, k: int, new: Fold, sequences: Array, at: int, touched: bool) -> None:
        """Put the new fold in place of the key."""
        state, scratch = self.state, new.scratch
        while state.meta[LOTS_USED] + int(scratch.keys[0]["open_lots"]) + 4 > len(self.state.lots):
            self.grow_lots(2 * len(self.state.lots))
        while state.meta[ACCOUNTS_COUNT] + int(scratch.meta[ACCOUNTS_COUNT]) + 4 > len(self.state.accounts):
            self.state = self.state._replace(accounts=_longer(self.state.accounts))
        self._room(0, int(accounts_of(self.state, k)) + int(accounts_of(scratch, 0)))
        key = self.state.keys[k]
        last = at if touched and key["last_sequence"] else self._last_accepted(k, sequences, at)
        install(self.state, self.out, k, scratch, max(last, int(key["last_sequence"])))
        instrument = self.state.instruments[int(key["instrument_id"])]
        dates = [int(instrument["last_action_date"]), *new.changes[:, 0].tolist()]
        if len(new.live):
            dates.append(int(new.live.places[-1]) >> (SEQUENCE_BITS + 1))
        key["last_date"], key["dirty"], key["judged"] = max(0, *dates), 0, at
        if last > key["last_sequence"]:
            mark_changed(self.state, self.out, k, self.records[last & self.mask])

    def _last_accepted(self, k: int, sequences: Array, at: int) -> int:
        """The latest of the key's events up to `at` that was not refused; 0 where none of its own is: its instrument's make no position."""
        key, last = self.state.keys[k], 0
        for i in range(int(np.searchsorted(sequences, at, "right")) - 1, -1, -1):
            sequence = int(sequences[i])
            if pair_find(self.state.refused, sequence) < 0:
                e = self.records[sequence & self.mask]
                is_givers = int(e["kind"]) == Kind.FEE and int(e["to_book_id"]) == int(key["book_id"])
                if not is_givers and pair_find(self.state.refused, self._verdict(k, e)) < 0:
                    last = last or sequence
                    if key["last_sequence"] or int(e["kind"]) not in OF_INSTRUMENT:
                        return last
        return 0

    def _reissue(self, k: int, rows: Array, records: Array, judged: int) -> None:
        """Say the match sets that are new or changed: rows and records of `Differences`."""
        key = self.state.keys[k]
        cause = int(key["cause"])
        recorded_ns = int(self.records[cause & self.mask]["recorded_ns"])
        locked = int(locked_until(self.state, int(key["book_id"])))
        moved = np.zeros(len(rows) + 1, np.int64)
        done, at = 0, 0
        while done < len(rows):
            done, at = reissue(self.state, self.out, k, rows, done, records, at, judged, cause, recorded_ns, locked, moved)
            self.reentries += [(sequence, cause) for sequence in moved[1 : moved[0] + 1].tolist()]
            moved[0] = 0
            if done < len(rows):
                self.beat()
                self._room(int(rows[done, 1]))
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
            moves = self.derive(k, sequence, wanted=original)
            self.reentries[before:] = [pair for pair in self.reentries[before:] if pair[0] != original]
            code = max(0, int(pair_find(self.state.refused, sequence)))
            moves = moves[:0] if code else moves
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
            k = int(key_at(self.state, book_id, int(e["instrument_id"])))
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
            self._touch(k, e)

    def _touch(self, k: int, e: Any) -> None:
        """Event `e`, which is not of key `k` alone, has changed it; a key without an accepted event of its own is no position yet."""
        if self.state.keys[k]["last_sequence"]:
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
        self._touch(k, self.records[sequence & self.mask])


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
