"""`pks dlq`: dead letters: listed, looked at, fixed, injected again, discarded."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from pks.cli.group import EXIT_REFUSED, EXIT_USAGE, fail, quiet_config, system_options

T = TypeVar("T")

CLASSES = ("MALFORMED", "UNKNOWN_REF", "CONFLICT", "TRANSIENT", "POISON")
STATES = ("RECEIVED", "CLASSIFIED", "RETRYING", "REPLAYED", "QUARANTINED", "RESOLVED")
CONNECT_SECONDS = 5.0
WAIT_LOOK_SECONDS = 0.1


@click.group()
def dlq() -> None:
    """Dead letters: messages that no consumer could take, kept with their original bytes until somebody deals with them."""


@dlq.command("list")
@system_options
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES, case_sensitive=False), help="only these (default: all but RESOLVED)"
)
@click.option("--class", "kinds", multiple=True, type=click.Choice(CLASSES, case_sensitive=False), help="only these")
@click.option("--all", "with_resolved", is_flag=True, help="resolved ones too")
@click.option("--last", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="at most the newest N")
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
def list_letters(
    states: tuple[str, ...],
    kinds: tuple[str, ...],
    with_resolved: bool,
    last: int,
    as_json: bool,
    config: Path | None,
    data_dir: Path | None,
    instance: str | None,
) -> None:
    """List dead letters, the newest last."""
    from pks.edges.postgres import dead_letters

    wanted = tuple(states) or (dead_letters.STATES if with_resolved else dead_letters.OPEN_STATES)
    letters = _ask(config, data_dir, instance, lambda db: dead_letters.find(db, wanted, tuple(kinds) or CLASSES, last))
    if as_json:
        click.echo(json.dumps([_facts(letter) for letter in letters], indent=1))
        return
    if not letters:
        click.echo("no dead letters")
        return
    click.echo(f"{'id':>7} {'state':12} {'class':12} {'code':20} {'tries':>5} {'last':20} subject, reason")
    for one in letters:
        at = f"{one.last_at:%Y-%m-%dT%H:%M:%SZ}"
        click.echo(f"{one.id:>7} {one.state:12} {one.kind:12} {one.code:20} {one.attempts:>5} {at:20} {one.subject}: {_why(one)}")


@dlq.command()
@system_options
@click.argument("number", type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@click.option("--raw", is_flag=True, help="the original bytes alone, to standard output")
def show(number: int, as_json: bool, raw: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Show dead letter NUMBER with its headers and what it says."""
    from pks.edges.postgres import dead_letters

    letter = _ask(config, data_dir, instance, lambda db: dead_letters.show(db, number))
    if raw:
        sys.stdout.buffer.write(letter.payload)
        return
    facts = _facts(letter) | {"message": _said(letter.subject, letter.payload)}
    if letter.fixed is not None:
        facts["fixed_message"] = _said(letter.subject, letter.fixed)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        if value not in (None, "", {}):
            click.echo(f"{name:16} {json.dumps(value, indent=1) if isinstance(value, dict) else value}")


@dlq.command()
@system_options
@click.argument("number", type=click.IntRange(1))
@click.option(
    "--set", "changes", multiple=True, metavar="FIELD=VALUE", help="a field of the message: instrument=SBER, trades.0.price=101.5"
)
@click.option("--payload", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="bytes to send in its place")
def fix(
    number: int, changes: tuple[str, ...], payload: Path | None, config: Path | None, data_dir: Path | None, instance: str | None
) -> None:
    """Let letter NUMBER be sent with other content; its original bytes stay. `pks dlq inject` then sends it."""
    from pks.edges.postgres import dead_letters

    if bool(changes) == (payload is not None):
        fail("give either --set FIELD=VALUE or --payload FILE", EXIT_USAGE)

    async def mend(db: Any) -> bytes:
        letter = await dead_letters.show(db, number)
        made = payload.read_bytes() if payload is not None else _changed(letter.subject, letter.body, changes)
        await dead_letters.fix(db, number, made)
        return made

    made = _ask(config, data_dir, instance, mend)
    click.echo(f"letter {number} will be sent with {len(made)} bytes; `pks dlq inject {number}` sends it")


