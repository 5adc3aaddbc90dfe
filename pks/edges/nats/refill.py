"""Empties what NATS has of one system's journal, so that its edge begins at the first event again.

Owns the request in the key-value bucket `pks_edge`, by which a command tells the one who publishes: he alone may remove, or what he
stores meanwhile would count as all that is before it. Only messages of that origin go, from EVENTS, BOOKING and POSITIONS, and the latest
of each position; what others published, dead letters and advisories stay. It may be broken off anywhere and done again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import KeyDeletedError, KeyNotFoundError, NotFoundError

from pks.base.errors import Retryable
from pks.edges.nats.outlog import FETCH_MESSAGES, FETCH_SECONDS, hint_bucket, hint_key
from pks.edges.nats.streams import (
    BOOKING,
    EVENTS,
    EVENTS_SUBJECT,
    HEADER_ORIGIN,
    HEADER_REFUSALS,
    LIFECYCLE_APPLIED,
    POSITION_LATEST,
    POSITION_UPDATED,
    POSITIONS,
    POSITIONS_LATEST,
    TRADE_BOOKED,
    TRADE_REJECTED,
)

OURS = ((EVENTS, (EVENTS_SUBJECT,)), (BOOKING, (TRADE_BOOKED, LIFECYCLE_APPLIED, TRADE_REJECTED)), (POSITIONS, (POSITION_UPDATED,)))
"""Streams and subjects that a system's messages stand on, perhaps among those of others."""

DELETES_AT_ONCE = 64
SAY_SECONDS = 1.0
"""Between two notes of how far it is, for whoever asked."""

PASSES_MAX = 100
"""Looks for messages that were under way when their publisher was told; one is the rule."""


class RefillAsked(Retryable):
    """Somebody asked that what we told is emptied and told again: connect anew, and do so."""

    def __init__(self) -> None:
        super().__init__("`pks refill nats` was asked for: the streams are emptied, then filled from the first event")


class Refill(NamedTuple):
    """What was asked, and what has been done: messages removed by stream, and how many were looked at or removed so far."""

    is_done: bool
    removed: dict[str, int]
    steps: int = 0


async def ask(stream: Any, origin: str) -> None:
    """Ask for it, durably. stream: a JetStream context."""
    await _say(stream, origin, Refill(False, {}))


async def asked(stream: Any, origin: str) -> Refill | None:
    """What was asked for and how far it is; None where nobody ever asked."""
    try:
        entry = await (await hint_bucket(stream)).get(_key(origin))
    except (KeyNotFoundError, KeyDeletedError):
        return None
    return Refill(*json.loads(entry.value or b"[true, {}]"))


async def _say(stream: Any, origin: str, refill: Refill) -> None:
    await (await hint_bucket(stream)).put(_key(origin), json.dumps(refill).encode())


def _key(origin: str) -> str:
    return f"{origin}.refill"


async def forget(stream: Any, origin: str, beat: Callable[[], None]) -> dict[str, int]:
    """Do what was asked, by who publishes for `origin` or while nobody does; messages removed by stream.

    beat: called after each round trip. Raises what the library raises: then it is still asked for.
    """
    removed: dict[str, int] = {}
    steps, said = 0, time.monotonic()

    async def progress(count: int) -> None:
        nonlocal steps, said
        beat()
        steps += count
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            await _say(stream, origin, Refill(False, removed, steps))

    for plan, subjects in OURS:
        emptying = _Emptying(stream, plan.name, subjects, origin, progress)
        for _ in range(PASSES_MAX):
            before = removed.get(plan.name, 0)
            removed[plan.name] = before + await emptying.remove()
            if removed[plan.name] == before:
                break
    removed[POSITIONS_LATEST.name] = await _purge_latest(stream, origin)
    bucket = await hint_bucket(stream)
    for plan, _ in OURS:
        await bucket.delete(hint_key(origin, plan.name))
    await bucket.delete(hint_key(origin, BOOKING.name, HEADER_REFUSALS))
    await _say(stream, origin, Refill(True, removed, steps))
    return removed


async def _purge_latest(stream: Any, origin: str) -> int:
    subject = f"{POSITION_LATEST}.{origin}.>"
    try:
        info = await stream.stream_info(POSITIONS_LATEST.name, subjects_filter=subject)
        await stream.purge_stream(POSITIONS_LATEST.name, subject=subject)
    except NotFoundError:
        return 0
    return len(info.state.subjects or {})


class _Emptying:
    """One stream: what is ours there and what is not, by subject."""

    def __init__(self, stream: Any, name: str, subjects: tuple[str, ...], origin: str, progress: Callable[[int], Awaitable[None]]) -> None:
        self._stream, self._name, self._subjects, self._origin, self._progress = stream, name, subjects, origin, progress
        self._seen = 0  # last sequence that was looked at

    async def remove(self) -> int:
        """Remove what came since the last look; how many messages."""
        try:
            state = (await self._stream.stream_info(self._name)).state
        except NotFoundError:
            return 0
        first, last = max(int(state.first_seq), self._seen + 1), int(state.last_seq)
        if not state.messages or first > last:
            return 0
        ours: dict[str, list[int]] = {}
        others: dict[str, int] = {}  # the first message of somebody else
        async for sequence, subject, is_ours in self._look(first, last):
            if is_ours:
                ours.setdefault(subject, []).append(sequence)
            else:
                others.setdefault(subject, sequence)
        for subject, sequences in ours.items():
            await self._remove(subject, sequences, others.get(subject, last + 1))
        self._seen = last
        return sum(map(len, ours.values()))

    async def _remove(self, subject: str, sequences: list[int], stranger: int) -> None:
        """All in front of the first stranger at once, the rest one by one."""
        if self._seen == 0 and sequences[0] < stranger:
            await self._stream.purge_stream(self._name, seq=stranger, subject=subject)
            sequences = [sequence for sequence in sequences if sequence > stranger]
        for start in range(0, len(sequences), DELETES_AT_ONCE):
            some = sequences[start : start + DELETES_AT_ONCE]
            await asyncio.gather(*map(self._delete, some))
            await self._progress(len(some))

    async def _delete(self, sequence: int) -> None:
        try:
            await self._stream.delete_msg(self._name, sequence)
        except NotFoundError:
            return  # retention was quicker

    async def _look(self, first: int, last: int) -> Any:
        """(sequence, subject, is it ours) of every message of our subjects in first..last."""
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=first, ack_policy=AckPolicy.NONE, headers_only=True,
            filter_subjects=list(self._subjects), inactive_threshold=30.0, mem_storage=True,
        )  # fmt: skip
        reader = await self._stream.pull_subscribe(self._subjects[0], stream=self._name, config=config)
        try:
            pending = int((await reader.consumer_info()).num_pending or 0)
            while pending:
                messages = await reader.fetch(min(FETCH_MESSAGES, pending), timeout=FETCH_SECONDS)
                for message in messages:
                    sequence, pending = message.metadata.sequence.stream, int(message.metadata.num_pending)
                    if sequence > last:
                        return
                    yield sequence, message.subject, (message.headers or {}).get(HEADER_ORIGIN) == self._origin
                await self._progress(len(messages))
        finally:
            await reader.unsubscribe()
