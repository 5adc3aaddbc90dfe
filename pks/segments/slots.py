"""Sequence-latched slots: the latest row per key, one writer a range, any number of readers that never wait.

Owns the version words, the two copies of each slot, the index by a pair of ids, and the copy in and out. Knows no field names: a slot's
copy is a row of 64-bit words whose first is the copy's version. May not map memory, wait or log. Kernels look at no clock (a caller's
loop hands its own reading in); the Python reader does, for the heartbeat's age and its one millisecond of patience.

A table is int64[rows, stride]: one line with the version, then copy 0, then copy 1, so that version and first copy are neighbours. Rows
are cut into ranges of equal size, each with its own writer, count and hash index. The index (int64[ranges, entries, 2]: row + 1, key) is
append-only.

Writer of version v + 1: fence(release), write copy (v + 1) & 1, store_release(version, v + 1). Reader: v = load_acquire(version), copy v
& 1, fence(acquire), good if the version is still v: copy v & 1 is not touched before v + 1 is published. Version 0 was never written. A
writer that dies in mid-write leaves the last version whole; the next one goes on from the version word, after `take_range`.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pks.base.limits import SLOT_READ_NS_MAX
from pks.segments.atomics import (
    WORD_BYTES,
    copy_words,
    fence_acquire,
    fence_release,
    load_acquire,
    pause,
    prefetch,
    read_word,
    store_release,
)
from pks.segments.errors import LayoutUnknown, TableFull, UnstableSlot
from pks.segments.shm import Segment, host_state

Words = NDArray[np.int64]
Records = NDArray[Any]

VERSION_WORDS = 8
"""Words before the first copy: the version and its line's rest, so that copies begin on a line."""

TRIES_MAX = 1000
"""Attempts of a kernel at one slot; each lasts some 20 ns, and one fails only when the writer wrote twice within it."""

TRIES_PYTHON = 100
"""Attempts between two looks at the clock in the Python reader."""

LOOKS_MIN = 20
"""Looks at the clock before the Python reader gives up: a reader that lost its processor for longer than it may try has not tried yet."""

AHEAD = 8
"""Slots that a batch fetches ahead: about the latency of memory over the time of one copy."""

UNSTABLE = -1
CLOSED = -2
STALE = -3
ABSENT = -1
FULL = -2

_COUNT_WORDS = 16  # counts of two ranges have two writers: 128 bytes apart
_MIX = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: Knuth, TAOCP 3, section 6.4, multiplicative hashing


# One slot, compiled.


@njit(cache=True)
def slot_write(slots, row, source):
    """Write source[1:] (int64[words], its first word is ignored) as the next version of slot `row`; the version."""
    words = (slots.shape[1] - VERSION_WORDS) >> 1
    base = row * slots.shape[1]
    version = slots[row, 0] + 1
    copy = base + VERSION_WORDS + (version & 1) * words
    fence_release()  # ORDER slot-close: pairs with slot_read's acquire fence; who sees a word of this copy sees the last version too
    copy_words(slots, copy, source, 0, words)
    slots[row, VERSION_WORDS + (version & 1) * words] = version
    store_release(slots, base, version)  # ORDER slot-open: pairs with slot_read's acquire load
    return version


@njit(cache=True)
def slot_read(slots, row, target, tries_max):
    """Copy the stable version of slot `row` into target (int64[words]); the version, 0 when never written, UNSTABLE after `tries_max`."""
    words = (slots.shape[1] - VERSION_WORDS) >> 1
    base = row * slots.shape[1]
    for _ in range(tries_max):
        before = load_acquire(slots, base)  # ORDER slot-open: pairs with slot_write's release store
        copy_words(target, 0, slots, base + VERSION_WORDS + (before & 1) * words, words)
        fence_acquire()  # ORDER slot-close: pairs with slot_write's leading fence
        if load_acquire(slots, base) == before:
            return before
        pause()
    return UNSTABLE


@njit(cache=True)
def slot_version(slots, row):
    """Version of slot `row` now: a cheap look whether there is something new."""
    return load_acquire(slots, row * slots.shape[1])  # ORDER slot-open: pairs with slot_write's release store


@njit(cache=True)
def slot_current(slots, row):
    """First word (flat) of the copy that the writer itself may read in place; valid for the range's writer only."""
    return row * slots.shape[1] + VERSION_WORDS + (slots[row, 0] & 1) * ((slots.shape[1] - VERSION_WORDS) >> 1)


@njit(cache=True)
def slot_prefetch(slots, row):
    """Ask for the version line and the first lines of both copies of slot `row`."""
    words = (slots.shape[1] - VERSION_WORDS) >> 1
    base = row * slots.shape[1]
    prefetch(slots, base)
    for line in range(0, 2 * words, 8):
        prefetch(slots, base + VERSION_WORDS + line)


