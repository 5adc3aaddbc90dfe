"""kill -9 of servers and edge workers at random times under a thousand fills a second: in the end every edge has every event once."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import nats.errors
import pytest

from pks.base.clock import NS_PER_SECOND, format_time
from pks.edges.files.rows import TradeRow
from pks.edges.nats.streams import TRADE_BOOKED
from pks.engine.booking.border import Border
from pks.engine.instruments.definitions import Book
from pks.topology import Host
from tests.conftest import wait_until
from tests.crash.keep_servers import Kept, why_missing
from tests.crash.nats_server import NatsServer
from tests.crash.system import SECONDS, Feeder, LiveDay, System, judge_fold, running
from tests.crash.test_edge_nats import judge_streams
from tests.crash.test_edge_postgres import ask, judge_tables
from tests.crash.test_edge_timeseries import wait_same

SERVERS = ("nats", "postgres", "questdb", "redis")
WORKERS = ("bus", "records", "timeseries", "reaper", "alerts", "shadow")
KILLS = 100
FILLS_A_SECOND = 1000
PAUSE_SECONDS = (0.2, 2.5)
DRAIN_SECONDS = 900.0
START_NS = 1_800_000_000 * NS_PER_SECOND - 400 * 86_400 * NS_PER_SECOND
BOOKS = ("P", "Q", "R")

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(any(map(why_missing, SERVERS)), reason=" ".join(map(why_missing, SERVERS)) or "the servers are here"),
]


class Flow:
    """Plain fills at a steady rate in books of their own, with corrections and the like among them."""

    def __init__(self, feeder: Feeder, day: LiveDay) -> None:
        self.feeder, self.day, self.fills = feeder, day, 0
        for code in BOOKS:
            feeder.define(
                Book(
                    code=code, entity="E", method="FIFO", oversell="FLIP", fees_in_cost=False, report_currency="USD", zone="UTC", name=code
                )
            )
        self.border = Border(feeder.booking.catalogue)
        self.began = time.monotonic()

    def fill(self) -> None:
        """One fill; each book buys and sells in turn, so that lots stay few."""
        number, self.fills = self.fills, self.fills + 1
        row = TradeRow(
            line=1, row=1, trade_id=f"k{number}", book=BOOKS[number % len(BOOKS)], instrument="EQ", account="acc1",
            side="BUY" if number // len(BOOKS) % 2 == 0 else "SELL", quantity=str(1 + number % 7 // 6), price=f"{10 + number % 5}",
            trade_time=format_time(START_NS + number * 1_000_003),
        )  # fmt: skip
        self.feeder.book(self.border.group_of(row))

    def run(self, seconds: float, steps: int) -> None:
        """So long at the rate, with some steps of the random day among the fills."""
        began, first = time.monotonic(), self.fills
        every = max(1, int(seconds * FILLS_A_SECOND) // max(1, steps))
        while (elapsed := time.monotonic() - began) < seconds:
            for _ in range(min(200, int(elapsed * FILLS_A_SECOND) - (self.fills - first))):
                self.fill()
                if self.fills % every == 0:
                    self.day.step()
            self.feeder.pump()
            time.sleep(0.002)  # the rest of the time is the system's


def server_pid(system: System, name: str) -> int:
    """0 while it is between two lives."""
    return int(system.run_file()["servers"][name]["pid"] or 0)


def kill(system: System, victim: str) -> None:
    if victim in WORKERS:
        system.kill(victim)
        return
    wait_until(lambda: server_pid(system, victim), SECONDS, f"{victim} lives")
    with suppress(ProcessLookupError):  # it was about to end
        os.kill(server_pid(system, victim), signal.SIGKILL)


def servers_are_ready(system: System) -> bool:
    return all(facts["state"] == "READY" for facts in system.run_file()["servers"].values())


def publish_garbage(server: NatsServer, number: int) -> bool:
    """A message that is no trade, once; False while the server does not take it."""
    try:
        server.publish(TRADE_BOOKED, b"no trade %d" % number, headers={"Nats-Msg-Id": f"garbage-{number}"})
    except (OSError, TimeoutError, nats.errors.Error):  # killed a moment ago
        return False
    return True


def edges_have(system: System, last: int) -> bool:
    control = Host.open(system.instance).control
    names = {facts.owner: facts.name for facts in control.workers()}
    cells = {(names.get(cell.owner), cell.name): cell.value for cell in control.read_cells()}
    snapshot = cells.get(("shadow", "snapshot_cursor"))
    return all(cells.get((worker, "edge_cursor")) == last for worker in ("bus", "records", "timeseries")) and snapshot == last


def judge_letters(postgres: Kept, server: NatsServer, count: int) -> None:
    """Each message that could not be booked is one dead letter, in the stream and in the table."""
    letters = Counter(message.data for message in server.messages("DLQ"))
    assert letters == Counter(b"no trade %d" % number for number in range(count))

    async def rows(connection: Any) -> list[bytes]:
        return [bytes(row["payload"]) for row in await connection.fetch("select payload from back_office.dead_letter")]

    wait_until(lambda: len(ask(postgres, rows)) >= count, SECONDS, "dead letters in Postgres")
    assert Counter(ask(postgres, rows)) == letters


def judge_alerts(system: System) -> int:
    """The last word on each alert; how many there are."""
    told = Counter()  # type: Counter[tuple[str, int]]
    for line in (system.paths.run / "alerts.jsonl").read_text().splitlines():
        alert = json.loads(line)
        told[alert["class"], alert["window_start_ns"]] += 1
    windows = sorted(told)
    for (one, start), (other, later) in pairwise(windows):
        assert one != other or later - start >= 300 * NS_PER_SECOND, f"{one} was told twice in a window"
    return len(windows)


def test_a_hundred_kills(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    chance = random.Random(seed)
    victims = [*SERVERS, *WORKERS, *chance.choices((*SERVERS, *WORKERS), k=KILLS - len(SERVERS) - len(WORKERS))]
    chance.shuffle(victims)
    settings = {"journal.segment_records": "65536", "shm.matches": "65536"}
    with running(tmp_path, "hundred", edges="embedded", **settings) as system:
        system.start()
        wait_until(lambda: servers_are_ready(system), 120, "the servers")
        feeder = Feeder(system, seed)
        flow = Flow(feeder, LiveDay(seed, feeder))
        server, postgres = NatsServer(system.data_dir), Kept(system.data_dir)
        garbage, flowed = 0, 0.0
        for victim in victims:
            seconds = chance.uniform(*PAUSE_SECONDS)
            started = time.monotonic()
            flow.run(seconds, chance.randint(2, 10))
            flowed += time.monotonic() - started
            if chance.random() < 0.3:
                garbage += publish_garbage(server, garbage)
            kill(system, victim)
            if chance.random() < 0.2:
                system.wait_whole()
        feeder.settle()
        killed = time.monotonic()
        wait_until(lambda: servers_are_ready(system), 120, "the servers again")
        system.wait_whole()
        while not publish_garbage(server, garbage):
            time.sleep(0.1)
        garbage += 1
        wait_until(lambda: server.pending(system) == 0, SECONDS, "all answered")
        last = judge_fold(system, feeder)
        wait_until(lambda: edges_have(system, last), DRAIN_SECONDS, f"all edges at the end: {system.workers()}")
        drained = time.monotonic()
        judge_streams(system, server)
        judge_tables(system, postgres)
        wait_same(system)
        judge_letters(postgres, server, garbage)
        alerts = judge_alerts(system)
        core = {name: facts.restarts_count for name, facts in system.workers().items() if name not in WORKERS}
        assert set(core.values()) == {0}, f"the core was left alone: {core}"
        feeder.close()
        assert system.stop() == 0
    with capsys.disabled():
        print(
            f"\nseed {seed}: {len(victims)} kills {dict(sorted(Counter(victims).items()))}; {flow.fills} fills, "
            f"{flow.fills / flowed:.0f} a second, {last} events; dead letters {garbage}, alerts {alerts}; "
            f"killing {(killed - began) / 60:.1f} min, drained {drained - killed:.0f} s after, "
            f"{(time.monotonic() - began) / 60:.1f} min in all"
        )
