"""Events and matches as rows: what one slice of the journal means for the tables.

Owns the tables' columns in their order, and how a correction changes a trade's row. Pure: arrays and names in, bytes of COPY and short
lists out; the writer carries them. Works by whole columns; only corrections, texts and definitions are looked at one by one.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from pks.base.units import round_half_even, to_int
from pks.edges.postgres import binary
from pks.edges.postgres.binary import Column
from pks.edges.postgres.names import Names
from pks.engine.booking.keys import LONG_ID_MARK
from pks.engine.instruments.definitions import AnyDefinition, decode
from pks.engine.positions.view import MULTIPLIER_DIGITS, places_of
from pks.layouts.codes import Flag, Kind, MatchKind, Side, Subject
from pks.layouts.detail import text_of
from pks.layouts.event import EVENT

TRADE_KINDS = (Kind.TRADE, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER)
LIFECYCLE_KINDS = (
    Kind.AMEND,
    Kind.CANCEL,
    Kind.FEE,
    Kind.OPENING,
    Kind.ALLOCATION,
    Kind.TRANSFER,
    Kind.ACTION,
    Kind.CASHFLOW,
    Kind.FIXING,
    Kind.PERIOD_LOCK,
    Kind.RULES,
)
BOOKED, AMENDED, UNALLOCATED = b"BOOKED", b"AMENDED", b"UNALLOCATED"

TRADE_COLUMNS = (
    "sequence", "last_sequence", "revision", "leg", "book_id", "to_book_id", "instrument_id", "account_id", "parent", "trade_time_ns",
    "trade_time", "recorded_ns", "recorded_at", "business_date", "settle_date", "open_date", "fee_unknown", "quantity", "price", "fee",
    "status", "kind", "trade_id", "source", "book", "to_book", "instrument", "side", "account", "to_account", "fee_currency", "venue",
    "order_id", "counterparty", "lot_id", "details",
)  # fmt: skip
FEE_COLUMNS = ("sequence", "trade", "trade_time_ns", "recorded_ns", "amount", "currency")
LIFECYCLE_COLUMNS = ("sequence", "trade", "recorded_ns", "recorded_at", "kind", "trade_id", "book", "instrument", "event")
MATCH_COLUMNS = (
    "sequence", "book_id", "instrument_id", "revision", "index", "count", "cause", "recorded_ns", "recorded_at", "is_current",
    "open_sequence", "open_leg", "open_date", "business_date", "lot_flags", "code", "quantity", "open_price", "close_price", "cost",
    "realised_gross", "kind", "book", "instrument", "currency",
)  # fmt: skip
TEXT_COLUMNS = ("venue", "order_id", "counterparty", "lot_id")

_KINDS = np.array([b"", *(kind.name.encode() for kind in Kind)], "S12")
_MATCH_KINDS = np.array([b"", *(kind.name.encode() for kind in MatchKind)], "S12")
_SIDES = np.array([Side.SELL.name.encode(), b"", Side.BUY.name.encode()], "S4")
assert [int(kind) for kind in Kind] == list(range(1, len(_KINDS))), "kinds are numbered without a gap"
assert [int(kind) for kind in MatchKind] == list(range(1, len(_MATCH_KINDS))), "match kinds are numbered without a gap"


@dataclass
class Change:
    """What corrections of this slice did to one trade, its terms apart."""

    last_sequence: int = 0
    cancelled_by: int = 0
    replaced_by: int = 0
    allocated_by: int = 0


@dataclass
class Rows:
    """One slice for the tables. COPYs are b"" where there is nothing."""

    first: int
    last: int
    checksum: int
    journal: bytes
    definitions: list[tuple[Subject, int, int, AnyDefinition]] = field(default_factory=list)  # the last one of each row
    trades: bytes = b""
    trades_count: int = 0
    amended: bytes = b""
    changes: dict[int, Change] = field(default_factory=dict)  # by trade
    moved: list[tuple[int, int]] = field(default_factory=list)  # (new trade, the trade that moved), in order
    fees: bytes = b""
    lifecycle: bytes = b""
    matches: bytes = b""
    matches_count: int = 0
    reissued: list[tuple[int, int, int, int]] = field(default_factory=list)  # (sequence, book, instrument, lowest revision here)


def encode(events: Any, refused: Mapping[int, int], matches: Any, words: Mapping[int, bytes], names: Names) -> Rows:
    """The rows of one slice.

    events: EVENT[n], in order, whole groups, DETAIL records among them. refused: sequence -> code of what changed nothing. matches:
    MATCH[m]. words: JSON by sequence of every event of LIFECYCLE_KINDS that was not refused. names: is taught this slice's definitions.
    """
    last = events[len(events) - 1]
    rows = Rows(int(events[0]["sequence"]), int(last["sequence"]), _signed(int(last["checksum"])), zlib.compress(events.tobytes(), 1))
    kinds = events["kind"]
    applied = np.ones(len(events), np.bool_)
    for sequence in refused:
        applied[sequence - rows.first] = False
    texts = _texts(events)
    defined: dict[tuple[Subject, int], tuple[Subject, int, int, AnyDefinition]] = {}
    for at in np.flatnonzero(kinds == Kind.REFDATA).tolist():
        head = events[at]
        definition = decode(texts[at])
        subject, row_id = Subject(int(head["subject"])), int(head["original"])
        names.learn(subject, row_id, definition)
        defined.pop((subject, row_id), None)
        defined[subject, row_id] = (subject, row_id, int(head["sequence"]), definition)
    rows.definitions = list(defined.values())
    booked = np.flatnonzero(np.isin(kinds, TRADE_KINDS) & applied)
    if len(booked):
        rows.trades, rows.trades_count = _trades(events[booked], [texts.get(at) for at in booked.tolist()], names), len(booked)
    corrections = np.isin(kinds, (Kind.AMEND, Kind.CANCEL, Kind.FEE, Kind.ALLOCATION)) | ((kinds == Kind.TRADE) & (events["original"] != 0))
    # a block whose parts were refused is allocated all the same, since it takes no other allocation; a part that stands is named first
    places = [*np.flatnonzero(corrections & applied).tolist(), *np.flatnonzero((kinds == Kind.ALLOCATION) & ~applied).tolist()]
    _correct(rows, events, places, texts, names)
    fees = events[(kinds == Kind.FEE) & applied]
    if len(fees):
        rows.fees = _fees(fees, names)
    living = np.flatnonzero(np.isin(kinds, LIFECYCLE_KINDS) & applied)
    if len(living):
        rows.lifecycle = _lifecycle(events[living], words, names)
    if len(matches):
        rows.matches, rows.matches_count = _matches(matches, names, rows.reissued), len(matches)
    return rows


def lifecycle_places(events: Any, refused: Mapping[int, int]) -> list[int]:
    """Places in events of those that `encode` wants words of."""
    found = np.flatnonzero(np.isin(events["kind"], LIFECYCLE_KINDS)).tolist()
    first = int(events[0]["sequence"])
    return [at for at in found if first + at not in refused]


def plain_id(raw: bytes) -> bytes:
    """A trade's id as UTF-8 without NUL, which is all that Postgres takes; a producer of one's own may have written any bytes."""
    return raw.decode("utf-8", "replace").replace("\ufffd", "?").replace("\0", "?").encode()


def plain_json(text: bytes) -> bytes:
    """JSON without the one character that jsonb does not take."""
    return text.replace(b"\\u0000", b"\\ufffd") if b"\\u0000" in text else text


def _plain_ids(e: Any) -> Any:
    """S40[n]: the ids of events, each as `plain_id` has it."""
    ids = np.array(e["trade_id"])
    data = ids.view(np.uint8).reshape(len(ids), -1)
    inside = np.arange(data.shape[1]) < np.char.str_len(ids)[:, None]
    for at in np.flatnonzero(((data >= 128) | ((data == 0) & inside)).any(axis=1)).tolist():
        ids[at] = plain_id(bytes(ids[at]))
    return ids


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _texts(events: Any) -> dict[int, bytes]:
    """Place of a group's head -> what its DETAIL records carry."""
    found = {}
    for at in np.flatnonzero(((events["flags"] & Flag.HAS_DETAIL) != 0) & (events["group_index"] == 0)).tolist():
        if int(events["kind"][at]) != Kind.DETAIL:
            found[at] = text_of(events[at : at + int(events["group_count"][at])])
    return found


