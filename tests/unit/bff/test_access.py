"""Who may do what, judged on real servers: while all is well, when a right is taken, and when Postgres or Redis is gone."""

from __future__ import annotations

import asyncio

import pytest

from pks.bff.access import (
    FRESH_SECONDS,
    PERMISSIONS,
    Access,
    AccessUnavailable,
    NotAuthenticated,
    Permission,
    Principal,
    how_to_log_in,
)
from pks.bff.keys import KeyRing
from pks.bff.tokens import new_id
from pks.edges.postgres import users
from pks.edges.postgres.users import AccessToken, Blocked
from tests.fault_proxy import Fault
from tests.unit.bff.conftest import AuthSystem, until


async def a_token(system: AuthSystem, access: Access, user: str = "anna", seconds: int = 900) -> str:
    """A user's token, as a login makes it."""
    session, jti = new_id(), new_id()
    await users.open_session(system.owner, session, user, AccessToken(jti, seconds), 86_400)
    return access.tokens.issue(user, session, jti, seconds).text


async def outcome(access: Access, token: str) -> str:
    try:
        await access.judge(token)
    except (NotAuthenticated, AccessUnavailable) as error:
        return type(error).__name__
    return "in"


@pytest.fixture
async def token(system: AuthSystem, access: Access) -> str:
    """Anna's, who is known to the gateway."""
    await users.add(system.owner, "anna", None, ["trader"], ["ALPHA"])
    made = await a_token(system, access)

    async def is_in() -> bool:
        return await outcome(access, made) == "in"

    await until(is_in)
    return made


def test_what_each_role_may() -> None:
    assert [role for role, allowed in PERMISSIONS.items() if Permission.BOOK in allowed] == ["trader", "operations", "admin"]
    assert [role for role, allowed in PERMISSIONS.items() if Permission.APPROVE in allowed] == ["approver", "admin"]
    assert [role for role, allowed in PERMISSIONS.items() if Permission.ADMIN in allowed] == ["admin"]
    assert all(Permission.READ in allowed for allowed in PERMISSIONS.values())
    one = Principal("anna", frozenset(), frozenset({"ALPHA"}), frozenset(), "j", "s", 0.0)
    assert (one.may(Permission.READ), one.sees("ALPHA"), one.sees("BETA")) == (False, True, False)


async def test_a_principal_has_what_is_granted_now(system: AuthSystem, access: Access, token: str) -> None:
    await users.add(system.owner, "root", None, ["admin"], [])
    anna = await access.judge(token)
    assert (anna.name, anna.roles, anna.books) == ("anna", frozenset({"trader"}), frozenset({"ALPHA"}))
    assert anna.permissions == PERMISSIONS["trader"]
    changes = access.changes()

    async def seen(wanted: tuple[frozenset[str] | None, frozenset[Permission]]) -> None:
        """Until that is what is granted; each look comes after it was told that something changed."""

        async def is_so() -> bool:
            await asyncio.wait_for(changes.wait(), 60)
            changes.clear()
            again = await access.again(anna)
            assert (again.jti, again.session, again.expires_at) == (anna.jti, anna.session, anna.expires_at)
            return (again.books, again.permissions) == wanted

        await until(is_so)

    await users.change(system.owner, "anna", roles=["viewer", "approver"], books=["BETA"])
    await seen((frozenset({"BETA"}), frozenset({Permission.READ, Permission.APPROVE})))
    await users.change(system.owner, "anna", roles=["admin"])
    await seen((None, frozenset(Permission)))
    await users.change(system.owner, "anna", roles=["viewer"])
    await seen((frozenset({"BETA"}), PERMISSIONS["viewer"]))
    await users.change(system.owner, "anna", is_disabled=True)
    await asyncio.wait_for(changes.wait(), 60)
    for question in (access.again(anna), access.judge(token)):
        with pytest.raises(NotAuthenticated):
            await question
    access.check()


async def test_who_was_just_added_is_known_at_once(system: AuthSystem, access: Access) -> None:
    for number in range(5):
        await users.add(system.owner, f"new-{number}", None, ["viewer"], [])
        assert await outcome(access, await a_token(system, access, f"new-{number}")) == "in"


async def test_who_is_not_known_or_whose_token_has_expired_is_refused(system: AuthSystem, access: Access, token: str) -> None:
    anna = await access.judge(token)
    for text in ("", "x", token[:-3] + "abc", access.tokens.issue("bob", "s", "j", 900).text):
        assert await outcome(access, text) == "NotAuthenticated"
    access.now = access.tokens.now = lambda: anna.expires_at
    assert await outcome(access, token) == "NotAuthenticated"
    with pytest.raises(NotAuthenticated, match="expired"):
        await access.again(anna)


