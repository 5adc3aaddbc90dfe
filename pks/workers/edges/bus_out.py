"""What goes out on NATS: the journal itself (EVENTS), and what was booked, applied and refused (BOOKING).

Each has its own cursor, the last message of ours in its stream. Booked trades travel in windows of events: what a window has of trades, of
lifecycle events and of rejections is a message each, in this order, so that a busy hour has few messages and a quiet one has a message an
event. A window is a pure function of its first and last event, so one that was cut short is made again and completed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pks.base.errors import CODES, Code
from pks.edges.nats.origin import root_of
from pks.edges.nats.outlog import NOTHING, Mark, OutLog, window_headers
from pks.edges.nats.streams import (
    EVENTS_SUBJECT,
    HEADER_BESIDE,
    HEADER_FIRST,
    HEADER_LAST,
    HEADER_SEQUENCE,
    LIFECYCLE_APPLIED,
    PAYLOAD_BYTES_MAX,
    TRADE_BOOKED,
    TRADE_REJECTED,
)
from pks.engine.booking.admit import GIVEN
from pks.layouts.codes import Flag, Kind
from pks.layouts.event import EVENT_BYTES
from pks.proto.codec import APPLIED, BOOKED, CORRECTIONS, Encoder, Names, details_of, events_message, fields_of
from pks.proto.pks.v1 import booking_pb2
from pks.workers.edges.edge import RESTS_AFTER_SECONDS, Pace
from pks.workers.edges.feed import Feed, Slice

EVENTS_A_MESSAGE = PAYLOAD_BYTES_MAX // EVENT_BYTES - 8
TRADES_A_MESSAGE = 256
"""Of one window: a consumer gets its first trades early, and a message stays far below what a server takes."""

WINDOW_BYTES_MAX = PAYLOAD_BYTES_MAX

PACE = (1.0, 0.002), (RESTS_AFTER_SECONDS, 0.01)
"""Looks for events: often in the second after the last one, less often until the edge rests."""

CHANGED_WORDS = {
    "side": "side",
    "qty_raw": "quantity",
    "price_raw": "price",
    "fee_raw": "fee",
    "trade_time_ns": "trade_time",
    "effective_date": "business_date",
    "settle_date": "settle_date",
    "account_id": "account",
    "book_id": "book",
    "instrument_id": "instrument",
    "lot_date": "open_date",
    "to_account_id": "to_account",
    "to_book_id": "to_book",
}
assert CHANGED_WORDS.keys() == GIVEN.keys(), "a word for every field that an AMEND may give"

HAS_DETAIL = int(Flag.HAS_DETAIL)
_BOOKED, _APPLIED, _REJECTED = 0, 1, 2
_SUBJECTS = (TRADE_BOOKED, LIFECYCLE_APPLIED, TRADE_REJECTED)
_TOLD = np.array(sorted(int(kind) for kind in (*BOOKED, *APPLIED)))


class EventsOut:
    """The journal, event by event, as EventBatch messages."""

    def __init__(self, feed: Feed, log: OutLog, beside: OutLog, beat: Callable[[], None]) -> None:
        """beside: of BOOKING, whose messages are kept for a shorter time: these carry how far it is."""
        self.feed, self.log, self.beside, self._beat = feed, log, beside, beat
        self.cursor = 0

    async def open(self) -> None:
        """Read the cursor from the stream."""
        self.cursor = (await self.log.open()).window_last

    async def run(self) -> None:
        """Until it is cancelled or the connection fails."""
        pace = Pace(*PACE)
        while True:
            limit = self.feed.limit()
            if limit <= self.cursor:
                await self.log.tend(quiet=True)
                await pace.rest()
                continue
            pace.worked()
            await self._publish(self.cursor + 1, min(limit, self.cursor + EVENTS_A_MESSAGE))
            await self.log.tend(quiet=False)
            self._beat()

    async def _publish(self, first: int, last: int) -> None:
        view = self.feed.view
        if last > view.extent[1]:
            view.refresh()
        payload = events_message(first, view.records[first : last + 1])
        headers = {**window_headers(self.log.origin, first, last, 1, 1), HEADER_FIRST: str(first), HEADER_LAST: str(last)}
        if hint := self.beside.hint():
            headers[HEADER_BESIDE] = hint
        await self.log.publish(EVENTS_SUBJECT, payload, headers)
        self.cursor = last


class Part(NamedTuple):
    """One message of a window: what stands in it, in order, with their sequences."""

    kind: int
    items: list[Any]
    sequences: list[int]


class Window(NamedTuple):
    """Events first..last and what is to be told of them."""

    first: int
    last: int
    parts: list[Part]


class BookingOut:
    """Booked trades, applied lifecycle events, refusals of the position."""

    def __init__(self, feed: Feed, log: OutLog, beat: Callable[[], None]) -> None:
        self.feed, self.log, self._beat = feed, log, beat
        self.cursor = 0
        self.told = 0
        given = {word: GIVEN[name] for name, word in CHANGED_WORDS.items()}
        self._encoder = Encoder(Names(lambda subject, row_id: feed.catalogue.get(subject, row_id)), self._id_at, given)
        self._begun: Mark = NOTHING  # a window of which some messages are in the stream and some are not

    async def open(self, beside: str = "") -> None:
        """Read the cursor from the stream; the feed goes on there. beside: what EVENTS knows of it."""
        mark = await self.log.open(beside)
        self._begun = NOTHING if mark.is_whole else mark
        self.cursor = mark.window_last if mark.is_whole else mark.window_first - 1
        self.feed.finish(self.cursor)
        self.feed.rewind()

    async def run(self) -> None:
        """Until it is cancelled or the connection fails."""
        pace = Pace(*PACE)
        while True:
            made = self._take() if self.feed.limit() > self.cursor else None
            if made is None:
                await self.log.tend(quiet=True)
                await pace.rest()
                continue
            pace.worked()
            for window in self._windows(made):
                await self._publish(window)
                self._beat()
            self._advance(made.last)
            await self.log.tend(quiet=False)

    def _advance(self, last: int) -> None:
        self.feed.finish(last)
        self.cursor = last

    def _take(self) -> Slice | None:
        """The next slice; one that has the window which was begun, whole."""
        made = self.feed.take()
        while made is not None and made.last < self._begun.window_last:
            following = self.feed.take()
            if following is None:
                self.feed.rewind()
                return None
            records = self.feed.view.records[made.first : following.last + 1]
            made = Slice(made.first, following.last, records, {**made.refused, **following.refused}, following.matches)
        return made

    def _windows(self, made: Slice) -> Iterator[Window]:
        """Cut a slice into windows at the ends of groups; the one that was begun comes out as it was."""
        events = made.events
        at = np.flatnonzero(np.isin(events["kind"], _TOLD))
        heads = fields_of(events[at])
        first, window_bytes = made.first, 0
        parts = _new_parts()
        for place, e in zip(at.tolist(), heads, strict=True):
            code = made.refused.get(e.sequence, 0)
            details = details_of(events[place : place + e.group_count]) if e.flags & HAS_DETAIL else {}
            group_first = e.sequence - int(events[place]["group_index"])
            begins = group_first == e.sequence
            forced = self._begun.window_first == first
            full = len(parts[0].items) + len(parts[1].items) + len(parts[2].items) >= TRADES_A_MESSAGE or window_bytes > WINDOW_BYTES_MAX
            if begins and (e.sequence > self._begun.window_last if forced else full) and any(part.items for part in parts):
                last = self._begun.window_last if forced else e.sequence - 1
                yield Window(first, last, parts)
                first, window_bytes, parts = last + 1, 0, _new_parts()
            kind, item = self._item(e, details, code, events[place])
            parts[kind].items.append(item)
            parts[kind].sequences.append(e.sequence)
            window_bytes += item.ByteSize()
        if any(part.items for part in parts):
            yield Window(first, self._begun.window_last if self._begun.window_first == first else made.last, parts)

    def _item(self, e: Any, details: dict[str, Any], code: int, record: Any) -> tuple[int, Any]:
        if code:
            return _REJECTED, self._encoder.rejection(e, details, Code(code).name, CODES[Code(code)], record.tobytes())
        if e.kind in BOOKED:
            return _BOOKED, self._encoder.trade(e, details)
        root = root_of(int(record["second_key_hi"]), int(record["second_key_lo"])) if e.kind in CORRECTIONS else ""
        return _APPLIED, self._encoder.lifecycle(e, details, root)

    def _id_at(self, sequence: int) -> str:
        """The id of the trade at `sequence`, whole."""
        record = self.feed.view.records[sequence]
        if int(record["flags"]) & Flag.HAS_DETAIL:
            found = details_of(self.feed.view.records[sequence : sequence + int(record["group_count"])]).get("trade_id")
            if found:
                return str(found)
        return bytes(record["trade_id"]).decode(errors="replace")

    async def _publish(self, window: Window) -> None:
        """Store the messages of a window that are not there yet."""
        parts = [part for part in window.parts if part.items]
        begun = self._begun if (self._begun.window_first, self._begun.window_last) == (window.first, window.last) else NOTHING
        for number, part in enumerate(parts, start=1):
            if number <= begun.part and begun is not NOTHING:
                continue
            headers = window_headers(self.log.origin, window.first, window.last, number, len(parts))
            if len(part.sequences) == 1:
                headers[HEADER_SEQUENCE] = str(part.sequences[0])
            headers[HEADER_FIRST], headers[HEADER_LAST] = str(part.sequences[0]), str(part.sequences[-1])
            await self.log.publish(_SUBJECTS[part.kind], _message(part), headers)
            self.told += len(part.items)
        self._begun = NOTHING
        self._advance(window.last)


def _new_parts() -> list[Part]:
    return [Part(kind, [], []) for kind in (_BOOKED, _APPLIED, _REJECTED)]


def _message(part: Part) -> bytes:
    if part.kind == _BOOKED:
        return bytes(booking_pb2.TradeBooked(trades=part.items).SerializeToString())
    if part.kind == _APPLIED:
        return bytes(booking_pb2.LifecycleEventApplied(events=part.items).SerializeToString())
    return bytes(booking_pb2.TradeRejected(rejections=part.items).SerializeToString())


assert Kind.DETAIL not in (*BOOKED, *APPLIED), "text is no event"
