"""`pks trades`: every trade of the journal with its latest version, its state and, if asked, what it closed."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from pks.cli.group import EXIT_USAGE, fail, quiet_config, system_options
from pks.cli.parameters import END, SEQUENCE, START, complete_accounts, complete_books, complete_instruments
from pks.cli.tables import Column, Output, output_options, progress
from pks.cli.trades_history import LENGTHS, show_history
from pks.layouts.codes import Flag, Kind, MatchKind, Side, Subject
from pks.layouts.event import EVENT

if TYPE_CHECKING:
    from pks.cli.past import CatalogueNames, Past

TRADE_KINDS = (Kind.TRADE, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER)
INSTRUMENT_KINDS = (Kind.ACTION, Kind.FIXING)
KINDS = (*TRADE_KINDS, *INSTRUMENT_KINDS)
KIND = click.Choice([kind.name for kind in KINDS], case_sensitive=False)
CORRECTIONS = (Kind.AMEND, Kind.CANCEL, Kind.FEE)

BOOKED, AMENDED, CANCELLED, REFUSED = "BOOKED", "AMENDED", "CANCELLED", "REFUSED"
UNALLOCATED, ALLOCATED = "UNALLOCATED", "ALLOCATED"

SCAN_STEP = 1 << 16
"""Records looked at between two steps of the progress bar."""

ROWS_STEP = 1 << 12
"""Trades made into rows at once."""

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


@dataclass(frozen=True)
class Wanted:
    """What was asked for; empty is any. Ids, but kinds and texts."""

    books: Any = None
    instruments: Any = None
    accounts: Any = None
    sources: Any = None
    kinds: tuple[int, ...] = ()
    first_ns: int | None = None
    last_ns: int | None = None
    trade_ids: tuple[bytes, ...] = ()
    unallocated: bool = False

    def mask(self, e: Any) -> Any:
        """bool[n]: which of the records (EVENT[n], the latest versions) fit."""
        fits = np.ones(len(e), np.bool_)
        if self.books is not None:
            fits &= np.isin(e["book_id"], self.books) | np.isin(e["to_book_id"], self.books)
        if self.accounts is not None:
            fits &= np.isin(e["account_id"], self.accounts) | np.isin(e["to_account_id"], self.accounts)
        for name, ids in (("instrument_id", self.instruments), ("source_id", self.sources)):
            if ids is not None:
                fits &= np.isin(e[name], ids)
        if self.first_ns is not None:
            fits &= e["trade_time_ns"] >= self.first_ns
        if self.last_ns is not None:
            fits &= e["trade_time_ns"] <= self.last_ns
        if self.trade_ids:
            fits &= np.isin(e["trade_id"], np.array(self.trade_ids, e.dtype["trade_id"]))
        return fits


@dataclass
class History:
    """What later events did to trades. Keys are the sequences of the trades."""

    refused: dict[int, int]  # event -> code
    amends: dict[int, list[int]] = field(default_factory=dict)
    cancelled: dict[int, int] = field(default_factory=dict)
    fees: dict[int, list[int]] = field(default_factory=dict)
    moved_to: dict[int, int] = field(default_factory=dict)  # an amend to another book or instrument is a cancel and a new trade
    moved_from: dict[int, int] = field(default_factory=dict)
    allocated: dict[int, int] = field(default_factory=dict)  # block -> its first part

    def learn(self, e: Any) -> None:
        """Take one correction, in order."""
        sequence, kind, original, flags = int(e["sequence"]), int(e["kind"]), int(e["original"]), int(e["flags"])
        if kind == Kind.ALLOCATION:  # the block is dealt with, even where a position refused a part: it takes no other allocation
            self.allocated.setdefault(original, sequence)
            return
        if sequence in self.refused:
            return
        if kind == Kind.AMEND and not flags & Flag.REENTRY:
            self.amends.setdefault(original, []).append(sequence)
        elif kind == Kind.CANCEL:
            self.cancelled[original] = sequence
        elif kind == Kind.FEE:
            self.fees.setdefault(original, []).append(sequence)
        elif kind == Kind.TRADE:
            self.moved_to[original], self.moved_from[sequence] = sequence, original

    def touched(self) -> set[int]:
        """Trades that are no longer as they were booked."""
        return {*self.amends, *self.cancelled, *self.fees, *self.moved_to, *self.allocated}

    def latest(self, sequence: int) -> int:
        """The event that made the trade what it is."""
        return self.amends[sequence][-1] if sequence in self.amends else sequence

    def version(self, sequence: int) -> int:
        """Versions that the trade has had, those before it moved here too."""
        before = self.version(self.moved_from[sequence]) if sequence in self.moved_from else 0
        return before + 1 + len(self.amends.get(sequence, ()))


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
    from pks.cli.past import CatalogueNames, ids_of, open_past
    from pks.engine.booking.keys import inline_id

    if with_matches and as_of is not None:
        fail("--matches shows the lots that trades closed by all that is known: not with --as-of", EXIT_USAGE)
    past = open_past(quiet_config(config, data_dir, instance))
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
        chosen = [sequence for sequence in chosen if _is_waiting(past.records[sequence], sequence, history)][-(last or 0) :]
    if with_matches:
        output.write(MATCH_COLUMNS, match_rows(past, names, chosen), empty="no matches")
        return
    output.write(COLUMNS, trade_rows(past, names, history, chosen), empty="no trades")


def scan(past: Past, wanted: Wanted, refused: dict[int, int], last: int | None) -> tuple[History, list[int]]:
    """(what corrections did, sequences of the trades that fit as they stand now, the last `last` of them). Reads every record once."""
    history = History(refused)
    candidates: list[Any] = []
    records = past.records
    with progress(past.last, "reading the journal") as bar:
        for first in range(1, past.last + 1, SCAN_STEP):
            part = records[first : min(past.last, first + SCAN_STEP - 1) + 1]
            kinds = part["kind"]
            moved_or_block = (kinds == Kind.TRADE) & (part["original"] != 0)
            first_part = (kinds == Kind.ALLOCATION) & (part["group_index"] == 0)
            for i in np.flatnonzero(np.isin(kinds, CORRECTIONS) | moved_or_block | first_part):
                history.learn(part[i])
            found = np.flatnonzero(np.isin(kinds, wanted.kinds))
            fits = wanted.mask(part[found])
            candidates.append(part["sequence"][found[fits]])
            bar.update(len(part))
    everything = np.concatenate(candidates) if candidates else np.zeros(0, np.int64)
    changed = np.array(sorted(history.amends), np.int64)
    if len(changed):  # these are chosen by what they are now
        latest = np.array([history.latest(sequence) for sequence in changed.tolist()], np.int64)
        fits = np.isin(records[changed]["kind"], wanted.kinds) & wanted.mask(records[latest])
        everything = np.sort(np.concatenate([everything[~np.isin(everything, changed)], changed[fits]]))
    return history, everything[-last if last else 0 :].tolist()


def _is_waiting(e: Any, sequence: int, history: History) -> bool:
    """Is it a block without its allocation?"""
    waiting = sequence not in history.allocated and sequence not in history.cancelled and sequence not in history.refused
    return bool(int(e["kind"]) == Kind.TRADE and int(e["flags"]) & Flag.BLOCK and waiting)


Event = namedtuple("Event", EVENT.names or ())  # type: ignore[misc]
"""An EVENT as Python's own values: a row is made of some thirty fields, and each costs much less here than in a numpy record."""


