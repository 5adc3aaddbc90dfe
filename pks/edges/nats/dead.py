"""Dead letters: what could not be booked, its original bytes unchanged, and why, on the dead-letter subject of its stream.

Owns the headers and the classes. Source: backoffice.md section 14. Only TRANSIENT is tried again by itself, and then it is no dead letter.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, NamedTuple

from pks.base.errors import Code
from pks.edges.nats.streams import DEAD_BOOKING, HEADER_ID

VALUE_CHARACTERS_MAX = 200


class Class(enum.Enum):
    """What kind of trouble it is."""

    MALFORMED = "the message, or a field of it, cannot be understood"
    UNKNOWN_REF = "it names something that is not known here"
    CONFLICT = "it is understood, and what is booked already does not allow it"
    TRANSIENT = "nothing is wrong with it; it is tried again"
    POISON = "it was delivered again and again and never dealt with"


UNKNOWN = frozenset(
    (
        Code.UNKNOWN_BOOK, Code.UNKNOWN_INSTRUMENT, Code.UNKNOWN_ACCOUNT, Code.UNKNOWN_CURRENCY, Code.NO_ROUTE, Code.UNKNOWN_TRADE,
        Code.UNKNOWN_LOT,
    )
)  # fmt: skip
TRANSIENT = frozenset((Code.BUSY, Code.SHUTTING_DOWN, Code.PARKING_FULL, Code.SCALE_MISMATCH))
_FIRST_CONFLICT = Code.SAME_BOOK


def class_of(code: Code) -> Class:
    """The class of a refusal."""
    if code in TRANSIENT:
        return Class.TRANSIENT
    if code in UNKNOWN:
        return Class.UNKNOWN_REF
    return Class.CONFLICT if code > _FIRST_CONFLICT else Class.MALFORMED


class Fault(NamedTuple):
    """Why a message, or one trade of it, was not booked. place: where it stands in the message, -1 for the whole message."""

    kind: Class
    code: str
    field: str
    value: str
    reason: str
    place: int = -1
    trade_id: str = ""


class Where(NamedTuple):
    """The message that a dead letter is about."""

    subject: str
    stream: str
    sequence: int
    consumer: str
    deliveries: int


def dead_headers(where: Where, fault: Fault, original: Mapping[str, str]) -> dict[str, str]:
    """The headers of a dead letter: why it is one, and those of the original, without what is meant for the server."""
    part = f":{fault.place}" if fault.place >= 0 else ""
    headers = {
        HEADER_ID: f"{where.stream}:{where.sequence}:{where.consumer}{part}",
        "Pks-Dlq-Subject": where.subject,
        "Pks-Dlq-Stream": where.stream,
        "Pks-Dlq-Stream-Sequence": str(where.sequence),
        "Pks-Dlq-Consumer": where.consumer,
        "Pks-Dlq-Deliveries": str(where.deliveries),
        "Pks-Dlq-Class": fault.kind.name,
        "Pks-Dlq-Code": fault.code,
        "Pks-Dlq-Field": fault.field,
        "Pks-Dlq-Value": fault.value,
        "Pks-Dlq-Reason": fault.reason,
        "Pks-Dlq-Trade-Id": fault.trade_id,
    }
    if fault.place >= 0:
        headers["Pks-Dlq-Index"] = str(fault.place)
    headers["Pks-Dlq-Message-Id"] = original.get(HEADER_ID, "")
    kept = {name: value for name, value in original.items() if not name.startswith(("Nats-", "Pks-Dlq-"))}
    return {name: clean(value) for name, value in (kept | headers).items() if value}


def clean(value: str) -> str:
    """A text as it may stand in a header: printable ASCII, bounded."""
    text = value.encode("ascii", "backslashreplace").decode()
    text = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}..."


async def bury(stream: Any, where: Where, fault: Fault, payload: bytes, original: Mapping[str, str]) -> None:
    """Store a dead letter; stored twice within the server's memory of ids it is one. stream: a JetStream context."""
    await stream.publish(DEAD_BOOKING, payload, headers=dead_headers(where, fault, original))