def _details(text: bytes | None) -> dict[str, Any]:
    said = msgspec.json.decode(text) if text else {}
    return said if isinstance(said, dict) else {"text": said}


def _said(details: list[dict[str, Any]], name: str) -> Any:
    """S[n]: the text of that name, empty for none."""
    return np.array(
        [str(one[name]).replace("\0", "\ufffd").encode() if one and one.get(name) is not None else b"" for one in details], np.bytes_
    )


def _trades(e: Any, texts: list[bytes | None], names: Names, revisions: Any = None, lasts: Any = None) -> bytes:
    """COPY of TRADE_COLUMNS. With revisions and lasts, e are AMENDs, each under its trade's sequence."""
    is_amend = revisions is not None
    details = [_details(text) for text in texts] if any(texts) else []
    flags, kinds = e["flags"], e["kind"]
    status = np.where((kinds == Kind.TRADE) & ((flags & Flag.BLOCK) != 0), UNALLOCATED, BOOKED)
    status = np.where((kinds == Kind.TRADE) & (e["original"] != 0), AMENDED, status)
    trade_ids = _plain_ids(e)
    long = {at: str(one["trade_id"]).replace("\0", "\ufffd").encode() for at, one in enumerate(details) if one.get("trade_id")}
    if long:
        trade_ids = trade_ids.astype(f"S{max(40, *(len(one) for one in long.values()))}")
        for at, one in long.items():
            if bytes(trade_ids[at]).startswith(LONG_ID_MARK):
                trade_ids[at] = one
    no_fee = (flags & Flag.HAS_FEE) == 0
    no_price = ((kinds == Kind.TRANSFER) | (e["to_book_id"] != 0)) & ((flags & Flag.HAS_PRICE) == 0)
    columns = [
        binary.bigints(e["original"] if is_amend else e["sequence"]),
        binary.bigints(lasts if is_amend else e["sequence"]),
        binary.integers(revisions if is_amend else np.ones(len(e), np.int32)),
        binary.integers(e["leg"]),
        *(binary.bigints(e[name]) for name in ("book_id", "to_book_id", "instrument_id", "account_id")),
        binary.bigints(e["original"], e["original"] == 0),
        binary.bigints(e["trade_time_ns"]),
        binary.times(e["trade_time_ns"], e["trade_time_ns"] == 0),
        binary.bigints(e["recorded_ns"]),
        binary.times(e["recorded_ns"]),
        binary.dates(e["effective_date"]),
        binary.dates(e["settle_date"], e["settle_date"] == 0),
        binary.dates(e["lot_date"], e["lot_date"] == 0 if is_amend else kinds != Kind.OPENING),
        binary.booleans((flags & Flag.FEE_UNKNOWN) != 0),
        binary.numerics(e["qty_raw"], e["qty_scale"]),
        binary.numerics(e["price_raw"], e["price_scale"], no_price),
        binary.numerics(e["fee_raw"], e["fee_scale"], no_fee),
        binary.texts(status),
        binary.texts(_KINDS[kinds]),
        binary.texts(trade_ids),
        _code(names, Subject.SOURCE, e["source_id"]),
        _code(names, Subject.BOOK, e["book_id"]),
        _code(names, Subject.BOOK, e["to_book_id"]),
        _code(names, Subject.INSTRUMENT, e["instrument_id"]),
        binary.texts_or_null(_SIDES[e["side"] + 1]),
        _code(names, Subject.ACCOUNT, e["account_id"]),
        _code(names, Subject.ACCOUNT, e["to_account_id"]),
        _code(names, Subject.CURRENCY, np.where(no_fee, 0, e["fee_currency_id"])),
        *(binary.texts_or_null(_said(details, name)) if details else binary.nulls(len(e)) for name in TEXT_COLUMNS),
    ]
    return binary.rows(columns, {at: plain_json(msgspec.json.encode(one)) for at, one in enumerate(details) if one})


