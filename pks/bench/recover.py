"""`pks bench recover`: kill -9 of a whole system, and `pks run` until it takes trades again; and what its processes hold of memory.

Promises: `ready_after_kill_s`, design section 9, with a newest checkpoint at most 5 M events old (`--full`; fewer without);
`worker_pss_mb`, a worker without its segments before it has booked anything; `full_book_pss_mb`, everything at 100,000 positions with
1,000,000 open lots.
"""

from __future__ import annotations

import time
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pks.bench.desk import definitions, trades
from pks.bench.report import Measured, Plan, Promise, result
from pks.bench.system import System, SystemFailed
from pks.client.host import Host
from pks.topology import Paths
from pks.workers.checkpoint import latest_checkpoint

GROUP = 1024
EVENTS_FULL, EVENTS_USUAL, EVENTS_TINY = 5_000_000, 500_000, 2000
BOOKS, INSTRUMENTS = 100, 1000
LOTS_A_POSITION = 10
PART = 500_000
"""Trades made and sent at a time."""

HOT = ("capture", "journal", "accumulator-0")
SHADOW_SECONDS = 300.0


class Held(NamedTuple):
    """Proportional set size of one process in MB: what is its own, and its part of shared memory."""

    own: float
    shared: float


def pss_of(pid: int) -> Held:
    """Of a process of ours. Source: proc(5), smaps_rollup."""
    parts = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        parts[name] = int(value.split()[0]) / 1024
    return Held(parts["Pss"] - parts["Pss_Shmem"], parts["Pss_Shmem"])


def slots_of(instance: str) -> Any:
    """POSITION_SLOT[n]: every position of a running system."""
    host = Host(instance)
    try:
        return host.positions.snapshot()
    finally:
        host.close()


def slots_hash(instance: str) -> tuple[str, int]:
    """A hash of what every position shows, versions apart, and how many there are."""
    slots = slots_of(instance)
    slots["version"] = 0
    ordered = slots[np.argsort(slots["book_id"].astype(np.int64) << 32 | slots["instrument_id"], kind="stable")]
    return blake2b(ordered.tobytes(), digest_size=16, usedforsecurity=False).hexdigest(), len(slots)


def measure(plan: Plan) -> Measured:
    """Book, kill, start: several times; then fill the book and look at memory."""
    events = plan.size(EVENTS_FULL if plan.full else EVENTS_USUAL, EVENTS_TINY)
    books, instruments = plan.size(BOOKS, 2), plan.size(INSTRUMENTS, 3)
    found = Measured(runs=plan.rounds(3), wait="auto")
    seconds, ages = [], []
    with System(plan.folder / "data", PKS_CHECKPOINT_EVENTS=str(max(events, EVENTS_USUAL))) as system:
        system.start()
        fresh = {name: pss_of(pid) for name, pid in system.pids().items()}
        system.define(definitions(books, instruments))
        _send(system, events, books, instruments)
        for _ in range(found.runs):
            before = slots_hash(system.instance)
            ages.append(_age(system))
            system.kill()
            seconds.append(system.start())
            after = slots_hash(system.instance)
            if before != after:
                raise SystemFailed(f"shows other positions after a kill -9: {before} before, {after} after")
        _fill(system, books, instruments)
        _await_shadow(system)
        positions, lots = _counts(system.instance)
        full = {name: pss_of(pid) for name, pid in system.pids().items()}
        segments = system.segments_mb()
    worst = max((fresh[name].own, name) for name in HOT)
    whole = sum(held.own + held.shared for held in full.values())
    ready = result("pks run to ready after kill -9", "s", seconds)
    found.promises = [
        Promise("ready_after_kill_s", "<=", 3, ready.p50, ready.p50, None, "equal hash of all positions before and after"),
        Promise(
            "worker_pss_mb", "<=", 60, worst[0], worst[0], None, f"the largest of {', '.join(HOT)}: {worst[1]}, before the first trade"
        ),
        Promise("full_book_pss_mb", "<=", 1000, whole, whole, None, f"all processes, {positions:,} positions, {lots:,} open lots"),
    ]
    found.results = [ready, result("events behind the newest checkpoint", "events", ages)]
    found.results.append(result("segments, mapped by somebody or not", "MB", [segments]))
    for title, held in (("fresh", fresh), ("full", full)):
        for name, one in held.items():
            found.results.append(result(f"{title}: {name}, its own", "MB", [one.own]))
            found.results.append(result(f"{title}: {name}, its part of segments", "MB", [one.shared]))
    found.notes = [
        f"{events:,} trades on {books * instruments:,} positions, then kill -9 of the supervisor and its workers, {found.runs} times; "
        f"memory is the proportional set size",
    ]
    return found


def _send(system: System, count: int, books: int, instruments: int) -> None:
    for number, first in enumerate(range(0, count, PART)):
        system.send_all(trades(min(PART, count - first), 1, books, instruments, seed=1 + number, known=False), GROUP)


def _fill(system: System, books: int, instruments: int) -> None:
    """Ten more buys on every position."""
    for turn in range(LOTS_A_POSITION):
        made: Any = trades(books * instruments, 1, books, instruments, seed=1000 + turn, sell=0.0, known=False)
        made["book_id"] = 1 + np.arange(len(made)) // instruments
        made["instrument_id"] = 1 + np.arange(len(made)) % instruments
        system.send_all(made, GROUP)


def _counts(instance: str) -> tuple[int, int]:
    """Positions, and open lots over all."""
    slots = slots_of(instance)
    return len(slots), int(slots["open_lots"].sum())


def _age(system: System) -> int:
    """Events behind the newest checkpoint."""
    last = system.running.host.events.head
    checkpoint = latest_checkpoint(Paths(system.data_dir).checkpoints, last)
    return int(last - (checkpoint.sequence if checkpoint is not None else 0))


def _await_shadow(system: System) -> None:
    """Until the shadow has folded all too."""
    producer, deadline = system.running, time.monotonic() + SHADOW_SECONDS
    while {facts.name: facts.cursor for facts in producer.host.control.workers()}["shadow"] < producer.host.events.head:
        if time.monotonic() > deadline:
            raise SystemFailed("has a shadow that does not catch up")
        time.sleep(0.05)
