from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class EventBatch(_message.Message):
    __slots__ = ("first", "last", "layout_version", "records")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_VERSION_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    layout_version: int
    records: bytes
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ..., layout_version: _Optional[int] = ..., records: _Optional[bytes] = ...) -> None: ...
