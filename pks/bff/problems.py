"""Problem details (RFC 9457): the one form in which the gateway says no, whatever said it first.

Owns the way from our errors, and from those of the libraries, to status, stable code, field, value and reason. No text of an error that
is not ours goes out, and no secret in any.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from pks.base.errors import CODES, SHOWN_CHARACTERS_MAX, Code, PksError, Refused, Retryable, shown

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 1
"""What is told to whoever came while an edge, the core or a worker was away."""

BEARER = {"WWW-Authenticate": 'Bearer realm="pks"'}


class Problem(Exception):
    """An answer that is no success. code: one of `pks codes`, or a word of the gateway's own in the same form."""

    def __init__(
        self, status: int, code: str, detail: str, *, field: str = "", value: object = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.field, self.value = status, code, detail, field, value
        self.headers = headers or {}

    def as_dict(self) -> dict[str, Any]:
        """The members of the problem."""
        members: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(self.status).phrase, "status": self.status}
        members |= {"code": self.code, "detail": self.detail}
        if self.field:
            members["field"] = self.field
        if self.value is not None:
            members["value"] = str(self.value)[:SHOWN_CHARACTERS_MAX]
        return members

    def as_bytes(self) -> bytes:
        """The body."""
        return msgspec.json.encode(self.as_dict())


STATUS_OF = {
    Code.IDEMPOTENCY_CONFLICT: 409,
    Code.BUSY: 503,
    Code.SHUTTING_DOWN: 503,
    Code.PARKING_FULL: 503,
}
"""Reply codes that are not 422."""


def refused(code: Code, field: str = "", value: object = None, reason: str = "", **members: str) -> Problem:
    """The problem of a reply code."""
    status = STATUS_OF.get(code, 422)
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}
    return Problem(status, code.name, reason or CODES[code], field=field, value=value, headers=headers | members)


def unavailable(reason: str, code: str = "UNAVAILABLE") -> Problem:
    """Something that the call needs is away; the call may be made again."""
    return Problem(503, code, reason, headers={"Retry-After": str(RETRY_SECONDS)})


def not_found(field: str, value: str) -> Problem:
    """There is no such thing, or none that this user may know of: the two read alike."""
    return Problem(404, "NOT_FOUND", f"there is no such {field}", field=field, value=value)


def problem_of(error: BaseException) -> Problem:
    """The problem that an error is; 500 without a word of what went wrong for one that nobody foresaw."""
    match error:
        case Problem():
            return error
        case Refused():
            return refused(error.code, error.field, error.value, error.reason)
        case Retryable():
            return unavailable(str(error))
        case HTTPException():
            return _of_library(error)
        case PksError():
            return Problem(422, "REFUSED", str(error))
    return Problem(500, "INTERNAL", "a mistake of ours; it is in the log")


def _of_library(error: HTTPException) -> Problem:
    """What the framework refused before a handler saw it."""
    words = {400: "BAD_REQUEST", 401: "NOT_AUTHENTICATED", 403: "FORBIDDEN", 404: "NO_SUCH_PATH", 405: "NO_SUCH_METHOD", 413: "TOO_LARGE"}
    status = error.status_code
    field, value, detail = "", None, str(error.detail)
    extra = error.extra
    if isinstance(extra, list) and extra and isinstance(extra[0], dict):
        field, detail = str(extra[0].get("key", "")), str(extra[0].get("message", detail))
    code = words.get(status, HTTPStatus(status).name if status < 500 else "INTERNAL")
    return Problem(status, code, shown(detail), field=field, value=value, headers=dict(error.headers or {}))


def problem_response(request: Request[Any, Any, Any], problem: Problem) -> Response[bytes]:
    """The answer."""
    return Response(problem.as_bytes(), status_code=problem.status, media_type=MEDIA_TYPE, headers=problem.headers)
