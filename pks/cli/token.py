"""`pks token`: access tokens for scripts, made by who can read the keys and Postgres; and tokens revoked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pks.cli.auth_store import ask, complete_users, note, settings, told_blocked
from pks.cli.group import EXIT_USAGE, fail, system_options

MINUTES_MAX = 30 * 24 * 60
"""A script that runs longer gets another token."""


@click.group()
def token() -> None:
    """Access tokens of the gateway."""


@token.command()
@system_options
@click.argument("name", shell_complete=complete_users)
@click.option("--minutes", type=click.IntRange(1, MINUTES_MAX), help="how long it is good (default: as after a login)")
@click.option("--json", "as_json", is_flag=True, help="one JSON object with its ids")
def issue(name: str, minutes: int | None, as_json: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Print an access token of user NAME: curl -H "Authorization: Bearer $(pks token issue NAME)" ..."""
    from pks.bff.keys import KeyRing
    from pks.bff.tokens import Tokens, new_id
    from pks.edges.postgres import users

    system = settings(config, data_dir, instance)
    seconds = (minutes or system.gateway.access_minutes) * 60
    session, given = new_id(), users.AccessToken(new_id(), seconds)

    async def put(db: Any) -> None:
        async with db.transaction():
            known = await users.find(db, name)
            if known and known[0].is_disabled:
                fail(f"user {name} is disabled")
            await users.issue_session(db, session, name, given)
            await note(db, "TOKEN_ISSUED", name, session=session, seconds=seconds)

    ask(system, put)
    made = Tokens(KeyRing(Path(system.data_dir))).issue(name, session, given.jti, seconds)
    if as_json:
        click.echo(json.dumps({"access_token": made.text, "expires_in": seconds, "jti": made.jti, "session": session}))
    else:
        click.echo(made.text)


@token.command()
@system_options
@click.argument("name", required=False, shell_complete=complete_users)
@click.option("--jti", help="only the token of this id")
@click.option("--session", help="only this session: `pks user sessions` lists them")
def revoke(
    name: str | None, jti: str | None, session: str | None, config: Path | None, data_dir: Path | None, instance: str | None
) -> None:
    """Refuse tokens from now on: all of user NAME, or one, or those of one session."""
    from pks.edges.postgres import users

    if sum(one is not None for one in (name, jti, session)) != 1:
        fail("give either NAME, or --jti, or --session", EXIT_USAGE)
    system = settings(config, data_dir, instance)

    async def put(db: Any) -> list[users.Blocked]:
        async with db.transaction():
            if name is not None:
                blocked = await users.revoke_user(db, name, "revoked by command")
            elif jti is not None:
                blocked = found(await users.revoke_token(db, jti), f"there is no token {jti}")
            else:
                blocked = found(await users.revoke_session(db, str(session), "revoked by command"), f"there is no session {session}")
            await note(db, "TOKENS_REVOKED", name or str(jti or session), tokens=[one.jti for one in blocked])
        return blocked

    def found(blocked: list[users.Blocked] | None, otherwise: str) -> list[users.Blocked]:
        if blocked is None:
            fail(otherwise)
        return blocked

    blocked = ask(system, put)
    told_blocked(system, blocked)
    click.echo(f"{len(blocked)} token{'' if len(blocked) == 1 else 's'} that were still good are refused")
