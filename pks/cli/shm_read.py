"""`pks shm dump|header|fields`: what is in a segment, raw; the C header of the layouts; the catalogue of their fields.

Reads segments only, also those of a system that hangs or starts, and says so. Part of the group in `pks.cli.shm`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pks.cli.group import EXIT_USAGE, fail, quiet_config, system_options

ROWS_MAX = 1 << 20


@click.command()
def header() -> None:
    """Print the C header of the layouts, include/pks.h: structs, and the protocol of slots."""
    from pks.layouts.cheader import render_header

    click.echo(render_header(), nl=False)


@click.command()
@click.option("--layout", metavar="L", help="of one layout only")
@click.option("--json", "as_json", is_flag=True, help="one JSON array")
def fields(layout: str | None, as_json: bool) -> None:
    """Print every field of shared memory and journal: tier, place, type, unit, meaning, source, since and until."""
    from pks.layouts.fields import LAYOUTS, TIERS, described, fields_of

    names = [one.name for one in LAYOUTS]
    if layout is not None and layout not in names:
        fail(f"no layout {layout!r}; there are {', '.join(names)}", EXIT_USAGE)
    chosen = [one for one in LAYOUTS if layout in (None, one.name)]
    if as_json:
        click.echo(json.dumps([described(field) for one in chosen for field in fields_of(one.name)], indent=1))
        return
    for number, one in enumerate(chosen):
        click.echo(
            ("\n" if number else "") + f"{one.name} v{one.version}, {one.dtype.itemsize} bytes: {one.meaning} ({one.segment or 'files'})"
        )
        for field in fields_of(one.name):
            place, life = described(field), f"since {field.since}" + (f" until {field.until}" if field.until is not None else "")
            click.echo(
                f"  {place['offset_bytes']:4} {field.name:24} tier {field.tier}  {field.dtype:8} {field.unit:15} {life:8} "
                f"{field.meaning} [{field.source}]"
            )
    click.echo("\ntiers: " + "; ".join(f"{tier} {meaning}" for tier, meaning in TIERS.items()))


@click.command()
@system_options
@click.argument("segment")
@click.option(
    "--rows", "rows_max", type=click.IntRange(1, ROWS_MAX), default=10, show_default=True, help="rows of a table, last records of a ring"
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
def dump(config: Path | None, data_dir: Path | None, instance: str | None, segment: str, rows_max: int, as_json: bool) -> None:
    """Print what is in SEGMENT: a name of `pks shm ls`, or a channel (positions, refdata, events, matches-0, intake-3, control)."""
    from pks.segments.shm import Segment

    named = quiet_config(config, data_dir, instance).instance
    with Segment.open(find_segment(segment, named), creating=True) as found:
        if not as_json:
            click.echo(_head(found))
        for part, number, record in _parts(found, rows_max):
            row = {"part": part, "row": number, **as_json_row(record)}
            click.echo(json.dumps(row, ensure_ascii=False) if as_json else _line(row))


def find_segment(text: str, instance: str) -> str:
    """The POSIX name of a segment that is named as in `pks shm ls`, without its instance, or by its channel."""
    from pks.segments.errors import SegmentMissing
    from pks.segments.shm import list_segments, segment_name

    name = text.removeprefix("/")
    base, dot, suffix = name.partition(".")
    wanted = suffix if dot else instance
    there = [facts.name for facts in list_segments(wanted)]
    for candidate in (base, _base_of_label(base)):
        if candidate and segment_name(candidate, wanted) in there:
            return segment_name(candidate, wanted)
    if not there and _base_of_label(base):
        raise SegmentMissing(segment_name(_base_of_label(base), wanted))
    labels = ", ".join(one.removeprefix("/").partition(".")[0] for one in there)
    raise click.UsageError(f"no segment {text!r}; there {'are ' + labels if labels else 'is none: the system is not running'}")


def _base_of_label(label: str) -> str:
    """pks-matches-v1-0 of matches-0; "" for what is no channel."""
    from pks.topology import CHANNELS, Per

    channel, dash, number = label.rpartition("-")
    for one in CHANNELS:
        if one.name == label:
            return one.segment_base(0)
        if one.name == channel and one.per is not Per.SYSTEM and dash and number.isdigit():
            return one.segment_base(int(number))
    return ""


def _head(segment: Any) -> str:
    facts = segment.facts()
    counts = [count for count in segment.counts if count]
    age = (time.monotonic_ns() - facts.heartbeat_ns) / 1e9
    return (
        f"{facts.name}: {facts.layout_name} v{facts.layout_version} {facts.layout_hash:016x}, {facts.state.name}, "
        f"last heartbeat {age:.3f} s ago, epoch {facts.epoch}, made by {facts.creator_pid}, counts {counts}"
    )


def _parts(segment: Any, rows_max: int) -> Iterator[tuple[str, int, Any]]:
    """(part, row number or sequence, record) of what the segment holds."""
    from pks.segments.counters import Control
    from pks.topology import CHANNELS, Intake, Kind

    layout = segment.facts().layout_name
    one = next((one for one in CHANNELS if one.layout.name == layout), None)
    if one is None or one.layout.hash != segment.facts().layout_hash:
        fail(f"{segment.name} has the layout {layout!r} of another version; `pks shm ls` says which")
    if one.kind is Kind.SLOTS:
        yield from _table_rows(_table(segment, one), rows_max)
    elif one.kind is Kind.INTAKE:
        intake = Intake(0, segment, segment.counts[0])
        yield from _ring_rows("requests", intake.requests, rows_max)
        yield from _ring_rows("replies", intake.replies, rows_max)
    elif one.kind is Kind.CONTROL:
        control = Control(segment, segment.counts[0])
        for part, table in (("report", control.reports), ("watch", control.watches)):
            for owner, record in enumerate(_records(table, range(control.owners))[:rows_max]):
                yield part, owner, record
    else:
        from pks.segments.ring import Ring

        yield from _ring_rows(layout, Ring.attach(segment.body, segment.name, one.layout.dtypes[0]), rows_max)


def _table(segment: Any, one: Any) -> Any:
    from pks.segments.slots import SlotTable

    return SlotTable(segment, one.name, one.layout.dtypes[0], *segment.counts[:2])


def _table_rows(table: Any, rows_max: int) -> Iterator[tuple[str, int, Any]]:
    rows = table.rows()[:rows_max]
    for row, record in zip(rows.tolist(), _records(table, rows), strict=True):
        yield table.name, row, record


def _records(table: Any, rows: Any) -> Any:
    """Stable copies of rows, whether the system lives or not; a row that would not hold still has the version -1."""
    import numpy as np

    from pks.segments.slots import TRIES_MAX, slots_snapshot

    wanted = np.asarray(rows, np.int64)
    target, versions = np.zeros((len(wanted), table.words), np.int64), np.zeros(len(wanted), np.int64)
    slots_snapshot(table.slots, wanted, target, versions, TRIES_MAX)
    target[versions < 0, 0] = -1
    return target.reshape(-1).view(table.dtype)


def _ring_rows(part: str, ring: Any, rows_max: int) -> Iterator[tuple[str, int, Any]]:
    from pks.segments.ring import RingReader

    first = max(ring.oldest, ring.head - rows_max)
    for sequence, record in enumerate(RingReader(ring, position=first).read(rows_max), start=first + 1):
        yield part, sequence, record


def as_json_row(record: Any) -> dict[str, Any]:
    """A record's fields in Python's terms, without its reserve; texts as text, sub-arrays as lists."""
    row = {}
    for name in record.dtype.names:
        if not name.startswith("_"):
            value = record[name]
            row[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value.tolist()
    return row


def _line(row: dict[str, Any]) -> str:
    """A record on one line, without the fields that are zero or empty."""
    shown = " ".join(
        f"{name}={value}" for name, value in row.items() if name not in ("part", "row") and value not in (0, "") and value != [0] * 4
    )
    return f"{row['part']} {row['row']}: {shown}"
