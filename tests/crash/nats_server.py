"""A NATS server of a test's own, as PKS itself configures it, and what a test reads from and writes to it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from pks.base.config import Edges
from pks.edges.nats.connection import Connection, open_connection
from pks.edges.nats.origin import origin_of
from pks.segments.journal_view import JournalView
from pks.servers.endpoints import Endpoint
from pks.servers.nats import Nats
from tests.conftest import wait_until
from tests.crash.system import System

SECONDS = 60.0


class Stored(NamedTuple):
    """One message of a stream."""

    sequence: int
    subject: str
    headers: dict[str, str]
    data: bytes


class NatsServer:
    """One server on one folder; it keeps its port and its data over kills."""

    def __init__(self, folder: Path) -> None:
        self.server = Nats(folder / "servers" / "nats", Edges())
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if not self.server.ports:
            self.server.prepare()
        with self.server.output.open("ab") as said:
            self.process = subprocess.Popen(self.server.command(), env=self.server.environment(), stdout=said, stderr=said)
        wait_until(self._is_ready, SECONDS, "the NATS server")

    def _is_ready(self) -> bool:
        assert self.process is not None, "started"
        assert self.process.poll() is None, self.server.last_words()
        return asyncio.run(self._connects())

    async def _connects(self) -> bool:
        connection = None
        try:
            connection = await open_connection(self.endpoint(), "test")
            await connection.stream.account_info()
        except (OSError, nats.errors.Error):  # it is not ready yet
            return False
        finally:
            if connection is not None:
                await connection.close()
        return True

    def endpoint(self, user: str = "pks") -> Endpoint:
        return Endpoint("nats", "external", self.server.url(), self.server.url(), str(self.server.seed_file(user)))

    @property
    def settings(self) -> dict[str, str]:
        """What a system needs to use it."""
        return {"edges": "external", "edges.nats_url": self.server.url(), "edges.nats_nkey": str(self.server.seed_file("pks"))}

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self.process is not None, "started"
        os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()

    def start_with_room(self, most_bytes: int) -> None:
        """Start it again with so much room for JetStream."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        conf = self.server.folder / "nats.conf"
        conf.write_text(re.sub(r"max_file_store: \d+", f"max_file_store: {most_bytes}", conf.read_text()))
        self.start()

    def wipe(self) -> None:
        """Dead, and all its streams gone."""
        self.kill()
        shutil.rmtree(self.server.folder / "jetstream")

    def run(self, work: Callable[[Connection], Awaitable[Any]], user: str = "pks") -> Any:
        """Do something on a connection of its own."""

        async def connected() -> Any:
            connection = await open_connection(self.endpoint(user), "test", f"_INBOX_{user}" if user != "pks" else "_INBOX")
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(connected())

    def messages(self, stream: str, *subjects: str) -> list[Stored]:
        """Everything in a stream (of these subjects), in its order; [] where there is no stream."""
        return list(self.run(lambda connection: _read_all(connection, stream, subjects)))

    def publish(self, subject: str, *payloads: bytes, user: str = "pks", headers: dict[str, str] | None = None) -> None:
        """Store messages."""

        async def work(connection: Connection) -> None:
            for payload in payloads:
                await connection.stream.publish(subject, payload, headers=headers)

        self.run(work, user)

    def pending(self, system: System) -> int:
        """Messages that a system's consumer has not acknowledged or not seen."""

        async def work(connection: Connection) -> int:
            origin = origin_of(JournalView(system.paths.journal).records[1])
            info = await connection.stream.consumer_info("BOOKING", f"pks-{origin}")
            return int(info.num_pending) + int(info.num_ack_pending)

        return int(self.run(work))

    def remove(self, stream: str) -> None:
        """Delete a stream."""
        self.run(lambda connection: connection.stream.delete_stream(stream))

    def purge(self, stream: str) -> None:
        """Empty a stream."""
        self.run(lambda connection: connection.stream.purge_stream(stream))


async def _read_all(connection: Connection, stream: str, subjects: tuple[str, ...]) -> list[Stored]:
    config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE, filter_subjects=list(subjects) or None)
    try:
        reader = await connection.stream.pull_subscribe(subjects[0] if subjects else ">", stream=stream, config=config)
    except NotFoundError:
        return []
    found: list[Stored] = []
    pending = (await reader.consumer_info()).num_pending
    while pending:
        for message in await reader.fetch(min(500, pending), timeout=10):
            found.append(Stored(message.metadata.sequence.stream, message.subject, dict(message.headers or {}), message.data))
            pending = message.metadata.num_pending
    return found


@contextmanager
def nats_server(folder: Path) -> Iterator[NatsServer]:
    """For fixtures."""
    made = NatsServer(folder)
    made.start()
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.kill()
        shutil.rmtree(made.server.folder, ignore_errors=True)
