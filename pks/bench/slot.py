"""`pks bench slot`: reading a position that another process writes: in a compiled loop beside C, by handle, by name, and 1,000 at once.

Promises: `slot_read_c_ratio`, `handle_read_p99_ns`, `name_read_p50_ns`, `snapshot_ns_per_slot`, design section 9. The C reader reads the
same table by the same protocol; a plain seqlock in C, which is less (its readers wait for a writer), is shown as the limit.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numba import njit

from pks import topology
from pks.base.config import Config, Sizes
from pks.bench.pair import Pair, enough_cores, shared
from pks.bench.programs import address, load_program
from pks.bench.report import Measured, Plan, Promise, result
from pks.client.host import Host as Reader
from pks.layouts.codes import Subject
from pks.layouts.refdata import ROW
from pks.layouts.slots import POSITION_SLOT, POSITION_WORDS
from pks.segments.slots import TRIES_MAX, slot_read, slot_write
from pks.segments.table import RefdataTable

ROWS = 4096
SNAPSHOT_ROWS = 1000
BOOK, CURRENCY = 1, 1
HOUR_NS = 3_600 * 10**9
SEED = 88_172_645_463_325_252


@njit(cache=True)
def read_many(slots, rows, reads, seed, target):
    """`reads` slots at random rows (rows: a power of two) into target (int64[words]); (a number that depends on all, unstable ones)."""
    x, total, unstable = np.uint64(seed), 0, 0
    words = target.shape[0]
    for n in range(reads):
        x ^= x << np.uint64(13)
        x ^= x >> np.uint64(7)
        x ^= x << np.uint64(17)
        if slot_read(slots, np.int64(x & np.uint64(rows - 1)), target, TRIES_MAX) < 0:
            unstable += 1
        total += target[n & (words - 1)]
    return total & 0x7FFFFFFFFFFFFFFF, unstable


@njit(cache=True)
def write_many(slots, rows, writes, seed, source):
    """`writes` new versions of slots at random rows; the last number drawn, to go on from."""
    x = np.uint64(seed)
    for _ in range(writes):
        x ^= x << np.uint64(13)
        x ^= x >> np.uint64(7)
        x ^= x << np.uint64(17)
        slot_write(slots, np.int64(x & np.uint64(rows - 1)), source)
    return np.int64(x >> np.uint64(1))


class Table:
    """A live instance of its own with `rows` positions and the reference data that their names need; no worker runs in it."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.instance = f"bench{os.getpid()}"
        sizes = Sizes(1 << 8, 1 << 6, 1 << 6, rows, rows, 16, 16, "a bench's")
        config = Config(data_dir=str(folder), instance=self.instance, shards=1)
        topology.retire_all(self.instance)
        self.host = topology.Host.create(config, sizes, topology.workers_of(1), topology.Starts())
        self.rows = rows
        refdata = RefdataTable(self.host.refdata)
        refdata.take()
        for subject, code in ((Subject.CURRENCY, "USD"), (Subject.BOOK, "BOOK")):
            refdata.write(_row(subject, 1, code))
        instruments = rows - 2  # the table of reference data has as many rows
        for number in range(1, instruments + 1):
            refdata.write(_row(Subject.INSTRUMENT, number, f"I{number}"))
        table = self.host.positions
        slot = np.zeros(1, POSITION_SLOT)
        slot["book_id"], slot["qty_raw"], slot["cost_lo"], slot["price_scale"], slot["money_scale"] = BOOK, 100, 10**12, 2, 18
        for number in range(1, rows + 1):
            slot["instrument_id"] = number
            table.append(0, (BOOK, number), slot)
        self.host.go_live()
        self.beat()
        self.slots = table.slots
        self.source = slot.view(np.int64).reshape(-1).copy()

    def beat(self) -> None:
        """Show life far ahead: nothing else beats here."""
        self.host.beat(time.monotonic_ns() + HOUR_NS)

    def close(self) -> None:
        """Remove the segments."""
        self.host.close_all()
        topology.retire_all(self.instance)


def _row(subject: Subject, row_id: int, code: str) -> Any:
    row = np.zeros(1, ROW)
    row["subject"], row["row_id"], row["code"] = subject, row_id, code
    if subject is Subject.INSTRUMENT:
        row["symbol"], row["pnl_currency"], row["pnl_currency_id"] = code, "USD", CURRENCY
        row["multiplier_numerator"] = row["multiplier_denominator"] = 1
    return row


@contextmanager
def a_table(folder: Path, rows: int) -> Iterator[Table]:
    """A table that is gone afterwards."""
    table = Table(folder, rows)
    try:
        yield table
    finally:
        table.close()


def measure(plan: Plan) -> Measured:
    """All four promises, and the loops once more while another process writes the same slots without a pause."""
    found = Measured(runs=plan.rounds(15))
    with a_table(plan.folder, plan.size(ROWS, 64)) as table:
        _compiled(plan, table, found)
        reader = Reader(table.instance)
        try:
            _by_handle(plan, table, reader, found)
            _snapshots(plan, table, reader, found)
        finally:
            reader.close()
    return found


