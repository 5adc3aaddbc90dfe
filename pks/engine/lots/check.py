"""What must hold of a shard's state, and one number that two states share only when they are equal.

Reads the state, changes nothing. Used after each step in tests, by the shadow at a checkpoint, and by recovery.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import numpy as np
from numba import njit

from pks.base.units import add_128, mix_64
from pks.engine.lots.pool import gains_less, is_older
from pks.engine.lots.state import ACCOUNTS_COUNT, DIRTY_COUNT, KEYS_COUNT, LOTS_TOP, LOTS_USED, State
from pks.engine.lots.tables import packed, pair_find
from pks.layouts.codes import LotFlag, Method

HIFO, AVERAGE = int(Method.HIFO), int(Method.AVERAGE)
EXACT, POOL = int(LotFlag.EXACT), int(LotFlag.POOL)

SOUND = 0
LOTS_SUM, COST_SUM, LOT_SIDE, LOT_COUNT, LIST_ORDER, LIST_LINKS = 1, 2, 3, 4, 5, 6
HEAP_ORDER, HEAP_COUNT, ACCOUNT_SUM, ACCOUNT_ORDER = 7, 8, 9, 10
POOL_COUNT, INDEX, FREE_LOTS, DIRTY_FLAG = 11, 12, 13, 14
FAULTS = {
    LOTS_SUM: "the open lots do not sum to the position",
    COST_SUM: "the lots' costs do not sum to the position's",
    LOT_SIDE: "a lot is empty or on the other side",
    LIST_ORDER: "the list of lots is out of order",
    LIST_LINKS: "the list of lots is broken",
    LOT_COUNT: "the number of lots is wrong",
    HEAP_ORDER: "a HIFO heap is out of order",
    HEAP_COUNT: "a HIFO heap lacks lots",
    ACCOUNT_SUM: "the accounts do not sum to the position",
    ACCOUNT_ORDER: "the accounts are out of order",
    POOL_COUNT: "an average-cost key has more than one lot",
    INDEX: "the index does not find the key",
    FREE_LOTS: "lot rows are lost",
    DIRTY_FLAG: "the list of keys that wait does not fit their flags",
}


@njit(cache=True)
def heap_fault(lots, root, count):
    """Fault of the heap at `root`, which must hold `count` lots in order, or 0. Walks children and siblings with a stack."""
    stack = np.empty(count + 1, np.int64)
    depth, seen = 0, 0
    if root >= 0:
        stack[0] = root
        depth = 1
    while depth > 0:
        depth -= 1
        row = stack[depth]
        seen += 1
        child = np.int64(lots[row].child)
        while child >= 0:
            if gains_less(lots[child], lots[row]):
                return HEAP_ORDER
            if seen + depth >= count:
                return HEAP_COUNT
            stack[depth] = child
            depth += 1
            child = np.int64(lots[child].sibling)
    return SOUND if seen == count else HEAP_COUNT


@njit(cache=True)
def lots_fault(state, k):
    """Fault of the lots of key `k`, or 0."""
    keys, lots = state.keys, state.lots
    key = keys[k]
    qty, hi, lo, count = np.int64(0), np.int64(0), np.int64(0), 0
    before, row = np.int64(-1), np.int64(key.oldest)
    while row >= 0:
        lot = lots[row]
        if lot.key != k or lot.older != before or count >= key.open_lots:
            return LIST_LINKS
        if lot.qty_raw == 0 or (lot.qty_raw > 0) != (key.qty_raw > 0):
            return LOT_SIDE
        if before >= 0 and is_older(lot, lots[before]):
            return LIST_ORDER
        qty += lot.qty_raw
        hi, lo, _ = add_128(hi, lo, lot.cost_hi, lot.cost_lo)
        count += 1
        before, row = row, np.int64(lot.newer)
    if key.newest != before:
        return LIST_LINKS
    if count != key.open_lots:
        return LOT_COUNT
    if qty != key.qty_raw:
        return LOTS_SUM
    if hi != key.cost_hi or lo != np.int64(key.cost_lo):
        return COST_SUM
    if key.method == AVERAGE and count > 1:
        return POOL_COUNT
    return heap_fault(lots, np.int64(key.heap), count) if key.method == HIFO else SOUND


@njit(cache=True)
def accounts_fault(state, k):
    """Fault of the account quantities of key `k`, or 0."""
    total, before = np.int64(0), np.int64(-1)
    row = np.int64(state.keys[k].accounts)
    while row >= 0:
        account = state.accounts[row]
        if np.int64(account.account_id) <= before:
            return ACCOUNT_ORDER
        before = np.int64(account.account_id)
        total += account.qty_raw
        row = np.int64(account.next)
    return SOUND if total == state.keys[k].qty_raw else ACCOUNT_SUM


@njit(cache=True)
def state_fault(state):
    """(fault, key row) of the first thing wrong with the state, or (0, -1)."""
    held, dirty = 0, 0
    for k in range(state.meta[KEYS_COUNT]):
        key = state.keys[k]
        if pair_find(state.index, packed(key.book_id, key.instrument_id)) != k:
            return INDEX, k
        fault = lots_fault(state, k)
        if fault == SOUND:
            fault = accounts_fault(state, k)
        if fault != SOUND:
            return fault, k
        held += key.open_lots
        dirty += key.dirty
    if held != state.meta[LOTS_USED] or state.meta[LOTS_TOP] > state.lots.shape[0] or state.meta[ACCOUNTS_COUNT] > state.accounts.shape[0]:
        return FREE_LOTS, -1
    if dirty != state.meta[DIRTY_COUNT]:
        return DIRTY_FLAG, -1
    return SOUND, -1


def check_state(state: State) -> None:
    """Assert what must hold: lots, costs and accounts sum to each position, lists and heaps are in order, no row is lost."""
    fault, k = state_fault(state)
    if fault:
        key = state.keys[k] if k >= 0 else None
        at = f" (book {key['book_id']}, instrument {key['instrument_id']})" if key is not None else ""
        raise AssertionError(f"{FAULTS[fault]}{at}")


@njit(cache=True, inline="always")
def stir(hi, lo, word):
    """Two words with a third one mixed in."""
    hi = mix_64(hi ^ word)
    return hi, mix_64((lo << 1) ^ hi ^ word)


@njit(cache=True)
def key_hash(state, k):
    """(hi, lo): 128 bits of what key `k` says: its name, numbers, fees, lots, accounts and last event; not where its rows lie."""
    key = state.keys[k]
    hi, lo = stir(np.int64(0x5B1D), np.int64(0x77E3), (np.int64(key.book_id) << 32) | np.int64(key.instrument_id))
    for word in (
        key.qty_raw,
        key.cost_hi,
        np.int64(key.cost_lo),
        key.realised_hi,
        np.int64(key.realised_lo),
        key.clearing_cost_hi,
        np.int64(key.clearing_cost_lo),
        key.variation_hi,
        np.int64(key.variation_lo),
        key.last_sequence,
        (np.int64(key.price_scale) << 16) | (np.int64(key.qty_scale) << 8) | np.int64(key.money_scale),
        np.int64(key.method),
    ):
        hi, lo = stir(hi, lo, word)
    fees_hi, fees_lo = np.int64(0), np.int64(0)
    for cell in range(4):
        if key.fees_hi[cell] != 0 or key.fees_lo[cell] != 0:
            a, b = stir(np.int64(1), np.int64(2), np.int64(key.fee_currency_id[cell]))
            a, b = stir(a, b, key.fees_hi[cell])
            a, b = stir(a, b, np.int64(key.fees_lo[cell]))
            fees_hi, fees_lo = fees_hi ^ a, fees_lo ^ b
    hi, lo = stir(hi, lo, fees_hi)
    hi, lo = stir(hi, lo, fees_lo)
    row = np.int64(key.oldest)
    while row >= 0:
        lot = state.lots[row]
        for word in (
            lot.qty_raw,
            lot.cost_hi,
            lot.cost_lo,
            lot.price_raw if lot.flags & (POOL | EXACT) != POOL else np.int64(0),  # a pool's price is not kept
            lot.open_sequence,
            lot.order_sequence,
            (np.int64(lot.open_date) << 16) | np.int64(lot.open_leg),
            np.int64(lot.flags),
        ):
            hi, lo = stir(hi, lo, word)
        row = np.int64(lot.newer)
    row = np.int64(key.accounts)
    while row >= 0:
        if state.accounts[row].qty_raw != 0:
            hi, lo = stir(hi, lo, np.int64(state.accounts[row].account_id))
            hi, lo = stir(hi, lo, state.accounts[row].qty_raw)
        row = np.int64(state.accounts[row].next)
    return hi, lo


@njit(cache=True)
def keys_hashes(state):
    """int64[keys, 2]: `key_hash` of every key that an event has touched."""
    count = state.meta[KEYS_COUNT]
    hashes = np.zeros((count, 2), np.int64)
    for k in range(count):
        if state.keys[k].last_sequence != 0:
            hashes[k, 0], hashes[k, 1] = key_hash(state, k)
    return hashes


def state_hash(state: State) -> int:
    """The sum modulo 2**128 of the keys' hashes: the same whatever the order of rows and, summed over shards, whatever their number."""
    total = 0
    for hi, lo in keys_hashes(state).tolist():
        total += ((hi & (2**64 - 1)) << 64) | (lo & (2**64 - 1))
    return total % 2**128
