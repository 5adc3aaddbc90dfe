"""Open-addressing tables of int64 pairs, and the index of keys: look-ups that kernels need and numba's dict is too slow for.

A pair table never forgets; 0 is no entry. Callers keep it at most half full (`State` says the sizes, `shard` grows them).
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from numba import njit

from pks.base.kernels import forced, inlined, kernel
from pks.base.units import mix_64


@inlined
def packed(book_id, instrument_id):
    """(book, instrument) as one int64; never 0, since ids start at 1."""
    return (int(book_id) << 32) | int(instrument_id)


@kernel
def pair_home(table, key):
    """Row at which the search for `key` begins."""
    return mix_64(key) & (table.shape[0] - 1)


@forced
def pair_find(table, key):
    """Value beside `key` in `table` (int64[slots, 2]), or -1."""
    mask = table.shape[0] - 1
    at = pair_home(table, key)
    while table[at, 0] != 0:
        if table[at, 0] == key:
            return table[at, 1]
        at = (at + 1) & mask
    return -1


@kernel
def pair_set(table, key, value):
    """Put `value` beside `key`; True if the key is new."""
    mask = table.shape[0] - 1
    at = pair_home(table, key)
    while table[at, 0] != 0:
        if table[at, 0] == key:
            table[at, 1] = value
            return False
        at = (at + 1) & mask
    table[at, 0] = key
    table[at, 1] = value
    return True


@njit(cache=True)
def pair_copy(old, new):
    """Put every pair of `old` into the empty, larger `new`."""
    for at in range(old.shape[0]):
        if old[at, 0] != 0:
            pair_set(new, old[at, 0], old[at, 1])
