"""`pks bench edges`: a day's backlog drains to every edge while fills go on, and what a fill's way to its slot then takes.

Promises: `edges_complete`, servers that at the end have every trade of the journal, each counted by its own words;
`fill_to_slot_draining_ratio`, the median from the producer's call to the slot while the backlog drains, over the one of the same run before
it; and the same while no server can be reached. The servers are the bench's own, on the same cores, stopped and started again.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pks.base.config import Config, load_config
from pks.base.errors import Code
from pks.bench.desk import definitions, trades
from pks.bench.report import Measured, Plan, Promise, Result, result
from pks.bench.system import System, SystemFailed
from pks.client.producer import NO_ROOM
from pks.edges.nats.connection import open_connection
from pks.edges.nats.streams import BOOKING, EVENTS, EVENTS_SUBJECT, HEADER_LAST, TRADE_BOOKED
from pks.edges.questdb.choice import Choice, choose, store_of
from pks.layouts.codes import Kind
from pks.layouts.event import EVENT
from pks.segments.slots import pack_key, slot_find, slot_version
from pks.servers.alone import alone
from pks.servers.endpoints import Endpoint, endpoint, servers_folder
from pks.topology import EDGE_WORKERS, Paths

BACKLOG_FULL, BACKLOG_USUAL, BACKLOG_TINY = 5_000_000, 300_000, 2_000
FLOW_SECONDS, FLOW_SECONDS_TINY = 20, 1
FILLS_PER_S, FILLS_A_BEAT = 1_000, 10
"""A beat is ten fills, of which the last one's way to its slot is timed."""

BOOKS, INSTRUMENTS = 20, 100
GROUP = 1024
PART = 200_000
WAIT_SECONDS = 3600.0
LOOK_SECONDS = 0.05
START, STOP, DONE = b"s", b"e", b"d"
"""What is said between the bench and the process that keeps the servers."""

EDGE_CELL, SNAPSHOT_CELL = "edge_cursor", "snapshot_cursor"
TRADES_IN_POSTGRES = "select count(*) from trade.trade"
POSITIONS_IN_POSTGRES = "select count(*) from back_office.position_snapshot"


class Mark(NamedTuple):
    """Where an edge was at a time."""

    at: float
    cursor: int


