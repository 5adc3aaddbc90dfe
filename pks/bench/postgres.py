"""`pks bench postgres`: from a trade to its row in Postgres, beside a whole system that books all the while; and how a backlog drains.

Promise: `trade_to_postgres_row_ms`, at 20,000 fills a second over 8,000 positions: from capture's time of a trade until another connection
has seen its row's transaction, the 99th percentile over all trades.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.config import load_config
from pks.base.errors import Code
from pks.bench.desk import definitions, trades
from pks.bench.report import Measured, Plan, Promise, result
from pks.bench.system import System, SystemFailed
from pks.client.producer import NO_ROOM
from pks.segments.journal_view import JournalView
from pks.servers.alone import alone
from pks.servers.endpoints import endpoint, servers_folder
from pks.topology import Paths

FILLS_PER_S = 20_000
BOOKS, INSTRUMENTS = 80, 100
SECONDS, SECONDS_TINY = 20, 1
GROUP = 40
BACKLOG_FULL, BACKLOG_USUAL, BACKLOG_TINY = 5_000_000, 300_000, 500
PART = 200_000
CATCH_UP_SECONDS = 900.0
LOOK_SECONDS = 0.002

SEEN = "select coalesce(max(sequence), 0) from back_office.edge_cursor where edge = 'records'"


def measure(plan: Plan) -> Measured:
    """A steady stream, then a backlog that is there when Postgres is."""
    found = Measured(runs=1, wait="auto")
    seconds = plan.size(SECONDS, SECONDS_TINY)
    backlog = plan.size(BACKLOG_FULL if plan.full else BACKLOG_USUAL, BACKLOG_TINY)
    with server(plan.folder / "postgres") as url:
        with System(plan.folder / "data", edges="external", PKS_PG_URL=url) as system:
            system.start()
            system.define(definitions(BOOKS, INSTRUMENTS))
            asyncio.run(_caught_up(url, system))
            lags = asyncio.run(_stream(url, system, seconds))
    with server(plan.folder / "second") as url:
        with System(plan.folder / "data") as system:  # no edge: what it books is a backlog
            system.start()
            for number, first in enumerate(range(0, backlog, PART)):
                part: Any = trades(min(PART, backlog - first), 1, BOOKS, INSTRUMENTS, seed=100 + number, known=False)
                system.send_all(part, 1024)
        with System(plan.folder / "data", edges="external", PKS_PG_URL=url) as system:
            system.start()
            began = time.perf_counter()
            last = asyncio.run(_caught_up(url, system))
            drained = last / (time.perf_counter() - began)
    told = result("a trade to its row", "ms", lags)
    found.promises = [Promise("trade_to_postgres_row_ms", "<=", 250, told.p99, told.p99, None, f"p99 at {FILLS_PER_S:,} fills a second")]
    found.results = [told, result("a backlog drains", "events/s", [drained])]
    found.notes = [
        f"{seconds} s of {FILLS_PER_S:,} fills a second on {BOOKS * INSTRUMENTS:,} positions; then a database that lacks {last:,} events"
    ]
    return found


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A new Postgres of its own; its URL."""
    config = load_config(None, {}, {"data_dir": str(folder)}).config
    (servers_folder(config) / "postgres").mkdir(parents=True)
    Paths(folder).run.mkdir()
    with alone(config, ("postgres",)):
        found = endpoint(config, "postgres")
        assert found is not None, "it is ready"
        yield found.url


async def _connect(url: str) -> Any:
    import asyncpg

    return await asyncpg.connect(url)


async def _caught_up(url: str, system: System) -> int:
    """Wait until Postgres has every event; the last one's sequence."""
    import asyncpg

    connection = await _connect(url)
    try:
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while True:
            head, seen = system.running.host.events.head, 0
            try:
                seen = await connection.fetchval(SEEN)
            except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
                pass  # the worker has not made the tables yet
            if seen == head:
                return int(head)
            if time.monotonic() > deadline:
                raise SystemFailed(f"has event {seen} in Postgres, and {head} events")
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        await connection.close()


async def _stream(url: str, system: System, seconds: int) -> Any:
    """float64[trades]: milliseconds from each trade's recorded time until it was seen."""
    producer = system.running
    records: Any = trades(FILLS_PER_S * seconds, 1, BOOKS, INSTRUMENTS, seed=7, known=False)
    connection = await _connect(url)
    view = JournalView(Paths(system.data_dir).journal)
    seen = int(await connection.fetchval(SEEN))
    lags: list[Any] = []
    sent = answered = 0
    began = time.perf_counter()
    while answered < len(records) or seen < producer.host.events.head:
        due = min(len(records), int((time.perf_counter() - began) * FILLS_PER_S))
        while sent < due and producer.send(records[sent : min(due, sent + GROUP)]) != NO_ROOM:
            sent = min(due, sent + GROUP)
        replies = producer.answers()
        assert (replies["code"] == Code.ACCEPTED).all(), "every trade is accepted"
        answered += len(replies)
        now_seen = int(await connection.fetchval(SEEN))
        if now_seen > seen:
            now_ns = time.time_ns()
            if now_seen > view.extent[1]:
                view.refresh()
            lags.append((now_ns - view.records["recorded_ns"][seen + 1 : now_seen + 1]) / 1e6)
            seen = now_seen
        if time.perf_counter() - began > CATCH_UP_SECONDS:
            raise SystemFailed(f"has event {seen} in Postgres, and {producer.host.events.head} events")
        await asyncio.sleep(LOOK_SECONDS)
    await connection.close()
    return np.concatenate(lags)
