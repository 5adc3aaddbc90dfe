"""Between records and messages: EVENTs to trades, lifecycle events and rejections; positions in words to messages; messages to words.

Pure: arrays, names and texts in, messages out, and back. Owns what each field of a message is taken from; knows no server, no rule of
booking and no file. Names come from `Names`, which a catalogue gives; `changed` words from the caller, who knows the bits of an AMEND.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from pks.base.clock import format_date, format_time
from pks.base.limits import DATE_MAX, DATE_MIN
from pks.base.units import SCALE_MAX, format_scaled
from pks.layouts.codes import Flag, Kind, Side, Subject
from pks.layouts.detail import text_of
from pks.layouts.event import EVENT, EVENT_BYTES, EVENT_LAYOUT_VERSION, FIELD_NAME, FIELD_WORDS
from pks.proto.pks.v1 import booking_pb2, event_pb2, position_pb2

BOOKED = (Kind.TRADE, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER)
"""Events that book something new: TradeBooked."""

APPLIED = (Kind.AMEND, Kind.CANCEL, Kind.FEE, Kind.ACTION, Kind.CASHFLOW, Kind.FIXING, Kind.PERIOD_LOCK, Kind.RULES)
"""Events that change what was booked: LifecycleEventApplied."""

CORRECTIONS = (Kind.AMEND, Kind.CANCEL, Kind.FEE)

TEXT_WORDS = (
    "trade_id", "source", "kind", "book", "to_book", "instrument", "side", "quantity", "price", "at", "fee", "fee_currency", "account",
    "counterparty", "venue", "order_id", "business_date", "settle_date", "open_date", "parent_id", "lot_id", "note",
)  # fmt: skip
"""Words of the trade input that a Trade carries as text; `leg` and `trade_time` it carries as numbers."""

IDENTITY_WORDS = ("trade_id", "source", "leg", "kind")
"""Words that name a correction's trade, whatever it changes."""

_KIND = {int(kind): kind.name for kind in Kind}
_SIDE = {int(Side.BUY): "BUY", int(Side.SELL): "SELL", 0: ""}
_WITH_PRICE = frozenset(map(int, (Kind.TRADE, Kind.OPENING, Kind.ALLOCATION)))
_HAS_PRICE, _HAS_FEE, _HAS_BUSINESS_DATE = int(Flag.HAS_PRICE), int(Flag.HAS_FEE), int(Flag.HAS_BUSINESS_DATE)
_BLOCK, _FEE_UNKNOWN = int(Flag.BLOCK), int(Flag.FEE_UNKNOWN)
_FIELDS = (
    "sequence", "recorded_ns", "kind", "side", "flags", "leg", "trade_time_ns", "original", "lot", "qty_raw", "price_raw", "fee_raw",
    "book_id", "to_book_id", "instrument_id", "account_id", "to_account_id", "source_id", "fee_currency_id", "effective_date", "lot_date",
    "settle_date", "price_scale", "qty_scale", "fee_scale", "trade_id", "group_count", "subject",
)  # fmt: skip


class Definition(Protocol):
    """A row of reference data."""

    @property
    def code(self) -> str: ...


class Names:
    """Codes of row ids, kept; `get` as of `engine.instruments.catalogue.Catalogue`. Codes never change, so what was found stays true."""

    def __init__(self, get: Callable[[Subject, int], Definition | None]) -> None:
        self._get = get
        self._codes: dict[tuple[Subject, int], str] = {}

    def code(self, subject: Subject, row_id: int) -> str:
        """The code, "" for id 0 and for one that is not known."""
        if not row_id:
            return ""
        key = (subject, row_id)
        if key not in self._codes:
            definition = self._get(subject, row_id)
            if definition is None:
                return ""
            self._codes[key] = definition.code
        return self._codes[key]


class Fields(NamedTuple):
    """The fields of one EVENT as plain values, in the order of the record's use here."""

    sequence: int
    recorded_ns: int
    kind: int
    side: int
    flags: int
    leg: int
    trade_time_ns: int
    original: int
    lot: int
    qty_raw: int
    price_raw: int
    fee_raw: int
    book_id: int
    to_book_id: int
    instrument_id: int
    account_id: int
    to_account_id: int
    source_id: int
    fee_currency_id: int
    effective_date: int
    lot_date: int
    settle_date: int
    price_scale: int
    qty_scale: int
    fee_scale: int
    trade_id: bytes
    group_count: int
    subject: int


