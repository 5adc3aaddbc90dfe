"""What a reader's own compiled code may call: find, read, liveness and a clock, over the arrays of a mapped segment.

Owns no data and keeps no state. `host.positions.arrays` (SlotArrays) and `host.update_rings` (RingArrays) hold what the kernels take; a
strategy's `@njit` loop calls them as it calls its own functions, at the price of the copy alone. Take the arrays out of the tuple before
the loop (`header, slots, indexes, counts = table`): numba counts references each time one is taken, which costs more than the read. Every
kernel returns a code and never raises. May not write shared memory: the arrays are read-only. Memory order is the affair of `segments`.

A loop that reads for longer than a moment asks `liveness` with a fresh `clock_ns` at least once a second, or uses the `_live` forms: slots
of a system that is gone look like any others.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from pks.segments.atomics import copy_words, fence_acquire, load_acquire, pause
from pks.segments.ring import LAPPED, ring_head, ring_kept, ring_oldest, ring_read_free
from pks.segments.shm import host_state
from pks.segments.slots import (
    ABSENT,
    CLOSED,
    STALE,
    TRIES_MAX,
    TRIES_PYTHON,
    UNSTABLE,
    VERSION_WORDS,
    pack_key,
    slot_find_any,
    slot_read,
    slot_version,
    slots_snapshot,
)

__all__ = [
    "ABSENT",
    "CLOSED",
    "LAPPED",
    "LISTED",
    "STALE",
    "TRIES_MAX",
    "UNSTABLE",
    "RingArrays",
    "SlotArrays",
    "clock_ns",
    "liveness",
    "pause",
    "position_find",
    "position_read",
    "position_read_live",
    "position_version",
    "positions_snapshot",
    "rows_changed",
    "updates_changed",
    "updates_head",
    "updates_oldest",
    "updates_read",
]

CLOCK_MONOTONIC = 1
CLOCK_WORDS = 2
"""Words that `clock_ns` writes over: a timespec."""

LISTED = -2
"""In place of the version that a reader gave out: the row is on its list of changed ones already."""

Words = NDArray[np.int64]

_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.intc(types.intc, types.voidptr))


class SlotArrays(NamedTuple):
    """A slot table as kernels take it: header int64[512], slots int64[rows, stride], indexes int64[ranges, entries, 2], counts."""

    header: Words
    slots: Words
    indexes: Words
    counts: Words


class RingArrays(NamedTuple):
    """A ring as kernels take it: control int64[1024], records int64[capacity, words]."""

    control: Words
    records: Words


@njit(cache=True)
def clock_ns(room):
    """CLOCK_MONOTONIC in nanoseconds, the clock of heartbeats. room: int64[2] of the caller's, written over."""
    _clock_gettime(CLOCK_MONOTONIC, room.ctypes)
    return room[0] * 1_000_000_000 + room[1]


@njit(cache=True)
def liveness(header, now_ns):
    """0 while the system lives, CLOSED when its segment was put aside, STALE when nobody keeps it alive. now_ns: CLOCK_MONOTONIC."""
    state = host_state(header, now_ns)
    if state == 0:
        return 0
    return CLOSED if state == 1 else STALE


@njit(cache=True)
def position_find(indexes, book_id, instrument_id):
    """Row of the position, or ABSENT. A row, once given, stays the position's while the segment lives."""
    return slot_find_any(indexes, pack_key(book_id, instrument_id))


position_read = slot_read
"""position_read(slots, row, target, TRIES_MAX): copy the stable POSITION_SLOT of `row` into target (int64[32]); its version, 0 when it was
never written, or UNSTABLE (try again). The kernel of `segments` itself: one call inside another costs more than the copy."""

position_version = slot_version
"""position_version(slots, row): version of `row` now, a cheap look whether there is something new."""

positions_snapshot = slots_snapshot
"""positions_snapshot(slots, rows, target, versions, TRIES_MAX): read rows (int64[n]) into target (int64[n, 32]) and versions (int64[n]);
how many were UNSTABLE. Each row is whole by itself."""

updates_head = ring_head
"""updates_head(control): last update published in a ring."""

updates_oldest = ring_oldest
"""updates_oldest(control): where to go on after LAPPED; what was passed over is to be read from the slots."""

