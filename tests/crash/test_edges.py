"""Networks and servers that fail while trades are booked: nobody who books notices, and in the end every edge has every event once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psutil
import pytest

from tests.conftest import wait_until
from tests.crash.keep_servers import Kept, kept, why_missing
from tests.crash.nats_server import NatsServer, nats_server
from tests.crash.system import SECONDS, Feeder, LiveDay, System, judge, judge_fold, running
from tests.crash.test_edge_nats import judge_streams
from tests.crash.test_edge_postgres import judge_tables
from tests.fault_proxy import Fault, FaultProxy

NEEDED = ("postgres", "nats")
STEPS_A_FAULT = 30
OUTAGE_SECONDS, OUTAGE_SECONDS_LONG = 1.0, 60.0
ANSWER_SECONDS_MAX = 20.0
"""How long an answer may take on a loaded machine while an edge is down; a core that waited for the edge would take the outage and more."""

pytestmark = [
    pytest.mark.skipif(any(map(why_missing, NEEDED)), reason=" ".join(map(why_missing, NEEDED)) or "the servers are here"),
]


@dataclass
class Outside:
    """The servers, and the wires to them."""

    postgres: Kept
    nats: NatsServer
    postgres_wire: FaultProxy
    nats_wire: FaultProxy

    @property
    def settings(self) -> dict[str, str]:
        return {
            "edges": "external",
            "edges.postgres_url": through(self.postgres.place("postgres").url, self.postgres_wire.port),
            "edges.nats_url": through(self.nats.server.url(), self.nats_wire.port),
            "edges.nats_nkey": str(self.nats.server.seed_file("pks")),
        }


def through(url: str, port: int) -> str:
    """The URL with the proxy's port."""
    parts = urlsplit(url)
    user = f"{parts.username}:{parts.password}@" if parts.username else ""
    return urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}"))


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    with ExitStack() as stack:
        postgres = stack.enter_context(kept(tmp_path / "postgres", only="postgres"))
        postgres.start("postgres")
        nats = stack.enter_context(nats_server(tmp_path / "nats"))
        wires = [stack.enter_context(FaultProxy(port)) for port in (postgres_port(postgres), nats.server.ports["client"])]
        yield Outside(postgres, nats, *wires)


def postgres_port(postgres: Kept) -> int:
    port = urlsplit(postgres.place("postgres").url).port
    assert port is not None
    return port


def stop_all(pid: int, number: signal.Signals) -> None:
    """A signal for a process and its children."""
    for process in (*psutil.Process(pid).children(recursive=True), psutil.Process(pid)):
        with suppress(ProcessLookupError):  # a child that has just done its work
            os.kill(process.pid, number)


def faults(outside: Outside) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """Name -> how it begins and how it ends."""

    def wire(one: FaultProxy, fault: Fault) -> tuple[Callable[[], None], Callable[[], None]]:
        return lambda: setattr(one, "fault", fault), lambda: setattr(one, "fault", Fault.NONE)

    def paused(pid: Callable[[], int]) -> tuple[Callable[[], None], Callable[[], None]]:
        return lambda: stop_all(pid(), signal.SIGSTOP), lambda: stop_all(pid(), signal.SIGCONT)

    def nats_pid() -> int:
        assert outside.nats.process is not None, "started"
        return outside.nats.process.pid

    return {
        "postgres cut": wire(outside.postgres_wire, Fault.CUT),
        "postgres stalled": wire(outside.postgres_wire, Fault.STALL),
        "postgres stopped": paused(lambda: int(outside.postgres.facts("postgres")["pid"])),
        "nats cut": wire(outside.nats_wire, Fault.CUT),
        "nats stalled": wire(outside.nats_wire, Fault.STALL),
        "nats stopped": paused(nats_pid),
    }


def book_through(day: LiveDay, feeder: Feeder, seconds: float) -> float:
    """Book for so long and at least some steps; the longest wait for all answers."""
    longest, end = 0.0, time.monotonic() + seconds
    for step in range(10**6):
        if step >= STEPS_A_FAULT and time.monotonic() >= end:
            break
        day.step()
        if step % 20 == 0:
            asked = time.monotonic()
            feeder.settle()
            longest = max(longest, time.monotonic() - asked)
    return longest


def live_through(
    system: System, outside: Outside, seed: int, seconds: float, judged: Callable[[System, Feeder], Any] = judge
) -> dict[str, float]:
    """Every fault in turn, then everything is held against the journal; the longest wait for answers by fault."""
    system.start()
    feeder = Feeder(system, seed)
    day = LiveDay(seed, feeder)
    waits = {"no fault": book_through(day, feeder, seconds)}
    for name, (begin, end) in faults(outside).items():
        begin()
        try:
            waits[name] = book_through(day, feeder, seconds)
            assert system.workers()["capture"].restarts_count == 0, name
        finally:
            end()
    judged(system, feeder)
    judge_streams(system, outside.nats)
    judge_tables(system, outside.postgres)
    feeder.close()
    assert system.stop() == 0
    return waits


@pytest.mark.timeout(900)
def test_wires_and_servers_fail(outside: Outside, tmp_path: Path, seed: int) -> None:
    with running(tmp_path, "edges", **outside.settings) as system:
        waits = live_through(system, outside, seed, OUTAGE_SECONDS)
        assert max(waits.values()) < ANSWER_SECONDS_MAX, waits


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_wires_and_servers_fail_for_a_minute(outside: Outside, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, "edgeslong", **outside.settings) as system:
        waits = live_through(system, outside, seed, OUTAGE_SECONDS_LONG, judge_fold)
        assert max(waits.values()) < ANSWER_SECONDS_MAX, waits
    with capsys.disabled():
        print(f"\nlongest wait for answers, s: { {name: round(wait, 2) for name, wait in waits.items()} }")


@pytest.mark.timeout(600)
def test_a_start_without_any_server_waits_for_none(outside: Outside, tmp_path: Path, seed: int) -> None:
    outside.postgres_wire.fault = outside.nats_wire.fault = Fault.CUT
    with running(tmp_path, "edgesdown", **outside.settings) as system:
        system.start()
        feeder = Feeder(system, seed)
        day = LiveDay(seed, feeder)
        for _ in range(STEPS_A_FAULT):
            day.step()
        feeder.settle()
        for worker in ("records", "bus"):
            wait_until(lambda name=worker: system.workers()[name].last_error, SECONDS, f"{worker} says that its server is not there")
        outside.postgres_wire.fault = outside.nats_wire.fault = Fault.NONE
        judge_streams(system, outside.nats)
        judge_tables(system, outside.postgres)
        feeder.close()
        assert system.stop() == 0
