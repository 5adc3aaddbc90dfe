"""Positions, lots and account quantities of all books at one moment: by trade time, by what was known, or both.

Owns what a fold says at its end and as of an earlier trade time. Takes folds that `journal` has made and changes nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pks.engine.instruments.catalogue import Catalogue
from pks.engine.lots.keys import key_find
from pks.engine.lots.snapshot import export_state
from pks.engine.lots.state import KEYS_COUNT
from pks.layouts.slots import ACCOUNT_SLOT
from pks.layouts.state import ACCOUNT, KEY, LOT
from pks.past.asof import STEPS_A_KEY, keys_as_of
from pks.past.journal import Past
from pks.past.progress import Progress, unseen
from pks.workers.history import fold_together, givers_of
from pks.workers.positions import Positions

LONG_EVENTS = 1 << 17
"""A question as of a time about fewer events is answered before a progress bar is read."""


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
    return moment_of(folded) if as_of is None else moment_as_of(folded, as_of, past.progress)


def moment_of(folded: Positions) -> Moment:
    """The moment up to which a fold of all books has come."""
    return _moment(folded.catalogue, export_state(folded.shard.state))


def moment_as_of(folded: Positions, time_ns: int, progress: Progress = unseen) -> Moment:
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


def lots_now(folded: Positions, book_id: int, instrument_id: int) -> Any:
    """LOT[n] of one position at the end of a fold of all books, oldest first."""
    state = folded.shard.state
    k = int(key_find(state, book_id, instrument_id))
    rows: list[int] = []
    row = int(state.keys[k]["oldest"]) if k >= 0 else -1
    newer = state.lots["newer"]
    while row >= 0:
        rows.append(row)
        row = int(newer[row])
    return state.lots[rows]


def lots_as_of(folded: Positions, book_id: int, instrument_id: int, time_ns: int) -> Any:
    """The same when only trades up to `time_ns` count; only the keys are folded whose lots may have come there."""
    shard = folded.shard
    k = int(key_find(shard.state, book_id, instrument_id))
    if k >= 0:
        for one in fold_together(shard, time_ns, shard.beat, givers_of(shard, k)):
            if int(one.key["book_id"]) == book_id and int(one.key["instrument_id"]) == instrument_id:
                return one.lots
    return np.zeros(0, LOT)
