"""Waiting in one process: the choice, the bounds, tickets and posts. Two processes: tests/race."""

from __future__ import annotations

import time

import numpy as np
import posix_ipc
import pytest
from numba import int64
from numba.core import config

from pks.base.host import Wait
from pks.segments import wait as waits
from pks.segments.ring import PARKED, Place, Ring, RingReader, RingWriter, ring_bytes, ring_wake
from pks.segments.wait import Waiter, Waker, make_semaphores, post_all, remove_semaphores, semaphore_name
from tests.unit.segments.cross import kernel_assembly

RECORD = np.dtype([("sequence", "<i8")])


@pytest.fixture
def semaphores(instance):
    make_semaphores(2, instance)
    yield instance
    remove_semaphores(2, instance)
    remove_semaphores(2, instance)


def make_ring() -> Ring:
    area = np.zeros(ring_bytes(16, 8) // 8, np.int64)
    return Ring.format(area, "scratch", RECORD, 16, places=(Place("a", gating=True, semaphore=0), Place("b", semaphore=1), Place("c")))


@pytest.mark.parametrize("wait", [Wait.SPIN, Wait.YIELD, Wait.PARK])
def test_work_is_seen_and_nothing_times_out(semaphores, wait) -> None:
    ring = make_ring()
    reader = RingReader(ring, "a")
    waiter = Waiter([reader], wait, semaphore_name(0, semaphores))
    started = time.monotonic_ns()
    assert not waiter.wait(3_000_000)
    assert time.monotonic_ns() - started < 2_000_000_000
    RingWriter(ring).publish(np.zeros(1, RECORD))
    assert waiter.wait(3_000_000)
    reader.read(1)
    assert not waiter.wait(1_000_000)
    waiter.close()


def test_a_bell_ends_a_parked_wait(semaphores) -> None:
    waiter = Waiter([RingReader(make_ring(), "a")], Wait.PARK, semaphore_name(0, semaphores))
    post_all(1, semaphores)
    started = time.monotonic()
    assert not waiter.wait(60_000_000_000)
    assert time.monotonic() - started < 30, "it did not wait for the time-out"
    waiter.close()


def test_a_compiled_poll_is_short() -> None:
    ring = make_ring()
    heads, cursors = np.array([ring.control.ctypes.data]), np.array([-1])
    waits.poll_until(heads, cursors, 1)
    best = min(_timed(lambda: waits.poll_until(heads, cursors, 1 << 40)) for _ in range(5))
    assert best < 10_000_000
    assert waits.poll_until(heads, np.array([-2]), 0)


def _timed(call) -> int:
    started = time.monotonic_ns()
    assert not call()
    return time.monotonic_ns() - started


def test_a_ticket_is_posted_once(semaphores) -> None:
    ring = make_ring()
    waker = Waker(ring, semaphores)
    semaphore = posix_ipc.Semaphore(semaphore_name(0, semaphores))
    assert waker.wake() == 0
    waits.take_ticket(ring.control, 0)
    assert waker.wake() == 1
    assert waker.wake() == 0
    waits.drop_ticket(ring.control, 0)
    assert waker.wake() == 0
    waits.take_ticket(ring.control, 0)
    waits.take_ticket(ring.control, 1)
    assert waker.wake() == 2
    assert (semaphore.value, waker.posts_count) == (2, 3)
    waker.close()
    semaphore.close()


def test_tickets_grow_over_a_readers_lives() -> None:
    ring = make_ring()
    tickets = []
    for _ in range(3):
        tickets.append(waits.take_ticket(ring.control, 0))
        waits.drop_ticket(ring.control, 0)
    assert tickets == [1, 2, 3]
    tickets.append(waits.take_ticket(ring.control, 0))  # died asleep: not dropped
    assert waits.take_ticket(ring.control, 0) == 5
    assert ring.control[PARKED] == 5


def test_the_mask_names_places() -> None:
    ring = make_ring()
    posted = np.zeros(32, np.int64)
    waits.take_ticket(ring.control, 1)
    assert ring_wake(ring.control, posted) == 2
    posted[1] = 1
    assert ring_wake(ring.control, posted) == 0


def test_parking_needs_a_place_and_a_semaphore(semaphores) -> None:
    ring = make_ring()
    with pytest.raises(AssertionError, match="place"):
        Waiter([RingReader(ring)], Wait.PARK, semaphore_name(0, semaphores))
    with pytest.raises(AssertionError, match="semaphore"):
        Waiter([RingReader(ring, "a")], Wait.PARK)
    frozen = Ring("frozen", ring.control.copy(), ring.records, RECORD)
    frozen.control.flags.writeable = False
    with pytest.raises(AssertionError, match="writable"):
        Waiter([RingReader(frozen, "b")], Wait.PARK, semaphore_name(0, semaphores))
    waits.take_ticket(ring.control, 2)
    with pytest.raises(AssertionError, match="without a semaphore"):
        Waker(ring, semaphores).wake()


def test_the_supervisors_tick_wakes_everyone_once(semaphores) -> None:
    post_all(2, semaphores)
    post_all(2, semaphores)
    for number in range(2):
        semaphore = posix_ipc.Semaphore(semaphore_name(number, semaphores))
        assert semaphore.value == 1
        semaphore.close()


def test_a_reader_watches_several_rings(semaphores) -> None:
    first, second = make_ring(), make_ring()
    readers = [RingReader(first, "a"), RingReader(second, "a")]
    waiter = Waiter(readers, Wait.PARK, semaphore_name(0, semaphores))
    assert not waiter.wait(1_000_000)
    assert first.control[PARKED] == second.control[PARKED] == -1
    RingWriter(second).publish(np.zeros(1, RECORD))
    assert waiter.wait(1_000_000)
    assert waiter.sleeps_count == 1
    waiter.close()


@pytest.mark.skipif(bool(config.BOUNDSCHECK), reason="looks at what runs in production, whose callees have no bounds checks")
@pytest.mark.parametrize(("machine", "wanted"), [("x86_64", ("mfence", "lock")), ("aarch64", ("dmb",))])
@pytest.mark.parametrize(
    ("kernel", "signature"), [(ring_wake, (int64[::1], int64[::1])), (waits.look_again, (int64[::1], int64[::1]))], ids=["writer", "reader"]
)
def test_both_sides_of_a_park_order_their_store_before_their_load(kernel, signature, machine, wanted) -> None:
    body = kernel_assembly(kernel.py_func, signature, machine)
    fences = [line for line in body if line.startswith(wanted)]
    assert fences, body
    assert fences[0] in ("mfence", "dmb\tish") or "rsp" in fences[0]
