"""Lot rows: taking and giving back, the list of a key in (lot date, sequence, leg) order, the HIFO heap, the index by lot id.

Knows no prices' meaning and no events. Every function works on one key row `k` of `state`.
Source: design.md section 4; Fredman et al., "The pairing heap" (1986).
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import numpy as np

from pks.base.kernels import forced, inlined, kernel
from pks.base.units import mix_64
from pks.engine.lots.state import LOTS_FREE, LOTS_TOP, LOTS_USED
from pks.layouts.codes import Method

HIFO = int(Method.HIFO)
SPECIFIC = int(Method.SPECIFIC)
NONE = np.int32(-1)


@forced
def lot_take_row(state):
    """A free lot row, or -1 when the pool is empty."""
    row = state.meta[LOTS_FREE]
    if row >= 0:
        state.meta[LOTS_FREE] = state.lots[row].newer
    else:
        row = state.meta[LOTS_TOP]
        if row == state.lots.shape[0]:
            return np.int64(-1)
        state.meta[LOTS_TOP] = row + 1
    state.meta[LOTS_USED] += 1
    return row


@forced
def lot_give_row(state, row):
    """Put the row back; it belongs to no list any more."""
    state.lots[row].qty_raw = 0
    state.lots[row].newer = state.meta[LOTS_FREE]
    state.meta[LOTS_FREE] = row
    state.meta[LOTS_USED] -= 1


@inlined
def is_older(a, b):
    """Does lot `a` come before lot `b` in (lot date, sequence, leg) order? Lots that one transfer moved: by their ids."""
    if a.open_date != b.open_date:
        return a.open_date < b.open_date
    if a.order_sequence != b.order_sequence:
        return a.order_sequence < b.order_sequence
    if a.open_sequence != b.open_sequence:
        return a.open_sequence < b.open_sequence
    return a.open_leg < b.open_leg


@kernel
def gains_less(a, b):
    """HIFO: does closing `a` gain less than closing `b`? Long: the higher open price; short: the lower; ties the oldest."""
    if a.price_raw != b.price_raw:
        if a.qty_raw > 0:
            return a.price_raw > b.price_raw
        return a.price_raw < b.price_raw
    return is_older(a, b)


@kernel
def heap_join(lots, a, b):
    """Join two heaps by their roots; the root of both."""
    if a < 0:
        return b
    if b < 0:
        return a
    if gains_less(lots[b], lots[a]):
        a, b = b, a
    lots[b].sibling = lots[a].child
    lots[a].child = b
    return a


@kernel
def heap_pop(lots, root):
    """Take the root out; the root of what is left, or -1. Two passes over its children, no recursion."""
    first = lots[root].child
    lots[root].child = NONE
    pairs = np.int64(-1)
    while first >= 0:
        second = np.int64(lots[first].sibling)
        if second < 0:
            lots[first].sibling = pairs
            pairs = np.int64(first)
            break
        rest = np.int64(lots[second].sibling)
        lots[first].sibling = NONE
        lots[second].sibling = NONE
        joined = heap_join(lots, np.int64(first), second)
        lots[joined].sibling = pairs
        pairs = joined
        first = rest
    root = np.int64(-1)
    while pairs >= 0:
        rest = np.int64(lots[pairs].sibling)
        lots[pairs].sibling = NONE
        root = heap_join(lots, root, pairs)
        pairs = rest
    return root


@inlined
def bucket_of(state, k, open_sequence, open_leg):
    """Bucket of the lot with that id on key row `k`."""
    return mix_64((open_sequence << 2) ^ np.int64(open_leg) ^ (np.int64(k) << 40)) & (state.buckets.shape[0] - 1)


@kernel
def bucket_add(state, k, row):
    """Make the lot findable by its id."""
    lots = state.lots
    at = bucket_of(state, k, lots[row].open_sequence, lots[row].open_leg)
    first = state.buckets[at]
    lots[row].sibling = first
    lots[row].back = NONE
    if first >= 0:
        lots[first].back = row
    state.buckets[at] = row


@kernel
def bucket_remove(state, k, row):
    """Make it not findable any more."""
    lots = state.lots
    following, before = lots[row].sibling, lots[row].back
    if following >= 0:
        lots[following].back = before
    if before >= 0:
        lots[before].sibling = following
    else:
        state.buckets[bucket_of(state, k, lots[row].open_sequence, lots[row].open_leg)] = following


@kernel
def lot_find(state, k, open_sequence, open_leg):
    """Row of the key's oldest open lot with that id, or -1. (Parts of one lot may come back by transfers: then several have it.)"""
    lots = state.lots
    found = np.int64(-1)
    row = np.int64(state.buckets[bucket_of(state, k, open_sequence, open_leg)])
    while row >= 0:
        if lots[row].key == k and lots[row].open_sequence == open_sequence and lots[row].open_leg == open_leg:
            if found < 0 or is_older(lots[row], lots[found]):
                found = row
        row = np.int64(lots[row].sibling)
    return found


