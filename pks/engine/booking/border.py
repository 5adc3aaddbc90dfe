"""The border of booking: a row of text becomes the records of one group, or is refused by field, value and reason.

Owns every conversion from text to raw integers in the instruments' scales. Used by `pks book`, the loader and every other producer;
capture checks again what can be checked there. Looks names up in a catalogue; may not read files or touch shared memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from pks.base.clock import parse_date, parse_time, zone_day_end
from pks.base.errors import Code, Refused
from pks.base.ids import key_of
from pks.base.limits import TRADE_ID_BYTES_MAX
from pks.base.units import InexactNumber, NotANumber, NotExact, digits_of, parse_scaled
from pks.engine.booking.admit import GIVEN
from pks.engine.booking.keys import LONG_ID_MARK, NO_LOT, inline_id, trade_key
from pks.layouts.codes import Flag, Kind, Side, Subject
from pks.layouts.detail import with_text
from pks.layouts.event import EVENT, EVENT_WORDS
from pks.layouts.slots import FEE_SCALE

SCALE_MAX = 18
BLOCK_SOURCE = "BLOCK"
DEFAULT_SOURCE = "MANUAL"
TEXT_FIELDS = ("counterparty", "venue", "order_id", "note")
KINDS = {name: Kind[name] for name in ("TRADE", "CANCEL", "AMEND", "FEE", "OPENING", "TRANSFER", "ALLOCATION")}


class Row(Protocol):
    """The text of one trade (`edges.files.rows.TradeRow`, or a command's body)."""

    trade_id: str
    source: str
    kind: str


class Instrument(Protocol):
    """What the border must know of an instrument (`engine.instruments.definitions.Instrument`)."""

    @property
    def price_scale(self) -> int: ...
    @property
    def qty_scale(self) -> int: ...
    @property
    def money_scale(self) -> int: ...
    @property
    def negative_price(self) -> bool: ...
    @property
    def zero_price(self) -> bool: ...
    @property
    def contract_type(self) -> str: ...
    @property
    def pnl_currency(self) -> str: ...


class Book(Protocol):
    """What the border must know of a book."""

    @property
    def zone(self) -> str: ...


class Catalogue(Protocol):
    """Where the border looks names up (`engine.instruments.catalogue.Catalogue`)."""

    def id_of(self, subject: Subject, code: str) -> int: ...
    def find_instrument(self, text: str, venue: str = "") -> int: ...
    def instrument(self, row_id: int) -> Instrument: ...
    def book(self, row_id: int) -> Book: ...


class Border:
    """Rows in, groups of intake records out, by one catalogue."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def group_of(self, row: Any) -> Any:
        """EVENT[n]: the group that says what the row says. Raises Refused."""
        kind = self._kind(row)
        e = np.zeros(1, EVENT)[0]
        e["kind"], e["group_count"] = kind, 1
        self._identity(e, row, kind)
        if kind in (Kind.TRADE, Kind.OPENING):
            self._trade(e, row, kind)
        elif kind == Kind.AMEND:
            self._amend(e, row)
        elif kind == Kind.FEE:
            self._fee_only(e, row)
        elif kind == Kind.TRANSFER:
            self._transfer(e, row)
        elif kind == Kind.ALLOCATION:
            self._child(e, row)
        if kind in (Kind.CANCEL, Kind.AMEND, Kind.FEE):
            self._own_key(e, row, kind)
        return self._with_details(e, row)

    def source_of(self, row: Any) -> str:
        """The source that the row has or stands for."""
        return row.source or ("" if self._kind(row) in (Kind.CANCEL, Kind.AMEND, Kind.FEE) else DEFAULT_SOURCE)

    # parts

    def _kind(self, row: Any) -> Kind:
        text = (row.kind or "").strip().upper()
        if not text:
            return Kind.ALLOCATION if row.parent_id else Kind.TRADE
        if text not in KINDS:
            raise Refused(Code.UNKNOWN_KIND, "kind", row.kind)
        if text == "TRADE" and row.parent_id:
            return Kind.ALLOCATION
        return KINDS[text]

    def _identity(self, e: Any, row: Any, kind: Kind) -> None:
        trade_id = row.trade_id or (row.lot_id if kind == Kind.OPENING else "")
        if not trade_id:
            raise Refused(Code.MISSING_FIELD, "lot_id" if kind == Kind.OPENING else "trade_id", "")
        if kind == Kind.OPENING and row.lot_id and row.lot_id != trade_id:
            raise Refused(Code.BAD_ROW, "lot_id", row.lot_id, "an opening lot is named by its trade_id: leave one of the two out")
        raw = trade_id.encode()
        if len(raw) > TRADE_ID_BYTES_MAX or any(byte < 32 for byte in raw):
            raise Refused(Code.BAD_TEXT, "trade_id", trade_id)
        e["trade_id"] = inline_id(trade_id)
        e["leg"] = self._whole(row.leg, "leg", 0, 65_535) if row.leg else 0
        source = self.source_of(row)
        e["source_id"] = self._id(Subject.SOURCE, source, "source", Code.BAD_ROW) if source else 0
        if row.account:
            e["account_id"] = self._id(Subject.ACCOUNT, row.account, "account", Code.UNKNOWN_ACCOUNT)

    def _id(self, subject: Subject, code: str, field: str, refusal: Code) -> int:
        row_id = self.catalogue.id_of(subject, code)
        if not row_id:
            raise Refused(refusal, field, code)
        return row_id

    def _whole(self, text: str, field: str, low: int, high: int) -> int:
        try:
            value = parse_scaled(text, 0)
        except InexactNumber as error:
            raise Refused(Code.NOT_A_NUMBER, field, text, error.reason) from None
        if not low <= value <= high:
            raise Refused(Code.OUT_OF_RANGE, field, text)
        return value

    def _required(self, row: Any, *fields: str) -> None:
        for field in fields:
            if not getattr(row, field):
                raise Refused(Code.MISSING_FIELD, field, "")

    def _instrument(self, e: Any, row: Any) -> Instrument:
        instrument_id = self.catalogue.find_instrument(row.instrument, row.venue)
        if not instrument_id:
            raise Refused(Code.UNKNOWN_INSTRUMENT, "instrument", row.instrument)
        instrument = self.catalogue.instrument(instrument_id)
        self._scales(e, instrument_id, instrument)
        return instrument

    def _scales(self, e: Any, instrument_id: int, instrument: Instrument) -> None:
        e["instrument_id"] = instrument_id
        e["price_scale"], e["qty_scale"], e["money_scale"] = instrument.price_scale, instrument.qty_scale, instrument.money_scale

    def _book(self, e: Any, text: str, field: str = "book", into: str = "book_id") -> None:
        e[into] = self._id(Subject.BOOK, text, field, Code.UNKNOWN_BOOK)

    def _number(self, text: str, scale: int, field: str) -> int:
        try:
            return parse_scaled(text, scale)
        except NotANumber as error:
            raise Refused(Code.NOT_A_NUMBER, field, text, error.reason) from None
        except NotExact as error:
            raise Refused(Code.OVER_PRECISE, field, text, f"{error.reason}; the instrument keeps {scale} places") from None
        except InexactNumber as error:
            raise Refused(Code.OUT_OF_RANGE, field, text, error.reason) from None

    def _quantity(self, e: Any, row: Any, instrument: Instrument) -> None:
        e["qty_raw"] = self._number(row.quantity, instrument.qty_scale, "quantity")
        if e["qty_raw"] <= 0:
            raise Refused(Code.NOT_POSITIVE, "quantity", row.quantity)

    def _price(self, e: Any, row: Any, instrument: Instrument) -> None:
        price_raw = self._number(row.price, instrument.price_scale, "price")
        inverse = instrument.contract_type == "INVERSE"
        if price_raw < 0 and (not instrument.negative_price or inverse):
            raise Refused(Code.NEGATIVE_PRICE, "price", row.price)
        if price_raw == 0 and (not instrument.zero_price or inverse):
            raise Refused(Code.ZERO_PRICE, "price", row.price)
        e["price_raw"] = price_raw
        _flag(e, Flag.HAS_PRICE)

    def _side(self, e: Any, row: Any) -> None:
        text = row.side.strip().upper()
        if text not in ("BUY", "SELL"):
            raise Refused(Code.WRONG_SIDE, "side", row.side)
        e["side"] = Side[text]

    def _fee(self, e: Any, row: Any, instrument: Instrument | None) -> None:
        if not row.fee:
            if row.fee_currency and not row.trade_id:
                raise Refused(Code.MISSING_FIELD, "fee", "")
            _flag(e, Flag.FEE_UNKNOWN)
            return
        try:
            scale = digits_of(row.fee)
        except InexactNumber as error:
            raise Refused(Code.NOT_A_NUMBER, "fee", row.fee, error.reason) from None
        if scale > FEE_SCALE:
            raise Refused(Code.OVER_PRECISE, "fee", row.fee, f"fees keep {FEE_SCALE} places")
        e["fee_raw"], e["fee_scale"] = self._number(row.fee, scale, "fee"), scale
        currency = row.fee_currency or (instrument.pnl_currency if instrument is not None else "")
        if not currency:
            raise Refused(Code.MISSING_FIELD, "fee_currency", "")
        e["fee_currency_id"] = self._id(Subject.CURRENCY, currency, "fee_currency", Code.UNKNOWN_CURRENCY)
        _flag(e, Flag.HAS_FEE)

    def _times(self, e: Any, row: Any) -> None:
        if row.trade_time:
            e["trade_time_ns"] = parse_time(row.trade_time, "trade_time", bool(getattr(row, "trade_time_assumed_utc", False)))
        if row.business_date:
            e["effective_date"] = parse_date(row.business_date, "business_date")
            _flag(e, Flag.HAS_BUSINESS_DATE)
        if row.settle_date:
            e["settle_date"] = parse_date(row.settle_date, "settle_date")

    # kinds

    def _trade(self, e: Any, row: Any, kind: Kind) -> None:
        self._required(row, "instrument", "side", "quantity", "price")
        if kind == Kind.OPENING:
            self._required(row, "book", "open_date", "business_date")
        else:
            self._required(row, "trade_time")
        instrument = self._instrument(e, row)
        self._side(e, row)
        self._quantity(e, row, instrument)
        self._price(e, row, instrument)
        self._fee(e, row, instrument)
        self._times(e, row)
        if row.book:
            self._book(e, row.book)
        elif row.source == BLOCK_SOURCE:
            _flag(e, Flag.BLOCK)
        if kind == Kind.OPENING:
            e["lot_date"] = parse_date(row.open_date, "open_date")
            zone = self.catalogue.book(int(e["book_id"])).zone
            e["trade_time_ns"] = zone_day_end(int(e["effective_date"]), zone)
            if not row.fee:
                e["flags"] = int(e["flags"]) & ~int(Flag.FEE_UNKNOWN)

    def _amend(self, e: Any, row: Any) -> None:
        given = 0
        instrument = self._instrument(e, row) if row.instrument else None
        for name, field, read in (
            ("side", "side", lambda: self._side(e, row)),
            ("qty_raw", "quantity", lambda: self._own_scale(e, row.quantity, "quantity", "qty")),
            ("price_raw", "price", lambda: self._own_scale(e, row.price, "price", "price")),
            ("fee_raw", "fee", lambda: self._fee(e, row, instrument)),
            ("book_id", "book", lambda: self._book(e, row.book)),
            ("to_book_id", "to_book", lambda: self._book(e, row.to_book, "to_book", "to_book_id")),
            ("lot_date", "open_date", lambda: e.__setitem__("lot_date", parse_date(row.open_date, "open_date"))),
            ("settle_date", "settle_date", None),
            ("effective_date", "business_date", None),
            ("trade_time_ns", "trade_time", None),
        ):
            if getattr(row, field):
                given |= GIVEN[name]
                if read is not None:
                    read()
        if instrument is not None:
            given |= GIVEN["instrument_id"]
        self._times(e, row)
        e["subject"] = given

    def _own_scale(self, e: Any, text: str, field: str, stem: str) -> None:
        """A value of a trade whose instrument only capture knows: at the scale of its own digits; capture brings it to the instrument's."""
        try:
            scale = digits_of(text)
        except InexactNumber as error:
            raise Refused(Code.NOT_A_NUMBER, field, text, error.reason) from None
        if scale > SCALE_MAX:
            raise Refused(Code.OVER_PRECISE, field, text)
        e[f"{stem}_raw"], e[f"{stem}_scale"] = self._number(text, scale, field), scale
        if stem == "qty" and e["qty_raw"] <= 0:
            raise Refused(Code.NOT_POSITIVE, field, text)

    def _fee_only(self, e: Any, row: Any) -> None:
        self._required(row, "fee", "fee_currency")
        self._fee(e, row, None)
        self._times(e, row)

    def _transfer(self, e: Any, row: Any) -> None:
        self._required(row, "book", "to_book", "instrument", "quantity", "trade_time")
        instrument = self._instrument(e, row)
        self._quantity(e, row, instrument)
        self._book(e, row.book)
        self._book(e, row.to_book, "to_book", "to_book_id")
        at = (row.at or "COST").strip().upper()
        if at not in ("COST", "MARKET"):
            raise Refused(Code.BAD_ROW, "at", row.at, "COST or MARKET is wanted")
        if at == "MARKET":
            self._required(row, "price")
            _flag(e, Flag.AT_MARKET)
        if row.price:
            self._price(e, row, instrument)
        if row.fee:
            self._fee(e, row, instrument)
        self._times(e, row)

    def _child(self, e: Any, row: Any) -> None:
        self._required(row, "parent_id", "book", "quantity")
        self._book(e, row.book)
        self._own_scale(e, row.quantity, "quantity", "qty")
        if row.fee and not row.fee_currency:
            e["fee_scale"] = digits_of(row.fee)
            e["fee_raw"] = self._number(row.fee, int(e["fee_scale"]), "fee")
            _flag(e, Flag.HAS_FEE)
        else:
            self._fee(e, row, None)
        hi, lo = key_of_id(row.parent_id)
        e["second_key_hi"], e["second_key_lo"] = hi & _WORD, lo & _WORD

    def _own_key(self, e: Any, row: Any, kind: Kind) -> None:
        """A correction with a time of its own is idempotent by it; without one only its effect can tell a repeat."""
        if row.trade_time:
            hi, lo = key_of(f"{kind.name}/{self.source_of(row)}", f"{row.trade_id}@{e['trade_time_ns']}", int(e["leg"]))
        elif kind == Kind.FEE:
            hi, lo = key_of(f"FEE/{self.source_of(row)}", f"{row.trade_id}@{row.fee}@{row.fee_currency}", int(e["leg"]))
        else:
            return
        e["second_key_hi"], e["second_key_lo"] = hi & _WORD, lo & _WORD

    def _with_details(self, e: Any, row: Any) -> Any:
        details = {name: getattr(row, name) for name in TEXT_FIELDS if getattr(row, name, "")}
        if bytes(e["trade_id"]).startswith(LONG_ID_MARK):
            details["trade_id"] = row.trade_id
        if row.lot_id and int(e["kind"]) in (Kind.TRADE, Kind.TRANSFER):
            details["lot_id"] = row.lot_id
            e["lot"] = NO_LOT  # until capture has looked it up
        if not details:
            return e.reshape(1) if e.shape else np.array([e], EVENT)
        return with_text(e, msgspec.json.encode(details))


_WORD = 2**64 - 1


def _flag(e: Any, flag: Flag) -> None:
    e["flags"] = int(e["flags"]) | flag


def joined(groups: Sequence[Any]) -> Any:
    """EVENT[n]: the children of one block as one group, whose texts stay behind. groups: what the border made of each child."""
    group = np.concatenate([group[:1] for group in groups])
    group["group_count"], group["group_index"] = len(group), np.arange(len(group))
    group["flags"] &= np.uint16(0xFFFF ^ Flag.HAS_DETAIL)
    group["detail_bytes"] = 0
    return group


def key_of_id(trade_id: str, leg: int = 0) -> tuple[int, int]:
    """(hi, lo) of a trade id, as capture makes it."""
    record = np.zeros(1, EVENT)
    record["trade_id"] = inline_id(trade_id)
    hi, lo = trade_key(record.view(np.int64).reshape(1, EVENT_WORDS), 0, leg)
    return int(hi), int(lo)
