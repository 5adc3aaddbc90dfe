"""The gateway's HTTP side as one ASGI application: `/ws` and the quick paths by themselves, everything else by Litestar.

Owns what holds for every request: who it is (a bearer token, judged by `access`), what the handler asks for (`opt: permission`), limits
of size and rate, headers, errors as problem details, the OpenAPI document. What an answer says belongs to the `rest_*` modules.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from litestar import Litestar, Request, Response, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ASGIApp, Send

from pks.base.errors import PksError
from pks.bff import (
    rest_admin,
    rest_approvals,
    rest_health,
    rest_letters,
    rest_past,
    rest_positions,
    rest_reference,
    rest_trades,
    rest_users,
)
from pks.bff.access import Permission
from pks.bff.compress import Compress, encoding_of
from pks.bff.guards import authenticated, check_rate, within_rate
from pks.bff.pages import Page
from pks.bff.problems import Problem, problem_of, problem_response
from pks.bff.rest_auth import auth_router
from pks.bff.rest_positions import etag

if TYPE_CHECKING:
    from pks.bff.gateway import Gateway

API = "/api/v1"
STREAM_PATH = "/ws"
SNAPSHOT_PATH = f"{API}/positions"
FLAT_OF_QUERY = {b"": False, b"all=false": False, b"all=true": True}
ANY_OR_JSON = (b"*/*", b"application/json")

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


QUICK_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


def make_app(gateway: Gateway) -> ASGIApp:
    """The application of one gateway."""
    rest = make_litestar(gateway)
    return Front(gateway, Compress(rest))


class Front:
    """The first to see a request: counts it, answers the quick path itself, hands the others to whom they belong."""

    def __init__(self, gateway: Gateway, rest: ASGIApp) -> None:
        self._gateway, self._rest = gateway, rest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        self._gateway.requests_count += 1
        if scope["type"] == "websocket" and scope["path"] == STREAM_PATH:
            await self._gateway.door(scope, receive, send)
            return
        if scope["type"] == "http" and scope["path"] == SNAPSHOT_PATH and await self._snapshot(scope, send):
            return
        await self._rest(scope, receive, send)

    async def _snapshot(self, scope: Any, send: Send) -> bool:
        """All positions that the user sees, out of encoded bytes; False for what asks for anything else, or cannot be answered so."""
        flat = FLAT_OF_QUERY.get(scope["query_string"])
        headers = dict(scope["headers"])
        if flat is None or scope["method"] != "GET" or headers.get(b"accept", b"*/*") not in ANY_OR_JSON:
            return False
        token = headers.get(b"authorization", b"")
        try:
            principal = await self._gateway.access.judge(token.removeprefix(b"Bearer ").decode("latin-1"))
            check_rate(self._gateway.users_limit, principal.name)
            freshness = self._gateway.live.freshness()
            body = self._gateway.snapshots().body(principal.books, flat)
        except (PksError, Problem):
            return False  # refused, in words, behind us
        if body is None or not principal.may(Permission.READ):
            return False
        tag = etag("snapshot", self._gateway.live.attachments, body.sequence, principal.books, flat).encode()
        encoding = encoding_of(headers.get(b"accept-encoding", b""))
        unchanged = headers.get(b"if-none-match") == tag
        content = b"" if unchanged else body.in_encoding(encoding)
        said = [(b"etag", tag), (b"vary", b"Accept-Encoding, Authorization"), *QUICK_HEADERS]
        said += [(name.encode(), value.encode()) for name, value in freshness.headers.items()]
        if not unchanged:
            said += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
            said += [(b"content-encoding", encoding)] if encoding else []
        await send({"type": "http.response.start", "status": 304 if unchanged else 200, "headers": said})
        await send({"type": "http.response.body", "body": content, "more_body": False})
        return True


def make_litestar(gateway: Gateway) -> Litestar:
    """REST and its documents."""
    settings = gateway.config
    api = Router(
        API,
        route_handlers=[
            *rest_positions.HANDLERS,
            *rest_trades.HANDLERS,
            *rest_past.HANDLERS,
            *rest_approvals.HANDLERS,
            *rest_reference.HANDLERS,
            *rest_admin.HANDLERS,
            *rest_letters.HANDLERS,
            *rest_users.HANDLERS,
        ],
        guards=[authenticated],
        security=[{"bearer": []}],
    )
    return Litestar(
        [api, auth_router(), *rest_health.HANDLERS],
        state=State(
            {
                "gateway": gateway,
                "access": gateway.access,
                "logins": gateway.logins,
            }
        ),
        guards=[within_rate],
        exception_handlers={Exception: answer_error},
        response_headers=SECURITY_HEADERS,
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
