"""`pks positions`: positions now, from the slots of the running system, or at any time and sequence, folded from the journal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pks.base.config import Config
from pks.cli.group import EXIT_REFUSED, quiet_config, system_options
from pks.cli.parameters import END, SEQUENCE, complete_accounts, complete_books, complete_instruments
from pks.cli.tables import PEOPLE_PLACES, Column, Output, note, output_options, progress, rounded

if TYPE_CHECKING:
    from pks.client.host import Host
    from pks.engine.positions.view import PositionView
    from pks.past.held import Picture

POSITION_COLUMNS = (
    Column("book"),
    Column("instrument"),
    Column("quantity", "money"),
    Column("average_price", "money"),
    Column("cost", "money"),
    Column("realised_gross", "money"),
    Column("realised_net", "money"),
    Column("fees", "map"),
    Column("open_lots", "int", "lots"),
    Column("currency"),
    Column("last_trade_time", "time", "last trade"),
    Column("last_sequence", "int", "event"),
)

HELD_COLUMNS = (
    Column("account"),
    Column("instrument"),
    Column("quantity", "decimal"),
    Column("books", "map"),
    Column("last_sequence", "int", "event"),
)

SUM_COLUMNS = (
    Column("currency"),
    Column("positions", "int"),
    Column("cost", "money"),
    Column("realised_gross", "money"),
    Column("realised_net", "money"),
    Column("fees", "map"),
)

LIVE_LOOKS = 50
LIVE_NAP_SECONDS = 0.02
"""A position and its accounts are two slots: while fills stream in, one that differs is looked at again so often, so long apart."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for."""

    books: tuple[str, ...]
    instruments: tuple[str, ...]
    entities: tuple[str, ...]
    accounts: tuple[str, ...]


@click.command()
@system_options
@click.option("--book", "books", multiple=True, shell_complete=complete_books, help="only this book; may be given again")
@click.option("--instrument", "instruments", multiple=True, shell_complete=complete_instruments, help="only this one, by any of its names")
@click.option("--entity", "entities", multiple=True, help="only books of this legal entity")
@click.option("--account", "accounts", multiple=True, shell_complete=complete_accounts, help="with --by account: only this one")
@click.option("--all", "with_flat", is_flag=True, help="flat positions too")
@click.option("--by", "by", type=click.Choice(["book", "account", "entity"]), help="sums by book, account or entity")
@click.option("--as-of", type=END, metavar="TIME", help="only trades up to this time: RFC 3339, or a date for the end of its day in UTC")
@click.option("--known-at", type=SEQUENCE, metavar="SEQ", help="only events up to this sequence: what was known then")
@output_options
def positions(
    books: tuple[str, ...],
    instruments: tuple[str, ...],
    entities: tuple[str, ...],
    accounts: tuple[str, ...],
    with_flat: bool,
    by: str | None,
    as_of: int | None,
    known_at: int | None,
    output: Output,
    config: Path | None,
    data_dir: Path | None,
    instance: str | None,
) -> None:
    """Show positions: quantity, average price, cost, realised P&L since the opening lots, fees, open lots.

    \b
    pks positions
    pks positions --book RU-EQ --book US-EQ --json
    pks positions --instrument SBER --all
    pks positions --by account --account NSD-RU-01
    pks positions --as-of 2025-03-14T15:00:00Z --known-at 1200 --csv
    pks positions --arrow positions.arrow

    The running system's positions are read from shared memory; without one, or with --as-of or --known-at, they are folded from the
    journal. Cost and P&L have multiplier and quote factor. The table rounds money to 8 places; --json, --csv and --arrow are exact.
    --by account also checks that the accounts of each (book, instrument) add up to the position; exit 1 if they do not.
    """
    if accounts and by != "account":
        raise click.UsageError("--account goes with --by account")
    settings = quiet_config(config, data_dir, instance)
    wanted = Wanted(books, instruments, entities, accounts)
    if as_of is None and known_at is None:
        host = live_host(settings)
        if host is not None:
            with host:
                _show(lambda: live_picture(host, wanted), wanted, by, with_flat, output, looks=LIVE_LOOKS)
            return
    picture = past_picture(settings, wanted, as_of, known_at)
    _show(lambda: picture, wanted, by, with_flat, output, looks=1)


