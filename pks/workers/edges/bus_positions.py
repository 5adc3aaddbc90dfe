"""Positions on NATS: what changed, window by window, and the latest of each for who comes late.

Reads the updates rings and the slots as any free reader does. Latest wins: a position that changes a thousand times in a window is told
once. Nothing is told that is not durable: slots run ahead of the disk, so a copy waits until the disk has its last event. At every new
connection all positions are told, so a server that lost them has them again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from pks.edges.nats.connection import Connection
from pks.edges.nats.outlog import StreamChanged
from pks.edges.nats.streams import (
    HEADER_ID,
    HEADER_ORIGIN,
    HEADER_SEQUENCE,
    POSITION_HEARTBEAT,
    POSITION_LATEST,
    POSITION_UPDATED,
    POSITIONS_LATEST,
)
from pks.engine.positions.view import PositionTerms, PositionView
from pks.layouts.codes import Subject
from pks.layouts.slots import UPDATE_WORDS
from pks.proto.codec import position_message
from pks.proto.pks.v1 import position_pb2
from pks.segments.ring import LAPPED, ring_head, ring_read_free
from pks.workers.edges.edge import RESTS_AFTER_SECONDS, Pace
from pks.workers.edges.feed import Feed
from pks.workers.runtime import Context

WINDOW_SECONDS = 0.05
"""Changes within it are one message."""

POSITIONS_A_MESSAGE = 250
YIELD_RATIO = 3
"""How long positions, which only get later, rest after each message while trades, which must all be told, wait."""

READ_MAX = 4096
DURABLE_LOOK_SECONDS = 0.002
HEARTBEAT_SECONDS = 1.0
CHECK_SECONDS = 5.0
ACK_SECONDS_MAX = 10.0


class PositionsOut:
    """One reader of the slots, on one connection."""

    def __init__(self, context: Context, feed: Feed, connection: Connection, origin: str, is_behind: Callable[[], bool]) -> None:
        """is_behind: whether events and trades wait, which go first."""
        self._is_behind = is_behind
        self.context, self.feed, self.connection, self.origin = context, feed, connection, origin
        host = context.host
        self.table = host.positions
        self.rings = [host.updates(shard) for shard in range(host.shards)]
        self._cursors = [int(ring_head(ring.control)) for ring in self.rings]
        self._buffer = np.empty((READ_MAX, UPDATE_WORDS), np.int64)
        self._dirty = np.zeros(len(self.table.slots), np.bool_)
        self._given = np.full(len(self.table.slots), -1, np.int64)  # version that was told
        self._terms: dict[tuple[int, int], PositionTerms] = {}
        self._currencies: dict[int, str] = {}
        self._defined = -1
        self._numbers = 0
        self._told_upto = 0
        self.told = context.cells.counter("bus_positions")

    async def run(self) -> None:
        """Until it is cancelled or the connection fails."""
        created = await self._created()
        next_beat = next_check = 0.0
        self._dirty[self.table.rows()] = True
        pace = Pace((RESTS_AFTER_SECONDS, WINDOW_SECONDS))
        while True:
            began = time.monotonic()
            limit = self.feed.limit()
            self._look()
            while (rows := np.flatnonzero(self._dirty)[:POSITIONS_A_MESSAGE]).size:
                self._dirty[rows] = False
                pace.worked()
                started = time.monotonic()
                await self._tell(rows)
                if self._is_behind():
                    await asyncio.sleep((time.monotonic() - started) * YIELD_RATIO)
                self.context.beat()
                self._look()
                if time.monotonic() >= next_beat:
                    next_beat = await self._beat()
            self._told_upto = limit  # slots are written before the accumulator's cursor moves
            if began >= next_beat:
                next_beat = await self._beat()
            if began >= next_check:
                next_check = began + CHECK_SECONDS
                await self._check(created)
            await asyncio.sleep(pace.pause() if pace.rests else max(0.0, began + WINDOW_SECONDS - time.monotonic()))

    async def _created(self) -> str:
        return str((await self.connection.stream.stream_info(POSITIONS_LATEST.name)).created)

    async def _check(self, created: str) -> None:
        """Whether the stream of the latest still has what we told."""
        info = await self.connection.stream.stream_info(POSITIONS_LATEST.name)
        if str(info.created) != created or (not info.state.messages and (self._given >= 0).any()):
            raise StreamChanged(POSITIONS_LATEST.name, "was made anew or emptied")

    async def _beat(self) -> float:
        beat = position_pb2.Heartbeat(durable_sequence=self.feed.limit(), told_sequence=self._told_upto, at_ns=self.context.clock.wall_ns())
        await self.connection.client.publish(POSITION_HEARTBEAT, beat.SerializeToString(), headers={HEADER_ORIGIN: self.origin})
        return time.monotonic() + HEARTBEAT_SECONDS

    def _look(self) -> None:
        """Mark the rows that changed since the last look."""
        for number, ring in enumerate(self.rings):
            while True:
                count = int(ring_read_free(ring.control, ring.records, self._cursors[number], self._buffer, READ_MAX))
                if count == LAPPED:
                    self._cursors[number] = int(ring_head(ring.control))
                    self._dirty[self.table.rows()] = True
                    break
                self._cursors[number] += count
                rows = self._buffer[:count, 1] & 0xFFFFFFFF  # UPDATE: sequence, then slot in the lower half
                self._dirty[rows[rows < len(self._dirty)]] = True
                if count < READ_MAX:
                    break

    async def _tell(self, rows: Any) -> None:
        """Tell these rows as they are now, when that is durable."""
        rows = rows[self.table.slots[rows, 0] != self._given[rows]]
        if not len(rows):
            return
        records = self.table.snapshot(rows)
        newest = int(records["last_sequence"].max())
        while self.feed.limit() < newest:
            await asyncio.sleep(DURABLE_LOOK_SECONDS)
        messages = [self._message(record) for record in records]
        order = np.argsort(records["last_sequence"], kind="stable").tolist()
        batch = position_pb2.PositionsUpdated(positions=[messages[at] for at in order])
        sent = [await self._publish(POSITION_UPDATED, batch.SerializeToString(), newest)]
        for message in messages:
            subject = f"{POSITION_LATEST}.{self.origin}.{message.book_id}.{message.instrument_id}"
            sent.append(await self._publish(subject, message.SerializeToString(), message.last_sequence))
        await asyncio.wait_for(asyncio.gather(*sent), ACK_SECONDS_MAX)
        self._given[rows] = records["version"]
        self.told.add(len(messages))

    async def _publish(self, subject: str, payload: bytes, sequence: int) -> Any:
        self._numbers += 1
        headers = {
            HEADER_ORIGIN: self.origin,
            HEADER_SEQUENCE: str(sequence),
            HEADER_ID: f"{self.origin}:{self.context.epoch}:{id(self):x}:{self._numbers}",
        }
        return await self.connection.stream.publish_async(subject, payload, headers=headers)

    def _message(self, record: Any) -> Any:
        terms = self._terms_of(int(record["book_id"]), int(record["instrument_id"]))
        return position_message(PositionView.from_record(record, terms))

    def _terms_of(self, book_id: int, instrument_id: int) -> PositionTerms:
        """What reference data say of a position; read again when a definition came."""
        newest = int(self.context.host.refdata.slots[:, 0].sum())  # versions: moves with every definition
        if newest != self._defined:
            self._terms.clear()
            rows = self.context.host.refdata.snapshot()
            currencies = rows[rows["subject"] == Subject.CURRENCY]
            self._currencies = {int(row["row_id"]): bytes(row["code"]).decode() for row in currencies}
            self._defined = newest
        key = (book_id, instrument_id)
        if key not in self._terms:
            instrument, book = self._row(Subject.INSTRUMENT, instrument_id), self._row(Subject.BOOK, book_id)
            self._terms[key] = PositionTerms.from_rows(instrument, book, self._currencies)
        return self._terms[key]

    def _row(self, subject: Subject, row_id: int) -> Any:
        refdata = self.context.host.refdata
        row = refdata.find((int(subject), row_id))
        assert row is not None, "a position's book and instrument were defined before it"
        return refdata.read(row)
