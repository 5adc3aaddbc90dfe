"""Single-producer ring: fixed-size records under one growing sequence, read by any number of processes at their own cursors.

Owns the control words and the copy in and out. One process writes (a claim of `claims` says which); gating readers hold it back, free
readers do not and notice when they were lapped. Record n lies in row n & (capacity - 1). A cursor is the last sequence published, or
finished. May not map memory, wait or post; `wait` does. Foreign writers are suffered: no value of a cursor makes a kernel leave its
arrays.

Control words (int64[1024]): head, claim and every reader's cursor have 128 bytes each. `claim` is the highest sequence that may be under
the writer's pen; it moves ahead in steps of a sixteenth of the ring, so it costs nothing, and a free reader counts on the newest 15/16
only.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pks.layouts.segment import RING_PLACE
from pks.segments.atomics import (
    LINE_WORDS,
    WORD_BYTES,
    copy_words,
    fence_acquire,
    fence_release,
    fence_seq_cst,
    load_acquire,
    load_relaxed,
    read_word,
    store_relaxed,
    store_release,
)
from pks.segments.errors import LayoutUnknown, PlaceUnknown, RingFull, RingLapped

Words = NDArray[np.int64]
Records = NDArray[Any]

PLACES_MAX = 32
"""Named readers of one ring: 16 shards, journal, ledger and the edges that want to park."""

HEAD = 0
CLAIM = 1 * LINE_WORDS
_GATE = 2 * LINE_WORDS  # the writer's own memory of the lowest gating cursor
_SHAPE = 3 * LINE_WORDS
_CAPACITY, _RECORD_WORDS, _START, _PLACES, _STEP = _SHAPE, _SHAPE + 1, _SHAPE + 2, _SHAPE + 3, _SHAPE + 4
PARKED = 4 * LINE_WORDS  # a word a place: ticket > 0 while its reader sleeps, else minus the last ticket
GATING = PARKED + PLACES_MAX
CURSORS = GATING + PLACES_MAX
_DIRECTORY = CURSORS + PLACES_MAX * LINE_WORDS
CONTROL_WORDS = 1024
CONTROL_BYTES = CONTROL_WORDS * WORD_BYTES
assert _DIRECTORY + PLACES_MAX * (RING_PLACE.itemsize // WORD_BYTES) <= CONTROL_WORDS, "the directory ends within the control words"

LAPPED = -1


# The reader's side, compiled.


@njit(cache=True)
def ring_head(control):
    """Last sequence published."""
    return load_acquire(control, HEAD)  # ORDER ring-publish: pairs with ring_commit's release store


@njit(cache=True)
def ring_gate(control, place, cursor):
    """Reader at `place` has finished all records up to `cursor`: the writer may reuse their rows."""
    store_release(control, CURSORS + place * LINE_WORDS, cursor)  # ORDER ring-gate: pairs with ring_slowest's acquire load


@njit(cache=True)
def ring_cursor(control, place):
    """Last sequence that the reader at `place` has finished."""
    return load_acquire(control, CURSORS + place * LINE_WORDS)


@njit(cache=True)
def ring_oldest(control):
    """Cursor behind which every published record is still there for a free reader."""
    return max(control[_START], load_relaxed(control, CLAIM) - control[_CAPACITY])


@njit(cache=True)
def ring_kept(control, cursor):
    """True when what was copied from the records behind `cursor` before this call had not been overwritten meanwhile."""
    fence_acquire()  # ORDER ring-lap: pairs with ring_claim's release fence
    return load_relaxed(control, CLAIM) - control[_CAPACITY] <= cursor


@njit(cache=True)
def _copy_out(records, first, count, target):
    capacity, words = records.shape
    row = first & (capacity - 1)
    run = min(count, capacity - row)
    copy_words(target, 0, records, row * words, run * words)
    copy_words(target, run * words, records, 0, (count - run) * words)


@njit(cache=True)
def ring_read(control, records, cursor, target, limit):
    """Copy the records behind `cursor` (at most `limit`, at most the rows of target) for a gating reader.

    records: int64[capacity, words]; target: int64[rows, words], its first rows written. Returns how many; LAPPED when the writer's head is
    further than the ring is long, which a writer that honours this reader's gate never does.
    """
    waiting = ring_head(control) - cursor
    if waiting > records.shape[0]:
        return LAPPED
    count = min(waiting, limit, target.shape[0], records.shape[0])
    if count <= 0:
        return 0
    _copy_out(records, cursor + 1, count, target)
    return count


@njit(cache=True)
def ring_read_free(control, records, cursor, target, limit):
    """As ring_read for a reader that gates nothing. LAPPED: records behind `cursor` are gone, target is void; go on at ring_oldest."""
    count = min(ring_head(control) - cursor, limit, target.shape[0], records.shape[0])
    if cursor < ring_oldest(control):
        return LAPPED
    if count <= 0:
        return 0
    _copy_out(records, cursor + 1, count, target)
    return count if ring_kept(control, cursor) else LAPPED


# The writer's side, compiled.


@njit(cache=True)
def ring_slowest(control):
    """(lowest gating cursor, its place); (head, -1) when nobody gates."""
    lowest, slowest = load_relaxed(control, HEAD), -1
    floor = lowest - control[_CAPACITY]  # no honest cursor lies below; a foreign one must not make the sums overflow
    for place in range(min(control[_PLACES], PLACES_MAX)):
        if load_relaxed(control, GATING + place) != 0:
            cursor = load_acquire(control, CURSORS + place * LINE_WORDS)  # ORDER ring-gate: pairs with ring_gate's release store
            cursor = max(cursor, floor)
            if cursor < lowest:
                lowest, slowest = cursor, place
    return lowest, slowest


@njit(cache=True)
def ring_free(control, wanted):
    """Records that may be claimed now; readers' cursors are looked at only when the remembered ones do not cover `wanted`."""
    head, capacity = control[HEAD], control[_CAPACITY]
    free = control[_GATE] + capacity - head
    if free < wanted:
        fence_seq_cst()  # ORDER ring-join: pairs with ring_join's fence; a joiner is seen here, or sees our head
        control[_GATE], _ = ring_slowest(control)
        free = control[_GATE] + capacity - head
    return free