@njit(cache=True)
def slot_read_live(header, slots, row, target, now_ns, tries_max):
    """slot_read that first asks whether the host lives (`header`: the segment's; now_ns: CLOCK_MONOTONIC); else CLOSED or STALE."""
    state = host_state(header, now_ns)
    if state:
        return CLOSED if state == 1 else STALE
    return slot_read(slots, row, target, tries_max)


# Many slots, compiled.


@njit(cache=True)
def slots_snapshot(slots, rows, target, versions, tries_max):
    """Read the slots `rows` (int64[n]) into target (int64[n, words]) and versions (int64[n]); how many were UNSTABLE.

    Each row is whole by itself; the rows are not of one moment.
    """
    stride, words = slots.shape[1], target.shape[1]
    unstable = 0
    lines = stride >> 3
    for ahead in range(min(AHEAD, len(rows))):
        for line in range(lines):
            prefetch(slots, rows[ahead] * stride + line * 8)
    for index in range(len(rows)):
        if index + AHEAD < len(rows):
            for line in range(lines):
                prefetch(slots, rows[index + AHEAD] * stride + line * 8)
        base = rows[index] * stride
        version = UNSTABLE
        for _ in range(tries_max):
            before = load_acquire(slots, base)  # ORDER slot-open: pairs with slot_write's release store
            copy_words(target, index * words, slots, base + VERSION_WORDS + (before & 1) * words, words)
            fence_acquire()  # ORDER slot-close: pairs with slot_write's leading fence
            if load_acquire(slots, base) == before:
                version = before
                break
            pause()
        versions[index] = version
        if version == UNSTABLE:
            unstable += 1
    return unstable


@njit(cache=True)
def slots_snapshot_live(header, slots, rows, target, versions, now_ns, tries_max):
    """slots_snapshot that first asks whether the host lives; the number of UNSTABLE rows, or CLOSED or STALE."""
    state = host_state(header, now_ns)
    if state:
        return CLOSED if state == 1 else STALE
    return slots_snapshot(slots, rows, target, versions, tries_max)


# Keys.


@njit(cache=True)
def pack_key(first, second):
    """Two ids of 32 bits as one key: first in the upper half."""
    return (np.int64(first) << 32) | (np.int64(second) & 0xFFFFFFFF)


@njit(cache=True)
def _home(key, entries):
    """First place to look: the upper half of the multiplicative hash, cut to `entries` (a power of two, at most 2**32)."""
    mixed = np.uint64(key) * np.uint64(_MIX)  # unsigned: numba's int64 product may not wrap
    return np.int64(mixed >> np.uint64(32)) & (entries - 1)


@njit(cache=True)
def slot_find(index, key):
    """Row of `key` in the index of one range (int64[entries, 2]), or ABSENT."""
    entries = index.shape[0]
    place = _home(key, entries)
    for _ in range(entries):
        row = load_acquire(index, place * 2)  # ORDER slot-index: pairs with slot_append's release store
        if row == 0:
            return ABSENT
        if index[place, 1] == key:
            return row - 1
        place = (place + 1) & (entries - 1)
    return ABSENT


@njit(cache=True)
def slot_find_any(indexes, key):
    """Row of `key` in any range (indexes: int64[ranges, entries, 2]), or ABSENT."""
    for number in range(indexes.shape[0]):
        row = slot_find(indexes[number], key)
        if row != ABSENT:
            return row
    return ABSENT


@njit(cache=True)
def slots_find(indexes, keys, rows):
    """Rows of keys (int64[n]) over all ranges into rows (int64[n], ABSENT where there is none); how many were found."""
    found = 0
    for number in range(len(keys)):
        rows[number] = slot_find_any(indexes, keys[number])
        found += rows[number] != ABSENT
    return found


@njit(cache=True)
def slot_append(slots, indexes, counts, range_index, key, source):
    """Give `key`, which the range does not hold yet, the range's next slot, write source (int64[words]) to it, then publish the key.

    counts: int64[ranges, 16], word 0 is the slots taken. Returns the row, or FULL. Only the range's writer calls this.
    """
    per_range = slots.shape[0] // indexes.shape[0]
    used = counts[range_index, 0]
    if used >= per_range:
        return FULL
    row = range_index * per_range + used
    slot_write(slots, row, source)
    index, entries = indexes[range_index], indexes.shape[1]
    place = _home(key, entries)
    while index[place, 0] != 0:
        place = (place + 1) & (entries - 1)
    index[place, 1] = key
    store_release(index, place * 2, row + 1)  # ORDER slot-index: pairs with slot_find's acquire load
    store_release(counts, range_index * _COUNT_WORDS, used + 1)  # ORDER slot-count: pairs with rows_used's acquire load
    return row