def _show(take: Callable[[], Picture], wanted: Wanted, by: str | None, with_flat: bool, output: Output, looks: int) -> None:
    if by == "account":
        _show_accounts(take, wanted, with_flat, output, looks)
        return
    picture = take()
    if by is not None:
        _show_sums(picture, by, output)
        return
    shown = [position for position in picture.positions if with_flat or not position.is_flat]
    shown.sort(key=lambda position: (position.book, position.instrument))
    if output.arrow:
        from pks.cli.tables import write_batches
        from pks.client.arrow import positions_table

        table = positions_table(shown)
        write_batches(table.schema, table.to_batches(), output.arrow)
        return
    flat = sum(position.is_flat for position in picture.positions)
    footer = lambda: _totals(picture.positions, 0 if with_flat else flat)  # noqa: E731
    output.write(POSITION_COLUMNS, (position.as_dict() for position in shown), footer, "no open positions")


# Where positions come from.


def live_host(settings: Config) -> Host | None:
    """The running system of the data directory for reading; None when none runs or it is not ready, which is said."""
    from pks.client import SegmentMissing, SegmentNotReady, StaleHost, attach
    from pks.running import NotRunning, find_running

    try:
        return attach(find_running(Path(settings.data_dir)).instance)
    except NotRunning:
        return None
    except (SegmentMissing, SegmentNotReady, StaleHost) as error:
        note(f"read from the journal, since the system is not ready: {error}")
        return None


def live_picture(host: Host, wanted: Wanted) -> Picture:
    """What the slots say now."""
    from pks.past.held import Picture, held_of

    books = _books_of(host.names, wanted)
    instruments = list(wanted.instruments) or None
    slots = host.positions.views(host.positions.snapshot(host.positions.rows(books, instruments)))
    return Picture(slots, held_of(host.accounts.to_numpy(), slots), host.names)


def past_picture(settings: Config, wanted: Wanted, as_of: int | None, known_at: int | None) -> Picture:
    """What the journal says of a moment."""
    from pks.engine.positions.view import PositionView
    from pks.past.held import Picture, held_of
    from pks.past.journal import open_past
    from pks.past.moment import moment
    from pks.past.names import CatalogueNames

    past = open_past(settings, progress)
    state = moment(past, as_of, past.upto(known_at))
    names = CatalogueNames(state.catalogue)
    books = _books_of(names, wanted)
    book_ids = None if books is None else {names.book_id(code) for code in books}
    instrument_ids = {names.instrument_id(name) for name in wanted.instruments} or None
    found = [
        PositionView.from_record(key, names.terms(int(key["book_id"]), int(key["instrument_id"])))
        for key in state.keys
        if (book_ids is None or int(key["book_id"]) in book_ids) and (instrument_ids is None or int(key["instrument_id"]) in instrument_ids)
    ]
    return Picture(found, held_of(state.held, found), names)


def _books_of(names: Any, wanted: Wanted) -> list[str] | None:
    """Codes of the books that were asked for, None for all. Raises UnknownName."""
    from pks.layouts.codes import Subject

    if not wanted.books and not wanted.entities:
        return None
    for code in wanted.books:
        names.book_id(code)
    books = list(wanted.books) or names.codes(Subject.BOOK)
    if wanted.entities:
        _check_entities(names, wanted.entities)
        books = [code for code in books if entity_of(names, names.book_id(code)) in wanted.entities]
    return books


def _check_entities(names: Any, entities: Iterable[str]) -> None:
    from pks.client.errors import UnknownName
    from pks.layouts.codes import Subject

    known = names.codes(Subject.ENTITY)
    for code in entities:
        if code not in known:
            raise UnknownName("entity", code, known)


def entity_of(names: Any, book_id: int) -> str:
    """Code of the entity that owns a book."""
    from pks.layouts.codes import Subject

    return bytes(names.row(Subject.BOOK, book_id)["parent"]).decode()


# Sums.


@dataclass
class Sum:
    """Money of several positions in one currency."""

    positions: int = 0
    cost: Decimal = Decimal(0)
    realised_gross: Decimal = Decimal(0)
    realised_net: Decimal = Decimal(0)


