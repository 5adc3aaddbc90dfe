"""`pks user`: who may use the gateway, with which roles, and in which books."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from pks.base.config import Config
from pks.base.errors import PksError
from pks.cli.auth_store import ask, complete_users, note, said, settings, told_blocked
from pks.cli.group import EXIT_USAGE, fail, system_options
from pks.cli.parameters import complete_books

ROLES = ("viewer", "trader", "operations", "approver", "admin")
ALL_BOOKS = "*"


@click.group()
def user() -> None:
    """Users of the gateway. A viewer reads, a trader books and corrects too, operations keeps reference data and dead letters as well, an
    approver lets trades go on that wait for a second person, an admin does everything in every book.
    """


NAME = click.argument("name", shell_complete=complete_users)
ROLE = click.option("--role", "roles", multiple=True, type=click.Choice(ROLES, case_sensitive=False), help="may be given again")
BOOK = click.option("--book", "books", multiple=True, shell_complete=complete_books, help="may be given again; '*' is every book")
PASSWORD = click.option("--password-stdin", is_flag=True, help="the password is the first line of standard input")


@user.command()
@system_options
@click.argument("name")
@ROLE
@BOOK
@PASSWORD
@click.option("--no-password", is_flag=True, help="no login: a program that uses `pks token issue`")
def add(
    name: str,
    roles: tuple[str, ...],
    books: tuple[str, ...],
    password_stdin: bool,
    no_password: bool,
    config: Path | None,
    data_dir: Path | None,
    instance: str | None,
) -> None:
    """Add the user NAME."""
    from pks.bff.passwords import hash_password
    from pks.edges.postgres import users

    if not re.fullmatch(users.NAME_PATTERN, name):
        fail(f"{name!r} is no name: 1 to 64 letters, digits and . _ @ - , a letter or digit first", EXIT_USAGE)
    if not roles:
        fail(f"give at least one --role: {', '.join(ROLES)}", EXIT_USAGE)
    if password_stdin and no_password:
        fail("give either --password-stdin or --no-password", EXIT_USAGE)
    system = settings(config, data_dir, instance)
    password = None if no_password else _password(password_stdin)
    hashed = None if password is None else hash_password(password)
    wanted = _books(system, books)

    async def put(db: Any) -> None:
        async with db.transaction():
            await users.add(db, name, hashed, roles, wanted)
            await note(db, "USER_ADDED", name, roles=list(roles), books=list(books))

    ask(system, put)
    click.echo(f"user {name} is added")


@user.command("list")
@system_options
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
def list_users(as_json: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """List users with their roles and books."""
    from pks.edges.postgres import users

    found = ask(settings(config, data_dir, instance), users.find)
    if as_json:
        click.echo(json.dumps([_facts(one) for one in found], indent=1))
        return
    if not found:
        click.echo("no users; `pks user add NAME --role admin --password-stdin` adds the first")
        return
    click.echo(f"{'name':24} {'state':10} {'sessions':>8} {'last login':20} {'roles':28} books")
    for one in found:
        state = "disabled" if one.is_disabled else "locked" if one.locked_until else "ok"
        books = ALL_BOOKS if one.books is None or "admin" in one.roles else " ".join(one.books) or "-"
        click.echo(f"{one.name:24} {state:10} {one.sessions:>8} {said(one.login_at) or '-':20} {' '.join(one.roles) or '-':28} {books}")


@user.command()
@system_options
@NAME
@ROLE
@BOOK
@click.option("--add-book", "added", multiple=True, shell_complete=complete_books, help="one more book")
@click.option("--drop-book", "dropped", multiple=True, shell_complete=complete_books, help="one book less")
@click.option("--no-books", is_flag=True, help="take every book away")
@click.option("--enable", is_flag=True, help="undo `pks user disable`")
def change(
    name: str,
    roles: tuple[str, ...],
    books: tuple[str, ...],
    added: tuple[str, ...],
    dropped: tuple[str, ...],
    no_books: bool,
    enable: bool,
    config: Path | None,
    data_dir: Path | None,
    instance: str | None,
) -> None:
    """Change user NAME: --role and --book replace what there was. It counts at once, in running streams too."""
    from pks.edges.postgres import users

    if not (roles or books or added or dropped or no_books or enable):
        fail("nothing to change: give --role, --book, --add-book, --drop-book, --no-books or --enable", EXIT_USAGE)
    if (bool(books) + no_books + bool(added or dropped)) > 1:
        fail("give --book, or --add-book and --drop-book, or --no-books", EXIT_USAGE)
    system = settings(config, data_dir, instance)
    wanted = _books(system, books or added) if books or added else None
    all_books = ALL_BOOKS in books or ALL_BOOKS in added

    async def put(db: Any) -> None:
        async with db.transaction():
            changed: dict[str, Any] = {"is_disabled": False} if enable else {}
            if roles:
                changed["roles"] = roles
            if books or no_books or added or dropped:
                changed |= {"all_books": True} if all_books else {"books": await replaced(db)}
            await users.change(db, name, **changed)
            told = {key: list(value) if isinstance(value, tuple | set) else value for key, value in changed.items()}
            await note(db, "USER_CHANGED", name, **told)

    async def replaced(db: Any) -> tuple[str, ...]:
        if not (added or dropped):
            return tuple(wanted or ())
        known = await users.find(db, name)
        if not known:
            raise users.UserUnknown(name)
        had = known[0].books
        if had is None:
            fail(f"{name} has every book; give the ones that stay with --book")
        if missing := set(dropped) - set(had):
            fail(f"{name} has no grant for {', '.join(sorted(missing))}")
        return tuple(sorted(set(had) - set(dropped) | set(added)))

    ask(system, put)
    click.echo(f"user {name} is changed")


@user.command()
@system_options
@NAME
def disable(name: str, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Let user NAME in no more: every session ends now. What he did stays under his name, so a user is never deleted."""
    from pks.edges.postgres import users

    system = settings(config, data_dir, instance)

    async def put(db: Any) -> list[users.Blocked]:
        async with db.transaction():
            blocked = await users.change(db, name, is_disabled=True)
            await note(db, "USER_DISABLED", name)
        return blocked

    told_blocked(system, ask(system, put))
    click.echo(f"user {name} is disabled")


