"""Capture's tables: what it must know to judge and place a record, as arrays that kernels take. A fold of the journal, like positions.

Owns their allocation. Policies come from reference data; the caller keeps them current (`set_*`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pks.base.limits import DATE_MAX
from pks.engine.booking.dedup import ENTRY_WORDS
from pks.layouts.refdata import BOOK_POLICY, INSTRUMENT_POLICY

Array = NDArray[Any]

CHAINS_COUNT = 0
KEYS_COUNT = 1
KEYS_LIMIT = 2
"""Of `counts`: how many keys the table may hold before it is made longer."""

IN_MEMORY, PARTLY_IN_FILE = 1, 2


class Tables(NamedTuple):
    """Arrays of the capture process; one writer."""

    dedup: Array  # int64[slots, 4]: booking.dedup
    dates: Array  # uint8[DATE_MAX + 1], by date: 0 its keys are not in memory, IN_MEMORY, PARTLY_IN_FILE
    chains: Array  # int64[slots, 2]: packed (book, instrument), last sequence
    counts: Array  # int64[8]
    instrument_chain: Array  # int64[instruments]
    instruments: Array  # INSTRUMENT_POLICY[instruments]
    books: Array  # BOOK_POLICY[books]
    accounts: Array  # uint8[accounts]: known
    currencies: Array  # uint8[currencies]: known
    sources: Array  # int64[sources]: recurs mask + 1, 0 is not known
    zone_starts: Array
    zone_stops: Array
    zone_utc_ns: Array
    zone_offset_s: Array


def new_tables(keys: int, chains: int = 1 << 12, rows: int = 1 << 10) -> Tables:
    """Empty tables for `keys` idempotency keys in memory (the table has twice as many slots)."""
    slots = 1 << max(4, (2 * keys - 1).bit_length())
    zero, counts = np.zeros(1, np.int64), np.zeros(8, np.int64)
    counts[KEYS_LIMIT] = slots // 2
    return Tables(
        dedup=np.zeros((slots, ENTRY_WORDS), np.int64),
        dates=np.zeros(DATE_MAX + 1, np.uint8),
        chains=np.zeros((2 * chains, 2), np.int64),
        counts=counts,
        instrument_chain=np.zeros(rows, np.int64),
        instruments=np.zeros(rows, INSTRUMENT_POLICY),
        books=np.zeros(rows, BOOK_POLICY),
        accounts=np.zeros(rows, np.uint8),
        currencies=np.zeros(rows, np.uint8),
        sources=np.zeros(rows, np.int64),
        zone_starts=zero,
        zone_stops=zero + 1,
        zone_utc_ns=np.full(1, -(2**63), np.int64),
        zone_offset_s=zero,
    )
