"""A system with a gateway for tests: a core with the demo desk, a real Postgres, users, and clients that have logged in."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from pks.running import find_running
from tests.conftest import wait_until
from tests.crash.keep_servers import Kept, kept
from tests.crash.system import ROOT, SECONDS, System, running

PASSWORD = "correct horse battery staple"


class Users:
    """Made by the command, as people do."""

    def __init__(self, system: System, **environ: str) -> None:
        self._system, self._environ = system, environ

    def pks(self, *words: str, stdin: str = "") -> str:
        """Standard output of a command that goes well."""
        program = "from pks.cli import main; main()"
        command = [sys.executable, "-c", program, *words, "--data-dir", str(self._system.data_dir)]
        variables = {"PATH": "/usr/bin:/bin", "PKS_INSTANCE": self._system.instance, **self._environ}
        done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, env=variables, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def add(self, name: str, role: str, *books: str) -> None:
        """A user with PASSWORD."""
        granted = [word for book in books for word in ("--book", book)]
        self.pks("user", "add", name, "--role", role, *granted, "--password-stdin", stdin=PASSWORD)


class Gateway:
    """A running system and how its gateway is reached."""

    def __init__(self, system: System, server: Kept) -> None:
        self.system, self.server = system, server
        self.users = Users(system, PKS_EDGES="external", PKS_PG_URL=server.place("postgres").url)
        self.clients: list[httpx.Client] = []

    @property
    def endpoints(self) -> dict[str, str]:
        """As `pks status --json` has them; waited for."""
        wait_until(lambda: bool(find_running(self.system.data_dir).endpoints), SECONDS, f"a gateway: {self.system.log('bff')[-3:]}")
        return find_running(self.system.data_dir).endpoints

    def client(self, name: str = "") -> httpx.Client:
        """For REST, logged in as `name`, or as nobody."""
        made = httpx.Client(base_url=self.endpoints["rest"], timeout=30)
        self.clients.append(made)
        if name:
            made.headers["Authorization"] = f"Bearer {self.token(name)}"
        return made

    def token(self, name: str, password: str = PASSWORD) -> str:
        """An access token by login."""
        answer = httpx.post(f"{self.endpoints['rest']}/auth/login", json={"username": name, "password": password}, timeout=30)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def ask(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        """Rows of Postgres, as its owner."""
        import asyncpg

        async def asked() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(self.server.place("postgres").url)
            try:
                return [dict(row) for row in await connection.fetch(statement, *arguments)]
            finally:
                await connection.close()

        return asyncio.run(asked())


@contextmanager
def a_gateway(folder: Path, name: str, **settings: str) -> Iterator[Gateway]:
    """Started, with the users ann (trader of RU-EQ and US-EQ), bob (viewer of RU-EQ), cat (approver of RU-EQ), root (admin)."""
    with kept(folder / "postgres", only="postgres") as server:
        server.start("postgres")
        place = server.place("postgres").url
        options = {"edges": "external", "edges.postgres_url": place, "desk": "demo", "gateway.rest_port": "0", "gateway.grpc_port": "0"}
        with running(folder, name, **options, **settings) as system:
            system.start()
            made = Gateway(system, server)
            assert made.endpoints
            made.users.add("root", "admin")
            made.users.add("ann", "trader", "RU-EQ", "US-EQ")
            made.users.add("bob", "viewer", "RU-EQ")
            made.users.add("cat", "approver", "RU-EQ")
            try:
                yield made
            finally:
                for client in made.clients:
                    client.close()


def a_trade(trade_id: str, **words: Any) -> dict[str, Any]:
    """A trade of the demo desk."""
    return {
        "trade_id": trade_id, "book": "RU-EQ", "instrument": "SBER.MOEX", "side": "BUY", "quantity": "10", "price": "300.5",
        "trade_time": "2026-11-02T10:00:00Z", **words,
    }  # fmt: skip


def told(answer: httpx.Response) -> dict[str, Any]:
    """The problem of an answer, in its promised form."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem: dict[str, Any] = json.loads(answer.content)
    assert problem["status"] == answer.status_code
    assert {"type", "title", "status", "code", "detail"} <= problem.keys()
    return problem
