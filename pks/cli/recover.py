"""`pks recover`: the journal made again from Postgres and NATS, when the local disk was lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pks.cli.group import EXIT_REFUSED, fail, quiet_config, system_options

if TYPE_CHECKING:
    from pks.base.config import Config
    from pks.segments.journal_rebuild import JournalRebuild

SOURCES = ("postgres", "nats")
NAMES = {"postgres": "Postgres (back_office.journal_copy)", "nats": "NATS (stream EVENTS)"}
SAY_SECONDS = 2.0
DERIVED = ("checkpoints", "keys", "streams")
"""Folders that are made of the journal: what a lost disk left of them is put aside."""


@click.command()
@system_options
@click.option(
    "--from", "sources", multiple=True, type=click.Choice(SOURCES), help="where from, in this order; may be given again (default: both)"
)
def recover(sources: tuple[str, ...], config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Make the journal again from its copies; the next `pks run` folds it to the same positions.

    Postgres has every durable event that its edge had reached, NATS those of the last 30 days and as a rule some more at the end: both are
    read, one after another. A journal that is there is never touched. Events that neither had reached are lost, so send again what was
    acknowledged in the last moments: idempotency keys see to it that nothing is booked twice.
    """
    from pks.base.clock import SystemClock
    from pks.segments.claims import take_claim
    from pks.segments.errors import AlreadyClaimed
    from pks.segments.journal_rebuild import JournalRebuild
    from pks.servers.alone import alone
    from pks.topology import Paths

    settings = quiet_config(config, data_dir, instance)
    wanted, paths = tuple(dict.fromkeys(sources)) or SOURCES, Paths(Path(settings.data_dir))
    paths.make()
    try:
        claim = take_claim(paths.run, "system")
    except AlreadyClaimed as error:
        fail(f"a system runs on {paths.data_dir} (pid {error.holder}): there is nothing to recover while it does")
    try:
        rebuild = JournalRebuild(
            paths.journal, wall_ns=SystemClock().wall_ns, records=settings.journal.segment_records, instance=settings.instance
        )
        with rebuild, alone(settings, wanted):
            last = asyncio.run(_read_all(settings, wanted, rebuild))
        if not last:
            for made in paths.journal.iterdir():
                made.unlink()
            fail("no copy has any event: nothing was made", EXIT_REFUSED)
        _put_aside(paths)
    finally:
        claim.release()
    click.echo(f"the journal has events 1 to {last:,} again; `pks run` goes on from there, `pks journal verify` checks it")


async def _read_all(settings: Config, wanted: tuple[str, ...], rebuild: JournalRebuild) -> int:
    for source in wanted:
        before, said = rebuild.last, time.monotonic()
        async for first, records in _parts(settings, source, rebuild.last + 1):
            rebuild.add(first, records)
            if time.monotonic() - said > SAY_SECONDS:
                said = time.monotonic()
                click.echo(f"{NAMES[source]}: up to event {rebuild.last:,}", err=True)
        click.echo(f"{NAMES[source]}: {rebuild.last - before:,} events", err=True)
    return rebuild.finish()


async def _parts(settings: Config, source: str, wanted: int) -> AsyncIterator[tuple[int, bytes]]:
    """What one source has from event `wanted` on; a source that cannot be asked is said and gives nothing."""
    from pks.servers.endpoints import endpoint

    found = endpoint(settings, source)
    if found is None:
        click.echo(f"{NAMES[source]}: not configured, or it has never started here", err=True)
        return
    reading: Any = _from_postgres(found) if source == "postgres" else _from_nats(found, wanted)
    async for part in reading:
        yield part


async def _from_postgres(found: Any) -> AsyncIterator[tuple[int, bytes]]:
    import asyncpg

    from pks.edges.postgres.journal_copy import read_copy

    try:
        connection = await asyncpg.connect(found.url, timeout=5, command_timeout=600)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        click.echo(f"{NAMES['postgres']}: {type(error).__name__}: {error}", err=True)
        return
    try:
        async for part in read_copy(connection):
            yield part
    except asyncpg.UndefinedTableError:
        click.echo(f"{NAMES['postgres']}: it has no copy of the journal", err=True)
    finally:
        await connection.close(timeout=5)


async def _from_nats(found: Any, wanted: int) -> AsyncIterator[tuple[int, bytes]]:
    import nats.errors

    from pks.edges.nats.connection import open_connection
    from pks.edges.nats.event_copy import read_events

    try:
        connection = await open_connection(found, "pks recover")
    except (OSError, TimeoutError, nats.errors.Error) as error:
        click.echo(f"{NAMES['nats']}: {type(error).__name__}: {error}", err=True)
        return
    try:
        async for part in read_events(connection.stream, wanted):
            yield part
    finally:
        await connection.close()


def _put_aside(paths: Any) -> None:
    """What was derived of the lost journal may know more than the new one: it is not deleted, and not used."""
    for name in DERIVED:
        folder = paths.data_dir / name
        if folder.exists() and any(folder.iterdir()):
            folder.rename(folder.with_name(f"{name}.{time.time_ns()}"))
    paths.make()
