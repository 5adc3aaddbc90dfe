"""Metrics and worker rows: named cells, honest percentiles, one writer a row."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pks.layouts.segment import WORKER_STATE_MOVES, WORKER_WATCH, CellKind, WorkerState
from pks.segments import counters
from pks.segments.counters import BUCKETS, HISTOGRAMS_MAX, SCALARS_MAX, Control, bucket_bound, bucket_of, clip_text, control_bytes
from pks.segments.errors import CellsFull, StaleHost
from pks.segments.shm import Segment, retire, segment_name

OWNERS = 4


@pytest.fixture(scope="module")
def compiled() -> None:
    """The kernels of rows and metrics, compiled before a segment begins to grow old."""
    segment = Segment.create(
        segment_name("pks-warm-v1", f"warm{os.getpid()}"),
        layout_name="warm",
        layout_version=1,
        layout_hash=1,
        body_bytes=control_bytes(OWNERS),
    )
    segment.go_live()
    control = Control(segment, OWNERS)
    while not segment_is_read(control):
        segment.beat()
    segment.close()
    retire(segment.name)


def segment_is_read(control: Control) -> bool:
    """Whether writing and reading a row took no longer than a heartbeat may be old."""
    try:
        control.watch(1, name="warm", state=WorkerState.STARTING)
        control.report(1).write(pid=1)
        return len(control.workers()) == 1
    except StaleHost:
        return False


@pytest.fixture
def control(make_segment, compiled) -> Control:
    segment = make_segment(control_bytes(OWNERS))
    made = Control(segment, OWNERS)
    segment.beat()
    return made


def test_cells_by_name(control) -> None:
    fills = control.owner(2).counter("fills")
    fills.add(3)
    fills.add()
    control.owner(2).gauge("lag").set(-7)
    assert control.owner(2).counter("fills").place == fills.place
    control.owner(2).counter("fills").add(10)
    control.owner(0).counter("fills").add(1)
    assert [(cell.owner, cell.name, cell.kind, cell.value) for cell in control.read_cells()] == [
        (0, "fills", CellKind.COUNTER, 1),
        (2, "fills", CellKind.COUNTER, 14),
        (2, "lag", CellKind.GAUGE, -7),
    ]


def test_kinds_are_not_mixed(control) -> None:
    owner = control.owner(0)
    handle = owner.counter("a")
    for use in (lambda: owner.gauge("a"), lambda: handle.set(1), lambda: handle.record(1), lambda: owner.histogram("h").add(1)):
        with pytest.raises(AssertionError):
            use()


def test_room_for_metrics_is_bounded(control) -> None:
    owner = control.owner(1)
    for number in range(SCALARS_MAX):
        (owner.counter if number % 2 else owner.gauge)(f"scalar {number}")
    for number in range(HISTOGRAMS_MAX):
        owner.histogram(f"histogram {number}").record(1)
    assert len(control.read_cells()) == SCALARS_MAX + HISTOGRAMS_MAX
    with pytest.raises(CellsFull):
        owner.counter("one more")
    with pytest.raises(CellsFull):
        owner.histogram("one more")
    assert owner.counter("scalar 1").place != owner.gauge("scalar 0").place


def test_every_bucket_ends_where_the_next_begins() -> None:
    for bucket in range(BUCKETS - 1):
        assert bucket_of(bucket_bound(bucket)) == bucket
        assert bucket_of(bucket_bound(bucket) + 1) == bucket + 1
    assert bucket_of(-5) == 0
    assert bucket_of((1 << 63) - 1) == BUCKETS - 1
    assert bucket_bound(BUCKETS - 1) == (1 << 41) - 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=200), st.floats(0, 100))
def test_percentiles_against_sorting(values, percent) -> None:
    cells = np.zeros(counters.OWNER_WORDS, np.int64)
    handle = counters.OwnerCells(cells, "scratch").histogram("h")
    for value in values:
        handle.record(value)
    histogram = counters._read_histogram(cells, handle.place)
    (found,) = histogram.percentiles([percent])
    rank = max(1, int(-(-percent * len(values) // 100)))
    exact = sorted(values)[min(rank, len(values)) - 1]
    assert exact <= found <= exact + exact // 16
    assert (histogram.count, histogram.sum_ns, histogram.max_ns) == (len(values), sum(values), max(values))


def test_an_empty_histogram(control) -> None:
    control.owner(0).histogram("h")
    (cell,) = control.read_cells()
    assert cell.value.percentiles([50, 99.9]) == [0, 0]
    assert cell.value.mean_ns == 0.0


def test_recording_many_at_once(control) -> None:
    control.owner(0).histogram("h").record(1000, 64)
    (cell,) = control.read_cells()
    assert (cell.value.count, cell.value.sum_ns, cell.value.mean_ns) == (64, 64000, 1000.0)


def test_worker_rows(control) -> None:
    control.watch(1, name="ledger", pid=42, state=WorkerState.STARTING, core=-1)
    control.watch(1, state=WorkerState.READY, restarts_count=2)
    report = control.report(1)
    report.write(pid=os.getpid(), heartbeat_ns=123, cursor=99)
    report.write(lag=5, ready=1, last_error="größer " * 40)
    (worker,) = control.workers()
    assert (worker.owner, worker.name, worker.pid, worker.state, worker.restarts_count, worker.core) == (
        1,
        "ledger",
        42,
        WorkerState.READY,
        2,
        -1,
    )
    assert (worker.heartbeat_ns, worker.cursor, worker.lag, worker.ready) == (123, 99, 5, True)
    assert worker.last_error.startswith("größer größer")
    assert len(worker.last_error.encode()) <= 128
    report.write(last_error="")
    control.watch(1, last_error="killed by signal 9", exit_code=-9)
    (worker,) = control.workers()
    assert (worker.last_error, worker.exit_code) == ("killed by signal 9", -9)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(WorkerState, WorkerState)))
def test_every_move_of_a_worker(control, before, after) -> None:
    row = np.zeros(1, WORKER_WATCH)
    row["state"] = before
    control.watches.write(0, row[0])
    if after == before or after in WORKER_STATE_MOVES[before]:
        control.watch(0, state=after)
        assert control.workers()[0].state == after
    else:
        with pytest.raises(AssertionError, match=f"{before.name} -> {after.name}"):
            control.watch(0, state=after)
        assert control.workers()[0].state == before


def test_text_is_cut_at_a_character() -> None:
    assert clip_text("aé" * 100, 5).decode() == "aéa"
    assert clip_text("abc", 5) == b"abc"
