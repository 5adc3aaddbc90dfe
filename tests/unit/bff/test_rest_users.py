"""Users over REST, by an admin and by who is none."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from litestar import Litestar, Router
from litestar.datastructures import State

from pks.bff import rest_users
from pks.bff.access import Access
from pks.bff.guards import authenticated
from pks.bff.limits import RateLimit
from pks.bff.logins import Logins
from pks.bff.problems import Problem, problem_response
from pks.bff.rest_auth import auth_router
from pks.bff.tokens import new_id
from pks.edges.postgres import users
from pks.edges.postgres.users import AccessToken
from tests.unit.bff.conftest import AuthSystem

PASSWORD = "correct horse battery staple"


@pytest.fixture
async def admin(system: AuthSystem, access: Access) -> AsyncIterator[httpx.AsyncClient]:
    """Of an application with these calls, with an admin's token."""
    await users.add(system.owner, "root", None, ["admin"], [])
    await users.add(system.owner, "anna", None, ["trader"], ["ALPHA"])
    logins = Logins(access, system.config.gateway)
    app = Litestar(
        [auth_router(), Router("/api/v1", route_handlers=rest_users.HANDLERS, guards=[authenticated])],
        exception_handlers={Problem: problem_response},
        state=State({"access": access, "logins": logins, "gateway": SimpleNamespace(users_limit=RateLimit(0, time.monotonic))}),
        logging_config=None,
        openapi_config=None,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pks/api/v1/admin") as made:
        made.headers["Authorization"] = await bearer(system, access, "root")
        yield made
    logins.close()


async def bearer(system: AuthSystem, access: Access, name: str) -> str:
    session, jti = new_id(), new_id()
    await users.open_session(system.owner, session, name, AccessToken(jti, 900), 900)
    return f"Bearer {access.tokens.issue(name, session, jti, 900).text}"


async def test_an_admin_adds_changes_and_disables(system: AuthSystem, access: Access, admin: httpx.AsyncClient) -> None:
    added = await admin.post("/users", json={"name": "bob", "roles": ["viewer"], "books": ["ALPHA"], "password": PASSWORD})
    assert (added.status_code, added.json()["books"], PASSWORD in added.text) == (201, ["ALPHA"], False)
    login = {"username": "bob", "password": PASSWORD}
    pair = (await admin.post("http://pks/auth/login", json=login)).json()
    assert pair["expires_in"] == 900
    changed = await admin.patch("/users/bob", json={"roles": ["trader", "approver"], "books": None})
    assert (changed.status_code, changed.json()["roles"], changed.json()["books"]) == (200, ["approver", "trader"], None)
    assert [one["origin"] for one in (await admin.get("/users/bob/sessions")).json()["items"]] == ["LOGIN"]
    assert (await admin.delete("/users/bob/sessions")).status_code == 204
    refreshed = await admin.post("http://pks/auth/refresh", json={"refresh_token": pair["refresh_token"]})
    assert refreshed.status_code == 401
    again = {"password": "another " + PASSWORD, "unlock": True}
    assert (await admin.patch("/users/bob", json=again)).status_code == 200
    assert (await admin.post("http://pks/auth/login", json=login)).status_code == 401
    gone = await admin.delete("/users/bob")
    assert (gone.status_code, gone.json()["is_disabled"]) == (200, True)
    listed = {one["name"]: one["is_disabled"] for one in (await admin.get("/users")).json()["items"]}
    assert listed == {"anna": False, "bob": True, "root": False}
    assert [one.action for _, one in await users.audited(system.owner) if one.actor == "root"] == [
        "USER_ADDED", "USER_CHANGED", "TOKENS_REVOKED", "USER_CHANGED", "USER_DISABLED",
    ]  # fmt: skip
    assert PASSWORD not in str(await users.audited(system.owner))


async def test_what_cannot_be_done_is_said_and_nothing_is_changed(system: AuthSystem, access: Access, admin: httpx.AsyncClient) -> None:
    before = await users.find(system.owner)
    for method, path, body, wanted in (
        ("POST", "/users", {"name": "ANNA", "roles": ["viewer"]}, (409, "USER_EXISTS")),
        ("PATCH", "/users/root", {"roles": ["viewer"]}, (409, "LAST_ADMIN")),
        ("DELETE", "/users/root", None, (409, "LAST_ADMIN")),
        ("PATCH", "/users/anna", {}, (422, "NOTHING_CHANGED")),
        ("PATCH", "/users/nobody", {"unlock": True}, (404, "NOT_FOUND")),
        ("GET", "/users/nobody", None, (404, "NOT_FOUND")),
        ("GET", "/users/nobody/sessions", None, (404, "NOT_FOUND")),
        ("DELETE", "/users/nobody/sessions", None, (404, "NOT_FOUND")),
        ("DELETE", "/users/nobody", None, (404, "NOT_FOUND")),
    ):
        answer = await admin.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == wanted, (method, path)
    bad: tuple[dict[str, Any], ...] = (
        {"name": "a b", "roles": ["viewer"]}, {"name": "x", "roles": ["king"]}, {"name": "x", "roles": []}, {"name": "x"},
        {"name": "x", "roles": ["viewer"], "books": [""]}, {"name": "x", "roles": ["viewer"], "password": ""},
        {"name": "x", "roles": ["viewer"], "more": 1}, {"name": "x", "roles": ["viewer"], "books": ["a\0"]},
    )  # fmt: skip
    for body in bad:
        assert (await admin.post("/users", json=body)).status_code == 400, body
    assert await users.find(system.owner) == before


async def test_who_is_no_admin_may_not_look(system: AuthSystem, access: Access, admin: httpx.AsyncClient) -> None:
    admin.headers["Authorization"] = await bearer(system, access, "anna")
    for method, path in (("GET", "/users"), ("GET", "/users/root"), ("DELETE", "/users/root"), ("GET", "/users/nobody")):
        answer = await admin.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN"), path
    del admin.headers["Authorization"]
    assert (await admin.get("/users")).status_code == 401