class Flow:
    """Fills at an even rate on a running system, of which some are timed."""

    def __init__(self, system: System) -> None:
        self.system, self.sent = system, 0
        self._seed = 1000
        self._made: Any = trades(0, 1, BOOKS, INSTRUMENTS, seed=1, known=False)

    def run(self, goes_on: Callable[[float], bool]) -> Any:
        """float64[n]: microseconds from before `Producer.send` until the slot of each timed fill has a new version.

        goes_on: asked at each beat, with the seconds since the beginning.
        """
        samples = []
        gc.collect()
        began = time.perf_counter()
        beat = 0
        while goes_on(time.perf_counter() - began):
            while (now := time.perf_counter()) < (due := began + beat * FILLS_A_BEAT / FILLS_PER_S):
                time.sleep(due - now)
            samples.append(self._beat())
            beat += 1
        return np.array(samples)

    def _beat(self) -> float:
        fills = self._fills()
        self._send(fills[:-1])
        self._take(len(fills) - 1)
        index, slots = self.system.running.host.positions.indexes, self.system.running.host.positions.slots
        last = fills[-1:]
        key = pack_key(int(last["book_id"][0]), int(last["instrument_id"][0]))
        row = int(slot_find(index[0], key))
        before = 0 if row < 0 else int(slot_version(slots, row))
        start = time.perf_counter_ns()
        self._send(last)
        while True:
            row = int(slot_find(index[0], key)) if row < 0 else row
            if row >= 0 and slot_version(slots, row) != before:
                break
            os.sched_yield()
        took = (time.perf_counter_ns() - start) / 1000
        self._take(1)
        return took

    def _take(self, count: int) -> None:
        assert (self.system.answered(count)["code"] == Code.ACCEPTED).all(), "every trade is accepted"

    def _fills(self) -> Any:
        if len(self._made) < FILLS_A_BEAT:
            self._seed += 1
            self._made = trades(PART // 10, 1, BOOKS, INSTRUMENTS, seed=self._seed, known=False)
        fills, self._made = self._made[:FILLS_A_BEAT], self._made[FILLS_A_BEAT:]
        return fills

    def _send(self, fills: Any) -> None:
        while self.system.running.send(fills) == NO_ROOM:
            os.sched_yield()
        self.sent += len(fills)

    def backlog(self, count: int) -> float:
        """Book so many as fast as they are taken; seconds."""
        began = time.perf_counter()
        for number, first in enumerate(range(0, count, PART)):
            self.system.send_all(trades(min(PART, count - first), 1, BOOKS, INSTRUMENTS, seed=1 + number, known=False), GROUP)
        self.sent += count
        return time.perf_counter() - began


class Watch:
    """The cursors of a running system's edges, as its own cells say."""

    def __init__(self, system: System) -> None:
        self._host = system.running.host
        self.marks: dict[str, list[Mark]] = {}

    def look(self) -> bool:
        """Keep where each edge is; whether all are at the end."""
        names = {facts.owner: facts.name for facts in self._host.control.workers()}
        now, head = time.perf_counter(), int(self._host.events.head)
        found = {}
        for cell in self._host.control.read_cells():
            if cell.name == SNAPSHOT_CELL and isinstance(cell.value, int):
                found["positions"] = cell.value
            elif cell.name == EDGE_CELL and isinstance(cell.value, int) and names.get(cell.owner) in EDGE_WORKERS.values():
                found[names[cell.owner]] = cell.value  # the reaper's counts letters
        for name, cursor in found.items():
            self.marks.setdefault(name, []).append(Mark(now, cursor))
        return bool(found) and all(cursor >= head for cursor in found.values())

    def wait(self) -> None:
        """Until all are at the end. Raises SystemFailed."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.look():
            if time.monotonic() > deadline:
                raise SystemFailed(
                    f"has edges that do not come to the end: { {name: marks[-1].cursor for name, marks in self.marks.items()} }"
                )
            time.sleep(LOOK_SECONDS)

    def rate(self, name: str, began: float, backlog_last: int) -> tuple[float, float]:
        """(events a second of an edge from its first step to the backlog's end, seconds from `began` until then)."""
        marks = [mark for mark in self.marks[name] if mark.at >= began]
        over = next(mark for mark in marks if mark.cursor >= backlog_last)
        before = max((mark for mark in marks if mark.cursor == marks[0].cursor), key=lambda mark: mark.at)
        return (over.cursor - before.cursor) / max(over.at - before.at, LOOK_SECONDS), over.at - began


def measure(plan: Plan) -> Measured:
    """Fills beside idle edges, beside edges without a server, and beside edges that carry a backlog."""
    found = Measured(runs=1, wait="auto")
    backlog = plan.size(BACKLOG_FULL if plan.full else BACKLOG_USUAL, BACKLOG_TINY)
    seconds = plan.size(FLOW_SECONDS, FLOW_SECONDS_TINY)
    config = load_config(None, {}, {"data_dir": str(plan.folder / "servers")}).config
    names = _servers_here(config)
    with _running(config, names) as places:
        with System(plan.folder / "data", edges="external", **_settings(places)) as system:
            system.start()
            system.define(definitions(BOOKS, INSTRUMENTS))
            flow, watch = Flow(system), Watch(system)
            flow.run(lambda since: since < 1.0)
            watch.wait()
            before = flow.run(lambda since: since < seconds)
            watch.wait()
            places.stop()
            took = flow.backlog(backlog)
            cut_off = flow.run(lambda since: since < seconds)
            last = int(system.running.host.events.head)
            watch.look()
            began = time.perf_counter()
            places.start()
            drained = flow.run(lambda _: not _over(watch, last))
            places.wait()
            watch.wait()
            complete = asyncio.run(_counted(system, places, flow.sent))
            rates = {name: watch.rate(name, began, last) for name in sorted(watch.marks)}
    idle, away, draining = (
        result(f"fill to slot, {what}", "us", samples)
        for what, samples in (("edges keep up", before), ("servers away", cut_off), ("backlog draining", drained))
    )
    found.promises = [
        Promise("edges_complete", ">=", len(complete), sum(complete.values()), None, None, ", ".join(sorted(complete))),
        Promise("fill_to_slot_draining_ratio", "<=", 1.25, draining.p50 / idle.p50, draining.p50, idle.p50, "median before, same run, us"),
        Promise("fill_to_slot_away_ratio", "<=", 1.25, away.p50 / idle.p50, away.p50, idle.p50, "median before, same run, us"),
    ]
    found.results = [idle, away, draining]
    for name, (rate, until) in rates.items():
        if name != "positions":  # the latest of each: they skip what came between
            found.results.append(Result(f"{name} drains", "events/s", rate, rate, 1))
        found.results.append(Result(f"{name} has all, after", "s", until, until, 1))
    found.notes = [
        f"{backlog:,} trades booked in {took:.1f} s while no server was there, then {', '.join(names)} came back; {FILLS_PER_S:,} fills a "
        f"second go on, one of {FILLS_A_BEAT} is timed; core, edges, servers and the producer share {len(os.sched_getaffinity(0))} cores",
    ]
    return found


def _over(watch: Watch, last: int) -> bool:
    """Whether every edge has passed event `last`."""
    watch.look()
    return all(marks[-1].cursor >= last for marks in watch.marks.values())


def _servers_here(config: Config) -> tuple[str, ...]:
    """Servers with a worker of ours that this machine can run."""
    return tuple(name for name in EDGE_WORKERS if name != "questdb" or choose(config).name == "questdb")


class Places:
    """Servers of the bench's own, which come and go and keep their ports: a process beside this one starts and ends them."""

    def __init__(self, config: Config, names: Collection[str]) -> None:
        self._config, self._names = config, names
        self._words, theirs = socket.socketpair()
        self._keeper = os.fork()
        if self._keeper == 0:
            self._words.close()
            _keep(config, names, theirs)
        theirs.close()

    def start(self) -> None:
        """Have them started; `wait` for it."""
        self._words.sendall(START)

    def stop(self) -> None:
        """End them in order; returns when all have ended."""
        self._words.sendall(STOP)
        self.wait()

    def wait(self) -> None:
        """Until what was asked for is done. Raises SystemFailed."""
        if self._words.recv(1) != DONE:
            raise SystemFailed("has no servers: they did not start")

    def endpoints(self) -> dict[str, Endpoint]:
        """Where they are."""
        found = {name: endpoint(self._config, name) for name in self._names}
        return {name: place for name, place in found.items() if place is not None}

    def close(self) -> None:
        """End all."""
        self._words.close()
        os.waitpid(self._keeper, 0)


def _keep(config: Config, names: Collection[str], words: socket.socket) -> None:
    """The other process's life: until nobody speaks to it any more."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while words.recv(1) == START:
            with alone(config, names):
                words.sendall(DONE)
                asked = words.recv(1)
            if asked != STOP:
                break
            words.sendall(DONE)
        code = 0
    finally:
        os._exit(code)


@contextmanager
def _running(config: Config, names: Collection[str]) -> Iterator[Places]:
    for name in names:
        (servers_folder(config) / name).mkdir(parents=True)
    Paths(Path(config.data_dir)).run.mkdir()
    places = Places(config, names)
    try:
        places.start()
        places.wait()
        yield places
    finally:
        places.close()


def _settings(places: Places) -> dict[str, str]:
    """By which a system finds these servers."""
    urls = {"nats": "PKS_NATS_URL", "postgres": "PKS_PG_URL", "questdb": "PKS_QUESTDB_URL"}
    found = places.endpoints()
    return {urls[name]: place.url for name, place in found.items()} | {"PKS_NATS_NKEY": found["nats"].nkey_file}


async def _counted(system: System, places: Places, sent: int) -> dict[str, bool]:
    """By what is kept where: whether a server has all of it, by its own words."""
    import asyncpg

    host, found = system.running.host, places.endpoints()
    head = int(host.events.head)
    database = await asyncpg.connect(found["postgres"].url)
    try:
        counts = {
            "trades in postgres": await database.fetchval(TRADES_IN_POSTGRES) == sent,
            "positions in postgres": await database.fetchval(POSITIONS_IN_POSTGRES) == len(host.positions.rows()),
        }
    finally:
        await database.close()
    bus = await open_connection(found["nats"], "pks bench")
    try:
        for stream, subject in ((EVENTS, EVENTS_SUBJECT), (BOOKING, TRADE_BOOKED)):
            message = await bus.stream.get_last_msg(stream.name, subject)
            reached = int((message.headers or {}).get(HEADER_LAST, "0"))
            counts[f"nats {stream.name}"] = reached == head if stream is EVENTS else reached >= _last_trade(system, head)
    finally:
        await bus.close()
    if "questdb" in found:
        store = store_of(Choice("questdb", found["questdb"], ""))
        await store.open()
        counts["rows in questdb"] = await store.count() == sent
        await store.close()
    return counts


def _last_trade(system: System, head: int) -> int:
    """Sequence of the last event that is no end of a batch."""
    events = system.running.host.events
    kinds = events.records.view(EVENT).reshape(-1)["kind"]
    at = head
    while int(kinds[at & (events.capacity - 1)]) == Kind.TICK:
        at -= 1
    return at
