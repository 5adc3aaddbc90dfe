"""All keys of a fold as of a trade time, with the last event that counts for each.

Owns which events count. How keys that give lots to each other are folded together is `workers.history`'s affair. Takes a fold of all books
that has come to the last event that is known; changes nothing of it. Source: design.md section 4, "As of T, known at K".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pks.engine.instruments.definitions import Instrument, decode
from pks.engine.lots.keys import changes_of, key_verdict
from pks.engine.lots.shard import Shard
from pks.engine.lots.state import KEYS_COUNT
from pks.engine.lots.tables import pair_find
from pks.layouts.codes import Kind, PositionFlag, Subject
from pks.layouts.detail import group_at, text_of
from pks.layouts.match import MATCH
from pks.layouts.state import ACCOUNT, KEY, LOT
from pks.workers.history import KeyAsOf, fold_together

ORIGINALS = (Kind.TRADE, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER, Kind.ACTION, Kind.FIXING)
OF_INSTRUMENT = (Kind.ACTION, Kind.FIXING)
CORRECTIONS = (Kind.AMEND, Kind.CANCEL, Kind.FEE)


STEPS_A_KEY = 3
"""How often `keys_as_of` calls its `step` for each key."""


def _no_step() -> None:
    """For questions that nobody watches."""


def keys_as_of(shard: Shard, time_ns: int, step: Callable[[], None] = _no_step) -> list[KeyAsOf]:
    """Every key of the shard (of all books) that has an event of its own up to `time_ns`; `key` says the last event that counts."""
    found = {(int(one.key["book_id"]), int(one.key["instrument_id"])): one for one in fold_together(shard, time_ns, step)}
    kept, finer = [], rescales(shard)
    for k in range(int(shard.state.meta[KEYS_COUNT])):
        key = shard.state.keys[k]
        last = last_sequence(shard, k, time_ns, finer.get(int(key["instrument_id"]), []))
        if last:
            one = found.get((int(key["book_id"]), int(key["instrument_id"]))) or _flat(shard, k)
            one.key["last_sequence"] = last
            kept.append(one)
        step()
    return kept


def _flat(shard: Shard, k: int) -> KeyAsOf:
    """Key row `k` when all of its trades up to the time are cancelled."""
    key = np.zeros(1, KEY)[0]
    for name in ("book_id", "instrument_id", "price_scale", "qty_scale", "money_scale", "method"):
        key[name] = shard.state.keys[k][name]
    key["flags"] = int(shard.state.keys[k]["flags"]) & PositionFlag.INVERSE
    return KeyAsOf(key, np.zeros(0, LOT), np.zeros(0, ACCOUNT), np.zeros(0, MATCH))


def last_sequence(shard: Shard, k: int, time_ns: int, finer: list[int]) -> int:
    """The last accepted event that counts for key row `k`; 0 when none of its own does.

    A correction counts with its trade, a fee by its own time too; a change of policy or of scales (`finer`) once the key has events.
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
    first = int(sequences[~np.isin(kinds, OF_INSTRUMENT)].min())
    policies = changes_of(state, int(key["book_id"]), int(state.instruments[int(key["instrument_id"])]["asset_class_id"]), shard.sequence)
    later = [sequence for sequence in [*policies[:, 1].tolist(), *finer] if sequence > first]
    return max([int(sequences[counts].max()), *map(int, later)])


def rescales(shard: Shard) -> dict[int, list[int]]:
    """Events that gave an instrument finer scales, by instrument id."""
    e = shard.records[1 : shard.sequence + 1]
    defined = np.flatnonzero((e["kind"] == Kind.REFDATA) & (e["subject"] == Subject.INSTRUMENT) & (e["group_index"] == 0)) + 1
    owners, counts = np.unique(shard.records[defined]["original"], return_counts=True)
    again = set(owners[counts > 1].tolist())
    found: dict[int, list[int]] = {}
    scales: dict[int, tuple[int, int, int]] = {}
    for sequence in defined.tolist():
        instrument_id = int(shard.records[sequence]["original"])
        if instrument_id in again:
            definition = decode(text_of(group_at(shard.records, shard.mask, sequence)))
            assert isinstance(definition, Instrument), "rows of a subject are of its type"
            own = (definition.price_scale, definition.qty_scale, definition.money_scale)
            if scales.setdefault(instrument_id, own) != own:
                scales[instrument_id] = own
                found.setdefault(instrument_id, []).append(sequence)
    return found


def _latest_times(owners: Any, times: Any, versions: Any) -> dict[int, int]:
    """Trade time of the latest version of each trade."""
    return dict(zip(owners[versions].tolist(), times[versions].tolist(), strict=True))
