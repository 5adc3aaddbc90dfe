from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Trade(_message.Message):
    __slots__ = ("trade_id", "source", "leg", "kind", "book", "to_book", "instrument", "side", "quantity", "price", "at", "fee", "fee_currency", "account", "counterparty", "venue", "order_id", "trade_time_ns", "business_date", "settle_date", "open_date", "parent_id", "lot_id", "note", "sequence", "recorded_ns", "business_date_derived", "is_block", "fee_unknown", "to_account")
    TRADE_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    LEG_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BOOK_FIELD_NUMBER: _ClassVar[int]
    TO_BOOK_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    FEE_FIELD_NUMBER: _ClassVar[int]
    FEE_CURRENCY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    COUNTERPARTY_FIELD_NUMBER: _ClassVar[int]
    VENUE_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    TRADE_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    BUSINESS_DATE_FIELD_NUMBER: _ClassVar[int]
    SETTLE_DATE_FIELD_NUMBER: _ClassVar[int]
    OPEN_DATE_FIELD_NUMBER: _ClassVar[int]
    PARENT_ID_FIELD_NUMBER: _ClassVar[int]
    LOT_ID_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RECORDED_NS_FIELD_NUMBER: _ClassVar[int]
    BUSINESS_DATE_DERIVED_FIELD_NUMBER: _ClassVar[int]
    IS_BLOCK_FIELD_NUMBER: _ClassVar[int]
    FEE_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    TO_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    trade_id: str
    source: str
    leg: int
    kind: str
    book: str
    to_book: str
    instrument: str
    side: str
    quantity: str
    price: str
    at: str
    fee: str
    fee_currency: str
    account: str
    counterparty: str
    venue: str
    order_id: str
    trade_time_ns: int
    business_date: str
    settle_date: str
    open_date: str
    parent_id: str
    lot_id: str
    note: str
    sequence: int
    recorded_ns: int
    business_date_derived: bool
    is_block: bool
    fee_unknown: bool
    to_account: str
    def __init__(self, trade_id: _Optional[str] = ..., source: _Optional[str] = ..., leg: _Optional[int] = ..., kind: _Optional[str] = ..., book: _Optional[str] = ..., to_book: _Optional[str] = ..., instrument: _Optional[str] = ..., side: _Optional[str] = ..., quantity: _Optional[str] = ..., price: _Optional[str] = ..., at: _Optional[str] = ..., fee: _Optional[str] = ..., fee_currency: _Optional[str] = ..., account: _Optional[str] = ..., counterparty: _Optional[str] = ..., venue: _Optional[str] = ..., order_id: _Optional[str] = ..., trade_time_ns: _Optional[int] = ..., business_date: _Optional[str] = ..., settle_date: _Optional[str] = ..., open_date: _Optional[str] = ..., parent_id: _Optional[str] = ..., lot_id: _Optional[str] = ..., note: _Optional[str] = ..., sequence: _Optional[int] = ..., recorded_ns: _Optional[int] = ..., business_date_derived: _Optional[bool] = ..., is_block: _Optional[bool] = ..., fee_unknown: _Optional[bool] = ..., to_account: _Optional[str] = ...) -> None: ...

class TradeBooked(_message.Message):
    __slots__ = ("trades",)
    TRADES_FIELD_NUMBER: _ClassVar[int]
    trades: _containers.RepeatedCompositeFieldContainer[Trade]
    def __init__(self, trades: _Optional[_Iterable[_Union[Trade, _Mapping]]] = ...) -> None: ...

class LifecycleEvent(_message.Message):
    __slots__ = ("trade", "changed", "original_sequence", "derived", "root", "numerator", "denominator", "cash_price")
    TRADE_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DERIVED_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    NUMERATOR_FIELD_NUMBER: _ClassVar[int]
    DENOMINATOR_FIELD_NUMBER: _ClassVar[int]
    CASH_PRICE_FIELD_NUMBER: _ClassVar[int]
    trade: Trade
    changed: _containers.RepeatedScalarFieldContainer[str]
    original_sequence: int
    derived: bool
    root: str
    numerator: int
    denominator: int
    cash_price: str
    def __init__(self, trade: _Optional[_Union[Trade, _Mapping]] = ..., changed: _Optional[_Iterable[str]] = ..., original_sequence: _Optional[int] = ..., derived: _Optional[bool] = ..., root: _Optional[str] = ..., numerator: _Optional[int] = ..., denominator: _Optional[int] = ..., cash_price: _Optional[str] = ...) -> None: ...

class LifecycleEventApplied(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[LifecycleEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[LifecycleEvent, _Mapping]]] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("code", "field", "value", "reason", "source", "trade_id", "sequence", "recorded_ns", "trade", "original")
    CODE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TRADE_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RECORDED_NS_FIELD_NUMBER: _ClassVar[int]
    TRADE_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_FIELD_NUMBER: _ClassVar[int]
    code: str
    field: str
    value: str
    reason: str
    source: str
    trade_id: str
    sequence: int
    recorded_ns: int
    trade: Trade
    original: bytes
    def __init__(self, code: _Optional[str] = ..., field: _Optional[str] = ..., value: _Optional[str] = ..., reason: _Optional[str] = ..., source: _Optional[str] = ..., trade_id: _Optional[str] = ..., sequence: _Optional[int] = ..., recorded_ns: _Optional[int] = ..., trade: _Optional[_Union[Trade, _Mapping]] = ..., original: _Optional[bytes] = ...) -> None: ...

class TradeRejected(_message.Message):
    __slots__ = ("rejections",)
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    rejections: _containers.RepeatedCompositeFieldContainer[Rejection]
    def __init__(self, rejections: _Optional[_Iterable[_Union[Rejection, _Mapping]]] = ...) -> None: ...
