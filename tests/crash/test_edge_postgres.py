"""Records and positions in a real Postgres: each event once, whatever is killed, and the database alone says where to go on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pytest
from click.testing import CliRunner

from pks.base.config import load_config
from pks.cli.refill import refill
from pks.edges.postgres.journal_copy import read_copy
from pks.edges.postgres.positions import PositionsWriter
from pks.layouts.codes import Kind
from pks.segments.journal_view import JournalView
from pks.topology import Host
from pks.workers.checkpoint import latest_checkpoint, load_positions
from pks.workers.edges.positions_recovery import checkpoint_from
from pks.workers.positions import Positions
from tests.conftest import wait_until
from tests.crash.keep_servers import Kept, kept, why_missing
from tests.crash.system import SECONDS, Feeder, LiveDay, System, running
from tests.harness import SLOT_BYTES
from tests.postgres_rows import compare, folded

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(why_missing("postgres")), reason=why_missing("postgres") or "it is there"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Kept]:
    with kept(tmp_path / "postgres", only="postgres") as made:
        made.start("postgres")
        yield made


def settings(server: Kept) -> dict[str, str]:
    return {"edges": "external", "edges.postgres_url": server.place("postgres").url}


def ask(server: Kept, question: Callable[[Any], Awaitable[Any]]) -> Any:
    """Ask over a connection of our own, with the owner's rights."""

    async def run() -> Any:
        connection = await asyncpg.connect(server.place("postgres").url)
        try:
            return await question(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def cursor_of(server: Kept, edge: str) -> int:
    """The database's own cursor; 0 while there is none."""

    async def cursor(connection: Any) -> int:
        if await connection.fetchval("select to_regclass('back_office.edge_cursor')") is None:
            return 0
        return int(await connection.fetchval("select coalesce(max(sequence), 0) from back_office.edge_cursor where edge = $1", edge))

    try:
        return ask(server, cursor)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # it was killed a moment ago
        return 0


def wait_caught_up(system: System, server: Kept) -> int:
    """Until both edges have everything and nothing more comes by itself: the journal ends with a TICK; the last event."""
    view, reached = JournalView(system.paths.journal), [0]

    def caught_up() -> bool:
        host = Host.open(system.instance, system.data_dir)
        last = host.events.head
        cursors = {host.durable_sequence, *(host.events.cursor(f"accumulator-{k}") for k in range(host.shards))}
        if cursors != {last}:
            return False
        view.refresh()
        reached[0] = last
        is_quiet = int(view.records[last]["kind"]) == Kind.TICK
        return is_quiet and all(cursor_of(server, edge) == last for edge in ("records", "positions")) and host.events.head == last

    wait_until(caught_up, SECONDS, f"both edges at the end: {system.log('records')[-3:]} {system.log('shadow')[-3:]}")
    return reached[0]


def judge_tables(system: System, server: Kept) -> None:
    """Every table against a fold of the journal of our own."""
    last = wait_caught_up(system, server)
    view = JournalView(system.paths.journal)
    core = folded(view, last)

    async def judge(connection: Any) -> None:
        await compare(core, connection)
        copied = [(first, raw) async for first, raw in read_copy(connection)]
        assert b"".join(raw for _, raw in copied) == view.records[1 : last + 1].tobytes()
        _, _, keys = await PositionsWriter(connection).begin()
        ours = {(int(key["book_id"]), int(key["instrument_id"])): key for key in core.keys() if key["last_sequence"]}
        theirs = {(int(key["book_id"]), int(key["instrument_id"])): key for key in keys if key["last_sequence"]}
        assert theirs.keys() == ours.keys()
        for name, key in ours.items():
            for field in ("qty_raw", "cost_hi", "cost_lo", "realised_hi", "realised_lo", "last_sequence", "open_lots", "chain"):
                assert theirs[name][field] == key[field], (name, field)

    ask(server, judge)


def a_day(system: System, seed: int) -> tuple[Feeder, LiveDay]:
    feeder = Feeder(system, seed)
    return feeder, LiveDay(seed, feeder)


def test_every_event_is_there_once(server: Kept, tmp_path: Path, seed: int) -> None:
    with running(tmp_path, "rows", **settings(server)) as system:
        system.start()
        wait_caught_up(system, server)  # before the first trade there is no position
        feeder, day = a_day(system, seed)
        for _ in range(400):
            day.step()
        feeder.settle()
        judge_tables(system, server)
        feeder.close()
        assert system.stop() == 0
        assert not [kernel for kernel in system.late_kernels() if kernel.startswith(("records:", "shadow:"))], "warm() calls every kernel"


def test_kills_in_mid_stream(server: Kept, tmp_path: Path, seed: int) -> None:
    """Worker, shadow, capture, accumulator and server die while events flow: each row is there once."""
    chance = random.Random(seed)
    with running(tmp_path, "rowskill", shards="2", **settings(server)) as system:
        system.start()
        feeder, day = a_day(system, seed)
        victims = ["records", "server", "records", "capture", "shadow", "accumulator-0", "server", "journal"]
        chance.shuffle(victims)
        for victim in victims:
            for _ in range(chance.randint(30, 90)):
                day.step()
            if victim == "server":
                server.kill_server("postgres")
            else:
                system.kill(victim)
        for _ in range(60):
            day.step()
        system.wait_whole()
        feeder.settle()
        judge_tables(system, server)
        feeder.close()


def test_a_restart_goes_on_and_a_wipe_is_filled_again(server: Kept, tmp_path: Path, seed: int) -> None:
    with running(tmp_path, "rowswipe", **settings(server)) as system:
        system.start()
        feeder, day = a_day(system, seed)
        for _ in range(150):
            day.step()
        feeder.settle()
        wait_caught_up(system, server)
        oldest = ask(server, lambda connection: connection.fetchval("select xmin::text from trade.trade order by sequence limit 1"))
        system.kill("all")
        system.start()
        feeder.connect()
        for _ in range(50):
            day.step()
        feeder.settle()
        judge_tables(system, server)
        again = ask(server, lambda connection: connection.fetchval("select xmin::text from trade.trade order by sequence limit 1"))
        assert again == oldest, "what was there is not written again"

        async def wipe(connection: Any) -> None:
            for schema in ("trade", "position", "back_office"):
                await connection.execute(f"drop schema {schema} cascade")
            await connection.execute("drop table pks_migration")

        ask(server, wipe)
        for _ in range(30):
            day.step()
        feeder.settle()
        server.kill_server("postgres")
        judge_tables(system, server)
        feeder.close()


def test_the_tables_of_another_journal_are_left_alone(server: Kept, tmp_path: Path, seed: int) -> None:
    with running(tmp_path, "rowsone", **settings(server)) as system:
        system.start()
        feeder, day = a_day(system, seed)
        for _ in range(60):
            day.step()
        feeder.settle()
        last = wait_caught_up(system, server)
        feeder.close()
    (tmp_path / "other").mkdir()
    with running(tmp_path / "other", "rowstwo", **settings(server)) as system:
        system.start()
        wait_until(lambda: any(line.get("error", "").startswith("OtherJournal") for line in system.log("records")), SECONDS, "it says so")
        assert cursor_of(server, "records") == cursor_of(server, "positions") == last


def test_a_checkpoint_is_made_of_the_positions(server: Kept, tmp_path: Path, seed: int) -> None:
    with running(tmp_path, "rowscheck", **settings(server)) as system:
        system.start()
        feeder, day = a_day(system, seed)
        for _ in range(200):
            day.step()
        feeder.settle()
        wait_caught_up(system, server)
        assert system.stop() == 0
        for path in system.paths.checkpoints.iterdir():
            path.unlink()
        config = load_config(None, {}, {"data_dir": str(system.data_dir)}).config
        ask(server, lambda connection: checkpoint_from(connection, config, system.paths))
        made = latest_checkpoint(system.paths.checkpoints, 2**62)
        assert made is not None
        records = JournalView(system.paths.journal).records
        positions, fold = Positions(records), folded(JournalView(system.paths.journal), made.sequence)
        load_positions(positions, made)
        theirs = {(int(key["book_id"]), int(key["instrument_id"])): plain(key) for key in positions.shard.state.keys if key["book_id"]}
        assert theirs == {(int(key["book_id"]), int(key["instrument_id"])): plain(key) for key in fold.keys()}
        system.start()
        assert not [line for line in system.log("shadow") if line["event"].startswith("a live position differs")]
        feeder.connect()
        for _ in range(60):
            day.step()
        feeder.settle()
        judge_tables(system, server)
        feeder.close()


def plain(key: Any) -> bytes:
    """What a position shows, its slot's version apart."""
    one = np.array([key])
    one["version"] = 0
    return one.tobytes()[:SLOT_BYTES]


def test_refill_empties_and_the_worker_fills(server: Kept, tmp_path: Path, seed: int) -> None:
    with running(tmp_path, "rowsrefill", **settings(server)) as system:
        system.start()
        feeder, day = a_day(system, seed)
        for _ in range(100):
            day.step()
        feeder.settle()
        wait_caught_up(system, server)
        said = CliRunner().invoke(
            refill,
            ["postgres", "--yes", "--data-dir", str(system.data_dir)],
            env={"PKS_EDGES": "external", "PKS_PG_URL": server.place("postgres").url},
        )
        assert said.exit_code == 0, said.output
        assert "records was at event" in said.output and "positions was at event" in said.output
        for _ in range(20):
            day.step()
        feeder.settle()
        judge_tables(system, server)
        feeder.close()
