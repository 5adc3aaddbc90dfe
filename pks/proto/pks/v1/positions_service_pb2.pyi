from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    LIVE: _ClassVar[State]
    STALE: _ClassVar[State]
STATE_UNSPECIFIED: State
LIVE: State
STALE: State

class PositionView(_message.Message):
    __slots__ = ("book", "instrument", "quantity", "average_price", "cost", "realised_gross", "realised_net", "fees", "open_lots", "currency", "last_trade_time_ns", "last_sequence", "version", "recorded_ns", "book_id", "instrument_id", "fee_unknown", "forced", "inverse", "last_price", "trades_count", "clearing_cost", "variation", "unrealised", "state", "sequence", "durable_sequence")
    class FeesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    BOOK_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_PRICE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    REALISED_GROSS_FIELD_NUMBER: _ClassVar[int]
    REALISED_NET_FIELD_NUMBER: _ClassVar[int]
    FEES_FIELD_NUMBER: _ClassVar[int]
    OPEN_LOTS_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    LAST_TRADE_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RECORDED_NS_FIELD_NUMBER: _ClassVar[int]
    BOOK_ID_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    FEE_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    INVERSE_FIELD_NUMBER: _ClassVar[int]
    LAST_PRICE_FIELD_NUMBER: _ClassVar[int]
    TRADES_COUNT_FIELD_NUMBER: _ClassVar[int]
    CLEARING_COST_FIELD_NUMBER: _ClassVar[int]
    VARIATION_FIELD_NUMBER: _ClassVar[int]
    UNREALISED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    book: str
    instrument: str
    quantity: str
    average_price: str
    cost: str
    realised_gross: str
    realised_net: str
    fees: _containers.ScalarMap[str, str]
    open_lots: int
    currency: str
    last_trade_time_ns: int
    last_sequence: int
    version: int
    recorded_ns: int
    book_id: int
    instrument_id: int
    fee_unknown: bool
    forced: bool
    inverse: bool
    last_price: str
    trades_count: int
    clearing_cost: str
    variation: str
    unrealised: str
    state: State
    sequence: int
    durable_sequence: int
    def __init__(self, book: _Optional[str] = ..., instrument: _Optional[str] = ..., quantity: _Optional[str] = ..., average_price: _Optional[str] = ..., cost: _Optional[str] = ..., realised_gross: _Optional[str] = ..., realised_net: _Optional[str] = ..., fees: _Optional[_Mapping[str, str]] = ..., open_lots: _Optional[int] = ..., currency: _Optional[str] = ..., last_trade_time_ns: _Optional[int] = ..., last_sequence: _Optional[int] = ..., version: _Optional[int] = ..., recorded_ns: _Optional[int] = ..., book_id: _Optional[int] = ..., instrument_id: _Optional[int] = ..., fee_unknown: _Optional[bool] = ..., forced: _Optional[bool] = ..., inverse: _Optional[bool] = ..., last_price: _Optional[str] = ..., trades_count: _Optional[int] = ..., clearing_cost: _Optional[str] = ..., variation: _Optional[str] = ..., unrealised: _Optional[str] = ..., state: _Optional[_Union[State, str]] = ..., sequence: _Optional[int] = ..., durable_sequence: _Optional[int] = ...) -> None: ...

