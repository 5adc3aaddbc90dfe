"""`pks bench replay`: a journal in the page cache, folded again into the positions that its events had made.

Promise: `replay_events_per_s`, design section 9. Also: the check of every record that a start makes, and capture's fold of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pks.bench.desk import NOW_NS, Desk, definitions, trades
from pks.bench.report import Measured, Plan, Promise, result
from pks.engine.lots.check import check_state, state_hash
from pks.layouts.event import EVENT, EVENT_WORDS
from pks.segments.journal import BATCH_RECORDS_MAX, JournalWriter, seal
from pks.segments.journal_recovery import verify
from pks.segments.journal_view import JournalView
from pks.workers.accumulator import REPLAY_BATCH
from pks.workers.booking import Booking, DayFiles, link_group
from pks.workers.positions import Positions

BOOKS, INSTRUMENTS = 10, 100


def write_journal(directory: Path, journal: Any) -> int:
    """Seal and write events 1.. of EVENT[n + 1]; the last sequence."""
    rows = journal.view(np.int64).reshape(-1, EVENT_WORDS)
    for number in range(1, len(journal)):
        seal(rows, number)
    writer = JournalWriter(directory, 0, wall_ns=lambda: NOW_NS)
    last = len(journal) - 1
    first = 1
    while first <= last:
        end = min(last, first + BATCH_RECORDS_MAX - 1)
        while end < last and journal[end + 1]["group_index"] != 0:
            end -= 1
        writer.append(journal[first : end + 1], first, end)
        first = end + 1
    writer.close()
    return last


def fold(records: Any, last: int, keys: int, lots: int) -> Positions:
    """Positions from events 1..last, in the batches of a recovering accumulator."""
    positions = Positions(records, keys=keys, lots=lots)
    for first in range(1, last + 1, REPLAY_BATCH):
        positions.apply(records, -1, first, min(last, first + REPLAY_BATCH - 1))
    return positions


def measure(plan: Plan) -> Measured:
    """Events a second of each fold; every replay must give the state of the live one."""
    found = Measured(runs=plan.rounds(7), wait="none")
    books, instruments = BOOKS, plan.size(INSTRUMENTS, 3)
    desk = Desk(plan.folder / "desk", definitions(books, instruments))
    journal = desk.journal(trades(plan.size(1_000_000, 1000), desk.last + 1, books, instruments))
    link_group(desk.booking.tables, journal[desk.last + 1 :])
    live = fold(journal, len(journal) - 1, 1 << 12, 1 << 14).shard.state
    wanted = state_hash(live)
    check_state(live)
    directory = plan.folder / "journal"
    last = write_journal(directory, journal)
    del journal
    _read_all(directory)
    samples: dict[str, list[float]] = {"positions": [], "capture's keys and links": [], "check of every record": []}
    for turn in range(found.runs + 1):
        if turn == 1:  # the first turn meets cold code
            for values in samples.values():
                values.clear()
        samples["positions"].append(_rate(last, partial(_replay, directory, last, wanted)))
        samples["check of every record"].append(_rate(last, partial(_verify, directory, last)))
        folder = plan.folder / f"keys-{turn}"
        samples["capture's keys and links"].append(_rate(last, partial(_learn, directory, last, folder)))
    rate = median(samples["positions"])
    found.promises = [Promise("replay_events_per_s", ">=", 5e6, rate, rate, None, "state hash equal to the live state's in every run")]
    found.results = [result(f"replay: {name}", "events/s", values) for name, values in samples.items()]
    found.notes = [
        f"{last:,} events over {books * instruments:,} positions, {EVENT.itemsize * last >> 20} MB of journal in the page cache, "
        f"{found.runs} runs; each opens the journal anew; the hash of the state is made after the clock has stopped",
    ]
    return found


def _rate(events: int, work: Callable[[], tuple[int, Callable[[], None]]]) -> float:
    took, check = work()
    check()
    return events * 1e9 / took


def _replay(directory: Path, last: int, wanted: int) -> tuple[int, Callable[[], None]]:
    start = time.perf_counter_ns()
    view = JournalView(directory)
    positions = fold(view.records, last, 1 << 12, 1 << 14)
    took = time.perf_counter_ns() - start

    def check() -> None:
        assert state_hash(positions.shard.state) == wanted, "a replay gives the live state"

    return took, check


def _verify(directory: Path, last: int) -> tuple[int, Callable[[], None]]:
    start = time.perf_counter_ns()
    problems = list(verify(directory))
    took = time.perf_counter_ns() - start

    def check() -> None:
        assert not problems, f"the journal of {last} events that was written is sound: {problems[:1]}"

    return took, check


def _learn(directory: Path, last: int, folder: Path) -> tuple[int, Callable[[], None]]:
    start = time.perf_counter_ns()
    view = JournalView(directory)
    booking = Booking(lambda sequence: view.records[sequence], DayFiles(folder), keys=2 * last)
    booking.learn(view.records, -1, 1, last)
    took = time.perf_counter_ns() - start

    def check() -> None:
        assert booking.sequence == last, "every event was learnt"

    return took, check


def _read_all(directory: Path) -> None:
    """Bring every file into the page cache."""
    for path in sorted(directory.iterdir()):
        path.read_bytes()
