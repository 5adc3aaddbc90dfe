"""The local disk is lost: the journal comes back from Postgres and the stream EVENTS, and gives the same positions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pks.cli.group import main
from pks.engine.lots.check import state_hash
from pks.layouts.event import EVENT
from pks.segments.journal_recovery import verify
from pks.segments.journal_view import JournalView
from pks.topology import Host
from pks.workers.positions import Positions
from tests.conftest import wait_until
from tests.crash.keep_servers import SECONDS, Kept, kept, why_missing
from tests.crash.system import Feeder, LiveDay, System, quiesce, running

NEEDED = ("postgres", "nats")
OWN = [name for name in EVENT.names or () if not name.startswith("batch_")]

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(any(map(why_missing, NEEDED)), reason=" ".join(map(why_missing, NEEDED)) or "the servers are here"),
]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Kept]:
    with kept(tmp_path / "elsewhere", only=",".join(NEEDED)) as made:
        made.start(*NEEDED)
        yield made


@pytest.fixture
def system(tmp_path: Path, servers: Kept) -> Iterator[System]:
    settings = {
        "edges": "external",
        "edges.postgres_url": servers.place("postgres").url,
        "edges.nats_url": servers.place("nats").url,
        "edges.nats_nkey": servers.place("nats").nkey_file,
    }
    with running(tmp_path, "recover", **settings) as made:
        yield made


def hash_of(system: System) -> tuple[int, int]:
    """(last event, state hash of a fold of the journal)."""
    found = JournalView(system.paths.journal)
    last = max(problem_free(system), 1)
    positions = Positions(found.records)
    positions.apply(found.records, -1, 1, last)
    return last, state_hash(positions.shard.state)


def problem_free(system: System) -> int:
    """Last event of a journal at rest."""
    records = JournalView(system.paths.journal)
    sequences = records.records["sequence"][1 : records.extent[1] + 1]
    return int(sequences.max())


def told_upto(system: System, worker: str) -> int:
    """The event that an edge's server has."""
    control = Host.open(system.instance).control
    owner = next(facts.owner for facts in control.workers() if facts.name == worker)
    values = {cell.name: cell.value for cell in control.read_cells() if cell.owner == owner}
    return int(values.get("edge_cursor", 0))


def recover(system: System, *arguments: str) -> Result:
    settings = {
        "PKS_INSTANCE": system.instance,
        "PKS_EDGES": "external",
        "PKS_PG_URL": system.settings["edges.postgres_url"],
        "PKS_NATS_URL": system.settings["edges.nats_url"],
        "PKS_NATS_NKEY": system.settings["edges.nats_nkey"],
        "PKS_JOURNAL_SEGMENT_RECORDS": system.settings["journal.segment_records"],
    }
    return CliRunner().invoke(main, ["recover", "--data-dir", str(system.data_dir), *arguments], env=settings)


def test_a_lost_disk_is_made_again_from_both(system: System, servers: Kept, seed: int) -> None:
    system.start()
    feeder = Feeder(system, seed)
    day = LiveDay(seed, feeder)
    for _ in range(120):
        day.step()
    last = quiesce(system, feeder)
    wait_until(lambda: told_upto(system, "records") >= last, SECONDS, f"Postgres at the end: {system.workers()['records']}")
    system.settings["edges.postgres_url"] = "postgresql://pks:pks@127.0.0.1:1/pks"  # from now on NATS alone is told
    assert system.stop() == 0
    system.start()
    feeder.connect()
    for _ in range(80):
        day.step()
    last = quiesce(system, feeder)
    wait_until(lambda: told_upto(system, "bus") >= last, SECONDS, "NATS at the end")
    feeder.close()
    system.kill("all")
    system.settings["edges.postgres_url"] = servers.place("postgres").url
    wanted, records = hash_of(system), JournalView(system.paths.journal).records[1 : last + 1].copy()
    assert wanted[0] >= last

    busy = recover(system)
    assert busy.exit_code == 1
    assert "nothing is made again over it" in busy.output
    shutil.rmtree(system.data_dir)
    done = recover(system)
    assert done.exit_code == 0, done.output
    assert list(verify(system.paths.journal)) == []
    made = JournalView(system.paths.journal).records[1 : last + 1]
    for name in OWN:
        assert (made[name] == records[name]).all(), name
    assert hash_of(system) == wanted

    system.start()
    feeder = Feeder(system, seed + 1)
    again = quiesce(system, feeder)
    feeder.close()
    wait_until(lambda: told_upto(system, "records") >= again and told_upto(system, "bus") >= again, SECONDS, "the edges go on")
    assert system.stop() == 0


def test_without_any_copy_nothing_is_made(system: System) -> None:
    done = recover(system)
    assert done.exit_code == 1
    assert "no copy has any event" in done.output
    assert not any(system.paths.journal.iterdir())


def test_a_running_system_is_left_alone(system: System) -> None:
    system.start()
    done = recover(system)
    assert done.exit_code == 1
    assert "a system runs on" in done.output
    assert system.stop() == 0
