"""Positions of a system as they come on NATS: the way of `pks.connect("nats://...")`.

Owns the connection, which an event loop in the host's thread keeps, and the choice of the system that is followed. Needs the client
library of NATS, which is imported by the thread.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pks.base.errors import PksError
from pks.client.remote import PAUSE_SECONDS, STALE_SECONDS, RemoteHost, RemotePosition
from pks.servers.endpoints import Endpoint

FETCH_MESSAGES, FETCH_SECONDS = 500, 0.5

OWN_INBOXES = ("algo", "booker")
"""Users of the embedded server that have an inbox of their own."""


class AmbiguousOrigin(PksError):
    """Several systems tell positions on this server."""

    def __init__(self, origins: list[str]) -> None:
        super().__init__(f"several systems tell positions there: give origin=, one of {', '.join(origins)}")
        self.origins = origins


class BusHost(RemoteHost):
    """A system, followed on NATS."""

    def __init__(self, url: str, nkey: str, ca: str, origin: str) -> None:
        self._endpoint = Endpoint("nats", "external", url, url, nkey, ca)
        super().__init__(self._endpoint.shown)
        self.url, self.origin = url, origin
        self._inbox = f"_INBOX_{stem}" if (stem := Path(nkey).stem) in OWN_INBOXES else "_INBOX"
        self._named = bool(origin)
        self._others: set[str] = set()
        self._thread.start()

    def check_live(self) -> None:
        """As of every RemoteHost; raises AmbiguousOrigin where another system speaks too and none was named."""
        if self._others and not self._named:
            raise AmbiguousOrigin(sorted({self.origin, *self._others}))
        super().check_live()

    def __repr__(self) -> str:
        return f"<BusHost {self.shown} {self.origin or '(any)'}: {len(self.known)} positions>"

    def _follow(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        """Connect, follow, and again, until closed."""
        from pks.edges.nats.connection import open_connection

        while not self.closed.is_set():
            connection = None
            try:
                connection = await open_connection(self._endpoint, "pks remote", self._inbox)
                self.connections_count += 1
                await self._read(connection)
            except Exception as error:  # a server may fail in any way that its library knows; it is said, and tried again
                self.last_error = f"{type(error).__name__}: {error}"
            finally:
                if connection is not None:
                    await connection.close()
            if not self.closed.is_set():
                await asyncio.sleep(PAUSE_SECONDS)

    async def _read(self, connection: Any) -> None:
        from nats.errors import TimeoutError as NothingCame
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        from pks.edges.nats.streams import POSITION_HEARTBEAT, POSITION_LATEST, POSITIONS_LATEST

        await connection.client.subscribe(POSITION_HEARTBEAT, cb=self._take_beat)
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=60.0,
            mem_storage=True,
        )
        while not self.origin and not self.closed.is_set():  # the one that lives; positions of dead ones may still lie there
            connection.check()
            await asyncio.sleep(0.02)
        subject = f"{POSITION_LATEST}.{self.origin}.>"
        reader = await connection.stream.pull_subscribe(subject, stream=POSITIONS_LATEST.name, config=config)
        if not (await reader.consumer_info()).num_pending:
            self.whole.set()
        while not self.closed.is_set():
            connection.check()
            try:
                messages = await reader.fetch(FETCH_MESSAGES, timeout=FETCH_SECONDS)
            except (TimeoutError, NothingCame):
                continue
            for message in messages:
                self._take(message)
            if messages and not messages[-1].metadata.num_pending:
                self.whole.set()
                self.last_error = ""

    def _take(self, message: Any) -> None:
        from pks.proto.pks.v1 import position_pb2

        self.put(RemotePosition(position_pb2.PositionUpdated.FromString(message.data), message.headers["Pks-Origin"]))

    async def _take_beat(self, message: Any) -> None:
        from pks.proto.pks.v1 import position_pb2

        origin = message.headers.get("Pks-Origin", "")
        self.origin = self.origin or origin
        if origin != self.origin:
            self._others.add(origin)
            return
        beat = position_pb2.Heartbeat.FromString(message.data)
        self.beat(beat.durable_sequence, beat.told_sequence)


assert FETCH_SECONDS < STALE_SECONDS, "a look takes less than what makes a system silent"
