"""`pks lots`: the open lots of one position, now or at any time and sequence, folded from the journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pks.cli.group import quiet_config, system_options
from pks.cli.parameters import END, SEQUENCE, complete_books, complete_instruments
from pks.cli.tables import PEOPLE_PLACES, Column, Output, output_options, progress, rounded

if TYPE_CHECKING:
    from pks.engine.instruments.definitions import Instrument

COLUMNS = (
    Column("lot_id", title="lot"),
    Column("date", "date"),
    Column("quantity", "decimal"),
    Column("price", "money"),
    Column("cost", "money"),
)


@click.command()
@system_options
@click.argument("book", shell_complete=complete_books)
@click.argument("instrument", shell_complete=complete_instruments)
@click.option("--as-of", type=END, metavar="TIME", help="only trades up to this time: RFC 3339, or a date for the end of its day in UTC")
@click.option("--known-at", type=SEQUENCE, metavar="SEQ", help="only events up to this sequence: what was known then")
@output_options
def lots(
    book: str,
    instrument: str,
    as_of: int | None,
    known_at: int | None,
    output: Output,
    config: Path | None,
    data_dir: Path | None,
    instance: str | None,
) -> None:
    """Show the open lots of BOOK in INSTRUMENT (by any of its names), oldest first.

    \b
    pks lots RU-EQ SBER
    pks lots RU-EQ SBER.MOEX --as-of 2025-03-14T15:00:00Z --json

    Read from the journal up to its last durable event, with and without a running system. Quantities of short lots are negative, cost has
    multiplier and quote factor. A lot has the lot_id that its trade gave, else the id of the trade, with /2 where that first closed the
    other side.
    """
    from pks.past.journal import open_past
    from pks.past.lots import lot_row
    from pks.past.moment import moment
    from pks.past.names import CatalogueNames

    past = open_past(quiet_config(config, data_dir, instance), progress)
    state = moment(past, as_of, past.upto(known_at))
    names = CatalogueNames(state.catalogue)
    book_id, instrument_id = names.book_id(book), names.instrument_id(instrument)
    terms = state.catalogue.instrument(instrument_id)
    rows = [lot_row(past, terms, lot) for lot in state.lots(book_id, instrument_id)]
    output.write(COLUMNS, rows, lambda: _total(rows, terms), "no open lots")


def _total(rows: list[dict[str, Any]], instrument: Instrument) -> Iterator[str]:
    """The line below the lots."""
    from decimal import Decimal

    from pks.engine.positions.view import plain, total

    if not rows:
        return
    quantity, cost = (plain(total(Decimal(row[name]) for row in rows)) for name in ("quantity", "cost"))
    count = f"{len(rows)} lot{'s' if len(rows) > 1 else ''}"
    yield ""
    yield f"{count}: quantity {quantity}, cost {rounded(cost, PEOPLE_PLACES)} {instrument.pnl_currency}"
