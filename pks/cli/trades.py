"""`pks trades`: every trade of the journal with its latest version, its state and, if asked, what it closed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from pks.cli.group import EXIT_USAGE, fail, quiet_config, system_options
from pks.cli.parameters import END, SEQUENCE, START, complete_accounts, complete_books, complete_instruments
from pks.cli.tables import Column, Output, output_options, progress
from pks.cli.trades_history import LENGTHS, show_history
from pks.layouts.codes import Kind
from pks.past.wanted import KINDS, TRADE_KINDS, Wanted

KIND = click.Choice([kind.name for kind in KINDS], case_sensitive=False)

COLUMNS = (
    Column("sequence", "int", "event"),
    Column("trade_id", title="trade"),
    Column("leg", "int", shown=False),
    Column("source", shown=False),
    Column("kind"),
    Column("status", title="state"),
    Column("state", shown=False),
    Column("version", "int", shown=False),
    Column("code", shown=False),
    Column("book"),
    Column("to_book"),
    Column("instrument"),
    Column("side"),
    Column("quantity", "decimal"),
    Column("price", "decimal"),
    Column("fees", "map"),
    Column("account"),
    Column("to_account", shown=False),
    Column("trade_time", "time"),
    Column("business_date", "date", shown=False),
    Column("settle_date", "date", shown=False),
    Column("open_date", "date", shown=False),
    Column("lot_id", shown=False),
    Column("venue", shown=False),
    Column("order_id", shown=False),
    Column("counterparty", shown=False),
    Column("note", shown=False),
    Column("parent", "int", shown=False),
    Column("replaced_by", "int", shown=False),
    Column("recorded_time", "time", shown=False),
    Column("last_sequence", "int", shown=False),
)

MATCH_COLUMNS = (
    Column("sequence", "int", "event"),
    Column("trade_id", title="trade"),
    Column("kind"),
    Column("open_trade_id", title="opened by"),
    Column("open_date", "date"),
    Column("book"),
    Column("instrument"),
    Column("quantity", "decimal"),
    Column("open_price", "decimal"),
    Column("close_price", "decimal"),
    Column("realised_gross", "money"),
    Column("cost", "money"),
    Column("revision", "int"),
    Column("cause", "int", shown=False),
)


@click.command()
@system_options
@click.option("--book", "books", multiple=True, shell_complete=complete_books, help="only this book; may be given again")
@click.option("--instrument", "instruments", multiple=True, shell_complete=complete_instruments, help="only this one, by any of its names")
@click.option("--account", "accounts", multiple=True, shell_complete=complete_accounts, help="only this account")
@click.option("--source", "sources", multiple=True, help="only trades of this source")
@click.option("--from", "first_ns", type=START, metavar="TIME", help="trade time from here on: RFC 3339, or a date in UTC")
@click.option("--to", "last_ns", type=END, metavar="TIME", help="trade time up to here: RFC 3339, or a date for the end of its day in UTC")
@click.option("--as-of", type=END, metavar="TIME", help="only trades up to this time: RFC 3339, or a date for the end of its day in UTC")
@click.option("--known-at", type=SEQUENCE, metavar="SEQ", help="only events up to this sequence: what was known then")
@click.option("--trade-id", "trade_ids", multiple=True, metavar="ID", help="only trades of this id")
@click.option("--kind", "kinds", multiple=True, type=KIND, help="only this kind")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="the last N of them")
@click.option("--unallocated", is_flag=True, help="only blocks that wait for their allocation")
@click.option("--matches", "with_matches", is_flag=True, help="the lots that each trade closed or moved, instead of the trades")
@click.option("--history", "of_history", is_flag=True, help="ask the time series instead of the journal: by book, instrument, time")
@click.option("--bars", type=click.Choice(LENGTHS), help="prices and volume of the time series in spans of this length, for one instrument")
@output_options
def trades(
    books: tuple[str, ...],
    instruments: tuple[str, ...],
    accounts: tuple[str, ...],
    sources: tuple[str, ...],
    first_ns: int | None,
    last_ns: int | None,
    as_of: int | None,
    known_at: int | None,
    trade_ids: tuple[str, ...],
    kinds: tuple[str, ...],
    last: int | None,
    unallocated: bool,
    with_matches: bool,
    of_history: bool,
    bars: str | None,
    output: Output,
    config: Path | None,
    data_dir: Path | None,
    instance: str | None,
) -> None:
    """Show the trades of the journal, in the order in which they were booked, each as it stands now.

    \b
    pks trades --book RU-EQ --last 20
    pks trades --trade-id T-000123 --json
    pks trades --from 2025-03-14 --to 2025-03-14T12:00:00Z --csv
    pks trades --unallocated
    pks trades --book RU-EQ --matches
    pks trades --as-of 2025-03-14T15:00:00Z --known-at 1200 --csv
    pks trades --history --book RU-EQ --from 2025-03-14 --json
    pks trades --bars 5m --instrument SBER.MOEX

    States: BOOKED, AMENDED vN (N versions so far), CANCELLED, REFUSED with the position's reason; blocks are UNALLOCATED until they are
    ALLOCATED. An amend that moves a trade to another book or instrument leaves a CANCELLED trade and an AMENDED one behind. Works with and
    without a running system, up to the last durable event. Without --kind, splits and fixings are left out.
    """
    if of_history or bars:
        beyond = (accounts, sources, trade_ids, kinds, unallocated, with_matches, as_of is not None, known_at is not None)
        if any(beyond):
            raise click.UsageError("--history and --bars go by --book, --instrument, --from, --to and --last only")
        show_history(quiet_config(config, data_dir, instance), output, books, instruments, first_ns, last_ns, last, bars)
        return
    from pks.engine.booking.keys import inline_id
    from pks.past.journal import open_past
    from pks.past.names import CatalogueNames, ids_of
    from pks.past.trades import is_waiting, match_rows, scan, trade_rows

    if with_matches and as_of is not None:
        fail("--matches shows the lots that trades closed by all that is known: not with --as-of", EXIT_USAGE)
    past = open_past(quiet_config(config, data_dir, instance), progress)
    past = replace(past, last=past.upto(known_at))
    folded = past.fold(past.last)
    names = CatalogueNames(folded.catalogue)
    state = folded.shard.state
    refused = {int(sequence): int(code) for sequence, code in state.refused.tolist() if sequence > 0}
    wanted = Wanted(
        books=ids_of(names.book_id, books),
        instruments=ids_of(names.instrument_id, instruments),
        accounts=ids_of(names.account_id, accounts),
        sources=ids_of(names.source_id, sources),
        kinds=tuple(Kind[kind.upper()] for kind in kinds) or TRADE_KINDS,
        first_ns=first_ns,
        last_ns=min((end for end in (last_ns, as_of) if end is not None), default=None),
        trade_ids=tuple(inline_id(trade_id) for trade_id in trade_ids),
        unallocated=unallocated,
    )
    history, chosen = scan(past, wanted, refused, None if unallocated else last)
    if unallocated:
        chosen = [sequence for sequence in chosen if is_waiting(past.records[sequence], sequence, history)][-(last or 0) :]
    if with_matches:
        output.write(MATCH_COLUMNS, match_rows(past, names, chosen), empty="no matches")
        return
    output.write(COLUMNS, trade_rows(past, names, history, chosen), empty="no trades")