@kernel
def lot_held(state, k, open_sequence, open_leg):
    """Size of what is open of the lot with that id, over all its parts."""
    lots = state.lots
    held = np.int64(0)
    row = np.int64(state.buckets[bucket_of(state, k, open_sequence, open_leg)])
    while row >= 0:
        if lots[row].key == k and lots[row].open_sequence == open_sequence and lots[row].open_leg == open_leg:
            held += abs(lots[row].qty_raw)
        row = np.int64(lots[row].sibling)
    return held


@forced
def lot_insert(state, k, row):
    """Put a filled row into the list of key `k`, and into the heap or the id index if its method needs one."""
    lots, keys = state.lots, state.keys
    after = np.int64(keys[k].newest)
    while after >= 0 and is_older(lots[row], lots[after]):
        after = np.int64(lots[after].older)
    before = np.int64(lots[after].newer) if after >= 0 else np.int64(keys[k].oldest)
    lots[row].older = after
    lots[row].newer = before
    lots[row].child = NONE
    lots[row].sibling = NONE
    lots[row].back = NONE
    lots[row].key = k
    if after >= 0:
        lots[after].newer = row
    else:
        keys[k].oldest = row
    if before >= 0:
        lots[before].older = row
    else:
        keys[k].newest = row
    keys[k].open_lots += 1
    if keys[k].method == HIFO:
        keys[k].heap = heap_join(lots, np.int64(keys[k].heap), np.int64(row))
    elif keys[k].method == SPECIFIC:
        bucket_add(state, k, row)


@forced
def lot_remove(state, k, row):
    """Take a lot out of the list and give its row back. On a HIFO key it must be the heap's root."""
    lots, keys = state.lots, state.keys
    if keys[k].method == HIFO:
        keys[k].heap = heap_pop(lots, np.int64(row))
    elif keys[k].method == SPECIFIC:
        bucket_remove(state, k, row)
    older, newer = lots[row].older, lots[row].newer
    if older >= 0:
        lots[older].newer = newer
    else:
        keys[k].oldest = newer
    if newer >= 0:
        lots[newer].older = older
    else:
        keys[k].newest = older
    keys[k].open_lots -= 1
    lot_give_row(state, row)


@kernel
def lots_clear(state, k):
    """Give back every lot of key `k`."""
    row = np.int64(state.keys[k].oldest)
    while row >= 0:
        newer = np.int64(state.lots[row].newer)
        if state.keys[k].method == SPECIFIC:
            bucket_remove(state, k, row)
        lot_give_row(state, row)
        row = newer
    state.keys[k].oldest = NONE
    state.keys[k].newest = NONE
    state.keys[k].heap = NONE
    state.keys[k].open_lots = 0


@kernel
def lots_reorder(state, k, method):
    """Change the method by which the key's lots are found: leave the old heap or index, build the new one."""
    lots, keys = state.lots, state.keys
    row = np.int64(keys[k].oldest)
    if keys[k].method == SPECIFIC:
        while row >= 0:
            bucket_remove(state, k, row)
            row = np.int64(lots[row].newer)
    keys[k].method = method
    keys[k].heap = NONE
    row = np.int64(keys[k].oldest)
    while row >= 0:
        lots[row].child = NONE
        lots[row].sibling = NONE
        lots[row].back = NONE
        if method == HIFO:
            keys[k].heap = heap_join(lots, np.int64(keys[k].heap), row)
        elif method == SPECIFIC:
            bucket_add(state, k, row)
        row = np.int64(lots[row].newer)
