"""`pks refill`: what a server has of the journal is forgotten, and its edge brings everything again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pks.cli.group import fail, quiet_config, system_options

if TYPE_CHECKING:
    from pks.base.config import Config
    from pks.servers.endpoints import Endpoint


@click.command()
@click.argument("server", type=click.Choice(["postgres"]))
@click.option("--yes", is_flag=True, help="do not ask")
@system_options
def refill(server: str, yes: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Empty the tables that SERVER has of the journal; the running system, or the next one, fills them again from the first event.

    An edge refills a wiped server by itself, so this is for tables that were changed by hand, or that belong to another journal. Until it
    is done, a copy of the journal that lay there is gone: the local journal must be sound (`pks journal verify`).
    """
    settings = quiet_config(config, data_dir, instance)
    if not yes:
        click.confirm(f"empty everything that {server} has of the journal of {settings.data_dir}?", abort=True)
    from pks.servers.endpoints import endpoint

    with _servers(settings, server):
        found = endpoint(settings, server)
        if found is None:
            fail(f"{server} is not configured, or has never started here")
        for line in FORGET[server](found):
            click.echo(line)


@contextmanager
def _servers(settings: Config, server: str) -> Iterator[None]:
    """The servers of a running system, else the embedded one for as long as it takes."""
    from pks.segments.claims import take_claim
    from pks.segments.errors import AlreadyClaimed
    from pks.servers.alone import alone
    from pks.topology import Paths

    paths = Paths(Path(settings.data_dir))
    paths.make()
    try:
        claim = take_claim(paths.run, "system")
    except AlreadyClaimed:
        yield
        return
    try:
        with alone(settings, (server,)):
            yield
    finally:
        claim.release()


def _forget_postgres(found: Endpoint) -> list[str]:
    import asyncpg

    from pks.edges.postgres.connection import connect
    from pks.edges.postgres.refill import forget

    async def run() -> dict[str, int]:
        connection = await connect(found, role="")
        try:
            return await forget(connection)
        finally:
            await connection.close()

    try:
        cursors = asyncio.run(run())
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        fail(f"postgres: {type(error).__name__}: {error}")
    return [f"postgres: {edge} was at event {sequence:,}, begins at 1 again" for edge, sequence in sorted(cursors.items())] or [
        "postgres: it had nothing"
    ]


FORGET: dict[str, Callable[[Any], list[str]]] = {"postgres": _forget_postgres}
"""How each server forgets; the lines that are said of it."""
