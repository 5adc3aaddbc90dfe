"""`pks lots`: the open lots of one position, now or at any time and sequence, folded from the journal."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pks.cli.group import quiet_config, system_options
from pks.cli.parameters import END, SEQUENCE, complete_books, complete_instruments
from pks.cli.tables import PEOPLE_PLACES, Column, Output, output_options, rounded

if TYPE_CHECKING:
    from pks.cli.past import Past
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
    from pks.cli.past import CatalogueNames, moment, open_past

    past = open_past(quiet_config(config, data_dir, instance))
    state = moment(past, as_of, past.upto(known_at))
    names = CatalogueNames(state.catalogue)
    book_id, instrument_id = names.book_id(book), names.instrument_id(instrument)
    terms = state.catalogue.instrument(instrument_id)
    rows = [lot_row(past, terms, lot) for lot in state.lots(book_id, instrument_id)]
    output.write(COLUMNS, rows, lambda: _total(rows, terms), "no open lots")


def lot_row(past: Past, instrument: Instrument, lot: Any) -> dict[str, Any]:
    """A lot in the words of `pks calc lots`."""
    from pks.base.clock import format_date
    from pks.base.units import format_scaled, to_int
    from pks.layouts.codes import LotFlag

    quantity = Fraction(int(lot["qty_raw"]), 10**instrument.qty_scale)
    cost = Fraction(to_int(int(lot["cost_hi"]), int(lot["cost_lo"])), 10**instrument.money_scale)
    averaged = int(lot["flags"]) & LotFlag.POOL and not int(lot["flags"]) & LotFlag.EXACT
    return {
        "lot_id": past.lot_id(int(lot["open_sequence"]), int(lot["open_leg"])),
        "date": format_date(int(lot["open_date"])),
        "quantity": format_scaled(int(lot["qty_raw"]), instrument.qty_scale),
        "price": _average(instrument, quantity, cost) if averaged else format_scaled(int(lot["price_raw"]), instrument.price_scale),
        "cost": plain_money(cost, instrument),
    }


def plain_money(amount: Fraction, instrument: Instrument) -> str:
    """Money of the position with multiplier and quote factor, rounded where PositionView rounds it."""
    from pks.engine.positions.view import MULTIPLIER_DIGITS, places_of

    factor = instrument.money_factor
    return _plain(amount * factor, instrument.money_scale + max(MULTIPLIER_DIGITS, places_of(factor.denominator)))


def _average(instrument: Instrument, quantity: Fraction, cost: Fraction) -> str:
    """Average price of a pool: cost has no multiplier here."""
    from pks.engine.positions.view import AVERAGE_EXTRA_DIGITS
    from pks.layouts.codes import Contract

    if not cost:
        return "0"
    average = quantity / cost if instrument.contract is Contract.INVERSE else cost / quantity
    return _plain(average, instrument.price_scale + AVERAGE_EXTRA_DIGITS)


def _plain(value: Fraction, digits: int) -> str:
    """Exact where `digits` places allow, else half-even to them."""
    from pks.base.units import format_scaled, round_half_even

    return format_scaled(round_half_even(value.numerator * 10**digits, value.denominator), digits)


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
