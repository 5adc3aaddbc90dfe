"""Fills at full speed on one position, as an accumulator writes them, and the law that every whole copy obeys.

Fill n adds one unit at PRICE: every figure of the slot follows from n, so a copy that mixes two versions shows.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pks.layouts.slots import POSITION_SLOT
from pks.segments.atomics import load_relaxed
from pks.segments.ring import ring_publish
from pks.segments.slots import slot_write
from tests.unit.client.small_host import BOOKS, INSTRUMENTS, SmallHost, position_slot

PRICE = 3
FEE = 7
TIME_NS = 1_741_946_711_000_000_000
CHUNK = 5_000
AHEAD_NS = 20 * 10**9  # beats ahead: on a loaded machine the writer may be off its core for longer than a heartbeat lasts


def _word(name: str) -> int:
    return int(POSITION_SLOT.fields[name][1]) // 8


QTY, COST, SEQUENCE, TIME, TRADES = (_word(name) for name in ("qty_raw", "cost_lo", "last_sequence", "event_time_ns", "trades_count"))
REALISED, RECORDED, FEES, LAST_PRICE = (_word(name) for name in ("realised_lo", "recorded_ns", "fees_lo", "last_price_raw"))


@njit
def fill(slot, n):
    """Make `slot` (int64[32]) the position after n fills."""
    slot[QTY] = n
    slot[COST] = n * PRICE
    slot[REALISED] = n * 5
    slot[SEQUENCE] = n
    slot[TIME] = TIME_NS + n
    slot[RECORDED] = TIME_NS + 2 * n
    slot[LAST_PRICE] = n * 11
    slot[FEES] = n * FEE
    slot[TRADES] = n


@njit
def is_whole(slot):
    """True when every figure of a copy is of one and the same n."""
    n = slot[QTY]
    return (
        slot[COST] == n * PRICE
        and slot[REALISED] == n * 5
        and slot[SEQUENCE] == n
        and slot[TIME] == TIME_NS + n
        and slot[RECORDED] == TIME_NS + 2 * n
        and slot[LAST_PRICE] == n * 11
        and slot[FEES] == n * FEE
        and slot[TRADES] == n
    )


@njit
def stream(slots, row, slot, control, records, update, first, count, stop):
    """Write fills first .. first + count - 1 and say each on the updates ring; the next number. stop: int64[1], ends it when not 0."""
    for n in range(first, first + count):
        fill(slot, n)
        slot_write(slots, row, slot)
        update[0, 0] = n
        ring_publish(control, records, update, 0, 1)
        if load_relaxed(stop, 0) != 0:
            return n + 1
    return first + count


class Filler:
    """The writing process's body: `run` streams until `stop`, a word of shared memory, is set."""

    def __init__(self, small: SmallHost, stop: np.ndarray, book: str = "ALPHA", instrument: str = "SBER.MOEX") -> None:
        self.small, self.stop = small, stop
        self.row = small.put(book, instrument, 0, money_scale=0, price_scale=0)
        shard = BOOKS[book] % small.shards
        self.ring = small.updates[shard].ring
        self.slot = np.zeros(1, POSITION_SLOT)
        self.slot[0] = position_slot(BOOKS[book], INSTRUMENTS[instrument], 0, 0, money_scale=0, price_scale=0, open_lots=1)
        self.slot["fee_currency_id"][0, 0] = 1
        self.words = self.slot.view(np.int64)
        self.update = np.array([[0, self.row | shard << 32]], np.int64)
        self.number = self.step(1, 1)

    def step(self, first: int, count: int) -> int:
        slots = self.small.host.positions.slots
        return int(stream(slots, self.row, self.words, self.ring.control, self.ring.records, self.update, first, count, self.stop))

    def run(self) -> None:
        """Stream for as long as nobody says stop, keeping the host alive."""
        while not self.stop[0]:
            self.number = self.step(self.number, CHUNK)
            self.small.live(AHEAD_NS)
