"""Problem details as a client gets them."""

from __future__ import annotations

from litestar import get
from litestar.testing import create_test_client

from pks.bff.problems import Problem, problem_response


@get("/plain")
async def plain() -> None:
    raise Problem(503, "BUSY", "no room at the moment", headers={"Retry-After": "1"})


@get("/field")
async def field() -> None:
    raise Problem(422, "NOT_A_NUMBER", "not a plain decimal number", field="price", value="x" * 10_000)


@get("/zero")
async def zero() -> None:
    raise Problem(422, "NOT_POSITIVE", "must be greater than zero", field="quantity", value=0)


def test_a_problem_is_answered_as_rfc_9457_has_it() -> None:
    with create_test_client([plain, field, zero], exception_handlers={Problem: problem_response}) as client:
        answer = client.get("/plain")
        assert (answer.status_code, answer.headers["content-type"], answer.headers["retry-after"]) == (503, "application/problem+json", "1")
        assert answer.json() == {
            "type": "about:blank", "title": "Service Unavailable", "status": 503, "code": "BUSY", "detail": "no room at the moment",
        }  # fmt: skip
        told = client.get("/field").json()
        assert (told["field"], told["value"], told["status"]) == ("price", "x" * 120, 422)
        assert client.get("/zero").json()["value"] == 0
