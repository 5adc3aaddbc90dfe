"""Chosen keys of a shard's state with their lots and accounts, as arrays without links: what a database keeps of each position.

Beside `snapshot`, which takes every key. Knows no file and no table.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from pks.engine.lots.state import State
from pks.layouts.state import ACCOUNT, LOT

LINKS = (
    ("oldest", -1),
    ("newest", -1),
    ("heap", -1),
    ("accounts", -1),
    ("slot", -1),
    ("anchor", -1),
    ("anchors_count", 0),
    ("changed", 0),
    ("next_of_instrument", -1),
    ("next_of_book", -1),
)
"""Fields of a KEY that hold only in its process, and what stands there outside of one; import makes them anew."""


@njit(cache=True)
def count_of(state, chosen, counts):
    """counts: int64[2], written: lots and accounts of the key rows chosen (int64[n])."""
    counts[0] = 0
    counts[1] = 0
    for i in range(chosen.shape[0]):
        counts[0] += state.keys[chosen[i]].open_lots
        row = np.int64(state.keys[chosen[i]].accounts)
        while row >= 0:
            counts[1] += 1
            row = np.int64(state.accounts[row].next)


@njit(cache=True)
def gather_keys(state, chosen, lots, lot_ends, accounts, account_ends):
    """Copy the lots (oldest first) and accounts of the key rows chosen (int64[n]); lot_ends[i] is where those of chosen[i] end."""
    at, account_at = 0, 0
    for i in range(chosen.shape[0]):
        row = np.int64(state.keys[chosen[i]].oldest)
        while row >= 0:
            lots[at] = state.lots[row]
            at += 1
            row = np.int64(state.lots[row].newer)
        lot_ends[i] = at
        row = np.int64(state.keys[chosen[i]].accounts)
        while row >= 0:
            accounts[account_at] = state.accounts[row]
            account_at += 1
            row = np.int64(state.accounts[row].next)
        account_ends[i] = account_at


def plain_keys(state: State, count: int) -> Any:
    """KEY[count]: a copy of the first rows with LINKS cleared."""
    keys = state.keys[:count].copy()
    for name, value in LINKS:
        keys[name] = value
    return keys


def extract(state: State, chosen: Any) -> dict[str, Any]:
    """{"lots", "lot_ends", "accounts", "account_ends"} of the key rows chosen (int64[n]), as in `snapshot.export_state`."""
    counts = np.zeros(2, np.int64)
    count_of(state, chosen, counts)
    lots, accounts = np.zeros(int(counts[0]), LOT), np.zeros(int(counts[1]), ACCOUNT)
    lot_ends, account_ends = np.zeros(len(chosen), np.int64), np.zeros(len(chosen), np.int64)
    gather_keys(state, chosen, lots, lot_ends, accounts, account_ends)
    return {"lots": lots, "lot_ends": lot_ends, "accounts": accounts, "account_ends": account_ends}


def warm_extract(state: State) -> None:
    """Compile the kernels on a state with no keys."""
    extract(state, np.zeros(0, np.int64))
