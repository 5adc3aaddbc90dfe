"""`pks bench hotpath`: a fill from capture to its readable slot, and how many a second, by the workers' own compiled loops.

Promises: `fill_to_slot_p50_ns`, `fill_to_slot_p99_ns`, `fill_to_slot_over_handovers_ratio`, `parked_p50_us`, `parked_p99_us`,
`producer_fills_per_s`, `producer_journaled_fills_per_s`, `path_nautilus_ratio_1k`, `path_nautilus_ratio_100k`, design section 9. Two pinned
processes over rings and slots of their own: one runs capture's loop, the other an accumulator's. The journal is not on this way. Parked and
journaled figures are those of a whole `pks run`.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import gc
import os
import time
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from pks.base.kernels import kernel, monotonic_ns
from pks.bench.desk import DAY, NOW_NS, Desk, definitions, trades
from pks.bench.lines import Handover
from pks.bench.pair import IDLE_MAX, SECONDS_MAX, Pair, enough_cores, shared
from pks.bench.peers import Nautilus, PeerMissing
from pks.bench.programs import load_program
from pks.bench.report import Measured, Plan, Promise, result
from pks.bench.system import System
from pks.client.producer import NO_ROOM
from pks.engine.booking.tables import KEYS_COUNT
from pks.engine.booking.take import DONE, TABLE_FULL
from pks.layouts.event import EVENT, EVENT_WORDS, REPLY
from pks.layouts.match import MATCH, VERDICT
from pks.layouts.reject import REJECT
from pks.layouts.slots import ACCOUNT_WORDS, POSITION_WORDS, UPDATE
from pks.segments.atomics import cycles, cycles_per_ns, pause
from pks.segments.counters import OWNER_WORDS
from pks.segments.ring import Place, Ring, RingReader, RingWriter, ring_bytes, ring_gate, ring_head, ring_publish
from pks.segments.slots import TRIES_MAX, VERSION_WORDS, pack_key, slot_find, slot_read, slot_version
from pks.segments.wait import Waker
from pks.topology import SOURCES_SMALL
from pks.workers import accumulator_loop, capture_loop
from pks.workers.booking import Room
from pks.workers.points import no_points
from pks.workers.positions import Positions

EVENTS = 1 << 18
REPLIES = 1 << 12
SOURCES = SOURCES_SMALL + 1
"""Intake rings that the loop looks at; all but one stay empty."""
PRODUCER_BATCH = 64
KEYS = {"1k": (10, 100), "100k": (100, 1000)}
BOUNDS = {"1k": 12.0, "100k": 6.0}
PROMISED = {
    "fill_to_slot_p50_ns": ("<=", 1000.0),
    "fill_to_slot_p99_ns": ("<=", 2000.0),
    "fill_to_slot_over_handovers_ratio": ("<=", 1.0),
    "producer_fills_per_s": (">=", 3e6),
    **{f"path_nautilus_ratio_{label}": (">=", bound) for label, bound in BOUNDS.items()},
    "parked_p50_us": ("<=", 100.0),
    "parked_p99_us": ("<=", 1000.0),
    "producer_journaled_fills_per_s": (">=", 1.5e6),
}
HANDOVERS, HANDOVERS_OWN_NS = 5, 300.0
REST_PAUSES = 100
"""Between two fills, so that the accumulator waits when the next one comes."""


@kernel
def run_till_applied(t, verdicts, area, replies_control, last, passes_max):
    """Capture's loop until every event up to `last` is applied, its answers being taken; DONE, what it came back for, or -1."""
    for _ in range(passes_max):
        reason = capture_loop.run_capture(t, verdicts, area, 0)
        ring_gate(replies_control, 0, ring_head(replies_control))
        if reason != DONE:
            return reason
        if capture_loop.applied(area) >= last:
            return DONE
    return -1


