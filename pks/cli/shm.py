"""`pks shm`: the segments of an instance, and what is in one."""

from __future__ import annotations

import json
from pathlib import Path

import click

from pks.base.errors import PksError
from pks.cli.group import fail, quiet_config, system_options
from pks.cli.shm_read import dump, fields, header


@click.group()
def shm() -> None:
    """Segments of shared memory."""


@shm.command("ls")
@system_options
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
def list_all(config: Path | None, data_dir: Path | None, instance: str | None, as_json: bool) -> None:
    """List the segments of an instance: layout, version, hash, slots or records, state, size."""
    from pks.segments.shm import list_segments

    named = quiet_config(config, data_dir, instance).instance
    found = list_segments(named)
    rows = [
        {
            "name": facts.name,
            "layout": facts.layout_name,
            "version": facts.layout_version,
            "hash": f"{facts.layout_hash:016x}",
            "slots": _slots_of(facts.name),
            "state": facts.state.name,
            "bytes": facts.header_bytes + facts.body_bytes,
        }
        for facts in found
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        fail(f"no segments of {f'instance {named!r}' if named else 'the instance without a name'} on this host")
    for row in rows:
        slots = "-" if row["slots"] is None else row["slots"]
        click.echo(f"{row['name']:36} {row['layout']:10} v{row['version']} {row['hash']} {slots:>8} {row['state']:8} {row['bytes']:>12}")


def _slots_of(name: str) -> int | None:
    """Rows of a table over all ranges, records of a ring; None for the control segment, and for one that is closed or gone."""
    from pks.segments.shm import Segment

    try:
        with Segment.open(name, creating=True) as segment:
            counts, layout = segment.counts, segment.facts().layout_name
    except PksError:
        return None  # closed, or removed since the listing: its size is nobody's business any more
    if layout == "control":
        return None
    return counts[0] * counts[1] if layout in ("position", "account", "refdata") else counts[0]


for _command in (dump, fields, header):
    shm.add_command(_command)
