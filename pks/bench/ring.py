"""`pks bench ring`: our ring beside a C ring, two pinned processes, records of 128 bytes, both written and read in place.

Promise: `ring_c_ratio`, design section 9. The two sides take turns within one pair of processes.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
from numba import njit

from pks.bench.lines import Handover
from pks.bench.pair import IDLE_MAX, Pair, enough_cores, shared
from pks.bench.programs import address, load_program
from pks.bench.report import Measured, Plan, Promise, result
from pks.layouts.match import MATCH, MATCH_WORDS
from pks.segments.ring import (
    CURSORS,
    HEAD,
    Place,
    Ring,
    ring_bytes,
    ring_claim,
    ring_commit,
    ring_gate,
    ring_head,
    ring_publish,
    ring_read,
)

RECORD_WORDS = MATCH_WORDS
"""128 bytes, as a match record has."""
CAPACITY = 4096
BATCH = 16
BATCHES = (1, 16, 64)
SETTLED = 3
"""First runs of each side that are not counted: pages and caches."""


@njit(cache=True)
def produce(control, records, total, batch, idle_max):
    """Write `total` records (int64[capacity, words]) in place in batches, then wait until all are read; 0, or -1 when nobody reads."""
    capacity, words = records.shape
    done, idle = 0, 0
    head = control[HEAD]
    while done < total:
        wanted = min(batch, total - done)
        count = ring_claim(control, wanted)
        if count < wanted:
            idle += 1
            if idle > idle_max:
                return -1
            continue
        idle = 0
        for _ in range(count):
            head += 1
            row = head & (capacity - 1)
            for word in range(words):
                records[row, word] = head + word
        ring_commit(control, count)
        done += count
    while True:
        if ring_head(control[CURSORS:]) == head:
            return 0
        idle += 1
        if idle > idle_max:
            return -1


@njit(cache=True)
def consume(control, records, cursor, total, idle_max):
    """Read `total` records behind `cursor` in place, every word of each, as the gating reader at place 0; the sum of all words, or -1."""
    capacity, words = records.shape
    last, idle, total_sum = cursor + total, 0, 0
    while cursor < last:
        head = ring_head(control)
        if head == cursor:
            idle += 1
            if idle > idle_max:
                return -1
            continue
        idle = 0
        while cursor < head:
            cursor += 1
            row = cursor & (capacity - 1)
            for word in range(words):
                total_sum += records[row, word]
        ring_gate(control, 0, cursor)
    return total_sum & 0x7FFFFFFFFFFFFFFF


@njit(cache=True)
def produce_copies(control, records, source, total, batch, idle_max):
    """As `produce`, through `ring_publish`: each batch is copied out of `source` (int64[batch, words])."""
    done, idle = 0, 0
    while done < total:
        count = ring_publish(control, records, source, 0, min(batch, total - done))
        if count == 0:
            idle += 1
            if idle > idle_max:
                return -1
            continue
        idle = 0
        done += count
    head = control[HEAD]
    while ring_head(control[CURSORS:]) != head:
        idle += 1
        if idle > idle_max:
            return -1
    return 0


@njit(cache=True)
def consume_copies(control, records, target, cursor, total, idle_max):
    """As `consume`, through `ring_read`: records are copied into `target` (int64[rows, words])."""
    last, idle = cursor + total, 0
    while cursor < last:
        count = ring_read(control, records, cursor, target, target.shape[0])
        if count == 0:
            idle += 1
            if idle > idle_max:
                return -1
            continue
        idle = 0
        cursor += count
        ring_gate(control, 0, cursor)
    return 0


class Sides:
    """Our ring and the C ring in memory that a pair of processes shares."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.ring = Ring.format(
            shared(ring_bytes(CAPACITY, 8 * RECORD_WORDS) // 8), "bench", MATCH, CAPACITY,
            places=[Place("reader", True, None)],
        )  # fmt: skip
        self.program = load_program("ring")
        self.c_ring = shared(64 + CAPACITY * RECORD_WORDS)
        for name, arguments in (("ring_produce", 4), ("ring_consume", 3)):
            function = getattr(self.program, name)
            function.restype = ctypes.c_int64
            function.argtypes = (ctypes.c_void_p, *(ctypes.c_int64,) * arguments)
        self.source = np.ones((max(BATCHES), RECORD_WORDS), np.int64)
        self.target = np.zeros((CAPACITY, RECORD_WORDS), np.int64)

    def warm(self) -> None:
        """Compile, in this process alone: the loops give up at once, as no partner is there."""
        ring = self.ring
        produce(ring.control, ring.records, 0, 1, 0)
        consume(ring.control, ring.records, ring.head, 0, 0)
        produce_copies(ring.control, ring.records, self.source, 0, 1, 0)
        consume_copies(ring.control, ring.records, self.target, ring.head, 0, 0)

    # the child's jobs

    def consume_ours(self) -> int:
        """Read a run from our ring."""
        return int(consume(self.ring.control, self.ring.records, self.ring.cursor("reader"), self.total, IDLE_MAX))

    def consume_c(self) -> int:
        """Read a run from the C ring."""
        return int(self.program.ring_consume(address(self.c_ring), CAPACITY, self.total, IDLE_MAX))

    def consume_copied(self) -> int:
        """Read a run from our ring as copies."""
        ring = self.ring
        return int(consume_copies(ring.control, ring.records, self.target, ring.cursor("reader"), self.total, IDLE_MAX))

    # the leader's work

    def produce_ours(self, batch: int) -> int:
        """Write a run into our ring."""
        return int(produce(self.ring.control, self.ring.records, self.total, batch, IDLE_MAX))

    def produce_c(self, batch: int) -> int:
        """Write a run into the C ring."""
        return int(self.program.ring_produce(address(self.c_ring), CAPACITY, self.total, batch, IDLE_MAX))

    def produce_copied(self, batch: int) -> int:
        """Write a run into our ring as copies."""
        return int(produce_copies(self.ring.control, self.ring.records, self.source, self.total, batch, IDLE_MAX))