@kernel
def time_fills(t, verdicts, area, requests, records, replies_control, fills, rows, slots, target, samples, looks_max):
    """Put one fill after another into the intake ring; into samples (int64[n]) the cycles until its slot's new version is read whole.

    The clock starts when the fill lies in the ring: capture's loop finds it there, checks, sequences and publishes it; the accumulator's
    loop, in the other process, matches it and writes the slot; this side copies it. Returns how many were timed, less when one got lost.
    """
    for n in range(samples.shape[0]):
        ring_publish(requests, records, fills, n, 1)
        row = rows[n]
        before = slot_version(slots, row)
        looks = 0
        start = cycles()
        if capture_loop.run_capture(t, verdicts, area, 0) != DONE:
            return n
        while slot_version(slots, row) == before:
            looks += 1
            if looks > looks_max:
                return n
        slot_read(slots, row, target, TRIES_MAX)
        samples[n] = cycles() - start
        ring_gate(replies_control, 0, ring_head(replies_control))
        for _ in range(REST_PAUSES):
            pause()
    return samples.shape[0]


@kernel
def rows_of(index, fills, rows):
    """The slot of each fill (EVENT[n]) into rows (int64[n]); False when one has none."""
    for n in range(fills.shape[0]):
        rows[n] = slot_find(index, pack_key(fills[n].book_id, fills[n].instrument_id))
        if rows[n] < 0:
            return False
    return True