updates_read = ring_read_free
"""updates_read(control, records, cursor, target, limit): copy the UPDATEs behind `cursor` into target (int64[n, 2]: sequence; slot and
shard); how many, or LAPPED."""


@njit(cache=True)
def position_read_live(header, slots, row, target, now_ns):
    """As position_read, but first asks `liveness`: CLOSED and STALE are its answers too."""
    state = host_state(header, now_ns)
    if state:
        return CLOSED if state == 1 else STALE
    words = (slots.shape[1] - VERSION_WORDS) >> 1
    base = row * slots.shape[1]
    for _ in range(TRIES_MAX):
        before = load_acquire(slots, base)  # ORDER slot-open: pairs with slot_write's release store
        copy_words(target, 0, slots, base + VERSION_WORDS + (before & 1) * words, words)
        fence_acquire()  # ORDER slot-close: pairs with slot_write's leading fence
        if load_acquire(slots, base) == before:
            return before
        pause()
    return UNSTABLE


@njit(cache=True)
def read_held(whole, place, target):
    """One slot for a handle, in one call with few arguments: whether the host lives, by its own clock, then the stable copy.

    whole: int64 words of the segment; place: word of the slot's version; target: int64[words + 2], the last two being room for the clock.
    Returns the version, UNSTABLE, CLOSED or STALE.
    """
    words = len(target) - CLOCK_WORDS
    state = host_state(whole, clock_ns(target[words:]))
    if state:
        return CLOSED if state == 1 else STALE
    for _ in range(TRIES_PYTHON):
        before = load_acquire(whole, place)  # ORDER slot-open: pairs with slot_write's release store
        copy_words(target, 0, whole, place + VERSION_WORDS + (before & 1) * words, words)
        fence_acquire()  # ORDER slot-close: pairs with slot_write's leading fence
        if load_acquire(whole, place) == before:
            return before
        pause()
    return UNSTABLE


@njit(cache=True)
def rows_between(counts, rows_each, known, rows):
    """Rows taken in each range since `known` (int64[ranges], brought up to date), into rows (int64[slots]); how many."""
    total = 0
    for number in range(len(known)):
        used = min(load_acquire(counts, number * counts.shape[1]), rows_each)  # ORDER slot-count: pairs with slot_append's release store
        for offset in range(known[number], used):
            rows[total] = number * rows_each + offset
            total += 1
        known[number] = max(known[number], used)
    return total


@njit(cache=True)
def updates_changed(control, records, slots, given, rows, at, place):
    """List the rows that the UPDATEs behind a cursor name and whose version is not the one that was given out; each once.

    given: int64[slots], by row the version given out, LISTED for what is on the list. rows: int64[slots], the list. at: int64[1 + rings],
    at[0] its length, at[place] this ring's cursor; both are brought up to date. Returns 0, or LAPPED: go on at the head, and with
    `rows_changed`.
    """
    cursor, head, count, last_row = at[place], ring_head(control), at[0], records.shape[0] - 1
    if cursor < updates_oldest(control):
        return LAPPED
    for number in range(cursor + 1, head + 1):
        row = records[number & last_row, 1] & 0xFFFFFFFF  # UPDATE: sequence, then slot in the lower half
        if row < slots.shape[0] and given[row] != LISTED and slot_version(slots, row) != given[row]:
            rows[count] = row
            given[row] = LISTED
            count += 1
    at[0] = count
    if not ring_kept(control, cursor):
        return LAPPED
    at[place] = head
    return 0


@njit(cache=True)
def rows_changed(counts, slots, given, rows, at):
    """List every row that holds a key and whose version is not the one that was given out. Arrays as for `updates_changed`."""
    rows_each, count = slots.shape[0] // counts.shape[0], at[0]
    for number in range(counts.shape[0]):
        used = min(load_acquire(counts, number * counts.shape[1]), rows_each)  # ORDER slot-count: pairs with slot_append's release store
        for row in range(number * rows_each, number * rows_each + used):
            if given[row] != LISTED and slot_version(slots, row) != given[row]:
                rows[count] = row
                given[row] = LISTED
                count += 1
    at[0] = count
