"""`pks ref`: reference data in, class defaults, and what is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from pks.cli.group import EXIT_REFUSED, quiet_config, system_options
from pks.running import find_running

SUBJECTS = ("currency", "entity", "book", "account", "instrument", "source", "class_method", "route")


@click.group()
def ref() -> None:
    """Reference data: entities, books, accounts, instruments, routing rules."""


@ref.command()
@system_options
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def load(folder: Path, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Load the desk folder FOLDER into the running system: definitions, then opening lots.

    \b
    pks ref load ./desk
    A folder may have any of currencies.csv, entities.csv, books.csv, accounts.csv, instruments.csv, sources.csv,
    routes.csv, opening_lots.csv.
    """
    from pks.base.errors import CODES, Code
    from pks.client.bulk import FileBooker
    from pks.client.producer import Producer, read_catalogue
    from pks.edges.files.desk import read_desk
    from pks.engine.instruments.definitions import subject_of
    from pks.engine.instruments.events import definition_event

    settings = quiet_config(config, data_dir, instance)
    running = find_running(Path(settings.data_dir))
    refused = 0
    with Producer.open(running.instance, running.data_dir) as producer:
        desk = read_desk(folder, read_catalogue(producer.host, running.data_dir))
        for told in (*desk.errors, *desk.warnings):
            click.echo(str(told), err=True)
        refused += len(desk.errors)
        answers = producer.book(definition_event(definition) for definition in desk.definitions)
        for definition, answer in zip(desk.definitions, answers, strict=True):
            code = Code(int(answer["code"]))
            if code not in (Code.ACCEPTED, Code.DUPLICATE):
                refused += 1
                click.echo(f"{subject_of(definition).name.lower()} {definition.code}: {code.name}: {CODES[code]}", err=True)
        told_lots: list[Any] = []
        booker = FileBooker(producer, read_catalogue(producer.host, running.data_dir), accepted=False, say=told_lots.extend)
        booker.rows(desk.opening_lots)
        booker.settle()
        for outcome in told_lots:
            if outcome.status == "REFUSED":
                click.echo(
                    f"opening lot {outcome.trade_id}: {outcome.code}: {outcome.field} = {outcome.value!r}: {outcome.reason}", err=True
                )
        refused += booker.counts["REFUSED"]
    lots = booker.counts
    click.echo(
        f"{folder}: {len(desk.definitions)} definitions new or changed; opening lots: {lots['ACCEPTED']} booked, "
        f"{lots['DUPLICATE']} known before" + (f"; {refused} refused" if refused else "")
    )
    if refused:
        sys.exit(EXIT_REFUSED)


@ref.command()
@click.option("--json", "as_json", is_flag=True, help="JSON")
def classes(as_json: bool) -> None:
    """Defaults by asset class: scales, what prices may be, quote factor."""
    from pks.engine.instruments.class_defaults import CLASSES

    rows: list[dict[str, Any]] = [
        {"asset_class": name, **{key: _plain(value) for key, value in one._asdict().items()}} for name, one in CLASSES.items()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    columns = list(rows[0])
    widths = [max(len(column), *(len(str(row[column])) for row in rows)) for column in columns]
    for row in ({column: column for column in columns}, *rows):
        click.echo("  ".join(str(row[column]).ljust(width) for column, width in zip(columns, widths, strict=True)).rstrip())


def _plain(value: object) -> object:
    return value if isinstance(value, bool | int | str) else str(value)


@ref.command()
@system_options
@click.argument("subject", type=click.Choice(SUBJECTS), required=False)
@click.argument("code", required=False)
@click.option("--json", "as_json", is_flag=True, help="one JSON object a definition")
def show(subject: str | None, code: str | None, as_json: bool, config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """What is known: counts by subject, the rows of SUBJECT, or the whole definition of CODE."""
    from pks.client.producer import read_catalogue
    from pks.engine.instruments.definitions import encode
    from pks.layouts.codes import Subject
    from pks.topology import Host

    settings = quiet_config(config, data_dir, instance)
    running = find_running(Path(settings.data_dir))
    catalogue = read_catalogue(Host.open(running.instance, running.data_dir), running.data_dir)
    if subject is None:
        for one in Subject:
            click.echo(f"{one.name.lower():<13} {len(catalogue.ids(one)):>7}")
        return
    chosen = Subject[subject.upper()]
    found = [(row_id, definition) for row_id, definition in catalogue.rows(chosen) if code in (None, definition.code)]
    if code is not None and not found:
        raise click.ClickException(f"no {subject} {code!r}")
    for row_id, definition in found:
        fields = json.loads(encode(definition))
        if as_json:
            click.echo(json.dumps({"id": row_id, **fields}))
        elif code is None:
            about = fields.get("name") or fields.get("symbol") or fields.get("entity") or ""
            click.echo(f"{row_id:>6}  {definition.code:<28} {about}")
        else:
            click.echo("\n".join(f"{key:<20} {value}" for key, value in {"id": row_id, **fields}.items()))