def _ring(name: str, dtype: np.dtype[Any], capacity: int, *places: str, start: int = -1) -> Ring:
    area = shared(ring_bytes(capacity, dtype.itemsize) // 8)
    return Ring.format(area, name, dtype, capacity, start=start, places=[Place(place, True, None) for place in places])


def _table(rows: int, words: int) -> accumulator_loop.SlotArrays:
    entries = 1 << (2 * rows - 1).bit_length()
    return accumulator_loop.SlotArrays(
        shared(rows * (VERSION_WORDS + 2 * words)).reshape(rows, -1), shared(2 * entries).reshape(1, entries, 2), shared(16).reshape(1, 16)
    )


class Way:
    """Rings, slots and both loops' memory for one desk, every position made. The parent runs capture, a forked child the accumulator."""

    def __init__(self, plan: Plan, label: str, fills: int) -> None:
        """fills: how many go through at once, at most."""
        self.books, self.instruments = KEYS[label] if not plan.tiny else (2, 3)
        keys = self.books * self.instruments
        self.desk = Desk(plan.folder / label, definitions(self.books, self.instruments), keys=plan.size(1 << 22, 1 << 14))
        self.booking = self.desk.booking
        self.booking.hold_date(DAY)
        self.seed = 0
        events = _ring("events", EVENT, plan.size(EVENTS, 1 << 10), "accumulator-0", start=self.desk.last)
        self.requests = _ring("requests", EVENT, 1 << max(fills, PRODUCER_BATCH, keys).bit_length(), "capture")
        self.replies = _ring("replies", REPLY, REPLIES, "source")
        self._others = [(_ring("idle", EVENT, 2, "capture"), _ring("idle", REPLY, 2, "source")) for _ in range(SOURCES - 1)]
        self._streams = _ring("matches", MATCH, 1 << 16), _ring("verdicts", VERDICT, 1 << 12), _ring("updates", UPDATE, 1 << 16)
        matches, verdicts, updates = self._streams
        rejects = _ring("rejects", REJECT, 2)
        self.capture = capture_loop.new_area(
            events, 0, [0], SOURCES, [verdicts], rejects, np.zeros(OWNER_WORDS, np.int64), (0, 1, 2, 3), no_points()
        )  # fmt: skip
        for number, (requests, replies) in enumerate([(self.requests, self.replies), *self._others]):
            capture_loop.set_source(self.capture, number, number, requests, replies, -1)
        self.state = self.capture.state
        self.state[capture_loop.LAST_KIND] = self.booking.last_kind
        self.state[capture_loop.WALL_NS], self.state[capture_loop.AT_NS] = NOW_NS, monotonic_ns(self.capture.clock)
        self.verdicts = np.zeros((1 << 12, 2), np.int64)
        self.positions = Positions(self.desk.journal(np.zeros(0, EVENT)), keys=2 * keys, lots=plan.size(1 << 20, 1 << 12))
        self.positions.apply(self.positions.shard.records, -1, 1, self.desk.last)
        self.table, accounts = _table(keys, POSITION_WORDS), _table(2 * keys, ACCOUNT_WORDS)
        self.matcher = accumulator_loop.new_area(
            events, 0, 0, 1, Waker(matches), verdicts, Waker(updates), self.table, accounts, np.zeros(OWNER_WORDS, np.int64), (0, 1, 2),
            no_points(), len(self.positions.shard.out.changed),
        )  # fmt: skip
        accumulator_loop.start_at(self.matcher, self.desk.last)
        self.goal = shared(1)
        self._make_positions()

    def _make_positions(self) -> None:
        """One fill on every position, by both loops in turns; so they are compiled before the fork."""
        made = self.fills(self.books * self.instruments)
        numbers = np.arange(len(made))
        made["book_id"], made["instrument_id"] = numbers // self.instruments + 1, numbers % self.instruments + 1
        self.send(made)
        last = self.sequence + len(made)
        while self.matcher.state[accumulator_loop.AT] < last:
            self.take(1, last)
            self.match_once(0)
        self.take(IDLE_MAX, last)

    @property
    def sequence(self) -> int:
        """The last event that capture has published."""
        return int(self.state[capture_loop.SEQUENCE])

    def fills(self, count: int) -> Any:
        """EVENT[count]: new plain trades on positions at random, as a producer sends them. Keys go when memory is full, as a day's do."""
        self.seed += 1
        tables = self.booking.tables
        if 2 * (int(tables.counts[KEYS_COUNT]) + count + 1) > len(tables.dedup):
            tables.dedup[:] = 0
            tables.counts[KEYS_COUNT] = 0
        return trades(count, 0, self.books, self.instruments, seed=self.seed, known=False)

    # the accumulator's side

    def match_once(self, turn_ns: int) -> None:
        """One turn of the loop, and what it came back for, as the worker does it."""
        shard, events = self.positions.shard, self.matcher.events
        reason = accumulator_loop.run_accumulator(
            shard.state, shard.out, *accumulator_loop.words_of(shard.state, shard.out), self.matcher, turn_ns
        )
        if reason != DONE:
            words = self.matcher.state
            assert reason < accumulator_loop.STREAMS_FULL, "streams that nobody gates and tables have room"
            following = int(words[accumulator_loop.NEXT])
            words[accumulator_loop.NEXT] = self.positions.attend(events, len(events) - 1, following, int(reason))

    def match(self) -> int:
        """The child's job: until the event `goal` is applied."""
        deadline = time.monotonic() + SECONDS_MAX
        while self.matcher.state[accumulator_loop.AT] < self.goal[0]:
            self.match_once(accumulator_loop.TURN_NS)
            if time.monotonic() > deadline:
                return -1
        return 0

    # capture's side

    def send(self, fills: Any) -> None:
        """Put fills into the intake ring; they have room there."""
        assert RingWriter(self.requests).publish(fills) == len(fills), "the ring was made for them"

    def take(self, passes_max: int, last: int) -> None:
        """Let capture's loop work until events up to `last` are applied, or for so many passes."""
        while True:
            reason = run_till_applied(self.booking.tables, self.verdicts, self.capture, self.replies.control, last, passes_max)
            if reason != TABLE_FULL:
                break
            assert self.booking.make_room(DAY) is Room.MADE, "there are keys enough"
        assert reason in (DONE, -1), f"every fill is plain: {reason}"
        assert passes_max < IDLE_MAX or reason == DONE, "the other side applies what is published"


def measure(plan: Plan) -> Measured:
    """All promises."""
    found = Measured(runs=plan.rounds(15))
    if not enough_cores():
        found.promises = [Promise(name, *told, reason="one core: two processes cannot run at once") for name, told in PROMISED.items()]
        return found
    rates = {label: _spinning(plan, label, found) for label in KEYS}
    _ratios(plan, rates, found)
    _running(plan, found)
    return found


def _promise(found: Measured, name: str, measured: float, peer: str, ours: float | None = None, theirs: float | None = None) -> None:
    op, bound = PROMISED[name]
    found.promises.append(Promise(name, op, bound, measured, measured if ours is None else ours, theirs, peer))


MATCH_JOB, LINE_JOB = 0, 1


def _spinning(plan: Plan, label: str, found: Measured) -> float:
    """Fills a second with each loop on its own core; for the small desk also single fills and a Python producer."""
    count = plan.size(400_000, 500)
    way = Way(plan, label, count)
    handover = Handover(load_program("ring"), plan.size(20_000, 100))
    rates, lines, produced = [], [], []
    timed: list[Any] = []
    with Pair([way.match, handover.follow]) as pair:
        for run in range(found.runs + (0 if plan.tiny else 1)):
            counted = plan.tiny or run > 0
            lines.append(handover.lead_ns(pair, LINE_JOB))
            rate = _rate(pair, way, way.fills(count))
            if counted:
                rates.append(rate)
            if label == "1k":
                samples = _samples(pair, way, plan.size(5_000, 20))
                rate = _produced(pair, way, way.fills(count // PRODUCER_BATCH * PRODUCER_BATCH))
                if counted:
                    timed.append(samples)
                    produced.append(rate)
    found.results.append(result(f"{label} keys: intake to slots", "fills/s", rates))
    if label == "1k":
        _single(found, timed, lines)
        found.results.append(result(f"Python producer, batches of {PRODUCER_BATCH}, to slots", "fills/s", produced))
        _promise(found, "producer_fills_per_s", median(produced), "producer and capture share one core, the accumulator has the other")
    found.notes.append(
        f"{label} keys: {count:,} fills a run lie in the intake ring when the clock starts; it stops when capture has seen that all are "
        f"applied; {len(rates)} runs; {SOURCES} intake rings looked at, matches and updates written, answers taken"
    )
    return median(rates)


def _rate(pair: Pair, way: Way, fills: Any) -> float:
    """Fills a second from the intake ring into slots."""
    way.send(fills)
    last = way.sequence + len(fills)
    way.goal[0] = last

    def work() -> int:
        start = time.perf_counter_ns()
        way.take(IDLE_MAX, last)
        return time.perf_counter_ns() - start

    took, _ = pair.lead(MATCH_JOB, work)
    return float(len(fills) * 1e9 / took)


def _samples(pair: Pair, way: Way, count: int) -> Any:
    """Nanoseconds from a fill in the intake ring to its slot read, one fill at a time."""
    fills = way.fills(count)
    rows, samples, target = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(POSITION_WORDS, np.int64)
    assert rows_of(way.table.indexes[0], fills, rows), "every position has its slot"
    words = fills.view(np.int64).reshape(-1, EVENT_WORDS)
    way.goal[0] = way.sequence + count

    def work() -> int:
        return int(
            time_fills(
                way.booking.tables, way.verdicts, way.capture, way.requests.control, way.requests.records, way.replies.control, words, rows,
                way.table.slots, target, samples, IDLE_MAX,
            )
        )  # fmt: skip

    way.take(1, 0)
    way.goal[0] = way.sequence + count
    timed, _ = pair.lead(MATCH_JOB, work)
    assert timed == count, "every fill came to its slot"
    return samples / cycles_per_ns()


def _produced(pair: Pair, way: Way, fills: Any) -> float:
    """Fills a second from a Python producer that sends batches and takes its answers, as `client.Producer` does, into slots."""
    last = way.sequence + len(fills)
    way.goal[0] = last
    writer, waker, answers = RingWriter(way.requests), Waker(way.requests), RingReader(way.replies, "source")

    def work() -> int:
        start = time.perf_counter_ns()
        for at in range(0, len(fills), PRODUCER_BATCH):
            assert writer.publish(fills[at : at + PRODUCER_BATCH]) == PRODUCER_BATCH, "the ring has room for all"
            waker.wake()
            capture_loop.run_capture(way.booking.tables, way.verdicts, way.capture, 0)
            if at % (16 * PRODUCER_BATCH) == 0 and len(answers.read(REPLIES)):
                answers.finish()
        way.take(IDLE_MAX, last)
        return time.perf_counter_ns() - start

    took, _ = pair.lead(MATCH_JOB, work)
    return float(len(fills) * 1e9 / took)


def _single(found: Measured, timed: list[Any], lines: list[float]) -> None:
    """Percentiles of single fills beside the hand-over of the same run."""
    middle = median(float(np.percentile(samples, 50)) for samples in timed)
    high = median(float(np.percentile(samples, 99)) for samples in timed)
    line = median(lines)
    limit = HANDOVERS * line + HANDOVERS_OWN_NS
    _promise(found, "fill_to_slot_p50_ns", middle, "median of the runs' medians; rdtsc's own time is in it")
    _promise(found, "fill_to_slot_p99_ns", high, "median of the runs' p99")
    _promise(
        found, "fill_to_slot_over_handovers_ratio", middle / limit, f"{HANDOVERS} cache-line hand-overs of the same run + 0.3 us, ns",
        middle, limit,
    )  # fmt: skip
    found.results += [result("fill to slot, spinning", "ns", np.concatenate(timed)), result("cache line one way", "ns", lines)]
    found.notes.append(
        f"single fills: {len(timed[0]):,} a run, {len(timed)} runs, each put into the intake ring by the process that runs capture's loop; "
        "the clock starts there and stops when the same process has copied the new version of the slot, which the other process wrote"
    )


def _ratios(plan: Plan, rates: dict[str, float], found: Measured) -> None:
    """Beside nautilus_trader, where it is there."""
    try:
        with Nautilus(plan.peer_venv) as peer:
            for label, (books, instruments) in KEYS.items():
                keys = books * instruments
                theirs = median(peer.fills_per_s(keys, max(20_000, keys)) for _ in range(3))
                _promise(
                    found, f"path_nautilus_ratio_{label}", rates[label] / theirs,
                    f"nautilus_trader {peer.version} pyo3 Position.apply, fills/s", rates[label], theirs,
                )  # fmt: skip
    except PeerMissing as missing:
        told = {promise.promise for promise in found.promises}
        for label in KEYS:
            if (name := f"path_nautilus_ratio_{label}") not in told:
                peer_name = "nautilus_trader Position.apply"
                found.promises.append(Promise(name, *PROMISED[name], None, rates[label], None, peer_name, str(missing)))


def _running(plan: Plan, found: Measured) -> None:
    """A whole `pks run` with default waiting: single fills until their slots change, and a producer until all is durable and answered."""
    books, instruments = KEYS["1k"] if not plan.tiny else (2, 3)
    count, singles = plan.size(500_000, 256), plan.size(2000, 10)
    with System(plan.folder / "system") as system:
        system.start()
        system.define(definitions(books, instruments))
        make = partial(trades, first=0, books=books, instruments=instruments, known=False)
        assert system.producer is not None, "started"
        system.send_all(make(plan.size(20_000, 256), seed=1), PRODUCER_BATCH)
        samples = _parked(system, make(singles, seed=2))
        rates = []
        for run in range(3 if not plan.tiny else 1):
            fills = make(count, seed=3 + run)
            start = time.perf_counter_ns()
            system.send_all(fills, PRODUCER_BATCH)
            rates.append(count * 1e9 / (time.perf_counter_ns() - start))
    parked = result("fill to slot, default waiting", "us", samples)
    journaled = result(f"Python producer, batches of {PRODUCER_BATCH}, all durable and answered", "fills/s", rates)
    found.results += [parked, journaled]
    _promise(found, "parked_p50_us", parked.p50, "a whole pks run; from before the producer's call")
    _promise(found, "parked_p99_us", parked.p99, "a whole pks run; from before the producer's call")
    _promise(found, "producer_journaled_fills_per_s", journaled.p50, "a whole pks run; until every answer is back")
    found.notes.append(
        f"pks run, wait auto on {len(os.sched_getaffinity(0))} cores, journal on the disk of the scratch folder: {singles:,} single fills "
        f"with 1 ms between them; {len(rates)} runs of {count:,} fills by one producer"
    )


def _parked(system: System, fills: Any) -> Any:
    """Microseconds from before `Producer.send` until the slot has a new version, looked at between yields of the core."""
    assert system.producer is not None, "started"
    producer, table = system.producer, system.producer.host.positions
    index, samples = table.indexes, np.zeros(len(fills))
    gc.collect()
    for n in range(len(fills)):
        fill = fills[n : n + 1]
        key = pack_key(int(fill["book_id"][0]), int(fill["instrument_id"][0]))
        row = int(slot_find(index[0], key))
        before = 0 if row < 0 else int(slot_version(table.slots, row))
        start = time.perf_counter_ns()
        assert producer.send(fill) != NO_ROOM, "one fill has room"
        while True:
            row = int(slot_find(index[0], key)) if row < 0 else row
            if row >= 0 and slot_version(table.slots, row) != before:
                break
            os.sched_yield()
        samples[n] = (time.perf_counter_ns() - start) / 1000
        system.answered(1)
        time.sleep(0.001)
    return samples
