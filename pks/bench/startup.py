"""`pks bench startup`: `pks run` until it takes trades, and until its embedded servers are ready too; what a system at rest takes.

Promises, design section 9 and the edges' own: `startup_s` with a checkpoint at most 5 M events old, `startup_servers_s` with NATS, Postgres
and Redis ready (QuestDB apart: its Java starts in seconds of its own), `idle_core_percent` of one core and `idle_pss_mb` over every process
of a system at rest, with every server that this machine can run.
"""

from __future__ import annotations

import json
import time

import psutil

from pks.bench.desk import definitions, trades
from pks.bench.report import Measured, Plan, Promise, result
from pks.bench.system import System, SystemFailed
from pks.topology import Paths
from pks.workers.edges.edge import CELL_LAG, CELL_STATE, EdgeState

EVENTS_FULL, EVENTS_USUAL, EVENTS_TINY = 5_000_000, 200_000, 2000
GROUP = 1024
BOOKS, INSTRUMENTS = 20, 100
SERVERS = ("nats", "postgres", "redis")
SERVERS_SECONDS_MAX = 120.0
SETTLE_SECONDS, REST_SECONDS = 15.0, 30.0
"""A system rests when every edge has all, and some seconds more; then it is watched."""

EDGES_SECONDS_MAX = 600.0
LOOK_SECONDS = 0.01


def measure(plan: Plan) -> Measured:
    """Start alone, and with servers, in turns; then look at a system at rest."""
    found = Measured(runs=plan.rounds(5), wait="auto")
    events = plan.size(EVENTS_FULL if plan.full else EVENTS_USUAL, EVENTS_TINY)
    alone, whole = [], []
    folder = plan.folder / "data"
    with System(folder, PKS_CHECKPOINT_EVENTS=str(2 * EVENTS_FULL)) as system:
        system.start()
        system.define(definitions(BOOKS, INSTRUMENTS))
        for number, first in enumerate(range(0, events, EVENTS_USUAL)):
            part = min(EVENTS_USUAL, events - first)
            system.send_all(trades(part, 1, BOOKS, INSTRUMENTS, seed=1 + number, known=False), GROUP)
        system.kill()  # without a checkpoint: all is folded at each start
        for _ in range(found.runs):
            alone.append(system.start())
            system.kill()
    with System(folder, edges="embedded", PKS_CHECKPOINT_EVENTS=str(2 * EVENTS_FULL)) as system:
        system.start()  # servers make their folders
        _await_servers(system)
        for _ in range(found.runs):
            system.stop()
            for checkpoint in Paths(folder).checkpoints.iterdir():
                checkpoint.unlink()  # as without servers
            began = time.perf_counter()
            system.start()
            _await_servers(system)
            whole.append(time.perf_counter() - began)
        _await_edges(system)
        time.sleep(plan.size(int(SETTLE_SECONDS), 1))
        percent, pss, parts = _at_rest(system, plan.size(int(REST_SECONDS), 1))
        parts["segments, mapped by somebody or not"] = system.segments_mb()
    ready, served = result("pks run to ready", "s", alone), result("pks run to ready with servers", "s", whole)
    found.promises = [
        Promise("startup_s", "<=", 3, ready.p50, ready.p50),
        Promise("startup_servers_s", "<=", 6, served.p50, served.p50, None, ", ".join(SERVERS)),
        Promise("idle_core_percent", "<=", 6, percent, percent, None, "of one core, every process"),
        Promise("idle_pss_mb", "<=", 1200, pss, pss, None, "every process, segments counted once"),
    ]
    found.results = [ready, served, *(result(f"at rest: {name}", "MB", [held]) for name, held in sorted(parts.items()))]
    found.notes = [f"{events:,} events behind the newest checkpoint at each start"]
    return found


def _await_servers(system: System) -> None:
    """Until the servers take clients, by the run file."""
    path, deadline = Paths(system.data_dir).run_file, time.monotonic() + SERVERS_SECONDS_MAX
    while True:
        states = {name: one["state"] for name, one in json.loads(path.read_text())["servers"].items()}
        if all(states.get(name) == "READY" for name in SERVERS):
            return
        if time.monotonic() > deadline:
            raise SystemFailed(f"has servers that are not ready in time: {states}")
        time.sleep(LOOK_SECONDS)


def _await_edges(system: System) -> None:
    """Until every edge that has a server has all events, by its own cells."""
    host, deadline = system.running.host, time.monotonic() + EDGES_SECONDS_MAX
    while True:
        cells = host.control.read_cells()
        states = {cell.owner: cell.value for cell in cells if cell.name == CELL_STATE}
        behind = {cell.owner: cell.value for cell in cells if cell.name == CELL_LAG and cell.value}
        if states and all(state == EdgeState.UP for state in states.values()) and not behind:
            return
        if time.monotonic() > deadline:
            raise SystemFailed(f"has edges that do not come to the end: states {states}, lags {behind}")
        time.sleep(LOOK_SECONDS)


def _at_rest(system: System, seconds: float) -> tuple[float, float, dict[str, float]]:
    """(percent of one core, proportional set size in MB, the same by process) of all processes of the system."""
    assert system.process is not None, "started"
    root = psutil.Process(system.process.pid)
    processes = [root, *root.children(recursive=True)]
    before = sum(_processor_seconds(one) for one in processes)
    began = time.monotonic()
    time.sleep(seconds)
    spent = sum(_processor_seconds(one) for one in processes) - before
    percent = 100 * spent / (time.monotonic() - began)
    parts: dict[str, float] = {}
    for one in processes:
        name = " ".join(one.cmdline()[:2]).partition(" [")[0].rsplit("/", 1)[-1][:40] or one.name()
        parts[name] = parts.get(name, 0.0) + one.memory_full_info().pss / 2**20
    return percent, sum(parts.values()), parts


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
