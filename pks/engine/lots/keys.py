"""Key rows: finding and making the row of (book, instrument), its lot method at a place in the order, and marks on it.

A place is (effective date, sequence). Source: design.md section 4; method precedence: backoffice.md section 2.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import numpy as np
from numba import njit

from pks.base.kernels import forced, inlined, kernel
from pks.base.units import mix_64
from pks.engine.lots.state import CHANGED, DIRTY_COUNT, KEYS_COUNT, LOCKS_COUNT, METHODS_COUNT, REFUSED_COUNT, RUN, VERDICTS
from pks.engine.lots.tables import packed, pair_find, pair_set
from pks.layouts.codes import Contract, Method, Oversell, PositionFlag

FIFO = int(Method.FIFO)
FLIP = int(Oversell.FLIP)
INVERSE = int(Contract.INVERSE)
INVERSE_POSITION = int(PositionFlag.INVERSE)
LAST_SEQUENCE = np.int64(2**62)
LAST_DATE = np.int64(2**31 - 1)


@kernel
def shard_of(book_id, shards):
    """Which of `shards` accumulators owns the book."""
    return ((mix_64(np.int64(book_id)) & 0x7FFFFFFFFFFFFFFF) >> 8) % shards


@kernel
def method_at(state, book_id, asset_class_id, date, sequence, known):
    """Lot method of (book, class) at the place (date, sequence), by the changes with a sequence <= known: class, book, FIFO."""
    book_method, class_method = np.int64(FIFO), np.int64(0)
    book_date, book_sequence = np.int64(-(2**40)), np.int64(-1)
    class_date, class_sequence = np.int64(-(2**40)), np.int64(-1)
    for i in range(state.meta[METHODS_COUNT]):
        change = state.methods[i]
        if change.book_id != book_id or change.sequence > known:
            continue
        at, order = np.int64(change.effective_date), change.sequence
        if at > date or (at == date and order > sequence):
            continue
        if change.asset_class_id == 0:
            if at > book_date or (at == book_date and order > book_sequence):
                book_date, book_sequence, book_method = at, order, np.int64(change.method)
        elif change.asset_class_id == asset_class_id and (at > class_date or (at == class_date and order > class_sequence)):
            class_date, class_sequence, class_method = at, order, np.int64(change.method)
    return class_method if class_method != 0 else book_method


@inlined
def concerns(change, book_id, asset_class_id):
    """Is the change of the book itself or of (book, class)?"""
    return change.book_id == book_id and (change.asset_class_id == 0 or change.asset_class_id == asset_class_id)


@njit(cache=True)
def changes_of(state, book_id, asset_class_id, known):
    """The changes of policy on keys of (book, class) with a sequence <= known, in order.

    int64[n, 6]: effective date, sequence, lot method from there on, oversell, fees_in_cost, is it of the class.
    """
    count = 0
    for i in range(state.meta[METHODS_COUNT]):
        change = state.methods[i]
        if concerns(change, book_id, asset_class_id) and change.sequence <= known:
            count += 1
    rows = np.zeros((count, 6), np.int64)
    at = 0
    for i in range(state.meta[METHODS_COUNT]):
        change = state.methods[i]
        if concerns(change, book_id, asset_class_id) and change.sequence <= known:
            j = at
            while j > 0 and (
                rows[j - 1, 0] > change.effective_date or (rows[j - 1, 0] == change.effective_date and rows[j - 1, 1] > change.sequence)
            ):
                rows[j] = rows[j - 1]
                j -= 1
            rows[j, 0], rows[j, 1], rows[j, 2] = change.effective_date, change.sequence, change.method
            rows[j, 3], rows[j, 4] = state.rules[i, 0], state.rules[i, 1]
            rows[j, 5] = 1 if change.asset_class_id != 0 else 0
            at += 1
    own, of_class, oversell, in_cost = np.int64(FIFO), np.int64(0), np.int64(FLIP), np.int64(0)
    for j in range(count):
        if rows[j, 5]:
            of_class = rows[j, 2]
        else:
            own, oversell, in_cost = rows[j, 2], rows[j, 3], rows[j, 4]
        rows[j, 2], rows[j, 3], rows[j, 4] = of_class if of_class != 0 else own, oversell, in_cost
    return rows


@kernel
def last_change_date(state, book_id, asset_class_id):
    """Latest effective date of a change of policy on keys of (book, class); 0 when every policy holds since ever."""
    date = np.int64(0)
    for i in range(state.meta[METHODS_COUNT]):
        change = state.methods[i]
        if concerns(change, book_id, asset_class_id):
            date = max(date, np.int64(change.effective_date))
    return date


@kernel
def key_clear(state, k, book_id, instrument_id, method):
    """Set row `k` to the empty position of (book, instrument); links to other keys and the slot's number stay."""
    key = state.keys[k]
    policy = state.instruments[instrument_id]
    key.book_id, key.instrument_id = book_id, instrument_id
    key.qty_raw, key.cost_hi, key.cost_lo, key.realised_hi, key.realised_lo = 0, 0, np.uint64(0), 0, np.uint64(0)
    key.clearing_cost_hi, key.clearing_cost_lo, key.variation_hi, key.variation_lo = 0, np.uint64(0), 0, np.uint64(0)
    key.event_time_ns, key.last_price_raw, key.trades_count, key.open_lots = 0, 0, 0, 0
    for cell in range(4):
        key.fee_currency_id[cell] = 0
        key.fees_hi[cell] = 0
        key.fees_lo[cell] = np.uint64(0)
    key.price_scale, key.qty_scale, key.money_scale = policy.price_scale, policy.qty_scale, policy.money_scale
    key.flags = INVERSE_POSITION if policy.contract == INVERSE else 0
    key.oldest, key.newest, key.heap, key.accounts = -1, -1, -1, -1
    key.method = method