def _code(names: Names, subject: Subject, ids: Any) -> Column:
    if not ids.any():
        return binary.nulls(len(ids))
    return binary.texts_or_null(names.codes(subject, ids))


def _correct(rows: Rows, events: Any, places: list[int], texts: Mapping[int, bytes], names: Names) -> None:
    """Put together what corrections did to each trade: its last terms, who cancelled, moved or allocated it."""
    amends: dict[int, list[int]] = {}
    for at in places:
        e = events[at]
        sequence, kind, original, flags = int(e["sequence"]), int(e["kind"]), int(e["original"]), int(e["flags"])
        change = rows.changes.setdefault(original, Change())
        if kind == Kind.AMEND and not flags & Flag.REENTRY:
            amends.setdefault(original, []).append(at)
        elif kind == Kind.CANCEL:
            change.cancelled_by = change.last_sequence = sequence
        elif kind == Kind.FEE:
            change.last_sequence = sequence
        elif kind == Kind.ALLOCATION:
            change.allocated_by = change.allocated_by or sequence
        elif kind == Kind.TRADE:
            change.replaced_by = sequence
            rows.moved.append((sequence, original))
    if not amends:
        return
    merged: list[bytes | None] = []
    for chain in amends.values():
        details: dict[str, Any] = {}
        for at in chain:
            details |= _details(texts.get(at))
        merged.append(msgspec.json.encode(details) if details else None)
    latest = events[[chain[-1] for chain in amends.values()]]
    revisions = np.array([len(chain) for chain in amends.values()], np.int32)
    rows.amended = _trades(latest, merged, names, revisions, latest["sequence"])


