"""The journal as the stream EVENTS has it: read from any record on, for whoever has lost his own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from pks.edges.nats.streams import EVENTS, EVENTS_SUBJECT, HEADER_LAST
from pks.proto.codec import events_of

FETCH_MESSAGES = 16
FETCH_SECONDS = 10.0


async def read_events(stream: Any, wanted: int) -> AsyncIterator[tuple[int, bytes]]:
    """(first sequence, 256-byte records) of every message that holds record `wanted` or a later one, in order; perhaps nothing.

    stream: a JetStream context. Raises what the library raises, ValueError for a message that is none of ours.
    """
    try:
        state = (await stream.stream_info(EVENTS.name)).state
    except NotFoundError:
        return
    first, end = int(state.first_seq), int(state.last_seq)
    if not state.messages:
        return
    start = await _message_of(stream, wanted, first, end)
    if start > end:
        return
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=start,
        ack_policy=AckPolicy.NONE,
        inactive_threshold=60.0,
        mem_storage=True,
    )
    reader = await stream.pull_subscribe(EVENTS_SUBJECT, stream=EVENTS.name, config=config)
    try:
        while True:
            for message in await reader.fetch(FETCH_MESSAGES, timeout=FETCH_SECONDS):
                first, _, records = events_of(message.data)
                yield first, records
                if message.metadata.sequence.stream >= end:
                    return
    finally:
        await reader.unsubscribe()


async def _message_of(stream: Any, wanted: int, first: int, end: int) -> int:
    """Place in the stream of the message that holds record `wanted`, or of the first later one; end + 1 when there is none."""
    low, high = first, end + 1
    while low < high:
        middle = (low + high) // 2
        message = await stream.get_msg(EVENTS.name, middle)
        if int((message.headers or {}).get(HEADER_LAST, "0")) < wanted:
            low = middle + 1
        else:
            high = middle
    return low