def _compiled(plan: Plan, table: Table, found: Measured) -> None:
    """Nanoseconds a read: our loop, C on the same table, C on plain seqlocks; quiet, then under a writer."""
    program = load_program("slot")
    reads = plan.size(500_000, 1000)
    tries, target = np.zeros(1, np.int64), np.zeros(POSITION_WORDS, np.int64)
    plain = np.zeros((table.rows, 32), np.int64)
    for function in (program.table_read_many, program.plain_read_many):
        function.restype = ctypes.c_int64
        function.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p)
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: read_many(table.slots, table.rows, reads, SEED, target),
        "C, same table": lambda: program.table_read_many(address(table.slots), table.rows, reads, SEED, address(tries)),
        "C, plain seqlock": lambda: program.plain_read_many(address(plain), table.rows, reads, SEED, address(tries)),
    }
    read_many(table.slots, table.rows, 1, SEED, target)
    write_many(table.slots, table.rows, 1, SEED, table.source)

    def turn(samples: dict[str, list[float]], chosen: list[str]) -> None:
        for name in chosen:
            start = time.perf_counter_ns()
            sides[name]()
            samples.setdefault(name, []).append((time.perf_counter_ns() - start) / reads)

    quiet: dict[str, list[float]] = {}
    turn({}, list(sides))
    for _ in range(found.runs):
        turn(quiet, list(sides))
    ours, theirs = median(quiet["ours"]), median(quiet["C, same table"])
    found.promises.append(
        Promise("slot_read_c_ratio", "<=", 1.25, ours / theirs, ours, theirs, "C loop of this package on the same table, ns a read")
    )
    found.results += [result(f"slot read, writer quiet: {name}", "ns", samples) for name, samples in quiet.items()]
    if enough_cores():
        found.results += [
            result(f"slot read, writer hot: {name}", "ns", samples) for name, samples in _hot(table, found.runs, turn).items()
        ]
    found.notes.append(
        f"compiled: {reads:,} reads of 256 bytes at random among {table.rows} slots a run, the sides in turns, {found.runs} runs each"
    )


def _hot(table: Table, runs: int, turn: Callable[[dict[str, list[float]], list[str]], None]) -> dict[str, list[float]]:
    """The same while the other core writes slots at random as quickly as it can."""
    stop = shared(1)
    hot: dict[str, list[float]] = {}

    def write() -> int:
        seed = SEED
        while not stop[0]:
            seed = int(write_many(table.slots, table.rows, 1000, seed, table.source)) | 1
        return 0

    with Pair([write]) as pair:

        def work() -> None:
            for _ in range(runs):
                turn(hot, ["ours", "C, same table"])
            stop[0] = 1

        pair.lead(0, work)
    return hot


def _by_handle(plan: Plan, table: Table, reader: Reader, found: Measured) -> None:
    """One call from Python, each timed: the position unchanged, and changed between any two reads; then by its name."""
    calls = plan.size(100_000, 50)
    handle = reader.positions.handle("BOOK", "I7")
    row = handle.row
    quantity = handle.read().quantity
    assert quantity == 100, "the position that was written"
    samples = {name: np.zeros(calls, np.int64) for name in ("by handle, unchanged", "by handle, changed", "by name", "the timer alone")}
    clock = time.perf_counter_ns
    positions = reader.positions
    gc.collect()
    gc.disable()
    try:
        for call in range(-calls // 10, calls):
            at = max(call, 0)
            start = clock()
            end = clock()
            samples["the timer alone"][at] = end - start
            start = clock()
            handle.read()
            samples["by handle, unchanged"][at] = clock() - start
            start = clock()
            positions["BOOK", "I7"]
            samples["by name"][at] = clock() - start
            slot_write(table.slots, row, table.source)
            start = clock()
            handle.read()
            samples["by handle, changed"][at] = clock() - start
    finally:
        gc.enable()
    timed = {name: result(f"read {name}", "ns", values) for name, values in samples.items()}
    found.results += timed.values()
    quiet = timed["by handle, unchanged"]
    found.promises += [
        Promise("handle_read_p99_ns", "<=", 1000, quiet.p99, quiet.p99, None, "the timer's own time is in it"),
        Promise("name_read_p50_ns", "<=", 3000, timed["by name"].p50, timed["by name"].p50, None, "the timer's own time is in it"),
    ]
    found.notes.append(f"from Python: {calls:,} single calls of each kind in turns, each timed")


def _snapshots(plan: Plan, table: Table, reader: Reader, found: Measured) -> None:
    """1,000 slots in one call, into room that the caller keeps."""
    calls = plan.size(2000, 5)
    count = min(SNAPSHOT_ROWS, table.rows)
    rows = reader.positions.rows("BOOK")[:count]
    target = np.empty(count, POSITION_SLOT)
    samples = np.zeros(calls)
    for call in range(-calls // 10, calls):
        start = time.perf_counter_ns()
        reader.positions.snapshot(rows, target)
        samples[max(call, 0)] = (time.perf_counter_ns() - start) / count
    assert (target["qty_raw"] == 100).all(), "every slot was read"
    timed = result(f"snapshot of {count} slots, each slot", "ns", samples)
    found.results.append(timed)
    found.promises.append(Promise("snapshot_ns_per_slot", "<=", 15, timed.p50, timed.p50, None, "the call's own time is in it"))
    found.notes.append(f"snapshot: {calls:,} calls, the median of time a slot")
