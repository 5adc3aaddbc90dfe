"""How the gRPC side says no: the problems of `problems`, as a status with `pks-code`, `pks-field` and `pks-value` in the trailing metadata.

Owns which status a problem is, and the end of a call with it. Handlers raise Problem as those of REST do, so that both say the same words.
"""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import grpc

from pks.base.errors import SHOWN_CHARACTERS_MAX, Code
from pks.bff.problems import Problem

ABORT_SECONDS = 1.0
"""How long the end of a stream waits for a client that reads nothing; the status lies ready for it either way."""

DETAIL_CHARACTERS_MAX = 1000
"""Of the text that goes with a status: metadata are small."""

_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}

_NOT_FOUND = {Code.UNKNOWN_BOOK, Code.UNKNOWN_INSTRUMENT, Code.UNKNOWN_ACCOUNT, Code.UNKNOWN_CURRENCY, Code.UNKNOWN_TRADE, Code.UNKNOWN_LOT}
_FIRST_OF_STATE = Code.AMBIGUOUS_ORIGINAL
"""From here on codes say that what is booked already does not allow it; before, that the input is wrong."""


def status_of(problem: Problem) -> grpc.StatusCode:
    """The status of a problem: of its code where that says more than REST's status does."""
    code = Code.__members__.get(problem.code)
    if code is None or problem.status != 422:
        return _STATUS.get(problem.status, grpc.StatusCode.UNKNOWN)
    if code in _NOT_FOUND:
        return grpc.StatusCode.NOT_FOUND
    return grpc.StatusCode.INVALID_ARGUMENT if code < _FIRST_OF_STATE else grpc.StatusCode.FAILED_PRECONDITION


def trailing_of(problem: Problem) -> tuple[tuple[str, str], ...]:
    """The trailing metadata of a problem; what it does not say is absent."""
    value = "" if problem.value is None else str(problem.value)
    told = (("pks-code", problem.code), ("pks-field", problem.field), ("pks-value", value))
    return tuple((name, _ascii(text)) for name, text in told if text)


async def end(context: Any, problem: Problem) -> NoReturn:
    """End a call with a problem. Does not return."""
    try:
        async with asyncio.timeout(ABORT_SECONDS):
            await context.abort(status_of(problem), problem.detail[:DETAIL_CHARACTERS_MAX], trailing_of(problem))
    except TimeoutError:
        raise grpc.aio.AbortError from None  # the client reads nothing: the status lies behind what it has still to read
    raise AssertionError("an abort raises")


def not_authenticated() -> Problem:
    """One answer for every reason why a token is not good."""
    return Problem(401, "NOT_AUTHENTICATED", "a valid token is needed: authorization: Bearer <token>")


def _ascii(value: str) -> str:
    """As metadata may hold it: printable ASCII, cut to a bound."""
    text = value if len(value) <= SHOWN_CHARACTERS_MAX else f"{value[:SHOWN_CHARACTERS_MAX]}..."
    return "".join(one if " " <= one <= "~" else one.encode("unicode_escape").decode() for one in text)