@njit(cache=True)
def slot_put(slots, indexes, counts, range_index, key, source):
    """Write source (int64[words]) to the slot of `key` in the range, made if there is none. Its row, or FULL. For the range's writer."""
    row = slot_find(indexes[range_index], key)
    if row == ABSENT:
        return slot_append(slots, indexes, counts, range_index, key, source)
    slot_write(slots, row, source)
    return row


@njit(cache=True)
def range_recover(slots, indexes, counts, range_index):
    """Set the range's count from its index: a writer may have died between the two. Returns the count."""
    per_range = slots.shape[0] // indexes.shape[0]
    used = 0
    for place in range(indexes.shape[1]):
        row = indexes[range_index, place, 0]
        if row != 0:
            used = max(used, row - range_index * per_range)
    store_release(counts, range_index * _COUNT_WORDS, used)  # ORDER slot-count: pairs with rows_used's acquire load
    return used


@njit(cache=True)
def rows_used(slots, counts, rows):
    """All rows that hold a key, range by range, into rows (int64[slots]); how many."""
    per_range = slots.shape[0] // counts.shape[0]
    total = 0
    for number in range(counts.shape[0]):
        used = min(load_acquire(counts, number * _COUNT_WORDS), per_range)  # ORDER slot-count: pairs with slot_append's release store
        for offset in range(used):
            rows[total] = number * per_range + offset
            total += 1
    return total


# In Python.


def _index_entries(slots_per_range: int) -> int:
    return 1 << (2 * slots_per_range - 1).bit_length()


def table_bytes(ranges: int, slots_per_range: int, row_bytes: int) -> int:
    """Bytes that a table takes of a segment's body: counts, indexes, slots."""
    words = ranges * (_COUNT_WORDS + 2 * _index_entries(slots_per_range))
    return WORD_BYTES * (words + ranges * slots_per_range * VERSION_WORDS) + ranges * slots_per_range * 2 * row_bytes