assert Fields._fields == _FIELDS, "one order"


def fields_of(events: Any) -> list[Fields]:
    """EVENT[n] as n Fields: by columns, which is much quicker than record by record."""
    return list(map(Fields._make, zip(*(events[name].tolist() for name in _FIELDS), strict=True)))


class Encoder:
    """Events in words. `id_at(sequence)`: the trade id of an earlier event, for what names another by its sequence."""

    def __init__(self, names: Names, id_at: Callable[[int], str], given: Mapping[str, int]) -> None:
        """given: word -> its bit in an AMEND's `subject`."""
        self.names, self.id_at, self.given = names, id_at, given

    def trade(self, e: Fields, details: Mapping[str, Any]) -> Any:
        """The Trade of an event; details: the text of its group, {} for none."""
        code, flags, kind = self.names.code, e.flags, e.kind
        trade = booking_pb2.Trade(
            trade_id=str(details.get("trade_id", "")) or e.trade_id.decode(errors="replace"),
            source=code(Subject.SOURCE, e.source_id),
            leg=e.leg,
            kind=_KIND[kind],
            book=code(Subject.BOOK, e.book_id),
            instrument=code(Subject.INSTRUMENT, e.instrument_id),
            side=_SIDE[e.side],
            quantity=format_scaled(e.qty_raw, e.qty_scale),
            account=code(Subject.ACCOUNT, e.account_id),
            trade_time_ns=e.trade_time_ns,
            business_date=format_date(e.effective_date),
            sequence=e.sequence,
            recorded_ns=e.recorded_ns,
        )
        if flags & _HAS_PRICE or kind in _WITH_PRICE:
            trade.price = format_scaled(e.price_raw, e.price_scale)
        if flags & _HAS_FEE:
            trade.fee, trade.fee_currency = format_scaled(e.fee_raw, e.fee_scale), code(Subject.CURRENCY, e.fee_currency_id)
        if not flags & _HAS_BUSINESS_DATE and kind != Kind.OPENING:
            trade.business_date_derived = True
        if e.settle_date:
            trade.settle_date = format_date(e.settle_date)
        if flags & _BLOCK:
            trade.is_block = True
        if flags & _FEE_UNKNOWN:
            trade.fee_unknown = True
        if e.to_account_id:
            trade.to_account = code(Subject.ACCOUNT, e.to_account_id)
        if kind == Kind.TRANSFER or e.to_book_id:
            trade.to_book, trade.at = code(Subject.BOOK, e.to_book_id), "MARKET" if flags & Flag.AT_MARKET else "COST"
        if kind == Kind.OPENING:
            trade.lot_id, trade.open_date = trade.trade_id, format_date(e.lot_date)
        elif kind == Kind.ALLOCATION:
            trade.parent_id = self.id_at(e.original)
        for word in ("counterparty", "venue", "order_id", "note", "lot_id"):
            if word in details:
                setattr(trade, word, str(details[word]))
        return trade

    def lifecycle(self, e: Fields, details: Mapping[str, Any], root: str) -> Any:
        """The LifecycleEvent of a correction or action; root: where it was booked first, "" for here."""
        event = booking_pb2.LifecycleEvent(trade=self.trade(e, details), original_sequence=e.original, root=root)
        if e.kind == Kind.AMEND:
            event.changed.extend(word for word, bit in self.given.items() if e.subject & bit)
            event.derived = bool(e.flags & Flag.REENTRY)
        elif e.kind == Kind.ACTION:
            event.numerator, event.denominator = e.qty_raw, e.price_raw
            event.trade.ClearField("quantity")
            event.trade.ClearField("price")
            if e.flags & Flag.HAS_CASH_PRICE:
                event.cash_price = format_scaled(e.fee_raw, e.price_scale)
        return event

    def rejection(self, e: Fields, details: Mapping[str, Any], code: str, reason: str, record: bytes) -> Any:
        """The Rejection of an event that the position refused."""
        trade = self.trade(e, details)
        return booking_pb2.Rejection(
            code=code, reason=reason, source=trade.source, trade_id=trade.trade_id, sequence=e.sequence, recorded_ns=e.recorded_ns,
            trade=trade, original=record,
        )  # fmt: skip

    def refused(self, group: Any, recorded_ns: int, code: str, reason: str, field: int, value: int) -> Any:
        """The Rejection of a group that never became events (EVENT[n], as its source sent it; field, value: as in its REPLY).

        Nothing of what the bytes say is believed: what cannot be said is left out, and the bytes are there.
        """
        e, details = fields_of(group[:1])[0], _texts_of(group)
        trade = self._partial(e, details)
        trade.recorded_ns = recorded_ns
        name = FIELD_NAME.get(field, "")
        return booking_pb2.Rejection(
            code=code, field=FIELD_WORDS.get(name, name), value=self._offending(name, e, trade, value), reason=reason, source=trade.source,
            trade_id=trade.trade_id, recorded_ns=recorded_ns, trade=trade, original=group.tobytes(),
        )  # fmt: skip

    def _partial(self, e: Fields, details: Mapping[str, str]) -> Any:
        """As much of a Trade as the fields of a record of unknown worth say."""
        code = self.names.code
        trade = booking_pb2.Trade(
            trade_id=details.get("trade_id", "") or e.trade_id.decode(errors="replace"),
            source=code(Subject.SOURCE, e.source_id),
            leg=e.leg,
            kind=_KIND.get(e.kind, ""),
            book=code(Subject.BOOK, e.book_id),
            to_book=code(Subject.BOOK, e.to_book_id),
            instrument=code(Subject.INSTRUMENT, e.instrument_id),
            side=_SIDE.get(e.side, ""),
            account=code(Subject.ACCOUNT, e.account_id),
            to_account=code(Subject.ACCOUNT, e.to_account_id),
            trade_time_ns=e.trade_time_ns,
            settle_date=_date_or_nothing(e.settle_date),
        )
        if e.kind in BOOKED or e.qty_raw:
            trade.quantity = _scaled_or_nothing(e.qty_raw, e.qty_scale)
        if e.flags & _HAS_PRICE or e.kind in _WITH_PRICE or e.price_raw:
            trade.price = _scaled_or_nothing(e.price_raw, e.price_scale)
        if e.flags & _HAS_FEE:
            trade.fee, trade.fee_currency = _scaled_or_nothing(e.fee_raw, e.fee_scale), code(Subject.CURRENCY, e.fee_currency_id)
        if e.flags & _HAS_BUSINESS_DATE:
            trade.business_date = _date_or_nothing(e.effective_date)
        if e.kind == Kind.OPENING:
            trade.open_date = _date_or_nothing(e.lot_date)
        for word in ("counterparty", "venue", "order_id", "note", "lot_id"):
            if word in details:
                setattr(trade, word, details[word])
        return trade

    def _offending(self, name: str, e: Fields, trade: Any, value: int) -> str:
        """The refused value in words, "" where there is none."""
        match name:
            case "trade_id" | "original":
                return str(trade.trade_id)
            case "qty_raw":
                return _scaled_or_nothing(e.qty_raw, e.qty_scale)
            case "price_raw":
                return _scaled_or_nothing(e.price_raw, e.price_scale)
            case "fee_raw":
                return _scaled_or_nothing(e.fee_raw, e.fee_scale)
            case "trade_time_ns":
                return format_time(e.trade_time_ns)  # every int64 of nanoseconds lies between the years 1677 and 2262
            case "effective_date" | "settle_date" | "lot_date":
                return _date_or_nothing(value or int(getattr(e, name)))
            case "book_id" | "to_book_id" | "instrument_id" | "account_id" | "to_account_id" | "source_id" | "fee_currency_id":
                row = int(getattr(e, name))
                return self.names.code(_NAMED_BY[name], row) or (str(row) if row else "")
            case _:
                return str(value) if value else ""


