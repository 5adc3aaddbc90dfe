"""The cache on a real Valkey: what it holds, for how long, and what is said when the server is slow, dead, restarted or emptied."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from pks.edges.redis.cache import BLOCKED, CALL_SECONDS_MAX, CURVE, MARK, SESSION, WHOLE, Answer, Cache, Known, Token
from tests.conftest import wait_until
from tests.crash.keep_servers import SECONDS, Kept, kept, why_missing

NOT_WANTED = {
    "edges.nats_url": "nats://127.0.0.1:1",
    "edges.postgres_url": "postgresql://nobody@127.0.0.1:1/none",
    "edges.questdb_url": "http://127.0.0.1:1",
}
pytestmark = pytest.mark.skipif(bool(why_missing("redis")), reason=why_missing("redis"))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    with kept(tmp_path_factory.mktemp("redis"), **NOT_WANTED) as made:
        made.start("redis")
        yield made


@pytest.fixture
def plain(servers: Kept) -> Iterator[Any]:
    """Another program's connection, to an empty server."""
    with redis.Redis.from_url(servers.place("redis").url, decode_responses=True) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
async def cache(servers: Kept, plain: Any) -> AsyncIterator[Cache]:
    made = Cache(servers.place("redis"))
    yield made
    await made.close()


async def until(question: Any, wanted: Any) -> None:
    """Ask again until the answer is that: a machine that is busy with other things may not answer within 50 ms."""
    end = time.monotonic() + SECONDS
    while (answer := await question()) != wanted:
        assert time.monotonic() < end, f"{answer}, not {wanted}"
        await asyncio.sleep(0.01)


async def test_the_blocklist_is_loaded_again_before_its_time_is_over_and_when_it_is_wanting(
    cache: Cache, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("RELOAD_SECONDS", 0.3), ("RELOAD_SECONDS_MIN", 0.05)):
        monkeypatch.setattr(f"pks.edges.redis.cache.{name}", seconds)
    lists: list[dict[str, int] | None] = [None, {"bad": 1000}]  # first Postgres does not answer
    reads: list[float] = []

    async def read() -> dict[str, int] | None:
        reads.append(time.monotonic())
        return lists[min(len(reads), len(lists)) - 1]

    keeping = asyncio.create_task(cache.keep_blocklist(read))
    try:
        await until(lambda: cache.token("good"), Token.NOT_BLOCKED)
        assert len(reads) >= 2
        lists.append({"bad": 1000, "worse": 1000})
        await until(lambda: cache.token("worse"), Token.BLOCKED)  # by its time: nothing was found wanting
        plain.flushall()
        await until(lambda: cache.token("bad"), Token.BLOCKED)
        await until(lambda: cache.token("good"), Token.NOT_BLOCKED)
        assert not keeping.done()
    finally:
        keeping.cancel()


async def test_a_whole_list_stays_whole_while_it_is_extended_in_the_same_life_of_the_server(
    servers: Kept, cache: Cache, plain: Any
) -> None:
    await until(cache.extend_blocklist, False)
    await until(lambda: cache.load_blocklist({"bad": 1000}), True)
    plain.expire(WHOLE, 5)
    await until(cache.extend_blocklist, True)
    assert plain.ttl(WHOLE) > 5
    plain.set(WHOLE, "another life")
    await until(cache.extend_blocklist, False)
    await until(lambda: cache.token("good"), Token.UNKNOWN)
    await until(lambda: cache.token("bad"), Token.BLOCKED)


