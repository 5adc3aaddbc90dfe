"""Positions as they were: as of a business time, as known at a sequence. Folded from the journal's events, nothing live is touched.

Owns the order in which keys are folded together when transfers join them. Source: design.md section 4, "As of T, known at K".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pks.engine.lots.keys import key_find
from pks.engine.lots.shard import MovedSet, Shard
from pks.engine.lots.side import Desk, Fold
from pks.engine.lots.state import KEYS_COUNT, MATCHES, SEQUENCE
from pks.layouts.codes import Kind, MatchKind
from pks.layouts.state import KEY
from pks.workers.positions import Positions

Key = tuple[int, int]  # book, instrument
LAST = 2**62


@dataclass(frozen=True)
class KeyAsOf:
    """One key as it was: `key` is KEY (its links mean nothing here), lots in order, account quantities."""

    key: Any  # one KEY
    lots: Any  # LOT[n], oldest first
    accounts: Any  # ACCOUNT[n], ascending by account id
    matches: Any  # MATCH[n] in the order of the fold; empty for a question without T


def known_at(records: Any, mask: int, last: int, sequence: int | None = None) -> Positions:
    """Every position as known at `sequence` (default: at `last`): a replay from the first event.

    records: EVENT[n], event n at records[n & mask], 1..last are there.
    """
    upto = last if sequence is None else min(last, sequence)
    positions = Positions(records, mask)
    positions.apply(records, mask, 1, upto)
    positions.shard.derive_dirty()  # the batch of the last event may go on behind it
    return positions


def as_of(records: Any, mask: int, last: int, time_ns: int | None = None, sequence: int | None = None) -> list[KeyAsOf]:
    """Every key as of `time_ns` (trade time; None: all that is known) as known at `sequence` (None: at `last`).

    records: EVENT[n], event n at records[n & mask], 1..last are there. With a time it is one fold of all events in their order, in
    which lots flow with transfers at once; without one a receiver has the lots that it was given, as the live positions do.
    """
    shard = known_at(records, mask, last, sequence).shard
    if time_ns is None:
        return [_told(shard.state, k, np.zeros(0, shard.out.matches.dtype)) for k in range(int(shard.state.meta[KEYS_COUNT]))]
    return fold_together(shard, time_ns)


def _no_step() -> None:
    """For folds that nobody watches."""


def fold_together(shard: Shard, time_ns: int, step: Callable[[], None] = _no_step, rows: Iterable[int] | None = None) -> list[KeyAsOf]:
    """Every key as of `time_ns` from a fold of all books that has come to the last event that is known; changes nothing of it.

    Each key goes on alone up to its next transfer, whose lots its giver has given by then. step: called twice a key. rows: only these keys,
    among which are all that give to one of them (`givers_of`).
    """
    live_sets, shard.sets = shard.sets, {}
    try:
        return _fold_together(shard, time_ns, step, range(int(shard.state.meta[KEYS_COUNT])) if rows is None else rows)
    finally:
        shard.sets = live_sets


def key_alone(shard: Shard, k: int) -> KeyAsOf:
    """Key row `k` of a fold of all books as it stands, with its matches, folded on the side; changes nothing of it."""
    known = int(shard.state.meta[SEQUENCE])
    live = shard.versions(k, shard.sequences_of(k)).live(known)
    fold = shard.fold(k, live, known, LAST, Desk(len(live)))
    _run(fold, len(live), (int(shard.state.keys[k]["book_id"]), int(shard.state.keys[k]["instrument_id"])))
    fold.finish()
    return _told(fold.scratch, 0, fold.out.matches[: fold.out.counts[MATCHES]].copy())


def givers_of(shard: Shard, k: int) -> list[int]:
    """Key row `k` and every other whose lots transfers may have brought there, over however many steps."""
    found, waiting = {k}, [k]
    while waiting:
        row = waiting.pop()
        key = shard.state.keys[row]
        e = shard.records[shard.sequences_of(row) & shard.mask]
        for book_id in np.unique(e["book_id"][e["to_book_id"] == key["book_id"]]).tolist():
            giver = int(key_find(shard.state, book_id, int(key["instrument_id"])))
            if giver >= 0 and giver not in found:
                found.add(giver)
                waiting.append(giver)
    return sorted(found)


def _fold_together(shard: Shard, time_ns: int, step: Callable[[], None], rows: Iterable[int]) -> list[KeyAsOf]:
    state, known = shard.state, int(shard.state.meta[SEQUENCE])
    folds: dict[Key, Fold] = {}
    transfers = []
    for k in rows:
        book_id, instrument_id = int(state.keys[k]["book_id"]), int(state.keys[k]["instrument_id"])
        live = shard.versions(k, shard.sequences_of(k), time_ns).live(known)
        fold = shard.fold(k, live, known, LAST, Desk(len(live)))
        folds[book_id, instrument_id] = fold
        for i in np.flatnonzero(fold.live.kinds == Kind.TRANSFER).tolist():
            e = fold.entry(i)
            if e["book_id"] == book_id:
                transfers.append(
                    (int(e["effective_date"]), int(e["sequence"]), i, (book_id, instrument_id), (int(e["to_book_id"]), instrument_id))
                )
        step()
    for _, sequence, i, giver, receiver in sorted(transfers):
        _give(shard, folds, sequence, i, giver, receiver)
    told = []
    for name, fold in folds.items():
        _run(fold, len(fold.live), name)
        fold.finish()
        if len(fold.live):
            told.append(_told(fold.scratch, 0, fold.out.matches[: fold.out.counts[MATCHES]].copy()))
        step()
    return told


def _give(shard: Shard, folds: dict[Key, Fold], sequence: int, i: int, giver: Key, receiver: Key) -> None:
    """Fold the giver up to its transfer at entry `i`, and hand the lots to the receiver's fold."""
    fold, other = folds[giver], folds.get(receiver)
    _run(fold, i + 1, giver)
    moved = fold.set_of(i)
    moved = moved[moved["kind"] == MatchKind.MOVED]
    shard.sets[sequence] = [MovedSet(sequence, sequence, 0, moved)]
    if other is not None:
        at = np.flatnonzero(other.live.firsts == sequence)
        if len(at):
            other.hand(int(at[0]), moved)


def _run(fold: Fold, stop: int, name: Key) -> None:
    if fold.at < stop:
        code, blamed = fold.run(stop)
        assert code == 0, f"key {name} does not fold as of that time: code {code} at event {blamed}"


def _told(state: Any, k: int, matches: Any) -> KeyAsOf:
    lots, accounts = [], []
    row = int(state.keys[k]["oldest"])
    while row >= 0:
        lots.append(state.lots[row].copy())
        row = int(state.lots[row]["newer"])
    row = int(state.keys[k]["accounts"])
    while row >= 0:
        accounts.append(state.accounts[row].copy())
        row = int(state.accounts[row]["next"])
    key = np.zeros(1, KEY)
    key[0] = state.keys[k]
    return KeyAsOf(key[0], np.array(lots, state.lots.dtype), np.array(accounts, state.accounts.dtype), matches)
