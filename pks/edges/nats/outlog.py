"""What one system has put into a stream, each part once: the stream itself says how far it is, and each publish expects its last sequence.

A publish that timed out may have been stored or not, and a dead worker's may still be under way: the server takes only one of two that
expect the same last sequence, and who is refused looks at what came in between. Others publish into the same streams, so the messages of
our origin are looked for from the end. Retention may have taken them away: then a hint in the server's key-value bucket, which goes with
the server's store, says how far we were, or a later one that a stream with a longer retention carries in its messages. A stream that lost
our messages in any other way was wiped, and is filled again.

What is told in two strands, each with numbers of its own, has a log a strand; logs of one stream publish in turn and tell each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, BucketNotFoundError, KeyDeletedError, KeyNotFoundError, NotFoundError

from pks.base.errors import Retryable
from pks.edges.nats.streams import (
    HEADER_BESIDE,
    HEADER_EXPECTED,
    HEADER_ID,
    HEADER_LAST,
    HEADER_ORIGIN,
    HEADER_PART,
    HEADER_REFUSALS,
    HEADER_WINDOW,
    StreamPlan,
)

WRONG_LAST_SEQUENCE = 10071
SCAN_MESSAGES_MIN, SCAN_MESSAGES_MAX = 256, 1 << 16
"""How many messages the first look back takes, and the longest."""

FETCH_MESSAGES = 500
FETCH_SECONDS = 5.0
TRIES_MAX = 1000
"""Publishes of one message that others were quicker than; each try means that somebody's message was stored."""

HINT_BUCKET = "pks_edge"
HINT_SECONDS_MIN = 1.0
"""Between two hints while there is traffic."""

CHECK_SECONDS = 5.0
"""Between two looks whether the stream is still the one that we write."""


class StreamChanged(Retryable):
    """The stream was wiped or replaced, or holds messages of ours that we do not know of: look again from the beginning."""

    def __init__(self, stream: str, reason: str) -> None:
        super().__init__(f"stream {stream}: {reason}")
        self.stream = stream


class Mark(NamedTuple):
    """Our last message: events window_first..window_last are in the stream up to part `part` of `parts`."""

    window_first: int
    window_last: int
    part: int
    parts: int

    @property
    def is_whole(self) -> bool:
        """Every message of the window is there."""
        return self.part >= self.parts


class Found(NamedTuple):
    """A message of ours in the stream."""

    sequence: int
    mark: Mark
    at: float  # when it was stored, seconds since 1970
    beside: str = ""  # the hint of another stream that it carries


NOTHING = Mark(0, 0, 1, 1)


def window_headers(origin: str, first: int, last: int, part: int, parts: int, strand: str = HEADER_WINDOW) -> dict[str, str]:
    """The headers by which a message of ours is found again. strand: the header that says the window; numbers of two strands differ."""
    return {
        HEADER_ORIGIN: origin,
        strand: f"{first}-{last}",
        HEADER_PART: f"{part}/{parts}",
        HEADER_ID: f"{origin}:{first}-{last}:{part}",
    }


def mark_of(headers: dict[str, str], strand: str = HEADER_WINDOW) -> Mark:
    """The Mark of a message with `window_headers`; one of another kind counts by its Pks-Last."""
    if strand not in headers:
        return Mark(0, int(headers.get(HEADER_LAST, "0")), 1, 1)
    first, _, last = headers[strand].partition("-")
    part, _, parts = headers[HEADER_PART].partition("/")
    return Mark(int(first), int(last), int(part), int(parts))


async def hint_bucket(stream: Any) -> Any:
    """The key-value bucket of edges' hints, made where it is missing."""
    try:
        return await stream.key_value(HINT_BUCKET)
    except BucketNotFoundError:
        return await stream.create_key_value(bucket=HINT_BUCKET, history=1, max_bytes=1 << 20)


def hint_key(origin: str, stream: str, strand: str = HEADER_WINDOW) -> str:
    """The key of a system's hint of one strand in a stream."""
    return f"{origin}.{stream}" + ("" if strand == HEADER_WINDOW else f".{strand}")


