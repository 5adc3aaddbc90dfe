"""Time series of a whole system on real servers: each booked trade is one row, as it stands, whatever is killed, stopped or wiped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest

from pks.base.clock import format_time
from pks.base.config import load_config
from pks.base.units import format_scaled
from pks.edges.questdb.history import History
from pks.edges.questdb.store import TradeRow, Wanted
from pks.servers.binaries import questdb_jar
from pks.topology import Host
from tests.conftest import wait_until
from tests.crash.keep_servers import why_missing
from tests.crash.system import COMPILE_SECONDS, ROOT, SECONDS, Feeder, LiveDay, System, a_system, running

pytestmark = pytest.mark.timeout(900)

WORKER = "timeseries"
NOWHERE = {"edges.nats_url": "nats://127.0.0.1:1", "edges.redis_url": "redis://127.0.0.1:1"}
SETTINGS = {
    "questdb": {"edges.postgres_url": "postgresql://nobody@127.0.0.1:1/none"},
    "postgres": {"edges.questdb_jar": "/there/is/no/jar"},
}


@pytest.fixture(params=["questdb", pytest.param("postgres", marks=pytest.mark.long)])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    if why_missing(request.param):
        pytest.skip(why_missing(request.param))
    yield from a_system(tmp_path, f"ts{request.param[0]}", edges="embedded", **NOWHERE, **SETTINGS[request.param])


def server_of(system: System) -> str:
    return "postgres" if "edges.questdb_jar" in system.settings else "questdb"


def config_of(system: System) -> Any:
    settings = {key: value for key, value in system.settings.items() if key.startswith("edges")}
    return load_config(None, {}, {"data_dir": str(system.data_dir), **settings}).config


def ask(system: System, statement: str = "") -> list[TradeRow]:
    """Every row, or only execute a statement."""

    async def asked() -> list[TradeRow]:
        async with History(config_of(system)) as history:
            if statement:
                store: Any = history._store
                await store._sql.execute(statement)
                return []
            return [row async for row in history.trades(Wanted(limit=sys.maxsize))]

    return asyncio.run(asked())


def cells(system: System) -> dict[str, Any]:
    control = Host.open(system.instance).control
    owners = {facts.owner for facts in control.workers() if facts.name == WORKER}
    return {cell.name: cell.value for cell in control.read_cells() if cell.owner in owners}


def wait_carried(system: System) -> None:
    """Until the store has everything that is durable."""

    def carried() -> bool:
        host = Host.open(system.instance, system.data_dir)
        found = cells(system)
        return found.get("edge_state") == 3 and found.get("edge_cursor") == host.events.head == host.durable_sequence

    wait_until(carried, COMPILE_SECONDS, f"all rows: {system.log(WORKER)[-3:]}")


def server_pid(system: System) -> int:
    facts = system.run_file()["servers"][server_of(system)]
    return int(facts["pid"] or 0) if facts["state"] == "READY" else 0


def words(row: TradeRow) -> tuple[Any, ...]:
    price = None if row.price_raw is None else format_scaled(row.price_raw, row.price_scale)
    block = row.kind == "BLOCK"
    return (
        row.trade_id, "TRADE" if block else row.kind, "BLOCK" if block and row.status != "CANCELLED" else row.status, row.book, row.to_book,
        row.instrument, row.account, row.side, format_scaled(row.qty_raw, row.qty_scale), price, format_time(row.ts_ns),
    )  # fmt: skip


def command(system: System, *words: str) -> Any:
    """What `pks trades` says as JSON."""
    program = [sys.executable, "-c", "from pks.cli import main; main()", "trades", "--json", "--data-dir", str(system.data_dir), *words]
    jar = {"PKS_QUESTDB_JAR": system.settings["edges.questdb_jar"]} if "edges.questdb_jar" in system.settings else {}
    said = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **jar})
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def refill_series(system: System) -> str:
    """What `pks refill questdb` says."""
    jar = {"PKS_QUESTDB_JAR": system.settings["edges.questdb_jar"]} if "edges.questdb_jar" in system.settings else {}
    program = [sys.executable, "-c", "from pks.cli import main; main()", "refill", "questdb", "--yes", "--data-dir", str(system.data_dir)]
    said = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **jar})
    assert said.returncode == 0, said.stderr
    assert "begins at 1 again" in said.stdout
    return said.stdout


def expected(system: System) -> list[tuple[Any, ...]]:
    """The trades as `pks trades` folds them from the journal; of a trade that moved to another book only where it is now."""
    found = {}
    for one in command(system):
        if one["state"] == "REFUSED":
            continue
        key = f"{one['source'] or ''}/{one['trade_id']}/{one['leg']}"
        state = "BLOCK" if one["state"] in ("UNALLOCATED", "ALLOCATED") else one["state"]
        found[key] = (
            key, one["kind"], state, one["book"], one["to_book"], one["instrument"], one["account"], one["side"], one["quantity"],
            one["price"], one["trade_time"],
        )  # fmt: skip
    return sorted(found.values())


def wait_same(system: System) -> None:
    """The store's rows are the journal's trades, each once: QuestDB shows what it has taken some milliseconds later."""
    wait_carried(system)
    trades = expected(system)
    assert len(trades) > 20
    deadline = time.monotonic() + SECONDS
    while (rows := sorted(map(words, ask(system)))) != trades:
        lacking, extra = set(trades) - set(rows), set(rows) - set(trades)
        assert time.monotonic() < deadline, f"{len(rows)} rows of {len(trades)} trades: {sorted(lacking | extra)[:20]}"
        time.sleep(0.05)


def judge_commands(system: System) -> None:
    """`pks trades --history` and `--bars` say what the store has."""
    rows = ask(system)
    assert [one["trade_id"] for one in command(system, "--history")] == [row.trade_id for row in rows]
    book = rows[len(rows) // 2].book or "A"
    some = command(system, "--history", "--book", book, "--last", "3")
    assert [one["trade_id"] for one in some] == [row.trade_id for row in rows if book in (row.book, row.to_book)][-3:]
    dealt = [row for row in rows if row.kind in ("TRADE", "BLOCK") and row.status != "CANCELLED" and row.instrument == "EQ"]
    bars = command(system, "--bars", "1d", "--instrument", "EQ")
    assert sum(bar["trades"] for bar in bars) == len(dealt)
    assert sum(Decimal(bar["volume"]) for bar in bars) == sum(Decimal(format_scaled(row.qty_raw, row.qty_scale)) for row in dealt)


def book(day: LiveDay, feeder: Feeder, steps: int) -> None:
    for _ in range(steps):
        day.step()
    feeder.settle(COMPILE_SECONDS)


def test_each_trade_is_one_row_whatever_is_killed_stopped_or_wiped(system: System, seed: int) -> None:
    system.start()
    feeder = Feeder(system, seed)
    day = LiveDay(seed, feeder)
    book(day, feeder, 150)
    wait_same(system)

    wait_until(lambda: server_pid(system), SECONDS, "the server")
    os.kill(server_pid(system), signal.SIGKILL)
    book(day, feeder, 100)
    wait_same(system)

    system.kill(WORKER)
    book(day, feeder, 100)
    wait_same(system)

    wait_until(lambda: server_pid(system), SECONDS, "the server")
    stopped = psutil.Process(server_pid(system))
    processes = [stopped, *stopped.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        book(day, feeder, 100)
        wait_until(lambda: cells(system)["edge_state"] == 2 and cells(system)["edge_lag"] > 0, SECONDS, "the edge is down")
    finally:
        for process in processes:
            process.resume()
    wait_same(system)

    ask(system, "drop table bo_positions" if server_of(system) == "questdb" else "drop schema time_series cascade")
    wait_same(system)

    book(day, feeder, 40)
    assert "the running system fills it again" in refill_series(system)
    book(day, feeder, 40)
    wait_same(system)

    feeder.close()
    assert system.stop() == 0
    if server_of(system) == "postgres":  # started once more for it, which takes QuestDB long
        assert "the next `pks run` fills questdb again" in refill_series(system)
    system.start()
    feeder.connect()
    book(day, feeder, 50)
    wait_same(system)
    feeder.close()
    judge_commands(system)
    assert cells(system)["rows_set_aside"] == 0
    assert cells(system)["timeseries_stand_in"] == (server_of(system) == "postgres")
    assert system.stop() == 0
    assert not system.late_kernels()


@pytest.mark.long
def test_rows_go_to_postgres_while_there_is_no_jar_and_back(tmp_path: Path, seed: int) -> None:
    for name in ("questdb", "postgres"):
        if why_missing(name):
            pytest.skip(why_missing(name))
    jar = tmp_path / "questdb.jar"
    jar.symlink_to(questdb_jar(""))
    with running(tmp_path, "tsboth", edges="embedded", **NOWHERE, **{"edges.questdb_jar": str(jar)}) as system:
        system.start()
        feeder = Feeder(system, seed)
        day = LiveDay(seed, feeder)
        book(day, feeder, 60)
        wait_same(system)
        assert cells(system)["timeseries_stand_in"] == 0

        jar.unlink()
        wait_until(lambda: cells(system)["timeseries_stand_in"] == 1, SECONDS, "Postgres is taken")
        book(day, feeder, 30)
        wait_same(system)

        jar.symlink_to(questdb_jar(""))
        wait_until(lambda: cells(system)["timeseries_stand_in"] == 0, SECONDS, "QuestDB is taken again")
        wait_same(system)
        feeder.close()
        assert system.stop() == 0
