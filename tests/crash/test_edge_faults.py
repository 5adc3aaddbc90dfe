"""Servers without room and clocks that step: the edge says so and goes on by itself, nothing is lost or doubled, the core never notices."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pks.base.clock import NS_PER_SECOND
from pks.cli.group import main
from pks.edges.nats.streams import TRADE_BOOKED
from pks.topology import Host
from pks.workers.edges.edge import EdgeState
from tests.conftest import full_disk, wait_until
from tests.crash.keep_servers import kept, why_missing
from tests.crash.nats_server import NatsServer, nats_server
from tests.crash.system import SECONDS, Feeder, LiveDay, System, running
from tests.crash.test_edge_nats import booked, desk, ids_booked, judge_streams, trade, wait_caught_up
from tests.crash.test_edge_postgres import judge_tables

pytestmark = pytest.mark.timeout(900)

STEPS_MAX = 20_000
FULL_STORE_BYTES = (1 << 20) + 400_000
"""Of JetStream: the hints' bucket has a reserve of 1 MiB."""


def cells(system: System, worker: str) -> dict[str, int]:
    control = Host.open(system.instance).control
    owners = {facts.owner for facts in control.workers() if facts.name == worker}
    return {cell.name: cell.value for cell in control.read_cells() if cell.owner in owners and isinstance(cell.value, int)}


def book_until_down(system: System, day: LiveDay, feeder: Feeder, worker: str, words: str) -> None:
    """Book until that worker's server takes nothing more, and says so in these words; the core goes on."""

    def is_down() -> bool:
        return cells(system, worker)["edge_state"] == EdgeState.DOWN and words in system.workers()[worker].last_error

    for _ in range(STEPS_MAX):
        day.step()
        if is_down():
            break
    else:
        pytest.fail(f"{worker} is not down: {system.log(worker)[-3:]}")
    for _ in range(60):
        day.step()
    feeder.settle()
    wait_until(lambda: cells(system, worker)["edge_lag"] > 0 and is_down(), SECONDS, f"{worker} waits")
    shown = CliRunner().invoke(main, ["status", "--data-dir", str(system.data_dir), "--instance", system.instance]).output
    assert words in shown, shown


def judge_core(system: System) -> None:
    """Nobody died of it."""
    assert {name: facts.restarts_count for name, facts in system.workers().items() if facts.restarts_count} == {}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with nats_server(tmp_path / "nats") as made:
        yield made


@pytest.mark.long
def test_jetstream_without_room(server: NatsServer, tmp_path: Path, seed: int) -> None:
    server.start_with_room(FULL_STORE_BYTES)
    with running(tmp_path, "busfull", **server.settings) as system:
        system.start()
        feeder = Feeder(system, seed)
        day = LiveDay(seed, feeder)
        wait_until(lambda: cells(system, "bus").get("edge_state") == EdgeState.UP, SECONDS, "the bus is up")
        server.publish("bo.events.v1.9", *[bytes(20_000)] * 10)  # of another system: what is left is soon full
        book_until_down(system, day, feeder, "bus", "insufficient resources")
        server.start_with_room(1 << 30)
        judge_streams(system, server)
        judge_core(system)
        feeder.close()
        assert system.stop() == 0


@pytest.mark.long
def test_the_disk_of_jetstream_is_full(mount_small: Callable[..., Path], tmp_path: Path, seed: int) -> None:
    """The embedded server: its keeper brings it back when there is room."""
    nowhere = {
        "edges.redis_url": "redis://127.0.0.1:1",
        "edges.questdb_url": "http://127.0.0.1:1",
        "edges.postgres_url": "postgresql://n@127.0.0.1:1/n",
    }
    disk = mount_small("32m", tmp_path / "busdisk" / "servers" / "nats" / "jetstream")
    with running(tmp_path, "busdisk", edges="embedded", **nowhere) as system:
        system.start()
        feeder = Feeder(system, seed)
        day = LiveDay(seed, feeder)
        for _ in range(50):
            day.step()
        feeder.settle()
        wait_caught_up(system)
        make_room = full_disk(disk, 1 << 17)
        book_until_down(system, day, feeder, "bus", "")
        assert system.workers()["bus"].last_error
        make_room()
        judge_embedded(system)
        judge_core(system)
        feeder.close()
        assert system.stop() == 0


