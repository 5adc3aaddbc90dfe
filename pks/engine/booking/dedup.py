"""The idempotency table: which keys were booked, by effective date, the latest dates in memory and older ones in sorted files.

Owns the table in memory and the form of a day's rows; reading and writing the files is the capture worker's. An entry is four words:
key hi, key lo, sequence, discriminator and date. Source: design.md section 2.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pks.base.kernels import kernel

KEY_HI, KEY_LO, SEQUENCE, TAIL = 0, 1, 2, 3
ENTRY_WORDS = 4
DATE_BITS = 0xFFFFFFFF
"""Of an entry's tail; the discriminator is above them."""

Table = NDArray[Any]


@kernel
def tail_of(discriminator, date):
    """Discriminator and date in one word."""
    return (np.int64(discriminator) << 32) | np.int64(date)


@kernel
def dedup_home(table, lo):
    """Row at which the search for a key with this lower word begins."""
    return (lo >> 1) & (table.shape[0] - 1)


@kernel
def dedup_find(table, hi, lo, discriminator):
    """Sequence of the entry with that key and discriminator, or 0."""
    mask = table.shape[0] - 1
    at = dedup_home(table, lo)
    while table[at, SEQUENCE] != 0:
        if table[at, KEY_LO] == lo and table[at, KEY_HI] == hi and table[at, TAIL] >> 32 == discriminator:
            return table[at, SEQUENCE]
        at = (at + 1) & mask
    return np.int64(0)


@kernel
def dedup_all(table, hi, lo, into):
    """Sequences of every entry with that key into `into` (int64[n]); how many there are."""
    mask = table.shape[0] - 1
    at = dedup_home(table, lo)
    count = 0
    while table[at, SEQUENCE] != 0:
        if table[at, KEY_LO] == lo and table[at, KEY_HI] == hi:
            if count < into.shape[0]:
                into[count] = table[at, SEQUENCE]
            count += 1
        at = (at + 1) & mask
    return count


@kernel
def dedup_add(table, hi, lo, discriminator, date, sequence):
    """Add an entry; the caller has looked that it is not there and that the table has room."""
    mask = table.shape[0] - 1
    at = dedup_home(table, lo)
    while table[at, SEQUENCE] != 0:
        at = (at + 1) & mask
    table[at, KEY_HI] = hi
    table[at, KEY_LO] = lo
    table[at, SEQUENCE] = sequence
    table[at, TAIL] = tail_of(discriminator, date)


def rows_of_dates(table: Table, dates: list[int]) -> dict[int, Table]:
    """By date, its entries, sorted by key, as they stand in its file: one pass over the table for all of them."""
    rows = table[(table[:, SEQUENCE] != 0) & np.isin(table[:, TAIL] & DATE_BITS, dates)]
    rows = rows[np.argsort((rows[:, TAIL] & DATE_BITS).astype(np.uint32), kind="stable")]
    edges = np.searchsorted(rows[:, TAIL] & DATE_BITS, [[date, date + 1] for date in dates])
    return {date: by_key(rows[first:last]) for date, (first, last) in zip(dates, edges.tolist(), strict=True)}


def by_key(rows: Table) -> Table:
    """The entries of one date in the order of its file."""
    ordered: Table = rows[np.lexsort((rows[:, SEQUENCE], rows[:, KEY_HI], rows[:, KEY_LO]))]
    return ordered


def without_dates(table: Table, dates: list[int]) -> Table:
    """The table without those dates' entries, made anew (probing leaves no holes behind)."""
    kept = table[(table[:, SEQUENCE] != 0) & ~np.isin(table[:, TAIL] & DATE_BITS, dates)]
    return filled(np.zeros_like(table), kept)


def filled(table: Table, rows: Table) -> Table:
    """`table` with `rows` added."""
    _fill(table, np.ascontiguousarray(rows))
    return table


@njit(cache=True)
def _fill(table, rows):
    for i in range(rows.shape[0]):
        dedup_add(table, rows[i, KEY_HI], rows[i, KEY_LO], rows[i, TAIL] >> 32, rows[i, TAIL] & 0xFFFFFFFF, rows[i, SEQUENCE])


def found_in_rows(rows: Table, hi: int, lo: int) -> Table:
    """The entries of a sorted day file with that key."""
    first = int(np.searchsorted(rows[:, KEY_LO], lo, "left"))
    last = int(np.searchsorted(rows[:, KEY_LO], lo, "right"))
    part = rows[first:last]
    same: Table = part[part[:, KEY_HI] == hi]
    return same
