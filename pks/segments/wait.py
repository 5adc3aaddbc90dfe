"""Waiting on rings: spin, yield or park, and the wake-up of those who sleep.

Owns the bounded compiled poll and the semaphores. A worker has one semaphore (its number is in the ring's
places) and may watch several rings at once. May not read or publish records. Correctness never rests on a time-out: a reader takes a
ticket in the ring, looks once more, and only then sleeps; the writer publishes, then looks for tickets. posix_ipc's time-outs run on the
wall clock, so they only bound a sleep, and the supervisor posts from its tick too.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import posix_ipc
from numba import njit
from numpy.typing import NDArray

from pks.base.host import Wait
from pks.base.limits import PARK_NS_MAX
from pks.segments.atomics import fence_seq_cst, load_acquire_at, load_relaxed, pause, store_relaxed
from pks.segments.ring import HEAD, PARKED, PLACES_MAX, Ring, ring_wake

Words = NDArray[np.int64]

SPINS_MAX = 50_000
"""Pauses of one compiled poll: at most 140 cycles each on x86-64, so less than 10 ms at 1 GHz with one ring watched."""

SPINS_YIELD = 200
"""Pauses before the processor is given away: some microseconds, about what a hand-over between two running workers takes."""


def semaphore_name(number: int, instance: str = "") -> str:
    """Name of the semaphore of worker `number`."""
    return f"/pks-wake-{number}.{instance}" if instance else f"/pks-wake-{number}"


def make_semaphores(count: int, instance: str = "", mode: int = 0o660) -> None:
    """Create the semaphores of workers 0 .. count - 1 anew, dropping what an earlier run left. For the supervisor, before it forks."""
    remove_semaphores(count, instance)
    for number in range(count):
        posix_ipc.Semaphore(semaphore_name(number, instance), flags=posix_ipc.O_CREX, mode=mode, initial_value=0).close()


def remove_semaphores(count: int, instance: str = "") -> None:
    """Unlink the semaphores of workers 0 .. count - 1; those that are gone already are no error."""
    for number in range(count):
        try:
            posix_ipc.unlink_semaphore(semaphore_name(number, instance))
        except posix_ipc.ExistentialError:
            continue


# Looking, compiled.


@njit(cache=True)
def any_ahead(heads, cursors):
    """True when a watched head has passed its cursor. heads: int64[n] addresses of head words; cursors: int64[n]."""
    for number in range(len(heads)):
        if load_acquire_at(heads[number]) > cursors[number]:  # ORDER ring-publish: pairs with ring_commit's release store
            return True
    return False


@njit(cache=True)
def poll_until(heads, cursors, spins):
    """Spin until a watched head passes its cursor, at most `spins` (at most SPINS_MAX over all heads) pauses; True when one did."""
    for _ in range(min(spins, SPINS_MAX // max(1, len(heads)))):
        if any_ahead(heads, cursors):
            return True
        pause()
    return any_ahead(heads, cursors)


@njit(cache=True)
def take_ticket(control, place):
    """Say that the reader at `place` is about to sleep: a ticket larger than all its earlier ones, also those of an earlier life."""
    word = PARKED + place
    ticket = abs(load_relaxed(control, word)) + 1
    store_relaxed(control, word, ticket)
    return ticket


@njit(cache=True)
def look_again(heads, cursors):
    """After the tickets are taken: may the reader sleep? True when there is work after all."""
    fence_seq_cst()  # ORDER ring-park: pairs with ring_wake's fence; we see the writer's record, or it sees our ticket
    return any_ahead(heads, cursors)


@njit(cache=True)
def drop_ticket(control, place):
    """The reader at `place` is awake."""
    word = PARKED + place
    store_relaxed(control, word, -abs(load_relaxed(control, word)))


# In Python.


class Watched(Protocol):
    """What is waited on: a reader of a ring or of a recorded stream."""

    ring: Ring
    place: int | None

    @property
    def cursor(self) -> int:
        """A record behind it ends the wait."""


class Waiter:
    """One reader's wait over the rings it reads.

    Parking needs rings that are mapped writable, a place in each, and the worker's semaphore (by `semaphore_name`, made beforehand).
    """

    def __init__(self, readers: Sequence[Watched], wait: Wait, semaphore: str | None = None) -> None:
        assert wait is not Wait.AUTO, "choose_wait comes first"
        self.readers, self.wait_strategy = tuple(readers), wait
        self._heads = np.array([reader.ring.control.ctypes.data + 8 * HEAD for reader in readers], np.int64)
        self._cursors = np.zeros(len(readers), np.int64)
        self._seats: list[tuple[Words, int]] = []
        self._semaphore: posix_ipc.Semaphore | None = None
        self.sleeps_count = 0
        if wait is Wait.PARK:
            assert semaphore is not None, "a parked reader sleeps on a semaphore"
            self._semaphore = posix_ipc.Semaphore(semaphore)
            for reader in readers:
                assert reader.place is not None, f"to park on ring {reader.ring.name} a reader needs a place in it"
                assert reader.ring.control.flags.writeable, f"to park on ring {reader.ring.name} it must be mapped writable"
                self._seats.append((reader.ring.control, reader.place))

    def wait(self, timeout_ns: int = PARK_NS_MAX) -> bool:
        """Wait until one of the rings has something behind its reader's cursor; False when nothing came.

        Returns within about `timeout_ns`, earlier after a post; a compiled spin inside it lasts less than 10 ms, so that signals are seen.
        """
        for number, reader in enumerate(self.readers):
            self._cursors[number] = reader.cursor
        if any_ahead(self._heads, self._cursors):
            return True
        if self.wait_strategy is Wait.PARK:
            return self._park(timeout_ns)
        return self._poll(timeout_ns)

    def _poll(self, timeout_ns: int) -> bool:
        deadline_ns = time.monotonic_ns() + timeout_ns
        yields = self.wait_strategy is Wait.YIELD
        spins = SPINS_YIELD if yields else SPINS_MAX
        while not poll_until(self._heads, self._cursors, spins):
            if time.monotonic_ns() >= deadline_ns:
                return False
            if yields:
                os.sched_yield()
        return True

    def _park(self, timeout_ns: int) -> bool:
        """Sleep once. A post without a record behind it ends the wait too: it may be a bell, for something that is no ring's head."""
        self._sleep(timeout_ns)
        return bool(any_ahead(self._heads, self._cursors))

    def _sleep(self, timeout_ns: int) -> None:
        """Take tickets, look once more, sleep until a post, perhaps one left from an earlier ticket, a signal, or the time-out."""
        assert self._semaphore is not None, "a parking waiter has its semaphore"
        for control, place in self._seats:
            take_ticket(control, place)
        try:
            if look_again(self._heads, self._cursors):
                return
            self.sleeps_count += 1
            self._semaphore.acquire(timeout_ns / 1e9)
        except posix_ipc.BusyError:
            return  # the whole time-out
        except posix_ipc.SignalError:
            return  # its handler has run; the caller's loop looks at its stop word
        finally:
            for control, place in self._seats:
                drop_ticket(control, place)

    def close(self) -> None:
        """Let go of the semaphore; the semaphore itself stays."""
        if self._semaphore is not None:
            self._semaphore.close()
            self._semaphore = None