def _fees(e: Any, names: Names) -> bytes:
    columns = [
        *(binary.bigints(e[name]) for name in ("sequence", "original", "trade_time_ns", "recorded_ns")),
        binary.numerics(e["fee_raw"], e["fee_scale"]),
        _code(names, Subject.CURRENCY, e["fee_currency_id"]),
    ]
    return binary.rows(columns)


def _lifecycle(e: Any, words: Mapping[int, bytes], names: Names) -> bytes:
    columns = [
        binary.bigints(e["sequence"]),
        binary.bigints(e["original"], e["original"] == 0),
        binary.bigints(e["recorded_ns"]),
        binary.times(e["recorded_ns"]),
        binary.texts(_KINDS[e["kind"]]),
        binary.texts_or_null(_plain_ids(e)),
        _code(names, Subject.BOOK, e["book_id"]),
        _code(names, Subject.INSTRUMENT, e["instrument_id"]),
    ]
    return binary.rows(columns, {at: plain_json(words[sequence]) for at, sequence in enumerate(e["sequence"].tolist())})


_SET = np.dtype([(name, EVENT[name]) for name in ("sequence", "book_id", "instrument_id")])


def _matches(m: Any, names: Names, reissued: list[tuple[int, int, int, int]]) -> bytes:
    """COPY of MATCH_COLUMNS. A set is what one closing has in one key; the one of the highest revision is current."""
    name = np.empty(len(m), _SET)
    for part in ("sequence", "book_id", "instrument_id"):
        name[part] = m[part]
    sets, which = np.unique(name, return_inverse=True)
    highest, lowest = np.zeros(len(sets), np.int64), np.full(len(sets), 2**62, np.int64)
    np.maximum.at(highest, which, m["revision"].astype(np.int64))
    np.minimum.at(lowest, which, m["revision"].astype(np.int64))
    for at in np.flatnonzero(lowest > 0).tolist():
        one = sets[at]
        reissued.append((int(one["sequence"]), int(one["book_id"]), int(one["instrument_id"]), int(lowest[at])))
    instruments = m["instrument_id"]
    columns = [
        binary.bigints(m["sequence"]),
        *(binary.bigints(m[name]) for name in ("book_id", "instrument_id", "revision", "index", "count", "cause", "recorded_ns")),
        binary.times(m["recorded_ns"]),
        binary.booleans(m["revision"] == highest[which]),
        binary.bigints(m["open_sequence"], m["open_sequence"] == 0),
        binary.integers(m["open_leg"]),
        binary.dates(m["open_date"], m["open_sequence"] == 0),
        binary.dates(m["effective_date"]),
        binary.integers(m["flags"]),
        binary.integers(m["code"]),
        binary.numerics(m["qty_raw"], m["qty_scale"]),
        binary.numerics(m["open_price_raw"], m["price_scale"]),
        binary.numerics(m["close_price_raw"], m["price_scale"]),
        _money(m, "cost", names),
        _money(m, "realised", names),
        binary.texts(_MATCH_KINDS[m["kind"]]),
        _code(names, Subject.BOOK, m["book_id"]),
        _code(names, Subject.INSTRUMENT, instruments),
        binary.texts_or_null(names.pnl_currency[instruments]),
    ]
    return binary.rows(columns)


def _money(m: Any, name: str, names: Names) -> Column:
    """Money times multiplier and quote factor; rounded half-even at money_scale + 12 where the multiplier's denominator is no decimal."""
    instruments = m["instrument_id"]
    odd = np.isin(instruments, list(names.odd)) if names.odd else None
    if odd is None or not odd.any():
        scale = m["money_scale"].astype(np.int64) + names.places[instruments]
        return binary.big_numerics(m[f"{name}_hi"], m[f"{name}_lo"], scale, names.factor[instruments])
    values, scales = [], []
    pairs = zip(m[f"{name}_hi"].tolist(), m[f"{name}_lo"].tolist(), m["money_scale"].tolist(), instruments.tolist(), strict=True)
    for hi, lo, scale, instrument in pairs:
        numerator, denominator = names.odd.get(instrument) or (int(names.factor[instrument]), 10 ** int(names.places[instrument]))
        digits = max(MULTIPLIER_DIGITS, places_of(denominator)) if denominator > 1 else 0
        values.append(round_half_even(to_int(hi, lo) * numerator * 10**digits, denominator))
        scales.append(scale + digits)
    return binary.exact_numerics(values, np.array(scales, np.int64))
