"""Who may do what: each access token is judged anew, by what Postgres and Redis say now.

Owns what a role permits, the mirror of grants and blocklist that is read from Postgres at each change and twice a second, and the policy
for when a server is gone (docs/gateway.md, decision 0013): a token is refused if Postgres, Redis or this process says that it is blocked;
that it is not must be said by Redis or by a look at Postgres of the last FRESH_SECONDS, else nobody is let in; grants are those that were
seen last, for the life of an access token at most. REST, gRPC and WebSockets ask here and nowhere else; nothing here knows a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn

import asyncpg

from pks.base.config import Config
from pks.base.errors import PksError, Retryable
from pks.bff.keys import KeyFileUnsafe, KeyRing, KeyRingBroken
from pks.bff.tokens import TokenInvalid, Tokens
from pks.edges.postgres import users
from pks.edges.postgres.connection import SETTINGS, connect
from pks.edges.postgres.users import Blocked, Grants, Mirror
from pks.edges.redis.cache import Cache, Token
from pks.servers.endpoints import endpoint
from pks.workers.log import Log

POLL_SECONDS = 0.5
"""Between two looks at Postgres when it tells of no change."""

FRESH_SECONDS = 5.0
"""For so long a look at Postgres says that a token is not blocked."""

ASKED_SECONDS = 1.0
"""For so long an answer of Redis is kept."""

ASKED_MAX = 10_000
"""Answers of Redis that are kept."""

LOOK_SECONDS, STORE_SECONDS = 3.0, 3.0
"""How long a look, and a caller who wants a connection, waits for Postgres."""

ADDED_SECONDS, ADDED_LOOK_SECONDS = 1.0, 0.005
"""How long a user who is not known yet waits for a look at Postgres, and how often it is seen whether there was one."""

RETRY_SECONDS = 0.5
"""Between two attempts at a server that is gone."""

PRUNE_SECONDS = 3600.0

CANCELS_MAX, CANCEL_SECONDS = 12, 0.5

STORE_CONNECTIONS_MAX = 4

UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
)
"""Postgres is not there, or not able to; any other error of it is a mistake of ours."""


class Permission(StrEnum):
    """What a role may allow."""

    READ = "read"
    BOOK = "book"
    CORRECT = "correct"
    APPROVE = "approve"
    REFDATA = "refdata"
    OPERATE = "operate"
    ADMIN = "admin"


PERMISSIONS: dict[str, frozenset[Permission]] = {
    "viewer": frozenset({Permission.READ}),
    "trader": frozenset({Permission.READ, Permission.BOOK, Permission.CORRECT}),
    "operations": frozenset({Permission.READ, Permission.BOOK, Permission.CORRECT, Permission.REFDATA, Permission.OPERATE}),
    "approver": frozenset({Permission.READ, Permission.APPROVE}),
    "admin": frozenset(Permission),
}
"""What each role allows, in the books that are granted. An admin, who could grant himself any book, sees them all."""
assert tuple(PERMISSIONS) == users.ROLES, "every role has its permissions"


class NotAuthenticated(PksError):
    """The token is not ours, has expired, or was revoked. reason: for logs; the caller is told no more than that it is not valid."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the token is not valid: {reason}")
        self.reason = reason


class AccessUnavailable(Retryable):
    """Neither Postgres nor Redis can say whether a token is good: nobody is let in until one can."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"access cannot be judged now: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, with what is granted at this moment."""

    name: str
    roles: frozenset[str]
    books: frozenset[str] | None  # None: all
    permissions: frozenset[Permission]
    jti: str
    session: str
    expires_at: float  # unix seconds

    def may(self, permission: Permission) -> bool:
        """Whether a role allows it; in which books, `sees` says."""
        return permission in self.permissions

    def sees(self, book: str) -> bool:
        """Whether the book exists for this user."""
        return self.books is None or book in self.books