@forced
def key_find(state, book_id, instrument_id):
    """Row of the key, or -1."""
    return pair_find(state.index, packed(book_id, instrument_id))


@kernel
def key_at(state, book_id, instrument_id):
    """Row of the key. A new one is as it stands behind every change of policy: what falls before the last of them is derived."""
    k = key_find(state, book_id, instrument_id)
    if k >= 0:
        return k
    k = state.meta[KEYS_COUNT]
    state.meta[KEYS_COUNT] = k + 1
    pair_set(state.index, packed(book_id, instrument_id), k)
    policy = state.instruments[instrument_id]
    key_clear(state, k, book_id, instrument_id, method_at(state, book_id, policy.asset_class_id, LAST_DATE, LAST_SEQUENCE, LAST_SEQUENCE))
    key = state.keys[k]
    key.slot, key.anchor, key.anchors_count = -1, 0, 0
    key.last_date = max(np.int64(policy.last_action_date), last_change_date(state, book_id, policy.asset_class_id))
    key.chain, key.judged, key.cause, key.last_sequence = 0, 0, 0, 0
    key.next_of_instrument = policy.first_key
    state.instruments[instrument_id].first_key = k
    key.next_of_book = state.books[book_id].first_key
    state.books[book_id].first_key = k
    return k


@forced
def mark_changed(state, out, k, e):
    """The key reflects event `e`; it is listed once a run."""
    key = state.keys[k]
    key.last_sequence, key.recorded_ns = e.sequence, e.recorded_ns
    if key.changed != state.meta[RUN]:
        key.changed = state.meta[RUN]
        out.changed[out.counts[CHANGED]] = k
        out.counts[CHANGED] += 1


@kernel
def mark_dirty(state, k, date, cause):
    """The key waits for a re-derivation from `date` on."""
    key = state.keys[k]
    if key.dirty == 0:
        key.dirty = 1
        key.dirty_date = date
        state.dirty[state.meta[DIRTY_COUNT]] = k
        state.meta[DIRTY_COUNT] += 1
    key.dirty_date = min(key.dirty_date, date)
    key.cause = cause


@kernel
def refuse(state, out, e, verdict_key, code):
    """Keep the verdict for ever and say it. `verdict_key`: the event's sequence, or `key_verdict` for an event on many keys."""
    if pair_set(state.refused, verdict_key, code):
        state.meta[REFUSED_COUNT] += 1
    at = out.counts[VERDICTS]
    out.verdicts[at].sequence = e.sequence
    out.verdicts[at].code = code
    out.counts[VERDICTS] = at + 1


@forced
def locked_until(state, book_id):
    """The last date of the book's locked period, or -1."""
    if state.meta[LOCKS_COUNT] == 0:
        return np.int64(-1)
    return max(pair_find(state.locks, np.int64(1)), pair_find(state.locks, np.int64(book_id) + 1))


@kernel
def key_verdict(book_id, instrument_id, sequence):
    """Where one key's verdict on an event of many keys, or its set's revision, is kept: a negative number, so that it meets no sequence."""
    return -1 - ((mix_64(packed(book_id, instrument_id)) ^ (sequence << 8)) & 0x7FFFFFFFFFFFFFFE)
