"""`pks trades --history`: the same question asked of the time series, which need neither the journal nor this host's segments."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from pks.base.config import Config
from pks.cli.tables import Column, Output

if TYPE_CHECKING:
    from pks.edges.questdb.store import Wanted

ROWS_MAX = 1 << 40
"""More than there are: the command pages by itself."""

COLUMNS = (
    Column("sequence", "int", "event"),
    Column("trade_id", title="trade"),
    Column("kind"),
    Column("status", title="state"),
    Column("book"),
    Column("to_book"),
    Column("instrument"),
    Column("side"),
    Column("quantity", "decimal"),
    Column("price", "decimal"),
    Column("account"),
    Column("source", shown=False),
    Column("trade_time", "time"),
    Column("last_sequence", "int", shown=False),
)

BAR_COLUMNS = (
    Column("time", "time"),
    Column("open", "decimal"),
    Column("high", "decimal"),
    Column("low", "decimal"),
    Column("close", "decimal"),
    Column("volume", "decimal"),
    Column("trades", "int"),
)

LENGTHS = ("1s", "10s", "1m", "5m", "15m", "1h", "4h", "1d")
"""edges.questdb.store.BAR_SECONDS, which no command imports before it is called; a test compares them."""


def show_history(
    config: Config,
    output: Output,
    books: tuple[str, ...],
    instruments: tuple[str, ...],
    first_ns: int | None,
    last_ns: int | None,
    last: int | None,
    bars: str | None,
) -> None:
    """Write what was asked for. Raises HistoryUnavailable, UsageError."""
    from pks.edges.questdb.store import Wanted

    if bars and len(instruments) != 1:
        raise click.UsageError("--bars are made of one --instrument")
    if bars and len(books) > 1:
        raise click.UsageError("--bars are made of one --book, or of all")
    wanted = [
        Wanted(book, instrument, first_ns, last_ns, limit=ROWS_MAX) for book in books or (None,) for instrument in instruments or (None,)
    ]
    if bars:
        output.write(BAR_COLUMNS, asyncio.run(_bars(config, wanted[0], bars)), empty="no trades")
        return
    rows = asyncio.run(_trades(config, wanted))
    output.write(COLUMNS, rows[-last if last else 0 :], empty="no trades")


async def _trades(config: Config, wanted: list[Wanted]) -> list[dict[str, Any]]:
    """Every trade that fits one of them, once, by time."""
    from pks.edges.questdb.history import History, trade_words

    found = {}
    async with History(config) as history:
        for one in wanted:
            async for row in history.trades(one):
                found[row.ts_ns, row.trade_id] = trade_words(row)
    return [found[key] for key in sorted(found)]


async def _bars(config: Config, wanted: Wanted, length: str) -> list[dict[str, Any]]:
    from pks.edges.questdb.history import History, bar_words

    async with History(config) as history:
        return [bar_words(bar) for bar in await history.bars(wanted, length)]
