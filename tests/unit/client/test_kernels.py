"""What a user's own compiled code may call."""

from __future__ import annotations

import time

import numpy as np
from numba import njit

from pks.client.kernels import (
    ABSENT,
    CLOSED,
    LAPPED,
    STALE,
    TRIES_MAX,
    clock_ns,
    liveness,
    position_find,
    position_read,
    position_read_live,
    position_version,
    positions_snapshot,
    updates_head,
    updates_oldest,
    updates_read,
)
from pks.layouts.slots import POSITION_SLOT, UPDATE
from tests.unit.client.small_host import BOOKS, INSTRUMENTS, SIZES

QTY_WORD = POSITION_SLOT.fields["qty_raw"][1] // 8


@njit
def sum_of(table, keys, target, room):
    """A user's loop: the sum of quantities of keys (int64[n, 2]), or the first trouble."""
    header, slots, indexes, _ = table
    now_ns, total = clock_ns(room), 0
    for number in range(len(keys)):
        row = position_find(indexes, keys[number, 0], keys[number, 1])
        if row == ABSENT:
            continue
        version = position_read_live(header, slots, row, target, now_ns)
        if version < 0:
            return version
        total += target[QTY_WORD]
    return total


@njit
def read_updates(ring, cursor, target):
    control, records = ring
    return updates_read(control, records, cursor, target, len(target)), updates_head(control), updates_oldest(control)


def test_a_compiled_loop_finds_and_reads(small, host) -> None:
    small.put("ALPHA", "SBER.MOEX", 5)
    small.put("BETA", "SBER.MOEX", 8)
    keys = np.array([(BOOKS[book], INSTRUMENTS["SBER.MOEX"]) for book in BOOKS] + [(1, 1)])
    target, room = np.zeros(32, np.int64), np.zeros(2, np.int64)
    assert sum_of(host.positions.arrays, keys, target, room) == 13
    small.live(-2 * 10**9)
    assert sum_of(host.positions.arrays, keys, target, room) == STALE
    small.live()
    small.host.segment("positions").mark_closed()
    assert sum_of(host.positions.arrays, keys, target, room) == CLOSED


def test_liveness_follows_the_clock_that_is_given(small, host) -> None:
    table = host.positions.arrays
    beaten = int(small.host.segment("positions").facts().heartbeat_ns)
    assert liveness(table.header, beaten + 10**9) == 0
    assert liveness(table.header, beaten + 10**9 + 1) == STALE


def test_the_clock_is_that_of_heartbeats() -> None:
    room = np.zeros(2, np.int64)
    before = time.monotonic_ns()
    now = clock_ns(room)
    assert before <= now <= time.monotonic_ns()


def test_one_row_and_many(small, host) -> None:
    row = small.put("ALPHA", "SBER.MOEX", 5)
    table, target = host.positions.arrays, np.zeros(32, np.int64)
    assert position_version(table.slots, row) == 1
    assert position_read(table.slots, row, target, TRIES_MAX) == 1
    assert target.view(POSITION_SLOT)["qty_raw"] == 5
    small.put("ALPHA", "SBER.MOEX", 6)
    assert position_version(table.slots, row) == 2
    rows, into, versions = np.array([row, row]), np.zeros((2, 32), np.int64), np.zeros(2, np.int64)
    assert positions_snapshot(table.slots, rows, into, versions, TRIES_MAX) == 0
    assert into.view(POSITION_SLOT)["qty_raw"].ravel().tolist() == [6, 6]
    assert versions.tolist() == [2, 2]


def test_updates_in_a_compiled_loop(small, host) -> None:
    row = small.put("ALPHA", "SBER.MOEX", 5)
    ring, target = host.update_rings[BOOKS["ALPHA"] % 2], np.zeros((16, 2), np.int64)
    count, head, _ = read_updates(ring, -1, target)
    assert (count, head) == (1, 0)
    assert target.view(UPDATE)[0, 0].tolist() == (1, row, BOOKS["ALPHA"] % 2)
    for quantity in range(2 * SIZES.updates):
        small.put("ALPHA", "SBER.MOEX", quantity)
    count, head, oldest = read_updates(ring, 0, target)
    assert count == LAPPED
    assert 0 < oldest <= head
