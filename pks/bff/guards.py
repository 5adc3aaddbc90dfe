"""What holds before a handler runs: who it is, whether he may, and how often he asks.

Owns the words by which a handler says what it asks for. Who somebody is, is judged by `access`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from pks.bff.access import Permission
from pks.bff.limits import RateLimit
from pks.bff.problems import Problem
from pks.bff.rest_auth import principal_of

if TYPE_CHECKING:
    from pks.bff.gateway import Gateway

PERMISSION = "permission"
NEEDS_USER = "/api/"

USERS_AN_ADDRESS = 10
"""Users who may share an address, each at the full rate; who is nobody has the rate of one."""


def asks(permission: Permission) -> dict[str, Any]:
    """A handler's `opt`: the permission that it asks for. READ unless it says so."""
    return {PERMISSION: permission}


async def authenticated(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """The guard of all that is not open: a user by its token, who may do what the handler does, and not too often. Raises Problem."""
    principal = await principal_of(connection)
    gateway: Gateway = connection.app.state.gateway
    check_rate(gateway.users_limit, principal.name)
    wanted = handler.opt.get(PERMISSION, Permission.READ)
    if not principal.may(wanted):
        raise Problem(403, "FORBIDDEN", f"this asks for the permission {wanted}, which none of your roles has")
    connection.scope["user"] = principal


async def within_rate(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """The first guard, before anything is judged: an address has room for several users, and for one who is none. Raises Problem."""
    gateway: Gateway = connection.app.state.gateway
    is_open = not connection.scope["path"].startswith(NEEDS_USER)
    check_rate(gateway.addresses_limit, connection.client.host if connection.client else "", USERS_AN_ADDRESS if is_open else 1)


def check_rate(limit: RateLimit, who: str, count: int = 1) -> None:
    """Raise Problem 429 for a caller who asks too often."""
    wait = limit.wait(who, count)
    if wait:
        raise Problem(429, "TOO_MANY_REQUESTS", "too many requests; the setting is gateway.rate_limit", headers={"Retry-After": str(wait)})
