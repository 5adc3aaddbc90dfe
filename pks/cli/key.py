"""`pks key`: the keys by which access tokens are signed. Works on the files of the data directory, whether the system runs or not."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pks.base.errors import PksError
from pks.cli.auth_store import settings
from pks.cli.group import quiet_config, system_options


@click.group()
def key() -> None:
    """Keys of access tokens: one signs, the older ones are good until their last token has expired."""


def complete_keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Ids of keys for the shell."""
    given = ctx.params
    try:
        return [one.kid for one, _ in _ring(quiet_config(given.get("config"), given.get("data_dir"), given.get("instance"))).keys()]
    except PksError:
        return []  # who types is not to be told of errors


@key.command("list")
@system_options
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
def list_keys(as_json: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """List keys, the newest first."""
    found = _ring(settings(config, data_dir, instance)).keys()
    if as_json:
        click.echo(
            json.dumps(
                [
                    {"kid": one.kid, "signs": signs, "made_at": _said(one.made_at), "expires_at": _said(one.expires_at)}
                    for one, signs in found
                ],
                indent=1,
            )
        )
        return
    if not found:
        click.echo("no keys yet: the gateway makes the first when it starts")
        return
    for one, signs in found:
        state = "signs" if signs else f"verifies until {_said(one.expires_at)}"
        click.echo(f"{one.kid}  made {_said(one.made_at)}  {state}")


@key.command()
@system_options
def rotate(config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Sign with a new key from now on. Nobody is logged out: the one before is good until its last token has expired."""
    click.echo(f"key {_ring(settings(config, data_dir, instance)).rotate()} signs from now on")


@key.command()
@system_options
@click.argument("kid", shell_complete=complete_keys)
def drop(kid: str, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Refuse every token that key KID has signed, at once; its users refresh or log in again. `pks key rotate` comes first."""
    _ring(settings(config, data_dir, instance)).drop(kid)
    click.echo(f"key {kid} is dropped")


def _ring(system: Any) -> Any:
    from pks.bff.keys import KeyRing

    return KeyRing(Path(system.data_dir))


def _said(seconds: float) -> str | None:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}" if seconds else None