class SlotTable:
    """A table in mapped memory: `slots`, `indexes` and `counts` are for use in compiled code, the methods are the same from Python.

    Whoever holds a range's claim writes it; the rest reads. A table whose rows follow another table's (Greeks, positions) is made the same
    way and addressed by that table's rows.
    """

    def __init__(self, segment: Segment, name: str, dtype: np.dtype[Any], ranges: int, slots_per_range: int, offset_bytes: int = 0) -> None:
        """dtype: the slot's layout, a whole number of 64-byte lines, first field the version. Memory must be zero or a table already."""
        assert dtype.itemsize % 64 == 0, f"slots of {dtype.itemsize} bytes are not whole lines"
        assert dtype.fields is not None and dtype[0] == np.dtype("<i8"), "the first word of a slot is its version"
        area = segment.words(offset_bytes, table_bytes(ranges, slots_per_range, dtype.itemsize))
        entries = _index_entries(slots_per_range)
        counts_end = ranges * _COUNT_WORDS
        index_end = counts_end + ranges * entries * 2
        self.segment, self.name, self.dtype = segment, name, dtype
        self.ranges, self.slots_per_range, self.words = ranges, slots_per_range, dtype.itemsize // WORD_BYTES
        self.counts: Words = area[:counts_end].reshape(ranges, _COUNT_WORDS)
        self.indexes: Words = area[counts_end:index_end].reshape(ranges, entries, 2)
        self.slots: Words = area[index_end:].reshape(ranges * slots_per_range, VERSION_WORDS + 2 * self.words)
        self._row = np.zeros(self.words, np.int64)

    # writing

    def take_range(self, range_index: int) -> int:
        """Begin to write a range, after claiming it; the slots taken so far. Mends what a dead writer left half done."""
        return int(range_recover(self.slots, self.indexes, self.counts, range_index))

    def write(self, row: int, record: Records | np.void) -> int:
        """Write one record (its version is ignored) as the next version of `row`; the version."""
        assert 0 <= row < len(self.slots), f"{self.name}: no row {row}"
        return int(slot_write(self.slots, row, self._as_row(record)))

    def append(self, range_index: int, key: tuple[int, int], record: Records | np.void) -> int:
        """Give `key` a slot in the range and write it; the row. Raises TableFull. Only the range's writer calls this."""
        assert self.find(key, range_index) is None, f"{self.name}: key {key} is there already"
        row = int(slot_append(self.slots, self.indexes, self.counts, range_index, pack_key(*key), self._as_row(record)))
        if row == FULL:
            raise TableFull(self.name, range_index, self.slots_per_range)
        return row

    def _as_row(self, record: Records | np.void) -> Words:
        assert record.dtype == self.dtype, f"table {self.name} holds {self.dtype}, not {record.dtype}"
        self._row.view(self.dtype)[0] = record
        return self._row

    # reading

    def find(self, key: tuple[int, int], range_index: int | None = None) -> int | None:
        """Row of a key, in one range or any; None when there is none."""
        packed = pack_key(*key)
        row = slot_find_any(self.indexes, packed) if range_index is None else slot_find(self.indexes[range_index], packed)
        return None if row == ABSENT else int(row)

    def read(self, row: int) -> np.void:
        """The stable record of `row`, all zero when never written. Raises StaleHost, UnstableSlot (after 1 ms)."""
        room = np.empty(1, self.dtype)
        self.read_into(row, room.view(np.int64))
        record: np.void = room[0]
        return record

    def read_into(self, row: int, target: Words) -> int:
        """As `read`, into int64[words]; the version, 0 when never written."""
        assert 0 <= row < len(self.slots), f"{self.name}: no row {row}"
        first_ns = now_ns = time.monotonic_ns()
        for look in itertools.count(1):
            version = int(slot_read_live(self.segment.header, self.slots, row, target, now_ns, TRIES_PYTHON))
            if version >= 0:
                return version
            if version != UNSTABLE:
                self.segment.raise_stale(1 if version == CLOSED else 2, now_ns)
            now_ns = time.monotonic_ns()
            if look >= LOOKS_MIN and now_ns - first_ns > SLOT_READ_NS_MAX:
                break
        raise UnstableSlot(self.name, row, now_ns - first_ns)

    def handle(self, row: int) -> SlotHandle:
        """A kept place for reading one slot again and again."""
        return SlotHandle(self, row)

    def rows(self) -> Words:
        """All rows that hold a key, int64[n]."""
        rows = np.empty(len(self.slots), np.int64)
        return rows[: int(rows_used(self.slots, self.counts, rows))]

    def snapshot(self, rows: Words | Iterable[int] | None = None) -> Records:
        """Records of `rows` (default: all that hold a key), each whole. Raises StaleHost, UnstableSlot."""
        wanted = self.rows() if rows is None else np.fromiter(rows, np.int64) if not isinstance(rows, np.ndarray) else rows
        assert len(wanted) == 0 or (wanted.min() >= 0 and wanted.max() < len(self.slots)), f"{self.name}: a row is outside the table"
        target, versions = np.empty((len(wanted), self.words), np.int64), np.empty(len(wanted), np.int64)
        first_ns = time.monotonic_ns()
        unstable = int(slots_snapshot_live(self.segment.header, self.slots, wanted, target, versions, first_ns, TRIES_PYTHON))
        if unstable < 0:
            self.segment.raise_stale(1 if unstable == CLOSED else 2, first_ns)
        for position in np.flatnonzero(versions == UNSTABLE) if unstable else ():
            self.read_into(int(wanted[position]), target[position])
        return target.reshape(-1).view(self.dtype)

    def count(self, range_index: int) -> int:
        """Slots taken in a range."""
        return int(read_word(self.counts.reshape(-1), range_index * _COUNT_WORDS))


class SlotHandle:
    """One slot and room for its record: the quickest read from Python. `refresh` overwrites `record` in place."""

    __slots__ = ("_header", "_slots", "_table", "_target", "record", "row")

    def __init__(self, table: SlotTable, row: int) -> None:
        assert 0 <= row < len(table.slots), f"{table.name}: no row {row}"
        self._table, self._header, self._slots, self.row = table, table.segment.header, table.slots, row
        self._target = np.zeros(table.words, np.int64)
        self.record: np.void = self._target.view(table.dtype)[0]

    def refresh(self) -> int:
        """Read the slot into `record`; its version. Raises StaleHost, UnstableSlot."""
        version: int = slot_read_live(self._header, self._slots, self.row, self._target, time.monotonic_ns(), TRIES_PYTHON)
        return version if version >= 0 else self._table.read_into(self.row, self._target)


def check_table_size(name: str, found: tuple[int, ...], ranges: int, slots_per_range: int) -> None:
    """Compare a header's counts (ranges, slots per range) with what the caller means to map. Raises LayoutUnknown."""
    if tuple(found[:2]) != (ranges, slots_per_range):
        raise LayoutUnknown(name, "ranges and slots", str(tuple(found[:2])), str((ranges, slots_per_range)))
