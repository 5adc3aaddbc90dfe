"""The health of the system in figures: workers, rings with their readers, cursors, latencies, counters.

Owns what the health screen says, as plain rows; the screen only lays them out. Reads the control segment and the rings' control words, and
may not judge (the supervisor does) or draw.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pks.base.clock import Clock, format_time
from pks.edges.chat.keep import AlertFile
from pks.layouts.segment import CellKind, WorkerState
from pks.segments.counters import Histogram
from pks.segments.ring import Ring, ring_cursor
from pks.topology import CHANNELS, Host, Kind, Paths, instances_of
from pks.tui.figures import age, nanoseconds

ALERTS_SHOWN = 5

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class WorkerLine(NamedTuple):
    """One worker. age: since its last heartbeat."""

    name: str
    state: str
    pid: str
    core: str
    restarts: int
    age: str
    since: str
    cursor: int
    lag: int
    work: int
    last_error: str
    is_well: bool


class RingLine(NamedTuple):
    """One reader of a ring, or the ring itself (reader "") with its fill.

    cursor, lag: None for a free reader that tells nobody where it is.
    """

    ring: str
    reader: str
    gates: bool
    capacity: int
    published: int
    cursor: int | None
    lag: int | None
    fill_percent: float


class LatencyLine(NamedTuple):
    """One histogram."""

    worker: str
    name: str
    values_count: int
    percentiles: tuple[str, ...]
    mean: str
    largest: str


class CounterLine(NamedTuple):
    """One counter or gauge."""

    worker: str
    name: str
    kind: str
    value: int


class AlertLine(NamedTuple):
    """One alert. time: when its window began, UTC."""

    alert_class: str
    severity: str
    time: str
    events: int
    text: str
    state: str


@dataclass(frozen=True, slots=True)
class Health:
    """All of it at one moment."""

    state: str
    workers: list[WorkerLine]
    rings: list[RingLine]
    latencies: list[LatencyLine]
    counters: list[CounterLine]
    edges: str
    alerts: list[AlertLine]


def read_alerts(data_dir: Path | None) -> list[AlertLine]:
    """The latest alerts of the system whose data lie in `data_dir` (None: not known here), the newest first."""
    if data_dir is None:
        return []
    try:
        alerts = AlertFile(Paths(data_dir).run).read(ALERTS_SHOWN)
    except OSError:  # the folder is not for this user
        return []
    return [
        AlertLine(one.alert_class.replace("_", " "), one.severity, format_time(one.window_start_ns, 0), one.count, one.text, one.state)
        for one in alerts
    ]


def read_edges(data_dir: Path | None) -> str:
    """The states of the edges' servers, from the run file of the system whose data lie in `data_dir` (None: not known here)."""
    if data_dir is None:
        return "unknown"
    try:
        servers = json.loads(Paths(data_dir).run_file.read_text())["servers"]
    except (OSError, ValueError, KeyError):  # it ends, or the file is not for this user
        return "unknown"
    if all(server["mode"] == "none" for server in servers.values()):
        return "none"
    return "  ".join(f"{name} {server['state']}" for name, server in servers.items())


def read_health(host: Host, clock: Clock, data_dir: Path | None = None) -> Health:
    """Look once. Raises StaleHost, SegmentMissing, SegmentNotReady, UnstableSlot."""
    now_ns = clock.monotonic_ns()
    workers = [
        WorkerLine(
            name=facts.name,
            state=WorkerState(facts.state).name,
            pid=str(facts.pid or "-"),
            core="-" if facts.core < 0 else str(facts.core),
            restarts=facts.restarts_count,
            age=age(now_ns - facts.heartbeat_ns) if facts.pid and facts.heartbeat_ns else "-",
            since=age(now_ns - facts.since_ns) if facts.since_ns else "-",
            cursor=facts.cursor,
            lag=facts.lag,
            work=facts.work_count,
            last_error=" ".join(facts.last_error.split()),
            is_well=facts.state in (WorkerState.READY, WorkerState.STOPPED),
        )
        for facts in host.control.workers()
    ]
    names = {facts.owner: facts.name for facts in host.control.workers()} | {host.supervisor: "supervisor"}
    latencies, counters = [], []
    for cell in host.control.read_cells():
        worker = names.get(cell.owner, f"#{cell.owner}")
        if isinstance(cell.value, Histogram):
            said = nanoseconds if cell.name.endswith("_ns") else _count  # a histogram may count records as well
            wanted = tuple(said(value) for value in cell.value.percentiles(PERCENTILES))
            mean = said(int(cell.value.mean_ns))
            latencies.append(LatencyLine(worker, cell.name, cell.value.count, wanted, mean, said(cell.value.max_ns)))
        else:
            counters.append(CounterLine(worker, cell.name, CellKind(cell.kind).name.lower(), cell.value))
    edges, alerts = read_edges(data_dir), read_alerts(data_dir)
    return Health(host.system_state.name, workers, list(_ring_lines(host)), latencies, counters, edges, alerts)


def _count(value: int) -> str:
    return f"{value:,}"


def _ring_lines(host: Host) -> Iterator[RingLine]:
    """Every ring in the order in which data moves; of the sources' intake rings only those that were ever used."""
    for one in CHANNELS:
        if one.kind in (Kind.CONTROL, Kind.SLOTS):
            continue
        for index in range(instances_of(one, host.shards, host.sources)):
            if one.kind is Kind.INTAKE:
                intake = host.reentry(index) if one.upward else host.intake(index)
                if intake.requests.head > intake.requests.start:
                    yield from _ring_of(intake.requests)
                    yield from _ring_of(intake.replies)
            elif one.name == "events":
                yield from _ring_of(host.events)
            elif one.kind is Kind.RING:
                yield from _ring_of(host.updates(index))
            else:
                segment = host.segment(one.name, index)
                yield from _ring_of(Ring.attach(segment.body, one.label(index), one.layout.dtypes[0]))


def _ring_of(ring: Ring) -> Iterator[RingLine]:
    # The writer's head is read last, so that no reader seems to be ahead of it.
    readers = [(place, int(ring_cursor(ring.control, number))) for number, place in enumerate(ring.places)]
    head = ring.head
    slowest = min([cursor for place, cursor in readers if place.gating], default=None)
    held = 0 if slowest is None else head - slowest
    yield RingLine(ring.name, "", False, ring.capacity, head - ring.start, head, held, 100.0 * held / ring.capacity)
    for place, cursor in readers:
        told = place.gating or cursor > ring.start
        where, lag = (cursor, head - cursor) if told else (None, None)
        yield RingLine(ring.name, place.name, place.gating, ring.capacity, head - ring.start, where, lag, 0.0)
