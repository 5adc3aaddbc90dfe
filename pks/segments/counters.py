"""The control segment: what each worker says of itself and what the supervisor says of it, counters, gauges and latency histograms.

Owns `/pks-control-v1`. Every cell has one writing process: an owner (a worker, by its number) writes its own cells and its own report, the
supervisor writes the watch rows. Anyone reads. Names are given at run time and stay; a restarted worker finds its cells by name and counts
on. May not judge what it shows (the supervisor does) or send it anywhere.

Histograms are log-linear: values below 16 ns exactly, then 16 buckets to each power of two up to 2**41 ns (36 minutes), so a percentile is
right within one sixteenth. Source: H. Zhang, G. Tene, HdrHistogram, "bucket and sub-bucket" layout.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pks.layouts.segment import CELL_NAME, WORKER_REPORT, WORKER_STATE_MOVES, WORKER_WATCH, CellKind, WorkerState
from pks.segments.atomics import WORD_BYTES, load_relaxed, read_word, store_relaxed, write_word
from pks.segments.errors import CellsFull
from pks.segments.shm import Segment
from pks.segments.slots import SlotTable, table_bytes

Words = NDArray[np.int64]

SCALARS_MAX = 96
"""Counters and gauges of one owner; the busiest worker today names some forty."""

HISTOGRAMS_MAX = 8
"""Histograms of one owner, 5 KB each."""

CELLS_MAX = SCALARS_MAX + HISTOGRAMS_MAX

SUB_BUCKETS = 16
BUCKETS = 608
_COUNT, _SUM, _MAX, _BUCKET = 0, 1, 2, 8
HISTOGRAM_WORDS = 624
assert _BUCKET + BUCKETS <= HISTOGRAM_WORDS, "the buckets end within the histogram"

_NAME_WORDS = CELL_NAME.itemsize // WORD_BYTES
_SCALARS = CELLS_MAX * _NAME_WORDS
_HISTOGRAMS = _SCALARS + SCALARS_MAX
OWNER_WORDS = _HISTOGRAMS + HISTOGRAMS_MAX * HISTOGRAM_WORDS
assert OWNER_WORDS % 16 == 0, "two owners never share a line"


# Recording, compiled.


@njit(cache=True)
def counter_add(cells, place, amount):
    """Add to a counter of this owner (cells: int64[OWNER_WORDS], place: a handle's)."""
    store_relaxed(cells, place, load_relaxed(cells, place) + amount)


@njit(cache=True)
def gauge_set(cells, place, value):
    """Set a gauge of this owner."""
    store_relaxed(cells, place, value)


@njit(cache=True)
def bucket_of(value):
    """Bucket of a value in ns; negative counts as 0, too large as the last."""
    if value < SUB_BUCKETS:
        return max(value, 0)
    power, rest = 0, value
    for step in (32, 16, 8, 4, 2, 1):
        if rest >> step:
            power += step
            rest >>= step
    return min(((power - 3) << 4) + ((value >> (power - 4)) & (SUB_BUCKETS - 1)), BUCKETS - 1)


@njit(cache=True)
def histogram_record(cells, place, value_ns, times):
    """Count `value_ns` `times` times in a histogram of this owner (place: a handle's)."""
    bucket = place + _BUCKET + bucket_of(value_ns)
    store_relaxed(cells, bucket, load_relaxed(cells, bucket) + times)
    store_relaxed(cells, place + _COUNT, load_relaxed(cells, place + _COUNT) + times)
    store_relaxed(cells, place + _SUM, load_relaxed(cells, place + _SUM) + value_ns * times)
    if value_ns > load_relaxed(cells, place + _MAX):
        store_relaxed(cells, place + _MAX, value_ns)


def bucket_bound(bucket: int) -> int:
    """Largest value in ns that falls into `bucket` (the last takes everything larger, too)."""
    if bucket < SUB_BUCKETS:
        return bucket
    shift = (bucket >> 4) - 1
    return ((SUB_BUCKETS + (bucket & (SUB_BUCKETS - 1)) + 1) << shift) - 1


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram as it was read: counts per bucket (int64[608]), sum and largest value in ns."""

    buckets: Words
    sum_ns: int
    max_ns: int

    @property
    def count(self) -> int:
        """Values recorded."""
        return int(self.buckets.sum())

    @property
    def mean_ns(self) -> float:
        """Mean, 0.0 when empty."""
        return self.sum_ns / self.count if self.count else 0.0

    def percentiles(self, wanted: Iterable[float]) -> list[int]:
        """Values in ns that `wanted` per cent of the records do not exceed, each at most one sixteenth too high; 0 when empty."""
        running = np.cumsum(self.buckets)
        total = int(running[-1])
        if total == 0:
            return [0 for _ in wanted]
        places = [int(np.searchsorted(running, max(1, -(-percent * total // 100)))) for percent in wanted]
        return [min(bucket_bound(place), self.max_ns) for place in places]


@dataclass(frozen=True, slots=True)
class Cell:
    """A metric as it was read: its owner's number and name, kind, and value (a Histogram for that kind)."""

    owner: int
    name: str
    kind: CellKind
    value: int | Histogram


@dataclass(frozen=True, slots=True, eq=False)
class Handle:
    """Where a metric of this owner is, for Python and for kernels (`cells`, `place`)."""

    cells: Words
    place: int
    kind: CellKind

    def add(self, amount: int = 1) -> None:
        """Count."""
        assert self.kind == CellKind.COUNTER, "only a counter adds"
        counter_add(self.cells, self.place, amount)

    def set(self, value: int) -> None:
        """Set a gauge."""
        assert self.kind == CellKind.GAUGE, "only a gauge is set"
        gauge_set(self.cells, self.place, value)

    def value(self) -> int:
        """A counter's or gauge's value now; its owner may have set it in an earlier life."""
        assert self.kind != CellKind.HISTOGRAM, "a histogram has no one value"
        return int(self.cells[self.place])

    def record(self, value_ns: int, times: int = 1) -> None:
        """Record a duration."""
        assert self.kind == CellKind.HISTOGRAM, "only a histogram records"
        histogram_record(self.cells, self.place, value_ns, times)


class OwnerCells:
    """The metrics of one owner, for its own process."""

    def __init__(self, cells: Words, owner: str) -> None:
        self.cells, self.owner = cells, owner
        self._names = cells[:_SCALARS].view(CELL_NAME)

    def counter(self, name: str) -> Handle:
        """The counter `name`, made at the first call in the segment's life. Raises CellsFull."""
        return self._handle(name, CellKind.COUNTER)

    def gauge(self, name: str) -> Handle:
        """The gauge `name`. Raises CellsFull."""
        return self._handle(name, CellKind.GAUGE)

    def histogram(self, name: str) -> Handle:
        """The histogram `name`. Raises CellsFull."""
        return self._handle(name, CellKind.HISTOGRAM)

    def _handle(self, name: str, kind: CellKind) -> Handle:
        encoded = name.encode("ascii")
        assert 0 < len(encoded) <= 48, f"{name!r}: a metric's name has 1 to 48 characters"
        large = kind == CellKind.HISTOGRAM
        taken = 0
        for entry in range(CELLS_MAX):
            found = int(self._names[entry]["kind"])
            if found == CellKind.UNUSED:
                break
            if self._names[entry]["name"] == encoded:
                assert found == kind, f"{name!r} is a {CellKind(found).name} already"
                return Handle(self.cells, int(self._names[entry]["place"]), kind)
            taken += (found == CellKind.HISTOGRAM) == large
        room = HISTOGRAMS_MAX if large else SCALARS_MAX
        if taken == room:
            raise CellsFull(self.owner, kind.name.lower(), room)
        place = _HISTOGRAMS + taken * HISTOGRAM_WORDS if large else _SCALARS + taken
        self._names[entry]["name"], self._names[entry]["place"] = encoded, place
        write_word(self.cells, _kind_word(entry), int(kind))  # ORDER cell-name: pairs with read_cells' load of the kind
        return Handle(self.cells, place, kind)


def _kind_word(entry: int) -> int:
    fields = CELL_NAME.fields
    assert fields is not None
    return entry * _NAME_WORDS + int(fields["kind"][1]) // WORD_BYTES


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One worker as supervisor and worker describe it; times are CLOCK_MONOTONIC ns."""

    owner: int
    name: str
    pid: int
    state: WorkerState
    restarts_count: int
    core: int
    since_ns: int
    exit_code: int
    heartbeat_ns: int
    ready: bool
    cursor: int
    lag: int
    work_count: int
    last_error: str


def control_bytes(owners: int) -> int:
    """Bytes of the control segment's body for `owners` workers."""
    return (
        table_bytes(1, owners, WORKER_REPORT.itemsize) + table_bytes(1, owners, WORKER_WATCH.itemsize) + owners * OWNER_WORDS * WORD_BYTES
    )


class Control:
    """The control segment mapped by anyone: `reports` and `watches` are slot tables addressed by owner number."""

    def __init__(self, segment: Segment, owners: int) -> None:
        reports_bytes = table_bytes(1, owners, WORKER_REPORT.itemsize)
        watches_bytes = table_bytes(1, owners, WORKER_WATCH.itemsize)
        self.segment, self.owners = segment, owners
        self.reports = SlotTable(segment, "worker reports", WORKER_REPORT, 1, owners)
        self.watches = SlotTable(segment, "worker watches", WORKER_WATCH, 1, owners, reports_bytes)
        cells = segment.words(reports_bytes + watches_bytes, owners * OWNER_WORDS * WORD_BYTES)
        self.cells: Words = cells.reshape(owners, OWNER_WORDS)

    def owner(self, number: int) -> OwnerCells:
        """The cells of owner `number`; only that worker's process writes through them."""
        return OwnerCells(self.cells[number], f"worker {number}")

    def report(self, number: int) -> Report:
        """The report row of worker `number`, for its own process."""
        return Report(self.reports, number)

    def watch(self, number: int, **fields: Any) -> None:
        """Write the watch row of worker `number`: given fields change, the rest stays. Only the supervisor calls this.

        A new `state` must be one that WORKER_STATE_MOVES allows.
        """
        row = np.zeros(1, WORKER_WATCH)
        row[0] = self.watches.read(number)
        before = WorkerState(int(row[0]["state"]))
        after = WorkerState(fields.get("state", before))
        assert after == before or after in WORKER_STATE_MOVES[before], f"worker {number}: {before.name} -> {after.name}"
        for field, value in fields.items():
            row[0][field] = clip_text(value) if isinstance(value, str) else value
        self.watches.write(number, row[0])

    def workers(self) -> list[WorkerFacts]:
        """All workers that the supervisor has named."""
        owners = np.arange(self.owners)
        pairs = zip(self.reports.snapshot(owners), self.watches.snapshot(owners), strict=True)
        return [_worker_facts(number, report, watch) for number, (report, watch) in enumerate(pairs) if watch["version"]]

    def read_cells(self) -> list[Cell]:
        """Every metric of every owner."""
        return [cell for number in range(self.owners) for cell in _cells_of(self.cells[number], number)]


class Report:
    """A worker's own row in the control segment."""

    def __init__(self, table: SlotTable, number: int) -> None:
        self._table, self._number = table, number
        self.record = np.zeros(1, WORKER_REPORT)[0]

    def write(self, **fields: Any) -> None:
        """Publish the row: given fields change, the rest stays as this process last wrote it. `last_error` is cut to 128 bytes."""
        for field, value in fields.items():
            self.record[field] = clip_text(value) if isinstance(value, str) else value
        self._table.write(self._number, self.record)


def clip_text(text: str, length: int = 128) -> bytes:
    """UTF-8 of `text`, cut at a character's end to at most `length` bytes."""
    return text.encode("utf-8", "replace")[:length].decode("utf-8", "ignore").encode("utf-8")


def _worker_facts(number: int, report: np.void, watch: np.void) -> WorkerFacts:
    own, seen = (bytes(row["last_error"]).decode("utf-8", "replace") for row in (report, watch))
    return WorkerFacts(
        owner=number,
        name=bytes(watch["name"]).decode("utf-8", "replace"),
        pid=int(watch["pid"]),
        state=WorkerState(int(watch["state"])),
        restarts_count=int(watch["restarts_count"]),
        core=int(watch["core"]),
        since_ns=int(watch["since_ns"]),
        exit_code=int(watch["exit_code"]),
        heartbeat_ns=int(report["heartbeat_ns"]),
        ready=bool(report["ready"]),
        cursor=int(report["cursor"]),
        lag=int(report["lag"]),
        work_count=int(report["work_count"]),
        last_error=own or seen,
    )


def _cells_of(cells: Words, owner: int) -> list[Cell]:
    names, found = cells[:_SCALARS].view(CELL_NAME), []
    for entry in range(CELLS_MAX):
        kind = CellKind(int(read_word(cells, _kind_word(entry))))  # ORDER cell-name: pairs with the owner's write of the kind
        if kind == CellKind.UNUSED:
            break
        place = int(names[entry]["place"])
        value = _read_histogram(cells, place) if kind == CellKind.HISTOGRAM else int(read_word(cells, place))
        found.append(Cell(owner, bytes(names[entry]["name"]).decode("ascii", "replace"), kind, value))
    return found


def _read_histogram(cells: Words, place: int) -> Histogram:
    words = cells[place : place + HISTOGRAM_WORDS].copy()
    return Histogram(words[_BUCKET : _BUCKET + BUCKETS], int(words[_SUM]), int(words[_MAX]))
