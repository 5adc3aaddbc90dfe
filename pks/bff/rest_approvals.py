"""The queue of trades that wait for a second person: who may see the book sees what waits, who has the permission decides, nobody his
own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, QueryParameter

from pks.bff.access import Permission
from pks.bff.commands import address_of, answer
from pks.bff.guards import asks
from pks.bff.lists import JSON, LIMIT_DEFAULT, LIMIT_MAX, NUMBER_MAX
from pks.bff.problems import Problem

if TYPE_CHECKING:
    from pks.bff.gateway import Gateway

REASON_CHARACTERS_MAX = 500

States = Annotated[
    list[str] | None, QueryParameter(name="state", required=False, description="WAITING, APPROVED, BOOKED, REFUSED, REJECTED")
]


class Rejection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it is not booked."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=REASON_CHARACTERS_MAX)]


@get("/approvals", summary="What waits for a second person", tags=["approvals"])
async def approvals(
    request: Request[Any, Any, Any],
    states: States = None,
    limit: Annotated[int, QueryParameter(name="limit", ge=1, le=LIMIT_MAX, required=False)] = LIMIT_DEFAULT,
    after: Annotated[
        int, QueryParameter(name="after", ge=0, le=NUMBER_MAX, required=False, description="number of the last one of the page before")
    ] = 0,
) -> Response[Any]:
    """Trades above the limit, the oldest first; those that wait unless states are named."""
    gateway: Gateway = request.app.state.gateway
    found = await gateway.approvals.find(request.user, tuple(states or ("WAITING",)), after, limit)
    following = str(found[-1].id) if len(found) == limit else None
    return Response(msgspec.json.encode({"items": found, "next": following}), media_type=JSON)


@post("/approvals/{number:int}/approve", opt=asks(Permission.APPROVE), summary="Let it go on", tags=["approvals"])
async def approve(request: Request[Any, Any, Any], number: FromPath[int]) -> Response[Any]:
    """Book it, in the name of who wanted it; the answer is that of the booking."""
    gateway: Gateway = request.app.state.gateway
    return answer(await gateway.commands.approve(number, request.user, address_of(request)))


@post("/approvals/{number:int}/reject", status_code=200, opt=asks(Permission.APPROVE), summary="Do not book it", tags=["approvals"])
async def reject(request: Request[Any, Any, Any], number: FromPath[int]) -> Response[Any]:
    """With a reason, which who wanted it reads."""
    gateway: Gateway = request.app.state.gateway
    try:
        said = msgspec.json.decode(await request.body(), type=Rejection)
    except msgspec.DecodeError as error:
        raise Problem(400, "BAD_ROW", str(error), field="reason") from None
    found = await gateway.commands.reject(number, request.user, said.reason, address_of(request))
    return Response(msgspec.json.encode(found), media_type=JSON)


HANDLERS = [approvals, approve, reject]
