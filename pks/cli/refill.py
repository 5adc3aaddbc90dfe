"""`pks refill`: what a server has of the journal is forgotten, and its edge brings everything again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pks.cli.group import fail, quiet_config, system_options

if TYPE_CHECKING:
    from pks.base.config import Config
    from pks.servers.endpoints import Endpoint

T = TypeVar("T")

HOLDS = {
    "nats": "messages of this journal in the streams EVENTS, BOOKING, POSITIONS and POSITIONS_LATEST",
    "postgres": "tables that the journal fills",
    "questdb": "table bo_positions",
}
"""What is emptied, in words."""

PATIENCE_SECONDS, LOOK_SECONDS, SAY_SECONDS = 30.0, 0.2, 2.0
"""How long the edge of a running system may do nothing of what it was asked; between looks; between lines of progress."""


@click.command()
@click.argument("server", type=click.Choice(sorted(HOLDS)))
@click.option("--yes", is_flag=True, help="do not ask")
@system_options
def refill(server: str, yes: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Empty what SERVER has of the journal; the running system, or the next one, fills it again from the first event.

    \b
    postgres   the tables of trades, matches, positions and reference data, the copy of the journal;
               dead letters and alerts stay
    nats       this system's messages in EVENTS, BOOKING, POSITIONS and POSITIONS_LATEST;
               what others published, and dead letters, stay
    questdb    the table bo_positions, wherever it is kept (QuestDB, or Postgres where that cannot be had)

    An edge refills a wiped server by itself, so this is for what was changed by hand, or belongs to another journal. Until it is done, a
    copy of the journal that lay there is gone: the local journal must be sound (`pks journal verify`). Consumers of NATS are told
    everything again, under the same Pks-Sequence.
    """
    settings = quiet_config(config, data_dir, instance)
    if not yes:
        click.confirm(f"empty everything that {server} has of the journal of {settings.data_dir} ({HOLDS[server]})?", abort=True)
    place = _kept_by(settings, server)
    with _servers(settings, place) as runs:
        from pks.servers.endpoints import endpoint

        found = endpoint(settings, place)
        if found is None:
            fail(f"{place} is not configured, or has never started here")
        for line in FORGET[server](settings, found, runs):
            click.echo(line)
    click.echo(
        "the running system fills it again; `pks status` shows how far it is" if runs else f"the next `pks run` fills {server} again"
    )


def _kept_by(settings: Config, server: str) -> str:
    """The server that has it: time series may be kept in Postgres."""
    if server != "questdb":
        return server
    from pks.edges.questdb.choice import choose

    return choose(settings).name


@contextmanager
def _servers(settings: Config, server: str) -> Iterator[bool]:
    """The servers of a running system (True), else the embedded one for as long as it takes (False)."""
    from pks.segments.claims import take_claim
    from pks.segments.errors import AlreadyClaimed
    from pks.servers.alone import alone
    from pks.topology import Paths

    paths = Paths(Path(settings.data_dir))
    paths.make()
    try:
        claim = take_claim(paths.run, "system")
    except AlreadyClaimed:
        yield True
        return
    try:
        with alone(settings, (server,)):
            yield False
    finally:
        claim.release()


def _forget_postgres(settings: Config, found: Endpoint, runs: bool) -> list[str]:
    import asyncpg

    from pks.edges.postgres.connection import connect
    from pks.edges.postgres.refill import forget

    async def run() -> dict[str, int]:
        connection = await connect(found, role="")
        try:
            return await forget(connection)
        finally:
            await connection.close()

    cursors = _done("postgres", run(), asyncpg.PostgresError, asyncpg.InterfaceError)
    return [f"postgres: {edge} was at event {sequence:,}, begins at 1 again" for edge, sequence in sorted(cursors.items())] or [
        "postgres: it had nothing"
    ]


def _forget_nats(settings: Config, found: Endpoint, runs: bool) -> list[str]:
    import nats.errors

    from pks.edges.nats.connection import open_connection
    from pks.edges.nats.origin import origin_of
    from pks.edges.nats.refill import Refill, ask, asked, forget
    from pks.segments.journal_view import JournalView
    from pks.topology import Paths

    view = JournalView(Paths(Path(settings.data_dir)).journal)
    if view.extent[1] < 1 or not int(view.records[1]["sequence"]):
        fail(f"there is no journal in {settings.data_dir}: its first event says which messages are its own")
    origin = origin_of(view.records[1])

    async def run() -> dict[str, int]:
        connection = await open_connection(found, "pks refill")
        stream = connection.stream
        try:
            await ask(stream, origin)
            work = None if runs else asyncio.create_task(forget(stream, origin, lambda: None))

            async def look() -> Refill:
                if work is not None and work.done():
                    await work
                return await asked(stream, origin) or Refill(False, {})

            await _watch(look, "bus", lambda refill: refill.is_done, lambda refill: f"{refill.steps:,} messages gone through")
            done = await look()
            return done.removed
        finally:
            await connection.close()

    removed = _done("nats", run(), nats.errors.Error)
    return [f"nats: removed of {origin}: {_counts(removed)}"] if any(removed.values()) else ["nats: it had nothing"]


def _counts(removed: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in removed.items())


def _forget_questdb(settings: Config, found: Endpoint, runs: bool) -> list[str]:
    import asyncpg

    from pks.edges.questdb.choice import choose, store_of

    store = store_of(choose(settings)._replace(place=found))

    async def run() -> int:
        await store.open()
        try:
            cursor = await store.cursor()
            await store.ask_refill()
            if not runs:
                await store.empty_if_asked()
            await _watch(store.is_refill_asked, "timeseries", lambda waits: not waits, lambda waits: "")
            return cursor
        finally:
            await store.close()

    cursor = _done(store.name, run(), asyncpg.PostgresError, asyncpg.InterfaceError)
    return [f"{store.name}: bo_positions had rows up to event {cursor:,}, begins at 1 again" if cursor else f"{store.name}: it had nothing"]


def _done(server: str, work: Coroutine[Any, Any, T], *errors: type[Exception]) -> T:
    """What `work` gives; a server that is not there or refuses (its library's `errors`) ends the command in one line."""
    expected: tuple[type[Exception], ...] = (OSError, TimeoutError, *errors)
    try:
        return asyncio.run(work)
    except expected as error:
        fail(f"{server}: {type(error).__name__}: {error}")


async def _watch(look: Callable[[], Awaitable[Any]], worker: str, is_over: Callable[[Any], bool], words: Callable[[Any], str]) -> None:
    """Until what was asked is done, with a line now and then; the one who writes does it, and may be down."""
    before, moved, said = None, time.monotonic(), time.monotonic()
    while not is_over(now := await look()):
        if now != before:
            before, moved = now, time.monotonic()
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            click.echo(f"{worker}: {words(now) or 'not begun yet'}", err=True)
        if time.monotonic() - moved > PATIENCE_SECONDS:
            fail(
                f"{worker} has done nothing of it for {PATIENCE_SECONDS:.0f} s; it stays asked for, and is done when its edge is up: "
                "see `pks status`"
            )
        await asyncio.sleep(LOOK_SECONDS)


FORGET: dict[str, Callable[[Config, Any, bool], list[str]]] = {
    "postgres": _forget_postgres,
    "nats": _forget_nats,
    "questdb": _forget_questdb,
}
"""How each server forgets; the lines that are said of it. runs: a system runs, whose edges are to do it where only they may."""
assert FORGET.keys() == HOLDS.keys(), "all that is offered"
