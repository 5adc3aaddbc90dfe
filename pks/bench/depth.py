"""`pks bench depth`: what one event costs on a position with 1 to 100,000 open lots, by every lot method.

Promises: `depth_ratio_fifo`, `depth_ratio_lifo`, `depth_ratio_average`, `depth_ratio_hifo`, `depth_ratio_specific`, design section 9: the
dearest depth beside the shallowest. Each sample opens a lot and closes one, again and again, so that the depth stays.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np

from pks.bench.desk import Desk, definitions, trades
from pks.bench.report import Measured, Plan, Promise, result
from pks.engine.lots.state import LOTS_USED
from pks.layouts.codes import Flag, Method, Side
from pks.workers.positions import Positions

DEPTHS = (1, 10, 100, 1_000, 10_000, 100_000)
BOUNDS = {Method.FIFO: 2.0, Method.LIFO: 2.0, Method.AVERAGE: 2.0, Method.HIFO: 8.0, Method.SPECIFIC: 8.0}
LOT_QTY = 100


class Deep:
    """One position that holds `depth` lots, and pairs of events (open, close a whole lot) to go on with."""

    def __init__(self, plan: Plan, method: Method, depth: int, events: int, samples: int) -> None:
        """events: of one sample, even."""
        folder = plan.folder / f"{method.name}-{depth}"
        desk = Desk(folder, definitions(1, 1, method))
        count = depth + events * samples
        made = trades(count, desk.last + 1, 1, 1, seed=depth, fee=False)
        made["qty_raw"] = LOT_QTY
        made["side"][:depth] = Side.BUY
        made["side"][depth::2], made["side"][depth + 1 :: 2] = Side.BUY, Side.SELL
        made["flags"] &= np.uint16(0xFFFF ^ Flag.END_OF_BATCH)
        if method is Method.SPECIFIC:
            _name_lots(made, depth)
        self.journal = desk.journal(made)
        self.events, self.method, self.depth = events, method, depth
        self.positions = Positions(self.journal, keys=8, lots=2 * depth + 64)
        self.at = desk.last + depth
        self.positions.apply(self.journal, -1, 1, self.at)
        self.check()

    def sample(self) -> float:
        """Nanoseconds an event, over one sample."""
        start = time.perf_counter_ns()
        self.positions.apply(self.journal, -1, self.at + 1, self.at + self.events)
        took = time.perf_counter_ns() - start
        self.at += self.events
        self.check()
        return took / self.events

    def check(self) -> None:
        """The position is as deep as it should be (an average-cost position has one pool) and nothing was refused."""
        lots, key = int(self.positions.shard.state.meta[LOTS_USED]), self.positions.shard.state.keys[0]
        assert lots == (1 if self.method is Method.AVERAGE else self.depth), f"{self.method.name}: {lots} lots, not {self.depth}"
        assert int(key["qty_raw"]) == LOT_QTY * self.depth, "every event was booked"


def _name_lots(made: Any, depth: int) -> None:
    """Let each sale name an open lot, drawn at random."""
    chance = np.random.default_rng(depth)
    held = made["sequence"][:depth].tolist()
    sequences, lots = made["sequence"].tolist(), made["lot"]
    picks = chance.random(len(made)).tolist()
    for place in range(depth, len(made), 2):
        held.append(sequences[place])
        at = int(picks[place] * len(held))
        lots[place + 1] = held[at]
        held[at] = held[-1]
        held.pop()


def measure(plan: Plan) -> Measured:
    """The cost of an event at each depth, by method; the depths take turns."""
    found = Measured(runs=plan.rounds(15), wait="none")
    depths = DEPTHS[: plan.size(len(DEPTHS), 2)]
    events = plan.size(10_000, 50)
    for method, bound in BOUNDS.items():
        deep = [Deep(plan, method, depth, events, found.runs + 1) for depth in depths]
        samples: dict[int, list[float]] = {depth: [] for depth in depths}
        for one in deep:
            one.sample()  # caches, and the code of this method
        for _ in range(found.runs):
            for one in deep:
                samples[one.depth].append(one.sample())
        costs = {depth: median(values) for depth, values in samples.items()}
        dearest = max(costs, key=lambda depth: costs[depth])
        found.promises.append(
            Promise(
                f"depth_ratio_{method.name.lower()}", "<=", bound, costs[dearest] / costs[1], costs[dearest], costs[1],
                f"ns an event with {dearest:,} open lots beside 1",
            )
        )  # fmt: skip
        found.results += [result(f"{method.name.lower()}, {depth:,} open lots", "ns/event", samples[depth]) for depth in depths]
    found.notes.append(
        f"{events:,} events a sample, half of them open a lot and half close one (specific: one drawn at random), match records written; "
        f"depths in turns, {found.runs} samples each; the median of the dearest depth beside that of one lot"
    )
    return found
