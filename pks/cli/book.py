"""`pks book`: a file of trades through the running system, one reply a row."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from pks.cli.group import EXIT_REFUSED, quiet_config, system_options
from pks.running import find_running

COLUMNS_BYTES_MIN = 1 << 20
"""A smaller file is read row by row: the compiled reader costs more to load than it saves."""

REFUSED_FIELDS = ("code", "field", "value", "reason")


@click.command()
@system_options
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="say what would happen and book nothing")
@click.option("--sort", is_flag=True, help="book in the order of trade_time; rows of one time as in the file")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a row")
@click.option("--format", "form", type=click.Choice(["csv", "json", "ndjson"]), help="default: by the file's name and content")
@click.option("--instrument", default="", help="what a file of public prints trades")
@click.option("--quote-currency", default="", help="currency of the fee of public prints")
@click.option("--books", default="", help="books of a venue's own file, comma-separated: a print goes to trade id modulo their number")
@click.option("--account", default="", help="account of a venue's own file")
@click.option("--source", default="", help="source of a venue's own file (default: its name)")
def book(
    file: Path,
    dry_run: bool,
    sort: bool,
    as_json: bool,
    form: str | None,
    instrument: str,
    quote_currency: str,
    books: str,
    account: str,
    source: str,
    config: Path | None,
    data_dir: Path | None,
    instance: str | None,
) -> None:
    """Book the trades of FILE (CSV, JSON or NDJSON; the columns are in the documentation's "Trade input").

    \b
    pks book trades.csv
    pks book allocations.csv
    pks book fills.json --books CR-PERP --account HL-AE --sort
    pks book prints.csv --instrument XRPETH --quote-currency ETH --books CR-PERP

    Every row gets an answer: ACCEPTED at its sequence, DUPLICATE of the first one, or REFUSED with code, field, value and reason; refused
    rows also go to FILE's name with .refused.csv. Exit 1 if any row was refused.
    """
    from pks.edges.files.forms import Options
    from pks.edges.files.trades import ignored_columns

    options = Options(
        instrument=instrument,
        quote_currency=quote_currency,
        books=tuple(filter(None, books.split(","))),
        account=account,
        source=source,
    )
    settings = quiet_config(config, data_dir, instance)
    if unknown := ignored_columns(file, form, options):
        click.echo(f"{file.name}: no field of a trade, so left out: {', '.join(map(repr, unknown))}", err=True)
    report = Report(file, as_json)
    if dry_run:
        from pks.cli.tables import progress
        from pks.past.journal import open_past
        from pks.past.rehearsal import Rehearsal, rehearse

        past = open_past(settings, progress)
        for outcome in rehearse(Rehearsal(past, past.fold(past.last)), rows_of(file, form, options, sort)):
            report.count([outcome])
    else:
        running = find_running(Path(settings.data_dir))
        _book_live(running.instance, Path(settings.data_dir), file, form, options, sort, report)
    report.close(dry_run)
    if report.counts["REFUSED"]:
        sys.exit(EXIT_REFUSED)


def rows_of(file: Path, form: str | None, options: Any, sort: bool) -> Iterable[Any]:
    """The rows of the file as text, sorted if asked."""
    from pks.edges.files.trades import read_trades, sort_rows

    rows = read_trades(file, form, options)
    return sort_rows(rows) if sort else rows


def _book_live(instance: str, data_dir: Path, file: Path, form: str | None, options: Any, sort: bool, report: Report) -> None:
    from pks.client.bulk import FileBooker
    from pks.client.producer import Producer, read_catalogue
    from pks.edges.files.columns import open_columns

    with Producer.open(instance, data_dir) as producer:
        booker = FileBooker(producer, read_catalogue(producer.host, data_dir), accepted=report.as_json, say=report.say)
        reader = None
        if not sort and form in (None, "csv") and file.stat().st_size >= COLUMNS_BYTES_MIN:
            reader = open_columns(file, options)
        if reader is not None:
            with reader, report.progress(reader.bytes_count, f"booking {file.name}") as bar:
                for done in booker.columns(reader):
                    bar.update(done - bar.pos)
        else:
            booker.rows(report.watched(rows_of(file, form, options, sort)))
        booker.settle()
        report.counts = booker.counts


class Report:
    """What the user sees: a line a row that was not simply accepted (or JSON a row), the refused rows' file, and a summary."""

    LINES_MAX = 50

    def __init__(self, file: Path, as_json: bool) -> None:
        self.file, self.as_json = file, as_json
        self.counts = {"ACCEPTED": 0, "DUPLICATE": 0, "REFUSED": 0}
        self.refused_path = file.with_name(f"{file.stem}.refused.csv")
        self.refused_path.unlink(missing_ok=True)
        self._refused: Any = None
        self._writer: Any = None
        self._shown = 0

    def say(self, outcomes: list[Any]) -> None:
        """Show and keep what became of some rows."""
        for outcome in outcomes:
            if self.as_json:
                click.echo(json.dumps(outcome._asdict()))
            if outcome.status == "REFUSED":
                self._keep(outcome)
                if not self.as_json:
                    self._show(outcome)

    def count(self, outcomes: list[Any]) -> None:
        """The same for outcomes that nobody else counts."""
        for outcome in outcomes:
            self.counts[outcome.status] += 1
        self.say(outcomes)

    def _show(self, outcome: Any) -> None:
        self._shown += 1
        if self._shown <= self.LINES_MAX:
            what = f"{outcome.field} = {outcome.value!r}: " if outcome.field else ""
            click.echo(f"line {outcome.line}: {outcome.trade_id or '-'}: {outcome.code}: {what}{outcome.reason}", err=True)
        elif self._shown == self.LINES_MAX + 1:
            click.echo(f"more refused rows are in {self.refused_path}", err=True)

    def _keep(self, outcome: Any) -> None:
        if self._writer is None:
            self._refused = self.refused_path.open("w", newline="", encoding="utf-8")
            self._writer = csv.writer(self._refused)
            self._writer.writerow(("line", "trade_id", *REFUSED_FIELDS))
        self._writer.writerow((outcome.line, outcome.trade_id, outcome.code, outcome.field, outcome.value, outcome.reason))

    def progress(self, length: int, label: str) -> Any:
        """A progress bar on stderr, where that is a terminal."""
        return click.progressbar(length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty())

    def watched(self, rows: Iterable[Any]) -> Iterator[Any]:
        """The rows, with a count of them on a terminal."""
        shown = sys.stderr.isatty() and not self.as_json
        for number, row in enumerate(rows, start=1):
            yield row
            if shown and number % 1000 == 0:
                click.echo(f"\r{self.file.name}: {number:,} rows", nl=False, err=True)
        if shown:
            click.echo("\r\033[K", nl=False, err=True)

    def close(self, dry_run: bool) -> None:
        """Say how it ended."""
        if self._refused is not None:
            self._refused.close()
        if not self.as_json:
            counts = self.counts
            would = "would be " if dry_run else ""
            accepted, duplicates, refused = (f"{counts[name]:,}" for name in ("ACCEPTED", "DUPLICATE", "REFUSED"))
            click.echo(f"{self.file.name}: {would}accepted {accepted}, duplicates {duplicates}, refused {refused}")
            if counts["REFUSED"]:
                click.echo(f"refused rows: {self.refused_path}", err=True)
