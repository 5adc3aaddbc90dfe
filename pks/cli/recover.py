"""`pks recover`: the journal made again from Postgres and NATS, or a checkpoint of Postgres' positions, when the local ones were lost."""

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
    from pks.topology import Paths

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
@click.option(
    "--checkpoint", is_flag=True, help="the journal is there and checkpoints are not: make one of the positions that Postgres has"
)
def recover(sources: tuple[str, ...], checkpoint: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Make the journal again from its copies; the next `pks run` folds it to the same positions.

    Postgres has every durable event that its edge had reached, NATS those of the last 30 days and as a rule some more at the end: both are
    read, one after another. A journal that is there is never touched. Events that neither had reached are lost, so send again what was
    acknowledged in the last moments: idempotency keys see to it that nothing is booked twice.

    With --checkpoint the journal stays as it is: where it is long and its checkpoints are lost or damaged, a start would fold all of
    it. A checkpoint is made of the positions with their lots that Postgres has, and `pks run` folds only what came behind them.
    """
    if checkpoint and set(sources) - {"postgres"}:
        raise click.UsageError("positions for a checkpoint are in Postgres alone: --checkpoint goes with no --from nats")
    from pks.segments.claims import take_claim
    from pks.segments.errors import AlreadyClaimed
    from pks.topology import Paths

    settings = quiet_config(config, data_dir, instance)
    paths = Paths(Path(settings.data_dir))
    paths.make()
    try:
        claim = take_claim(paths.run, "system")
    except AlreadyClaimed as error:
        fail(f"a system runs on {paths.data_dir} (pid {error.holder}): there is nothing to recover while it does")
    try:
        if checkpoint:
            _make_checkpoint(settings, paths)
        else:
            _make_journal(settings, paths, tuple(dict.fromkeys(sources)) or SOURCES)
    finally:
        claim.release()


def _make_journal(settings: Config, paths: Paths, wanted: tuple[str, ...]) -> None:
    from pks.base.clock import SystemClock
    from pks.segments.journal_rebuild import JournalRebuild, JournalThere
    from pks.servers.alone import alone

    try:
        rebuild = JournalRebuild(
            paths.journal, wall_ns=SystemClock().wall_ns, records=settings.journal.segment_records, instance=settings.instance
        )
    except JournalThere as error:
        fail(f"{error}; where only its checkpoints are lost, --checkpoint makes one")
    with rebuild, alone(settings, wanted):
        last = asyncio.run(_read_all(settings, wanted, rebuild))
    if not last:
        for made in paths.journal.iterdir():
            made.unlink()
        fail("no copy has any event: nothing was made", EXIT_REFUSED)
    _put_aside(paths)
    click.echo(f"the journal has events 1 to {last:,} again; `pks run` goes on from there, `pks journal verify` checks it")


def _make_checkpoint(settings: Config, paths: Paths) -> None:
    from pks.segments.journal_file import list_files
    from pks.segments.journal_recovery import verify
    from pks.servers.alone import alone
    from pks.servers.endpoints import endpoint

    if not list_files(paths.journal):
        fail(f"there is no journal in {paths.journal}; `pks recover` without --checkpoint makes it again")
    broken = next((problem for problem in verify(paths.journal) if not problem.unfinished), None)
    if broken is not None:
        fail(
            f"the journal is damaged at record {broken.sequence} ({broken.reason}): no checkpoint is made over it; see `pks journal verify`"
        )
    sound = _put_damaged_aside(paths.checkpoints)
    with alone(settings, ("postgres",)):
        found = endpoint(settings, "postgres")
        if found is None:
            fail(f"{NAMES['postgres']}: not configured, or it has never started here")
        made = asyncio.run(_checkpoint_from(found, settings, paths, sound))
    click.echo(f"checkpoint of event {int(made.stem):,} made of the positions in Postgres; `pks run` begins there")


async def _checkpoint_from(found: Any, settings: Config, paths: Paths, sound: int) -> Path:
    import asyncpg

    from pks.workers.edges.positions_recovery import checkpoint_from

    said = time.monotonic()

    def say(sequence: int, last: int) -> None:
        nonlocal said
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            click.echo(f"keys and links: up to event {sequence:,} of {last:,}", err=True)

    try:
        connection = await asyncpg.connect(found.url, timeout=5, command_timeout=600)
        try:
            return await checkpoint_from(connection, settings, paths, sound, say)
        finally:
            await connection.close(timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        fail(f"postgres: {type(error).__name__}: {error}")


def _put_damaged_aside(directory: Path) -> int:
    """Rename what is no sound checkpoint: it must not count among those that are kept; the event of the newest sound one, 0 for none."""
    from pks.workers.checkpoint import checkpoints, read_checkpoint

    newest = 0
    for path in list(checkpoints(directory)):
        if (found := read_checkpoint(path)) is not None:
            newest = max(newest, found.sequence)
            continue
        aside = path.with_name(f"{path.name}.damaged")
        path.rename(aside)
        click.echo(f"{path.name} is damaged, or of another version of this program; it is {aside.name} now", err=True)
    return newest


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


def _put_aside(paths: Paths) -> None:
    """What was derived of the lost journal may know more than the new one: it is not deleted, and not used."""
    for name in DERIVED:
        folder = paths.data_dir / name
        if folder.exists() and any(folder.iterdir()):
            folder.rename(folder.with_name(f"{name}.{time.time_ns()}"))
    paths.make()