_NAMED_BY = {
    "book_id": Subject.BOOK,
    "to_book_id": Subject.BOOK,
    "instrument_id": Subject.INSTRUMENT,
    "account_id": Subject.ACCOUNT,
    "to_account_id": Subject.ACCOUNT,
    "source_id": Subject.SOURCE,
    "fee_currency_id": Subject.CURRENCY,
}


def _scaled_or_nothing(raw: int, scale: int) -> str:
    return format_scaled(raw, scale) if scale <= SCALE_MAX else ""


def _date_or_nothing(days: int) -> str:
    return format_date(days) if DATE_MIN <= days <= DATE_MAX else ""


def _texts_of(group: Any) -> dict[str, str]:
    """The texts of a group's object that a message can carry; {} for what is no object."""
    try:
        found = details_of(group)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # a program's bytes: anything may stand there
        return {}
    return {name: value.encode(errors="replace").decode() for name, value in found.items() if isinstance(value, str)}


def details_of(group: Any) -> dict[str, Any]:
    """The text of a group (EVENT[n], the event first) as an object; {} where it has none."""
    text = text_of(group)
    found = msgspec.json.decode(text) if text else {}
    return found if isinstance(found, dict) else {}


def position_fields(view: Any) -> dict[str, Any]:
    """Every field of a PositionUpdated (and of what has its fields) of an `engine.positions.view.PositionView`."""
    words, record = view.as_dict(), view.record
    del words["last_trade_time"]  # a message has it in nanoseconds
    last_price = view.last_price
    words.update(
        average_price=words["average_price"] or "",
        last_trade_time_ns=view.last_trade_time_ns,
        version=view.version,
        recorded_ns=view.recorded_ns,
        book_id=int(record["book_id"]),
        instrument_id=int(record["instrument_id"]),
        fee_unknown=view.fee_unknown,
        forced=view.forced,
        inverse=view.is_inverse,
        last_price="" if last_price is None else format(last_price, "f"),
        trades_count=view.trades_count,
        clearing_cost=format(view.clearing_cost, "f"),
        variation=format(view.variation, "f"),
    )
    return dict(words)


