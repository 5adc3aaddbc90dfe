"""Lots in their list and in the HIFO heap: whatever comes and goes, the order is that of a sort."""

from __future__ import annotations

import numpy as np
import pytest

from pks.engine.lots.check import heap_fault
from pks.engine.lots.keys import key_clear
from pks.engine.lots.pool import lot_find, lot_held, lot_insert, lot_remove, lot_take_row, lots_clear
from pks.engine.lots.state import LOTS_USED, State, new_state
from pks.layouts.codes import Method


def state_with(method: Method, lots: int) -> State:
    state = new_state(2, lots, 4, 4, 4)
    key_clear(state, 0, 1, 1, method)
    return state


def put(state: State, date: int, sequence: int, price: int, qty: int = 1, leg: int = 0) -> int:
    row = int(lot_take_row(state))
    assert row >= 0
    state.lots[row]["open_date"], state.lots[row]["open_sequence"], state.lots[row]["order_sequence"] = date, sequence, sequence
    state.lots[row]["price_raw"], state.lots[row]["qty_raw"], state.lots[row]["open_leg"] = price, qty, leg
    lot_insert(state, 0, row)
    return row


@pytest.mark.parametrize("qty", [1, -1])
def test_heap_gives_what_gains_least(rng: np.random.Generator, qty: int) -> None:
    state = state_with(Method.HIFO, 300)
    there: list[tuple[int, int, int]] = []
    for sequence in range(1, 1500):
        if (len(there) < 250 and rng.random() < 0.55) or not there:
            date, price = int(rng.integers(1, 9)), int(rng.integers(1, 20))
            put(state, date, sequence, price, qty)
            there.append((-price * qty, date, sequence))
        else:
            root = state.lots[state.keys[0]["heap"]]
            best = min(there)
            assert (-int(root["price_raw"]) * qty, int(root["open_date"]), int(root["open_sequence"])) == best
            lot_remove(state, 0, int(state.keys[0]["heap"]))
            there.remove(best)
        assert heap_fault(state.lots, int(state.keys[0]["heap"]), len(there)) == 0


def test_list_is_in_order_whatever_comes(rng: np.random.Generator) -> None:
    state = state_with(Method.FIFO, 200)
    for sequence in rng.permutation(np.arange(1, 150)).tolist():
        put(state, int(rng.integers(1, 5)), sequence, 1)
    seen, row = [], int(state.keys[0]["oldest"])
    while row >= 0:
        seen.append((int(state.lots[row]["open_date"]), int(state.lots[row]["order_sequence"])))
        row = int(state.lots[row]["newer"])
    assert seen == sorted(seen)
    assert len(seen) == 149


def test_parts_of_one_lot_are_found_together() -> None:
    state = state_with(Method.SPECIFIC, 8)
    later = put(state, 2, 7, 10, 3)
    put(state, 1, 5, 10, 4)
    oldest = put(state, 1, 7, 10, 2)
    put(state, 1, 7, 10, 9, leg=2)
    assert lot_held(state, 0, 7, 0) == 5
    assert lot_find(state, 0, 7, 0) == oldest
    lot_remove(state, 0, oldest)
    assert lot_find(state, 0, 7, 0) == later
    assert lot_find(state, 0, 8, 0) == -1
    lots_clear(state, 0)
    assert state.meta[LOTS_USED] == 0
    assert lot_held(state, 0, 7, 2) == 0


def test_rows_come_back() -> None:
    state = state_with(Method.FIFO, 3)
    rows = [put(state, 1, n, 1) for n in (1, 2, 3)]
    assert lot_take_row(state) == -1
    lot_remove(state, 0, rows[1])
    assert lot_take_row(state) == rows[1]