@njit(cache=True)
def ring_claim(control, wanted):
    """Reserve up to `wanted` records behind the head and say how many; rows (head + 1 + i) & (capacity - 1) may then be written."""
    count = min(wanted, ring_free(control, wanted))
    if count <= 0:
        return 0
    last = control[HEAD] + count
    if last > control[CLAIM]:
        ahead = min(last | (control[_STEP] - 1), control[_GATE] + control[_CAPACITY])
        store_relaxed(control, CLAIM, max(last, ahead))
        fence_release()  # ORDER ring-lap: pairs with ring_kept's acquire fence
    return count


@njit(cache=True)
def ring_commit(control, count):
    """Publish the next `count` claimed records."""
    store_release(control, HEAD, control[HEAD] + count)  # ORDER ring-publish: pairs with ring_head's acquire load


@njit(cache=True)
def ring_publish(control, records, source, first, count):
    """Copy source[first : first + count] (int64[rows, words]) into the ring and publish; returns how many fitted, 0 when full."""
    capacity, words = records.shape
    taken = ring_claim(control, min(count, capacity))
    if taken == 0:
        return 0
    row = (control[HEAD] + 1) & (capacity - 1)
    run = min(taken, capacity - row)
    copy_words(records, row * words, source, first * words, run * words)
    copy_words(records, 0, source, (first + run) * words, (taken - run) * words)
    ring_commit(control, taken)
    return taken


@njit(cache=True)
def ring_publish_all(control, records, source, first, count):
    """As ring_publish, but all or nothing: `count`, or 0 when they do not all fit."""
    if ring_free(control, count) < count:
        return 0
    return ring_publish(control, records, source, first, count)


@njit(cache=True)
def ring_wake(control, posted):
    """Bit mask of places whose readers sleep and have not been posted since they went to sleep.

    posted: int64[32], the writer's memory of the tickets it has posted; `wait.Waker` posts and keeps it.
    """
    fence_seq_cst()  # ORDER ring-park: pairs with the fence in wait's park; the sleeper saw our record, or we see its ticket
    mask = 0
    for place in range(min(control[_PLACES], PLACES_MAX)):
        ticket = load_relaxed(control, PARKED + place)
        if ticket > 0 and ticket != posted[place]:
            mask |= 1 << place
    return mask


# Places come and go.


@njit(cache=True)
def ring_join(control, place):
    """Start to gate at `place`, from the head on; returns the cursor that this reader has now."""
    store_relaxed(control, GATING + place, 1)
    fence_seq_cst()  # ORDER ring-join: pairs with ring_free's fence
    cursor = load_acquire(control, HEAD)
    ring_gate(control, place, cursor)
    return cursor


