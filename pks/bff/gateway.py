"""The gateway as a whole: what it is made of, how it begins and how it ends. One event loop; REST and WebSocket on uvicorn, gRPC beside
them.

Owns the order of the start (secrets, readers, intake, sockets, servers) and of the end (nobody new is let in, streams are told, what was
sent to be booked is answered). Each part knows only the parts below it; handlers find them here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from typing import Any

import uvicorn
from litestar import Request

from pks.bff.access import AccessUnavailable, Permission, Principal, how_to_log_in, make_access
from pks.bff.app import make_app
from pks.bff.approvals import Approvals
from pks.bff.ask_past import AskPast
from pks.bff.audit import AuditLog, AuditRows
from pks.bff.booking import Booking
from pks.bff.commands import Commands, address_of
from pks.bff.grpc_past import GrpcPast
from pks.bff.grpc_server import GrpcServer, start_grpc
from pks.bff.guards import USERS_AN_ADDRESS
from pks.bff.hub import Hub
from pks.bff.limits import RateLimit
from pks.bff.live import Live, NotLive
from pks.bff.logins import Logins
from pks.bff.patience import PatientProtocol
from pks.bff.ports import Endpoints, forget_endpoints, listen, read_endpoints, shown_host, write_endpoints
from pks.bff.rest_past import originals_of
from pks.bff.snapshots import Snapshots
from pks.bff.tls import PUBLIC_CA_FILE
from pks.bff.websocket import MESSAGE_BYTES_MAX, Door, hide_tokens
from pks.edges.files.rows import TradeRow
from pks.workers.runtime import Context

SHUTDOWN_SECONDS = 2
"""How long requests under way may take once the gateway ends."""

START_SECONDS = 10.0

USERS_SECONDS = 3.0
"""How long a start waits for what Postgres knows of users, so that a new life lets those in whom the last one did."""

KEEP_ALIVE_SECONDS = 65

CHECK_SECONDS = 1.0
"""Between two looks whether a part has ended that should not."""


class _Server(uvicorn.Server):
    """Without signal handlers: the worker's runtime has the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class Gateway:
    """One life of the gateway. `requests_count`: requests and messages that were served."""

    def __init__(self, context: Context) -> None:
        self.context, self.config = context, context.config.gateway
        self.requests_count = 0
        self.live = Live(context.config.instance, context.host)
        self.booking = Booking(context)
        self.access = make_access(context.config, context.log)
        self.past = AskPast(context.paths.run)
        self.logins = Logins(self.access, self.config)
        self.audit = AuditLog(context.paths.run, f"{context.epoch}.{os.getpid()}", context.clock.wall_ns, self._audit_waits)
        self.approvals = Approvals(self.access.store)
        self.users_limit = RateLimit(self.config.rate_limit, time.monotonic)
        self.addresses_limit = RateLimit(USERS_AN_ADDRESS * self.config.rate_limit, time.monotonic)
        self.hub = Hub(
            self.live,
            context.clock,
            lambda: context.host,
            clients_max=self.config.clients_max,
            alerts=context.paths.run,
            say=lambda text, facts: context.log.info(text, **facts),
        )
        self.door = Door(self.hub, self.access, read=Permission.READ, operate=Permission.OPERATE)
        self._grpc: GrpcServer | None = None
        self.commands = Commands(self.booking, self.approvals, self.audit, self._originals, self.config.four_eyes)
        self._snapshots: tuple[int, Snapshots] | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._server: uvicorn.Server | None = None
        self._served: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        """Returns when clients are served. Raises PortTaken and what is wrong with certificates."""
        await self.access.start()
        with contextlib.suppress(TimeoutError):  # without Postgres we serve all the same: nobody is let in, and that is said
            async with asyncio.timeout(USERS_SECONDS):
                while self.access.age() is None:
                    await asyncio.sleep(0.01)
        self._spawn(self.booking.run())
        self._spawn(self.audit.run(self._audit_store))
        last = read_endpoints(self.context.paths.run)
        self._spawn(self.hub.run())
        self._spawn(self.door.run())
        door = listen(self.config, "rest_port", last.rest_port if last else 0)
        hide_tokens()
        self._server = _Server(self._uvicorn())
        self._served = served = self._spawn(self._server.serve(sockets=[door]))
        async with asyncio.timeout(START_SECONDS):
            while not self._server.started:
                if served.done():
                    served.result()
                await asyncio.sleep(0.005)
        self._grpc = await start_grpc(
            self.config,
            self.context.paths.data_dir,
            self.live,
            self.access,
            self.commands,
            GrpcPast(self.past),
            self.context.log.crash,
            self.users_limit,
            last.grpc_port if last else 0,
        )
        scheme = "s" if self.config.tls_cert else ""
        port = door.getsockname()[1]
        host = shown_host(self.config.bind)
        endpoints = Endpoints(
            os.getpid(),
            f"http{scheme}://{host}:{port}",
            f"ws{scheme}://{host}:{port}/ws",
            f"{host}:{self._grpc.port}",
            "" if self.config.tls_cert else str(self.context.paths.run / PUBLIC_CA_FILE),
            port,
            self._grpc.port,
        )
        write_endpoints(self.context.paths.run, endpoints)
        self.context.log.info("the gateway serves", rest=endpoints.rest, websocket=endpoints.websocket, grpc=endpoints.grpc)
        self.context.fail("")
        self._spawn(self._greet(endpoints))

    async def _greet(self, endpoints: Endpoints) -> None:
        """Say where `pks run` is watched how to come in, and how to make the first user while there is none; goes on until it is said."""
        self.context.tell(f"gateway: REST and documents {endpoints.rest}/docs, streams {endpoints.websocket}, gRPC {endpoints.grpc}")
        while True:
            try:
                async with self.access.store() as connection:
                    hint = await how_to_log_in(connection, self.context.config.data_dir)
                break
            except AccessUnavailable:
                await asyncio.sleep(1)
        if hint:
            self.context.tell(hint)
        await asyncio.get_running_loop().create_future()  # what runs here ends with the gateway alone

    def _uvicorn(self) -> uvicorn.Config:
        config = uvicorn.Config(
            make_app(self),
            loop="none",
            http=PatientProtocol,
            ws="websockets-sansio",
            ws_max_size=MESSAGE_BYTES_MAX,
            ws_per_message_deflate=False,  # patches are short, and every client would cost a compression of its own
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(self.config.trusted_proxies),
            forwarded_allow_ips=list(self.config.trusted_proxies),
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            h11_max_incomplete_event_size=1 << 16,
        )
        if self.config.tls_cert:
            config.ssl_certfile, config.ssl_keyfile = self.config.tls_cert, self.config.tls_key
            config.ssl_version = ssl.PROTOCOL_TLS_SERVER
        return config

    async def run(self) -> None:
        """Serve until a part fails, which is raised."""
        while True:
            done, _ = await asyncio.wait(self._tasks, timeout=CHECK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            assert not done, "no part ends by itself"
            self.access.check()

    async def _originals(self, row: TradeRow) -> Sequence[dict[str, Any]]:
        return await originals_of(self, row)

    def note(self, request: Request[Any, Any, Any], action: str, subject: str, **detail: Any) -> None:
        """What a user did goes into the audit."""
        principal: Principal = request.user
        self.audit.note(principal.name, action, subject, address=address_of(request), session=principal.session, **detail)

    def snapshots(self) -> Snapshots:
        """Encoded positions of the host as it is attached now. Raises NotLive."""
        host = self.live.host
        if self._snapshots is None or self._snapshots[0] != self.live.attachments:
            self._snapshots = (self.live.attachments, Snapshots(host))
        return self._snapshots[1]

    def _audit_waits(self, reason: str) -> None:
        self.context.log.warning("the audit waits for Postgres", reason=reason, notes=self.audit.waiting_count)

    @contextlib.asynccontextmanager
    async def _audit_store(self) -> AsyncIterator[AuditRows]:
        async with self.access.store() as connection:
            yield AuditRows(connection)

    def show(self) -> None:
        """What `pks status` says of us: the last event that users see."""
        with contextlib.suppress(NotLive):
            freshness = self.live.freshness()
            self.context.cursor = freshness.applied

    async def close(self) -> None:
        """Let nobody in, end what runs. May be called again."""
        if self._server is not None:
            self._server.should_exit = True
        forget_endpoints(self.context.paths.run)
        self.hub.close()
        if self._grpc is not None:
            grpc, self._grpc = self._grpc, None
            await grpc.stop(SHUTDOWN_SECONDS)
        if self._served is not None:
            await asyncio.wait({self._served}, timeout=SHUTDOWN_SECONDS + 1)
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.logins.close()
        await self.past.close()
        await self.access.close()
        self.audit.close()
        self.live.close()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)
        return task
