"""`pks bench timeseries`: from a booked trade to its row in QuestDB, and how fast a backlog goes there.

Promises: `trade_to_questdb_row_ms`, design section 9, from the call that sends a trade until a query finds its row, beside a steady flow of
fills; `timeseries_rows_per_s`, a backlog that waits when the booking has ended. QuestDB is the embedded one, on the same cores.
"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import asyncpg

from pks.base.config import load_config
from pks.bench.desk import definitions, trades
from pks.bench.report import Measured, Plan, Promise, Result, result
from pks.bench.system import System, SystemFailed
from pks.client.producer import NO_ROOM
from pks.edges.questdb.choice import choose
from pks.edges.questdb.errors import TableLost
from pks.edges.questdb.ilp import QuestdbStore
from pks.topology import EDGE_WORKERS

FILLS_PER_S = 1_000
GROUP = 20
BOOKS, INSTRUMENTS = 8, 1_000
WAIT_SECONDS = 300.0
LOOK_SECONDS = 0.002
AWAY = {"PKS_NATS_URL": "nats://127.0.0.1:1", "PKS_PG_URL": "postgresql://nobody@127.0.0.1:1/none", "PKS_REDIS_URL": "redis://127.0.0.1:1"}
"""Only QuestDB is measured: the other edges are not there."""

UNREACHABLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, TableLost)


class Watch:
    """A thread that asks QuestDB all the while for the highest event it shows."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.seen: list[tuple[float, int]] = [(0.0, 0)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._watch()))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *words: object) -> None:
        self._ended.set()
        self._thread.join()

    async def _watch(self) -> None:
        while not self._ended.is_set():
            choice = choose(load_config(None, {}, {"data_dir": str(self._data_dir)}).config)
            if choice.place is None:
                await asyncio.sleep(0.1)
                continue
            store = QuestdbStore(choice.place)
            try:
                await store.open()
                while not self._ended.is_set():
                    last = await store.cursor()
                    if last != self.seen[-1][1]:
                        self.seen.append((time.perf_counter(), last))
                    await asyncio.sleep(LOOK_SECONDS)
            except UNREACHABLE:
                await asyncio.sleep(0.1)  # it starts
            finally:
                await store.close()

    def wait(self, sequence: int) -> float:
        """When it showed that event, or a later one. Raises SystemFailed."""
        deadline = time.monotonic() + WAIT_SECONDS
        at = 0
        while True:
            while at < len(self.seen):
                if self.seen[at][1] >= sequence:
                    return self.seen[at][0]
                at += 1
            if time.monotonic() > deadline:
                raise SystemFailed(f"has no row of event {sequence} in QuestDB, but of {self.seen[-1][1]}")
            time.sleep(LOOK_SECONDS)


def measure(plan: Plan) -> Measured:
    """A system with QuestDB: rows beside a flow of fills, then a backlog."""
    found = Measured(runs=1, wait="auto")
    if choose(load_config(None, {}, {"data_dir": str(plan.folder)}).config).name != "questdb":
        reason = "there is no QuestDB here: make jar"
        found.promises = [
            Promise("trade_to_questdb_row_ms", "<=", 500, reason=reason), Promise("timeseries_rows_per_s", ">=", 50_000, reason=reason),
        ]  # fmt: skip
        return found
    with System(plan.folder / "system", edges="embedded", **AWAY) as system, Watch(system.data_dir) as watch:
        system.start()
        system.define(definitions(BOOKS, INSTRUMENTS))
        delays = _flow(system, watch, plan.size(30, 1))
        rows, seconds = _backlog(system, watch, plan.size(5_000_000 if plan.full else 500_000, 5_000))
    row = result("trade to row", "ms", delays)
    rate = rows / seconds
    found.results = [row, Result("backlog", "rows/s", rate, rate, rows)]
    found.promises = [
        Promise(
            "trade_to_questdb_row_ms", "<=", 500, row.p99, row.p99, peer=f"p99 beside {FILLS_PER_S:,} fills a second; p50 {row.p50:.1f} ms"
        ),
        Promise("timeseries_rows_per_s", ">=", 50_000, rate, rate, peer=f"{rows:,} rows that waited when the booking had ended"),
    ]
    found.notes.append(
        "from Producer.send to a query that finds the row; QuestDB, the core, the producer and the asking thread share the cores; "
        "the other edges have no server here"
    )
    return found


def _flow(system: System, watch: Watch, seconds: int) -> list[float]:
    """Milliseconds from sending to the row, for the last trade of each group."""
    made = trades(FILLS_PER_S * (seconds + 1), 0, BOOKS, INSTRUMENTS, seed=1, known=False)
    watch.wait(_booked(system, made[:GROUP]))  # the edge is up
    sent: list[tuple[float, int]] = []
    start = time.perf_counter()
    for number in range(1, FILLS_PER_S * seconds // GROUP + 1):
        due = start + number * GROUP / FILLS_PER_S
        while (now := time.perf_counter()) < due:
            time.sleep(due - now)
        moment = time.perf_counter()
        sent.append((moment, _booked(system, made[GROUP * number : GROUP * (number + 1)])))
    return [1000 * (watch.wait(sequence) - moment) for moment, sequence in sent]


def _backlog(system: System, watch: Watch, count: int) -> tuple[int, float]:
    """(rows that were not there yet when all was booked, seconds until they were)."""
    made = trades(count, 0, BOOKS, INSTRUMENTS, seed=2, known=False)
    system.send_all(made[:-GROUP], 4096)
    last = _booked(system, made[-GROUP:])
    end = time.perf_counter()
    behind = last - watch.seen[-1][1]
    return behind, watch.wait(last) - end


def _booked(system: System, made: Any) -> int:
    """Send a group; the event of its last trade, by the answers."""
    ticket = system.running.send(made)
    assert ticket != NO_ROOM, "a ring has room for a small group"
    return int(system.answered(len(made))["sequence"].max())


assert "questdb" in EDGE_WORKERS, "its edge has a worker"
