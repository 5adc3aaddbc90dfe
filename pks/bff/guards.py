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
    pass

PERMISSION = "permission"


def asks(permission: Permission) -> dict[str, Any]:
    """A handler's `opt`: the permission that it asks for. READ unless it says so."""
    return {PERMISSION: permission}


async def authenticated(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """The guard of all that is not open: a user by its token, who may do what the handler does. Raises Problem."""
    principal = await principal_of(connection)
    wanted = handler.opt.get(PERMISSION, Permission.READ)
    if not principal.may(wanted):
        raise Problem(403, "FORBIDDEN", f"this asks for the permission {wanted}, which none of your roles has")
    connection.scope["user"] = principal


async def within_rate(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """The guard against one caller who takes all: by token where there is one, else by address. Raises Problem."""
    limit: RateLimit = connection.app.state.limit
    who = connection.headers.get("authorization", "") or (connection.client.host if connection.client else "")
    wait = limit.wait(who)
    if wait:
        raise Problem(429, "TOO_MANY_REQUESTS", f"more than {limit.rate} requests a second", headers={"Retry-After": str(wait)})
