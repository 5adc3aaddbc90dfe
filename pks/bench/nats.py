"""`pks bench nats`: from a fill to its message on NATS, and how many trades and events a second go out and come in.

The server is one of the bench's own, configured as the embedded one (every message flushed before it is acknowledged). Latency: one trade
at a time, from the producer's ring to a subscriber of BOOKING's subject. Rates: many trades at once, until the streams have them. Peer: the
same server and the library's client, storing messages of the same sizes one after another, as an edge that expects the last sequence must.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pks.base.config import Edges
from pks.base.errors import Code, Fatal
from pks.bench.desk import definitions, trades
from pks.bench.report import Measured, Plan, result
from pks.bench.system import System
from pks.edges.nats.connection import Connection, open_connection
from pks.edges.nats.streams import BOOKING, EVENTS, EVENTS_SUBJECT, HEADER_LAST, TRADE_BOOKED
from pks.layouts.event import EVENT_BYTES
from pks.proto.pks.v1 import booking_pb2
from pks.servers.endpoints import Endpoint
from pks.servers.errors import ServerMissing
from pks.servers.nats import Nats

GROUP = 256
BOOKS, INSTRUMENTS = 20, 100
WAIT_SECONDS = 120.0
TRADES_A_MESSAGE, EVENTS_A_MESSAGE = 256, 1900


class NothingToMeasure(Fatal):
    """The server is not installed, or does not start."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no NATS server to measure with: {reason}")


@contextmanager
def _server(folder: Path) -> Iterator[Endpoint]:
    """A server as the embedded one."""
    server = Nats(folder / "servers" / "nats", Edges())
    try:
        server.prepare()
    except ServerMissing as error:
        raise NothingToMeasure(error.reason) from None
    with server.output.open("ab") as said:
        process = subprocess.Popen(server.command(), env=server.environment(), stdout=said, stderr=said)
    try:
        yield Endpoint("nats", "external", server.url(), server.url(), str(server.seed_file("pks")))
    finally:
        process.terminate()
        process.wait()


def measure(plan: Plan) -> Measured:
    """Latency alone, then rates, each turn with new trades."""
    found = Measured(runs=plan.rounds(3), wait="auto")
    with _server(plan.folder) as place:
        settings = {"PKS_NATS_URL": place.url, "PKS_NATS_NKEY": place.nkey_file}
        with System(plan.folder / "data", edges="external", **settings) as system:
            system.start()
            system.define(definitions(BOOKS, INSTRUMENTS))
            asyncio.run(_measure(system, place, plan, found))
    found.notes = [
        f"{plan.size(200, 5)} trades one at a time, {plan.size(20_000, 500):,} a turn; server with sync_interval always",
        "the peer stores messages of the same bytes, each when the one before it is acknowledged, and does nothing else",
    ]
    return found


async def _measure(system: System, place: Endpoint, plan: Plan, found: Measured) -> None:
    connection = await _ready(place)
    try:
        alone = trades(plan.size(200, 5), 1, BOOKS, INSTRUMENTS, seed=1, known=False)
        found.results.append(result("fill to its message", "ms", await _latency(system, connection, alone)))
        count = plan.size(20_000, 500)
        out, events, theirs_out, theirs_events = [], [], [], []
        for turn in range(found.runs):
            many = trades(count, 1, BOOKS, INSTRUMENTS, seed=2 + turn, known=False)
            booked, copied = await _rates(system, connection, many)
            out.append(count / booked)
            events.append(count / copied)
            message = await connection.stream.get_last_msg(BOOKING.name, TRADE_BOOKED)
            told = len(booking_pb2.TradeBooked.FromString(message.data or b"").trades)
            size = len(message.data or b"") * TRADES_A_MESSAGE // max(1, told)
            theirs_out.append(TRADES_A_MESSAGE * await _peer(connection, size, plan.size(60, 3)))
            theirs_events.append(EVENTS_A_MESSAGE * await _peer(connection, EVENTS_A_MESSAGE * EVENT_BYTES, plan.size(30, 3)))
        found.results += [
            result("booked trades into BOOKING", "trades/s", out),
            result("peer: messages of 256 trades", "trades/s", theirs_out),
            result("events into EVENTS", "events/s", events),
            result("peer: messages of 1,900 events", "events/s", theirs_events),
        ]
    finally:
        await connection.close()


async def _ready(place: Endpoint) -> Connection:
    """A connection, when the bus has made its streams."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        connection = None
        try:
            connection = await open_connection(place, "pks bench")
            await connection.stream.stream_info(EVENTS.name)
            await connection.stream.stream_info(BOOKING.name)
            return connection
        except Exception as error:  # server or bus start
            if connection is not None:
                await connection.close()
            if time.monotonic() > deadline:
                raise NothingToMeasure(f"{type(error).__name__}: {error}") from None
            await asyncio.sleep(0.1)


async def _latency(system: System, connection: Connection, records: Any) -> list[float]:
    """Milliseconds from the producer's ring to the subscriber, one trade at a time."""
    subscription = await connection.client.subscribe(TRADE_BOOKED)
    await connection.client.flush()
    took = []
    for at in range(len(records)):
        began = time.perf_counter()
        system.running.send(records[at : at + 1])
        await subscription.next_msg(timeout=WAIT_SECONDS)
        took.append((time.perf_counter() - began) * 1e3)
        system.answered(1)
    await subscription.unsubscribe()
    return took


async def _rates(system: System, connection: Connection, records: Any) -> tuple[float, float]:
    """Seconds from the first trade sent until each stream has the last one."""
    producer, at, answered, last = system.running, 0, 0, 0
    began = time.perf_counter()
    booked = copied = 0.0
    while not (booked and copied):
        while at < len(records) and producer.send(records[at : at + GROUP]) >= 0:
            at += GROUP
        replies = producer.answers()
        if len(replies):
            assert (replies["code"] == Code.ACCEPTED).all(), "every trade is accepted"
            answered, last = answered + len(replies), max(last, int(replies["sequence"].max()))
        if answered == len(records):
            now = time.perf_counter() - began
            booked = booked or (now if await _has(connection, BOOKING.name, TRADE_BOOKED, last) else 0.0)
            copied = copied or (now if await _has(connection, EVENTS.name, EVENTS_SUBJECT, last) else 0.0)
        await asyncio.sleep(0.001)
        if time.perf_counter() - began > WAIT_SECONDS:
            raise NothingToMeasure("the bus does not come to the end")
    return booked, copied


async def _has(connection: Connection, stream: str, subject: str, last: int) -> bool:
    message = await connection.stream.get_last_msg(stream, subject)
    return int((message.headers or {}).get(HEADER_LAST, "0")) >= last


async def _peer(connection: Connection, size: int, count: int) -> float:
    """Messages a second of so many bytes, each acknowledged before the next is sent."""
    await connection.stream.add_stream(name="PEER", subjects=["peer"], max_bytes=256 << 20)
    began = time.perf_counter()
    for _ in range(count):
        await connection.stream.publish("peer", bytes(size))
    seconds = time.perf_counter() - began
    await connection.stream.delete_stream("PEER")
    return count / seconds