def sums(slots: Iterable[PositionView], group: Callable[[PositionView], str]) -> dict[str, tuple[dict[str, Sum], dict[str, Decimal]]]:
    """By group: a Sum of each currency, and the fees by their own currency. Exact, whatever the decimal context would round to."""
    from pks.engine.positions.view import total

    found: dict[str, tuple[dict[str, Sum], dict[str, Decimal]]] = {}
    for slot in slots:
        by_currency, fees = found.setdefault(group(slot), ({}, {}))
        one = by_currency.setdefault(slot.currency, Sum())
        one.positions += not slot.is_flat
        for name in ("cost", "realised_gross", "realised_net"):
            setattr(one, name, total((getattr(one, name), getattr(slot, name))))
        for currency, fee in slot.fees.items():
            fees[currency] = total((fees.get(currency, Decimal(0)), fee))
    return found


def _totals(slots: list[PositionView], hidden: int) -> Iterator[str]:
    """A line a currency below the table."""
    from pks.engine.positions.view import plain

    if not slots:
        return
    by_currency, fees = sums(slots, lambda slot: "")[""]
    yield ""
    for currency in sorted(by_currency):
        one = by_currency[currency]
        parts = (("cost", one.cost), ("realised gross", one.realised_gross), ("net", one.realised_net))
        figures = ", ".join(f"{name} {rounded(plain(value), PEOPLE_PLACES)}" for name, value in parts)
        yield f"total {currency}: {figures}"
    if fees:
        yield "fees: " + ", ".join(f"{rounded(plain(fee), PEOPLE_PLACES)} {currency}" for currency, fee in sorted(fees.items()))
    if hidden:
        yield f"totals include {hidden} flat position{'s' if hidden > 1 else ''} (--all lists them)"


def _show_sums(picture: Picture, by: str, output: Output) -> None:
    entities: dict[str, str] = {}

    def entity(slot: PositionView) -> str:
        if slot.book not in entities:
            entities[slot.book] = entity_of(picture.names, picture.names.book_id(slot.book))
        return entities[slot.book]

    rows = []
    for group, (by_currency, fees) in sorted(sums(picture.positions, entity if by == "entity" else lambda slot: slot.book).items()):
        for currency in sorted({*by_currency, *fees}):  # a fee may be in a currency that no position of the group is kept in
            own = {currency: fees[currency]} if currency in fees else {}
            rows.append(_sum_row(by, group, currency, by_currency.get(currency, Sum()), own))
    output.write((Column(by), *SUM_COLUMNS), rows, lambda: _totals(picture.positions, 0), "no positions")


def _sum_row(by: str, group: str, currency: str, one: Sum, fees: dict[str, Decimal]) -> dict[str, Any]:
    from pks.engine.positions.view import plain

    return {
        by: group,
        "currency": currency,
        "positions": one.positions,
        "cost": plain(one.cost),
        "realised_gross": plain(one.realised_gross),
        "realised_net": plain(one.realised_net),
        "fees": {code: plain(fee) for code, fee in fees.items()},
    }


# By account.


def _show_accounts(take: Callable[[], Picture], wanted: Wanted, with_flat: bool, output: Output, looks: int) -> None:
    from pks.engine.positions.view import plain
    from pks.past.held import account_differences, held_rows

    for look in range(looks):
        picture = take()
        differences = account_differences(picture)
        if not differences or look == looks - 1:
            break
        time.sleep(LIVE_NAP_SECONDS)
    chosen = {picture.names.account_id(code) for code in wanted.accounts} or None
    rows = list(held_rows(picture.held, picture.names, chosen, with_flat))
    pairs = len(picture.positions)
    footer = lambda: (  # noqa: E731
        [] if differences else ["", f"accounts and books add up in {pairs} (book, instrument) pair{'' if pairs == 1 else 's'}"]
    )
    output.write(HELD_COLUMNS, rows, footer, "no quantities")
    for one in differences:
        accounts, position = plain(one.accounts), plain(one.position)
        click.echo(f"pks: does not add up: {one.book} {one.instrument}: accounts hold {accounts}, the position is {position}", err=True)
    if differences:
        sys.exit(EXIT_REFUSED)
