"""A shard's state as plain arrays without links, and back: what a checkpoint holds of positions.

Written for all books at once and read for any number of shards, since S is no part of history. Knows no file.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from pks.engine.lots.keys import shard_of
from pks.engine.lots.pool import lot_insert, lot_take_row
from pks.engine.lots.state import (
    ACCOUNTS_COUNT,
    CANCELLED_COUNT,
    DIRTY_COUNT,
    KEYS_COUNT,
    LOCKS_COUNT,
    METHODS_COUNT,
    REFUSED_COUNT,
    REVISIONS_COUNT,
    SEQUENCE,
    State,
    new_state,
    power_of_two,
)
from pks.engine.lots.tables import packed, pair_set
from pks.layouts.state import ACCOUNT, LOT

Arrays = dict[str, Any]


@njit(cache=True)
def _gather(state, count, lots, lot_ends, accounts, account_ends):
    """Copy the lots and accounts of keys 0..count-1 in list order; lot_ends[k] is where key k's end."""
    at, account_at = 0, 0
    for k in range(count):
        row = np.int64(state.keys[k].oldest)
        while row >= 0:
            lots[at] = state.lots[row]
            at += 1
            row = np.int64(state.lots[row].newer)
        lot_ends[k] = at
        row = np.int64(state.keys[k].accounts)
        while row >= 0:
            accounts[account_at] = state.accounts[row]
            account_at += 1
            row = np.int64(state.accounts[row].next)
        account_ends[k] = account_at


@njit(cache=True)
def _scatter(state, chosen, keys, lots, lot_ends, accounts, account_ends):
    """Put the chosen keys of a snapshot into the empty `state`, making links, heaps and indexes anew."""
    for k in range(chosen.shape[0]):
        source = chosen[k]
        state.keys[k] = keys[source]
        key = state.keys[k]
        key.oldest, key.newest, key.heap, key.accounts, key.open_lots = -1, -1, -1, -1, 0
        key.slot, key.anchor, key.anchors_count, key.changed = -1, 0, 0, 0
        if key.dirty:
            state.dirty[state.meta[DIRTY_COUNT]] = k
            state.meta[DIRTY_COUNT] += 1
        pair_set(state.index, packed(key.book_id, key.instrument_id), k)
        key.next_of_instrument = state.instruments[key.instrument_id].first_key
        state.instruments[key.instrument_id].first_key = k
        key.next_of_book = state.books[key.book_id].first_key
        state.books[key.book_id].first_key = k
        for i in range(lot_ends[source - 1] if source > 0 else 0, lot_ends[source]):
            row = lot_take_row(state)
            state.lots[row] = lots[i]
            lot_insert(state, k, row)
        before = np.int64(-1)
        for i in range(account_ends[source - 1] if source > 0 else 0, account_ends[source]):
            row = state.meta[ACCOUNTS_COUNT]
            state.meta[ACCOUNTS_COUNT] = row + 1
            state.accounts[row] = accounts[i]
            state.accounts[row].next, state.accounts[row].slot = -1, -1
            if before < 0:
                key.accounts = row
            else:
                state.accounts[before].next = row
            before = row


def _pairs(table: Any) -> Any:
    return table[table[:, 0] != 0]


def export_state(state: State) -> Arrays:
    """Every key of the state with its lots and accounts, the verdicts, the policies' history: arrays that can be saved as they are."""
    count = int(state.meta[KEYS_COUNT])
    lots = np.zeros(int(state.keys["open_lots"][:count].sum()), LOT)
    accounts = np.zeros(int(state.meta[ACCOUNTS_COUNT]), ACCOUNT)
    lot_ends, account_ends = np.zeros(count, np.int64), np.zeros(count, np.int64)
    _gather(state, count, lots, lot_ends, accounts, account_ends)
    return {
        "keys": state.keys[:count].copy(),
        "lots": lots,
        "lot_ends": lot_ends,
        "accounts": accounts[: account_ends[-1] if count else 0],
        "account_ends": account_ends,
        **export_rest(state),
    }


def export_rest(state: State) -> Arrays:
    """What the state holds besides keys, lots and accounts."""
    return {
        "instruments": state.instruments.copy(),
        "books": state.books.copy(),
        "methods": state.methods[: state.meta[METHODS_COUNT]].copy(),
        "rules": state.rules[: state.meta[METHODS_COUNT]].copy(),
        "refused": _pairs(state.refused),
        "cancelled": _pairs(state.cancelled),
        "revisions": _pairs(state.revisions),
        "locks": _pairs(state.locks),
        "sequence": np.array([state.meta[SEQUENCE]], np.int64),
    }


def import_state(arrays: Arrays, index: int = 0, shards: int = 1, *, keys: int = 1 << 10, lots: int = 1 << 12) -> State:
    """The state of one shard out of a snapshot, with room for at least `keys` keys and `lots` lots."""
    all_keys = arrays["keys"]
    books = all_keys["book_id"].tolist()
    chosen = np.array([k for k, book in enumerate(books) if shards == 1 or shard_of(book, shards) == index], np.int64)
    sizes = np.diff(arrays["lot_ends"], prepend=0)
    lots_wanted = int(sizes[chosen].sum()) if len(chosen) else 0
    accounts_wanted = int(np.diff(arrays["account_ends"], prepend=0)[chosen].sum()) if len(chosen) else 0
    rare = 4 * max(1024, *(len(arrays[name]) for name in ("refused", "cancelled", "revisions", "locks")))
    state = new_state(
        max(keys, power_of_two(2 * len(chosen) + 2)),
        max(lots, power_of_two(2 * lots_wanted + 2)),
        max(2 * keys, power_of_two(2 * accounts_wanted + 4)),
        len(arrays["instruments"]),
        len(arrays["books"]),
        rare,
    )
    state.instruments[:] = arrays["instruments"]
    state.books[:] = arrays["books"]
    state.instruments["first_key"], state.books["first_key"] = -1, -1
    methods = arrays["methods"]
    if len(methods) > len(state.methods):
        state = state._replace(methods=np.zeros(2 * len(methods), methods.dtype), rules=np.zeros((2 * len(methods), 2), np.int64))
    state.methods[: len(methods)], state.rules[: len(methods)] = methods, arrays["rules"]
    for name, cell in (
        ("refused", REFUSED_COUNT),
        ("cancelled", CANCELLED_COUNT),
        ("revisions", REVISIONS_COUNT),
        ("locks", LOCKS_COUNT),
    ):
        table = getattr(state, name)
        for key, value in arrays[name].tolist():
            pair_set(table, key, value)
        state.meta[cell] = len(arrays[name])
    state.meta[METHODS_COUNT], state.meta[KEYS_COUNT] = len(methods), len(chosen)
    state.meta[SEQUENCE] = int(arrays["sequence"][0])
    _scatter(state, chosen, all_keys, arrays["lots"], arrays["lot_ends"], arrays["accounts"], arrays["account_ends"])
    return state
