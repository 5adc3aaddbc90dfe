"""Trades of the journal: what corrections made of each, the latest version as a row, and what it closed.

Owns states and versions of trades and the words of their rows, which are those of `pks trades --json`. Reads records that `journal` has
opened; knows no fold but for matches.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from pks.base.clock import format_date, format_time
from pks.base.errors import Code
from pks.base.units import format_scaled, to_int
from pks.engine.lots.state import MATCHES
from pks.layouts.codes import Flag, Kind, MatchKind, Side, Subject
from pks.layouts.event import EVENT
from pks.past.journal import Past
from pks.past.lots import plain_money
from pks.past.names import CatalogueNames, name_of
from pks.past.wanted import CORRECTIONS, INSTRUMENT_KINDS, Wanted

BOOKED, AMENDED, CANCELLED, REFUSED = "BOOKED", "AMENDED", "CANCELLED", "REFUSED"
UNALLOCATED, ALLOCATED = "UNALLOCATED", "ALLOCATED"

SHOWN_MATCHES = (MatchKind.MATCH, MatchKind.MOVED, MatchKind.CASH, MatchKind.FLAGGED)

SCAN_STEP = 1 << 16
"""Records looked at between two steps of the progress bar."""

ROWS_STEP = 1 << 12
"""Trades made into rows at once."""


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

    def learn_all(self, part: Any) -> None:
        """Take every correction among some records (EVENT[n]) in order."""
        kinds = part["kind"]
        moved_or_block = (kinds == Kind.TRADE) & (part["original"] != 0)
        first_part = (kinds == Kind.ALLOCATION) & (part["group_index"] == 0)
        for i in np.flatnonzero(np.isin(kinds, CORRECTIONS) | moved_or_block | first_part):
            self.learn(part[i])

    def upto(self, sequence: int) -> History:
        """What was known of corrections at an earlier event."""

        def lists(found: dict[int, list[int]]) -> dict[int, list[int]]:
            cut = {original: [event for event in events if event <= sequence] for original, events in found.items()}
            return {original: events for original, events in cut.items() if events}

        return History(
            refused={event: code for event, code in self.refused.items() if event <= sequence},
            amends=lists(self.amends),
            cancelled={original: event for original, event in self.cancelled.items() if event <= sequence},
            fees=lists(self.fees),
            moved_to={original: event for original, event in self.moved_to.items() if event <= sequence},
            moved_from={event: original for event, original in self.moved_from.items() if event <= sequence},
            allocated={block: event for block, event in self.allocated.items() if event <= sequence},
        )

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


def scan(past: Past, wanted: Wanted, refused: dict[int, int], last: int | None) -> tuple[History, list[int]]:
    """(what corrections did, sequences of the trades that fit as they stand now, the last `last` of them). Reads every record once."""
    history = History(refused)
    candidates: list[Any] = []
    records = past.records
    with past.progress(past.last, "reading the journal") as bar:
        for first in range(1, past.last + 1, SCAN_STEP):
            part = records[first : min(past.last, first + SCAN_STEP - 1) + 1]
            history.learn_all(part)
            candidates.append(fitting(part, wanted))
            bar.update(len(part))
    everything = np.concatenate(candidates) if candidates else np.zeros(0, np.int64)
    everything = as_amended(records, history, wanted, everything, np.array(sorted(history.amends), np.int64))
    return history, everything[-last if last else 0 :].tolist()


def fitting(part: Any, wanted: Wanted) -> Any:
    """int64[n]: sequences of the trades among these records (EVENT[n]) that fit as they were booked."""
    return part["sequence"][np.isin(part["kind"], wanted.kinds) & wanted.mask(part)]  # by columns: whole records would be copied


def as_amended(records: Any, history: History, wanted: Wanted, chosen: Any, amended: Any) -> Any:
    """The chosen sequences with the amended trades (int64[n], ascending) chosen by what they are now."""
    if not len(amended):
        return chosen
    latest = np.array([history.latest(sequence) for sequence in amended.tolist()], np.int64)
    fits = np.isin(records[amended]["kind"], wanted.kinds) & wanted.mask(records[latest])
    return np.sort(np.concatenate([chosen[~np.isin(chosen, amended)], amended[fits]]))


def page(past: Past, wanted: Wanted, history: History, *, after: int | None, limit: int, newest_first: bool = False) -> list[int]:
    """Sequences of the first `limit` trades that fit as they stand at past.last, behind trade `after` in the order asked for."""
    amended = np.array(sorted(history.amends), np.int64)
    first, last = 1, past.last
    if after is not None:
        first, last = (first, min(last, after - 1)) if newest_first else (max(first, after + 1), last)
    found: list[int] = []
    with past.progress(last - first + 1, "reading the journal") as bar:
        while first <= last and len(found) < limit:
            low, high = (max(first, last - SCAN_STEP + 1), last) if newest_first else (first, min(last, first + SCAN_STEP - 1))
            between = amended[np.searchsorted(amended, low) : np.searchsorted(amended, high, "right")]
            chosen = as_amended(past.records, history, wanted, fitting(past.records[low : high + 1], wanted), between).tolist()
            if wanted.unallocated:
                chosen = [sequence for sequence in chosen if is_waiting(past.records[sequence], sequence, history)]
            found += reversed(chosen) if newest_first else chosen
            first, last = (first, low - 1) if newest_first else (high + 1, last)
            bar.update(high - low + 1)
    return found[:limit]


def is_waiting(e: Any, sequence: int, history: History) -> bool:
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
        matches = out.matches[: out.counts[MATCHES]]
        kept = matches[np.isin(matches["sequence"], wanted)]
        for sequence in dict.fromkeys(kept["sequence"].tolist()):
            sets[sequence] = kept[kept["sequence"] == sequence].copy()

    past.fold(past.last, whole=True, taken=take)
    for sequence in chosen:
        for record in sets.get(sequence, ()):
            if int(record["kind"]) in SHOWN_MATCHES:
                yield match_row(past, names, record)


def match_row(past: Past, names: CatalogueNames, record: Any) -> dict[str, Any]:
    """One match, money with the multiplier."""
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
