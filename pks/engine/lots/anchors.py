"""Anchors: keys as they were at a place in their order, from which a correction behind that place is folded.

Owns how many are kept. Used by the shard alone; an anchor saves time and changes no result. Source: design.md section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pks.engine.lots.fold import SEQUENCE_BITS, lots_of
from pks.engine.lots.state import Array, State

ANCHORS_MAX = 10
"""Anchors of one key (design section 4)."""

MADE_MAX = ANCHORS_MAX // 2
"""Anchors that one re-derivation makes: as many older ones stay."""

ANCHOR_LOTS_MAX = 1 << 18
"""Lots in all anchors of a shard: 25 MB. A key with more than half of them has none and is walked whole."""

ANCHOR_WEIGHT = 16
"""Lots that the rest of an anchor counts for."""


@dataclass(frozen=True)
class Anchor:
    """A key as it was before every entry and change of policy at `place` or behind it, as known at event `known`."""

    place: int
    known: int
    key: Array  # KEY[1]
    lots: Array  # LOT[n], oldest first
    accounts: Array  # ACCOUNT[n], ascending

    @property
    def weight(self) -> int:
        """What it counts for against ANCHOR_LOTS_MAX."""
        return len(self.lots) + ANCHOR_WEIGHT


def anchor_of(state: State, k: int, place: int, known: int) -> Anchor:
    """Key row `k` as it stands."""
    rows, row = [], int(state.keys[k]["accounts"])
    while row >= 0:
        rows.append(row)
        row = int(state.accounts[row]["next"])
    return Anchor(place, known, state.keys[k : k + 1].copy(), lots_of(state, k), state.accounts[rows])


def day_start(date: int) -> int:
    """The first place of a date."""
    return (date * 2) << SEQUENCE_BITS


class Anchors:
    """The anchors of a shard's keys, by key row; those of the keys that were looked at last are kept longest."""

    def __init__(self) -> None:
        self.of_key: dict[int, list[Anchor]] = {}  # ascending by place
        self.weight = 0

    def add(self, k: int, made: Anchor) -> None:
        """Keep one behind all others of its key. Bounded: the oldest goes, and those of the key longest not looked at."""
        kept = self.of_key.setdefault(k, [])
        kept.append(made)
        self.weight += made.weight
        if len(kept) > ANCHORS_MAX:
            self._drop(k)
        while self.weight > ANCHOR_LOTS_MAX:
            self._drop(next(iter(self.of_key)))

    def _drop(self, k: int) -> None:
        kept = self.of_key[k]
        self.weight -= kept.pop(0).weight
        if not kept:
            del self.of_key[k]

    def newest(self, k: int, place: int) -> Anchor | None:
        """The last one of key `k` at `place` or before it; those behind it hold no more."""
        kept = self.of_key.pop(k, [])
        while kept and kept[-1].place > place:
            self.weight -= kept.pop().weight
        if not kept:
            return None
        self.of_key[k] = kept
        return kept[-1]

    def forget(self, k: int) -> None:
        """Drop all of key `k`."""
        self.newest(k, -1)


def stops(places: Array, start: int, hit: int, gap: int) -> list[int]:
    """Before which entries from `start` on an anchor is worth its copy: `hit`, firsts of a date, and some between; `gap` entries apart.

    places: int64[n], ascending. hit: where the correction falls, that is where the next one may.
    """
    dates = places[start:] >> (SEQUENCE_BITS + 1)
    edges = np.flatnonzero(dates[1:] != dates[:-1])[-4 * MADE_MAX :] + start + 1
    between = range(start + max(gap, (len(places) - start) // MADE_MAX), len(places), max(gap, (len(places) - start) // MADE_MAX))
    chosen: list[int] = []
    for stop in [hit, *edges[::-1].tolist(), *reversed(between)]:
        if len(chosen) < MADE_MAX and stop < len(places) and all(abs(stop - other) >= gap for other in (start, *chosen)):
            chosen.append(stop)
    return sorted(chosen)


def is_worth(lots: int, entries: int) -> bool:
    """Is a copy of so many lots dear beside folding so many entries again?"""
    return lots <= min(entries, ANCHOR_LOTS_MAX // 2)
