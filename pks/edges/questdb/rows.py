"""Rows of `bo_positions` out of judged events, and the check that a store will take them.

Owns the rules: which events make a row, under which key, and what a correction leaves. A pure function of records, verdicts and reference
data; looks at nothing else. A trade, opening, allocation or transfer makes a row; an amendment and a cancellation write that row again, in
their order, with the status AMENDED or CANCELLED; an amendment that changes the time leaves a row MOVED under each earlier time. Fees,
lots moved by corrections and what was refused make none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from pks.base.clock import NS_PER_DAY
from pks.edges.questdb.store import AMENDED, BLOCK, BOOKED, CANCELLED, MOVED, TradeRow
from pks.engine.booking.admit import GIVEN
from pks.engine.booking.keys import LONG_ID_MARK
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import Source
from pks.layouts.codes import Flag, Kind, Side, Subject
from pks.layouts.detail import group_at, text_of

BOOKINGS = (Kind.TRADE, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER)
KINDS = [int(kind) for kind in (*BOOKINGS, Kind.AMEND, Kind.CANCEL)]
TIME_GIVEN = GIVEN["trade_time_ns"]
TRADE, AMEND, CANCEL, TRANSFER = int(Kind.TRADE), int(Kind.AMEND), int(Kind.CANCEL), int(Kind.TRANSFER)
BLOCK_FLAG, REENTRY_FLAG, PRICE_FLAG, DETAIL_FLAG = int(Flag.BLOCK), int(Flag.REENTRY), int(Flag.HAS_PRICE), int(Flag.HAS_DETAIL)
KIND_NAMES = {int(kind): kind.name for kind in Kind}
SIDE_NAMES = {int(Side.BUY): "BUY", int(Side.SELL): "SELL"}
"""Plain numbers and texts: a flag of an enumeration costs a microsecond, and a row is to cost three."""

INT64_MIN = -(1 << 63)
"""What QuestDB takes for no value."""

TIME_NS_LAST = 9_214_646_399_999_999_999
"""The last time that QuestDB takes, the end of 2261."""

SCAN_STEP = 1 << 14

FIELDS = (
    "sequence", "kind", "flags", "original", "subject", "trade_time_ns", "effective_date", "trade_id", "leg", "discriminator", "book_id",
    "to_book_id", "instrument_id", "account_id", "source_id", "side", "qty_raw", "qty_scale", "price_raw", "price_scale",
)  # fmt: skip


class Aside(NamedTuple):
    """A row that no store may be given, and why."""

    row: TradeRow
    reason: str


class Names:
    """Codes by id, remembered: a catalogue's codes never change."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._known: dict[tuple[Subject, int], str | None] = {}
        self._recurring: dict[int, bool] = {}

    def code(self, subject: Subject, row_id: int) -> str | None:
        """The code of a row, None for id 0."""
        key = (subject, row_id)
        if key not in self._known:
            definition = self._catalogue.get(subject, row_id) if row_id else None
            assert definition is not None or not row_id, f"{subject.name} {row_id} was defined before it was used"
            self._known[key] = None if definition is None else definition.code
        return self._known[key]

    def recurs(self, source_id: int) -> bool:
        """Do this source's ids come again, for another account, instrument, side or day?"""
        if source_id not in self._recurring:
            definition = self._catalogue.get(Subject.SOURCE, source_id)
            self._recurring[source_id] = isinstance(definition, Source) and bool(definition.recurs)
        return self._recurring[source_id]


def rows_of(records: Any, first: int, last: int, refused: dict[int, int], names: Names) -> tuple[list[TradeRow], list[Aside]]:
    """Rows of events first..last in their order, and those that no store takes.

    records: EVENT[n], event n at records[n], all of 1..last; refused: events that changed nothing.
    """
    part = records[first : last + 1]
    chosen = part[np.isin(part["kind"], KINDS)]
    rows: list[TradeRow] = []
    aside: list[Aside] = []
    for event in zip(*(chosen[name].tolist() for name in FIELDS), strict=True):
        if event[0] in refused or (event[1] == AMEND and event[2] & REENTRY_FLAG):
            continue
        for row in _rows_of_one(event, records, names):
            fault = fault_of(row)
            if fault:
                aside.append(Aside(row, fault))
            else:
                rows.append(row)
    return rows, aside


