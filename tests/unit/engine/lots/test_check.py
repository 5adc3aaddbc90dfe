"""Every fault is found when it is there, and the hash sees every number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pks.engine.lots.check import FAULTS, check_state, state_hash
from pks.engine.lots.state import LOTS_USED, State
from tests.engine_small import Small


@pytest.fixture
def state(tmp_path: Path) -> State:
    small = Small(tmp_path, "HIFO")
    for quantity, price in (("3", "10"), ("5", "12"), ("7", "11")):
        small.buy(quantity, price)
        small.buy(quantity, price, book="B", account="")
    small.sell("1", "11", fee="1", fee_currency="USD")
    state = small.core.positions[0].shard.state
    check_state(state)
    return state


def _lot(state: State) -> np.void:
    return state.lots[state.keys[0]["oldest"]]


BREAKS: dict[str, Callable[[State], None]] = {
    "the open lots do not sum to the position": lambda s: _lot(s).__setitem__("qty_raw", _lot(s)["qty_raw"] + 1),
    "the lots' costs do not sum to the position's": lambda s: _lot(s).__setitem__("cost_lo", _lot(s)["cost_lo"] + 1),
    "a lot is empty or on the other side": lambda s: _lot(s).__setitem__("qty_raw", 0),
    "the list of lots is out of order": lambda s: _lot(s).__setitem__("open_date", 60_000),
    "the list of lots is broken": lambda s: _lot(s).__setitem__("older", 1),
    "the number of lots is wrong": lambda s: s.keys[0].__setitem__("open_lots", s.keys[0]["open_lots"] + 1),
    "a HIFO heap is out of order": lambda s: s.lots[s.keys[0]["heap"]].__setitem__("price_raw", 1),
    "a HIFO heap lacks lots": lambda s: s.lots[s.keys[0]["heap"]].__setitem__("child", -1),
    "the accounts do not sum to the position": lambda s: s.accounts[s.keys[0]["accounts"]].__setitem__("qty_raw", 1),
    "lot rows are lost": lambda s: s.meta.__setitem__(LOTS_USED, 99),
    "the list of keys that wait does not fit their flags": lambda s: s.keys[1].__setitem__("dirty", 1),
}


@pytest.mark.parametrize("fault", BREAKS)
def test_a_broken_state_is_named(state: State, fault: str) -> None:
    assert fault in FAULTS.values()
    BREAKS[fault](state)
    with pytest.raises(AssertionError, match=fault):
        check_state(state)


def test_hash_sees_every_number_and_no_row_order(state: State) -> None:
    before = state_hash(state)
    for name in ("qty_raw", "cost_lo", "realised_hi", "last_sequence", "variation_lo", "method"):
        kept = state.keys[0][name].copy()
        state.keys[0][name] = kept + 1
        assert state_hash(state) != before, name
        state.keys[0][name] = kept
    for name in ("qty_raw", "cost_hi", "open_sequence", "open_date", "price_raw"):
        kept = _lot(state)[name].copy()
        _lot(state)[name] = kept + 1
        assert state_hash(state) != before, name
        _lot(state)[name] = kept
    state.keys["fees_lo"][0, 0] += np.uint64(1)
    assert state_hash(state) != before
    state.keys["fees_lo"][0, 0] -= np.uint64(1)
    state.keys[[0, 1]] = state.keys[[1, 0]]
    assert state_hash(state) == before
