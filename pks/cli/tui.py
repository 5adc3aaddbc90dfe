"""`pks tui`: the terminal blotter on a running system, or on one that is yet to start.

Owns the answers from the journal that the blotter's drill-down asks for: the blotter itself may not know how positions are folded.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pks.cli.group import EXIT_USAGE, fail, quiet_config, system_options

if TYPE_CHECKING:
    from pks.base.config import Config
    from pks.past.journal import Past
    from pks.past.names import CatalogueNames
    from pks.tui.detail import LotLine, TradeLine
    from pks.workers.positions import Positions


@click.command()
@system_options
def tui(config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Show positions, the trade tape and the system's health in the terminal; ? explains the keys, q ends it.

    \b
    pks tui
    pks tui --instance uat --data-dir /srv/pks/uat

    It only reads shared memory and the journal. When the system stops, the last figures stay, marked as such, and it attaches again
    by itself.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):  # Textual draws on stderr
        fail("pks tui needs a terminal; `pks positions` prints the same figures", EXIT_USAGE)
    found = quiet_config(config, data_dir, instance)
    from pks.tui.app import Blotter
    from pks.tui.feed import Feed
    from pks.tui.settings import settings_path

    Blotter(Feed(found.instance, Path(found.data_dir)), JournalDetail(found), settings_path(os.environ)).run()


class JournalDetail:
    """Lots and trades of a position from the journal up to its last durable event; implements `tui.detail.Detail`.

    The first question folds from the newest checkpoint, later ones go on from there. One thread asks at a time.
    """

    def __init__(self, settings: Config) -> None:
        self._settings = settings
        self._folded: tuple[Past, Positions] | None = None

    def lots(self, book: str, instrument: str) -> Sequence[LotLine]:
        """Open lots, oldest first. Raises PksError."""
        from pks.engine.lots.snapshot import export_state
        from pks.past.lots import lot_row
        from pks.tui.detail import LotLine

        past, positions, names = self._now()
        book_id, instrument_id = names.book_id(book), names.instrument_id(instrument)
        arrays = export_state(positions.shard.state)
        keys, ends = arrays["keys"], arrays["lot_ends"]
        terms, found = names.catalogue.instrument(instrument_id), []
        for number in ((keys["book_id"] == book_id) & (keys["instrument_id"] == instrument_id)).nonzero()[0].tolist():
            for lot in arrays["lots"][int(ends[number - 1]) if number else 0 : int(ends[number])]:
                row = lot_row(past, terms, lot)
                quantity, price, cost = (Decimal(row[name]) for name in ("quantity", "price", "cost"))
                found.append(LotLine(row["lot_id"], row["date"], quantity, price, cost, int(lot["open_sequence"])))
        return found

    def trades(self, book: str, instrument: str) -> Sequence[TradeLine]:
        """Trades of the position as they stand now, and what was done to its instrument; the last one first. Raises PksError."""
        from pks.past.trades import scan, trade_row
        from pks.past.wanted import INSTRUMENT_KINDS, KINDS, Wanted

        past, positions, names = self._now()
        refused = {int(sequence): int(code) for sequence, code in positions.shard.state.refused.tolist() if sequence > 0}
        wanted = Wanted(instruments=[names.instrument_id(instrument)], kinds=tuple(int(kind) for kind in KINDS))
        history, chosen = scan(past, wanted, refused, None)
        rows = (trade_row(past, names, history, sequence) for sequence in reversed(chosen))
        of_instrument = {kind.name for kind in INSTRUMENT_KINDS}
        return [_trade_line(row) for row in rows if book in (row["book"], row["to_book"]) or row["kind"] in of_instrument]

    def _now(self) -> tuple[Past, Positions, CatalogueNames]:
        from pks.past.journal import advance, open_past
        from pks.past.names import CatalogueNames

        past = open_past(self._settings)
        if self._folded is not None and self._folded[0].last <= past.last:
            before, positions = self._folded
            advance(positions, past.records, before.last, past.last)
        else:
            positions = past.fold(past.last)
        self._folded = past, positions
        return past, positions, CatalogueNames(positions.catalogue)


def _trade_line(row: dict[str, Any]) -> TradeLine:
    from pks.tui.detail import TradeLine

    fees = row["fees"]
    return TradeLine(
        sequence=row["sequence"],
        time=row["trade_time"] or "",
        kind=row["kind"],
        side=row["side"] or "",
        quantity=None if row["quantity"] is None else Decimal(row["quantity"]),
        price=None if row["price"] is None else Decimal(row["price"]),
        fees="?" if fees is None else " ".join(f"{amount} {currency}" for currency, amount in fees.items()),
        account=row["account"] or "",
        trade_id=row["trade_id"] + (f"/{row['leg']}" if row["leg"] else ""),
        state=row["status"],
    )
