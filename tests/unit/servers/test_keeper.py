"""The keeper's tables and its way with servers that cannot be started; with real ones it is in tests/crash."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pks.base.config import Config, load_config
from pks.servers import keeper as keeper_module
from pks.servers.endpoints import endpoint, mode_of
from pks.servers.keeper import RESTARTS_NS, Keeper
from pks.servers.states import NO_PROCESS, SERVER_MOVES, ServerState
from tests.conftest import wait_until

S = ServerState
LEGAL = {
    (S.WAITING, S.PREPARING), (S.WAITING, S.STOPPED),
    (S.PREPARING, S.STARTING), (S.PREPARING, S.DOWN), (S.PREPARING, S.MISSING), (S.PREPARING, S.STOPPING),
    (S.STARTING, S.READY), (S.STARTING, S.DOWN), (S.STARTING, S.STOPPING),
    (S.READY, S.SILENT), (S.READY, S.DOWN), (S.READY, S.STOPPING),
    (S.SILENT, S.READY), (S.SILENT, S.DOWN), (S.SILENT, S.STOPPING),
    (S.DOWN, S.PREPARING), (S.DOWN, S.STOPPED),
    (S.MISSING, S.PREPARING), (S.MISSING, S.STOPPED),
    (S.STOPPING, S.STOPPED),
}  # fmt: skip

URLS = {
    "PKS_NATS_URL": "tls://me:s3cret@one:4222,tls://me:s3cret@two:4222",
    "PKS_PG_URL": "postgresql://me:s3cret@host/db",
    "PKS_REDIS_URL": "rediss://:s3cret@host",
    "PKS_QUESTDB_URL": "https://me:s3cret@host:9000?sql_port=8812",
}


class Notes:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, event: str, **facts: object) -> None:
        self.lines.append(f"{event} {facts}")

    warning = error = info


def config(data_dir: Path, environ: dict[str, str] | None = None, **flags: str) -> Config:
    return load_config(None, environ or {}, {"data_dir": str(data_dir), **flags}).config


def turn(keeper: Keeper) -> None:
    now = time.monotonic_ns()
    keeper.turn(now)
    for pid in keeper.pids():
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert keeper.reaped(pid, os.waitstatus_to_exitcode(status), now)


def states(keeper: Keeper) -> dict[str, str]:
    return {name: facts["state"] for name, facts in keeper.facts().items()}


def wait_state(keeper: Keeper, name: str, state: str) -> None:
    def there() -> bool:
        turn(keeper)
        return states(keeper)[name] == state

    wait_until(there, 60, f"{name} {state}")


def test_all_pairs_of_server_states() -> None:
    for old in ServerState:
        for new in ServerState:
            assert (new in SERVER_MOVES[old]) == ((old, new) in LEGAL), f"{old.name} -> {new.name}"


def test_pauses_grow() -> None:
    assert RESTARTS_NS[0] == 0
    assert list(RESTARTS_NS) == sorted(RESTARTS_NS)


def test_none_runs_none_and_asks_for_no_url(tmp_path: Path) -> None:
    keeper = Keeper(config(tmp_path, URLS, edges="none"), Notes())
    keeper.start(())
    turn(keeper)
    assert set(states(keeper).values()) == {"OFF"}
    assert keeper.pids() == set()
    assert endpoint(config(tmp_path, URLS, edges="none"), "nats") is None
    keeper.stop(0, 0)
    assert keeper.is_over


def test_a_url_makes_a_server_external_and_its_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    notes = Notes()
    ours = config(tmp_path, URLS | {"PKS_NATS_NKEY": "/key.nk"}, edges="external")
    keeper = Keeper(ours, notes)
    keeper.start(())
    turn(keeper)
    assert set(states(keeper).values()) == {"EXTERNAL"}
    assert keeper.facts()["nats"]["url"] == "tls://me:***@one:4222,tls://me:***@two:4222"
    where = endpoint(ours, "nats")
    assert where is not None
    assert (where.url, where.nkey_file) == (URLS["PKS_NATS_URL"], "/key.nk")
    said = f"{keeper.facts()} {notes.lines} {where!r} {ours!r}"
    assert "s3cret" not in said
    keeper.stop(0, 0)
    assert keeper.is_over
    assert not (tmp_path / "servers").exists()


def test_modes_mix(tmp_path: Path) -> None:
    one = {"PKS_PG_URL": URLS["PKS_PG_URL"]}
    assert mode_of(config(tmp_path, one), "postgres") == "external"
    assert mode_of(config(tmp_path, one), "nats") == "embedded"
    assert mode_of(config(tmp_path, one, edges="external"), "nats") == "none"
    assert mode_of(config(tmp_path, one, edges="none"), "postgres") == "none"


def test_an_embedded_server_that_never_started_has_no_endpoint(tmp_path: Path) -> None:
    assert endpoint(config(tmp_path), "postgres") is None


def test_what_cannot_be_started_is_tried_again_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "RESTARTS_NS", (0, 1_000_000))
    notes = Notes()
    keeper = Keeper(config(tmp_path, {"PKS_NATS_BIN": "/bin/true", "PKS_VALKEY_BIN": "/nowhere"}), notes, ("nats", "redis"))
    turn(keeper)
    assert states(keeper) == {"nats": "WAITING", "redis": "WAITING"}, "the core comes first"
    keeper.start(())
    for _ in range(3):
        wait_state(keeper, "nats", "PREPARING")
        wait_state(keeper, "nats", "DOWN")
    wait_state(keeper, "redis", "MISSING")
    facts = keeper.facts()
    assert "is another program" in facts["nats"]["last_error"]
    assert facts["nats"]["restarts"] == 0, "no server has lived"
    assert facts["redis"]["last_error"] == "edges.valkey_bin: there is no file /nowhere"
    assert len([line for line in notes.lines if line.startswith("no nats")]) == 1
    assert keeper.changed
    keeper.stop(time.monotonic_ns(), 0)
    wait_until(lambda: (turn(keeper), keeper.is_over)[1], 60, "the end")
    assert set(states(keeper).values()) == {"STOPPED"}
    assert not keeper.reaped(1, 0, 0), "not one of ours"


def test_a_child_is_told_to_end_while_it_prepares(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    keeper = Keeper(config(tmp_path, {"PKS_NATS_BIN": str(slow)}), Notes(), ("nats",))
    assert keeper.is_calm
    keeper.start(())
    turn(keeper)
    assert states(keeper) == {"nats": "PREPARING"}
    assert not keeper.is_calm, "the supervisor looks often while a child prepares"
    keeper.stop(time.monotonic_ns(), time.monotonic_ns() + 10**11)
    wait_until(lambda: (turn(keeper), keeper.is_over)[1], 60, "the end")
    assert keeper.is_calm


def test_without_a_process_to_be_had_the_keeper_lives_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(*arguments: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(keeper_module, "give_birth", no_process)
    keeper = Keeper(config(tmp_path), Notes(), ("nats",))
    keeper.start(())
    turn(keeper)
    assert states(keeper) == {"nats": "DOWN"}
    assert "Resource temporarily unavailable" in keeper.facts()["nats"]["last_error"]


def test_states_without_a_process() -> None:
    assert {state for state in ServerState if state not in NO_PROCESS} == {S.PREPARING, S.STARTING, S.READY, S.SILENT, S.STOPPING}


def test_a_program_that_is_prepared_and_does_not_start_is_down(tmp_path: Path) -> None:
    """It says its version and then is no program any more: the second line that the child says counts."""
    program = tmp_path / "nats-server"
    program.write_text(f"#!/bin/sh\necho 'nats-server: v2.15.1'\nprintf '#!/no/such/shell' > {program}\n")
    program.chmod(0o755)
    keeper = Keeper(config(tmp_path / "data", {"PKS_NATS_BIN": str(program)}), Notes(), ("nats",))
    keeper.start(())
    wait_until(lambda: (turn(keeper), keeper.facts()["nats"]["last_error"])[1], 60, "an error")
    assert keeper.facts()["nats"]["last_error"] == f"No such file or directory: {program}"
    keeper.kill()
