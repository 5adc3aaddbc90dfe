"""The embedded servers as real processes: whatever is killed, taken or broken, they are back with their data, or it is said why not."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pks.servers.binaries import nats_binary
from pks.servers.endpoints import SERVERS
from pks.servers.files import LOOPBACK
from tests.conftest import wait_until
from tests.crash.keep_servers import HERE, NAMES, SECONDS, Kept, is_running, kept, place, read, why_missing, write

SMALL = tuple(name for name in HERE if name != "questdb")
"""Those that start in a moment."""


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip where one of these servers is not installed."""
    missing = [f"{name}: {reason}" for name in names if (reason := why_missing(name))]
    return pytest.mark.skipif(bool(missing), reason="; ".join(missing))


each_server = pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in NAMES])


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """All servers that are here, for tests that leave them as they were: ready, with whatever data. At last they are ended in order."""
    with kept(tmp_path_factory.mktemp("servers") / "data") as made:
        made.start(*HERE)
        yield made
        made.wait(*HERE)
        pids = [made.facts(name)["pid"] for name in HERE]
        assert made.stop() == 0
        assert not any(is_running(pid) for pid in pids)
        assert all(f"server ended {{'edge': '{name}'}}" in made.output() for name in HERE)
        assert "did not end well" not in made.output()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Kept]:
    with kept(tmp_path / "data") as made:
        yield made


@each_server
def test_kill_9_and_the_data_is_there_again(together: Kept, name: str) -> None:
    write(together.data_dir, name, "before")
    restarts, url = together.facts(name)["restarts"], together.facts(name)["url"]
    temporary = len(list(together.folder(name).glob("tmp/**/*")))
    together.kill_server(name)
    facts = together.facts(name)
    assert facts["restarts"] == restarts + 1
    assert facts["last_error"] == "SIGKILL"
    assert facts["url"] == url, "it has the same port again"
    assert len(list(together.folder(name).glob("tmp/**/*"))) <= temporary, "what the dead one had unpacked is gone"
    write(together.data_dir, name, "after")
    assert read(together.data_dir, name) == ["after", "before"]