class PositionViewPatch(_message.Message):
    __slots__ = ("book", "instrument", "quantity", "average_price", "cost", "realised_gross", "realised_net", "fees", "open_lots", "currency", "last_trade_time_ns", "last_sequence", "version", "recorded_ns", "book_id", "instrument_id", "fee_unknown", "forced", "inverse", "last_price", "trades_count", "clearing_cost", "variation")
    class FeesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    BOOK_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    AVERAGE_PRICE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    REALISED_GROSS_FIELD_NUMBER: _ClassVar[int]
    REALISED_NET_FIELD_NUMBER: _ClassVar[int]
    FEES_FIELD_NUMBER: _ClassVar[int]
    OPEN_LOTS_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    LAST_TRADE_TIME_NS_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RECORDED_NS_FIELD_NUMBER: _ClassVar[int]
    BOOK_ID_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    FEE_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    INVERSE_FIELD_NUMBER: _ClassVar[int]
    LAST_PRICE_FIELD_NUMBER: _ClassVar[int]
    TRADES_COUNT_FIELD_NUMBER: _ClassVar[int]
    CLEARING_COST_FIELD_NUMBER: _ClassVar[int]
    VARIATION_FIELD_NUMBER: _ClassVar[int]
    book: str
    instrument: str
    quantity: str
    average_price: str
    cost: str
    realised_gross: str
    realised_net: str
    fees: _containers.ScalarMap[str, str]
    open_lots: int
    currency: str
    last_trade_time_ns: int
    last_sequence: int
    version: int
    recorded_ns: int
    book_id: int
    instrument_id: int
    fee_unknown: bool
    forced: bool
    inverse: bool
    last_price: str
    trades_count: int
    clearing_cost: str
    variation: str
    def __init__(self, book: _Optional[str] = ..., instrument: _Optional[str] = ..., quantity: _Optional[str] = ..., average_price: _Optional[str] = ..., cost: _Optional[str] = ..., realised_gross: _Optional[str] = ..., realised_net: _Optional[str] = ..., fees: _Optional[_Mapping[str, str]] = ..., open_lots: _Optional[int] = ..., currency: _Optional[str] = ..., last_trade_time_ns: _Optional[int] = ..., last_sequence: _Optional[int] = ..., version: _Optional[int] = ..., recorded_ns: _Optional[int] = ..., book_id: _Optional[int] = ..., instrument_id: _Optional[int] = ..., fee_unknown: _Optional[bool] = ..., forced: _Optional[bool] = ..., inverse: _Optional[bool] = ..., last_price: _Optional[str] = ..., trades_count: _Optional[int] = ..., clearing_cost: _Optional[str] = ..., variation: _Optional[str] = ...) -> None: ...

class StreamPositionsRequest(_message.Message):
    __slots__ = ("book", "instrument", "books", "flat", "heartbeats")
    BOOK_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_FIELD_NUMBER: _ClassVar[int]
    BOOKS_FIELD_NUMBER: _ClassVar[int]
    FLAT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEATS_FIELD_NUMBER: _ClassVar[int]
    book: str
    instrument: str
    books: _containers.RepeatedScalarFieldContainer[str]
    flat: bool
    heartbeats: bool
    def __init__(self, book: _Optional[str] = ..., instrument: _Optional[str] = ..., books: _Optional[_Iterable[str]] = ..., flat: _Optional[bool] = ..., heartbeats: _Optional[bool] = ...) -> None: ...

class GetPositionRequest(_message.Message):
    __slots__ = ("book", "instrument")
    BOOK_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_FIELD_NUMBER: _ClassVar[int]
    book: str
    instrument: str
    def __init__(self, book: _Optional[str] = ..., instrument: _Optional[str] = ...) -> None: ...

class GetPositionHistoryRequest(_message.Message):
    __slots__ = ("book", "instrument", "after", "limit", "known_at")
    BOOK_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    KNOWN_AT_FIELD_NUMBER: _ClassVar[int]
    book: str
    instrument: str
    after: int
    limit: int
    known_at: int
    def __init__(self, book: _Optional[str] = ..., instrument: _Optional[str] = ..., after: _Optional[int] = ..., limit: _Optional[int] = ..., known_at: _Optional[int] = ...) -> None: ...

class Match(_message.Message):
    __slots__ = ("sequence", "trade_id", "kind", "open_trade_id", "open_date", "book", "instrument", "quantity", "open_price", "close_price", "realised_gross", "cost")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TRADE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    OPEN_TRADE_ID_FIELD_NUMBER: _ClassVar[int]
    OPEN_DATE_FIELD_NUMBER: _ClassVar[int]
    BOOK_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    OPEN_PRICE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_PRICE_FIELD_NUMBER: _ClassVar[int]
    REALISED_GROSS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    trade_id: str
    kind: str
    open_trade_id: str
    open_date: str
    book: str
    instrument: str
    quantity: str
    open_price: str
    close_price: str
    realised_gross: str
    cost: str
    def __init__(self, sequence: _Optional[int] = ..., trade_id: _Optional[str] = ..., kind: _Optional[str] = ..., open_trade_id: _Optional[str] = ..., open_date: _Optional[str] = ..., book: _Optional[str] = ..., instrument: _Optional[str] = ..., quantity: _Optional[str] = ..., open_price: _Optional[str] = ..., close_price: _Optional[str] = ..., realised_gross: _Optional[str] = ..., cost: _Optional[str] = ...) -> None: ...