def events_at(past: Past, sequences: list[int]) -> list[Any]:
    """The events of these sequences."""
    return list(map(Event._make, past.records[np.array(sequences, np.int64)].tolist()))


def state_of(e: Any, sequence: int, history: History) -> tuple[str, int, str | None]:
    """(state, version, reply code) of the trade booked at `sequence`, whose first record is `e`."""
    from pks.base.errors import Code

    is_trade = e.kind == Kind.TRADE
    version = history.version(sequence)
    if sequence in history.refused:
        return REFUSED, version, Code(history.refused[sequence]).name
    if sequence in history.cancelled:
        return CANCELLED, version, None
    if is_trade and e.flags & Flag.BLOCK:
        return (ALLOCATED if sequence in history.allocated else UNALLOCATED), version, None
    return (AMENDED if version > 1 else BOOKED), version, None


def trade_rows(past: Past, names: CatalogueNames, history: History, chosen: list[int]) -> Iterator[dict[str, Any]]:
    """The chosen trades as they stand."""
    for start in range(0, len(chosen), ROWS_STEP):
        sequences = chosen[start : start + ROWS_STEP]
        latest = events_at(past, [history.latest(sequence) for sequence in sequences])
        for first, now in zip(events_at(past, sequences), latest, strict=True):
            yield _row(past, names, history, first, now)


def trade_row(past: Past, names: CatalogueNames, history: History, sequence: int) -> dict[str, Any]:
    """One trade as it stands."""
    return next(trade_rows(past, names, history, [sequence]))


