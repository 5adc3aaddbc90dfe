"""The engine against the independent model over random days; and any number of shards, batches, replays and the past against each other."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pks.engine.lots.anchors import Anchor, Anchors
from pks.engine.lots.check import check_state, state_hash
from pks.engine.lots.snapshot import export_state, import_state
from pks.engine.lots.state import ANCHOR_EVENTS, LOTS_USED
from pks.layouts.codes import Flag
from pks.layouts.slots import POSITION_SLOT
from pks.workers.history import as_of, known_at
from tests.engine_compare import differences, our_key, their_key
from tests.engine_script import DAY_0, DAYS, RandomDay
from tests.harness import Core, Fold
from tests.oracle.model import Model

STEPS = 70
NS_PER_DAY = 86_400 * 10**9
Number = Callable[[int], int]


@pytest.fixture
def made(tmp_path: Path, seed: int) -> Callable[..., RandomDay]:
    """A random day of STEPS groups: made(number) is another one for each number of this run's seed."""

    def make(number: int, steps: int = STEPS, **options: Any) -> RandomDay:
        day = RandomDay(seed + number, tmp_path / str(number), **options)
        for _ in range(steps):
            day.step()
        day.core.flush()
        return day

    return make


def oracle_of(core: Core, upto: int | None = None) -> Model:
    model = Model()
    for event in core.dump(upto):
        model.apply(event)
    return model


def total_hash(fold: Fold) -> int:
    return sum(state_hash(position.shard.state) for position in fold.positions) % 2**128


def same_matches(ours: Fold, theirs: Fold) -> bool:
    return ours.matches.keys() == theirs.matches.keys() and all(
        np.array_equal(ours.matches[name], theirs.matches[name]) for name in ours.matches
    )


@pytest.mark.parametrize("number", range(60))
def test_random_days_equal_the_oracle(number: int, made: Callable[..., RandomDay]) -> None:
    core = made(number).core
    model = oracle_of(core)
    assert differences(core.fold, core.booking.catalogue, model.snapshot(), model.refused) == []
    check_state(core.positions[0].shard.state)


@pytest.mark.parametrize("number", range(10))
def test_the_state_is_sound_after_each_step(number: int, made: Callable[..., RandomDay]) -> None:
    day = made(number, 0)
    for _ in range(STEPS):
        day.step()
        check_state(day.core.positions[0].shard.state)
    state = day.core.positions[0].shard.state
    assert sum(int(key["open_lots"]) for key in day.core.keys()) == state.meta[LOTS_USED]


@pytest.mark.parametrize("number", range(12))
def test_any_number_of_shards_and_any_replay_give_the_same(number: int, made: Callable[..., RandomDay]) -> None:
    core = made(number).core
    for shards in (1, 2, 4):
        fold = Fold(core.records, shards, keys=8, lots=16)
        fold.apply(1, core.sequence)
        assert total_hash(fold) == total_hash(core.fold)
        assert fold.verdicts == core.verdicts
        assert same_matches(fold, core.fold)
        for position in fold.positions:
            check_state(position.shard.state)


@pytest.mark.parametrize("number", range(12))
def test_batches_give_what_single_events_give(number: int, made: Callable[..., RandomDay]) -> None:
    core = made(number, batch=7).core
    singles = core.records.copy()
    singles["flags"][1 : core.sequence + 1] |= np.uint16(Flag.END_OF_BATCH)
    fold = Fold(singles)
    fold.apply(1, core.sequence)
    assert fold.verdicts == core.verdicts
    assert total_hash(fold) == total_hash(core.fold)
    model = oracle_of(core)
    assert differences(core.fold, core.booking.catalogue, model.snapshot(), model.refused) == []


@pytest.mark.parametrize("number", range(8))
def test_a_snapshot_goes_on_as_the_state_would(number: int, made: Callable[..., RandomDay], seed: int) -> None:
    core = made(number, batch=5).core
    cut = random.Random(seed + number).randrange(60, core.sequence)
    for shards in (1, 3):
        first, fold = Fold(core.records), Fold(core.records, shards)
        first.apply(1, cut)
        for k, position in enumerate(fold.positions):
            position.shard.state = import_state(export_state(first.positions[0].shard.state), k, shards, keys=4, lots=8)
            position.shard.sets = {transfer: list(sets) for transfer, sets in first.positions[0].shard.sets.items()}
            for sequence in range(1, cut + 1):
                learn(position, core.records, sequence)
        fold.apply(cut + 1, core.sequence)
        assert total_hash(fold) == total_hash(core.fold)
        assert first.verdicts | fold.verdicts == core.verdicts


def learn(position: Any, records: Any, sequence: int) -> None:
    """Take a definition into the catalogue, as the one who loads a checkpoint does."""
    from pks.engine.instruments.events import learn_definition
    from pks.layouts.codes import Kind
    from pks.layouts.detail import group_at

    if records[sequence]["kind"] == Kind.REFDATA:
        learn_definition(position.catalogue, group_at(records, -1, sequence))


@pytest.mark.parametrize("seed", [2497148394, 736045071 + 2], ids=["a fee limit that a cancel hid", "the same, from an amend"])
def test_batches_that_once_gave_something_else(made: Callable[..., RandomDay], seed: int) -> None:
    test_batches_give_what_single_events_give(0, made)


