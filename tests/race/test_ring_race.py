"""Two processes on a ring: order, content, gates, laps, the file behind it, and no lost wake-up."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numba import njit

from pks.base.host import Wait
from pks.segments import ring as rings
from pks.segments.atomics import pause
from pks.segments.ring import (
    LAPPED,
    Place,
    Ring,
    RingReader,
    RingWriter,
    ring_bytes,
    ring_gate,
    ring_oldest,
    ring_publish,
    ring_read,
    ring_read_free,
)
from pks.segments.stream import FILE_PLACE, StreamLayout, StreamReader, StreamWriter
from pks.segments.wait import Waiter, Waker, make_semaphores, remove_semaphores, semaphore_name
from tests.race.processes import CORES, child, wait_for
from tests.race.variants import variant

RECORD = np.dtype([("sequence", "<i8"), ("values", "<i8", (15,))])
STEP = 1_000_003
BATCH = 16


@njit
def is_right(row, sequence):
    """True when a record is that of `sequence`."""
    for word in range(len(row)):
        if row[word] != sequence + word * STEP:
            return False
    return True


@njit
def produce(control, records, first, count, batch):
    """Publish the records first .. first + count - 1 in batches, waiting when gated; rounds in which the ring was full."""
    source = np.empty((len(batch), records.shape[1]), np.int64)
    full, number, last = 0, first, first + count
    while number < last:
        size = min(len(batch), last - number)
        for offset in range(size):
            for word in range(records.shape[1]):
                source[offset, word] = number + offset + word * STEP
        done = 0
        while done < size:
            taken = ring_publish(control, records, source, done, size - done)
            if taken == 0:
                full += 1
                pause()
            done += taken
        number += size
    return full


@njit
def consume(control, records, place, cursor, last, target):
    """Read up to `last` through the gate of `place`; records that were not the next one."""
    wrong = 0
    while cursor < last:
        count = ring_read(control, records, cursor, target, len(target))
        if count <= 0:
            wrong += count == LAPPED
            pause()
            continue
        for offset in range(count):
            if not is_right(target[offset], cursor + 1 + offset):
                wrong += 1
        cursor += count
        ring_gate(control, place, cursor)
    return wrong


def make_consuming(read):
    """A free reader with `read` that skips after a lap: (read, lost, laps, wrong)."""

    @njit
    def loop(control, records, cursor, last, target):
        got = lost = laps = wrong = 0
        while cursor < last:
            count = read(control, records, cursor, target, len(target))
            if count == LAPPED:
                oldest = ring_oldest(control)
                laps += 1
                lost += oldest - cursor
                cursor = oldest
                continue
            if count == 0:
                pause()
            for offset in range(count):
                if not is_right(target[offset], cursor + 1 + offset):
                    wrong += 1
            got += count
            cursor += count
        return got, lost, laps, wrong

    return loop


consume_free = make_consuming(ring_read_free)
consume_free_unchecked = make_consuming(
    variant(ring_read_free, rings, "return count if ring_kept(control, cursor) else LAPPED", "return count")
)


def make_ring(segment, capacity: int, places: tuple[Place, ...] = ()) -> Ring:
    return Ring.format(segment.words(0, ring_bytes(capacity, RECORD.itemsize)), "race", RECORD, capacity, places=places)


@pytest.fixture
def room(make_segment):
    """A segment large enough for any ring of these tests, with the kernels compiled."""
    segment = make_segment(ring_bytes(1024, RECORD.itemsize))
    warm = make_ring(make_segment(ring_bytes(4, RECORD.itemsize), "pks-warm-v1"), 4, (Place("a", gating=True),))
    target = np.zeros((4, 16), np.int64)
    produce(warm.control, warm.records, 0, 2, np.zeros(1, np.int64))
    assert consume(warm.control, warm.records, 0, -1, 1, target) == 0
    for kernel in (consume_free, consume_free_unchecked):
        assert kernel(warm.control, warm.records, -1, 1, target) == (2, 0, 0, 0)
    return segment


@pytest.mark.parametrize("capacity", [16, 1024])
def test_two_million_records_in_order(room, capacity) -> None:
    total = 2_000_000
    ring = make_ring(room, capacity, (Place("a", gating=True),))
    with child(lambda: _assert_none(produce(ring.control, ring.records, 0, total, np.zeros(BATCH, np.int64)) < 0)):
        wrong = consume(ring.control, ring.records, 0, -1, total - 1, np.zeros((64, 16), np.int64))
    assert wrong == 0
    assert (ring.head, ring.cursor("a")) == (total - 1, total - 1)


def _assert_none(found: bool) -> None:
    assert not found


def test_two_gates_and_neither_is_overrun(room) -> None:
    total = 10_000  # three processes may have to share two cores
    ring = make_ring(room, 64, (Place("quick", gating=True), Place("slow", gating=True)))

    def slow() -> None:
        assert consume(ring.control, ring.records, 1, -1, total - 1, np.zeros((5, 16), np.int64)) == 0

    def quick() -> None:
        assert consume(ring.control, ring.records, 0, -1, total - 1, np.zeros((64, 16), np.int64)) == 0

    with child(slow), child(quick):
        full = produce(ring.control, ring.records, 0, total, np.zeros(BATCH, np.int64))
    assert full > 0


def test_a_free_reader_gets_right_records_or_counts_them_lost(room) -> None:
    total = 2_000_000
    ring = make_ring(room, 256)
    with child(lambda: _assert_none(produce(ring.control, ring.records, 0, total, np.zeros(BATCH, np.int64)) != 0)):
        got, lost, _laps, wrong = consume_free(ring.control, ring.records, -1, total - 1, np.zeros((200, 16), np.int64))
    assert wrong == 0
    assert got + lost == total


@pytest.mark.skipif(len(CORES) < 2, reason="two processes must run at the same moment")
def test_a_free_reader_that_does_not_look_again_is_caught(room) -> None:
    deadline, wrong = time.monotonic() + 20, 0
    while wrong == 0 and time.monotonic() < deadline:
        ring = make_ring(room, 256)
        with child(lambda ring=ring: _assert_none(produce(ring.control, ring.records, 0, 1_000_000, np.zeros(BATCH, np.int64)) != 0)):
            wrong = consume_free_unchecked(ring.control, ring.records, -1, 999_999, np.zeros((200, 16), np.int64))[3]
    assert wrong > 0


def test_a_late_reader_of_a_stream_misses_nothing(room, tmp_path) -> None:
    total, layout = 300_000, StreamLayout("race", 1, 5, RECORD)
    ring = make_ring(room, 1024, (FILE_PLACE,))
    writer = StreamWriter(ring, tmp_path / "race.stream", layout)
    batch = np.zeros(256, RECORD)

    def write() -> None:
        number = 0
        while number < total:
            batch["sequence"] = np.arange(number, number + 256)
            batch["values"] = batch["sequence"][:, None] + np.arange(1, 16) * STEP
            number += writer.publish(batch[: total - number])
            if writer.unflushed > 512:
                writer.flush()
        writer.flush()

    reader = StreamReader(ring, tmp_path / "race.stream", layout, -1)
    deadline = time.monotonic() + 20
    with child(write):
        wait_for(ring.control, rings.HEAD, 4096)
        while reader.cursor < total - 1:
            assert time.monotonic() < deadline
            first = reader.cursor + 1
            got = reader.read(700).view(np.int64).reshape(-1, 16)
            assert (got == np.arange(first, first + len(got))[:, None] + np.arange(16) * STEP).all()
    assert reader.from_file_count > 0
    reader.close()
    writer.close()


def test_joining_while_the_writer_runs(room) -> None:
    ring, stop = make_ring(room, 64, (Place("late"),)), room.body[-1:]

    def write() -> None:
        number = 0
        while not stop[0]:
            produce(ring.control, ring.records, number, 10_000, np.zeros(BATCH, np.int64))
            number += 10_000

    deadline = time.monotonic() + 20
    with child(write):
        for _ in range(200):
            reader = RingReader(ring, "late")
            cursor = reader.join()
            assert consume(ring.control, ring.records, 0, cursor, cursor + 500, np.zeros((7, 16), np.int64)) == 0
            reader.leave()
            assert time.monotonic() < deadline
        stop[0] = 1


@pytest.mark.parametrize("wait", [Wait.PARK, Wait.YIELD, Wait.SPIN])
def test_no_wake_up_is_lost(make_segment, instance, wait) -> None:
    """A ball goes to and fro; every wait has ten seconds, so a lost wake-up is seen as a wait that takes them."""
    rounds, seconds = 3_000 if wait is Wait.PARK else 500, 10
    make_semaphores(2, instance)
    segments = [make_segment(ring_bytes(16, RECORD.itemsize), f"pks-ball{side}-v1") for side in range(2)]
    there, back = (make_ring(segment, 16, (Place("a", gating=True, semaphore=side),)) for side, segment in enumerate(segments))
    ball = np.zeros(1, RECORD)

    def play(incoming: Ring, outgoing: Ring, side: int, serves: bool) -> None:
        reader, writer = RingReader(incoming, "a"), RingWriter(outgoing)
        waiter, waker = Waiter([reader], wait, semaphore_name(side, instance)), Waker(outgoing, instance)
        for _ in range(rounds):
            if serves:
                writer.publish_all(ball)
                waker.wake()
            started = time.monotonic()
            while not waiter.wait(seconds * 1_000_000_000):  # a post of an earlier ticket ends it too
                assert time.monotonic() - started < seconds / 2, "the ball did not come back"
            assert time.monotonic() - started < seconds / 2, "found by the time-out only"
            reader.read(1)
            reader.finish()
            if not serves:
                writer.publish_all(ball)
                waker.wake()
        waiter.close()
        waker.close()

    try:
        with child(lambda: play(there, back, 0, False)):
            play(back, there, 1, True)
    finally:
        remove_semaphores(2, instance)
    assert there.head == back.head == rounds - 1
