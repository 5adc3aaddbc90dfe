"""`pks shm`: the segments of an instance, and what is in one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pks.base.errors import PksError
from pks.cli.group import EXIT_USAGE, fail, quiet_config, system_options


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


@shm.command("dump")
@system_options
@click.argument("name")
@click.option("--index", type=int, default=0, help="shard or source, for channels that have several segments")
@click.option("--last", type=click.IntRange(1, 1 << 20), default=10, help="records of a ring")
def dump(config: Path | None, data_dir: Path | None, instance: str | None, name: str, index: int, last: int) -> None:
    """Print what is in channel NAME (positions, accounts, refdata, events, matches, ...) as JSON lines."""
    from pks.topology import CHANNELS, Host

    channels = {one.name: one for one in CHANNELS if one.name != "control"}
    if name not in channels:
        fail(f"no channel {name!r}; there are {', '.join(channels)}", EXIT_USAGE)
    host = Host.open(quiet_config(config, data_dir, instance).instance)
    for record in _records(host, channels[name], index, last):
        click.echo(json.dumps(as_json_row(record), ensure_ascii=False))


def _records(host: Any, one: Any, index: int, last: int) -> Iterator[Any]:
    """The used rows of a table, or the last records of a ring."""
    from pks.segments.ring import Ring, RingReader
    from pks.topology import Intake, Kind

    segment = host.segment(one.name, index)
    if one.kind is Kind.SLOTS:
        table = getattr(host, one.name)
        yield from table.snapshot(table.rows())
        return
    if one.kind is Kind.INTAKE:
        ring = Intake(index, segment, segment.counts[0]).requests
    else:
        ring = Ring.attach(segment.body, one.label(index), one.layout.dtypes[0])
    reader = RingReader(ring, position=max(ring.oldest, ring.head - last))
    yield from reader.read(last)


def as_json_row(record: Any) -> dict[str, Any]:
    """A record's fields in Python's terms, without its reserve; texts as text, sub-arrays as lists."""
    row = {}
    for field in record.dtype.names:
        if not field.startswith("_"):
            value = record[field]
            row[field] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value.tolist()
    return row