def test_servers_are_children_that_listen_on_loopback_alone(together: Kept) -> None:
    assert together.process is not None
    children = {child.pid for child in psutil.Process(together.process.pid).children()}
    assert children == {together.facts(name)["pid"] for name in HERE}
    for name in HERE:
        process = psutil.Process(together.facts(name)["pid"])
        listening = {one.laddr for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
        ports = set(json.loads((together.folder(name) / "ports.json").read_text()).values())
        assert listening == {(LOOPBACK, port) for port in ports}, name
        assert not any(variable.startswith("PKS_") for variable in process.environ())
        assert os.getpgid(process.pid) == process.pid, "a terminal's Ctrl-C is not for it"


def test_nobody_else_reads_the_folders_and_no_text_holds_a_password(together: Kept) -> None:
    secrets = [together.folder(name).joinpath("password").read_text().strip() for name in HERE if name != "nats"]
    secrets += [file.read_text().strip() for file in together.folder("nats").glob("users/*.nk")]
    assert len(secrets) > len(HERE)
    said = together.output() + (together.data_dir / "keeper.json").read_text()
    for name in HERE:
        assert together.folder(name).stat().st_mode & 0o077 == 0
        said += " ".join(psutil.Process(together.facts(name)["pid"]).cmdline())
        said += together.folder(name).joinpath("output.log").read_text()
        where = place(together.data_dir, name)
        said += f"{where!r} {where.shown}"
    assert "***" in said
    assert not any(secret in said for secret in secrets)


@needs("redis")
def test_a_stopped_server_is_silent_and_then_answers_again(together: Kept) -> None:
    pid = together.facts("redis")["pid"]
    os.kill(pid, signal.SIGSTOP)
    together.wait_state("redis", "SILENT")
    os.kill(pid, signal.SIGCONT)
    assert together.wait_state("redis", "READY")["pid"] == pid


@needs("nats")
def test_a_user_of_nats_has_its_rights_and_no_more(together: Kept) -> None:
    import asyncio

    import nats

    where = place(together.data_dir, "nats")

    async def run() -> list[str]:
        said: list[str] = []

        async def note(error: Exception) -> None:
            said.append(str(error))

        seed = str(together.folder("nats") / "users" / "booker.nk")
        client = await nats.connect(where.url, nkeys_seed=seed, error_cb=note)
        await client.publish("backoffice.booking.v1.TradeBooked", b"wanted")
        await client.publish("bo.position.updated.v1", b"not its own")
        await client.flush()
        deadline = time.monotonic() + SECONDS
        while not said and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await client.close()
        return said

    denied = [text for text in asyncio.run(run()) if "permissions" in text.lower()]
    assert len(denied) == 1
    assert "bo.position.updated.v1" in denied[0]
    with socket.create_connection((LOOPBACK, int(where.url.rpartition(":")[2])), SECONDS) as nobody, nobody.makefile("rb") as answers:
        nobody.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        assert answers.readline().startswith(b"INFO ")
        assert answers.readline() == b"-ERR 'Authorization Violation'\r\n"


@needs(*SMALL)
def test_a_killed_keeper_takes_all_with_it_and_the_next_one_finds_the_data(alone: Kept) -> None:
    alone.start(*SMALL, only=",".join(SMALL))
    for name in SMALL:
        write(alone.data_dir, name, "kept")
    alone.kill()
    alone.start(*SMALL, only=",".join(SMALL))
    for name in SMALL:
        assert read(alone.data_dir, name) == ["kept"], name
        assert alone.facts(name)["restarts"] == 0
    assert alone.stop() == 0
    assert f"ended {SMALL[0]} of an earlier run" not in alone.output(), "they had ended by themselves"


@needs("nats")
def test_an_orphan_on_the_folder_is_ended_by_name(alone: Kept) -> None:
    alone.start("nats", only="nats")
    write(alone.data_dir, "nats", "kept")
    assert alone.stop() == 0
    orphan = subprocess.Popen([nats_binary(""), "-c", alone.folder("nats") / "nats.conf"], stderr=subprocess.DEVNULL)
    stranger = subprocess.Popen(["sleep", "600"], cwd=alone.folder("nats"))
    try:
        port = json.loads((alone.folder("nats") / "ports.json").read_text())["client"]
        wait_until(lambda: is_listening(port), SECONDS, "the orphan listens")
        alone.start("nats", only="nats")
        assert orphan.wait(SECONDS) is not None
        assert stranger.poll() is None, "what is no server of ours is left alone"
    finally:
        for process in (orphan, stranger):
            process.kill()
            process.wait()
    assert f"ended nats of an earlier run, pid {orphan.pid}" in alone.output()
    assert place(alone.data_dir, "nats").url.endswith(f":{port}")
    assert read(alone.data_dir, "nats") == ["kept"]


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


@needs("redis")
def test_a_port_that_is_taken_is_replaced_and_kept(alone: Kept) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        alone.folder("redis").mkdir(parents=True)
        (alone.folder("redis") / "ports.json").write_text(json.dumps({"client": taken.getsockname()[1]}))
        alone.start("redis", only="redis")
        url = alone.facts("redis")["url"]
        assert f":{taken.getsockname()[1]}" not in url
        assert alone.stop() == 0
    alone.start("redis", only="redis")
    assert alone.facts("redis")["url"] == url


@needs("nats")
def test_what_is_missing_or_wrong_is_said_and_the_others_run(alone: Kept) -> None:
    wrong = {"edges.valkey_bin": "/bin/true", "edges.java": str(alone.data_dir / "no" / "java"), "edges.postgres_bin": "/bin/sh"}
    alone.start("nats", **wrong)
    assert "another program" in alone.wait_state("redis", "DOWN")["last_error"]
    assert "there is no /bin/initdb beside /bin/sh" in alone.wait_state("postgres", "DOWN")["last_error"]
    assert "there is no file" in alone.wait_state("questdb", "MISSING")["last_error"]
    assert alone.facts("nats")["state"] == "READY"
    assert not alone.folder("redis").exists(), "nothing was touched"
    assert alone.stop() == 0


@needs("redis")
def test_a_folder_of_a_newer_version_is_refused_by_name(alone: Kept) -> None:
    alone.folder("redis").mkdir(parents=True)
    (alone.folder("redis") / "version").write_text("99.1.0\n")
    alone.start(only="redis")
    error = alone.wait_state("redis", "DOWN")["last_error"]
    assert "was last used by version 99.1.0" in error
    assert "move the folder away" in error
    assert [path.name for path in alone.folder("redis").iterdir()] == ["version"]


@needs("postgres")
def test_a_cluster_of_another_postgres_is_refused_and_left_as_it_is(alone: Kept) -> None:
    data = alone.folder("postgres") / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    alone.start(only="postgres")
    assert "was made by Postgres 15" in alone.wait_state("postgres", "DOWN")["last_error"]
    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


@needs("postgres")
def test_a_full_disk_is_said_and_the_start_goes_on_when_there_is_room(alone: Kept, mount_small: Callable[..., Path]) -> None:
    folder = alone.folder("postgres")
    mount_small("16m", folder)
    alone.start(only="postgres")
    wait_until(lambda: "No space left on device" in (alone.facts("postgres").get("last_error") or ""), SECONDS, "it is said")
    assert not (folder / "data").exists(), "no half of a cluster"
    subprocess.run(["mount", "-o", "remount,size=512m", str(folder)], check=True)
    alone.wait("postgres")
    write(alone.data_dir, "postgres", "there is room")
    assert alone.stop() == 0


@needs("postgres")
@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root runs Postgres as itself, as all other tests do")
def test_root_runs_postgres_as_nobody_in_both_ways_and_may_change(alone: Kept) -> None:
    """Where the kernel gives root user namespaces, and where it does not; the cluster goes from one to the other, also after kill -9."""
    for number, how in enumerate(("nobody", "userns", "nobody")):
        alone.start("postgres", only="postgres", **{"as": how})
        uid = psutil.Process(alone.facts("postgres")["pid"]).uids().real
        assert uid == (65534 if how == "nobody" else 0)
        write(alone.data_dir, "postgres", f"{number}")
        alone.kill_server("postgres")
        assert read(alone.data_dir, "postgres") == [str(one) for one in range(number + 1)]
        alone.kill() if number == 0 else alone.stop()


@needs("postgres", "redis")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("uid", [1, 12345], ids=["daemon", "without a name"])
def test_another_user_runs_its_own(uid: int) -> None:
    if any(not folder.stat().st_mode & 0o001 for name in ("postgres", "redis") for folder in program(name).parents):
        pytest.skip("the programs lie below a folder that other users may not enter")
    with tempfile.TemporaryDirectory(prefix="pks-other-") as folder:
        os.chmod(folder, 0o755)
        data_dir = Path(folder, "data")
        data_dir.mkdir()
        os.chown(data_dir, uid, uid)
        with kept(data_dir, user=f"{uid}", only="postgres,redis") as made:
            made.start("postgres", "redis")
            for name in ("postgres", "redis"):
                assert psutil.Process(made.facts(name)["pid"]).uids().real == uid
                write(data_dir, name, "own")
                made.kill_server(name)
                assert read(data_dir, name) == ["own"]
            assert made.stop() == 0


def program(name: str) -> Path:
    from tests.crash.keep_servers import BINARIES

    return BINARIES[name][0]("")


@needs("postgres")
def test_a_lost_password_is_made_anew(alone: Kept) -> None:
    alone.start("postgres", only="postgres")
    write(alone.data_dir, "postgres", "kept")
    assert alone.stop() == 0
    (alone.folder("postgres") / "password").unlink()
    (alone.folder("postgres") / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")  # a pid that is somebody else's by now
    alone.start("postgres", only="postgres")
    assert read(alone.data_dir, "postgres") == ["kept"]


def test_every_server_has_a_client_here() -> None:
    assert tuple(SERVERS) == NAMES
