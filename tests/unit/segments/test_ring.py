"""Rings in one process: sequence, gates, laps, and foreign words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pks.segments import ring as rings
from pks.segments.errors import LayoutUnknown, PlaceUnknown, RingFull, RingLapped
from pks.segments.ring import LAPPED, PLACES_MAX, Place, Ring, RingReader, RingWriter, ring_bytes
from pks.segments.shm import Segment

RECORD = np.dtype([("sequence", "<i8"), ("values", "<i8", (3,))])


def make_ring(capacity: int = 16, *, start: int = -1, places: tuple[Place, ...] = ()) -> Ring:
    area = np.zeros(ring_bytes(capacity, RECORD.itemsize) // 8, np.int64)
    return Ring.format(area, "scratch", RECORD, capacity, start=start, places=places)


def records(first: int, count: int) -> np.ndarray:
    made = np.zeros(count, RECORD)
    made["sequence"] = np.arange(first, first + count)
    made["values"] = made["sequence"][:, None] * 10 + np.arange(3)
    return made


def test_what_is_published_is_read_in_order_over_the_wrap() -> None:
    ring = make_ring(places=(Place("a", gating=True),))
    writer, reader = RingWriter(ring), RingReader(ring, "a")
    for first in range(0, 700, 7):
        assert writer.publish(records(first, 7)) == 7
        got = reader.read(100)
        assert got.tobytes() == records(first, 7).tobytes()
        reader.finish()
    assert (ring.head, ring.cursor("a")) == (699, 699)


@pytest.mark.parametrize("start", [-1, 0, 41, 1 << 40])
def test_the_sequence_begins_where_it_is_told(start) -> None:
    ring = make_ring(start=start, places=(Place("a", gating=True),))
    assert RingWriter(ring).publish_all(records(start + 1, 5)) == start + 5
    assert RingReader(ring, "a").read(9)["sequence"].tolist() == list(range(start + 1, start + 6))
    assert RingReader(ring, position=start).read(9)["sequence"].tolist() == list(range(start + 1, start + 6))
    assert len(RingReader(ring).read(9)) == 0


def test_a_gating_reader_holds_the_writer_back() -> None:
    ring = make_ring(places=(Place("slow", gating=True), Place("shown")))
    writer, reader = RingWriter(ring), RingReader(ring, "slow")
    assert writer.publish(records(0, 20)) == 16
    assert writer.publish(records(16, 4)) == 0
    with pytest.raises(RingFull) as caught:
        writer.publish_all(records(16, 4))
    assert (caught.value.free, caught.value.requested, caught.value.slowest) == (0, 4, "slow")
    reader.read(3)
    assert writer.free() == 0  # read, but not finished
    reader.finish()
    assert writer.free() == 3
    assert writer.publish_all(records(16, 3)) == 18
    assert reader.read(100)["sequence"].tolist() == list(range(3, 19))


def test_all_or_nothing() -> None:
    ring = make_ring(places=(Place("slow", gating=True),))
    writer = RingWriter(ring)
    writer.publish(records(0, 14))
    with pytest.raises(RingFull):
        writer.publish_all(records(14, 3))
    assert ring.head == 13
    with pytest.raises(RingFull):
        RingWriter(make_ring()).publish_all(records(0, 17))


def test_a_reader_goes_on_where_its_place_stands() -> None:
    ring = make_ring(places=(Place("a", gating=True),))
    RingWriter(ring).publish(records(0, 9))
    first = RingReader(ring, "a")
    first.read(6)
    first.finish(3)
    assert RingReader(ring, "a").read(1)["sequence"].tolist() == [4]
    with pytest.raises(AssertionError):
        first.finish(7)


def test_a_free_reader_is_lapped_and_says_where_to_go_on() -> None:
    ring = make_ring()
    writer, reader = RingWriter(ring), RingReader(ring, position=-1)
    for first in range(0, 40, 5):
        writer.publish(records(first, 5))
    with pytest.raises(RingLapped) as caught:
        reader.read(4)
    assert caught.value.continue_at == ring.oldest >= 23
    assert reader.skip() == ring.oldest + 1
    assert (reader.laps_count, reader.lost_count) == (1, ring.oldest + 1)
    assert reader.read(100).tobytes() == records(ring.oldest + 1, 39 - ring.oldest).tobytes()
    assert reader.skip() == 0


def test_a_free_reader_needs_no_right_to_write(make_segment) -> None:
    size = ring_bytes(16, RECORD.itemsize)
    segment = make_segment(size)
    writer = RingWriter(Ring.format(segment.words(0, size), "scratch", RECORD, 16))
    reader = RingReader(Ring.attach(Segment.open(segment.name).words(0, size), "scratch", RECORD), position=-1)
    for first in range(0, 40, 10):
        writer.publish(records(first, 10))
        assert reader.read(20).tobytes() == records(first, 10).tobytes()
    writer.publish(records(40, 10))
    writer.publish(records(50, 10))
    with pytest.raises(RingLapped):
        reader.read(20)


def test_a_copy_that_the_writer_overtook_is_dropped() -> None:
    ring = make_ring()
    writer = RingWriter(ring)
    writer.publish(records(0, 16))
    assert rings.ring_kept(ring.control, -1)
    assert rings.ring_claim(ring.control, 1) == 1  # under the writer's pen, not published
    assert not rings.ring_kept(ring.control, -1)
    assert ring.head == 15


def test_joining_and_leaving() -> None:
    ring = make_ring(places=(Place("late"),))
    writer, reader = RingWriter(ring), RingReader(ring, "late")
    assert not reader.gating
    writer.publish(records(0, 10))
    writer.publish(records(10, 10))
    assert reader.join() == 19
    assert writer.publish(records(20, 30)) == 16
    assert writer.publish(records(36, 1)) == 0
    reader.leave()
    assert writer.publish(records(36, 8)) == 8
    assert ring.places == [Place("late")]


def test_places_have_names() -> None:
    ring = make_ring(places=(Place("a", gating=True, semaphore=4), Place("b")))
    assert ring.places == [Place("a", gating=True, semaphore=4), Place("b")]
    with pytest.raises(PlaceUnknown, match="a, b"):
        RingReader(ring, "c")


def test_attach_compares() -> None:
    ring = make_ring(32)
    area = np.concatenate([ring.control, ring.records.reshape(-1)])
    assert Ring.attach(area, "again", RECORD).capacity == 32
    with pytest.raises(LayoutUnknown, match="words"):
        Ring.attach(area, "again", np.dtype([("a", "<i8")]))
    with pytest.raises(LayoutUnknown, match="capacity"):
        Ring.attach(area[:-4], "again", RECORD)


@pytest.mark.parametrize("capacity", [0, 1, 3, 24])
def test_capacity_is_a_power_of_two(capacity) -> None:
    with pytest.raises(AssertionError):
        make_ring(capacity)


def test_other_records_are_refused() -> None:
    with pytest.raises(AssertionError):
        RingWriter(make_ring()).publish(np.zeros(1, np.dtype([("a", "<i8", (4,))])))


@pytest.mark.parametrize("head", [-(1 << 63), -5, 17, 1 << 40, (1 << 63) - 1])
def test_a_foreign_head_does_not_lead_out_of_the_arrays(head) -> None:
    ring = make_ring(places=(Place("a", gating=True),))
    ring.control[rings.HEAD] = head
    target = np.full((40, ring.words), -7, np.int64)
    for kernel in (rings.ring_read, rings.ring_read_free):
        count = kernel(ring.control, ring.records, -1, target, 40)
        assert LAPPED <= count <= 16
    assert (target[16:] == -7).all()


@pytest.mark.parametrize("cursor", [-(1 << 63), -(1 << 40), 1 << 40, (1 << 63) - 1])
def test_a_foreign_cursor_does_not_lead_out_of_the_arrays(cursor) -> None:
    ring = make_ring(places=(Place("a", gating=True),))
    writer = RingWriter(ring)
    writer.publish(records(0, 10))
    rings.ring_gate(ring.control, 0, cursor)
    assert 0 <= writer.publish(records(10, 100)) <= 16


class Model:
    """A ring as a list: what may be published, read and finished."""

    def __init__(self) -> None:
        self.head = self.finished = self.read = -1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["publish", "read", "finish"]), st.integers(0, 20)), max_size=80))
def test_against_a_list(steps) -> None:
    ring, model = make_ring(8, places=(Place("a", gating=True),)), Model()
    writer, reader = RingWriter(ring), RingReader(ring, "a")
    for step, size in steps:
        if step == "publish":
            taken = writer.publish(records(model.head + 1, size))
            assert taken == min(size, 8 - (model.head - model.finished))
            model.head += taken
        elif step == "read":
            got = reader.read(size)
            assert got.tobytes() == records(model.read + 1, min(size, model.head - model.read)).tobytes()
            model.read += len(got)
        else:
            reader.finish()
            model.finished = model.read
        assert (ring.head, reader.lag) == (model.head, model.head - model.read)


def test_the_number_of_places_is_bounded() -> None:
    make_ring(places=tuple(Place(f"p{number}") for number in range(PLACES_MAX)))
    with pytest.raises(AssertionError):
        make_ring(places=tuple(Place(f"p{number}") for number in range(PLACES_MAX + 1)))
