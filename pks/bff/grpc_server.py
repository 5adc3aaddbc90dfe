"""The gRPC server: TLS, who may call, health and reflection, in the gateway's event loop.

Owns the server of grpc.aio and its limits; `start_grpc` is all that the gateway calls. Tokens are judged before a call begins, by an
interceptor; what a caller may see and do is the service's affair. Whether figures are of now is what health says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pks.base.config import Gateway
from pks.base.errors import PksError, Retryable
from pks.bff.grpc_service import SERVICE, Access, Booking, Past, Service, caller
from pks.bff.grpc_status import end, not_authenticated
from pks.bff.guards import check_rate
from pks.bff.limits import RateLimit
from pks.bff.live import Live, NotLive, State
from pks.bff.ports import PortTaken, ports_of
from pks.bff.problems import Problem, problem_of
from pks.bff.tls import TlsUnusable, server_certificate
from pks.proto.service import handlers

OPEN = ("/grpc.health.v1.Health/", "/grpc.reflection.")
"""Calls without a token: they say nothing of anybody's positions."""

LOOK_SECONDS = 0.5
"""Between two looks whether the core lives, for health."""

CERTIFICATE_SECONDS = 60.0
"""How long a certificate is taken for what it was; a renewed one is shown without a restart."""

TOKEN_CHARACTERS_MAX = 8192
STREAMS_A_CONNECTION_MAX = 256
MESSAGE_BYTES_MAX = 16 << 20
"""Of an answer; ours are some 100 KB, but for a long history."""

STOP_SECONDS = 2.0

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.so_reuseport", 0),  # a second server on a port is refused, not given half of the calls
    ("grpc.max_concurrent_streams", STREAMS_A_CONNECTION_MAX),
    ("grpc.max_metadata_size", 2 * TOKEN_CHARACTERS_MAX),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 3),
)

Failed = Callable[[BaseException], None]


class GrpcServer:
    """The running server."""

    def __init__(self, server: Any, service: Service, port: int, looking: asyncio.Task[None], healthy: Any) -> None:
        self.port, self.service = port, service
        self._server, self._looking, self._healthy = server, looking, healthy

    async def stop(self, grace: float = STOP_SECONDS) -> None:
        """Take no new call, let those that run end for so long, then end them."""
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        await self._healthy.enter_graceful_shutdown()
        await self._server.stop(grace)
        await self.service.stop()


async def start_grpc(
    settings: Gateway,
    data_dir: Path,
    live: Live,
    access: Access,
    booking: Booking,
    past: Past,
    failed: Failed,
    limit: RateLimit,
    last: int = 0,
) -> GrpcServer:
    """Serve on settings.bind and grpc_port, by the rules of `ports`. last: the port of the last life, 0 for none.

    failed: told of errors that nobody foresaw. limit: the calls of a user. Raises TlsUnusable, PortTaken.
    """
    service = Service(live, access, booking, past, settings.clients_max, failed)
    size = settings.body_mb << 20
    options = (*_OPTIONS, ("grpc.max_receive_message_length", size), ("grpc.max_send_message_length", MESSAGE_BYTES_MAX))
    server = grpc.aio.server(interceptors=[_Judge(access, limit, failed)], options=options)
    server.add_generic_rpc_handlers((handlers(SERVICE, service.calls),))
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = _listen(server, settings, last, _credentials(settings, data_dir, failed))
    await server.start()
    looking = asyncio.get_running_loop().create_task(_look(live, healthy, failed))
    return GrpcServer(server, service, port, looking, healthy)


def _listen(server: Any, settings: Gateway, last: int, credentials: Any) -> int:
    host = _host(settings.bind)
    for port in ports_of(settings, "grpc_port", last):
        try:
            return int(server.add_secure_port(f"{host}:{port}", credentials))
        except RuntimeError:
            continue  # taken; the library does not say by whom, or why else
    raise PortTaken("grpc_port", f"{host}:{port}", "the port is taken, or not ours to take")


def _host(bind: str) -> str:
    try:
        return f"[{bind}]" if ip_address(bind).version == 6 else bind
    except ValueError:
        return bind  # a name


def _credentials(settings: Gateway, data_dir: Path, failed: Failed) -> Any:
    """Credentials that take up a renewed certificate. Raises TlsUnusable for the first one."""
    shown = server_certificate(settings, data_dir)
    looked = time.monotonic()

    def made() -> Any:
        return grpc.ssl_server_certificate_configuration([(shown.key, shown.chain)])

    def renewed() -> Any:
        """Asked at each handshake; None: as before."""
        nonlocal shown, looked
        if time.monotonic() - looked < CERTIFICATE_SECONDS:
            return None
        looked = time.monotonic()
        try:
            found = server_certificate(settings, data_dir)
        except (TlsUnusable, OSError) as error:  # the one that is shown goes on
            failed(error)
            return None
        if found == shown:
            return None
        shown = found
        return made()

    return grpc.dynamic_ssl_server_credentials(made(), renewed, False)


async def _look(live: Live, healthy: Any, failed: Failed) -> None:
    """Say whether the core lives, as long as the server runs."""
    while True:
        status = health_pb2.HealthCheckResponse.NOT_SERVING
        try:
            if live.freshness().state is State.LIVE:
                status = health_pb2.HealthCheckResponse.SERVING
        except NotLive:
            pass  # as it stands
        except Exception as error:  # nobody foresaw it
            failed(error)
        for name in ("", SERVICE.full_name):
            await healthy.set(name, status)
        await asyncio.sleep(LOOK_SECONDS)


class _Judge(grpc.aio.ServerInterceptor):
    """Judges the token of a call before the call begins, and denies in the shape that the call has."""

    def __init__(self, access: Access, limit: RateLimit, failed: Failed) -> None:
        self._access, self._limit, self._failed = access, limit, failed

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith(OPEN):
            return handler
        problem = await self._judge(details.invocation_metadata)
        return handler if problem is None else _denial(handler, problem)

    async def _judge(self, metadata: Any) -> Problem | None:
        token = _token(metadata)
        if not token:
            return not_authenticated()
        try:
            principal = await self._access.judge(token)
            check_rate(self._limit, principal.name)
            caller.set(principal)
        except (Problem, Retryable) as error:
            return problem_of(error)
        except PksError:
            return not_authenticated()
        except Exception as error:  # nobody foresaw it: no door opens
            self._failed(error)
            return problem_of(error)
        return None


def _token(metadata: Any) -> str:
    """The bearer token, "" where there is none, or more than one."""
    found = [value for name, value in metadata or () if name == "authorization"]
    if len(found) != 1 or not isinstance(found[0], str) or len(found[0]) > TOKEN_CHARACTERS_MAX:
        return ""
    scheme, _, token = found[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _denial(handler: Any, problem: Problem) -> Any:
    async def deny(_request: Any, context: Any) -> None:
        await end(context, problem)

    shape = grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
    return shape(deny, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer)
