"""Marks, curves, sessions and the blocklist of tokens in Redis: everything expires, and nothing depends on any of it being there.

Owns the names of the keys and what an answer means when the server is slow, dead, restarted or emptied. A call takes 50 ms at most and
raises nothing of the server's: a read answers UNKNOWN, a write False. The blocklist opens no door: a token counts as NOT_BLOCKED only
while the list is known to be whole, that is, since `load_blocklist` in this very life of the server; whoever hears UNKNOWN refuses or asks
Postgres, where the list is kept for good. `keep_blocklist` loads it again before that time is over, and as soon as it is found wanting.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, NoReturn, TypeVar

import redis.asyncio as client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from pks.edges.redis.breaker import Breaker, BreakerState
from pks.servers.endpoints import Endpoint

T = TypeVar("T")

CALL_SECONDS_MAX = 0.05
"""How long a caller waits at most."""

CONNECTIONS_MAX = 16

MARK_SECONDS, CURVE_SECONDS = 86_400, 86_400
"""Time to live of what is fed again anyway."""

BLOCKLIST_SECONDS = 60
"""How long a loaded blocklist counts as whole; whoever relies on it loads it twice as often. So long may a token that one process could not
put on the list count as not blocked in another process."""

RELOAD_SECONDS, RELOAD_SECONDS_MIN = BLOCKLIST_SECONDS / 2, 1.0
"""Between two loads of the blocklist while all is well, and while it is not."""

TTL_SECONDS_MAX = 366 * 86_400

MARK, CURVE, BLOCKED, SESSION = "md:mark:v1:", "curve:", "jwt:blocklist:", "session:"
WHOLE = "jwt:blocklist-whole"
"""Names the life of the server in which the blocklist was loaded: another life may have lost the last second of it."""

LOOK = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if run and redis.call('GET', KEYS[2]) == run then return 0 end
return -1
"""
MARK_WHOLE = """
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
redis.call('SET', KEYS[1], run, 'EX', ARGV[1])
return 1
"""
EXTEND_WHOLE = """
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if run and redis.call('GET', KEYS[1]) == run then return redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return 0
"""

FAILURES = (RedisError, OSError, TimeoutError)


class Known(Enum):
    """What Redis says of a key."""

    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"  # no answer: ask whoever keeps it for good

    def __bool__(self) -> NoReturn:
        """Not a yes or a no: compare with one of the three."""
        raise TypeError("an answer of Redis has three values: compare it with one of them")