OURS, C, COPIED, LINE = 0, 1, 2, 3


def measure(plan: Plan) -> Measured:
    """Rates of both rings by batch size, and the hand-over of the same run."""
    runs = plan.rounds(25)
    found = Measured(runs=runs, wait="spin")
    if not enough_cores():
        found.promises = [Promise("ring_c_ratio", ">=", 0.8, reason="one core: two processes cannot run at once")]
        return found
    sides = Sides(plan.size(500_000, 4096) // max(BATCHES) * max(BATCHES))
    sides.warm()
    handover = Handover(sides.program, plan.size(200_000, 100))
    rates: dict[tuple[str, int], list[float]] = {}
    lines: list[float] = []
    with Pair([sides.consume_ours, sides.consume_c, sides.consume_copied, handover.follow]) as pair:
        for run in range(runs + (0 if plan.tiny else SETTLED)):
            counted = plan.tiny or run >= SETTLED
            line = handover.lead_ns(pair, LINE)
            if counted:
                lines.append(line)
            for batch in BATCHES:
                turns: list[tuple[str, int, Callable[[], int]]] = [
                    ("ours", OURS, partial(sides.produce_ours, batch)),
                    ("c", C, partial(sides.produce_c, batch)),
                    ("copied", COPIED, partial(sides.produce_copied, batch)),
                ]
                for name, job, work in turns:
                    rate = _rate(pair, job, work, sides)
                    if counted:
                        rates.setdefault((name, batch), []).append(rate)
    ours, theirs = median(rates["ours", BATCH]), median(rates["c", BATCH])
    found.promises = [
        Promise("ring_c_ratio", ">=", 0.8, ours / theirs, ours, theirs, "C ring of this package, batch 16, millions a second")
    ]
    for batch in BATCHES:
        for name, label in (("ours", "ours, in place"), ("c", "C, in place"), ("copied", "ours, copied in and out")):
            found.results.append(result(f"ring batch {batch}: {label}", "million records/s", rates[name, batch]))
    found.results.append(result("cache line one way", "ns", lines))
    found.notes = [
        f"two pinned processes, {sides.total:,} records of 128 bytes a run, every word written and read; ours, C and copies in turns, "
        f"{runs} runs each, ratio of medians",
    ]
    return found


def _rate(pair: Pair, job: int, work: Callable[[], int], sides: Sides) -> float:
    """Millions of records a second of one run, from the first write until all are read."""
    sides.program.ring_reset(address(sides.c_ring))

    def timed() -> int:
        start = time.perf_counter_ns()
        code = work()
        took = time.perf_counter_ns() - start
        return took if code == 0 else -1

    took, _ = pair.lead(job, timed)
    assert took > 0, "the reader has read everything"
    return float(sides.total * 1000 / took)
