"""All keys of a fold as of a trade time, with the last event that counts for each.

Owns which events count. How keys that give lots to each other are folded together is `workers.history`'s affair. Takes a fold of all books
that has come to the last event that is known; changes nothing of it. Source: design.md section 4, "As of T, known at K".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pks.engine.lots.keys import key_verdict
from pks.engine.lots.shard import Shard
from pks.engine.lots.state import KEYS_COUNT
from pks.engine.lots.tables import pair_find
from pks.layouts.codes import Kind
from pks.workers.history import KeyAsOf
from pks.workers.history import _fold_together as fold_together

ORIGINALS = (Kind.TRADE, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER, Kind.ACTION, Kind.FIXING)
OF_INSTRUMENT = (Kind.ACTION, Kind.FIXING)
CORRECTIONS = (Kind.AMEND, Kind.CANCEL, Kind.FEE)


def keys_as_of(shard: Shard, time_ns: int) -> list[KeyAsOf]:
    """Every key of the shard (of all books) that has an event of its own up to `time_ns`; `key` says the last event that counts."""
    live = shard.sets
    try:
        found = {(int(one.key["book_id"]), int(one.key["instrument_id"])): one for one in fold_together(shard, time_ns)}
    finally:
        shard.sets = live
    kept = []
    for k in range(int(shard.state.meta[KEYS_COUNT])):
        key = shard.state.keys[k]
        one = found.get((int(key["book_id"]), int(key["instrument_id"])))
        if one is not None and (last := last_sequence(shard, k, time_ns)):
            one.key["last_sequence"] = last
            kept.append(one)
    return kept


def last_sequence(shard: Shard, k: int, time_ns: int) -> int:
    """The last accepted event that counts for key row `k`; 0 when none of its own does.

    A correction counts with its trade, a fee by its own time too.
    """
    state, key, sequences = shard.state, shard.state.keys[k], shard.sequences_of(k)
    sequences = sequences[sequences <= shard.sequence]
    e = shard.records[sequences & shard.mask]
    kinds, times = e["kind"], e["trade_time_ns"]
    receives = e["to_book_id"] == key["book_id"]
    accepted = ~np.isin(sequences, state.refused[:, 0])
    for i in np.flatnonzero(accepted & (np.isin(kinds, OF_INSTRUMENT) | receives)).tolist():
        verdict = key_verdict(int(key["book_id"]), int(key["instrument_id"]), int(sequences[i]))
        accepted[i] = pair_find(state.refused, verdict) < 0
    owners = np.where(np.isin(kinds, CORRECTIONS), e["original"], sequences)
    latest = _latest_times(owners, times, accepted & (np.isin(kinds, ORIGINALS) | (kinds == Kind.AMEND)))
    counts = accepted & np.array([latest.get(owner, time_ns + 1) <= time_ns for owner in owners.tolist()], np.bool_)
    counts &= ~((kinds == Kind.FEE) & ((times > time_ns) | receives))
    if not (counts & ~np.isin(kinds, OF_INSTRUMENT)).any():
        return 0
    return int(sequences[counts].max())


def _latest_times(owners: Any, times: Any, versions: Any) -> dict[int, int]:
    """Trade time of the latest version of each trade."""
    return dict(zip(owners[versions].tolist(), times[versions].tolist(), strict=True))
