"""A writer at full speed and readers on another core: every slot read is whole, and the test can see one that is not."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
from numba import njit

from pks.segments import slots as tables
from pks.segments.atomics import load_relaxed
from pks.segments.shm import Segment
from pks.segments.slots import ABSENT, SlotTable, pack_key, slot_append, slot_find, slot_read, slot_write, slots_snapshot, table_bytes
from tests.race.processes import CORES, child, wait_for
from tests.race.variants import variant

SLOT = np.dtype([("version", "<i8"), ("number", "<i8"), ("values", "<i8", (30,))])
STEP = 1_000_003
CHUNK = 20_000
STOP, WRITTEN = 0, 16


@njit
def fill(row, number):
    """The invariant of a row: every word follows from `number`."""
    row[1] = number
    for word in range(2, len(row)):
        row[word] = number + word * STEP


@njit
def is_whole(row, version):
    """True when a copy is all of one version."""
    if row[0] != version:
        return False
    for word in range(2, len(row)):
        if row[word] != row[1] + word * STEP:
            return False
    return True


@njit
def write_many(slots, rows, first, count, source, control):
    """Write slots 0 .. rows - 1 in turn."""
    for number in range(first, first + count):
        fill(source, number)
        slot_write(slots, number % rows, source)
        if load_relaxed(control, STOP) != 0:
            return number + 1
    return first + count


def make_reading(read):
    """A loop of reads of one slot with `read`; (good, torn, unstable, versions that went back)."""

    @njit
    def loop(slots, row, target, count):
        good = torn = unstable = back = last = 0
        for _ in range(count):
            version = read(slots, row, target, 1000)
            if version < 0:
                unstable += 1
            elif version > 0:
                if is_whole(target, version):
                    good += 1
                else:
                    torn += 1
                back += version < last
                last = version
        return good, torn, unstable, back

    return loop


@njit
def snapshots(slots, rows, target, versions, count):
    """Torn rows over `count` snapshots."""
    torn = 0
    for _ in range(count):
        slots_snapshot(slots, rows, target, versions, 1000)
        for index in range(len(rows)):
            if versions[index] > 0 and not is_whole(target[index], versions[index]):
                torn += 1
    return torn


class Race:
    """A table, a control area, and the body of the writing process."""

    def __init__(self, segment: Segment, rows: int) -> None:
        self.table = SlotTable(segment, "race", SLOT, 1, 64, offset_bytes=4096)
        self.control, self.rows, self.segment = segment.words(0, 4096), rows, segment
        self.target, self.source = np.zeros(32, np.int64), np.zeros(32, np.int64)
        write_many(self.table.slots, 1, 1, 1, self.source, self.control)

    def write(self) -> None:
        number = 1
        while not self.control[STOP]:
            number = write_many(self.table.slots, self.rows, number, CHUNK, self.source, self.control)
            self.control[WRITTEN] = number
            self.segment.beat()


@pytest.fixture
def race(make_segment) -> Race:
    return Race(make_segment(4096 + table_bytes(1, 64, SLOT.itemsize)), 1)


read_slots = make_reading(slot_read)
read_slots_unchecked = make_reading(variant(slot_read, tables, "if load_acquire(slots, base) == before:", "if before >= 0:"))


def test_compiled_reads_are_whole(race) -> None:
    read_slots(race.table.slots, 0, race.target, 1)
    with child(race.write):
        wait_for(race.control, WRITTEN, 10 * CHUNK)
        good, torn, unstable, back = read_slots(race.table.slots, 0, race.target, 3_000_000)
        race.control[STOP] = 1
    assert (torn, back) == (0, 0)
    assert good + unstable == 3_000_000
    assert unstable < 3_000, "a read that met a new version 1000 times in a row says so; it must stay rare"
    assert race.control[WRITTEN] > 20 * CHUNK


@pytest.mark.skipif(len(CORES) < 2, reason="two processes must run at the same moment")
def test_a_reader_without_the_version_check_is_caught(race) -> None:
    read_slots_unchecked(race.table.slots, 0, race.target, 1)
    torn, deadline = 0, time.monotonic() + 20
    with child(race.write):
        wait_for(race.control, WRITTEN, 10 * CHUNK)
        while torn == 0 and time.monotonic() < deadline:
            torn += read_slots_unchecked(race.table.slots, 0, race.target, 1_000_000)[1]
        race.control[STOP] = 1
    assert torn > 0


def test_reads_from_python_are_whole(race) -> None:
    handle = race.table.handle(0)
    race.segment.beat()
    race.table.read(0)
    handle.refresh()
    with child(race.write):
        wait_for(race.control, WRITTEN, 10 * CHUNK)
        last = 0
        for _ in range(10_000):
            for record in (race.table.read(0), handle.record if handle.refresh() else None):
                assert record is not None
                assert record["version"] >= last
                last = int(record["version"])
                expected = int(record["number"]) + np.arange(2, 32) * STEP
                assert record["values"].tolist() == expected.tolist()
        race.control[STOP] = 1
    assert last > 1


def test_snapshots_are_whole_row_by_row(make_segment) -> None:
    race = Race(make_segment(4096 + table_bytes(1, 64, SLOT.itemsize)), 16)
    rows, target, versions = np.arange(16), np.zeros((16, 32), np.int64), np.zeros(16, np.int64)
    snapshots(race.table.slots, rows, target, versions, 1)
    with child(race.write):
        wait_for(race.control, WRITTEN, 10 * CHUNK)
        torn = snapshots(race.table.slots, rows, target, versions, 60_000)
        race.control[STOP] = 1
    assert torn == 0
    assert versions.min() > 0


def test_a_killed_writer_leaves_whole_slots_and_its_successor_goes_on(race) -> None:
    read_slots(race.table.slots, 0, race.target, 1)
    versions = [0]
    for _ in range(20):
        with child(race.write) as pid:
            before = int(race.table.slots[0, 0])
            deadline = time.monotonic() + 20
            while race.table.slots[0, 0] < before + CHUNK // 2 and time.monotonic() < deadline:
                pass
            os.kill(pid, signal.SIGKILL)
        good, torn, unstable, back = read_slots(race.table.slots, 0, race.target, 100)
        assert (good, torn, unstable, back) == (100, 0, 0, 0)
        versions.append(int(race.target[0]))
    assert versions == sorted(set(versions))


@njit
def append_many(slots, indexes, counts, count, row):
    for number in range(count):
        fill(row, number)
        slot_append(slots, indexes, counts, 0, pack_key(number, number + 1), row)


@njit
def find_all(slots, index, count, target):
    """Look for every key until it is there; how many rows were not the key's own."""
    wrong = 0
    for number in range(count):
        while True:
            row = slot_find(index, pack_key(number, number + 1))
            if row != ABSENT:
                break
        version = slot_read(slots, row, target, 1000)
        if version != 1 or target[1] != number or not is_whole(target, version):
            wrong += 1
    return wrong


def test_a_key_is_found_only_with_its_slot(make_segment) -> None:
    count = 20_000
    segment = make_segment(table_bytes(1, count, SLOT.itemsize))
    table = SlotTable(segment, "race", SLOT, 1, count)
    small = SlotTable(make_segment(table_bytes(1, 4, SLOT.itemsize), "pks-small-v1"), "small", SLOT, 1, 4)
    append_many(small.slots, small.indexes, small.counts, 2, np.zeros(32, np.int64))
    assert find_all(small.slots, small.indexes[0], 2, np.zeros(32, np.int64)) == 0
    with child(lambda: append_many(table.slots, table.indexes, table.counts, count, np.zeros(32, np.int64))):
        wrong = find_all(table.slots, table.indexes[0], count, np.zeros(32, np.int64))
    assert wrong == 0
    assert table.count(0) == count
