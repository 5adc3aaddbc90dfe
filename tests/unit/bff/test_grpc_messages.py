"""Positions as bytes: a patch, merged into what a client knows, gives what is; what no patch can tell is told whole."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import pytest

from pks.bff.grpc_messages import PATCHES_KEPT, Told, fresh, heartbeat_message, patch_message, snapshot_message
from pks.bff.live import State
from pks.engine.positions.view import PositionTerms, PositionView
from pks.proto.codec import position_message, position_words
from pks.proto.pks.v1 import positions_service_pb2 as pb
from tests.unit.client.small_host import position_slot

FRESH = fresh(State.STALE, 5, 4)
CURRENCIES = {1: "RUB", 2: "USD"}


def told(quantity: int, version: int, price: int = 100, fees: dict[int, int] | None = None) -> Told:
    factor = Fraction(1)
    terms = PositionTerms(
        book="ALPHA", instrument="SBER", currency="RUB", currency_id=1, multiplier_numerator=factor.numerator,
        multiplier_denominator=factor.denominator, fees_in_cost=False, currency_codes=CURRENCIES,
    )  # fmt: skip
    slot = position_slot(11, 21, quantity, price, version=version, last_sequence=version)
    for cell, (currency, raw) in enumerate((fees or {}).items()):
        slot["fee_currency_id"][cell], slot["fees_lo"][cell] = currency, raw
    return Told(PositionView.from_record(slot, terms))


def merged(view: Any, message: bytes) -> Any:
    """What a client makes of an update."""
    update = pb.InstrumentUpdate.FromString(message)
    for position in update.positions:
        view = pb.PositionView.FromString(position.SerializeToString())
    for patch in update.patches:
        view.MergeFromString(patch.SerializeToString())
    return view


def test_a_position_with_its_freshness_is_one_message() -> None:
    one = told(100, 3)
    view = pb.PositionView.FromString(one.whole + FRESH)
    assert (position_words(view), view.state, view.sequence, view.durable_sequence) == (one.view.as_dict(), pb.STALE, 5, 4)
    assert one.whole == pb.PositionView.FromString(position_message(one.view).SerializeToString()).SerializeToString()


def test_patches_lead_from_any_version_to_any_other(seed: int) -> None:
    chance = random.Random(seed)
    known = told(1, 1)
    view = pb.PositionView.FromString(known.whole)
    for version in range(2, 300):
        fees = {currency: chance.randrange(3) * 10**12 + 1 for currency in CURRENCIES if chance.random() < 0.5}
        now = told(chance.choice((-5, 0, 0, 7, 100)), version, chance.choice((100, 250)), fees)
        view = merged(view, patch_message([(now, known)], FRESH))
        assert position_words(view) == now.view.as_dict()
        known = now


def test_only_what_changed_is_in_a_patch() -> None:
    before, after = told(100, 3), told(0, 4)
    patch = pb.PositionViewPatch.FromString(after.patch_of(before))
    changed = {field.name for field, _ in patch.ListFields()}
    assert {"book", "instrument", "quantity", "average_price", "cost", "open_lots", "version", "last_sequence"} == changed
    everything = pb.PositionViewPatch.FromString(after.patch_of(None))
    assert {field.name for field in pb.PositionViewPatch.DESCRIPTOR.fields} - {field.name for field, _ in everything.ListFields()} == {
        "fees"
    }


def test_fees_that_are_gone_make_it_whole() -> None:
    before, after = told(1, 3, fees={1: 5, 2: 5}), told(1, 4, fees={2: 5})
    assert after.replaces(before) and not before.replaces(after) and not after.replaces(None)
    update = pb.InstrumentUpdate.FromString(patch_message([(after, before)], FRESH))
    assert (len(update.positions), len(update.patches), update.kind) == (1, 0, pb.InstrumentUpdate.PATCH)


def test_a_version_is_encoded_once_for_all() -> None:
    before, after = told(1, 3), told(2, 4)
    assert after.whole is after.whole and after.patch_of(before) is after.patch_of(before)
    for version in range(10, 10 + 3 * PATCHES_KEPT):
        after.patch_of(told(1, version))
    assert len(after._patches) <= PATCHES_KEPT


@pytest.mark.parametrize("count", [0, 1, 3])
def test_parts_of_a_snapshot(count: int) -> None:
    ones = [told(number, 1) for number in range(count)]
    update = pb.InstrumentUpdate.FromString(snapshot_message([one.whole for one in ones], FRESH, first=True, last=False))
    assert [view.quantity for view in update.positions] == [str(number) for number in range(count)]
    assert (update.kind, update.first, update.last, update.state) == (pb.InstrumentUpdate.SNAPSHOT, True, False, pb.STALE)
    beat = pb.InstrumentUpdate.FromString(heartbeat_message(FRESH))
    assert (beat.kind, beat.sequence, len(beat.positions)) == (pb.InstrumentUpdate.HEARTBEAT, 5, 0)