@pytest.mark.parametrize("seed", [489815869 + 8], ids=["fees that cancel out still count as a currency"])
def test_a_past_that_once_differed(made: Callable[..., RandomDay], seed: int) -> None:
    test_the_past_equals_the_oracles(0, made, seed)


@pytest.mark.parametrize("number", range(10))
def test_the_past_equals_the_oracles(number: int, made: Callable[..., RandomDay], seed: int) -> None:
    core = made(number).core
    chance = random.Random(seed + number)
    for _ in range(3):
        known = chance.randrange(core.sequence // 2, core.sequence + 1)
        while core.records[known]["group_index"] + 1 != core.records[known]["group_count"]:
            known += 1
        time_ns = (DAY_0 + chance.randrange(1, DAYS + 1)) * NS_PER_DAY
        snapshot = Model.as_of(core.dump(known), time_ns)
        positions = known_at(core.records, -1, core.sequence, known)
        told = {name_of(core, one.key): one for one in as_of(core.records, -1, core.sequence, time_ns, known)}
        for name, theirs in snapshot.states.items():
            if name in snapshot.last_sequences and name in told:
                assert shown(positions, told[name], theirs) == [], name
            elif name in snapshot.last_sequences:
                assert not theirs.lots and not theirs.realised and not theirs.fees, name


def name_of(core: Core, key: Any) -> tuple[str, str]:
    catalogue = core.booking.catalogue
    return catalogue.book(int(key["book_id"])).code, catalogue.instrument(int(key["instrument_id"])).code


def shown(positions: Any, one: Any, theirs: Any) -> list[str]:
    """What differs between an as-of answer and the oracle's. positions: what was known then, with its scales."""
    lots, accounts = one.lots.copy(), one.accounts.copy()
    lots["newer"] = [*range(1, len(lots)), -1] if len(lots) else []
    accounts["next"] = [*range(1, len(accounts)), -1] if len(accounts) else []
    keys = np.array([one.key])
    keys["oldest"], keys["accounts"] = 0 if len(lots) else -1, 0 if len(accounts) else -1
    ours = our_key(positions.shard.state._replace(keys=keys, lots=lots, accounts=accounts), 0, positions.catalogue)
    expected = their_key(theirs, ours)
    return [f"{name}: engine {ours[name]}, oracle {expected[name]}" for name in expected if ours[name] != expected[name]]


@pytest.mark.parametrize("number", range(6))
def test_known_at_is_what_was_live(number: int, made: Callable[..., RandomDay]) -> None:
    day = made(number, 0)
    hashes: dict[int, int] = {}
    for _ in range(STEPS):
        day.step()
        hashes[day.core.sequence] = total_hash(day.core.fold)
    for sequence in list(hashes)[::9]:
        positions = known_at(day.core.records, -1, day.core.sequence, sequence)
        assert state_hash(positions.shard.state) == hashes[sequence]


@pytest.mark.parametrize("number", range(6))
def test_the_end_of_time_is_the_live_state_without_transfers(number: int, made: Callable[..., RandomDay]) -> None:
    core = made(number, calm=True).core
    told = {name_of(core, one.key): one for one in as_of(core.records, -1, core.sequence, (DAY_0 + 2 * DAYS) * NS_PER_DAY)}
    for key in core.keys():
        if not key["trades_count"]:
            continue
        one = told[name_of(core, key)]
        for name in ("qty_raw", "cost_hi", "cost_lo", "realised_hi", "realised_lo", "variation_hi", "variation_lo", "open_lots"):
            assert one.key[name] == key[name], name


def slot_bytes(fold: Fold) -> dict[tuple[int, int], bytes]:
    """What readers see of each position."""
    slots = [position.shard.state.keys[list(POSITION_SLOT.names or ())] for position in fold.positions]
    rows = [row for keys in slots for row in keys if row["book_id"]]
    return {(int(row["book_id"]), int(row["instrument_id"])): repr(row.item()).encode() for row in rows}


def test_anchors_change_nothing(made: Callable[..., RandomDay], monkeypatch: pytest.MonkeyPatch) -> None:
    used = 0
    newest = Anchors.newest

    def counted(anchors: Anchors, k: int, place: int) -> Anchor | None:
        nonlocal used
        found = newest(anchors, k, place)
        used += found is not None
        return found

    for number in range(12):
        core = made(number, 2 * STEPS, batch=2, late=0.02 if number % 2 else 0.3, calm=number % 3 > 0).core
        shown = []
        for look_up in (counted, lambda *_: None):
            monkeypatch.setattr(Anchors, "newest", look_up)
            fold = Fold(core.records, 2)
            for position in fold.positions:
                position.shard.state.meta[ANCHOR_EVENTS] = 1
            fold.apply(1, core.sequence)
            assert total_hash(fold) == total_hash(core.fold)
            assert fold.verdicts == core.verdicts
            assert same_matches(fold, core.fold)
            shown.append(slot_bytes(fold))
        assert shown[0] == shown[1], "to the byte, as the shadow compares them"
    assert used > 50, "corrections did stop at anchors"
