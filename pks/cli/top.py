"""`pks top`: what the running system does now: workers, sequences, rings, latencies; a screen that renews itself."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pks.cli.group import EXIT_USAGE, fail, quiet_config, system_options
from pks.cli.status import edge_lines, edges_of
from pks.cli.tables import pad, say, width_of
from pks.running import Running, find_running

if TYPE_CHECKING:
    from pks.segments.counters import Cell, Histogram
    from pks.topology import Host

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
FIRST_LOOK_SECONDS = 0.5
"""Between the two looks that the first frame's rates are made of."""

ALTERNATE_SCREEN, NORMAL_SCREEN = "\033[?1049h\033[?25l", "\033[?25h\033[?1049l"
HOME, END_OF_LINE, END_OF_SCREEN = "\033[H", "\033[K", "\033[J"
QUIT_KEYS = (b"q", b"Q", b"")
"""The last is the end of input: the terminal is gone. Ctrl-C comes as a signal."""


@dataclass(frozen=True)
class RingFact:
    """How full a ring is. waiting: records that the slowest reader who holds the writer back has still to read."""

    name: str
    capacity: int
    head: int
    waiting: int
    slowest: str


@dataclass(frozen=True)
class Look:
    """Everything that one look at the system found; times are CLOCK_MONOTONIC ns."""

    at_ns: int
    state: str
    shards: int
    accepted: int | None
    durable: int | None
    workers: list[Any]
    cells: list[Cell]
    rings: list[RingFact]
    processors: dict[int, float] = field(default_factory=dict)  # pid -> seconds of processor time so far


