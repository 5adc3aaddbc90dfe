"""What clients are told, as bytes: positions once a version, patches of what changed, trades as they were booked, and frames made of them.

Owns the words of positions (those of `pks positions --json`) as they were told last, and of events (those of `pks trades --json`).
Frames are joined of bytes that are encoded once, whoever receives them. Pure: no socket, clock or segment. Only the hub calls it.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from pks.base.clock import format_date, format_time
from pks.base.errors import Code
from pks.base.units import format_scaled
from pks.client.errors import UnknownName
from pks.client.names import Names
from pks.engine.positions.view import PositionView
from pks.layouts.codes import Flag, Kind, Side, Subject
from pks.layouts.event import DETAIL, DETAIL_TEXT_BYTES, EVENT

KEY_WORDS = ("book", "instrument")
ALWAYS_WORDS = (*KEY_WORDS, "last_sequence")
"""In every patch, changed or not."""

TRADE_KINDS = (Kind.TRADE, Kind.AMEND, Kind.CANCEL, Kind.FEE, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER)
"""Events that are told as trades. Those that an accumulator sent because a correction changed moved lots are not."""

_AMOUNTS = (Kind.TRADE, Kind.AMEND, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER)
_STATES = {Kind.AMEND: "AMENDED", Kind.CANCEL: "CANCELLED"}

_encode = msgspec.json.encode
_decode = msgspec.json.decode

Event = namedtuple("Event", EVENT.names or ())  # type: ignore[misc]
"""An EVENT as Python's own values: a row is made of some thirty fields, and each costs much less here than in a numpy record."""


class Change(NamedTuple):
    """One position that changed: item is a patch of what was told before, or all of it where nobody was told."""

    row: int
    book: str
    item: bytes


class Told:
    """The latest words of each position, by its row: what a client has that got every frame."""

    def __init__(self, rows: Iterable[int] = ()) -> None:
        """rows: those that are there already, so that everyone who asks for everything has them."""
        self._whole: dict[int, bytes] = {}
        self._announced = set(rows)

    def __contains__(self, row: int) -> bool:
        return row in self._whole

    def change(self, rows: Iterable[int], positions: Iterable[PositionView]) -> list[Change]:
        """Take positions as they are now; an item each for those who have what was told before."""
        changes = []
        for row, position in zip(rows, positions, strict=True):
            words = position.as_dict()
            whole, before = _encode(words), self._whole.get(row)
            self._whole[row] = whole
            if before is None or row not in self._announced:
                self._announced.add(row)  # some may have learned of it, but not those who asked for everything before it was there
                changes.append(Change(row, position.book, whole))
            elif before != whole:
                changes.append(Change(row, position.book, patch_of(_decode(before), words)))
        return changes

    def learn(self, rows: Iterable[int], positions: Iterable[PositionView]) -> None:
        """Take positions that nobody was told yet, for `whole`."""
        for row, position in zip(rows, positions, strict=True):
            assert row not in self._whole, f"row {row} was told already"
            self._whole[row] = _encode(position.as_dict())

    def whole(self, row: int) -> bytes:
        """All words of a position that was told or learned."""
        return self._whole[row]


def patch_of(before: dict[str, Any], now: dict[str, Any]) -> bytes:
    """The key, the words that changed, and last_sequence."""
    return _encode({word: value for word, value in now.items() if value != before[word] or word in ALWAYS_WORDS})


class Trade(NamedTuple):
    """One booked event: the books that it touches ("" for none), and its words."""

    sequence: int
    books: tuple[str, str]
    item: bytes

    def touches(self, books: frozenset[str]) -> bool:
        """Whether one of these books is in it."""
        return self.books[0] in books or self.books[1] in books


def whole_groups(records: Any) -> int:
    """How many of the records (EVENT[n], in order) can be told: an event whose DETAIL records are not all there waits with what follows."""
    flagged = np.flatnonzero((records["flags"] & np.uint16(Flag.HAS_DETAIL) != 0) & (records["kind"] != Kind.DETAIL))
    if len(flagged):
        last = int(flagged[-1])
        if last + 1 + details_count(int(records[last]["detail_bytes"])) > len(records):
            return last
    return len(records)


