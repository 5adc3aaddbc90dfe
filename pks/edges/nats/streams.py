"""The streams that PKS makes: subjects, retention and bounds, made where they are missing and mended where they lack something.

Owns the table of streams and the names of subjects and headers. A stream of others keeps what it has beyond that: subjects are added,
never taken away. Source: interfaces, "NATS subjects".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nats.js.api import DiscardPolicy, PersistMode, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

DAY_SECONDS = 86_400
MIB = 1 << 20
DEDUP_SECONDS = 120
"""Within it the server itself knows a repeated Nats-Msg-Id."""

TRADE_BOOKED = "backoffice.booking.v1.TradeBooked"
LIFECYCLE_APPLIED = "backoffice.booking.v1.LifecycleEventApplied"
TRADE_REJECTED = "backoffice.booking.v1.TradeRejected"
CANONICAL = "pd.canonical"
EVENTS_SUBJECT = "bo.events.v1.0"
POSITION_UPDATED = "bo.position.updated.v1"
POSITION_LATEST = "bo.position.latest.v1"
POSITION_HEARTBEAT = "bo.position.heartbeat.v1"  # kept by no stream
DEAD_BOOKING = "backoffice.dlq.booking"
MAX_DELIVERIES = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"

HEADER_ORIGIN, HEADER_SEQUENCE, HEADER_FIRST, HEADER_LAST = "Pks-Origin", "Pks-Sequence", "Pks-First", "Pks-Last"
HEADER_WINDOW, HEADER_PART = "Pks-Window", "Pks-Part"
HEADER_BESIDE = "Pks-Beside"  # in EVENTS: how far BOOKING was, which is kept for a shorter time
HEADER_REFUSALS = "Pks-Refusals"  # in place of Pks-Window: numbers of what capture refused, which has no place among the events
HEADER_ID, HEADER_EXPECTED = "Nats-Msg-Id", "Nats-Expected-Last-Sequence"

PAYLOAD_BYTES_MAX = 500_000
"""Of one message: half of what a server takes by default."""

_NO_ROOM_CODES = (10023, 10047)  # insufficient resources, storage resources exceeded: the account may have less than we would reserve
_UNKNOWN_FIELD_STATUS = 400


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """One stream. quick: may lose its last seconds with the power, since what it holds is sent again."""

    name: str
    subjects: tuple[str, ...]
    age_seconds: int
    bytes_max: int
    quick: bool = False
    latest_only: bool = False

    def config(self) -> StreamConfig:
        """As the server wants it."""
        return StreamConfig(
            name=self.name,
            subjects=list(self.subjects),
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            discard=DiscardPolicy.OLD,
            max_age=self.age_seconds,
            max_bytes=self.bytes_max,
            max_msgs_per_subject=1 if self.latest_only else -1,
            duplicate_window=0 if self.latest_only else DEDUP_SECONDS,
            allow_direct=True,
            persist_mode=PersistMode.ASYNC if self.quick else None,
        )


BOOKING = StreamPlan("BOOKING", (TRADE_BOOKED, LIFECYCLE_APPLIED, TRADE_REJECTED, CANONICAL), DAY_SECONDS, 1024 * MIB)
EVENTS = StreamPlan("EVENTS", ("bo.events.v1.*",), 30 * DAY_SECONDS, 4096 * MIB)
POSITIONS = StreamPlan(
    "POSITIONS", (POSITION_UPDATED, "bo.position.valuated.v1", "bo.pnl.attributed.v1"), 7 * DAY_SECONDS, 512 * MIB, quick=True
)
POSITIONS_LATEST = StreamPlan("POSITIONS_LATEST", (f"{POSITION_LATEST}.>",), 0, 256 * MIB, quick=True, latest_only=True)
DLQ = StreamPlan("DLQ", ("backoffice.dlq.>", "bo.dlq.>", "md.dlq.>"), 30 * DAY_SECONDS, 256 * MIB)
ADVISORIES = StreamPlan("ADVISORIES", (f"{MAX_DELIVERIES}.BOOKING.>",), 30 * DAY_SECONDS, 16 * MIB)

STREAMS = (BOOKING, EVENTS, POSITIONS, POSITIONS_LATEST, DLQ, ADVISORIES)


async def ensure_streams(stream: Any) -> None:
    """Make or mend every stream. stream: a JetStream context. Raises what the library raises."""
    for plan in STREAMS:
        try:
            info = await stream.stream_info(plan.name)
        except NotFoundError:
            await _make(stream, plan)
            continue
        missing = [subject for subject in plan.subjects if not _is_covered(subject, info.config.subjects or [])]
        if missing or (info.config.max_age or 0) != plan.age_seconds:
            wanted = replace(plan, subjects=(*(info.config.subjects or ()), *missing)).config()
            wanted.max_bytes, wanted.persist_mode = info.config.max_bytes, info.config.persist_mode
            await stream.update_stream(wanted)


async def _make(stream: Any, plan: StreamPlan) -> None:
    """Make a stream; without what an older server does not know, and without a reserve that the account does not have."""
    config = plan.config()
    for _ in range(3):
        try:
            await stream.add_stream(config)
            return
        except APIError as error:
            if config.persist_mode is not None and error.code == _UNKNOWN_FIELD_STATUS and error.err_code not in _NO_ROOM_CODES:
                config.persist_mode = None
            elif config.max_bytes != -1 and error.err_code in _NO_ROOM_CODES:
                config.max_bytes = -1
            else:
                raise
    await stream.add_stream(config)


def _is_covered(subject: str, others: list[str]) -> bool:
    """Whether one of `others` takes everything that `subject` takes."""
    return any(_covers(other.split("."), subject.split(".")) for other in others)


def _covers(pattern: list[str], subject: list[str]) -> bool:
    for place, token in enumerate(pattern):
        if token == ">":
            return place < len(subject)
        if place >= len(subject) or (token != "*" and token != subject[place]) or (token == "*" and subject[place] == ">"):
            return False
    return len(pattern) == len(subject)
