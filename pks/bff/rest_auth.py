"""REST: POST /auth/login, /auth/refresh, /auth/logout; and who sends a request.

Owns the words of these three calls. The application's state holds `access` (Access) and `logins` (Logins). A token is taken from the header
`Authorization: Bearer` alone: never from a path, a query or a cookie, which end up in logs or are sent by themselves.
"""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Router, post
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency, Provide
from litestar.params import JSONBody
from msgspec import Meta, Struct

from pks.bff.access import AccessUnavailable, NotAuthenticated, Principal
from pks.bff.logins import LoginRefused, Logins, TokenPair
from pks.bff.passwords import PASSWORD_CHARACTERS_MAX, TooManyLogins
from pks.bff.problems import Problem
from pks.edges.postgres.users import RefreshRefused

RETRY_AFTER_SECONDS = 1

NOT_CACHED = {"Cache-Control": "no-store"}


class LoginRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Who logs in."""

    username: Annotated[str, Meta(min_length=1, max_length=64, examples=["anna"])]
    password: Annotated[str, Meta(min_length=1, max_length=PASSWORD_CHARACTERS_MAX, examples=["correct horse battery staple"])]

    def __repr__(self) -> str:
        """Without the password."""
        return f"LoginRequest(username={self.username!r})"


class RefreshRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A refresh token, which is good once."""

    refresh_token: Annotated[str, Meta(min_length=1, max_length=256)]

    def __repr__(self) -> str:
        """Without the token."""
        return "RefreshRequest()"


def address_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """Where a request comes from, as the server has it: behind a trusted proxy that is the proxy's client."""
    return connection.client.host if connection.client is not None else ""


def unavailable(code: str, detail: str) -> Problem:
    """503, to be tried again soon."""
    return Problem(503, code, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


async def principal_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """Who sends this request, judged now. Raises Problem: 401 where the token is missing or not valid, 503 where nobody can say."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Problem(401, "NOT_AUTHENTICATED", "send an access token: Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"})
    try:
        principal: Principal = await connection.app.state.access.judge(token)
    except NotAuthenticated as error:
        headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        raise Problem(401, "NOT_AUTHENTICATED", "the access token is not valid, or not any more", headers=headers) from error
    except AccessUnavailable as error:
        raise unavailable("ACCESS_UNAVAILABLE", str(error)) from error
    return principal


async def _provide_principal(request: Request[Any, Any, Any]) -> Principal:
    return await principal_of(request)


PRINCIPAL = Provide(_provide_principal)
"""For `dependencies={"principal": PRINCIPAL}`, and `principal: NamedDependency[Principal]` in the handler."""


@post("/login", status_code=200, summary="Log in", response_headers=[])
async def login(data: JSONBody[LoginRequest], request: Request[Any, Any, Any]) -> TokenPair:
    """A pair of tokens for a password. Who gives a wrong one too often is locked out for a while, and told the same."""
    logins: Logins = request.app.state.logins
    try:
        return await logins.login(data.username, data.password, address_of(request))
    except LoginRefused as error:
        raise Problem(401, "INVALID_CREDENTIALS", str(error)) from error
    except TooManyLogins as error:
        raise unavailable("BUSY", str(error)) from error
    except AccessUnavailable as error:
        raise unavailable("ACCESS_UNAVAILABLE", "users live in Postgres, which does not answer") from error


@post("/refresh", status_code=200, summary="Next pair of tokens")
async def refresh(data: JSONBody[RefreshRequest], request: Request[Any, Any, Any]) -> TokenPair:
    """The next pair of tokens of a session. A refresh token is good once; who sends it a second time ends the session."""
    logins: Logins = request.app.state.logins
    try:
        return await logins.refresh(data.refresh_token, address_of(request))
    except RefreshRefused as error:
        raise Problem(401, "INVALID_REFRESH_TOKEN", "the refresh token is not valid, or not any more: log in again") from error
    except AccessUnavailable as error:
        raise unavailable("ACCESS_UNAVAILABLE", "sessions live in Postgres, which does not answer") from error


@post("/logout", status_code=204, summary="Log out", dependencies={"principal": PRINCIPAL})
async def logout(request: Request[Any, Any, Any], principal: NamedDependency[Principal]) -> None:
    """End the session: its refresh token and every access token of it are refused from now on."""
    logins: Logins = request.app.state.logins
    try:
        await logins.logout(principal, address_of(request))
    except AccessUnavailable as error:
        raise unavailable("ACCESS_UNAVAILABLE", "the token is refused here, but Postgres did not answer: log out again") from error


def auth_router() -> Router:
    """The three calls under /auth."""
    return Router("/auth", route_handlers=[login, refresh, logout], response_headers=NOT_CACHED, tags=["auth"])
