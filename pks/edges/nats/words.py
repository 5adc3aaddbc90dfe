"""Messages of our subjects as words and back, for people who look at one and mend it."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from pks.edges.nats.streams import CANONICAL, LIFECYCLE_APPLIED, TRADE_BOOKED, TRADE_REJECTED
from pks.proto.pks.v1 import booking_pb2

MESSAGES: dict[str, type[Message]] = {
    TRADE_BOOKED: booking_pb2.TradeBooked,
    CANONICAL: booking_pb2.TradeBooked,
    LIFECYCLE_APPLIED: booking_pb2.LifecycleEventApplied,
    TRADE_REJECTED: booking_pb2.TradeRejected,
}
"""Subject -> what its payload is."""


def to_words(subject: str, payload: bytes) -> dict[str, Any] | None:
    """The message as an object; None for a subject that is not ours, and for bytes that are no such message."""
    if subject not in MESSAGES:
        return None
    message = MESSAGES[subject]()
    try:
        message.ParseFromString(payload)
    except DecodeError:
        return None
    words: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return words


def from_words(subject: str, words: dict[str, Any]) -> bytes:
    """The payload of an object as `to_words` gives it. Raises ValueError with what is wrong."""
    message = MESSAGES[subject]()
    try:
        json_format.ParseDict(words, message)
    except json_format.ParseError as error:
        raise ValueError(str(error)) from None
    payload: bytes = message.SerializeToString()
    return payload


def change(words: dict[str, Any], path: str, value: str) -> None:
    """Set one field: `trades.0.instrument`, or `instrument` alone where the message has one trade. Raises ValueError."""
    steps = path.split(".")
    place: Any = words
    if len(steps) == 1 and steps[0] not in words:
        place = _only_part(words, path)
    for step in steps[:-1]:
        place = _into(place, step, path)
    last = steps[-1]
    if isinstance(place, dict):
        place[last] = value
    else:
        raise ValueError(f"{path}: {'.'.join(steps[:-1])} has no fields")


def _only_part(words: dict[str, Any], path: str) -> Any:
    parts = next((value for value in words.values() if isinstance(value, list)), [])
    if len(parts) != 1:
        raise ValueError(f"{path}: the message has {len(parts)} parts; say which, as trades.0.{path}")
    part = parts[0]
    return part["trade"] if isinstance(part, dict) and "trade" in part else part


def _into(place: Any, step: str, path: str) -> Any:
    if isinstance(place, list) and step.isdecimal() and int(step) < len(place):
        return place[int(step)]
    if isinstance(place, dict):
        return place.setdefault(step, {})
    raise ValueError(f"{path}: there is no {step}")