def _row(past: Past, names: CatalogueNames, history: History, first: Any, e: Any) -> dict[str, Any]:
    """One trade: `first` booked it, `e` is its latest version."""
    from pks.base.clock import format_date, format_time
    from pks.base.units import format_scaled
    from pks.cli.past import name_of

    sequence, kind = first.sequence, first.kind
    state, version, code = state_of(first, sequence, history)
    amends, added = history.amends.get(sequence, ()), history.fees.get(sequence, ())
    details = past.text_at(sequence) if first.flags & Flag.HAS_DETAIL else {}
    for amend in amends:
        details |= past.text_at(amend)
    is_action, has_price = kind == Kind.ACTION, kind != Kind.TRANSFER or e.flags & Flag.HAS_PRICE
    return {
        "sequence": sequence,
        "trade_id": details.get("trade_id") or first.trade_id.decode(errors="backslashreplace"),
        "leg": first.leg,
        "source": name_of(names, Subject.SOURCE, first.source_id),
        "kind": Kind(kind).name,
        "status": f"{state} v{version}" if state == AMENDED else f"{state} {code}" if code else state,
        "state": state,
        "version": version,
        "code": code,
        "book": name_of(names, Subject.BOOK, e.book_id),
        "to_book": name_of(names, Subject.BOOK, e.to_book_id),
        "instrument": name_of(names, Subject.INSTRUMENT, e.instrument_id),
        "side": Side(e.side).name if e.side else None,
        "quantity": None if kind in INSTRUMENT_KINDS else format_scaled(e.qty_raw, e.qty_scale),
        "price": format_scaled(e.price_raw, e.price_scale) if has_price and not is_action else None,
        "fees": fees_of(names, e, events_at(past, list(added)) if added else []),
        "account": name_of(names, Subject.ACCOUNT, e.account_id),
        "to_account": name_of(names, Subject.ACCOUNT, e.to_account_id) if kind == Kind.TRANSFER else None,
        "trade_time": format_time(e.trade_time_ns) if e.trade_time_ns else None,
        "business_date": format_date(e.effective_date),
        "settle_date": format_date(e.settle_date) if e.settle_date else None,
        "open_date": format_date(e.lot_date) if kind == Kind.OPENING else None,
        "lot_id": details.get("lot_id"),
        "venue": details.get("venue"),
        "order_id": details.get("order_id"),
        "counterparty": details.get("counterparty"),
        "note": f"split {e.qty_raw}:{e.price_raw}" if is_action else details.get("note"),
        "parent": first.original or None,
        "replaced_by": history.moved_to.get(sequence),
        "recorded_time": format_time(first.recorded_ns),
        "last_sequence": max(sequence, history.cancelled.get(sequence, 0), *amends, *added),
    }


def fees_of(names: CatalogueNames, e: Any, added: list[Any]) -> dict[str, str] | None:
    """Fees by currency: the trade's own and those that came later; None while none is known."""
    from pks.base.units import format_scaled

    if e.flags & Flag.FEE_UNKNOWN and not added:
        return None
    totals: dict[str, tuple[int, int]] = {}
    for one in (e, *added):
        if one.flags & Flag.HAS_FEE and one.fee_raw:
            currency = names.code_of(Subject.CURRENCY, one.fee_currency_id)
            raw, scale = totals.get(currency, (0, 0))
            finest = max(scale, one.fee_scale)
            totals[currency] = (raw * 10 ** (finest - scale) + one.fee_raw * 10 ** (finest - one.fee_scale), finest)
    return {currency: format_scaled(raw, scale) for currency, (raw, scale) in totals.items()}


def match_rows(past: Past, names: CatalogueNames, chosen: list[int]) -> Iterator[dict[str, Any]]:
    """What the chosen trades closed or moved, by the latest set of each: the journal folded from its first event."""
    wanted = np.array(chosen, np.int64)
    sets: dict[int, Any] = {}

    def take(out: Any) -> None:
        from pks.engine.lots.state import MATCHES

        matches = out.matches[: out.counts[MATCHES]]
        kept = matches[np.isin(matches["sequence"], wanted)]
        for sequence in dict.fromkeys(kept["sequence"].tolist()):
            sets[sequence] = kept[kept["sequence"] == sequence].copy()

    past.fold(past.last, whole=True, taken=take)
    for sequence in chosen:
        for record in sets.get(sequence, ()):
            if int(record["kind"]) in (MatchKind.MATCH, MatchKind.MOVED, MatchKind.CASH, MatchKind.FLAGGED):
                yield match_row(past, names, record)


def match_row(past: Past, names: CatalogueNames, record: Any) -> dict[str, Any]:
    """One match, money with the multiplier."""
    from fractions import Fraction

    from pks.base.clock import format_date
    from pks.base.units import format_scaled, to_int
    from pks.cli.lots import plain_money

    instrument = names.catalogue.instrument(int(record["instrument_id"]))
    leg = int(record["open_leg"])

    def money(name: str) -> str:
        raw = to_int(int(record[f"{name}_hi"]), int(record[f"{name}_lo"]))
        return plain_money(Fraction(raw, 10 ** int(record["money_scale"])), instrument)

    return {
        "sequence": int(record["sequence"]),
        "trade_id": past.trade_id(int(record["sequence"])),
        "kind": MatchKind(int(record["kind"])).name,
        "open_trade_id": past.trade_id(int(record["open_sequence"])) + (f"/{leg}" if leg else "") if record["open_sequence"] else None,
        "open_date": format_date(int(record["open_date"])),
        "book": names.code_of(Subject.BOOK, int(record["book_id"])),
        "instrument": instrument.code,
        "quantity": format_scaled(int(record["qty_raw"]), int(record["qty_scale"])),
        "open_price": format_scaled(int(record["open_price_raw"]), int(record["price_scale"])),
        "close_price": format_scaled(int(record["close_price_raw"]), int(record["price_scale"])),
        "realised_gross": money("realised"),
        "cost": money("cost"),
        "revision": int(record["revision"]),
        "cause": int(record["cause"]),
    }
