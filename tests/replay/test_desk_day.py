"""The desk's day, booked as people would, gives its hand-made figures; a replay in any number of shards gives the same state hash."""

from __future__ import annotations

import csv
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pks.base.errors import Code
from pks.base.units import to_int
from pks.edges.files.desk import packaged_desk, read_desk
from pks.edges.files.trades import read_trades
from pks.engine.booking.border import Border
from pks.engine.instruments.definitions import Source
from pks.engine.lots.check import check_state, state_hash
from pks.layouts.codes import Subject
from pks.layouts.slots import FEE_SCALE
from tests.engine_compare import differences
from tests.harness import Core, Fold
from tests.oracle.model import Model


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Core:
    core = Core(tmp_path_factory.mktemp("desk"), 2)
    desk = read_desk(packaged_desk())
    for definition in [*desk.definitions, Source(code="MANUAL")]:
        core.define(definition)
    border = Border(core.booking.catalogue)
    for row in [*desk.opening_lots, *read_trades(packaged_desk() / "trades.csv")]:
        assert core.book(border.group_of(row)).code == Code.ACCEPTED, row
    group = np.concatenate([border.group_of(row) for row in read_trades(packaged_desk() / "allocations.csv")])
    group["group_count"], group["group_index"] = len(group), np.arange(len(group))
    assert core.book(group).code == Code.ACCEPTED
    for row in desk.opening_lots:
        assert core.book(border.group_of(row)).code == Code.DUPLICATE
    return core


def test_end_of_day_positions(core: Core) -> None:
    catalogue = core.booking.catalogue
    keys = {(catalogue.book(int(k["book_id"])).code, catalogue.instrument(int(k["instrument_id"])).code): k for k in core.keys()}
    with (packaged_desk() / "expected_eod_positions.csv").open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file))
    assert {(row["book_id"], row["instrument_id"]) for row in expected} == keys.keys()
    for row in expected:
        key = keys[row["book_id"], row["instrument_id"]]
        assert figures(core, key, row) == {name: row[name] for name in ("qty", "open_lots", "avg_open_price", "realised_gross_day")}
        assert fees(core, key) == expected_fees(row["fees_day"])


def figures(core: Core, key: Any, row: dict[str, str]) -> dict[str, str]:
    instrument = core.booking.catalogue.instrument(int(key["instrument_id"]))
    factor, scale = instrument.money_factor, 10**instrument.money_scale
    quantity = Fraction(int(key["qty_raw"]), 10**instrument.qty_scale)
    cost = Fraction(to_int(int(key["cost_hi"]), int(key["cost_lo"])), scale)
    realised = Fraction(to_int(int(key["realised_hi"]), int(key["realised_lo"])), scale) * factor
    average = quantity / cost if instrument.contract_type == "INVERSE" else cost / quantity
    return {
        "qty": same(quantity, row["qty"]),
        "open_lots": str(int(key["open_lots"])),
        "avg_open_price": same(average, row["avg_open_price"]),
        "realised_gross_day": same(realised, row["realised_gross_day"]),
    }


def same(value: Fraction, text: str) -> str:
    """`text` when it is the value rounded to as many places, else the value."""
    places = len(text.partition(".")[2])
    return text if Fraction(round(value * 10**places), 10**places) == Fraction(text) else str(value)


def fees(core: Core, key: Any) -> dict[str, Fraction]:
    told = {}
    for cell in range(4):
        definition = core.booking.catalogue.get(Subject.CURRENCY, int(key["fee_currency_id"][cell]))
        amount = Fraction(to_int(int(key["fees_hi"][cell]), int(key["fees_lo"][cell])), 10**FEE_SCALE)
        if definition is not None and amount:
            told[definition.code] = amount
    return told


def expected_fees(text: str) -> dict[str, Fraction]:
    """ "0", or "335.80 USDT; 0.0025 BTC"."""
    parts = [part.split() for part in text.split("; ")] if text != "0" else []
    return {currency: Fraction(amount) for amount, currency in parts}


def test_the_oracle_agrees_on_every_number(core: Core) -> None:
    model = Model()
    for event in core.dump():
        model.apply(event)
    assert differences(core.fold, core.booking.catalogue, model.snapshot(), model.refused) == []


def test_replays_give_one_hash(core: Core) -> None:
    hashes = set()
    for shards in (1, 2, 4):
        fold = Fold(core.records, shards)
        fold.apply(1, core.sequence)
        for position in fold.positions:
            check_state(position.shard.state)
        hashes.add(sum(state_hash(position.shard.state) for position in fold.positions) % 2**128)
    hashes.add(sum(state_hash(position.shard.state) for position in core.positions) % 2**128)
    assert len(hashes) == 1
