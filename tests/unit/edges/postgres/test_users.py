"""Users on a real Postgres: grants, logins, refresh tokens that are good once, the blocklist, the audit, and what the role may do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from pks.edges.postgres import users
from pks.edges.postgres.connection import connect
from pks.edges.postgres.users import AccessToken, Audit, Grants, RefreshRefused, UserExists, UserUnknown
from pks.servers.endpoints import Endpoint

HASH = "$argon2id$v=19$m=65536,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2g"
DAY = 86_400


@pytest.fixture
async def db(database: Endpoint) -> AsyncIterator[Any]:
    connection = await connect(database, role=users.ROLE)
    await users.add(connection, "anna", HASH, ["trader"], ["ALPHA", "BETA"])
    yield connection
    await connection.close()


async def test_a_user_is_added_changed_and_listed(db: Any) -> None:
    await users.add(db, "root", None, ["admin", "viewer"], None)
    anna, root = await users.find(db)
    assert (anna.name, anna.roles, anna.books, anna.has_password, anna.is_disabled) == ("anna", ("trader",), ("ALPHA", "BETA"), True, False)
    assert (root.roles, root.books, root.has_password, root.sessions) == (("admin", "viewer"), None, False, 0)
    for taken in ("anna", "ANNA"):
        with pytest.raises(UserExists):
            await users.add(db, taken, HASH, [], [])
    await users.change(db, "anna", roles=["viewer"], books=["GAMMA"])
    assert [(one.roles, one.books) for one in await users.find(db, "anna")] == [(("viewer",), ("GAMMA",))]
    await users.change(db, "anna", all_books=True)
    assert (await users.find(db, "anna"))[0].books is None
    await users.change(db, "anna", books=[])
    assert (await users.find(db, "anna"))[0].books == ()
    with pytest.raises(UserUnknown):
        await users.change(db, "nobody", roles=["viewer"])
    with pytest.raises(asyncpg.CheckViolationError):
        await users.add(db, "a name", HASH, [], [])
    with pytest.raises(asyncpg.CheckViolationError):
        await users.add(db, "plain", "secret", [], [])


async def test_the_last_admin_stays(db: Any, database: Endpoint) -> None:
    await users.add(db, "one", None, ["admin"], None)
    await users.add(db, "two", None, ["admin"], None)
    other = await connect(database, role=users.ROLE)
    done = await asyncio.gather(
        users.change(db, "one", roles=["viewer"]), users.change(other, "two", is_disabled=True), return_exceptions=True
    )
    assert sum(isinstance(one, users.LastAdmin) for one in done) == 1, "of two at once one is refused"
    assert sum("admin" in one.roles and not one.is_disabled for one in await users.find(db)) == 1
    await other.close()


async def test_wrong_passwords_lock_a_user_out_for_a_while(db: Any) -> None:
    assert [await users.login_failed(db, "anna", 3, 60) for _ in range(4)] == [False, False, True, False]
    found = await users.account(db, "anna")
    assert found is not None
    assert found.is_locked
    assert not await users.login_succeeded(db, "anna", HASH), "not even with the right password"
    await db.execute("""update auth."user" set locked_until = now()""")
    assert await users.login_succeeded(db, "anna", HASH, HASH + "x")
    assert not await users.login_succeeded(db, "anna", HASH), "another password by now"
    assert await users.account(db, "nobody") is None
    await users.login_failed(db, "anna", 1, 60)
    await users.unlock(db, "anna")
    assert await users.login_succeeded(db, "anna", HASH + "x")


async def test_a_refresh_token_is_good_once_and_a_second_use_ends_the_family(db: Any) -> None:
    first = await users.open_session(db, "s1", "anna", AccessToken("j1", 900), DAY, "127.0.0.1")
    second = await users.rotate(db, first, AccessToken("j2", 900), DAY)
    third = await users.rotate(db, second, AccessToken("j3", 900), DAY)
    with pytest.raises(RefreshRefused) as caught:
        await users.rotate(db, first, AccessToken("j4", 900), DAY)
    assert (caught.value.reason, caught.value.user, caught.value.session) == ("REUSED", "anna", "s1")
    assert {one.jti for one in caught.value.blocked} == {"j1", "j2", "j3"}
    assert all(890 < one.seconds <= 900 for one in caught.value.blocked)
    with pytest.raises(RefreshRefused, match="REVOKED"):
        await users.rotate(db, third, AccessToken("j5", 900), DAY)
    with pytest.raises(RefreshRefused, match="UNKNOWN"):
        await users.rotate(db, "another", AccessToken("j6", 900), DAY)
    assert (await users.mirror(db)).blocked.keys() == {"j1", "j2", "j3"}
    texts = str(await db.fetch("select t.*::text, s.*::text from auth.token t join auth.session s on s.id = t.session"))
    assert not any(token in texts for token in (first, second, third)), "no token is kept"


async def test_of_two_who_refresh_at_once_one_wins_and_both_lose_in_the_end(db: Any, database: Endpoint) -> None:
    token = await users.open_session(db, "s1", "anna", AccessToken("j1", 900), DAY)
    other = await connect(database, role=users.ROLE)
    done = await asyncio.gather(
        users.rotate(db, token, AccessToken("j2", 900), DAY),
        users.rotate(other, token, AccessToken("j3", 900), DAY),
        return_exceptions=True,
    )
    assert sorted(type(one).__name__ for one in done) == ["RefreshRefused", "str"]
    assert await users.sessions(db) == []
    await other.close()


async def test_a_session_ends_by_its_time_by_revocation_and_with_its_user(db: Any) -> None:
    tokens = {name: await users.open_session(db, name, "anna", AccessToken(f"j-{name}", 900), DAY) for name in ("a", "b", "c")}
    await users.issue_session(db, "d", "anna", AccessToken("j-d", 60))
    assert [one.id for one in await users.sessions(db, "anna")] == ["a", "b", "c", "d"]
    await db.execute("update auth.session set expires_at = now() where id = 'a'")
    with pytest.raises(RefreshRefused, match="EXPIRED"):
        await users.rotate(db, tokens["a"], AccessToken("x", 900), DAY)
    assert [one.jti for one in await users.revoke_session(db, "b", "asked") or []] == ["j-b"]
    assert await users.revoke_session(db, "none", "asked") is None
    assert await users.revoke_token(db, "none") is None
    assert [one.jti for one in await users.revoke_token(db, "j-d") or []] == ["j-d"]
    blocked = await users.change(db, "anna", is_disabled=True)
    assert {one.jti for one in blocked} == {"j-a", "j-c", "j-d"}, "also the token whose session is over but which is still valid"
    with pytest.raises(RefreshRefused, match="REVOKED"):
        await users.rotate(db, tokens["c"], AccessToken("x", 900), DAY)
    assert not await users.login_succeeded(db, "anna", HASH)
    assert await users.sessions(db) == []
    assert len(await users.sessions(db, ended=True)) == 4
    with pytest.raises(UserUnknown):
        await users.open_session(db, "e", "nobody", AccessToken("x", 900), DAY)


async def test_another_password_ends_every_session(db: Any) -> None:
    await users.open_session(db, "a", "anna", AccessToken("j1", 900), DAY)
    assert [one.jti for one in await users.set_password(db, "anna", HASH + "y")] == ["j1"]
    assert await users.sessions(db) == []
    assert await users.revoke_user(db, "anna", "again") == []


async def test_what_decides_is_told_and_numbered(db: Any, database: Endpoint) -> None:
    heard = asyncio.Event()
    listener = await connect(database, role=users.ROLE)
    await listener.add_listener(users.CHANNEL, lambda *_: heard.set())
    before = await users.mirror(db)
    assert before.users == {"anna": Grants("anna", frozenset({"trader"}), frozenset({"ALPHA", "BETA"}), False)}
    await users.login_failed(db, "anna", 5, 60)
    await users.open_session(db, "a", "anna", AccessToken("j1", 900), DAY)
    assert await users.version(db) == before.version, "a login changes nobody's rights"
    for step in (
        lambda: users.change(db, "anna", books=["ALPHA"]),
        lambda: users.change(db, "anna", roles=[]),
        lambda: users.revoke_session(db, "a", "asked"),
        lambda: users.add(db, "bob", None, ["viewer"], []),
    ):
        heard.clear()
        known = await users.version(db)
        await step()
        assert await users.version(db) > known
        await asyncio.wait_for(heard.wait(), 30)
    after = await users.mirror(db)
    assert after.users["anna"] == Grants("anna", frozenset(), frozenset({"ALPHA"}), False)
    assert after.blocked.keys() == {"j1"}
    await listener.close()


async def test_what_has_ended_long_ago_is_forgotten(db: Any) -> None:
    await users.open_session(db, "a", "anna", AccessToken("j1", 900), DAY)
    await users.open_session(db, "b", "anna", AccessToken("j2", 900), DAY)
    await db.execute("update auth.session set expires_at = now() - interval '31 days' where id = 'a'")
    assert await users.prune(db) == 0, "its access token is still valid"
    await db.execute("update auth.token set expires_at = now() where jti = 'j1'")
    assert await users.prune(db) == 1
    assert [one.id for one in await users.sessions(db, ended=True)] == ["b"]


async def test_the_audit_is_only_added_to_and_the_role_has_the_least_rights(db: Any, database: Endpoint) -> None:
    rows = [Audit("anna", "LOGIN", address="127.0.0.1"), Audit("anna", "BOOK", "ALPHA", "REFUSED", "OVERSELL", detail={"trade_id": "T1"})]
    await users.audit(db, *rows)
    assert [one for _, one in await users.audited(db)] == rows
    for statement in (
        "update auth.audit set actor = 'bob'",
        "delete from auth.audit",
        "truncate auth.audit",
        """delete from auth."user" """,
        "insert into auth.role values ('king', '')",
        "delete from back_office.dead_letter",
        "insert into back_office.alert (class, severity, window_start, text) values ('b', 'INFO', now(), 'x')",
        "update trade.trade set price = 1",
        "select * from back_office.journal_copy",
        "create table auth.other (a integer)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await db.execute(statement)
    for statement in ("select * from trade.trade", "select * from back_office.position_snapshot", "select * from back_office.book"):
        assert await db.fetch(statement) == []
    await db.execute("update back_office.dead_letter set state = 'RESOLVED'")
    owner, reader = await connect(database, role=""), await connect(database, role="pks_reader")
    for statement in ("update auth.audit set actor = 'bob'", "delete from auth.audit", "truncate auth.audit"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only added to"):
            await owner.execute(statement)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await reader.execute("""select * from auth."user" """)
    assert [row["name"] for row in await owner.fetch("select name from auth.role order by name")] == sorted(users.ROLES)
    await owner.close()
    await reader.close()