async def test_a_revoked_token_is_refused_whoever_says_it_first(system: AuthSystem, access: Access, token: str) -> None:
    second, third, fourth = [await a_token(system, access) for _ in range(3)]

    async def is_refused(text: str) -> bool:
        return await outcome(access, text) == "NotAuthenticated"

    anna = await access.judge(token)
    changes = access.changes()
    await users.revoke_session(system.owner, anna.session, "by command")  # in Postgres alone
    await until(lambda: is_refused(token))
    assert changes.is_set()
    # in Redis alone, as by a command that could not reach Postgres
    system.valkey.set(f"jwt:blocklist:{access.tokens.verify(second).jti}", "1", ex=100)
    await until(lambda: is_refused(second))
    await access.block([Blocked(access.tokens.verify(third).jti, 100)])
    assert await is_refused(third)
    assert system.valkey.get(f"jwt:blocklist:{access.tokens.verify(third).jti}") == "1"
    assert await outcome(access, fourth) == "in"


async def test_a_revoked_token_comes_into_redis_from_postgres(system: AuthSystem, access: Access, token: str) -> None:
    jti = access.tokens.verify(token).jti
    await users.revoke_token(system.owner, jti)
    await until(lambda: jti in (access._mirror.blocked if access._mirror else {}))
    system.valkey.flushall()  # the next question finds the list wanting, and it is loaded again
    await outcome(access, await a_token(system, access))
    await until(lambda: system.valkey.get(f"jwt:blocklist:{jti}") == "1")


async def test_without_postgres_redis_says_who_is_not_blocked_for_as_long_as_grants_count(
    system: AuthSystem, access: Access, token: str
) -> None:
    blocked = await a_token(system, access)
    await access.block(await users.revoke_token(system.owner, access.tokens.verify(blocked).jti) or [])
    fresh = await a_token(system, access)
    system.stores.to_postgres.fault = Fault.CUT
    await until(lambda: access.last_error != "")
    real, ahead = access.monotonic, 0.0
    access.monotonic = lambda: real() + ahead
    ahead = FRESH_SECONDS + 1

    async def is_in() -> bool:
        return await outcome(access, fresh) == "in"

    await until(is_in)
    assert await outcome(access, blocked) == "NotAuthenticated"
    with pytest.raises(AccessUnavailable):
        async with access.store():
            pass
    system.valkey.flushall()  # another life of Redis has no list, and nobody can make it whole
    access._asked.clear()
    for _ in range(3):
        assert await outcome(access, fresh) == "AccessUnavailable"
        access._asked.clear()
    assert await outcome(access, blocked) == "NotAuthenticated"
    system.valkey.set("jwt:blocklist-whole", system.valkey.info("server")["run_id"], ex=60)
    access._asked.clear()
    await until(is_in)
    ahead = access.access_seconds + 1  # what users may do was last heard of too long ago
    access._asked.clear()
    assert await outcome(access, fresh) == "AccessUnavailable"
    assert await outcome(access, blocked) == "NotAuthenticated"


async def test_without_redis_a_fresh_look_at_postgres_is_needed(
    system: AuthSystem, access: Access, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pks.bff.access.LOOK_SECONDS", 0.5)
    blocked = await a_token(system, access)
    system.stores.to_valkey.fault = Fault.CUT
    await access.block(await users.revoke_token(system.owner, access.tokens.verify(blocked).jti) or [])
    access._asked.clear()
    assert await outcome(access, token) == "in"
    assert await outcome(access, blocked) == "NotAuthenticated"
    system.stores.to_postgres.fault = Fault.STALL
    real = access.monotonic
    await until(lambda: access.last_error != "")
    access.monotonic = lambda: real() + FRESH_SECONDS
    access._asked.clear()
    for _ in range(2):
        assert await outcome(access, token) == "AccessUnavailable"
        assert await outcome(access, blocked) == "NotAuthenticated"
    access.monotonic = real
    system.stores.to_postgres.fault = system.stores.to_valkey.fault = Fault.NONE

    async def is_in() -> bool:
        access._asked.clear()
        return access.last_error == "" and await outcome(access, token) == "in"

    await until(is_in)
    assert await outcome(access, blocked) == "NotAuthenticated"


async def test_a_gateway_that_never_saw_postgres_lets_nobody_in(system: AuthSystem) -> None:
    await users.add(system.owner, "anna", None, ["trader"], ["ALPHA"])
    system.stores.to_postgres.fault = Fault.CUT
    made = system.make()
    await made.start()
    try:
        token = await a_token(system, made)
        await until(lambda: made.last_error != "")
        assert await outcome(made, token) == "AccessUnavailable"
    finally:
        await made.close()


async def test_keys_that_others_can_read_let_nobody_in(system: AuthSystem, access: Access, token: str) -> None:
    KeyRing(system.data_dir).rotate()
    (system.data_dir / "secrets" / "jwt" / "ring.json").chmod(0o644)
    assert await outcome(access, token) == "AccessUnavailable"


async def test_the_first_time_it_is_said_how_to_log_in(system: AuthSystem, access: Access) -> None:
    async with access.store() as db:
        assert await db.fetchval("select current_user") == users.ROLE
        assert "pks user add NAME --role admin --password-stdin" in await how_to_log_in(db, "/data")
        await users.add(db, "anna", None, ["admin"], [])
        assert await how_to_log_in(db, "/data") == ""
    async with access.store() as db:
        assert await db.fetchval("select current_user") == users.ROLE, "a connection that is used again"