class Token(Enum):
    """What Redis says of a token."""

    BLOCKED = "blocked"
    NOT_BLOCKED = "not blocked"
    UNKNOWN = "unknown"  # no answer, or the list may have holes: refuse, or ask Postgres

    def __bool__(self) -> NoReturn:
        """Not a yes or a no: compare with one of the three."""
        raise TypeError("an answer about a token has three values: compare it with one of them")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A value that is PRESENT, or why there is none."""

    known: Known
    value: T | None = None


class Cache:
    """One connection pool. For one event loop."""

    def __init__(self, endpoint: Endpoint, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        """Talks to nobody yet."""
        self.breaker = Breaker(monotonic_ns)
        self.failures = 0
        self.last_error = ""
        self._wanted = asyncio.Event()  # the blocklist was found wanting
        self._has_hole = False  # a token of ours is not on the list: nothing is known until it is loaded again
        trust: dict[str, Any] = {"ssl_ca_certs": endpoint.ca_file} if endpoint.ca_file and endpoint.url.startswith("rediss:") else {}
        self._client: Any = client.Redis.from_url(
            endpoint.url,
            decode_responses=True,
            max_connections=CONNECTIONS_MAX,
            socket_timeout=CALL_SECONDS_MAX,
            socket_connect_timeout=CALL_SECONDS_MAX,
            retry=Retry(NoBackoff(), 0),
            **trust,
        )

    @property
    def is_up(self) -> bool:
        """Whether requests go out now."""
        return self.breaker.state is BreakerState.CLOSED

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    # marks and curves

    async def put_marks(self, marks: Mapping[str, Mapping[str, str]], seconds: int = MARK_SECONDS) -> bool:
        """Instrument id -> fields (decimals as text). All are there with their time to live, or False."""
        _check_ttl(seconds)

        async def put() -> None:
            async with self._client.pipeline(transaction=True) as pipe:
                for instrument, fields in marks.items():
                    pipe.hset(MARK + instrument, mapping=dict(fields))
                    pipe.expire(MARK + instrument, seconds)
                await pipe.execute()

        return not marks or await self._done(put)

    async def mark(self, instrument: str) -> Answer[dict[str, str]]:
        """The fields of a mark."""
        return await self._read(lambda: self._client.hgetall(MARK + instrument))

    async def put_curve(self, curve: str, text: str, seconds: int = CURVE_SECONDS) -> bool:
        """A curve as text."""
        return await self._set(CURVE + curve, text, seconds)

    async def curve(self, curve: str) -> Answer[str]:
        """A curve's text."""
        return await self._read(lambda: self._client.get(CURVE + curve))

    # sessions

    async def put_session(self, session: str, text: str, seconds: int) -> bool:
        """A session as text; False: it is where it is kept for good, and nowhere else."""
        return await self._set(SESSION + session, text, seconds)

    async def session(self, session: str) -> Answer[str]:
        """A session's text. ABSENT may also mean that the server was emptied: ask Postgres before somebody is told to log in again."""
        return await self._read(lambda: self._client.get(SESSION + session))

    async def drop_session(self, session: str) -> bool:
        """Forget a session; False: it may still be there until it expires."""
        return await self._done(lambda: self._client.delete(SESSION + session))

    # the blocklist

    async def block(self, jti: str, seconds: int) -> bool:
        """Put a token on the list for as long as it would be valid. Postgres comes first. False: here every token is UNKNOWN from now on,
        until `load_blocklist`.
        """
        stored = await self._set(BLOCKED + jti, "1", seconds)
        if not stored:
            self._has_hole = True
            self._wanted.set()
        return stored

    async def load_blocklist(self, entries: Mapping[str, int]) -> bool:
        """Every token that is blocked, with the seconds that it would be valid, as Postgres has them. From then on, for
        BLOCKLIST_SECONDS and as long as the server lives, a token that is not on the list is NOT_BLOCKED. False: nothing to rely on.
        """
        for seconds in entries.values():
            _check_ttl(seconds)

        async def load() -> None:
            async with self._client.pipeline(transaction=True) as pipe:
                for jti, seconds in entries.items():
                    pipe.set(BLOCKED + jti, "1", ex=seconds)
                pipe.eval(MARK_WHOLE, 1, WHOLE, BLOCKLIST_SECONDS)
                await pipe.execute()

        self._has_hole = not await self._done(load)
        return not self._has_hole

    async def extend_blocklist(self) -> bool:
        """While Postgres cannot be read: the list counts as whole for another BLOCKLIST_SECONDS if it does now, in the same life of the
        server. Who calls it answers for how long that goes on. False: nothing to rely on.
        """

        async def extend() -> int:
            return int(await self._client.eval(EXTEND_WHOLE, 1, WHOLE, BLOCKLIST_SECONDS))

        answer = await self._ask(extend)
        return answer is not None and answer[0] == 1

    async def keep_blocklist(self, read: Callable[[], Awaitable[Mapping[str, int] | None]]) -> NoReturn:
        """Until it is cancelled: load what `read` has of Postgres (None: it does not answer) twice in BLOCKLIST_SECONDS, and at once, but
        at most once in RELOAD_SECONDS_MIN, when a token was UNKNOWN or could not be blocked: after another life of the server, say.
        """
        while True:
            self._wanted.clear()
            entries = await read()
            is_loaded = entries is not None and await self.load_blocklist(entries)
            await asyncio.sleep(RELOAD_SECONDS_MIN)
            if is_loaded:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wanted.wait(), RELOAD_SECONDS - RELOAD_SECONDS_MIN)

    async def token(self, jti: str) -> Token:
        """Is a token on the list? UNKNOWN is no permission."""
        answer = await self._ask(lambda: self._script(LOOK, BLOCKED + jti, WHOLE))
        if answer is None or answer[0] < 0:
            self._wanted.set()
        if answer is not None and answer[0] == 1:
            return Token.BLOCKED
        return Token.UNKNOWN if answer is None or answer[0] < 0 or self._has_hole else Token.NOT_BLOCKED

    async def _script(self, text: str, *keys: str) -> int:
        try:
            return int(await self._client.evalsha(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), len(keys), *keys))
        except NoScriptError:
            return int(await self._client.eval(text, len(keys), *keys))

    # asking

    async def _set(self, key: str, text: str, seconds: int) -> bool:
        _check_ttl(seconds)
        return await self._done(lambda: self._client.set(key, text, ex=seconds))

    async def _done(self, call: Callable[[], Awaitable[object]]) -> bool:
        return await self._ask(call) is not None

    async def _read(self, call: Callable[[], Awaitable[T]]) -> Answer[T]:
        answer = await self._ask(call)
        if answer is None:
            return Answer(Known.UNKNOWN)
        return Answer(Known.PRESENT, answer[0]) if answer[0] else Answer(Known.ABSENT)

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> tuple[T] | None:
        """The answer, or None for none: the server failed, was slow, or is not asked for a while."""
        if not self.breaker.allows():
            return None
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                answer = await call()
        except FAILURES as error:
            self.breaker.failed()
            self.failures += 1
            self.last_error = " ".join(str(error).split()) or type(error).__name__
            return None
        except BaseException:
            self.breaker.failed()  # cancelled, or a mistake of ours: whoever probed must not be waited for
            raise
        self.breaker.succeeded()
        return (answer,)


def _check_ttl(seconds: int) -> None:
    assert 0 < seconds <= TTL_SECONDS_MAX, f"a key lives from 1 to {TTL_SECONDS_MAX} seconds, not {seconds}"