def fault_of(row: TradeRow) -> str:
    """Why a store may not be given this row, "" when it may: what one cannot hold, and what would spoil the rows sent with it."""
    if row.ts_ns < 0:
        return "the time lies before 1970"
    if row.ts_ns > TIME_NS_LAST:
        return "the time lies behind 2261"
    if INT64_MIN in (row.qty_raw, row.price_raw):
        return "a figure is the one that stands for no value"
    if "\ufffd" in row.trade_id:
        return "the trade id is not UTF-8"
    if "\0" in row.trade_id:
        return "the trade id has a character of number 0"
    return ""


def _rows_of_one(event: tuple[Any, ...], records: Any, names: Names) -> Iterator[TradeRow]:
    (
        sequence, kind, flags, original, subject, time_ns, date, trade_id, leg, discriminator, book_id,
        to_book_id, instrument_id, account_id, source_id, side, qty_raw, qty_scale, price_raw, price_scale,
    ) = event  # fmt: skip
    moved_here = kind == TRADE and original != 0  # an amendment to another book or instrument
    is_first = kind not in (AMEND, CANCEL) and not moved_here
    first = sequence if is_first else _first(records, sequence if moved_here else original)
    if trade_id.startswith(LONG_ID_MARK):
        trade_id = _long_id(records, first, trade_id)
    source = names.code(Subject.SOURCE, source_id)
    key = f"{source or ''}/{trade_id.decode(errors='replace')}/{leg if is_first else int(records[first]['leg'])}"
    if names.recurs(source_id):
        key = f"{key}/{discriminator:08x}"
    row = TradeRow(
        time_ns or date * NS_PER_DAY,
        key,
        first,
        sequence,
        BLOCK if flags & BLOCK_FLAG else KIND_NAMES[kind if is_first else int(records[first]["kind"])],
        BOOKED if is_first else CANCELLED if kind == CANCEL else AMENDED,
        names.code(Subject.BOOK, book_id),
        names.code(Subject.BOOK, to_book_id),
        names.code(Subject.INSTRUMENT, instrument_id) or "",
        names.code(Subject.ACCOUNT, account_id),
        source,
        SIDE_NAMES.get(side),
        qty_raw,
        qty_scale,
        price_raw if flags & PRICE_FLAG or (kind != TRANSFER and not to_book_id) else None,
        price_scale,
    )
    if subject & TIME_GIVEN and not is_first:
        yield from (
            row._replace(ts_ns=earlier, status=MOVED) for earlier in _earlier_times(records, first, sequence) if earlier != row.ts_ns
        )
    yield row


def _first(records: Any, sequence: int) -> int:
    """The event that booked the trade which `sequence` is, or which moved to another book as `sequence`."""
    while int(records[sequence]["kind"]) == TRADE and int(records[sequence]["original"]):
        sequence = int(records[sequence]["original"])
    return sequence


def _long_id(records: Any, first: int, digest: bytes) -> bytes:
    """The whole of an id that is too long for its record."""
    if not int(records[first]["flags"]) & DETAIL_FLAG:
        return digest
    details = msgspec.json.decode(text_of(group_at(records, -1, first)))
    return str(details.get("trade_id", digest.decode())).encode()


def _earlier_times(records: Any, first: int, before: int) -> list[int]:
    """Every time that the trade had, by its own event and by amendments before event `before`, refused ones too: those moved nothing, and
    a row MOVED where none was is found by no question.
    """
    found = {_time_of(records[first])}
    chain = {first}  # the trade, and what it became by moves to other books and instruments
    for start in range(first + 1, before, SCAN_STEP):
        part = records[start : min(before, start + SCAN_STEP)]
        named = np.flatnonzero(np.isin(part["kind"], (AMEND, TRADE)) & (part["original"] >= first))
        for at in named[(part["flags"][named] & REENTRY_FLAG) == 0].tolist():
            event = part[at]
            if int(event["original"]) in chain:
                found.add(_time_of(event))
                if int(event["kind"]) == TRADE:
                    chain.add(int(event["sequence"]))
    return sorted(found)


def _time_of(event: Any) -> int:
    return int(event["trade_time_ns"]) or int(event["effective_date"]) * NS_PER_DAY


def newest(rows: Sequence[TradeRow]) -> list[TradeRow]:
    """The last row of each key, for stores whose statements may name a key once."""
    return list({(row.ts_ns, row.trade_id): row for row in rows}.values())
