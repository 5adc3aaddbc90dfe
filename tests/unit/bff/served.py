"""A hub and its door behind a real uvicorn on a free port, in the test's own loop, and tokens as a test wants them."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from pks.base.clock import SystemClock
from pks.base.errors import PksError, Retryable
from pks.bff.hub import Hub
from pks.bff.live import Live
from pks.bff.patience import PatientProtocol
from pks.bff.websocket import MESSAGE_BYTES_MAX, Door, hide_tokens
from pks.topology import Host as Segments
from tests.unit.bff.streams import CoreHost, Listener

SECONDS = 60.0  # a deadline for a loaded machine, not a duration


class Revoked(PksError):
    """The token is not good."""


class Unknown(Retryable):
    """Nobody can say."""


@dataclass(frozen=True)
class Person:
    name: str
    books: frozenset[str] | None = None
    permissions: frozenset[str] = frozenset({"read"})
    jti: str = "1"
    expires_at: float = 4e9

    def may(self, permission: str) -> bool:
        return permission in self.permissions


@dataclass
class People:
    """An Access whose tokens are names, as `Door` wants one."""

    persons: dict[str, Person] = field(default_factory=dict)
    away: bool = False
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, token: str, books: frozenset[str] | None = None, **fields: Any) -> None:
        self.persons[token] = Person(fields.pop("name", token), books, jti=token, **fields)

    def change(self, token: str, **fields: Any) -> None:
        self.persons[token] = replace(self.persons[token], **fields)
        self.told.set()

    def revoke(self, token: str) -> None:
        del self.persons[token]
        self.told.set()

    async def judge(self, token: str) -> Person:
        if self.away:
            raise Unknown
        if token not in self.persons:
            raise Revoked
        return self.persons[token]

    async def again(self, principal: Person) -> Person:
        return await self.judge(principal.jti)

    def changes(self) -> asyncio.Event:
        return self.told


class Client(Listener):
    """A listener on a real connection."""

    def __init__(self, connection: ClientConnection) -> None:
        super().__init__()
        self.connection = connection

    async def say(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def next(self) -> dict[str, Any]:
        message = json.loads(await asyncio.wait_for(self.connection.recv(), SECONDS))
        self.take(message)
        return message

    async def until(self, kind: str) -> dict[str, Any]:
        """The next message of a type; those before it are taken too."""
        while (message := await self.next())["type"] != kind:
            pass
        return message

    async def until_shows(self, book: str, instrument: str, quantity: int) -> None:
        while self.positions.get((book, instrument), {}).get("quantity") != str(quantity):
            await self.next()

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the end, whatever comes before it."""
        await asyncio.wait_for(self.connection.wait_closed(), SECONDS)
        return self.connection.close_code or 0, self.connection.close_reason or ""


class Site:
    """What is served."""

    def __init__(self, folder: Path, instance: str, clients_max: int = 300) -> None:
        self.folder, self.instance = folder, instance
        self.core = CoreHost(folder, instance)
        self.live = Live(instance, Segments.open(instance, folder))
        opened = lambda: Segments.open(instance, folder)  # noqa: E731
        self.said: list[str] = []
        self.hub = Hub(self.live, SystemClock(), opened, clients_max=clients_max, alerts=folder, say=lambda text, _: self.said.append(text))
        self.people = People()
        self.people.add("ann", permissions=frozenset({"read", "operate"}))
        self.people.add("bob", frozenset({"ALPHA"}))
        self.now = time.time
        self.door = Door(self.hub, self.people, read="read", operate="operate", now=lambda: self.now())
        self.port = 0

    def start_core(self) -> None:
        """Another core of the same name, as after a restart of the system."""
        self.core = CoreHost(self.folder, self.instance)
        self.live._segments = Segments.open(self.instance, self.folder)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Site]:
        hide_tokens()
        listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            self.door, http=PatientProtocol, ws="websockets-sansio", ws_max_size=MESSAGE_BYTES_MAX, ws_per_message_deflate=False,
            lifespan="off", log_config=None, timeout_graceful_shutdown=3,
        )  # fmt: skip
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        tasks = [asyncio.create_task(self.hub.run()), asyncio.create_task(self.door.run())]
        try:
            yield self
        finally:
            failed = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.hub.close()
            await server.shutdown(sockets=[listener])
            self.live.close()
            self.core.close()
            for task in failed:
                task.result()

    async def connect(self, token: str = "ann", *, first: bool = True, **options: Any) -> Client:
        connection = await connect(f"ws://127.0.0.1:{self.port}/ws?token={token}", compression=None, max_size=None, **options)
        client = Client(connection)
        if first:
            await client.until("welcome")
        return client

    async def stream(self, token: str = "ann", *topics: str, books: list[str] | None = None) -> Client:
        """A client with its snapshot."""
        client = await self.connect(token)
        await client.say(subscribe=list(topics) or ["positions"], **({} if books is None else {"books": books}))
        await client.until("snapshot")
        return client