class Turns:
    """The logs of one stream on one connection: one publishes at a time, and those that knew the same end know the new one."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.logs: list[OutLog] = []

    def moved(self, before: int, after: int) -> None:
        """Our message is the stream's next one behind `before`: nobody else's lies in between."""
        for log in self.logs:
            if log.expected == before:
                log.expected = after


class OutLog:
    """Our messages of one strand in one stream, on one connection."""

    def __init__(
        self,
        stream: Any,
        plan: StreamPlan,
        subjects: tuple[str, ...],
        origin: str,
        beat: Callable[[], None] | None = None,
        *,
        strand: str = HEADER_WINDOW,
        turns: Turns | None = None,
    ) -> None:
        """stream: a JetStream context; subjects: those that we publish on; turns: another log's of the same stream."""
        self._stream, self.plan, self.subjects, self.origin, self.strand = stream, plan, subjects, origin, strand
        self._beat = beat or (lambda: None)
        self.turns = turns or Turns()
        self.turns.logs.append(self)
        self.expected = 0  # last sequence of the stream as far as we know that there is no more of ours
        self._created = ""
        self._ours = 0  # stream sequence of our last message
        self._last = 0  # the last event that is there whole
        self._at = 0.0  # when our last message was stored
        self._hinted, self._hinted_at, self._checked_at = 0, 0.0, time.monotonic()
        self._bucket: Any = None
        self.beside = ""  # the hint of another stream in our last message, where that was read
        self.retries_count = 0

    def headers(self, first: int, last: int, part: int = 1, parts: int = 1) -> dict[str, str]:
        """`window_headers` of this log."""
        return window_headers(self.origin, first, last, part, parts, self.strand)

    async def open(self, beside: str = "") -> Mark:
        """How far we are by what the stream holds; NOTHING for a stream without us. beside: a hint from elsewhere, "" for none."""
        info = await self._stream.stream_info(self.plan.name)
        state = info.state
        self._created, self.expected = str(info.created), int(state.last_seq)
        hints = [hint for hint in (await self._read_hint(), self._of_this_stream(beside)) if hint is not None]
        hint = max(hints, key=lambda one: int(one["stream_sequence"]), default=None)
        low = max(int(state.first_seq), 1)
        if hint is not None and low <= hint["stream_sequence"] <= self.expected:
            low = hint["stream_sequence"]
        found = await self._look_back(low, self.expected) if state.messages else None
        if found is not None:
            self._take(found)
            self._last = found.mark.window_last if found.mark.is_whole else found.mark.window_first - 1
            self.expected, self.beside = int(state.last_seq), found.beside
            return found.mark
        if hint is not None and hint["stream_sequence"] <= self.expected and (state.messages or self._aged_out(hint["at"])):
            self._ours, self._last, self._at = hint["stream_sequence"], hint["last"], hint["at"]
            return Mark(0, hint["last"], 1, 1)
        return NOTHING

    def _aged_out(self, at: float) -> bool:
        return bool(self.plan.age_seconds) and time.time() - at > self.plan.age_seconds - 1

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """Store one message, once. headers: `window_headers` and others.

        Raises StreamChanged, or what the library raises: then `open` again.
        """
        async with self.turns.lock:
            await self._publish(subject, payload, headers)

    async def _publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        sent = dict(headers)
        for _ in range(TRIES_MAX):
            sent[HEADER_EXPECTED] = str(self.expected)
            try:
                answer = await self._stream.publish(subject, payload, headers=sent)
            except APIError as error:
                if error.err_code != WRONG_LAST_SEQUENCE:
                    raise
                if await self._was_stored(headers[HEADER_ID]):
                    return
                continue
            if answer.duplicate:
                if await self._holds(answer.seq, headers[HEADER_ID]):
                    raise StreamChanged(self.plan.name, f"holds {headers[HEADER_ID]} at {answer.seq} already")
                sent[HEADER_ID] = f"{headers[HEADER_ID]}:{self.expected}"  # the server remembers the id of a message that was wiped
                continue
            self.turns.moved(self.expected, int(answer.seq))
            self._take(Found(int(answer.seq), mark_of(headers, self.strand), time.time()))
            return
        raise StreamChanged(self.plan.name, f"others were quicker {TRIES_MAX} times")

    def _take(self, found: Found) -> None:
        self.expected = self._ours = found.sequence
        self._at = found.at
        if found.mark.is_whole:
            self._last = found.mark.window_last

    async def _was_stored(self, message_id: str) -> bool:
        """After a refusal: whether the message came in after all. Knows the stream's last sequence afterwards."""
        self.retries_count += 1
        info = await self._stream.stream_info(self.plan.name)
        last = int(info.state.last_seq)
        if str(info.created) != self._created or last < self.expected:
            raise StreamChanged(self.plan.name, "was made anew")
        found = await self._look_back(self.expected + 1, last) if last > self.expected else None
        self.expected = last
        if found is None:
            return False
        if not await self._holds(found.sequence, message_id):
            raise StreamChanged(self.plan.name, f"holds events up to {found.mark.window_last} of ours that we did not know of")
        self._take(found)
        self.expected = last
        return True

    async def _holds(self, sequence: int, message_id: str) -> bool:
        try:
            message = await self._stream.get_msg(self.plan.name, sequence)
        except NotFoundError:
            return False
        found = (message.headers or {}).get(HEADER_ID, "")
        return bool(found == message_id or found.startswith(f"{message_id}:"))

    async def _look_back(self, low: int, high: int) -> Found | None:
        """Our last message in low..high, looked for from the end; None where there is none."""
        step = SCAN_MESSAGES_MIN
        while high >= low:
            first = max(low, high - step + 1)
            found = await self._last_between(first, high)
            if found is not None:
                return found
            high, step = first - 1, min(step * 4, SCAN_MESSAGES_MAX)
            self._beat()
        return None

    async def _last_between(self, first: int, last: int) -> Found | None:
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=first,
            ack_policy=AckPolicy.NONE,
            headers_only=True,
            filter_subjects=list(self.subjects),
            inactive_threshold=30.0,
            mem_storage=True,
        )
        reader = await self._stream.pull_subscribe(self.subjects[0], stream=self.plan.name, config=config)
        found: Found | None = None
        try:
            pending = int((await reader.consumer_info()).num_pending or 0)
            while pending:
                for message in await reader.fetch(min(FETCH_MESSAGES, pending), timeout=FETCH_SECONDS):
                    sequence = message.metadata.sequence.stream
                    pending = int(message.metadata.num_pending)
                    if sequence > last:
                        return found
                    if self._is_ours(message.headers or {}):
                        at, beside = message.metadata.timestamp.timestamp(), message.headers.get(HEADER_BESIDE, "")
                        found = Found(sequence, mark_of(message.headers, self.strand), at, beside)
                self._beat()
        finally:
            await self._end(reader)
        return found

    def _is_ours(self, headers: dict[str, str]) -> bool:
        """Of our origin and strand."""
        return headers.get(HEADER_ORIGIN) == self.origin and (HEADER_REFUSALS in headers) == (self.strand == HEADER_REFUSALS)

    async def _end(self, reader: Any) -> None:
        """Remove a consumer that is not needed; the server does it itself in a while."""
        name = (await reader.consumer_info()).name
        await reader.unsubscribe()
        with contextlib.suppress(NotFoundError):
            await self._stream.delete_consumer(self.plan.name, name)

    # what goes on beside publishing

    async def tend(self, quiet: bool) -> None:
        """Between publishes: leave a hint, at once when it is quiet; see that the stream is still ours. Raises StreamChanged."""
        now = time.monotonic()
        if self._ours != self._hinted and (quiet or now - self._hinted_at >= HINT_SECONDS_MIN):
            await self._write_hint()
            self._hinted, self._hinted_at = self._ours, now
        if now - self._checked_at >= CHECK_SECONDS:
            self._checked_at = now
            known = self.expected  # it may grow meanwhile
            info = await self._stream.stream_info(self.plan.name)
            if str(info.created) != self._created or int(info.state.last_seq) < known:
                raise StreamChanged(self.plan.name, "was made anew")
            if self._ours and not info.state.messages and not self._aged_out(self._at):
                raise StreamChanged(self.plan.name, "was emptied")

    async def _key_values(self) -> Any:
        self._bucket = self._bucket or await hint_bucket(self._stream)
        return self._bucket

    def hint(self) -> str:
        """How far we are, for `open`; "" for a stream without us."""
        if not self._ours:
            return ""
        return json.dumps({"created": self._created, "stream_sequence": self._ours, "last": self._last, "at": self._at})

    async def _write_hint(self) -> None:
        await (await self._key_values()).put(hint_key(self.origin, self.plan.name, self.strand), self.hint().encode())

    async def _read_hint(self) -> dict[str, Any] | None:
        """The hint, unless it is of another incarnation of the stream."""
        try:
            entry = await (await self._key_values()).get(hint_key(self.origin, self.plan.name, self.strand))
        except (KeyNotFoundError, KeyDeletedError):
            return None
        return self._of_this_stream((entry.value or b"").decode())

    def _of_this_stream(self, text: str) -> dict[str, Any] | None:
        hint: dict[str, Any] = json.loads(text or "{}")
        return hint if hint.get("created") == self._created else None


assert issubclass(APIError, nats.errors.Error), "one root of the library's errors"