def details_count(text_bytes: int) -> int:
    """DETAIL records that hold so long a text."""
    return -(-text_bytes // DETAIL_TEXT_BYTES)


def trades_of(records: Any, names: Names, refused: dict[int, int]) -> list[Trade]:
    """The trades among whole groups of records (EVENT[n], in order). refused: sequence -> code of what a position did not allow."""
    chosen = np.flatnonzero(np.isin(records["kind"], TRADE_KINDS) & (records["flags"] & np.uint16(Flag.REENTRY) == 0))
    found = []
    for at, values in zip(chosen.tolist(), records[chosen].tolist(), strict=True):
        event: Any = Event._make(values)
        words = event_words(event, _details_behind(records, at, event), names, refused.get(event.sequence, 0))
        found.append(Trade(event.sequence, (words["book"] or "", words["to_book"] or ""), _encode(words)))
    return found


def _details_behind(records: Any, at: int, event: Any) -> dict[str, Any]:
    if not event.flags & Flag.HAS_DETAIL:
        return {}
    part = records[at + 1 : at + 1 + details_count(event.detail_bytes)].view(DETAIL)
    found: dict[str, Any] = _decode(np.ascontiguousarray(part["text"]).tobytes()[: event.detail_bytes])
    return found


def event_words(e: Any, details: dict[str, Any], names: Names, refused: int = 0) -> dict[str, Any]:
    """An event in the words of `pks trades --json`, as it was booked; `original` is the sequence of the trade that a correction names."""
    kind = Kind(e.kind)
    has_amount, has_price = kind in _AMOUNTS, kind in _AMOUNTS and (kind != Kind.TRANSFER or bool(e.flags & Flag.HAS_PRICE))
    code = Code(refused).name if refused else None
    state = "REFUSED" if code else _STATES.get(kind, "UNALLOCATED" if kind == Kind.TRADE and e.flags & Flag.BLOCK else "BOOKED")
    return {
        "sequence": e.sequence,
        "trade_id": details.get("trade_id") or e.trade_id.decode(errors="backslashreplace"),
        "leg": e.leg,
        "source": _name(names, Subject.SOURCE, e.source_id),
        "kind": kind.name,
        "status": f"{state} {code}" if code else state,
        "state": state,
        "code": code,
        "book": _name(names, Subject.BOOK, e.book_id),
        "to_book": _name(names, Subject.BOOK, e.to_book_id),
        "instrument": _name(names, Subject.INSTRUMENT, e.instrument_id),
        "side": Side(e.side).name if e.side else None,
        "quantity": format_scaled(e.qty_raw, e.qty_scale) if has_amount else None,
        "price": format_scaled(e.price_raw, e.price_scale) if has_price else None,
        "fees": _fees(e, names),
        "account": _name(names, Subject.ACCOUNT, e.account_id),
        "to_account": _name(names, Subject.ACCOUNT, e.to_account_id),
        "trade_time": format_time(e.trade_time_ns) if e.trade_time_ns else None,
        "business_date": format_date(e.effective_date),
        "settle_date": format_date(e.settle_date) if e.settle_date else None,
        "open_date": format_date(e.lot_date) if kind == Kind.OPENING else None,
        "lot_id": details.get("lot_id"),
        "venue": details.get("venue"),
        "order_id": details.get("order_id"),
        "counterparty": details.get("counterparty"),
        "note": details.get("note"),
        "original": e.original or None,
        "recorded_time": format_time(e.recorded_ns),
    }


def _fees(e: Any, names: Names) -> dict[str, str] | None:
    if e.flags & Flag.HAS_FEE:
        return {_name(names, Subject.CURRENCY, e.fee_currency_id) or "": format_scaled(e.fee_raw, e.fee_scale)} if e.fee_raw else {}
    return None if e.flags & Flag.FEE_UNKNOWN or e.kind != Kind.TRADE else {}


def _name(names: Names, subject: Subject, row_id: int) -> str | None:
    if not row_id:
        return None
    try:
        return names.code_of(subject, row_id)
    except UnknownName:
        return f"#{row_id}"  # its row is on its way: what is booked is told at once


# Frames: a head that is each client's own, and a tail that all who see the same share.


def head_of(kind: str) -> bytes:
    """The beginning of a message up to its number."""
    return b'{"type":"%b","seq":' % kind.encode()


def tail_of(state: str, sequence: int, durable: int, data: bytes, extra: bytes = b"") -> bytes:
    """The rest of a message behind its number. extra: more words, each with a comma before it."""
    return b',"state":"%b","sequence":%d,"durable":%d%b,"data":%b}' % (state.encode(), sequence, durable, extra, data)


def list_of(items: Sequence[bytes]) -> bytes:
    """A JSON list of encoded items."""
    return b"[%b]" % b",".join(items)


def blotter_of(positions: Sequence[bytes], trades: Sequence[bytes]) -> bytes:
    """Both of a blotter's lists."""
    return b'{"positions":%b,"trades":%b}' % (list_of(positions), list_of(trades))


class Sight(NamedTuple):
    """What a frame says of its figures: the state's word, the event that they reflect, the event that is on disk."""

    state: str
    sequence: int
    durable: int