@user.command()
@system_options
@NAME
def unlock(name: str, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Let user NAME try again after too many wrong passwords."""
    from pks.edges.postgres import users

    async def put(db: Any) -> None:
        async with db.transaction():
            await users.unlock(db, name)
            await note(db, "USER_UNLOCKED", name)

    ask(settings(config, data_dir, instance), put)
    click.echo(f"user {name} is unlocked")


@user.command("password")
@system_options
@NAME
@PASSWORD
def set_password(name: str, password_stdin: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Give user NAME another password; every session ends and a lock is taken off."""
    from pks.bff.passwords import hash_password
    from pks.edges.postgres import users

    system = settings(config, data_dir, instance)
    hashed = hash_password(_password(password_stdin))

    async def put(db: Any) -> list[users.Blocked]:
        async with db.transaction():
            blocked = await users.set_password(db, name, hashed)
            await note(db, "PASSWORD_CHANGED", name)
        return blocked

    told_blocked(system, ask(system, put))
    click.echo(f"user {name} has another password")


@user.command()
@system_options
@click.argument("name", required=False, shell_complete=complete_users)
@click.option("--all", "ended", is_flag=True, help="those that have ended too")
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
def sessions(name: str | None, ended: bool, as_json: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """List sessions of user NAME, or of all; `pks token revoke --session` ends one."""
    from pks.edges.postgres import users

    found = ask(settings(config, data_dir, instance), lambda db: users.sessions(db, name, ended=ended))
    if as_json:
        click.echo(json.dumps([_session_facts(one) for one in found], indent=1))
        return
    if not found:
        click.echo("no sessions")
        return
    click.echo(f"{'session':32} {'user':24} {'origin':7} {'used':20} {'until':20} from")
    for one in found:
        end = f"{one.reason} " if one.revoked_at else ""
        click.echo(
            f"{one.id:32} {one.user:24} {one.origin:7} {said(one.used_at):20} {end + str(said(one.expires_at)):20} {one.address or '-'}"
        )


def _password(from_stdin: bool) -> str:
    """From standard input, else asked for twice where somebody types."""
    from pks.bff.passwords import PASSWORD_CHARACTERS_ADVISED, PASSWORD_CHARACTERS_MAX

    if from_stdin:
        password = sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        fail("give --password-stdin and the password on standard input: as an argument others would see it", EXIT_USAGE)
    if not 0 < len(password) <= PASSWORD_CHARACTERS_MAX:
        fail(f"a password has 1 to {PASSWORD_CHARACTERS_MAX} characters", EXIT_USAGE)
    if len(password) < PASSWORD_CHARACTERS_ADVISED:
        click.echo(f"pks: the password is short: take {PASSWORD_CHARACTERS_ADVISED} characters or more", err=True)
    return password


def _books(system: Config, books: tuple[str, ...]) -> list[str] | None:
    """Codes to be granted, None for every book. One that the running system does not know is said, and granted: it may come later."""
    if ALL_BOOKS in books:
        if len(books) > 1:
            fail("--book '*' is every book: give no other one", EXIT_USAGE)
        return None
    for book in books:
        if not 0 < len(book) <= 64:
            fail(f"{book!r} is no book", EXIT_USAGE)
    known = _known_books(system)
    if known is not None and (unknown := sorted(set(books) - known)):
        click.echo(f"pks: the running system has no book {', '.join(unknown)}; the grant counts when it has", err=True)
    return sorted(set(books))


def _known_books(system: Config) -> set[str] | None:
    """Books of the running system; None where none runs that could be asked."""
    from pks.client import attach
    from pks.layouts.codes import Subject
    from pks.running import find_running

    try:
        with attach(find_running(Path(system.data_dir)).instance) as host:
            return set(host.names.codes(Subject.BOOK))
    except PksError:
        return None


def _facts(one: Any) -> dict[str, Any]:
    return {
        "name": one.name, "roles": list(one.roles), "books": None if one.books is None else list(one.books), "is_disabled": one.is_disabled,
        "has_password": one.has_password, "failures": one.failures, "locked_until": said(one.locked_until), "made_at": said(one.made_at),
        "password_at": said(one.password_at), "login_at": said(one.login_at), "sessions": one.sessions,
    }  # fmt: skip


def _session_facts(one: Any) -> dict[str, Any]:
    return {
        "session": one.id, "user": one.user, "origin": one.origin, "address": one.address, "made_at": said(one.made_at),
        "used_at": said(one.used_at), "expires_at": said(one.expires_at), "revoked_at": said(one.revoked_at), "reason": one.reason,
    }  # fmt: skip
