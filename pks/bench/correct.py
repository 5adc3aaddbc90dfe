"""`pks bench correct`: a cancellation that reaches 100,000 later fills of its position, until the corrected position can be read.

Promise: `correction_visible_ms`, design section 9. Measured in the accumulator's own code: from the event in the ring to the slot written.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import time
from typing import Any

import numpy as np

from pks.bench.desk import NOW_NS, Desk, definitions, trades
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


def measure(plan: Plan) -> Measured:
    """Milliseconds from a cancellation to its position's slot, each of one of the first trades."""
    later = plan.size(100_000, 200)
    runs = plan.rounds(15)
    found = Measured(runs=runs, wait="none")
    desk = Desk(plan.folder / "desk", definitions(1, 2))
    made = trades(later + runs + 1, desk.last + 1, 1, 1)
    corrections = cancels(made[: runs + 1], desk.last + 1 + len(made))
    journal = desk.journal(np.concatenate([made, corrections]))
    link_group(desk.booking.tables, journal[desk.last + 1 :])
    positions = Positions(journal)
    slots = Slots(positions, 4)
    positions.apply(journal, -1, 1, desk.last + len(made), slots.taken)
    samples = []
    for number in range(runs + 1):
        sequence = int(corrections[number]["sequence"])
        before = slots.read(0)
        start = time.perf_counter_ns()
        positions.apply(journal, -1, sequence, sequence)
        after = slots.read(0)
        took = time.perf_counter_ns() - start
        gone = int(made[number]["qty_raw"]) * int(made[number]["side"])
        assert int(after["last_sequence"]) == sequence, "the slot reflects the cancellation"
        assert int(after["qty_raw"]) == int(before["qty_raw"]) - gone, "the trade is gone"
        if number:  # the first one compiles and takes memory
            samples.append(took / 1e6)
    check_state(positions.shard.state)
    visible = result("cancellation to slot", "ms", samples)
    found.results = [visible]
    found.promises = [
        Promise("correction_visible_ms", "<=", 100, visible.p50, visible.p50, None, "median; other positions wait for this one batch")
    ]
    found.notes = [
        f"{later:,} later fills on the position, FIFO; {runs} cancellations of its first trades, one after another; in one process, from "
        "the event in the ring to the slot written: capture and the wait for the journal are not in it",
    ]
    return found
