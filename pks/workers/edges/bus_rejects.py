"""What capture refused, told on NATS: TradeRejected messages in the stream BOOKING, in their own strand with their own cursor.

What a position refused is an event and `bus_out` tells it. These never became events: they come from the rejects stream, whose file
outlives the system but is not flushed to the disk. A refusal's number on NATS is its epoch and its number in the stream together, so that
after a power cut, which may have taken the stream's end, no number means two refusals. It decides nothing about what was refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pks.base.errors import CODES, Code
from pks.edges.nats.outlog import OutLog
from pks.edges.nats.streams import TRADE_REJECTED
from pks.layouts.codes import Subject
from pks.layouts.event import EVENT
from pks.proto.codec import Encoder, Names
from pks.proto.pks.v1 import booking_pb2
from pks.segments.errors import LayoutUnknown, StreamDamaged
from pks.segments.table import RefdataTable
from pks.topology import Stream
from pks.workers.edges.bus_out import PACE, TRADES_A_MESSAGE, WINDOW_BYTES_MAX
from pks.workers.edges.edge import Pace
from pks.workers.edges.feed import Feed
from pks.workers.rejects import Refusal, RejectsReader, sound_of
from pks.workers.runtime import Context

EPOCH_SHIFT = 40
"""Numbers of one epoch: a thousand a second for thirty years."""

_NUMBERS = (1 << EPOCH_SHIFT) - 1


class _Named(NamedTuple):
    code: str


class Told(NamedTuple):
    """A message to be: its refusals and their numbers on NATS."""

    first: int
    last: int
    rejections: list[Any]


def number_of(epoch: int, number: int) -> int:
    """A refusal's number on NATS; it only grows."""
    return epoch << EPOCH_SHIFT | number


class RejectsOut:
    """One reader of the rejects stream, on one connection."""

    def __init__(self, context: Context, feed: Feed, log: OutLog, may_tell: Callable[[], bool]) -> None:
        """may_tell: whether the beginning of this epoch is where the refusals go, so that no later journal begins it again."""
        self.context, self.feed, self.log, self._may_tell = context, feed, log, may_tell
        self._stream: Stream = context.host.rejects
        self._refdata = RefdataTable(context.host.refdata)
        self._encoder = Encoder(Names(self._definition), lambda sequence: "", {})
        self._reader: RejectsReader | None = None
        self._waits_since_ns = 0
        self.cursor = 0  # last number on NATS
        self.told = context.cells.counter("bus_rejections")

    def _definition(self, subject: Subject, row_id: int) -> Any:
        """What capture knows, which a refusal may name before the feed has come to it."""
        found: Any = self.feed.catalogue.get(subject, row_id)
        if found is not None:
            return found
        row = self._refdata.read(int(subject), row_id)
        return None if row is None else _Named(bytes(row["code"]).decode(errors="replace"))

    async def open(self) -> None:
        """Read the cursor from the stream of NATS."""
        self.cursor = (await self.log.open()).window_last
        epoch, number = self.cursor >> EPOCH_SHIFT, self.cursor & _NUMBERS
        self.close()
        self._reader = RejectsReader(self._stream, number if epoch and self._has(epoch, number) else -1)

    def _has(self, epoch: int, number: int) -> bool:
        """Whether record `number` is still the one that was told; otherwise a power cut took it, or it is too old."""
        if number > self._stream.ring.head:
            return False
        reader = self._stream.reader(number - 1)
        try:
            records = reader.read(1)
            return len(records) == 1 and bool(sound_of(records, number)[0]) and int(records[0]["epoch"]) == epoch
        except (StreamDamaged, LayoutUnknown, OSError):
            return False
        finally:
            reader.close()

    async def run(self) -> None:
        """Until it is cancelled or the connection fails."""
        assert self._reader is not None, "opened"
        pace = Pace(*PACE)
        while True:
            refusals = self._reader.read() if self._may_tell() else []
            told = [one for one in refusals if self._number(one.last, one) > self.cursor]
            for message in self._messages(told):
                await self._publish(message)
                self.context.beat()
                pace.worked()
            self._waits_since_ns = 0
            await self.log.tend(quiet=not told)
            if self._reader.lag and self._may_tell():
                await asyncio.sleep(0)
            else:
                await pace.rest()

    def _number(self, number: int, refusal: Refusal) -> int:
        return number_of(int(refusal.records[0]["epoch"]), number)

    def _messages(self, refusals: list[Refusal]) -> Iterator[Told]:
        """Cut into messages by number and bytes."""
        first, last, rejections, size = 0, 0, list[Any](), 0
        for one in refusals:
            if rejections and (len(rejections) >= TRADES_A_MESSAGE or size > WINDOW_BYTES_MAX // 2):
                yield Told(first, last, rejections)
                rejections, size = [], 0
            made = self._rejection(one)
            if not rejections:
                first = self._number(one.first, one)
                self._waits_since_ns = int(one.records[0]["recorded_ns"])
            last = self._number(one.last, one)
            rejections.append(made)
            size += made.ByteSize()
        if rejections:
            yield Told(first, last, rejections)

    def _rejection(self, refusal: Refusal) -> Any:
        head = refusal.records[0]
        code, value, other = Code(int(head["code"])), int(head["value"]), int(head["other"])
        reason = CODES[code]
        if code is Code.AMBIGUOUS_ORIGINAL:
            reason = f"{reason}: events {value} and {other}"
        group = np.ascontiguousarray(refusal.records["original"]).view(EVENT).reshape(-1)
        return self._encoder.refused(group, int(head["recorded_ns"]), code.name, reason, int(head["field"]), value)

    async def _publish(self, message: Told) -> None:
        payload = bytes(booking_pb2.TradeRejected(rejections=message.rejections).SerializeToString())
        await self.log.publish(TRADE_REJECTED, payload, self.log.headers(message.first, message.last))
        self.cursor = message.last
        self.told.add(len(message.rejections))

    def lag(self) -> tuple[int, int]:
        """(records that NATS lacks, about; recorded_ns of the first of them or 0)."""
        waiting = 0 if self._reader is None else self._reader.lag
        return (waiting or int(self._waits_since_ns > 0)), self._waits_since_ns

    def close(self) -> None:
        """Let go of the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