class HistoryEvent(_message.Message):
    __slots__ = ("sequence", "trade_id", "leg", "source", "kind", "status", "state", "version", "code", "book", "to_book", "instrument", "side", "quantity", "price", "fees", "account", "to_account", "trade_time", "business_date", "settle_date", "open_date", "lot_id", "venue", "order_id", "counterparty", "note", "parent", "replaced_by", "recorded_time", "last_sequence", "matches")
    class FeesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TRADE_ID_FIELD_NUMBER: _ClassVar[int]
    LEG_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    BOOK_FIELD_NUMBER: _ClassVar[int]
    TO_BOOK_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    FEES_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    TO_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    TRADE_TIME_FIELD_NUMBER: _ClassVar[int]
    BUSINESS_DATE_FIELD_NUMBER: _ClassVar[int]
    SETTLE_DATE_FIELD_NUMBER: _ClassVar[int]
    OPEN_DATE_FIELD_NUMBER: _ClassVar[int]
    LOT_ID_FIELD_NUMBER: _ClassVar[int]
    VENUE_FIELD_NUMBER: _ClassVar[int]
    ORDER_ID_FIELD_NUMBER: _ClassVar[int]
    COUNTERPARTY_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    REPLACED_BY_FIELD_NUMBER: _ClassVar[int]
    RECORDED_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    trade_id: str
    leg: int
    source: str
    kind: str
    status: str
    state: str
    version: int
    code: str
    book: str
    to_book: str
    instrument: str
    side: str
    quantity: str
    price: str
    fees: _containers.ScalarMap[str, str]
    account: str
    to_account: str
    trade_time: str
    business_date: str
    settle_date: str
    open_date: str
    lot_id: str
    venue: str
    order_id: str
    counterparty: str
    note: str
    parent: int
    replaced_by: int
    recorded_time: str
    last_sequence: int
    matches: _containers.RepeatedCompositeFieldContainer[Match]
    def __init__(self, sequence: _Optional[int] = ..., trade_id: _Optional[str] = ..., leg: _Optional[int] = ..., source: _Optional[str] = ..., kind: _Optional[str] = ..., status: _Optional[str] = ..., state: _Optional[str] = ..., version: _Optional[int] = ..., code: _Optional[str] = ..., book: _Optional[str] = ..., to_book: _Optional[str] = ..., instrument: _Optional[str] = ..., side: _Optional[str] = ..., quantity: _Optional[str] = ..., price: _Optional[str] = ..., fees: _Optional[_Mapping[str, str]] = ..., account: _Optional[str] = ..., to_account: _Optional[str] = ..., trade_time: _Optional[str] = ..., business_date: _Optional[str] = ..., settle_date: _Optional[str] = ..., open_date: _Optional[str] = ..., lot_id: _Optional[str] = ..., venue: _Optional[str] = ..., order_id: _Optional[str] = ..., counterparty: _Optional[str] = ..., note: _Optional[str] = ..., parent: _Optional[int] = ..., replaced_by: _Optional[int] = ..., recorded_time: _Optional[str] = ..., last_sequence: _Optional[int] = ..., matches: _Optional[_Iterable[_Union[Match, _Mapping]]] = ...) -> None: ...

class PositionHistory(_message.Message):
    __slots__ = ("events", "next", "state", "sequence", "durable_sequence")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[HistoryEvent]
    next: int
    state: State
    sequence: int
    durable_sequence: int
    def __init__(self, events: _Optional[_Iterable[_Union[HistoryEvent, _Mapping]]] = ..., next: _Optional[int] = ..., state: _Optional[_Union[State, str]] = ..., sequence: _Optional[int] = ..., durable_sequence: _Optional[int] = ...) -> None: ...

