"""`pks bench journal`: an answer that says durable, beside a bare fdatasync of the same disk; and durable trades a second beside JetStream.

Promises: `reply_over_fdatasync_ms`, `journal_jetstream_ratio`, design section 9. A whole system runs; one producer books one fill after
another, and between any two of them a file of our own is written and flushed. Then many fills at once: through the system, and by the
journal's writer alone, which is what the peer does (`perf.md`, row 12), in turns with it.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import numpy as np

from pks.base.errors import Code
from pks.bench.desk import definitions, trades
from pks.bench.jetstream import JetStream, find_server
from pks.bench.peers import PeerMissing
from pks.bench.report import Measured, Plan, Promise, result
from pks.bench.system import System
from pks.layouts.event import EVENT, EVENT_WORDS
from pks.segments.journal import JournalWriter, seal

BLOCK_BYTES = 4096
FILE_BLOCKS = 4096
BATCH = 100
WARM_TRADES = 50
BOOKS = 4


class BareFile:
    """A file written out beforehand, in which one block after another is written and flushed: what no journal can do without."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.block, self.at = bytes(BLOCK_BYTES), 0
        for _ in range(FILE_BLOCKS):
            os.write(self.descriptor, self.block)
        os.fsync(self.descriptor)

    def flush_ns(self) -> int:
        """Write the next block, fdatasync; the nanoseconds of both."""
        place = self.at % FILE_BLOCKS * BLOCK_BYTES
        self.at += 1
        start = time.perf_counter_ns()
        os.pwrite(self.descriptor, self.block, place)
        os.fdatasync(self.descriptor)
        return time.perf_counter_ns() - start

    def __enter__(self) -> BareFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self.descriptor)


def measure(plan: Plan) -> Measured:
    """Time from a producer's send to its answer, and the bare flush, in turns; then batches of trades, and the peer, in turns."""
    single, bulk = plan.size(2000, 5), plan.size(100_000, 2 * BATCH)
    instruments = plan.size(50, 2)
    found = Measured(runs=plan.rounds(5), wait="auto")
    with System(plan.folder / "data") as system:
        system.start()
        system.define(definitions(BOOKS, instruments))
        replies, flushes = _one_by_one(system, plan.folder / "bare", single, instruments)
        rates, alone, theirs, peer, reason = _in_batches(system, plan, found.runs, bulk, instruments)
    reply = result("send to durable answer", "ms", replies)
    flush = result(f"bare write of {BLOCK_BYTES} bytes and fdatasync", "ms", flushes)
    rate = median(alone)
    found.results = [
        reply,
        flush,
        result(f"trades booked, durable and answered, sent in batches of {BATCH}", "trades/s", rates),
        result("trades made durable by the journal's writer alone", "trades/s", alone),
    ]
    if theirs:
        found.results.append(result(f"{peer}, batches of {BATCH}", "trades/s", theirs))
    their_rate = median(theirs) if theirs else None
    found.promises = [
        Promise(
            "reply_over_fdatasync_ms", "<=", 0.1, reply.p50 - flush.p50, reply.p50, flush.p50, "bare fdatasync of the same disk, p50, ms"
        ),
        Promise(
            "journal_jetstream_ratio", ">=", 5, rate / their_rate if their_rate else None, rate, their_rate, peer, reason
        ),
    ]  # fmt: skip
    found.notes = [
        f"a running system; {single:,} fills sent one after another by one producer, which looks for its answer without sleeping; "
        f"before each a bare flush of a file in the same folder; then {bulk:,} fills in batches of {BATCH}, until the last answer; "
        f"the same events by a journal's writer of its own, as many a flush as it takes; the same bytes by the peer; "
        f"{found.runs} times in turns. "
        "The ratio is the writer's to the peer's: neither checks, matches or answers",
    ]
    return found


def _one_by_one(system: System, bare_path: Path, count: int, instruments: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each answer and of each bare flush."""
    made = trades(count + WARM_TRADES, 1, BOOKS, instruments, seed=1, known=False)
    replies, flushes = np.zeros(len(made)), np.zeros(len(made))
    with BareFile(bare_path) as bare:
        for number in range(len(made)):
            flushes[number] = bare.flush_ns() / 1e6
            start = time.perf_counter_ns()
            system.running.send(made[number : number + 1])
            answer = system.answered(1)
            replies[number] = (time.perf_counter_ns() - start) / 1e6
            assert int(answer[0]["code"]) == Code.ACCEPTED, Code(int(answer[0]["code"])).name
    return replies[WARM_TRADES:].tolist(), flushes[WARM_TRADES:].tolist()


def writer_rate(folder: Path, made: Any) -> float:
    """Trades a second that a journal's writer makes durable, of EVENT[n] that wait in a ring."""
    capacity = 1 << len(made).bit_length()
    ring = np.zeros(capacity, EVENT)
    ring[1 : len(made) + 1] = made
    ring["sequence"] = np.arange(capacity)
    rows = ring.view(np.int64).reshape(-1, EVENT_WORDS)
    for number in range(1, len(made) + 1):
        seal(rows, number)
    writer = JournalWriter(folder, 0, wall_ns=time.time_ns)
    while not writer.prepare_next():
        pass  # the files are made ahead of need, as the worker does
    start = time.perf_counter_ns()
    while writer.durable < len(made):
        writer.append_ring(rows, writer.durable + 1, writer.batch_last(rows, len(made)))
    spent = time.perf_counter_ns() - start
    writer.close()
    shutil.rmtree(folder)
    return len(made) * 1e9 / spent


def _in_batches(
    system: System, plan: Plan, runs: int, bulk: int, instruments: int
) -> tuple[list[float], list[float], list[float], str, str]:
    """Trades a second of the system, of a writer alone and of the peer; its name, and why it was not measured ("" where it was)."""
    ours: list[float] = []
    alone: list[float] = []
    theirs: list[float] = []
    peer, reason = "JetStream, sync always", ""
    with ExitStack() as open_peers:
        server: JetStream | None = None
        try:
            server = open_peers.enter_context(JetStream(find_server(plan.peer_venv), plan.folder / "jetstream"))
            peer = f"JetStream {server.version}, sync always"
        except PeerMissing as missing:
            reason = str(missing)
        for turn in range(runs):
            made = trades(bulk, 1, BOOKS, instruments, seed=2 + turn, known=False)
            start = time.perf_counter_ns()
            system.send_all(made, BATCH)
            ours.append(bulk * 1e9 / (time.perf_counter_ns() - start))
            alone.append(writer_rate(plan.folder / "alone", made))
            if server is not None:
                theirs.append(BATCH * server.batches_per_s(made[:BATCH].tobytes(), plan.size(200, 2)))
    return ours, alone, theirs, peer, reason
