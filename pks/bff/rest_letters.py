"""Dead letters over REST: listed, looked at, fixed, injected again, discarded; what `pks dlq` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromPath, QueryParameter

from pks.bff.access import Permission
from pks.bff.guards import asks
from pks.bff.lists import JSON, LIMIT_MAX
from pks.bff.problems import Problem, not_found
from pks.edges.nats.words import change, from_words, to_words
from pks.edges.postgres import dead_letters as store
from pks.edges.postgres.dead_letters import InvalidTransition, Letter, NoSuchLetter

if TYPE_CHECKING:
    from pks.bff.gateway import Gateway

REASON_CHARACTERS_MAX = 500

Reason = Annotated[str, QueryParameter(name="reason", min_length=1, max_length=REASON_CHARACTERS_MAX, description="kept with it")]


class Fix(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fields of the message to be sent otherwise: path -> value, such as "trades.0.price": "101.5"."""

    set: dict[str, str]


@get("/admin/dlq", opt=asks(Permission.OPERATE), summary="Dead letters", tags=["administration"])
async def letters(
    request: Request[Any, Any, Any],
    states: Annotated[list[str] | None, QueryParameter(name="state", required=False)] = None,
    kinds: Annotated[list[str] | None, QueryParameter(name="class", required=False)] = None,
    limit: Annotated[int, QueryParameter(name="limit", ge=1, le=LIMIT_MAX, required=False)] = 1000,
) -> Response[Any]:
    """The newest letters that somebody should look at, or those in the states that are named."""
    for field, values, known in (("state", states, store.STATES), ("class", kinds, store.CLASSES)):
        for value in values or ():
            if value not in known:
                raise Problem(400, "BAD_PARAMETER", f"one of {', '.join(known)}", field=field, value=value)
    gateway: Gateway = request.app.state.gateway
    async with gateway.access.store() as connection:
        found = await store.find(connection, tuple(states or store.OPEN_STATES), tuple(kinds or store.CLASSES), limit)
    return Response(msgspec.json.encode({"items": [as_words(one) for one in found], "next": None}), media_type=JSON)


@get("/admin/dlq/{number:int}", opt=asks(Permission.OPERATE), summary="One dead letter", tags=["administration"])
async def letter(request: Request[Any, Any, Any], number: FromPath[int]) -> Response[Any]:
    """With what it says."""
    return _told(await _show(request, number))


@patch("/admin/dlq/{number:int}", opt=asks(Permission.OPERATE), summary="Fix a dead letter", tags=["administration"])
async def fix(request: Request[Any, Any, Any], number: FromPath[int]) -> Response[Any]:
    """Let it be sent with other content; the original bytes stay. `inject` sends it."""
    try:
        wanted = msgspec.json.decode(await request.body(), type=Fix)
    except msgspec.DecodeError as error:
        raise Problem(400, "BAD_ROW", str(error), field="set") from None
    found = await _show(request, number)
    words = to_words(found.subject, found.body)
    if words is None:
        raise Problem(422, "BAD_ENCODING", f"what came on {found.subject} is no message that we know: pks dlq fix --payload takes bytes")
    try:
        for path, value in wanted.set.items():
            change(words, path, value)
        made = from_words(found.subject, words)
    except ValueError as error:
        raise Problem(422, "BAD_ROW", str(error), field="set") from None
    return await _done(request, number, "LETTER_FIXED", lambda connection: store.fix(connection, number, made))


@post(
    "/admin/dlq/{number:int}/inject",
    status_code=200,
    opt=asks(Permission.OPERATE),
    summary="Send it again",
    tags=["administration"],
)
async def inject(request: Request[Any, Any, Any], number: FromPath[int]) -> Response[Any]:
    """To its subject, at once; idempotency keys see to it that nothing is booked twice."""
    return await _done(request, number, "LETTER_INJECTED", lambda connection: store.inject(connection, number))


@delete("/admin/dlq/{number:int}", status_code=200, opt=asks(Permission.OPERATE), summary="Discard it", tags=["administration"])
async def discard(request: Request[Any, Any, Any], number: FromPath[int], reason: Reason) -> Response[Any]:
    """Be done with it without sending it again; it stays in the list of the resolved."""
    return await _done(request, number, "LETTER_DISCARDED", lambda connection: store.discard(connection, number, reason))


async def _show(request: Request[Any, Any, Any], number: int) -> Letter:
    gateway: Gateway = request.app.state.gateway
    async with gateway.access.store() as connection:
        try:
            return await store.show(connection, number)
        except NoSuchLetter:
            raise not_found("dead letter", str(number)) from None


async def _done(request: Request[Any, Any, Any], number: int, action: str, act: Any) -> Response[Any]:
    gateway: Gateway = request.app.state.gateway
    gateway.audit.check_room()
    async with gateway.access.store() as connection:
        try:
            await act(connection)
        except NoSuchLetter:
            raise not_found("dead letter", str(number)) from None
        except InvalidTransition as error:
            raise Problem(409, "INVALID_TRANSITION", str(error), field="id", value=number) from None
    gateway.note(request, action, str(number))
    return _told(await _show(request, number))


def _told(found: Letter) -> Response[Any]:
    words = as_words(found) | {"message": to_words(found.subject, found.payload)}
    if found.fixed is not None:
        words["fixed_message"] = to_words(found.subject, found.fixed)
    return Response(msgspec.json.encode(words), media_type=JSON)


def as_words(letter: Letter) -> dict[str, Any]:
    """A letter without its bytes."""
    return {
        "id": letter.id, "state": letter.state, "class": letter.kind, "code": letter.code, "field": letter.field, "value": letter.value,
        "reason": letter.reason, "subject": letter.subject, "stream": letter.stream, "stream_sequence": letter.stream_sequence,
        "consumer": letter.consumer, "headers": letter.headers, "bytes": len(letter.payload), "is_fixed": letter.fixed is not None,
        "attempts": letter.attempts, "first_at": letter.first_at, "last_at": letter.last_at, "next_at": letter.next_at,
        "resolution": letter.resolution, "resolved_at": letter.resolved_at,
    }  # fmt: skip


HANDLERS = [letters, letter, fix, inject, discard]