def position_message(view: Any) -> Any:
    """PositionUpdated of a PositionView."""
    return position_pb2.PositionUpdated(**position_fields(view))


def position_words(message: Any) -> dict[str, Any]:
    """A PositionUpdated in the words of `pks positions --json`."""
    return {
        "book": message.book,
        "instrument": message.instrument,
        "quantity": message.quantity,
        "average_price": message.average_price or None,
        "cost": message.cost,
        "realised_gross": message.realised_gross,
        "realised_net": message.realised_net,
        "fees": dict(message.fees),
        "open_lots": message.open_lots,
        "currency": message.currency,
        "last_trade_time": format_time(message.last_trade_time_ns) if message.last_trade_time_ns else None,
        "last_sequence": message.last_sequence,
    }


def events_message(first: int, records: Any) -> bytes:
    """The EventBatch of EVENT[n] from sequence `first` on."""
    batch = event_pb2.EventBatch(first=first, last=first + len(records) - 1, layout_version=EVENT_LAYOUT_VERSION, records=records.tobytes())
    return bytes(batch.SerializeToString())


def events_of(payload: bytes) -> tuple[int, int, bytes]:
    """(first, last, records) of an EventBatch. Raises ValueError for what is none, or has another layout."""
    batch = event_pb2.EventBatch()
    batch.ParseFromString(payload)
    if batch.layout_version != EVENT_LAYOUT_VERSION:
        raise ValueError(f"layout version {batch.layout_version} of EVENT is not known, {EVENT_LAYOUT_VERSION} is")
    if len(batch.records) != (batch.last - batch.first + 1) * EVENT_BYTES or batch.first < 1:
        raise ValueError(f"events {batch.first} to {batch.last} in {len(batch.records)} bytes")
    return batch.first, batch.last, batch.records


def trade_words(trade: Any, only: Iterable[str] = ()) -> dict[str, str]:
    """The words of the trade input that a Trade gives, texts all; only: of a correction, the words that it changes (none: all)."""
    words = {name: value for name in TEXT_WORDS if (value := getattr(trade, name))}
    if trade.leg:
        words["leg"] = str(trade.leg)
    if trade.trade_time_ns:
        words["trade_time"] = format_time(trade.trade_time_ns)
    if trade.business_date_derived:
        words.pop("business_date", None)
    chosen = set(only)
    if chosen:
        chosen |= {*IDENTITY_WORDS, *(("fee_currency",) if "fee" in chosen else ())}
        words = {name: value for name, value in words.items() if name in chosen}
    return words


assert EVENT.itemsize == EVENT_BYTES, "a message counts records"
