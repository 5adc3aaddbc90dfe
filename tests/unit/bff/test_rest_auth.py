"""Logging in, refreshing and logging out over HTTP, on real servers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import argon2
import httpx
import pytest
from litestar import Litestar, get
from litestar.datastructures import State
from litestar.di import NamedDependency

from pks.bff import passwords
from pks.bff.access import Access, Principal
from pks.bff.logins import Logins
from pks.bff.passwords import NOBODYS, WAITING_MAX, Passwords, TooManyLogins, hash_password, verify
from pks.bff.problems import Problem, problem_response
from pks.bff.rest_auth import PRINCIPAL, LoginRequest, RefreshRequest, auth_router
from pks.edges.postgres import users
from tests.fault_proxy import Fault
from tests.unit.bff.conftest import AuthSystem, until

PASSWORD = "correct horse battery staple"
HASH = hash_password(PASSWORD)
WRONG = {"username": "anna", "password": "wrong"}
RIGHT = {"username": "anna", "password": PASSWORD}


@get("/who", dependencies={"principal": PRINCIPAL})
async def who(principal: NamedDependency[Principal]) -> dict[str, Any]:
    return {"name": principal.name, "books": sorted(principal.books or [])}


@pytest.fixture
async def client(system: AuthSystem, access: Access) -> AsyncIterator[httpx.AsyncClient]:
    """Of an application with these calls; anna is a trader in ALPHA."""
    await users.add(system.owner, "anna", HASH, ["trader"], ["ALPHA"])
    logins = Logins(access, system.config.gateway)
    app = Litestar(
        [auth_router(), who],
        exception_handlers={Problem: problem_response},
        state=State({"access": access, "logins": logins}),
        logging_config=None,
        openapi_config=None,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pks") as made:
        yield made
    logins.close()


def bearer(pair: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {pair['access_token']}"}


async def seen(client: httpx.AsyncClient, pair: dict[str, Any], status: int) -> None:
    """Until a request with this token is answered so: the gateway hears of a change in a moment."""

    async def is_so() -> bool:
        return (await client.get("/who", headers=bearer(pair))).status_code == status

    await until(is_so)


async def audited(system: AuthSystem) -> list[tuple[str, str, str, str]]:
    return [(one.actor, one.action, one.outcome, one.code) for _, one in await users.audited(system.owner)]


async def test_from_login_to_logout(system: AuthSystem, client: httpx.AsyncClient) -> None:
    answer = await client.post("/auth/login", json=RIGHT)
    first = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert first.keys() == {"access_token", "refresh_token", "expires_in", "token_type"}
    assert first["expires_in"] == 900
    assert (await client.get("/who", headers=bearer(first))).json() == {"name": "anna", "books": ["ALPHA"]}
    second = (await client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})).json()
    assert second["access_token"] != first["access_token"]
    assert (await client.get("/who", headers=bearer(first))).status_code == 200, "it is good until it expires"
    assert (await client.post("/auth/logout", headers=bearer(second))).status_code == 204
    for pair in (first, second):
        assert (await client.get("/who", headers=bearer(pair))).status_code == 401
        assert (await client.post("/auth/refresh", json={"refresh_token": pair["refresh_token"]})).json()["code"] == "INVALID_REFRESH_TOKEN"
    assert len(system.valkey.keys("jwt:blocklist:*")) == 2
    assert await audited(system) == [
        ("anna", "LOGIN", "OK", ""),
        ("anna", "REFRESH", "OK", ""),
        ("anna", "LOGOUT", "OK", ""),
        ("anna", "REFRESH", "REFUSED", "REVOKED"),
        ("anna", "REFRESH", "REFUSED", "REVOKED"),
    ]


async def test_a_refresh_token_that_is_used_twice_ends_the_session(client: httpx.AsyncClient) -> None:
    first = (await client.post("/auth/login", json=RIGHT)).json()
    second = (await client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})).json()
    await seen(client, second, 200)
    answer = await client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert (answer.status_code, answer.json()["code"]) == (401, "INVALID_REFRESH_TOKEN")
    for pair in (first, second):
        assert (await client.get("/who", headers=bearer(pair))).status_code == 401


async def test_who_may_not_come_in_is_told_the_same(system: AuthSystem, client: httpx.AsyncClient) -> None:
    await users.add(system.owner, "robot", None, ["viewer"], [])
    await users.add(system.owner, "gone", HASH, ["viewer"], [])
    await users.change(system.owner, "gone", is_disabled=True)
    tries = (
        WRONG,
        RIGHT | {"username": "nobody"},
        RIGHT | {"username": "robot"},
        RIGHT | {"username": "gone"},
        RIGHT | {"username": "a b"},
    )
    answers = [await client.post("/auth/login", json=one) for one in (*tries, WRONG)]
    assert {(one.status_code, one.text, one.headers["content-type"]) for one in answers} == {
        (401, answers[0].text, "application/problem+json")
    }
    assert answers[0].json()["code"] == "INVALID_CREDENTIALS"
    codes = [(actor, code) for actor, _, _, code in await audited(system)]
    assert codes == [
        ("anna", "WRONG_PASSWORD"), ("nobody", "UNKNOWN_USER"), ("robot", "WRONG_PASSWORD"), ("gone", "DISABLED"), ("?", "UNKNOWN_USER"),
        ("anna", "WRONG_PASSWORD"),
    ]  # fmt: skip


async def test_wrong_passwords_lock_out_even_the_right_one(system: AuthSystem, client: httpx.AsyncClient) -> None:
    for _ in range(system.config.gateway.lockout_failures):
        refused = await client.post("/auth/login", json=WRONG)
    locked = await client.post("/auth/login", json=RIGHT)
    assert (locked.status_code, locked.text) == (401, refused.text)
    assert [code for *_, code in await audited(system)] == ["WRONG_PASSWORD", "WRONG_PASSWORD", "LOCKED_NOW", "LOCKED"]
    await users.unlock(system.owner, "anna")
    assert (await client.post("/auth/login", json=RIGHT)).status_code == 200


async def test_a_token_comes_in_the_header_alone(client: httpx.AsyncClient) -> None:
    pair = (await client.post("/auth/login", json=RIGHT)).json()
    await seen(client, pair, 200)
    token = pair["access_token"]
    for headers in (
        {},
        {"Authorization": token},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {token}"},
        {"Cookie": f"token={token}"},
    ):
        answer = await client.get("/who", params={"token": token, "access_token": token}, headers=headers)
        assert (answer.status_code, answer.json()["code"], answer.headers["www-authenticate"]) == (401, "NOT_AUTHENTICATED", "Bearer")
    refused = await client.get("/who", headers={"Authorization": "Bearer nonsense"})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    assert (await client.get("/who", headers={"Authorization": f"bearer {token}"})).status_code == 200


async def test_without_postgres_nobody_logs_in_and_a_logout_still_refuses_the_token(
    system: AuthSystem, access: Access, client: httpx.AsyncClient
) -> None:
    pair = (await client.post("/auth/login", json=RIGHT)).json()
    await seen(client, pair, 200)
    system.stores.to_postgres.fault = Fault.CUT
    await until(lambda: access.last_error != "")
    for path, body in (("/auth/login", RIGHT), ("/auth/refresh", {"refresh_token": pair["refresh_token"]}), ("/auth/logout", None)):
        answer = await client.post(path, json=body, headers=bearer(pair))
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "ACCESS_UNAVAILABLE", "1"), path
    assert (await client.get("/who", headers=bearer(pair))).status_code == 401
    assert len(system.valkey.keys("jwt:blocklist:*")) == 1
    system.stores.to_postgres.fault = Fault.NONE
    await until(lambda: access.last_error == "")
    assert (await client.get("/who", headers=bearer(pair))).status_code == 401


async def test_nobody_is_told_a_password(client: httpx.AsyncClient) -> None:
    for body in ({"username": "anna", "password": PASSWORD, "more": 1}, {"username": "anna"}, {"password": PASSWORD}, [], {"username": 1}):
        answer = await client.post("/auth/login", json=body)
        assert answer.status_code == 400
        assert PASSWORD not in answer.text
    assert PASSWORD not in repr(LoginRequest("anna", PASSWORD))
    assert PASSWORD not in repr(RefreshRequest(PASSWORD))


def test_passwords_are_hashed_by_argon2id_and_compared_as_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HASH.startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    with pytest.raises(argon2.exceptions.VerifyMismatchError):  # it is a hash, and verifying it takes as long
        passwords._HASHER.verify(NOBODYS, PASSWORD)
    assert NOBODYS.rpartition("$")[0].rpartition("$")[0] == HASH.rpartition("$")[0].rpartition("$")[0], "with the same parameters"
    monkeypatch.setattr(passwords, "_HASHER", argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    old = hash_password("caf\u00e9")
    assert verify(old, "cafe\u0301") == (True, None)
    for false in ((old, "cafe"), (None, PASSWORD), ("no hash", PASSWORD), (old, "\ud800")):
        assert verify(*false) == (False, None)
    monkeypatch.setattr(passwords, "_HASHER", argon2.PasswordHasher(time_cost=2, memory_cost=64, parallelism=1))
    is_right, rehashed = verify(old, "caf\u00e9")
    assert is_right
    assert rehashed is not None
    assert verify(rehashed, "caf\u00e9") == (True, None)


async def test_logins_that_wait_are_bounded_and_do_not_hold_the_loop_up(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(passwords, "verify", lambda *_: (go.wait(60), None))
    made = Passwords()
    waiting = [asyncio.create_task(made.verify("x", "y")) for _ in range(WAITING_MAX + passwords.VERIFIED_AT_ONCE)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyLogins):
        await made.verify("x", "y")
    waiting[0].cancel()
    await asyncio.wait([waiting[0]])
    with pytest.raises(TooManyLogins):  # its work goes on
        await made.verify("x", "y")
    go.set()
    assert await asyncio.gather(*waiting[1:]) == [(True, None)] * (len(waiting) - 1)
    assert await made.verify("x", "y") == (True, None)
    made.close()
