"""The servers without a core, for tests: `Kept` runs the program that keeps them, and what clients write and read there."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from pks.base.config import load_config
from pks.servers.binaries import java_binary, nats_binary, postgres_binary, questdb_jar, valkey_binary
from pks.servers.endpoints import Endpoint, endpoint
from pks.servers.errors import ServerMissing
from pks.servers.server import NAMES
from tests.conftest import wait_until

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 90.0  # a deadline for a loaded machine, not a duration

BINARIES: dict[str, tuple[Callable[[str], Path], ...]] = {
    "postgres": (postgres_binary,),
    "nats": (nats_binary,),
    "questdb": (java_binary, questdb_jar),
    "redis": (valkey_binary,),
}


def why_missing(name: str) -> str:
    """Why a server cannot be tried here, "" when it can."""
    try:
        for find in BINARIES[name]:
            find("")
    except ServerMissing as error:
        return error.reason
    return ""


HERE = tuple(name for name in NAMES if not why_missing(name))


class Kept:
    """One data directory and the program that keeps servers on it."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir, self.settings = data_dir, settings
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *ready: str, **settings: str) -> None:
        """Run it until these servers are ready. settings: over those that it was made with."""
        self.data_dir.mkdir(exist_ok=True, parents=True)
        options = [f"{key}={value}" for key, value in (self.settings | settings).items()]
        with (self.data_dir / "output").open("ab") as output:
            command = [sys.executable, "-m", "tests.crash.keeper_program", str(self.data_dir), *options]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        self.wait(*ready)

    def wait(self, *ready: str) -> None:
        for name in ready:
            self.wait_state(name, "READY")

    def wait_state(self, name: str, state: str) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while (facts := self.facts(name)).get("state") != state:
            assert time.monotonic() < deadline, f"{name} is not {state}, but {facts}: {self.output()[-2000:]}"
            time.sleep(0.01)
        return facts

    def facts(self, name: str) -> dict[str, Any]:
        assert self.process is not None, "it was started"
        assert self.process.poll() is None, f"it ended: {self.output()[-3000:]}"
        path = self.data_dir / "keeper.json"
        written = json.loads(path.read_text()) if path.exists() else {}
        return cast(dict[str, Any], written.get(name, {})) if written.get("pid") == self.process.pid else {}

    def output(self) -> str:
        return (self.data_dir / "output").read_text()

    def folder(self, name: str) -> Path:
        return self.data_dir / "servers" / name

    def place(self, name: str) -> Endpoint:
        return place(self.data_dir, name)

    def kill_server(self, name: str) -> None:
        """SIGKILL, and wait until it is ready again as another process."""
        old = self.facts(name)["pid"]
        os.kill(old, signal.SIGKILL)

        def is_back() -> bool:
            facts = self.facts(name)
            return facts["state"] == "READY" and facts["pid"] != old

        wait_until(is_back, SECONDS, f"{name} again")

    def kill(self) -> None:
        """SIGKILL for the keeper; its servers end with it."""
        assert self.process is not None, "it was started"
        pids = [pid for name in NAMES if (pid := self.facts(name).get("pid"))]
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not any(is_running(pid) for pid in pids), SECONDS, "the end of the servers")

    def stop(self) -> int:
        assert self.process is not None, "it was started"
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)


@contextmanager
def kept(data_dir: Path, **settings: str) -> Iterator[Kept]:
    """For fixtures: gone afterwards, whatever happened; a cluster has a thousand files, which nobody has to keep."""
    made = Kept(data_dir, **settings)
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.stop()
        shutil.rmtree(data_dir / "servers", ignore_errors=True)


def is_running(pid: int) -> bool:
    """Whether there is such a process that still does something."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def place(data_dir: Path, name: str) -> Endpoint:
    """Where the server is."""
    found = endpoint(load_config(None, {}, {"data_dir": str(data_dir)}).config, name)
    assert found is not None, f"{name} has started once"
    return found


# What a client does.


def write(data_dir: Path, name: str, key: str) -> None:
    """Store `key` in the server, durably."""
    WRITERS[name](place(data_dir, name), key)


def read(data_dir: Path, name: str) -> list[str]:
    """Every key that is stored, in order."""
    return sorted(READERS[name](place(data_dir, name)))


def _postgres(where: Endpoint, statement: str, *arguments: str) -> list[str]:
    import asyncpg

    async def run() -> list[str]:
        connection = await asyncpg.connect(where.url)
        try:
            await connection.execute("create table if not exists kept(key text primary key)")
            return [row[0] for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()

    return asyncio.run(run())


def _nats(where: Endpoint, key: str | None) -> list[str]:
    import nats
    from nats.js.api import StreamConfig

    async def run() -> list[str]:
        client = await nats.connect(where.url, nkeys_seed=where.nkey_file, allow_reconnect=False)
        try:
            stream = client.jetstream()
            await stream.add_stream(StreamConfig(name="KEPT", subjects=["kept.>"]))
            if key is not None:
                await stream.publish(f"kept.{key}", key.encode())
            count = (await stream.stream_info("KEPT")).state.messages
            found = [await stream.get_msg("KEPT", seq=number + 1) for number in range(count)]
            return [(message.data or b"").decode() for message in found]
        finally:
            await client.close()

    return asyncio.run(run())


def _redis(where: Endpoint, *command: str) -> list[str]:
    import redis

    with redis.Redis.from_url(where.url, decode_responses=True) as client:
        answer = client.execute_command(*command)
        if command[0] == "SADD":
            client.execute_command("WAITAOF", "1", "0", "5000")
            return []
        return list(answer)


def questdb(where: Endpoint, query: str) -> list[list[Any]]:
    """Rows of a query."""
    url = urllib.parse.urlsplit(where.url)
    words = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
    address = f"http://{url.hostname}:{url.port}/exec?{urllib.parse.urlencode({'query': query})}"
    request = urllib.request.Request(address, headers={"Authorization": f"Basic {words}"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return cast(list[list[Any]], json.load(answer).get("dataset", []))


QUESTDB_TABLE = "create table if not exists kept(ts timestamp, key varchar) timestamp(ts) partition by day wal dedup upsert keys(ts, key)"


def _write_questdb(where: Endpoint, key: str) -> None:
    questdb(where, QUESTDB_TABLE)
    questdb(where, f"insert into kept values('2026-01-05T00:00:00.000000Z', '{key}')")
    wait_until(lambda: key in _read_questdb(where), SECONDS, "the row is there")


def _read_questdb(where: Endpoint) -> list[str]:
    return [row[0] for row in questdb(where, "select key from kept")]


WRITERS: dict[str, Callable[[Endpoint, str], Any]] = {
    "postgres": lambda where, key: _postgres(where, "insert into kept values($1) returning key", key),
    "nats": _nats,
    "questdb": _write_questdb,
    "redis": lambda where, key: _redis(where, "SADD", "kept", key),
}

READERS: dict[str, Callable[[Endpoint], list[str]]] = {
    "postgres": lambda where: _postgres(where, "select key from kept"),
    "nats": lambda where: _nats(where, None),
    "questdb": _read_questdb,
    "redis": lambda where: _redis(where, "SMEMBERS", "kept"),
}
