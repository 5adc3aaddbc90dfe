"""`pks bench correct`: a cancellation that reaches 100,000 later fills of its position, until the corrected position can be read.

Promise: `correction_visible_ms`, design section 9. Measured in the accumulator's own code: from the event in the ring to the slot written.
Beside it: cancellations of recent trades, which go from an anchor, how long a derivation is silent at most, and late trades in batches.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import time
from typing import Any

import numpy as np

from pks.bench.desk import DAY, NOW_NS, Desk, definitions, trades
from pks.bench.report import Measured, Plan, Promise, result
from pks.engine.lots.check import check_state
from pks.engine.lots.state import CHANGED, Results
from pks.layouts.codes import Flag, Kind
from pks.layouts.slots import POSITION_SLOT, POSITION_WORDS
from pks.layouts.state import KEY_WORDS
from pks.segments.slots import TRIES_MAX, VERSION_WORDS, slot_read
from pks.workers.accumulator_loop import write_positions
from pks.workers.booking import link_group
from pks.workers.points import no_points
from pks.workers.positions import Positions


class Slots:
    """A slot table, and the writing of what changed into it as an accumulator does."""

    def __init__(self, positions: Positions, keys: int) -> None:
        self.positions = positions
        self.slots = np.zeros((keys, VERSION_WORDS + 2 * POSITION_WORDS), np.int64)
        self.indexes, self.counts = np.zeros((1, 4 * keys, 2), np.int64), np.zeros((1, 16), np.int64)
        self.written = np.zeros(1 << 16, np.int64)
        self.points = no_points().words

    def taken(self, out: Results) -> None:
        """Write every position that changed."""
        state, count = self.positions.shard.state, int(out.counts[CHANGED])
        words = state.keys.view(np.int64).reshape(-1, KEY_WORDS)
        done = write_positions(
            state.keys, words, out.changed, count, self.slots, self.indexes, self.counts, 0, self.written, self.points, 0
        )  # fmt: skip
        assert done == count, "the table has room"

    def read(self, row: int) -> Any:
        """The slot of a row."""
        room = np.zeros(1, POSITION_SLOT)
        assert slot_read(self.slots, row, room.view(np.int64), TRIES_MAX) > 0, "the row was written"
        return room[0]


def cancels(of: Any, first: int) -> Any:
    """EVENT[n]: cancellations of the trades `of`, at sequences first, first + 1, ..., each a batch of its own."""
    made = of.copy()
    made["kind"], made["original"] = Kind.CANCEL, of["sequence"]
    made["sequence"] = first + np.arange(len(of))
    made["recorded_ns"] = NOW_NS + first + np.arange(len(of))
    made["flags"] = Flag.END_OF_BATCH
    for name in ("fee_raw", "fee_currency_id", "previous", "previous_other"):
        made[name] = 0
    return made


class Corrected:
    """A position with many fills and cancellations behind them, applied one after another."""

    def __init__(self, plan: Plan, later: int, runs: int) -> None:
        """runs: cancellations of the first trades, and as many of recent ones."""
        desk = Desk(plan.folder / "desk", definitions(1, 2))
        made = trades(later + runs, desk.last + 1, 1, 1)
        self.cancelled = np.concatenate([made[:runs], made[-(later // 10) :][:runs]])
        self.corrections = cancels(self.cancelled, desk.last + 1 + len(made))
        self.journal = desk.journal(np.concatenate([made, self.corrections]))
        link_group(desk.booking.tables, self.journal[desk.last + 1 :])
        self.positions = Positions(self.journal)
        self.slots = Slots(self.positions, 4)
        self.positions.apply(self.journal, -1, 1, desk.last + len(made), self.slots.taken)
        self.beats: list[int] = []
        self.positions.shard.beat = lambda: self.beats.append(time.perf_counter_ns())

    def cancel(self, number: int) -> float:
        """Milliseconds of one cancellation to its position's slot."""
        sequence = int(self.corrections[number]["sequence"])
        before = self.slots.read(0)
        start = time.perf_counter_ns()
        self.beats.append(start)
        self.positions.apply(self.journal, -1, sequence, sequence)
        after = self.slots.read(0)
        took = time.perf_counter_ns() - start
        self.beats.append(start + took)
        gone = int(self.cancelled[number]["qty_raw"]) * int(self.cancelled[number]["side"])
        assert int(after["last_sequence"]) == sequence, "the slot reflects the cancellation"
        assert int(after["qty_raw"]) == int(before["qty_raw"]) - gone, "the trade is gone"
        return took / 1e6

    def silence(self) -> float:
        """Milliseconds between two beats, the longest of the last cancellation; forgets them."""
        longest = max(np.diff(self.beats)) / 1e6
        self.beats.clear()
        return float(longest)


def late_rate(plan: Plan, runs: int) -> list[float]:
    """Late trades a second: each batch falls before what 100 positions have booked a day later, 1,000 fills each."""
    booked, batch = plan.size(100_000, 400), plan.size(4_096, 32)
    desk = Desk(plan.folder / "late", definitions(10, plan.size(10, 2)))
    made = trades(booked, desk.last + 1, 10, plan.size(10, 2))
    made["effective_date"] = made["lot_date"] = DAY + 1
    late = trades(batch * (runs + 1), desk.last + 1 + booked, 10, plan.size(10, 2), seed=2)
    late["flags"][batch - 1 :: batch] |= np.uint16(Flag.END_OF_BATCH)
    journal = desk.journal(np.concatenate([made, late]))
    link_group(desk.booking.tables, journal[desk.last + 1 :])
    positions = Positions(journal)
    positions.apply(journal, -1, 1, desk.last + booked)
    rates = []
    for first in range(desk.last + booked + 1, len(journal), batch):
        start = time.perf_counter_ns()
        positions.apply(journal, -1, first, first + batch - 1)
        rates.append(batch * 1e9 / (time.perf_counter_ns() - start))
    check_state(positions.shard.state)
    return rates[1:]


def measure(plan: Plan) -> Measured:
    """Milliseconds from a cancellation to its position's slot: of one of the first trades, then of one of the last tenth."""
    later, runs = plan.size(100_000, 200), plan.rounds(15)
    found = Measured(runs=runs, wait="none")
    one = Corrected(plan, later, runs + 1)
    samples, silences, recent = [], [], []
    for number in range(runs + 1):
        took, silent = one.cancel(number), one.silence()
        if number:  # the first one compiles and takes memory
            samples.append(took)
            silences.append(silent)
    for number in range(runs + 1, 2 * runs + 2):
        took = one.cancel(number)
        if number > runs + 1:
            recent.append(took)
    check_state(one.positions.shard.state)
    visible = result("cancellation to slot", "ms", samples)
    found.results = [
        visible,
        result("the same, longest time without a beat", "ms", silences),
        result("cancellation of a recent trade to slot", "ms", recent),
        result("late trades in batches", "trades/s", late_rate(plan, min(runs, 8))),
    ]
    found.promises = [
        Promise("correction_visible_ms", "<=", 100, visible.p50, visible.p50, None, "median; other positions wait for this one batch")
    ]
    found.notes = [
        f"{later:,} later fills on the position, FIFO; {runs} cancellations of its first trades, one after another, then as many "
        "of trades in the last tenth; in one process, from the event in the ring to the slot written: without capture and the journal",
        "late trades: 100 positions with 1,000 fills each of the day after, batches of 4,096 over all of them",
    ]
    return found
