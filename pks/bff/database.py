"""Postgres for the gateway: a few connections with the rights of `pks_gateway`, lent for one question each.

Owns the pool, made when it is first needed and made again after the server was away. Whoever finds none hears DatabaseAway at once or after
SECONDS; nothing here waits for a server to come back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg

from pks.base.errors import Retryable
from pks.edges.postgres.connection import SETTINGS
from pks.edges.postgres.migrations import migrate
from pks.servers.endpoints import Endpoint

ROLE = "pks_gateway"
CONNECTIONS_MAX = 8
SECONDS = 5.0
IDLE_SECONDS = 60.0

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
)
"""What asyncpg raises when there is no server, or not the one that there was."""


class DatabaseAway(Retryable):
    """Postgres gives no answer now."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Postgres gives no answer, and what was asked needs it: {reason}")


class Database:
    """The pool of one gateway."""

    def __init__(self, find: Callable[[], Endpoint | None]) -> None:
        """find: where Postgres is, None while that is not known."""
        self._find = find
        self._pool: Any = None
        self._url = ""
        self._making = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[Any]:
        """An asyncpg connection. Raises DatabaseAway, also for what breaks while it is lent."""
        try:
            async with asyncio.timeout(SECONDS):
                pool = await self._ready()
                connection = await pool.acquire()
        except AWAY as error:
            raise DatabaseAway(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        try:
            yield connection
        except AWAY as error:
            raise DatabaseAway(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        finally:
            with contextlib.suppress(*AWAY):
                await pool.release(connection, timeout=SECONDS)

    async def _ready(self) -> Any:
        found = self._find()
        if found is None:
            raise DatabaseAway("it has not started yet")
        async with self._making:
            if self._pool is not None and self._url != found.url:
                self._pool.terminate()  # it came back at another address
                self._pool = None
            if self._pool is None:
                self._pool = await _pool(found)
                self._url = found.url
        return self._pool

    async def close(self) -> None:
        """End the connections."""
        if self._pool is not None:
            self._pool.terminate()


async def _pool(found: Endpoint) -> Any:
    """A pool on a database that has every migration."""
    connection = await asyncpg.connect(found.url, timeout=SECONDS, command_timeout=SECONDS, server_settings=SETTINGS)
    try:
        await migrate(connection)
    finally:
        await connection.close(timeout=1)
    return await asyncpg.create_pool(
        found.url,
        min_size=0,
        max_size=CONNECTIONS_MAX,
        max_inactive_connection_lifetime=IDLE_SECONDS,
        timeout=SECONDS,
        command_timeout=SECONDS,
        server_settings=SETTINGS,
        setup=_with_our_rights,
    )


async def _with_our_rights(connection: Any) -> None:
    await connection.execute(f"set role {ROLE}")
