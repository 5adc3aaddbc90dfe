"""Refresh tokens on a real Postgres: whatever clients and thieves send, one token of a session is good, and a second use ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pks.bff.tokens import new_id
from pks.edges.postgres import users
from pks.edges.postgres.connection import connect
from pks.edges.postgres.users import AccessToken, RefreshRefused
from tests.crash.keep_servers import kept, why_missing

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("login"), st.just(0)),
        st.tuples(st.just("use"), st.integers(0, 30)),  # any refresh token that was ever given out
        st.tuples(st.just("use newest"), st.integers(0, 30)),  # of any session
        st.tuples(st.just("logout"), st.integers(0, 30)),
        st.tuples(st.just("expire"), st.integers(0, 30)),
    ),
    max_size=25,
)


@dataclass
class Family:
    """A session as it ought to be."""

    id: str
    refresh: list[str] = field(default_factory=list)  # the last one is good while the family lives
    access: list[str] = field(default_factory=list)
    state: str = "alive"  # or revoked, expired


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Any]]:
    """A loop and a connection in it, to a database with one user."""
    if reason := why_missing("postgres"):
        pytest.skip(reason)
    with kept(tmp_path_factory.mktemp("refresh") / "data", only="postgres") as server, asyncio.Runner() as made:
        server.start("postgres")
        db = made.run(connect(server.place("postgres"), users.ROLE))
        made.run(users.add(db, "anna", None, ["viewer"], []))
        yield made, db
        made.run(db.close())


async def follow(db: Any, steps: list[tuple[str, int]]) -> None:
    families: list[Family] = []
    for step, number in steps:
        if step == "login":
            family, token = Family(new_id()), AccessToken(new_id(), 900)
            family.refresh.append(await users.open_session(db, family.id, "anna", token, 86_400))
            family.access.append(token.jti)
            families.append(family)
            continue
        if not families:
            continue
        family = families[number % len(families)]
        if step == "logout":
            await users.revoke_session(db, family.id, "logout")
            family.state = "revoked"
        elif step == "expire":
            await db.execute("update auth.session set expires_at = now() where id = $1", family.id)
            family.state = "expired" if family.state == "alive" else family.state
        elif step == "use newest":
            await use(db, family, family.refresh[-1])
        else:
            given = [(one, refresh) for one in families for refresh in one.refresh]
            await use(db, *given[number % len(given)])
        await compare(db, families)


async def use(db: Any, family: Family, refresh: str) -> None:
    token = AccessToken(new_id(), 900)
    if family.state == "alive" and refresh == family.refresh[-1]:
        family.refresh.append(await users.rotate(db, refresh, token, 86_400))
        family.access.append(token.jti)
        return
    with pytest.raises(RefreshRefused) as refused:
        await users.rotate(db, refresh, token, 86_400)
    assert refused.value.session == family.id
    if family.state == "alive":
        assert refused.value.reason == "REUSED"
        assert {one.jti for one in refused.value.blocked} == set(family.access), "whoever has one of them is out"
        family.state = "revoked"
    else:
        assert refused.value.reason == family.state.upper()
        assert refused.value.blocked == ()


async def compare(db: Any, families: list[Family]) -> None:
    """What is kept is what ought to be: sessions alive, tokens blocked, and exactly one unused refresh token a living family."""
    ours = {family.id for family in families}
    alive = {one.id for one in await users.sessions(db)} & ours
    assert alive == {family.id for family in families if family.state == "alive"}
    blocked = (await users.mirror(db)).blocked.keys()
    for family in families:
        assert (set(family.access) & blocked) == (set(family.access) if family.state == "revoked" else set())
    unused = await db.fetch("select session from auth.token where used_at is null and session = any($1::text[])", list(ours))
    assert sorted(row["session"] for row in unused) == sorted(ours)


@settings(max_examples=25)
@given(steps=STEPS)
def test_one_refresh_token_of_a_family_is_good_and_a_second_use_ends_it(
    runner: tuple[asyncio.Runner, Any], steps: list[tuple[str, int]]
) -> None:
    loop, db = runner
    loop.run(follow(db, steps))
    loop.run(db.execute("update auth.session set expires_at = now()"))
