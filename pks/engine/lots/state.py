"""The arrays of one shard: keys, lots, accounts, policies, verdicts; and the buffers that a run writes its results into.

Owns their allocation and growth. Kernels in this room read and write them; nobody else does, but checkpoints copy them whole.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pks.layouts.match import MATCH, VERDICT
from pks.layouts.refdata import BOOK_POLICY, INSTRUMENT_POLICY, METHOD_CHANGE
from pks.layouts.state import ACCOUNT, KEY, LOT

Array = NDArray[Any]

# meta: int64 cells
KEYS_COUNT = 0
LOTS_FREE = 1  # first row of the free list, -1 is none: then the next one is LOTS_TOP
LOTS_USED = 2
ACCOUNTS_COUNT = 3
RUN = 4
REFUSED_COUNT = 5
CANCELLED_COUNT = 6
REVISIONS_COUNT = 7
METHODS_COUNT = 8
SEQUENCE = 9  # every event up to this one is applied
LOCKS_COUNT = 10
LOTS_TOP = 11  # rows from here on were never used
DIRTY_COUNT = 12
ANCHOR_EVENTS = 13  # trades of a key after which a later date is worth an anchor
META_CELLS = 16

# counts: int64 cells of a run's results
MATCHES = 0
VERDICTS = 1
CHANGED = 2
CHANGED_ACCOUNTS = 3
COUNT_CELLS = 8


ANCHOR_EVENTS_MIN = 256
"""Folding so few trades again costs less than keeping a copy of the lots."""


class State(NamedTuple):
    """Everything that positions are folded into; one writer, no pointers, so that it can be copied and compared."""

    keys: Array  # KEY[keys]
    index: Array  # type: ignore[assignment]  # int64[2 x capacity, 2]: packed (book, instrument), key row
    lots: Array  # LOT[lots]
    buckets: Array  # int32[buckets]: lot rows by id, for specific-lot keys
    accounts: Array  # ACCOUNT[accounts]
    instruments: Array  # INSTRUMENT_POLICY[instruments]
    books: Array  # BOOK_POLICY[books]
    methods: Array  # METHOD_CHANGE[changes]
    rules: Array  # int64[changes, 2], beside `methods`: oversell and fees_in_cost of a book's row, -1 for a class's
    refused: Array  # int64[slots, 2]: sequence (or `key_verdict`), code
    cancelled: Array  # int64[slots, 2]: sequence of a cancelled original, of the cancel
    revisions: Array  # int64[slots, 2]: `key_verdict` of a re-issued set, its revision
    dirty: Array  # int32[keys]: rows that wait for a re-derivation
    locks: Array  # int64[slots, 2]: book id + 1 (1: all books), last locked date + 1
    meta: Array  # int64[META_CELLS]


class Results(NamedTuple):
    """What a run has to say; emptied by `clear`."""

    matches: Array  # MATCH[n]
    verdicts: Array  # VERDICT[n]
    changed: Array  # int32[n]: key rows
    changed_accounts: Array  # int32[n, 2]: account row, key row
    counts: Array  # int64[COUNT_CELLS]


def power_of_two(value: int) -> int:
    """The least power of two that is not below `value`."""
    return 1 << max(0, (value - 1).bit_length())


def new_state(keys: int, lots: int, accounts: int, instruments: int, books: int, rare: int = 1 << 12) -> State:
    """Empty state for that many rows. `rare`: slots of the tables of refusals, cancels and re-issued sets."""
    state = State(
        keys=np.zeros(keys, KEY),
        index=np.zeros((2 * power_of_two(keys), 2), np.int64),
        lots=np.zeros(lots, LOT),
        buckets=np.full(power_of_two(lots), -1, np.int32),
        accounts=np.zeros(accounts, ACCOUNT),
        instruments=np.zeros(instruments, INSTRUMENT_POLICY),
        books=np.zeros(books, BOOK_POLICY),
        methods=np.zeros(256, METHOD_CHANGE),
        rules=np.full((256, 2), -1, np.int64),
        refused=np.zeros((power_of_two(rare), 2), np.int64),
        cancelled=np.zeros((power_of_two(rare), 2), np.int64),
        revisions=np.zeros((power_of_two(rare), 2), np.int64),
        dirty=np.zeros(keys, np.int32),
        locks=np.zeros((power_of_two(rare), 2), np.int64),
        meta=np.zeros(META_CELLS, np.int64),
    )
    state.instruments["first_key"] = -1
    state.books["first_key"] = -1
    state.meta[LOTS_FREE] = -1
    state.meta[ANCHOR_EVENTS] = ANCHOR_EVENTS_MIN
    return state


def new_results(matches: int, events: int) -> Results:
    """Room for `matches` match records and for the changes of `events` events in one run."""
    return Results(
        matches=np.zeros(matches, MATCH),
        verdicts=np.zeros(events, VERDICT),
        changed=np.zeros(events, np.int32),
        changed_accounts=np.zeros((events, 2), np.int32),
        counts=np.zeros(COUNT_CELLS, np.int64),
    )


def clear(results: Results) -> None:
    """Forget what was said."""
    results.counts[:] = 0
