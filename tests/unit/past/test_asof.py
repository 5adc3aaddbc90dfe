"""As of T, known at K: random days, random times and sequences, the same position for position as the independent model's."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from pks.engine.lots.snapshot import export_state, import_state
from pks.engine.lots.state import KEYS_COUNT
from pks.layouts.state import ACCOUNT, KEY
from pks.past.journal import settle
from pks.past.moment import Moment, moment_as_of, moment_of
from pks.workers.dump import dump_events
from pks.workers.positions import Positions
from tests.engine_compare import Told, key_name, our_key, their_key
from tests.engine_script import RandomDay
from tests.oracle.model import Model, Snapshot

pytestmark = pytest.mark.timeout(600)  # the kernels compile at their first call, on a busy machine for minutes

STEPS = 60
QUESTIONS = 4


def differences(ours: dict[tuple[str, str], Told], snapshot: Snapshot) -> list[str]:
    """What the two say differently, a line each."""
    lines = [f"{name}: ours only" for name in ours.keys() - snapshot.last_sequences.keys()]
    for name, last in snapshot.last_sequences.items():
        if name not in ours:
            lines.append(f"{name}: the model's only")
            continue
        theirs = their_key(snapshot.states[name], ours[name]) | {"last_sequence": last}
        if not theirs["lots"]:  # what a flat key would go by next shows nowhere
            theirs["method"] = ours[name]["method"]
        pairs = {field: (ours[name][field], theirs[field]) for field in theirs}
        lines += [f"{name} {field}: {here} here, {there} there" for field, (here, there) in pairs.items() if here != there]
    return lines


def as_of_keys(folded: Positions, moment: Moment) -> dict[tuple[str, str], Told]:
    """Each key of the moment, as a state of its own so that it is told in the same words."""
    found, whole = {}, export_state(folded.shard.state)
    for key in moment.keys:
        ids = (int(key["book_id"]), int(key["instrument_id"]))
        lots, held = moment.lots(*ids), moment.held[(moment.held["book_id"] == ids[0]) & (moment.held["instrument_id"] == ids[1])]
        accounts = np.zeros(len(held), ACCOUNT)
        accounts["account_id"], accounts["qty_raw"] = held["account_id"], held["qty_raw"]
        ends = np.array([len(lots)], np.int64), np.array([len(held)], np.int64)
        arrays = {"keys": np.array([key], KEY), "lots": lots, "lot_ends": ends[0], "accounts": accounts, "account_ends": ends[1]}
        state = import_state(whole | arrays)
        assert int(lots["qty_raw"].sum()) == int(held["qty_raw"].sum()) == int(key["qty_raw"])
        found[key_name(key, moment.catalogue)] = our_key(state, 0, moment.catalogue) | {"last_sequence": int(key["last_sequence"])}
    return found


def live_keys(folded: Positions) -> dict[tuple[str, str], Told]:
    state = folded.shard.state
    keys = enumerate(state.keys[: state.meta[KEYS_COUNT]])
    return {key_name(key, folded.catalogue): our_key(state, k, folded.catalogue) for k, key in keys if key["last_sequence"]}


@pytest.mark.parametrize("number", range(6))
def test_random_days_at_random_moments(seed: int, number: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    day = RandomDay(seed, tmp_path, batch=1 + number % 3)
    for _ in range(STEPS):
        day.step()
    records, last = day.core.records, day.core.booking.sequence
    events = list(dump_events(records, -1, 1, last, day.core.booking.catalogue))
    times = sorted({int(record["trade_time_ns"]) for record in records[1 : last + 1] if record["trade_time_ns"]})
    for _ in range(QUESTIONS):
        known, time_ns = chance.randint(1, last), chance.choice(times) + chance.choice((-1, 0, 1))
        folded = Positions(records)
        folded.apply(records, -1, 1, known)
        settle(folded)
        where = f"seed {seed}, as of {time_ns}, known at {known} of {last}"
        for moment_ns in (time_ns, 2**63 - 1):
            assert differences(as_of_keys(folded, moment_as_of(folded, moment_ns)), Model.as_of(events, moment_ns, known)) == [], where
        keys, snapshot = as_of_keys(folded, moment_of(folded)), Model.as_of(events, None, known)
        assert keys == live_keys(folded)
        assert differences(keys, snapshot) == [], where