@click.command()
@system_options
@click.option("--once", is_flag=True, help="print one frame and end")
@click.option("--interval", type=click.FloatRange(0.1, 60.0), default=1.0, show_default=True, metavar="SECONDS", help="between two frames")
def top(once: bool, interval: float, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Watch the running system: workers, sequences and rates, rings, latency percentiles; q ends it.

    \b
    pks top
    pks top --once
    pks top --interval 0.2

    Rates and percentiles are of the time since the frame before; where nothing was measured in it, percentiles are since the start, in
    brackets. Exit 1 when no system runs, or when it ends.
    """
    from pks.topology import Host

    running = find_running(Path(quiet_config(config, data_dir, instance).data_dir))
    host = Host.open(running.instance, running.data_dir)
    if once:
        before = look(host)
        time.sleep(min(interval, FIRST_LOOK_SECONDS))
        say("\n".join(frame(running, before, look(host))) + "\n")
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        fail("a terminal is needed; use --once for one frame", EXIT_USAGE)
    with _screen() as keys, _asked_to_end() as asked:
        _watch(running, host, (keys, asked), interval)


def _watch(running: Running, host: Host, ends: tuple[int, int], interval: float) -> None:
    before, wait = look(host), min(interval, FIRST_LOOK_SECONDS)
    while not _quits(*ends, wait):
        now, wait = look(host), interval
        running = find_running(running.data_dir)  # what has become of the edges' servers
        size = shutil.get_terminal_size()
        lines = [clip(line, size.columns) for line in frame(running, before, now)[: size.lines - 1]]
        say(HOME + "".join(f"{line}{END_OF_LINE}\r\n" for line in lines) + END_OF_SCREEN)
        before = now


@contextmanager
def _screen() -> Iterator[int]:
    """The terminal's other screen, keys as they are pressed; both as before at the end, whatever happens. Gives the input's descriptor."""
    keys = sys.stdin.fileno()
    settings = termios.tcgetattr(keys)
    tty.setcbreak(keys)
    say(ALTERNATE_SCREEN)
    try:
        yield keys
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, settings)
        say(NORMAL_SCREEN)


@contextmanager
def _asked_to_end() -> Iterator[int]:
    """SIGINT and SIGTERM as a descriptor that can be read when one came. (An exception may be lost in a callback.)"""
    came, tell = os.pipe()
    os.set_blocking(tell, False)
    former = signal.set_wakeup_fd(tell)
    handlers = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(former)
        os.close(came)
        os.close(tell)


def _quits(keys: int, asked: int, seconds: float) -> bool:
    """Wait so long, for a key, or for a signal; whether it was one that ends."""
    deadline = time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([keys, asked], [], [], max(0.0, deadline - time.monotonic()))
        if asked in ready or (keys in ready and os.read(keys, 1) in QUIT_KEYS):
            return True
        if not ready:
            return False


# Looking.


def look(host: Host) -> Look:
    """One look. Raises StaleHost when the system is gone."""
    from pks.topology import SystemState

    control = host.control
    control.segment.check_live()
    state = host.system_state
    started = state is not SystemState.STARTING
    workers = control.workers()
    return Look(
        at_ns=time.monotonic_ns(),
        state=state.name,
        shards=host.shards,
        accepted=host.events.head if started else None,
        durable=host.durable_sequence if started else None,
        workers=workers,
        cells=control.read_cells(),
        rings=list(rings_of(host)) if started else [],
        processors={worker.pid: seconds for worker in workers if (seconds := processor_seconds(worker.pid)) is not None},
    )


def rings_of(host: Host) -> Iterator[RingFact]:
    """The events ring, each shard's, and the intake rings that were ever written."""
    yield ring_fact("events", host.events)
    for shard in range(host.shards):
        yield ring_fact(f"matches-{shard}", host.matches(shard).ring)
        yield ring_fact(f"updates-{shard}", host.updates(shard))
    for intake in host.intakes():
        for name, ring in ((f"intake-{intake.number}", intake.requests), (f"replies-{intake.number}", intake.replies)):
            if ring.head >= 0:
                yield ring_fact(name, ring)


def ring_fact(name: str, ring: Any) -> RingFact:
    """How full a ring is by its gating places; a ring without any holds nobody back."""
    from pks.segments.ring import ring_cursor

    head, slowest, behind = ring.head, "-", 0
    for number, place in enumerate(ring.places):
        waiting = head - int(ring_cursor(ring.control, number))
        if place.gating and waiting > behind:
            slowest, behind = place.name, waiting
    return RingFact(name, ring.capacity, head, behind, slowest)


def processor_seconds(pid: int) -> float | None:
    """Processor time of a process so far; None when it is gone."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold blanks
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")


# Showing.


def frame(running: Running, before: Look, now: Look) -> list[str]:
    """The lines of one frame: what `now` says, and rates since `before`."""
    seconds = max((now.at_ns - before.at_ns) / 1e9, 1e-9)
    return [
        *_head(running, before, now, seconds),
        "",
        *_workers(before, now, seconds),
        "",
        *edge_lines(edges_of(running.servers, now.workers, now.cells)),
        "",
        *_rings(before, now, seconds),
        "",
        *_latencies(before, now),
        "",
        *_metrics(before, now, seconds),
    ]


def _head(running: Running, before: Look, now: Look, seconds: float) -> list[str]:
    named = f" {running.instance}" if running.instance else ""
    applied = _applied(now)
    figures = (
        ("accepted", before.accepted, now.accepted),
        ("durable", before.durable, now.durable),
        ("applied", _applied(before), applied),
    )
    parts = [f"{name} {_count(value)} ({rate(old, value, seconds)}/s)" for name, old, value in figures]
    return [f"pks{named}  {now.state}  pid {running.pid}  {now.shards} shard(s)  {running.data_dir}", "  ".join(parts)]


def _applied(one: Look) -> int | None:
    return min((worker.cursor for worker in one.workers if worker.name.startswith("accumulator-")), default=None)


def _workers(before: Look, now: Look, seconds: float) -> list[str]:
    old = {worker.name: worker for worker in before.workers}
    rows = [("worker", "state", "pid", "core", "cpu %", "restarts", "beat ms", "cursor", "lag", "events/s", "last error")]
    for worker in now.workers:
        same_life = worker.name in old and old[worker.name].pid == worker.pid
        spent = now.processors.get(worker.pid, 0.0) - before.processors.get(worker.pid, 0.0) if worker.pid in before.processors else None
        alive = worker.pid and worker.heartbeat_ns
        rows.append(
            (
                worker.name,
                worker.state.name,
                str(worker.pid or "-"),
                "-" if worker.core < 0 else str(worker.core),
                "-" if spent is None else f"{100 * spent / seconds:.0f}",
                str(worker.restarts_count),
                str((now.at_ns - worker.heartbeat_ns) // 1_000_000) if alive else "-",
                str(worker.cursor),
                str(worker.lag),
                rate(old[worker.name].work_count if same_life else None, worker.work_count, seconds),
                worker.last_error,
            )
        )
    return aligned(rows, left=(0, 1, 10))


def _rings(before: Look, now: Look, seconds: float) -> list[str]:
    old = {ring.name: ring for ring in before.rings}
    rows = [("ring", "capacity", "head", "records/s", "waiting", "full %", "slowest")]
    for ring in now.rings:
        earlier = old[ring.name].head if ring.name in old else None
        full = 100 * ring.waiting / ring.capacity
        figures = (f"{ring.capacity:,}", _count(ring.head), rate(earlier, ring.head, seconds), f"{ring.waiting:,}", f"{full:.1f}")
        rows.append((ring.name, *figures, ring.slowest))
    return aligned(rows, left=(0, 6))


def _latencies(before: Look, now: Look) -> list[str]:
    from pks.segments.counters import Histogram

    owners = {worker.owner: worker.name for worker in now.workers}
    old = {(cell.owner, cell.name): cell.value for cell in before.cells}
    rows = [("histogram", "count", *(f"p{percent:g}" for percent in PERCENTILES), "max")]
    for cell in now.cells:
        if isinstance(cell.value, Histogram) and cell.value.count:
            earlier = old.get((cell.owner, cell.name))
            fresh = since(earlier if isinstance(earlier, Histogram) else None, cell.value)
            shown = fresh if fresh.count else cell.value
            write = duration if cell.name.endswith("_ns") else "{:,}".format
            texts = [write(value) for value in shown.percentiles(PERCENTILES)]
            figures = texts if fresh.count else [f"[{text}]" for text in texts]
            name = f"{owners.get(cell.owner, 'supervisor')} {cell.name}"
            rows.append((name, f"{cell.value.count:,}", *figures, write(cell.value.max_ns)))
    return aligned(rows, left=(0,)) if len(rows) > 1 else ["no latencies measured yet"]


def _metrics(before: Look, now: Look, seconds: float) -> list[str]:
    from pks.layouts.segment import CellKind

    owners = {worker.owner: worker.name for worker in now.workers}
    old = {(cell.owner, cell.name): cell.value for cell in before.cells}
    rows = [("metric", "value", "per s")]
    for cell in now.cells:
        if isinstance(cell.value, int) and cell.value and cell.owner in owners:
            earlier = old.get((cell.owner, cell.name))
            each = rate(earlier, cell.value, seconds) if cell.kind == CellKind.COUNTER and isinstance(earlier, int) else ""
            rows.append((f"{owners[cell.owner]} {cell.name}", _count(cell.value), each))
    return aligned(rows, left=(0,))


def since(before: Histogram | None, now: Histogram) -> Histogram:
    """What was recorded between two readings; the largest value is the later reading's."""
    from pks.segments.counters import Histogram

    if before is None or before.count > now.count:  # it was not there, or is of another start
        return now
    return Histogram(now.buckets - before.buckets, now.sum_ns - before.sum_ns, now.max_ns)


def rate(before: int | None, now: int | None, seconds: float) -> str:
    """How many a second; "-" where that is not known."""
    if before is None or now is None or now < before:
        return "-"
    return f"{(now - before) / seconds:,.0f}"


def duration(value_ns: int) -> str:
    """A latency with three digits and its unit."""
    for unit, size in (("ns", 1), ("us", 1_000), ("ms", 1_000_000)):
        if value_ns < 1000 * size:
            return f"{_three_digits(value_ns / size)} {unit}"
    return f"{_three_digits(value_ns / 1e9)} s"


def _three_digits(value: float) -> str:
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def aligned(rows: Sequence[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    """Rows in columns, to the right but for those of `left`."""
    widths = [max(width_of(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(pad(row[place], width, place not in left) for place, width in enumerate(widths)).rstrip() for row in rows]


def clip(line: str, columns: int) -> str:
    """As much of the line as the terminal has columns for."""
    while width_of(line) > columns:
        line = line[:-1]
    return line
