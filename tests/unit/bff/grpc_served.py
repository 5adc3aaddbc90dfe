"""A gRPC server of the gateway over a small host, in a thread with an event loop of its own, so that tests are ordinary clients of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import grpc

from pks.base.config import Gateway
from pks.base.errors import PksError, Retryable
from pks.bff.access import Permission, Principal
from pks.bff.grpc_server import GrpcServer, start_grpc
from pks.bff.limits import RateLimit
from pks.bff.live import Live
from pks.client.bulk import Outcome
from pks.edges.files.rows import RowError, TradeRow
from pks.layouts.segment import WorkerState
from pks.proto.pks.v1 import positions_service_pb2 as pb
from pks.proto.service import Stub
from tests.unit.client.small_host import SmallHost

SECONDS = 20.0  # a deadline for a loaded machine
FOREVER = 4e9
SERVICE = pb.DESCRIPTOR.services_by_name["PositionsSimulatorService"]
T = TypeVar("T")


class NotAuthenticated(PksError):
    """As access has it."""


class AccessAway(Retryable):
    """As access has it."""


def principal(name: str, books: frozenset[str] | None = None, *permissions: Permission, expires_at: float = FOREVER) -> Principal:
    """A user of all books who may read, book and correct, unless something else is said."""
    allowed = frozenset(permissions or (Permission.READ, Permission.BOOK, Permission.CORRECT))
    return Principal(name, frozenset(), books, allowed, f"jti-{name}", f"session-{name}", expires_at)


class Desk:
    """Who has which token: the Access of a test. A principal that is replaced, or gone, is so for running streams too."""

    def __init__(self) -> None:
        self.users = {name: principal(name) for name in ("anna",)} | {"beta": principal("beta", frozenset({"BETA"}))}
        self.is_away = False
        self._events: list[asyncio.Event] = []

    async def judge(self, token: str) -> Principal:
        return self._find(token.removeprefix("token-"))

    async def again(self, known: Principal) -> Principal:
        return self._find(known.name)

    def changes(self) -> asyncio.Event:
        self._events.append(asyncio.Event())
        return self._events[-1]

    def tell(self) -> None:
        """To be called in the server's loop."""
        for event in self._events:
            event.set()

    def _find(self, name: str) -> Principal:
        if self.is_away:
            raise AccessAway("nobody can say")
        if name not in self.users:
            raise NotAuthenticated("no such token")
        return self.users[name]


@dataclass
class Booker:
    """The Booking of a test: remembers what was asked, answers what it was told to."""

    asked: list[tuple[TradeRow, str, str, str]] = field(default_factory=list)
    answer: Outcome | Exception | None = None
    held: asyncio.Event | None = None  # set when a booking began; it then never ends
    cancelled: threading.Event = field(default_factory=threading.Event)

    async def book(self, rows: Sequence[TradeRow | RowError], principal: Any, key: str = "", address: str = "") -> list[Outcome]:
        (row,) = rows
        assert isinstance(row, TradeRow)
        self.asked.append((row, principal.name, key, address))
        if self.held is not None:
            try:
                await self.held.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return [self.answer or Outcome(1, row.trade_id, "ACCEPTED", 40 + len(self.asked), "", "", "", "")]


@dataclass
class Memory:
    """The Past of a test."""

    asked: list[Any] = field(default_factory=list)
    answer: Mapping[str, Any] | Exception = field(default_factory=dict)

    async def history(self, book: str, instrument: str, *, after: int, limit: int, known_at: int | None) -> Mapping[str, Any]:
        return self._answer(("history", book, instrument, after, limit, known_at))

    async def what_if(self, rows: Sequence[Mapping[str, Any]], marks: Mapping[str, str], books: frozenset[str] | None) -> Mapping[str, Any]:
        return self._answer(("what if", list(rows), dict(marks), books))

    def _answer(self, asked: Any) -> Mapping[str, Any]:
        self.asked.append(asked)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Served:
    """The running server. `failures`: errors that nobody foresaw; a test that makes one takes it out."""

    def __init__(self, small: SmallHost, folder: Path, **settings: Any) -> None:
        self.small, self.folder = small, folder
        self.settings = Gateway(**{"grpc_port": 0, "rate_limit": 0, **settings})
        for number, plan in enumerate(small.plans):
            for state in (WorkerState.STARTING, WorkerState.READY):
                small.host.control.watch(number, name=plan.name, state=state)
        self.desk, self.booker, self.memory = Desk(), Booker(), Memory()
        self.failures: list[BaseException] = []
        self.live = Live(small.instance, small.host)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="gateway")
        self._thread.start()
        self.port = 0
        self.server: GrpcServer = self.run(self.start())
        self.channels: list[Any] = []

    async def start(self) -> GrpcServer:
        limit = RateLimit(self.settings.rate_limit, self.loop.time)
        parts = (self.live, self.desk, self.booker, self.memory, self.failures.append, limit)
        self.server = await start_grpc(self.settings, self.folder, *parts, last=self.port)
        self.port = self.server.port
        return self.server

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """In the server's loop."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(SECONDS)

    def become(self, name: str, **changes: Any) -> None:
        """A user changes, and the access says so; None for `name`'s principal: gone."""

        async def change() -> None:
            self.desk.users[name] = replace(self.desk.users[name], **changes)
            self.desk.tell()

        self.run(change())

    def forget(self, name: str) -> None:
        """A user's token is revoked."""

        async def change() -> None:
            del self.desk.users[name]
            self.desk.tell()

        self.run(change())

    @property
    def ca(self) -> Path:
        return self.folder / "run" / "gateway-ca.pem"

    def channel(self, *more: tuple[str, int]) -> Any:
        options = (("grpc.use_local_subchannel_pool", 1), *more)
        made = grpc.secure_channel(f"localhost:{self.port}", grpc.ssl_channel_credentials(self.ca.read_bytes()), options)
        self.channels.append(made)
        return made

    def stub(self, *more: tuple[str, int]) -> Stub:
        return Stub(self.channel(*more), SERVICE)

    def streams(self) -> int:
        return len(self.server.service.streams)

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        try:
            self.run(self.server.stop(0.2))
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()
            self.live.close()


def bearer(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer token-{name}"),)


def said(error: Any) -> dict[str, str]:
    """The trailing metadata of ours."""
    return {name: value for name, value in error.trailing_metadata() or () if name.startswith("pks-")}