async def test_what_is_put_is_there_under_the_names_that_others_know_and_expires(cache: Cache, plain: Any) -> None:
    await until(lambda: cache.put_marks({"SBER": {"mark": "250.25", "time_ns": "17"}, "GAZP": {"mark": "170"}}, 100), True)
    await until(lambda: cache.put_curve("RUB", "[1]", 100), True)
    await until(lambda: cache.put_session("s1", '{"user": "a"}', 100), True)
    await until(lambda: cache.block("j1", 100), True)
    await until(lambda: cache.mark("SBER"), Answer(Known.PRESENT, {"mark": "250.25", "time_ns": "17"}))
    await until(lambda: cache.curve("RUB"), Answer(Known.PRESENT, "[1]"))
    await until(lambda: cache.session("s1"), Answer(Known.PRESENT, '{"user": "a"}'))
    assert set(plain.keys()) == {f"{MARK}SBER", f"{MARK}GAZP", f"{CURVE}RUB", f"{SESSION}s1", f"{BLOCKED}j1"}
    assert all(0 < plain.ttl(key) <= 100 for key in plain.keys())
    await until(lambda: cache.drop_session("s1"), True)
    for question in (lambda: cache.session("s1"), lambda: cache.mark("LKOH"), lambda: cache.curve("USD")):
        await until(question, Answer(Known.ABSENT))


async def test_a_key_without_a_time_to_live_is_a_mistake(cache: Cache) -> None:
    with pytest.raises(AssertionError):
        await cache.put_curve("RUB", "[]", 0)
    with pytest.raises(AssertionError):
        await cache.load_blocklist({"j": -1})


async def test_a_token_is_not_blocked_only_while_the_list_is_whole(cache: Cache, plain: Any) -> None:
    await until(lambda: cache.block("bad", 100), True)
    await until(lambda: cache.token("bad"), Token.BLOCKED)
    await until(lambda: cache.token("good"), Token.UNKNOWN)
    assert plain.ttl(WHOLE) < 0
    await until(lambda: cache.load_blocklist({"bad": 100, "worse": 100}), True)
    await until(lambda: cache.token("good"), Token.NOT_BLOCKED)
    await until(lambda: cache.token("worse"), Token.BLOCKED)
    assert 0 < plain.ttl(WHOLE)
    plain.flushall()
    await until(lambda: cache.token("bad"), Token.UNKNOWN)


def test_an_answer_is_no_yes_or_no() -> None:
    for answer in (*Token, *Known):
        with pytest.raises(TypeError):
            bool(answer)


async def test_after_kill_9_no_token_is_let_in_before_the_list_is_loaded_again(cache: Cache, servers: Kept) -> None:
    await until(lambda: cache.load_blocklist({"bad": 1000}), True)
    await until(lambda: cache.token("good"), Token.NOT_BLOCKED)
    os.kill(servers.facts("redis")["pid"], signal.SIGKILL)
    said = set()
    end = time.monotonic() + SECONDS
    while (answer := await cache.token("good")) is not Token.UNKNOWN or servers.facts("redis")["state"] != "READY" or not cache.is_up:
        said.add(answer)
        assert time.monotonic() < end, f"{answer}, {servers.facts('redis')}"
        await asyncio.sleep(0.01)
    assert Token.BLOCKED not in said
    await until(lambda: cache.token("good"), Token.UNKNOWN)
    await until(lambda: cache.load_blocklist({"bad": 1000}), True)
    await until(lambda: cache.token("good"), Token.NOT_BLOCKED)
    await until(lambda: cache.token("bad"), Token.BLOCKED)


async def test_a_stopped_server_costs_each_caller_little_and_answers_nothing(cache: Cache, servers: Kept) -> None:
    await until(lambda: cache.load_blocklist({"bad": 1000}), True)
    pid = servers.facts("redis")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        calls = 1000
        for _ in range(calls):
            assert await cache.token("bad") is Token.UNKNOWN
            assert await cache.mark("SBER") == Answer(Known.UNKNOWN)
            assert await cache.put_curve("RUB", "[]") is False
        assert time.monotonic() - start < calls * CALL_SECONDS_MAX, "most are not asked at all"
        assert not cache.is_up
        assert cache.last_error
        assert await cache.block("worse", 100) is False
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: servers.facts("redis")["state"] == "READY", SECONDS, "it answers again")
    await until(lambda: cache.mark("SBER"), Answer(Known.ABSENT))
    await until(lambda: cache.token("good"), Token.UNKNOWN)  # one token did not get on the list
    await until(lambda: cache.load_blocklist({"bad": 1000, "worse": 100}), True)
    await until(lambda: cache.token("good"), Token.NOT_BLOCKED)
    await until(lambda: cache.token("worse"), Token.BLOCKED)