@njit(cache=True)
def ring_leave(control, place):
    """Stop gating at `place`."""
    store_release(control, GATING + place, 0)  # ORDER ring-gate: what this reader copied was read before the writer reuses it


# In Python.


@dataclass(frozen=True, slots=True)
class Place:
    """A named reader of a ring; `semaphore` is the number of the semaphore it sleeps on, or None."""

    name: str
    gating: bool = False
    semaphore: int | None = None


def ring_bytes(capacity: int, record_bytes: int) -> int:
    """Bytes that a ring takes of a segment's body."""
    return CONTROL_BYTES + capacity * record_bytes


class Ring:
    """A ring in mapped memory.

    control: int64[1024]; records: int64[capacity, words]; both for use in compiled code. dtype: the records' layout.
    """

    def __init__(self, name: str, control: Words, records: Words, dtype: np.dtype[Any]) -> None:
        self.name, self.control, self.records, self.dtype = name, control, records, dtype
        self.capacity, self.words = records.shape
        self.start = int(control[_START])
        self._directory = control[_DIRECTORY : _DIRECTORY + PLACES_MAX * RING_PLACE.itemsize // WORD_BYTES].view(RING_PLACE)

    @classmethod
    def format(cls, area: Words, name: str, dtype: np.dtype[Any], capacity: int, *, start: int = -1, places: Sequence[Place] = ()) -> Ring:
        """Lay an empty ring into `area` (int64, ring_bytes long). start: the cursor before the first record. Places gate at once."""
        assert capacity >= 2 and capacity & (capacity - 1) == 0, f"capacity {capacity} is no power of two"
        assert dtype.itemsize % WORD_BYTES == 0, f"records of {dtype.itemsize} bytes are not whole words"
        assert area.nbytes == ring_bytes(capacity, dtype.itemsize), f"area of {area.nbytes} bytes does not fit the ring"
        assert len(places) <= PLACES_MAX, f"{len(places)} places, at most {PLACES_MAX}"
        assert len({place.name for place in places}) == len(places), "place names are unique"
        control = area[:CONTROL_WORDS]
        control[:] = 0
        control[HEAD] = control[CLAIM] = control[_GATE] = control[_START] = start
        control[_CAPACITY], control[_RECORD_WORDS], control[_PLACES] = capacity, dtype.itemsize // WORD_BYTES, len(places)
        control[_STEP] = max(1, capacity >> 4)
        directory = control[_DIRECTORY : _DIRECTORY + PLACES_MAX * RING_PLACE.itemsize // WORD_BYTES].view(RING_PLACE)
        for index, place in enumerate(places):
            directory[index]["name"], directory[index]["gating"] = place.name.encode("ascii"), place.gating
            directory[index]["semaphore"] = 0 if place.semaphore is None else place.semaphore + 1
            control[GATING + index] = int(place.gating)
            control[CURSORS + index * LINE_WORDS] = start
        return cls.attach(area, name, dtype)

    @classmethod
    def attach(cls, area: Words, name: str, dtype: np.dtype[Any]) -> Ring:
        """The ring that lies in `area`. Raises LayoutUnknown when its records have another width or it does not fit the area."""
        control = area[:CONTROL_WORDS]
        words, capacity = dtype.itemsize // WORD_BYTES, int(control[_CAPACITY])
        if int(control[_RECORD_WORDS]) != words:
            raise LayoutUnknown(name, "record words", int(control[_RECORD_WORDS]), words)
        if capacity <= 0 or capacity & (capacity - 1) or area.nbytes != ring_bytes(capacity, dtype.itemsize):
            raise LayoutUnknown(name, "ring capacity", capacity, (area.nbytes - CONTROL_BYTES) // dtype.itemsize)
        return cls(name, control, area[CONTROL_WORDS:].reshape(capacity, words), dtype)

    @property
    def head(self) -> int:
        """Last sequence published."""
        return int(read_word(self.control, HEAD))

    @property
    def oldest(self) -> int:
        """Cursor behind which a free reader still finds every record."""
        return int(ring_oldest(self.control))

    @property
    def places(self) -> list[Place]:
        """The named readers, in the order of their places."""
        return [
            Place(row["name"].decode("ascii"), bool(self.control[GATING + index]), int(row["semaphore"]) - 1 if row["semaphore"] else None)
            for index, row in enumerate(self._directory[: int(self.control[_PLACES])])
        ]

    def place(self, name: str) -> int:
        """Index of the place made for reader `name`. Raises PlaceUnknown."""
        names = [place.name for place in self.places]
        if name not in names:
            raise PlaceUnknown(self.name, name, names)
        return names.index(name)

    def cursor(self, name: str) -> int:
        """Last sequence that reader `name` has finished."""
        return int(ring_cursor(self.control, self.place(name)))

    def as_words(self, records: Records) -> Words:
        """View records of this ring's layout as int64[rows, words]."""
        assert records.dtype == self.dtype, f"ring {self.name} holds {self.dtype}, not {records.dtype}"
        return np.ascontiguousarray(records).reshape(-1).view(np.int64).reshape(-1, self.words)


class RingWriter:
    """The one writer, in Python. `control` and `records` of its ring may be used from compiled code in turn with it."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring

    def free(self, wanted: int | None = None) -> int:
        """Records that may be written now."""
        return int(ring_free(self.ring.control, self.ring.capacity if wanted is None else wanted))

    def publish(self, records: Records) -> int:
        """Publish as many as fit; how many, 0 when the ring is full."""
        words = self.ring.as_words(records)
        return int(ring_publish(self.ring.control, self.ring.records, words, 0, len(words)))

    def publish_all(self, records: Records) -> int:
        """Publish all or nothing; the sequence of the last. Raises RingFull, with nothing written."""
        words = self.ring.as_words(records)
        if ring_publish_all(self.ring.control, self.ring.records, words, 0, len(words)) != len(words):
            raise RingFull(self.ring.name, len(words), self.free(len(words)), self.slowest())
        return self.ring.head

    def slowest(self) -> str:
        """Name of the gating reader that is furthest behind, or "nobody"."""
        _, place = ring_slowest(self.ring.control)
        return "nobody" if place < 0 else self.ring.places[place].name


class RingReader:
    """A reader in Python, gating (by the name of its place) or free.

    A gating reader begins where its place stands, so that its next life goes on there; `finish` lets the writer reuse what was read.
    A free reader begins at `position` (a cursor; default: the head) and raises RingLapped when it was overrun.
    """

    def __init__(self, ring: Ring, place: str | None = None, *, position: int | None = None) -> None:
        self.ring = ring
        self.place = None if place is None else ring.place(place)
        self.gating = self.place is not None and bool(ring.control[GATING + self.place])
        if position is None:
            position = int(ring_cursor(ring.control, self.place)) if self.place is not None and self.gating else ring.head
        self.cursor = position
        self.laps_count = self.lost_count = 0

    @property
    def lag(self) -> int:
        """Records published and not read."""
        return self.ring.head - self.cursor

    def read(self, limit: int) -> Records:
        """Copy of the next records, at most `limit`, perhaps none. Raises RingLapped, once counted, until `skip` or a new cursor."""
        room = np.empty((min(limit, self.ring.capacity), self.ring.words), np.int64)
        kernel = ring_read if self.gating else ring_read_free
        count = int(kernel(self.ring.control, self.ring.records, self.cursor, room, limit))
        if count == LAPPED:
            raise RingLapped(self.ring.name, self.cursor, self.ring.oldest)
        self.cursor += count
        return room[:count].reshape(-1).view(self.ring.dtype)

    def finish(self, cursor: int | None = None) -> None:
        """All records up to `cursor` (default: all that were read) are dealt with; for a reader with a place."""
        assert self.place is not None, "a reader without a place has nothing to finish"
        done = self.cursor if cursor is None else cursor
        assert done <= self.cursor, f"finished {done} beyond what was read, {self.cursor}"
        ring_gate(self.ring.control, self.place, done)

    def skip(self) -> int:
        """After a lap: go on with the oldest record that is still there; how many were lost."""
        oldest = self.ring.oldest
        lost = max(0, oldest - self.cursor)
        if lost:
            self.cursor, self.laps_count, self.lost_count = oldest, self.laps_count + 1, self.lost_count + lost
        return lost

    def join(self) -> int:
        """Begin to gate, from the head on; the cursor."""
        assert self.place is not None, "only a place can gate"
        self.cursor, self.gating = int(ring_join(self.ring.control, self.place)), True
        return self.cursor

    def leave(self) -> None:
        """Stop gating."""
        assert self.place is not None, "only a place can gate"
        ring_leave(self.ring.control, self.place)
        self.gating = False