@dlq.command()
@system_options
@click.argument("numbers", nargs=-1, required=True, type=click.IntRange(1))
@click.option("--wait", type=click.FloatRange(0, 3600), default=15.0, show_default=True, help="seconds to wait for what becomes of them")
def inject(numbers: tuple[int, ...], wait: float, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Send letters NUMBERS to their subjects again; idempotency keys see to it that nothing is booked twice. Exit 1 if one dies again."""
    from pks.edges.postgres import dead_letters

    async def send(db: Any) -> dict[int, Any]:
        for number in numbers:
            await dead_letters.inject(db, number)
        deadline = time.monotonic() + wait
        while True:
            found = {number: await dead_letters.show(db, number) for number in numbers}
            if all(one.state in ("RESOLVED", "QUARANTINED") for one in found.values()) or time.monotonic() >= deadline:
                return found
            await asyncio.sleep(WAIT_LOOK_SECONDS)

    died = False
    for number, letter in _ask(config, data_dir, instance, send).items():
        died |= letter.state == "QUARANTINED"
        click.echo(f"letter {number}: {letter.state}: {letter.resolution or _why(letter)}")
    if died:
        sys.exit(EXIT_REFUSED)


@dlq.command()
@system_options
@click.argument("number", type=click.IntRange(1))
@click.option("--reason", required=True, help="why it need not be sent again; kept with it")
def discard(number: int, reason: str, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Be done with letter NUMBER without sending it again."""
    from pks.edges.postgres import dead_letters

    _ask(config, data_dir, instance, lambda db: dead_letters.discard(db, number, reason))
    click.echo(f"letter {number} is discarded")


def _ask(config: Path | None, data_dir: Path | None, instance: str | None, question: Callable[[Any], Awaitable[T]]) -> T:
    """The answer of Postgres, or one clear line."""
    import asyncpg

    from pks.servers.endpoints import endpoint

    found = endpoint(quiet_config(config, data_dir, instance), "postgres")
    if found is None:
        fail("dead letters are kept in Postgres, and this system has none (edges are off, or it has never started)")

    async def asked() -> T:
        db = await asyncpg.connect(found.url, timeout=CONNECT_SECONDS, command_timeout=60)
        try:
            return await question(db)
        finally:
            await db.close(timeout=1)

    try:
        return asyncio.run(asked())
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        _unreachable(found.shown, error)


def _unreachable(shown: str, error: Exception) -> NoReturn:
    fail(f"Postgres at {shown}: {type(error).__name__}: {error}")


def _why(letter: Any) -> str:
    at = f" ({letter.field} {letter.value})".rstrip() if letter.field else ""
    return f"{letter.reason}{at}" or "-"


def _facts(letter: Any) -> dict[str, Any]:
    """A letter as JSON has it, without its bytes."""

    def said(at: Any) -> str | None:
        return None if at is None else f"{at:%Y-%m-%dT%H:%M:%S.%fZ}"

    return {
        "id": letter.id, "state": letter.state, "class": letter.kind, "code": letter.code, "field": letter.field, "value": letter.value,
        "reason": letter.reason, "subject": letter.subject, "stream": letter.stream, "stream_sequence": letter.stream_sequence,
        "consumer": letter.consumer, "headers": letter.headers, "bytes": len(letter.payload), "is_fixed": letter.fixed is not None,
        "attempts": letter.attempts, "first_at": said(letter.first_at), "last_at": said(letter.last_at), "next_at": said(letter.next_at),
        "resolution": letter.resolution, "resolved_at": said(letter.resolved_at),
    }  # fmt: skip


def _said(subject: str, payload: bytes) -> Any:
    """What bytes say: the message of a subject of ours, else text, else hex."""
    from pks.edges.nats.words import to_words

    words = to_words(subject, payload)
    if words is not None:
        return words
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload.hex(" ", 4)


def _changed(subject: str, payload: bytes, changes: tuple[str, ...]) -> bytes:
    from pks.edges.nats.words import change, from_words, to_words

    words = to_words(subject, payload)
    if words is None:
        fail(f"what came on {subject} is no message that we know: give its bytes with --payload FILE")
    try:
        for text in changes:
            path, equals, value = text.partition("=")
            if not equals:
                raise ValueError(f"{text}: FIELD=VALUE is expected")
            change(words, path.strip(), value)
        return from_words(subject, words)
    except ValueError as error:
        fail(str(error))