class Waker:
    """The writer's side of one ring: posts the semaphores of readers that sleep. Call `wake` after each published batch.

    A compiled loop asks `ring_wake(control, posted)` itself and returns to Python to call `post` when the mask is not 0.
    """

    def __init__(self, ring: Ring, instance: str = "") -> None:
        self.ring, self.instance = ring, instance
        self.posted: Words = np.zeros(PLACES_MAX, np.int64)
        self._semaphores: dict[int, posix_ipc.Semaphore] = {}
        self.posts_count = 0

    def wake(self) -> int:
        """Post everyone who sleeps and has not been posted; how many."""
        mask = int(ring_wake(self.ring.control, self.posted))
        return self.post(mask) if mask else 0

    def post(self, mask: int) -> int:
        """Post the places in `mask` (bit n is place n); how many."""
        count = 0
        for place in range(PLACES_MAX):
            if mask >> place & 1:
                ticket = int(self.ring.control[PARKED + place])
                self._semaphore_of(place).release()
                self.posted[place] = ticket
                count += 1
        self.posts_count += count
        return count

    def _semaphore_of(self, place: int) -> posix_ipc.Semaphore:
        if place not in self._semaphores:
            number = self.ring.places[place].semaphore
            assert number is not None, f"ring {self.ring.name}: place {place} parks without a semaphore"
            self._semaphores[place] = posix_ipc.Semaphore(semaphore_name(number, self.instance))
        return self._semaphores[place]

    def close(self) -> None:
        """Let go of the semaphores."""
        for semaphore in self._semaphores.values():
            semaphore.close()
        self._semaphores.clear()


def post_all(count: int, instance: str = "") -> None:
    """Post the semaphores of workers 0 .. count - 1 that nobody has posted yet: the supervisor's tick."""
    for number in range(count):
        semaphore = posix_ipc.Semaphore(semaphore_name(number, instance))
        if semaphore.value == 0:
            semaphore.release()
        semaphore.close()
