"""The gateway's HTTP side as one ASGI application: `/ws` and the quick paths by themselves, everything else by Litestar.

Owns what holds for every request: who it is (a bearer token, judged by `access`), what the handler asks for (`opt: permission`), limits
of size and rate, headers, errors as problem details, the OpenAPI document. What an answer says belongs to the `rest_*` modules.
"""

from __future__ import annotations

import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

from litestar import Litestar, Request, Response, Router
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ASGIApp, Receive, Scope, Send

from pks.bff import rest_admin, rest_approvals, rest_health, rest_letters, rest_positions, rest_reference, rest_trades
from pks.bff.guards import authenticated, within_rate
from pks.bff.limits import RateLimit
from pks.bff.pages import Page
from pks.bff.problems import problem_of, problem_response

if TYPE_CHECKING:
    from pks.bff.gateway import Gateway

API = "/api/v1"
COMPRESSED_BYTES_MIN = 1024

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make_app(gateway: Gateway) -> ASGIApp:
    """The application of one gateway."""
    return Front(gateway, make_litestar(gateway))


class Front:
    """The first to see a request: counts it, and hands it to whom it belongs."""

    def __init__(self, gateway: Gateway, rest: ASGIApp) -> None:
        self._gateway, self._rest = gateway, rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        self._gateway.requests_count += 1
        await self._rest(scope, receive, send)


def make_litestar(gateway: Gateway) -> Litestar:
    """REST and its documents."""
    settings = gateway.config
    api = Router(
        API,
        route_handlers=[
            *rest_positions.HANDLERS,
            *rest_trades.HANDLERS,
            *rest_approvals.HANDLERS,
            *rest_reference.HANDLERS,
            *rest_admin.HANDLERS,
            *rest_letters.HANDLERS,
        ],
        guards=[authenticated],
        security=[{"bearer": []}],
    )
    return Litestar(
        [api, *rest_health.HANDLERS],
        state=State({"gateway": gateway, "limit": RateLimit(settings.rate_limit, time.monotonic)}),
        guards=[within_rate],
        exception_handlers={Exception: answer_error},
        response_headers=SECURITY_HEADERS,
        compression_config=CompressionConfig(backend="gzip", minimum_size=COMPRESSED_BYTES_MIN, gzip_compress_level=1),
        cors_config=CORSConfig(allow_origins=list(settings.cors_origins)) if settings.cors_origins else None,
        openapi_config=OpenAPIConfig(
            title="PKS",
            version=metadata.version("pks"),
            path="/docs",
            render_plugins=[Page(), JsonRenderPlugin(path="/openapi.json")],
            components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")}),
            use_handler_docstrings=True,
        ),
        request_max_body_size=settings.body_mb << 20,
        logging_config=None,
        debug=False,
    )


def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Any error as problem details; one that nobody foresaw is logged with its traceback."""
    problem = problem_of(error)
    if problem.status == 500:
        gateway: Gateway = request.app.state.gateway
        gateway.context.log.crash(error)
    return problem_response(request, problem)
