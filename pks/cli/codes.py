"""`pks codes`: the reply codes, as files, screens and interfaces show them."""

from __future__ import annotations

import json

import click

from pks.base.errors import MEANINGS


@click.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
def codes(as_json: bool) -> None:
    """The reply codes: number, name, who decides, whether sending the same again can help, meaning."""
    if as_json:
        rows = [
            {"code": int(code), "name": code.name, "decided_by": meaning.decided_by.value, "retry": meaning.retry, "text": meaning.text}
            for code, meaning in MEANINGS.items()
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    for code, meaning in MEANINGS.items():
        again = "retry" if meaning.retry else ""
        click.echo(f"{int(code):4}  {code.name:24} {meaning.decided_by.value:12} {again:6} {meaning.text}")
