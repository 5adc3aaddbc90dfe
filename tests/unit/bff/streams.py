"""What tests of streams share: a small host that books, a hub over it by a manual clock, and a client that keeps what it was sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.clock import ManualClock
from pks.bff.hub import Books, Client, Hub
from pks.bff.live import Live
from pks.layouts.codes import Flag, Kind, Side
from pks.layouts.detail import with_text
from pks.layouts.event import EVENT
from pks.layouts.match import VERDICT
from pks.layouts.segment import WorkerState
from pks.segments.ring import RingWriter, ring_gate
from pks.topology import Host as Segments
from tests.unit.client.small_host import BOOKS, INSTRUMENTS, SmallHost

TIME_NS = 1_741_946_711_000_000_000
MS = 1_000_000


class CoreHost(SmallHost):
    """A small host that books trades too: `trade` publishes events, `settle` says that they are durable and judged."""

    def __init__(self, folder: Path, instance: str, shards: int = 2) -> None:
        super().__init__(folder, instance, shards)
        self.folder = folder
        self.events = RingWriter(self.host.events)
        for owner, plan in enumerate(self.plans):
            for state in (WorkerState.STARTING, WorkerState.READY):
                self.host.control.watch(owner, name=plan.name, state=state)

    def trade(self, book: str, instrument: str, quantity: int, text: bytes = b"", **fields: Any) -> int:
        """Publish a trade; its sequence."""
        record = np.zeros(1, EVENT)
        record["kind"], record["side"], record["group_count"], record["flags"] = Kind.TRADE, Side.BUY, 1, Flag.HAS_PRICE
        record["qty_raw"], record["price_raw"], record["price_scale"] = quantity, 10125, 2
        record["book_id"], record["instrument_id"], record["trade_time_ns"] = BOOKS[book], INSTRUMENTS[instrument], TIME_NS
        first = self.events.ring.head + 1
        record["trade_id"], record["effective_date"] = f"T-{first}".encode(), 20_000
        for name, value in fields.items():
            record[name] = value
        group = with_text(record[0], text) if text else record
        group["sequence"] = np.arange(first, first + len(group))
        self.events.publish(group)
        return first

    def settle(self, upto: int | None = None) -> None:
        """Every event, or those up to one, is on disk and judged."""
        ring = self.host.events
        for name in ("journal", *(f"accumulator-{shard}" for shard in range(self.shards))):
            ring_gate(ring.control, ring.place(name), ring.head if upto is None else upto)

    def refuse(self, shard: int, sequence: int, code: int) -> None:
        """The verdict of a position."""
        record = np.zeros(1, VERDICT)
        record["sequence"], record["code"] = sequence, code
        RingWriter(self.host.verdicts(shard).ring).publish(record)


class ListWire:
    """A connection that keeps everything. `stuck`: bytes that it says are waiting."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.stuck = 0
        self.closed: tuple[int, str] | None = None

    def write(self, opening: bytes, tail: bytes) -> None:
        assert self.closed is None, "nothing is said after the end"
        self.said.append(opening + tail)

    def waiting_bytes(self) -> int:
        return self.stuck

    def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


class Listener:
    """A client that does with messages what ours is to do, and checks what holds for all of them."""

    def __init__(self) -> None:
        self.wire = ListWire()
        self.client: Client | None = None
        self.seq = 0
        self.stream = ""
        self.messages: list[dict[str, Any]] = []
        self.positions: dict[tuple[str, str], dict[str, Any]] = {}
        self.trades: list[dict[str, Any]] = []
        self.in_snapshot = False

    def read(self) -> list[dict[str, Any]]:
        """The messages since the last call."""
        fresh = [json.loads(text) for text in self.wire.said]
        self.wire.said.clear()
        for message in fresh:
            self.take(message)
        return fresh

    def take(self, message: dict[str, Any]) -> None:
        assert message["state"] in ("live", "stale", "snapshot")
        assert message["type"] == "resumed" or message["seq"] == self.seq + 1, f"{message} comes behind {self.seq}"
        self.seq = message["seq"]
        self.messages.append(message)
        data = message["data"]
        if message["type"] == "welcome" and "stream" in data:
            self.stream = data["stream"]
        elif message["type"] == "snapshot" and message["topic"] != "trades":
            if not self.in_snapshot:
                self.positions.clear()
            self.in_snapshot = message["more"]
            self._merge(data)
        elif message["type"] == "positions":
            self._merge(data)
        elif message["type"] == "trades":
            self.trades += data
        elif message["type"] == "blotter":
            self._merge(data["positions"])
            self.trades += data["trades"]

    def _merge(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            self.positions.setdefault((item["book"], item["instrument"]), {}).update(item)

    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]


class Scene:
    """A host, a hub and its clock."""

    def __init__(self, folder: Path, instance: str) -> None:
        self.folder, self.instance = folder, instance
        self.core = CoreHost(folder, instance)
        self.clock = ManualClock(TIME_NS, 10**12)
        segments = Segments.open(instance, folder)
        self.live = Live(instance, segments)
        self.hub = Hub(self.live, self.clock, lambda: Segments.open(instance, folder), clients_max=300, alerts=folder)

    def join(self, *topics: str, books: Books = None, owner: str = "ann") -> Listener:
        listener = Listener()
        listener.client = self.hub.join(owner, listener.wire)
        self.hub.welcome(listener.client, {})
        if topics:
            self.hub.subscribe(listener.client, topics, books, books)
        return listener

    def turn(self, count: int = 1, after_ns: int = MS) -> bool:
        worked = False
        for _ in range(count):
            self.clock.advance(after_ns)
            worked = self.hub.turn()
        return worked

    def settle(self, turns_max: int = 500) -> None:
        """Turn until there is nothing to do."""
        for _ in range(turns_max):
            if not self.turn():
                return
        raise AssertionError("the hub never comes to rest")

    def state(self, *books: str) -> dict[tuple[str, str], dict[str, Any]]:
        """What the host shows."""
        found = self.live.host.positions.to_dicts(books or None)
        return {(one["book"], one["instrument"]): json.loads(json.dumps(one)) for one in found}

    def start_core(self) -> None:
        """Another core of the same name, as after a restart of the system."""
        self.core = CoreHost(self.folder, self.instance)
        self.live._segments = Segments.open(self.instance, self.folder)

    def close(self) -> None:
        self.hub.close()
        self.live.close()
        self.core.close()
