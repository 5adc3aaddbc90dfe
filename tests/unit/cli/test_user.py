"""`pks user`, `pks token` and `pks key` on real servers, and what a gateway then makes of their tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis

from pks.bff.keys import KeyRing
from pks.bff.passwords import verify
from pks.bff.tokens import TokenInvalid, Tokens
from pks.cli import user as user_commands
from pks.edges.postgres import users
from tests.unit.bff.conftest import Stores, stores  # noqa: F401
from tests.unit.cli.conftest import Run, json_of

PASSWORD = "correct horse battery staple"


@pytest.fixture
def valkey(stores: Stores, monkeypatch: pytest.MonkeyPatch, pks_run: Run) -> Iterator[Any]:  # noqa: F811
    """The commands find an empty database and an empty Valkey, which is this."""

    async def make() -> None:
        root = await asyncpg.connect(stores.postgres.url)
        await root.execute("drop database if exists commands with (force)")
        await root.execute("create database commands")
        await root.close()

    asyncio.run(make())
    monkeypatch.setenv("PKS_PG_URL", f"{stores.postgres.url.rpartition('/')[0]}/commands")
    monkeypatch.setenv("PKS_REDIS_URL", stores.valkey.url)
    with redis.Redis.from_url(stores.valkey.url, decode_responses=True) as made:
        made.flushall()
        yield made


@pytest.fixture
def db(stores: Stores, valkey: Any) -> Callable[[Callable[[Any], Awaitable[Any]]], Any]:  # noqa: F811
    """What a question finds in that database."""

    def asked(question: Callable[[Any], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            connection = await asyncpg.connect(f"{stores.postgres.url.rpartition('/')[0]}/commands")
            try:
                return await question(connection)
            finally:
                await connection.close()

        return asyncio.run(run())

    return asked


def test_a_user_from_the_first_to_the_last_command(pks_run: Run, tmp_path: Path, db: Any) -> None:
    def user(*arguments: str, stdin: str = "") -> Any:
        return pks_run(tmp_path, "user", *arguments, stdin=stdin)

    assert "adds the first" in user("list").stdout
    added = user("add", "anna", "--role", "trader", "--book", "ALPHA", "--book", "BETA", "--password-stdin", stdin=PASSWORD + "\n")
    assert (added.exit_code, added.stdout, added.stderr) == (0, "user anna is added\n", "")
    short = user("add", "root", "--role", "admin", "--password-stdin", stdin="pw\n")
    assert (short.exit_code, "short" in short.stderr) == (0, True)
    anna, root = json_of(user("list", "--json"))
    assert (anna["roles"], anna["books"], anna["has_password"], anna["is_disabled"]) == (["trader"], ["ALPHA", "BETA"], True, False)
    assert (root["roles"], root["books"]) == (["admin"], [])
    account = db(lambda connection: users.account(connection, "anna"))
    assert verify(account.password, PASSWORD)[0]
    assert user("change", "anna", "--role", "viewer", "--add-book", "GAMMA", "--drop-book", "ALPHA").exit_code == 0
    assert next((one["roles"], one["books"]) for one in json_of(user("list", "--json"))) == (["viewer"], ["BETA", "GAMMA"])
    assert user("change", "anna", "--book", "*").exit_code == 0
    assert json_of(user("list", "--json"))[0]["books"] is None
    assert user("change", "anna", "--no-books").exit_code == 0
    assert json_of(user("list", "--json"))[0]["books"] == []
    assert user("password", "anna", "--password-stdin", stdin="another long password\n").exit_code == 0
    assert verify(db(lambda connection: users.account(connection, "anna")).password, "another long password")[0]
    assert user("disable", "anna").exit_code == 0
    assert "disabled" in user("list").stdout
    assert user("change", "anna", "--enable").exit_code == 0
    assert user("unlock", "anna").exit_code == 0
    assert [one.action for _, one in db(users.audited)] == [
        "USER_ADDED", "USER_ADDED", "USER_CHANGED", "USER_CHANGED", "USER_CHANGED", "PASSWORD_CHANGED", "USER_DISABLED", "USER_CHANGED",
        "USER_UNLOCKED",
    ]  # fmt: skip
    assert PASSWORD not in str(db(users.audited))


def test_what_cannot_be_done_is_said_in_one_line(pks_run: Run, tmp_path: Path, valkey: Any) -> None:
    def user(*arguments: str, stdin: str = "") -> Any:
        return pks_run(tmp_path, "user", *arguments, stdin=stdin)

    assert user("add", "root", "--role", "admin", "--no-password").exit_code == 0
    for arguments, stdin, said in (
        (("add", "a b", "--role", "viewer", "--no-password"), "", "no name"),
        (("add", "anna", "--no-password"), "", "--role"),
        (("add", "anna", "--role", "viewer"), "", "--password-stdin"),
        (("add", "anna", "--role", "viewer", "--password-stdin"), "\n", "1 to 1024"),
        (("add", "anna", "--role", "king", "--no-password"), "", "king"),
        (("add", "ROOT", "--role", "viewer", "--no-password"), "", "already"),
        (("add", "anna", "--role", "viewer", "--no-password", "--book", "*", "--book", "A"), "", "every book"),
        (("change", "root"), "", "nothing to change"),
        (("change", "root", "--role", "viewer"), "", "last admin"),
        (("change", "root", "--book", "A", "--no-books"), "", "--no-books"),
        (("change", "root", "--drop-book", "A"), "", "no grant for A"),
        (("change", "nobody", "--add-book", "A"), "", "no user 'nobody'"),
        (("disable", "root"), "", "last admin"),
        (("disable", "nobody"), "", "no user 'nobody'"),
        (("unlock", "nobody"), "", "no user 'nobody'"),
        (("password", "nobody", "--password-stdin"), PASSWORD, "no user 'nobody'"),
    ):
        result = user(*arguments, stdin=stdin)
        assert result.exit_code in (1, 2), arguments
        assert said in result.stderr, arguments
    assert [one["name"] for one in json_of(user("list", "--json"))] == ["root"]


def test_a_token_for_a_script_is_good_until_it_is_revoked(pks_run: Run, tmp_path: Path, valkey: Any, db: Any) -> None:
    assert pks_run(tmp_path, "user", "add", "robot", "--role", "viewer", "--no-password").exit_code == 0
    facts = json_of(pks_run(tmp_path, "token", "issue", "robot", "--minutes", "60", "--json"))
    plain = pks_run(tmp_path, "token", "issue", "robot").stdout.strip()
    third = json_of(pks_run(tmp_path, "token", "issue", "robot", "--json"))
    tokens = Tokens(KeyRing(tmp_path))
    claims = tokens.verify(facts["access_token"])
    assert (claims.user, claims.jti, claims.session) == ("robot", facts["jti"], facts["session"])
    assert claims.expires_at - claims.issued_at == 3600
    assert tokens.verify(plain).expires_at - tokens.verify(plain).issued_at == 900
    assert [one["origin"] for one in json_of(pks_run(tmp_path, "user", "sessions", "robot", "--json"))] == ["ISSUED"] * 3
    assert "1 token that" in pks_run(tmp_path, "token", "revoke", "--jti", facts["jti"]).stdout
    assert 3500 < valkey.ttl(f"jwt:blocklist:{facts['jti']}") <= 3600
    assert "1 token that" in pks_run(tmp_path, "token", "revoke", "--session", third["session"]).stdout
    assert "tokens that" in pks_run(tmp_path, "token", "revoke", "robot").stdout
    assert db(users.mirror).blocked.keys() == {facts["jti"], third["jti"], tokens.verify(plain).jti}
    assert len(valkey.keys("jwt:blocklist:*")) == 3
    assert pks_run(tmp_path, "user", "change", "robot", "--enable").exit_code == 0
    assert pks_run(tmp_path, "user", "disable", "robot").exit_code == 0
    for arguments, said in (
        (("issue", "nobody"), "no user 'nobody'"),
        (("issue", "robot"), "is disabled"),
        (("issue", "robot", "--minutes", "0"), "--minutes"),
        (("revoke",), "give either"),
        (("revoke", "robot", "--jti", "x"), "give either"),
        (("revoke", "--jti", "x"), "no token x"),
        (("revoke", "--session", "x"), "no session x"),
        (("revoke", "nobody"), "no user 'nobody'"),
    ):
        result = pks_run(tmp_path, "token", *arguments)
        assert (result.exit_code in (1, 2), said in result.stderr) == (True, True), arguments


def test_keys_are_listed_rotated_and_dropped_without_a_system(pks_run: Run, tmp_path: Path) -> None:
    assert "no keys yet" in pks_run(tmp_path, "key", "list").stdout
    assert pks_run(tmp_path, "key", "rotate").exit_code == 0
    (first,) = json_of(pks_run(tmp_path, "key", "list", "--json"))
    assert (first["signs"], first["expires_at"]) == (True, None)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    tokens = Tokens(KeyRing(tmp_path))
    text = tokens.issue("robot", "s", "j", 900).text
    pks_run(tmp_path, "key", "rotate")
    assert tokens.verify(text).user == "robot"
    assert "verifies until" in pks_run(tmp_path, "key", "list").stdout
    refused = pks_run(tmp_path, "key", "drop", KeyRing(tmp_path).signing()[0])
    assert (refused.exit_code, "it signs" in refused.stderr) == (1, True)
    assert pks_run(tmp_path, "key", "drop", first["kid"]).exit_code == 0
    with pytest.raises(TokenInvalid):
        tokens.verify(text)


def test_where_postgres_is_not_it_is_said(pks_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = pks_run(tmp_path, "user", "list")
    assert (never.exit_code, "pks run" in never.stderr) == (1, True)
    monkeypatch.setenv("PKS_PG_URL", "postgresql://pks:secret@127.0.0.1:1/pks")
    gone = pks_run(tmp_path, "user", "list")
    assert (gone.exit_code, len(gone.stderr.splitlines()), "secret" in gone.stderr) == (1, 1, False)


def test_the_roles_that_are_offered_are_those_that_there_are() -> None:
    assert user_commands.ROLES == users.ROLES