def judge_embedded(system: System) -> None:
    """`judge_streams` with the system's own server."""
    own = NatsServer(system.data_dir)
    judge_streams(system, own)


@pytest.mark.long
@pytest.mark.skipif(bool(why_missing("postgres")), reason=why_missing("postgres") or "it is there")
def test_the_disk_of_postgres_is_full(mount_small: Callable[..., Path], tmp_path: Path, seed: int) -> None:
    """Whether it is the write-ahead log or a table that finds no room: the server may even end, and its keeper brings it back."""
    disk = mount_small("160m", tmp_path / "postgres" / "servers" / "postgres")
    with kept(tmp_path / "postgres", only="postgres") as postgres:
        postgres.start("postgres")
        with running(tmp_path, "rowsfull", edges="external", **{"edges.postgres_url": postgres.place("postgres").url}) as system:
            system.start()
            feeder = Feeder(system, seed)
            day = LiveDay(seed, feeder)
            for _ in range(50):
                day.step()
            judge_tables(system, postgres)
            make_room = full_disk(disk, 1 << 19)
            book_until_down(system, day, feeder, "records", "")
            errors = " ".join(str(line.get("error")) for line in system.log("records"))
            assert re.search("No space left on device|DiskFull|ConnectionRefused|connection was closed|recovery mode", errors), errors
            make_room()
            judge_tables(system, postgres)
            judge_core(system)
            feeder.close()
            assert system.stop() == 0


def test_clocks_that_step(server: NatsServer, tmp_path: Path, seed: int) -> None:
    """All workers' wall clocks step back and ahead: lags are never negative, cursors go on, an alert's window is none of the future."""
    clock = tmp_path / "clock"
    rules = json.dumps({"rejections": {"window": 3600}})
    with running(tmp_path, "busclock", clock=str(clock), **server.settings, **{"alerts.rules": rules}) as system:
        system.start()
        feeder = Feeder(system, seed)
        desk(feeder)
        wait_until(lambda: cells(system, "bus").get("edge_state") == EdgeState.UP, SECONDS, "the bus is up")
        cursor, letters = 0, 0
        for step in (7200, -3600, 86_400 * 2, -600):  # seconds
            clock.write_text(str(step * NS_PER_SECOND))
            now_ns = time.time_ns() + step * NS_PER_SECOND
            for ahead, name in ((240, "soon"), (400, "late")):
                message = trade(f"{name}{step}", trade_time_ns=now_ns + ahead * NS_PER_SECOND)
                server.publish(TRADE_BOOKED, booked(message), user="booker")
            letters += 1
            for number in range(20):
                server.publish(TRADE_BOOKED, booked(trade(f"any{step}.{number}")), user="booker")
                shown = cells(system, "bus")
                assert shown["edge_lag"] >= 0 and shown["edge_lag_ms"] >= 0
            wait_until(lambda: server.pending(system) == 0, SECONDS, "all answered")
            reached = wait_caught_up(system)
            assert reached > cursor
            cursor = reached
            wait_until(lambda: len(server.messages("DLQ")) == letters, SECONDS, "the trade that is more than 5 minutes ahead")  # noqa: B023
            wait_until(lambda: len(alerts(system)) == letters, SECONDS, f"an alert of its own: {alerts(system)}")  # noqa: B023
        names = ids_booked(system)
        assert {name for name in names if name.startswith(("soon", "late"))} == {f"soon{step}" for step in (7200, -3600, 86_400 * 2, -600)}
        assert [letter.headers["Pks-Dlq-Code"] for letter in server.messages("DLQ")] == ["TIME_IN_FUTURE"] * letters
        clock.unlink()
        judge_streams(system, server)
        judge_core(system)
        feeder.close()
        assert system.stop() == 0


def alerts(system: System) -> list[dict[str, Any]]:
    """Those of refused inputs, by their windows."""
    path = system.paths.run / "alerts.jsonl"
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        alert = json.loads(line)
        if alert["class"] == "rejections":
            found[alert["window_start_ns"]] = alert
    return list(found.values())
