from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PositionUpdated(_message.Message):
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

class PositionsUpdated(_message.Message):
    __slots__ = ("positions",)
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    positions: _containers.RepeatedCompositeFieldContainer[PositionUpdated]
    def __init__(self, positions: _Optional[_Iterable[_Union[PositionUpdated, _Mapping]]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("durable_sequence", "told_sequence", "at_ns")
    DURABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TOLD_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AT_NS_FIELD_NUMBER: _ClassVar[int]
    durable_sequence: int
    told_sequence: int
    at_ns: int
    def __init__(self, durable_sequence: _Optional[int] = ..., told_sequence: _Optional[int] = ..., at_ns: _Optional[int] = ...) -> None: ...