class WatchInstrumentUpdatesRequest(_message.Message):
    __slots__ = ("instrument", "book", "books")
    INSTRUMENT_FIELD_NUMBER: _ClassVar[int]
    BOOK_FIELD_NUMBER: _ClassVar[int]
    BOOKS_FIELD_NUMBER: _ClassVar[int]
    instrument: str
    book: str
    books: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, instrument: _Optional[str] = ..., book: _Optional[str] = ..., books: _Optional[_Iterable[str]] = ...) -> None: ...

class InstrumentUpdate(_message.Message):
    __slots__ = ("kind", "first", "last", "positions", "patches", "state", "sequence", "durable_sequence")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[InstrumentUpdate.Kind]
        SNAPSHOT: _ClassVar[InstrumentUpdate.Kind]
        PATCH: _ClassVar[InstrumentUpdate.Kind]
        HEARTBEAT: _ClassVar[InstrumentUpdate.Kind]
    KIND_UNSPECIFIED: InstrumentUpdate.Kind
    SNAPSHOT: InstrumentUpdate.Kind
    PATCH: InstrumentUpdate.Kind
    HEARTBEAT: InstrumentUpdate.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    kind: InstrumentUpdate.Kind
    first: bool
    last: bool
    positions: _containers.RepeatedCompositeFieldContainer[PositionView]
    patches: _containers.RepeatedCompositeFieldContainer[PositionViewPatch]
    state: State
    sequence: int
    durable_sequence: int
    def __init__(self, kind: _Optional[_Union[InstrumentUpdate.Kind, str]] = ..., first: _Optional[bool] = ..., last: _Optional[bool] = ..., positions: _Optional[_Iterable[_Union[PositionView, _Mapping]]] = ..., patches: _Optional[_Iterable[_Union[PositionViewPatch, _Mapping]]] = ..., state: _Optional[_Union[State, str]] = ..., sequence: _Optional[int] = ..., durable_sequence: _Optional[int] = ...) -> None: ...

