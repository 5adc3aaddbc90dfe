"""Slot tables in one process: versions, index, ranges, refusals, and the instructions of the protocol on both processors."""

from __future__ import annotations

import inspect
import textwrap
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import int64

from pks.base.limits import HEARTBEAT_STALE_NS, SLOT_READ_NS_MAX
from pks.segments import slots as tables
from pks.segments.errors import LayoutUnknown, StaleHost, TableFull, UnstableSlot
from pks.segments.shm import Segment, retire
from pks.segments.slots import ABSENT, SlotTable, check_table_size, pack_key, table_bytes
from tests.unit.segments.cross import kernel_assembly

SLOT = np.dtype([("version", "<i8"), ("first", "<u4"), ("second", "<u4"), ("values", "<i8", (6,))])
RANGES, PER_RANGE = 3, 10
ROWS = int64[:, ::1]
WORDS = int64[::1]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile before any heartbeat is set: the first calls take longer than a heartbeat lasts."""
    slots, header, row = np.zeros((1, 24), np.int64), np.zeros(512, np.int64), np.zeros(8, np.int64)
    for table, head in ((slots, header), (_frozen(slots), _frozen(header))):
        tables.slot_read_live(head, table, 0, row, 0, 1)
        tables.slots_snapshot_live(head, table, np.zeros(1, np.int64), np.zeros((1, 8), np.int64), np.zeros(1, np.int64), 0, 1)


def _frozen(words):
    copy = words.copy()
    copy.flags.writeable = False
    return copy


@pytest.fixture
def table(make_segment) -> SlotTable:
    segment = make_segment(table_bytes(RANGES, PER_RANGE, SLOT.itemsize), counts=(RANGES, PER_RANGE))
    made = SlotTable(segment, "scratch", SLOT, RANGES, PER_RANGE)
    segment.beat()
    return made


def record(first: int, second: int, value: int = 0) -> np.void:
    made = np.zeros(1, SLOT)
    made["first"], made["second"], made["values"] = first, second, value + np.arange(6)
    return made[0]


def test_a_key_has_one_slot_and_its_versions_grow(table) -> None:
    row = table.append(1, (7, 9), record(7, 9, 100))
    assert row == PER_RANGE
    assert table.find((7, 9)) == table.find((7, 9), 1) == row
    assert table.find((7, 9), 0) is None
    assert table.find((9, 7)) is None
    for version in range(2, 9):
        assert table.write(row, record(7, 9, version * 100)) == version
        found = table.read(row)
        assert (found["version"], found["first"], found["values"].tolist()) == (version, 7, list(range(version * 100, version * 100 + 6)))
    assert table.count(1) == 1
    assert table.rows().tolist() == [row]


def test_a_slot_never_written_is_version_zero(table) -> None:
    assert table.read(3).tobytes() == np.zeros(1, SLOT).tobytes()
    assert tables.slot_version(table.slots, 3) == 0


def test_a_read_only_reader_sees_the_same(table) -> None:
    row = table.append(0, (1, 2), record(1, 2, 5))
    segment = Segment.open(table.segment.name)
    check_table_size(segment.name, segment.counts, RANGES, PER_RANGE)
    with pytest.raises(LayoutUnknown):
        check_table_size(segment.name, segment.counts, RANGES, PER_RANGE + 1)
    reader = SlotTable(segment, "scratch", SLOT, RANGES, PER_RANGE)
    assert reader.find((1, 2)) == row
    assert reader.read(row).tobytes() == table.read(row).tobytes()
    handle = reader.handle(row)
    assert handle.refresh() == 1
    assert handle.record["values"].tolist() == [5, 6, 7, 8, 9, 10]
    table.write(row, record(1, 2, 50))
    assert (handle.refresh(), handle.record["values"][0], handle.record["version"]) == (2, 50, 2)


def test_the_snapshot_holds_every_key(table) -> None:
    for number in range(PER_RANGE):
        for range_index in range(RANGES):
            table.append(range_index, (range_index, number), record(range_index, number, number))
    taken = table.snapshot()
    assert sorted(zip(taken["first"].tolist(), taken["second"].tolist(), strict=True)) == [
        (range_index, number) for range_index in range(RANGES) for number in range(PER_RANGE)
    ]
    assert table.snapshot([4, 2])["values"][:, 0].tolist() == [4, 2]
    assert len(table.snapshot([])) == 0
    with pytest.raises(AssertionError):
        table.snapshot([RANGES * PER_RANGE])


def test_a_full_range_is_named_and_the_others_go_on(table) -> None:
    for number in range(PER_RANGE):
        table.append(0, (1, number), record(1, number))
    with pytest.raises(TableFull) as caught:
        table.append(0, (2, 0), record(2, 0))
    assert (caught.value.range_index, caught.value.slots) == (0, PER_RANGE)
    assert table.find((2, 0)) is None
    assert table.append(1, (2, 0), record(2, 0)) == PER_RANGE
    with pytest.raises(AssertionError):
        table.append(1, (2, 0), record(2, 0))


def test_a_writer_that_died_between_index_and_count(table) -> None:
    row = table.append(2, (5, 5), record(5, 5))
    table.counts[2, 0] = 0
    assert table.take_range(2) == 1
    assert table.append(2, (5, 6), record(5, 6)) == row + 1
    assert table.take_range(0) == 0


def test_a_writer_that_died_in_mid_write_leaves_the_last_version(table) -> None:
    row = table.append(0, (5, 5), record(5, 5, 10))
    table.slots[row, tables.VERSION_WORDS : tables.VERSION_WORDS + table.words] = -1  # version 2 would lie there
    assert table.read(row)["values"][0] == 10


def test_stale_hosts_are_refused_by_every_read(table) -> None:
    row = table.append(0, (5, 5), record(5, 5))
    handle = table.handle(row)
    table.segment.beat(time.monotonic_ns() - HEARTBEAT_STALE_NS - 10**6)
    for read in (lambda: table.read(row), handle.refresh, table.snapshot):
        with pytest.raises(StaleHost, match="heartbeat"):
            read()
    table.segment.beat()
    table.read(row)
    retire(table.segment.name)
    for read in (lambda: table.read(row), handle.refresh, table.snapshot):
        with pytest.raises(StaleHost, match="CLOSED"):
            read()


def test_a_slot_that_never_holds_still_is_a_named_error(table, monkeypatch) -> None:
    row = table.append(0, (5, 5), record(5, 5))
    monkeypatch.setattr(tables, "slot_read_live", lambda *arguments: tables.UNSTABLE)
    started = time.monotonic_ns()
    with pytest.raises(UnstableSlot) as caught:
        table.read(row)
    assert SLOT_READ_NS_MAX < caught.value.waited_ns <= time.monotonic_ns() - started
    with pytest.raises(UnstableSlot):
        table.handle(row).refresh()


def test_no_tries_means_unstable(table) -> None:
    target, versions = np.zeros((2, table.words), np.int64), np.zeros(2, np.int64)
    assert tables.slot_read(table.slots, 0, target[0], 0) == tables.UNSTABLE
    assert tables.slots_snapshot(table.slots, np.arange(2), target, versions, 0) == 2
    assert versions.tolist() == [tables.UNSTABLE] * 2


def test_batch_find(table) -> None:
    keys = [(1, 1), (1, 2), (2, 1)]
    for number, key in enumerate(keys):
        table.append(number, key, record(*key))
    packed = np.array([pack_key(*key) for key in [*keys, (3, 3)]])
    rows = np.zeros(4, np.int64)
    assert tables.slots_find(table.indexes, packed, rows) == 3
    assert rows.tolist() == [0, PER_RANGE, 2 * PER_RANGE, ABSENT]


IDS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(IDS, IDS), unique=True, max_size=64), st.tuples(IDS, IDS))
def test_the_index_against_a_dictionary(keys, other) -> None:
    slots, indexes, counts = np.zeros((64, 24), np.int64), np.zeros((1, 128, 2), np.int64), np.zeros((1, 16), np.int64)
    rows = {}
    for key in keys:
        rows[key] = tables.slot_append(slots, indexes, counts, 0, pack_key(*key), np.zeros(8, np.int64))
    for key in [*keys, other, (other[1], other[0])]:
        assert tables.slot_find(indexes[0], pack_key(*key)) == rows.get(key, ABSENT)
    assert counts[0, 0] == len(keys)


def test_a_full_index_of_the_wrong_keys_ends() -> None:
    index = np.ones((8, 2), np.int64)
    assert tables.slot_find(index, pack_key(5, 5)) == ABSENT


def without(function, line: str):
    """The Python function of a kernel without one line: what a careless edit would leave."""
    source = textwrap.dedent(inspect.getsource(function.py_func)).replace("@njit(cache=True)\n", "")
    kept = "".join(text for text in source.splitlines(keepends=True) if not text.strip().startswith(line))
    assert kept != source, f"{line} is not in {function}"
    scope = dict(vars(tables))
    exec(compile(kept, "<variant>", "exec"), scope)
    return scope[function.py_func.__name__]


def stores_before(body: list[str], first: str) -> bool:
    """True when a vector or word store precedes the first instruction that starts with `first`."""
    place = next((place for place, line in enumerate(body) if line.startswith(first)), len(body))
    return any(line.startswith(("stp", "str", "stur", "stnp")) and "sp" not in line for line in body[:place])


def test_the_writers_fences_on_aarch64() -> None:
    signature = (ROWS, int64, WORDS)
    body = kernel_assembly(tables.slot_write.py_func, signature, "aarch64")
    barriers = [line for line in body if line.startswith(("dmb", "stlr"))]
    assert [line.split()[0] for line in barriers] == ["dmb", "stlr"], body
    assert not stores_before(body, "dmb")
    careless = kernel_assembly(without(tables.slot_write, "fence_release()"), signature, "aarch64")
    assert not [line for line in careless if line.startswith("dmb")], "without the fence nothing holds the copy back"


def test_the_readers_fences_on_aarch64() -> None:
    signature = (ROWS, int64, WORDS, int64)
    body = kernel_assembly(tables.slot_read.py_func, signature, "aarch64")
    order = [line.split()[0] for line in body if line.startswith(("ldar", "ldapr", "dmb"))]
    assert order[:3] in (["ldar", "dmb", "ldar"], ["ldapr", "dmb", "ldapr"]), body
    assert {line for line in body if line.startswith("dmb")} == {"dmb\tishld"}  # the compiler peels the loop
    careless = kernel_assembly(without(tables.slot_read, "fence_acquire()"), signature, "aarch64")
    assert not [line for line in careless if line.startswith("dmb")]


def test_no_fence_costs_an_instruction_on_x86() -> None:
    for kernel, signature in ((tables.slot_write, (ROWS, int64, WORDS)), (tables.slot_read, (ROWS, int64, WORDS, int64))):
        body = kernel_assembly(kernel.py_func, signature, "x86_64")
        assert not [line for line in body if line.startswith(("mfence", "lock", "xchg", "call"))]