class Access:
    """One per gateway, for its event loop. `start` it, `close` it."""

    def __init__(
        self,
        config: Config,
        tokens: Tokens,
        log: Log,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Talks to nobody yet."""
        self.config, self.tokens, self.log = config, tokens, log
        self.now, self.monotonic = now, monotonic
        self.access_seconds = config.gateway.access_minutes * 60
        self.last_error = ""  # of Postgres, "" while it answers
        self._mirror: Mirror | None = None
        self._looked_at = 0.0  # the mirror is no older than this; monotonic
        self._told, self._seen = asyncio.Event(), asyncio.Event()
        self._pool: Any = None
        self._cache: Cache | None = None
        self._asked: dict[str, tuple[float, Token]] = {}  # jti -> (monotonic, what Redis said)
        self._blocked_here: dict[str, float] = {}  # jti -> when the token expires
        self._streams: weakref.WeakSet[asyncio.Event] = weakref.WeakSet()
        self._tasks: list[asyncio.Task[NoReturn]] = []

    async def start(self) -> None:
        """Begin to look; waits for no server. The first key is made here if there is none. Raises KeyFileUnsafe, KeyRingBroken."""
        await asyncio.to_thread(self.tokens.ring.signing)
        self._tasks = [asyncio.create_task(self._keep_looking()), asyncio.create_task(self._keep_redis())]

    async def close(self) -> None:
        """Let go of every connection. A library that is cancelled while it connects may lose the cancellation, so it is told again."""
        left = set[asyncio.Task[NoReturn]](self._tasks)
        self._tasks = []
        for _ in range(CANCELS_MAX):
            for task in left:
                task.cancel()
            if left:
                _, left = await asyncio.wait(left, timeout=CANCEL_SECONDS)
        if left:
            self.log.warning("a connection does not let go; the process ends without it")

    def check(self) -> None:
        """Raise what ended a task that should never end: a mistake of ours."""
        for task in self._tasks:
            if task.done():
                task.result()

    # judging

    async def judge(self, token: str) -> Principal:
        """Who sends this token, with what is granted now. Raises NotAuthenticated, AccessUnavailable."""
        try:
            claims = self.tokens.verify(token)
        except TokenInvalid as error:
            raise NotAuthenticated(error.reason) from error
        except (KeyFileUnsafe, KeyRingBroken) as error:
            self.log.error("the keys of access tokens cannot be used", error=str(error))
            raise AccessUnavailable("the keys of access tokens cannot be read") from error
        return await self._judged(claims.user, claims.session, claims.jti, claims.expires_at)

    async def again(self, principal: Principal) -> Principal:
        """The same one as he stands now, for a stream: at each change and at least once a second. Raises NotAuthenticated,
        AccessUnavailable.
        """
        if principal.expires_at <= self.now():
            raise NotAuthenticated("it has expired")
        return await self._judged(principal.name, principal.session, principal.jti, principal.expires_at)

    def changes(self) -> asyncio.Event:
        """An event that is set at each change of anybody's grants or of the blocklist. A stream keeps its own, and clears it before it asks
        `again`.
        """
        made = asyncio.Event()
        self._streams.add(made)
        return made

    async def _judged(self, name: str, session: str, jti: str, expires_at: float) -> Principal:
        self._check_blocked(jti)
        in_redis = await self._in_redis(jti)
        self._check_blocked(jti)  # the mirror may be another one now
        if in_redis is Token.BLOCKED:
            raise NotAuthenticated("it was revoked")
        mirror, age = self._mirror, self.monotonic() - self._looked_at
        if mirror is None or age > self.access_seconds:
            raise AccessUnavailable("Postgres has not said for too long what users may do")
        if in_redis is Token.UNKNOWN and age > FRESH_SECONDS:
            raise AccessUnavailable("neither Postgres nor Redis says whether the token was revoked")
        grants = mirror.users.get(name) or await self._just_added(name)
        if grants is None or grants.is_disabled:
            raise NotAuthenticated("there is no such user any more")
        return _principal(grants, session, jti, expires_at)

    async def _just_added(self, name: str) -> Grants | None:
        """Who is unknown, with a token that we signed, may have been added a moment ago: wait for one more look."""
        began = self.monotonic()
        self._told.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ADDED_SECONDS):
                while self._looked_at <= began:
                    await asyncio.sleep(ADDED_LOOK_SECONDS)
        return None if self._mirror is None else self._mirror.users.get(name)

    def _check_blocked(self, jti: str) -> None:
        if jti in self._blocked_here or (self._mirror is not None and jti in self._mirror.blocked):
            raise NotAuthenticated("it was revoked")

    async def _in_redis(self, jti: str) -> Token:
        """What Redis says of a token, at most ASKED_SECONDS ago."""
        now = self.monotonic()
        known = self._asked.get(jti)
        if known is not None and now - known[0] < ASKED_SECONDS:
            return known[1]
        said = Token.UNKNOWN if self._cache is None else await self._cache.token(jti)
        if len(self._asked) >= ASKED_MAX:
            self._asked.clear()
        self._asked[jti] = now, said
        return said

    # blocking

    async def block(self, blocked: Iterable[Blocked]) -> bool:
        """Refuse these tokens from now on, here and wherever Redis is asked. Postgres comes first: the caller has committed it there, or
        says that it could not. False: Redis did not take them all.
        """
        now, is_whole = self.now(), True
        self._blocked_here = {jti: until for jti, until in self._blocked_here.items() if until > now}
        for one in blocked:
            self._blocked_here[one.jti] = now + one.seconds
            self._asked.pop(one.jti, None)
            is_whole &= self._cache is not None and await self._cache.block(one.jti, one.seconds)
        self._tell()
        return is_whole

    # the store

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Any]:
        """A connection to Postgres with the rights of the gateway, for `users` and for what a reader may see. Raises AccessUnavailable
        where Postgres is gone, or goes meanwhile.
        """
        pool = self._pool
        if pool is None:
            raise AccessUnavailable("Postgres does not answer")
        try:
            connection = await pool.acquire(timeout=STORE_SECONDS)
            try:
                yield connection
            finally:
                with contextlib.suppress(*UNAVAILABLE):  # what was done is done; a connection that cannot be reset is given up
                    await pool.release(connection, timeout=STORE_SECONDS)
        except UNAVAILABLE as error:
            raise AccessUnavailable("Postgres does not answer") from error

    def age(self) -> float | None:
        """Seconds since Postgres was last looked at; None: never yet."""
        return None if self._mirror is None else self.monotonic() - self._looked_at

    # looking

    async def _keep_looking(self) -> NoReturn:
        while True:
            try:
                await self._look_while_it_is_there()
            except Exception as error:  # a server may fail in any way that its library knows, and nobody is let in by that
                self._fell(error)
            await asyncio.sleep(RETRY_SECONDS)

    async def _look_while_it_is_there(self) -> None:
        found = endpoint(self.config, "postgres")
        if found is None:
            return
        connection = await connect(found, users.ROLE)
        try:
            await connection.add_listener(users.CHANNEL, lambda *_: self._told.set())
            self._pool = await asyncpg.create_pool(
                found.url, min_size=0, max_size=STORE_CONNECTIONS_MAX, timeout=STORE_SECONDS, command_timeout=STORE_SECONDS,
                server_settings=SETTINGS, init=_as_gateway,
            )  # fmt: skip
            await self._look(connection, anew=True)
            if self.last_error:
                self.log.info("Postgres says again what users may do")
                self.last_error = ""
            pruned_at = self.monotonic()
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._told.wait()
                await self._look(connection)
                if self.monotonic() - pruned_at > PRUNE_SECONDS:
                    pruned_at = self.monotonic()
                    await users.prune(connection)
        finally:
            pool, self._pool = self._pool, None
            if pool is not None:
                pool.terminate()
            connection.terminate()

    async def _look(self, connection: Any, *, anew: bool = False) -> None:
        """Read what has changed. anew: it may be another database than before."""
        self._told.clear()
        began = self.monotonic()
        async with asyncio.timeout(LOOK_SECONDS):
            known = None if anew or self._mirror is None else self._mirror.version
            if await users.version(connection) != known:
                self._mirror = await users.mirror(connection)
                self._tell()
        self._looked_at = began
        self._seen.set()

    def _tell(self) -> None:
        for event in list(self._streams):
            event.set()

    def _fell(self, error: BaseException) -> None:
        said = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        if not self.last_error:
            self.log.warning("Postgres does not say what users may do", error=said)
        self.last_error = said

    async def _keep_redis(self) -> NoReturn:
        await self._seen.wait()  # before that there is no list to load, and nobody is let in
        while True:
            found = endpoint(self.config, "redis")
            if found is None:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._cache = Cache(found)
            try:
                await self._cache.keep_blocklist(self._blocklist)
            finally:
                cache, self._cache = self._cache, None
                await cache.close()

    async def _blocklist(self) -> dict[str, int] | None:
        """What Redis is to hold, as Postgres has it now. While Postgres is gone a list that is whole stays so, as long as grants count."""
        mirror, age = self._mirror, self.age()
        if mirror is None or age is None or age > self.access_seconds:
            return None
        if age > FRESH_SECONDS:
            if self._cache is not None:
                await self._cache.extend_blocklist()
            return None
        now = datetime.fromtimestamp(self.now(), UTC)
        return {jti: int(seconds) + 1 for jti, until in mirror.blocked.items() if (seconds := (until - now).total_seconds()) > 0}


async def _as_gateway(connection: Any) -> None:
    """A connection that is given back is reset, but for its role."""
    await connection.execute(f"set role {users.ROLE}")


def _principal(grants: Grants, session: str, jti: str, expires_at: float) -> Principal:
    permissions = frozenset[Permission]().union(*(PERMISSIONS[role] for role in grants.roles))
    books = None if Permission.ADMIN in permissions else grants.books
    return Principal(grants.name, grants.roles, books, permissions, jti, session, expires_at)


def make_access(config: Config, log: Log) -> Access:
    """The access of a data directory, with its keys."""
    return Access(config, Tokens(KeyRing(Path(config.data_dir))), log)


async def how_to_log_in(connection: Any, data_dir: str) -> str:
    """What `pks run` prints the first time: the command that adds the first user, "" when there is one. connection: of `Access.store`."""
    if not await users.is_empty(connection):
        return ""
    return f"no user exists yet; add the first: pks user add NAME --role admin --password-stdin --data-dir {data_dir}"
