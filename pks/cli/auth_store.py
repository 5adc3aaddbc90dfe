"""What `pks user`, `pks token` and `pks key` share: Postgres and Redis of the system, the audit of what was done, names for the shell.

Owns the way to the stores and the sentence when they are not there. Who can read the data directory may do everything here; the audit says
that it was done at the command line, and by which user of the machine.
"""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from pks.base.config import Config
from pks.base.errors import PksError
from pks.cli.group import fail, quiet_config

T = TypeVar("T")

COMPLETE_SECONDS = 1.0
"""How long the shell waits for names."""


def ask(config: Config, question: Callable[[Any], Awaitable[T]]) -> T:
    """The answer of Postgres to `question`, which gets a connection with the rights of the gateway; or one clear line."""
    import asyncpg

    from pks.edges.postgres import users
    from pks.edges.postgres.connection import connect
    from pks.servers.endpoints import endpoint

    found = endpoint(config, "postgres")
    if found is None:
        fail("users live in Postgres, and this system has none (edges are off, or it has never started): start it with `pks run`")

    async def asked() -> T:
        db = await connect(found, users.ROLE)
        try:
            return await question(db)
        finally:
            await db.close(timeout=1)

    try:
        return asyncio.run(asked())
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        hint = "; it runs with the system: `pks run`" if found.mode == "embedded" and isinstance(error, OSError) else ""
        fail(f"Postgres at {found.shown}: {type(error).__name__}: {error}{hint}")


def block(config: Config, blocked: Sequence[Any]) -> bool:
    """Put tokens that Postgres has blocked on the list of Redis; False: it took not all of them, or there is none."""
    from pks.edges.redis.cache import Cache
    from pks.servers.endpoints import endpoint

    found = endpoint(config, "redis")
    if found is None:
        return not blocked

    async def put() -> bool:
        cache = Cache(found)
        try:
            return all([await cache.block(one.jti, one.seconds) for one in blocked])
        finally:
            await cache.close()

    return asyncio.run(put())


def told_blocked(config: Config, blocked: Sequence[Any]) -> None:
    """Block, and say it where something is left in doubt."""
    if blocked and not block(config, blocked):
        click.echo("pks: Redis did not take the blocked tokens; the gateway refuses them as soon as it has looked at Postgres", err=True)


async def note(db: Any, action: str, subject: str, **detail: Any) -> None:
    """A row of the audit."""
    from pks.edges.postgres import users

    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = ""  # a user id without a name
    await users.audit(db, users.Audit("command line", action, subject, detail=detail | {"os_user": who}))


def complete_users(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of users for the shell; none where Postgres does not answer at once."""
    import asyncpg

    from pks.servers.endpoints import endpoint

    async def names(url: str) -> list[str]:
        async with asyncio.timeout(COMPLETE_SECONDS):
            db = await asyncpg.connect(url)
            try:
                return [
                    row["name"]
                    for row in await db.fetch("""select name from auth."user" where starts_with(name, $1) order by 1""", incomplete)
                ]
            finally:
                db.terminate()

    given = ctx.params
    try:
        found = endpoint(quiet_config(given.get("config"), given.get("data_dir"), given.get("instance")), "postgres")
        return [] if found is None else asyncio.run(names(found.url))
    except (PksError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return []  # who types is not to be told of errors


def said(at: Any) -> str | None:
    """A time as it is shown; None stays."""
    return None if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}"


def settings(config: Path | None, data_dir: Path | None, instance: str | None) -> Config:
    """The configuration that the options name."""
    return quiet_config(config, data_dir, instance)