class BookTradeRequest(_message.Message):
    __slots__ = ("trade_id", "source", "leg", "kind", "book", "to_book", "instrument", "side", "quantity", "price", "at", "fee", "fee_currency", "account", "counterparty", "venue", "order_id", "trade_time", "business_date", "settle_date", "open_date", "parent_id", "lot_id", "note", "instrument_terms", "idempotency_key")
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
    TRADE_TIME_FIELD_NUMBER: _ClassVar[int]
    BUSINESS_DATE_FIELD_NUMBER: _ClassVar[int]
    SETTLE_DATE_FIELD_NUMBER: _ClassVar[int]
    OPEN_DATE_FIELD_NUMBER: _ClassVar[int]
    PARENT_ID_FIELD_NUMBER: _ClassVar[int]
    LOT_ID_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_TERMS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    trade_id: str
    source: str
    leg: str
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
    trade_time: str
    business_date: str
    settle_date: str
    open_date: str
    parent_id: str
    lot_id: str
    note: str
    instrument_terms: str
    idempotency_key: str
    def __init__(self, trade_id: _Optional[str] = ..., source: _Optional[str] = ..., leg: _Optional[str] = ..., kind: _Optional[str] = ..., book: _Optional[str] = ..., to_book: _Optional[str] = ..., instrument: _Optional[str] = ..., side: _Optional[str] = ..., quantity: _Optional[str] = ..., price: _Optional[str] = ..., at: _Optional[str] = ..., fee: _Optional[str] = ..., fee_currency: _Optional[str] = ..., account: _Optional[str] = ..., counterparty: _Optional[str] = ..., venue: _Optional[str] = ..., order_id: _Optional[str] = ..., trade_time: _Optional[str] = ..., business_date: _Optional[str] = ..., settle_date: _Optional[str] = ..., open_date: _Optional[str] = ..., parent_id: _Optional[str] = ..., lot_id: _Optional[str] = ..., note: _Optional[str] = ..., instrument_terms: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class BookTradeResponse(_message.Message):
    __slots__ = ("trade_id", "status", "sequence", "code", "field", "value", "reason", "line", "state", "durable_sequence")
    TRADE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    trade_id: str
    status: str
    sequence: int
    code: str
    field: str
    value: str
    reason: str
    line: int
    state: State
    durable_sequence: int
    def __init__(self, trade_id: _Optional[str] = ..., status: _Optional[str] = ..., sequence: _Optional[int] = ..., code: _Optional[str] = ..., field: _Optional[str] = ..., value: _Optional[str] = ..., reason: _Optional[str] = ..., line: _Optional[int] = ..., state: _Optional[_Union[State, str]] = ..., durable_sequence: _Optional[int] = ...) -> None: ...

class WhatIfRequest(_message.Message):
    __slots__ = ("trades", "marks")
    class MarksEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TRADES_FIELD_NUMBER: _ClassVar[int]
    MARKS_FIELD_NUMBER: _ClassVar[int]
    trades: _containers.RepeatedCompositeFieldContainer[BookTradeRequest]
    marks: _containers.ScalarMap[str, str]
    def __init__(self, trades: _Optional[_Iterable[_Union[BookTradeRequest, _Mapping]]] = ..., marks: _Optional[_Mapping[str, str]] = ...) -> None: ...

class PositionChange(_message.Message):
    __slots__ = ("book", "instrument", "currency", "quantity", "realised_gross", "realised_net", "fees")
    class FeesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    BOOK_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_FIELD_NUMBER: _ClassVar[int]
    CURRENCY_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    REALISED_GROSS_FIELD_NUMBER: _ClassVar[int]
    REALISED_NET_FIELD_NUMBER: _ClassVar[int]
    FEES_FIELD_NUMBER: _ClassVar[int]
    book: str
    instrument: str
    currency: str
    quantity: str
    realised_gross: str
    realised_net: str
    fees: _containers.ScalarMap[str, str]
    def __init__(self, book: _Optional[str] = ..., instrument: _Optional[str] = ..., currency: _Optional[str] = ..., quantity: _Optional[str] = ..., realised_gross: _Optional[str] = ..., realised_net: _Optional[str] = ..., fees: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Lot(_message.Message):
    __slots__ = ("book", "instrument", "lot_id", "date", "quantity", "price", "cost")
    BOOK_FIELD_NUMBER: _ClassVar[int]
    INSTRUMENT_FIELD_NUMBER: _ClassVar[int]
    LOT_ID_FIELD_NUMBER: _ClassVar[int]
    DATE_FIELD_NUMBER: _ClassVar[int]
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    book: str
    instrument: str
    lot_id: str
    date: str
    quantity: str
    price: str
    cost: str
    def __init__(self, book: _Optional[str] = ..., instrument: _Optional[str] = ..., lot_id: _Optional[str] = ..., date: _Optional[str] = ..., quantity: _Optional[str] = ..., price: _Optional[str] = ..., cost: _Optional[str] = ...) -> None: ...

class WhatIfResponse(_message.Message):
    __slots__ = ("outcomes", "before", "after", "changes", "lots", "matches", "state", "sequence", "durable_sequence")
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    LOTS_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[BookTradeResponse]
    before: _containers.RepeatedCompositeFieldContainer[PositionView]
    after: _containers.RepeatedCompositeFieldContainer[PositionView]
    changes: _containers.RepeatedCompositeFieldContainer[PositionChange]
    lots: _containers.RepeatedCompositeFieldContainer[Lot]
    matches: _containers.RepeatedCompositeFieldContainer[Match]
    state: State
    sequence: int
    durable_sequence: int
    def __init__(self, outcomes: _Optional[_Iterable[_Union[BookTradeResponse, _Mapping]]] = ..., before: _Optional[_Iterable[_Union[PositionView, _Mapping]]] = ..., after: _Optional[_Iterable[_Union[PositionView, _Mapping]]] = ..., changes: _Optional[_Iterable[_Union[PositionChange, _Mapping]]] = ..., lots: _Optional[_Iterable[_Union[Lot, _Mapping]]] = ..., matches: _Optional[_Iterable[_Union[Match, _Mapping]]] = ..., state: _Optional[_Union[State, str]] = ..., sequence: _Optional[int] = ..., durable_sequence: _Optional[int] = ...) -> None: ...
