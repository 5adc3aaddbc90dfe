"""Records and positions in a real Postgres: each event once, whatever is killed, and the database alone says where to go on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner, Result

from pks.cli.group import main
from pks.cli.refill import refill
from pks.edges.postgres.journal_copy import read_copy
from pks.edges.postgres.positions import PositionsWriter
from pks.engine.lots.check import state_hash
from pks.layouts.codes import Kind
from pks.segments.journal_file import file_path, record_offset
from pks.segments.journal_view import JournalView
from pks.topology import Host
from pks.workers.checkpoint import latest_checkpoint, load_positions
from pks.workers.positions import Positions
from tests.conftest import wait_until
from tests.crash.keep_servers import Kept, kept, why_missing
from tests.crash.system import SECONDS, Feeder, LiveDay, System, judge, quiesce, running
from tests.postgres_rows import compare, folded
from tests.unit.segments.test_journal import RECORDS, sealed, writer_of

NOWHERE = "postgresql://pks:pks@127.0.0.1:1/pks"

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
            for schema in ("trade", "position", "back_office", "auth"):
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


def recover_checkpoint(system: System, url: str) -> Result:
    """What `pks recover --checkpoint` says with that Postgres."""
    return CliRunner().invoke(
        main, ["recover", "--checkpoint", "--data-dir", str(system.data_dir)], env={"PKS_EDGES": "external", "PKS_PG_URL": url}
    )


def test_a_checkpoint_is_made_of_the_positions(server: Kept, tmp_path: Path, seed: int) -> None:
    """Local checkpoints are damaged, Postgres is behind the journal: the start begins at its positions and comes to the same state."""
    url = server.place("postgres").url
    with running(tmp_path, "rowscheck", shards="2", **settings(server)) as system:
        system.start()
        feeder, day = a_day(system, seed)
        for _ in range(200):
            day.step()
        feeder.settle()
        behind = wait_caught_up(system, server)
        assert system.stop() == 0
        assert f"a sound checkpoint of event {behind} is there" in recover_checkpoint(system, url).output
        system.settings["edges.postgres_url"] = NOWHERE
        system.start()
        feeder.connect()
        for _ in range(120):
            day.step()
        last = quiesce(system, feeder)
        assert system.stop() == 0
        for path in system.paths.checkpoints.iterdir():
            octets = bytearray(path.read_bytes())
            octets[len(octets) // 2] ^= 1
            path.write_bytes(octets)

        assert "it has no tables of PKS" in recover_checkpoint(system, url.rpartition("/")[0] + "/postgres").output
        assert "ConnectionRefusedError" in recover_checkpoint(system, NOWHERE).output
        spoil = "update back_office.edge_cursor set checksum = checksum # 1 where edge = 'positions'"
        ask(server, lambda connection: connection.execute(spoil))
        assert f"its event {behind} is another one in the journal" in recover_checkpoint(system, url).output
        ask(server, lambda connection: connection.execute(spoil))
        ahead = (
            "update back_office.shadow_state set sequence = sequence + {0}; update back_office.edge_cursor set sequence = sequence + {0}"
        )
        ask(server, lambda connection: connection.execute(ahead.format(last)))
        refused = recover_checkpoint(system, url)
        assert refused.exit_code == 1
        assert f"it knows event {behind + last}, which the journal does not have" in refused.output
        ask(server, lambda connection: connection.execute(ahead.format(-last)))

        said = recover_checkpoint(system, url)
        assert said.exit_code == 0, said.output
        assert f"checkpoint of event {behind:,} made" in said.output
        made = latest_checkpoint(system.paths.checkpoints, 2**62)
        assert made is not None and made.sequence == behind
        records = JournalView(system.paths.journal).records
        kinds = set(records["kind"][1 : behind + 1].tolist())
        assert {int(kind) for kind in (Kind.AMEND, Kind.CANCEL, Kind.TRANSFER, Kind.ACTION)} <= kinds, "corrections, transfers, splits"
        ours, whole = Positions(records), Positions(records)
        load_positions(ours, made)
        whole.apply(records, -1, 1, behind)
        assert state_hash(ours.shard.state) == state_hash(whole.shard.state)
        ours.apply(records, -1, behind + 1, last)
        whole.apply(records, -1, behind + 1, last)
        assert state_hash(ours.shard.state) == state_hash(whole.shard.state)

        system.settings["edges.postgres_url"] = url
        system.start()
        feeder.connect()
        for _ in range(60):
            day.step()
        judge(system, feeder)
        judge_tables(system, server)
        assert "a system runs on" in recover_checkpoint(system, url).output
        feeder.close()


def test_a_checkpoint_of_positions_needs_a_sound_journal(tmp_path: Path) -> None:
    """Before anything is asked of Postgres."""

    def said() -> str:
        runner = CliRunner()
        return runner.invoke(main, ["recover", "--checkpoint", "--data-dir", str(tmp_path)], env={"PKS_EDGES": "external"}).output

    assert "there is no journal in" in said()
    writer = writer_of(tmp_path / "journal")
    writer.append(sealed(1, [1] * 4), 1, 4)
    writer.append(sealed(5, [1] * 4), 5, 8)
    writer.close()
    with file_path(tmp_path / "journal", 0).open("r+b") as file:
        file.seek(record_offset(2, RECORDS) + 20)
        file.write(b"!")
    assert "the journal is damaged at record 2" in said()


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
