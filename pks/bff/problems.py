"""Problem details (RFC 9457): how REST says no.

Owns `Problem`, which a handler raises, the answer that is made of it, and the way there from our errors and the framework's. Codes are
stable words, those of `pks codes` where the core has one. Knows nothing of users, books or trades; every module of the gateway may raise
a Problem. No text of an error that is not ours goes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from pks.base.errors import CODES, SHOWN_CHARACTERS_MAX, Code, PksError, Refused, Retryable, shown
from pks.past.questions import BEYOND_JOURNAL, INTERNAL, Failed

MEDIA_TYPE = "application/problem+json"

BEARER = {"WWW-Authenticate": 'Bearer realm="pks"'}
"""Goes with each 401."""

RETRY_SECONDS = 1
"""What is told to whoever came while an edge, the core or a worker was away."""


class Problem(Exception):
    """A request that is not served. status: of HTTP; code: a stable word; detail: a sentence for people; field and value: what is wrong
    with which part of the input, "" and None where no single field is; headers: go with the answer (Retry-After, WWW-Authenticate).
    """

    def __init__(
        self, status: int, code: str, detail: str, field: str = "", value: object = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status, self.code, self.detail, self.field, self.value = status, code, detail, field, value
        self.headers = dict(headers or {})


def problem_facts(problem: Problem) -> dict[str, Any]:
    """What the answer says, as JSON has it. A long value is cut: enough to find it, too little to flood an answer."""
    facts: dict[str, Any] = {
        "type": "about:blank", "title": HTTPStatus(problem.status).phrase, "status": problem.status, "code": problem.code,
        "detail": problem.detail,
    }  # fmt: skip
    if problem.field:
        facts["field"] = problem.field
    if problem.value is not None:
        value = problem.value
        if not isinstance(value, bool | int | float | str):
            value = str(value)
        facts["value"] = value[:SHOWN_CHARACTERS_MAX] if isinstance(value, str) else value
    return facts


def problem_response(request: Request[Any, Any, Any], problem: Problem) -> Response[bytes]:
    """The answer; Litestar takes this function as the handler of the exception."""
    return Response(msgspec.json.encode(problem_facts(problem)), status_code=problem.status, media_type=MEDIA_TYPE, headers=problem.headers)


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


def problem_of_failed(found: Failed) -> Problem:
    """What the worker `past` says of a question that has no answer."""
    if found.code == INTERNAL:
        return Problem(500, "INTERNAL", "a mistake of ours; it is in the log of the worker past")
    if found.code.startswith("UNKNOWN_"):
        return not_found(found.field or "name", found.value)
    if found.retry and found.code != BEYOND_JOURNAL:  # a sequence that may come is asked for when it is there
        return unavailable(found.reason, found.code)
    return Problem(422, found.code, found.reason, field=found.field, value=found.value or None)
