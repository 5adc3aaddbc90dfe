"""Words of positions and trades as bytes: patches applied in their order are the state."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pks.bff.frames import Told, blotter_of, details_count, head_of, list_of, patch_of, tail_of, whole_groups
from pks.engine.positions.view import PositionTerms, PositionView
from pks.layouts.codes import Flag, Kind
from pks.layouts.event import DETAIL_TEXT_BYTES, EVENT
from tests.unit.client.small_host import position_slot

TERMS = {
    name: PositionTerms(book, name, "RUB", 1, 1, divisor, False, {1: "RUB", 2: "USD"})
    for name, book, divisor in (("A", "ALPHA", 1), ("B", "ALPHA", 100), ("C", "BETA", 3))
}
ROWS = dict(enumerate(TERMS))


@st.composite
def position(draw: st.DrawFn) -> tuple[int, dict[str, int]]:
    small = st.integers(-3, 3)
    fields = {"quantity": draw(small), "price": draw(st.integers(0, 3)), "realised": draw(small), "last_sequence": draw(st.integers(1, 4))}
    return draw(st.sampled_from(sorted(ROWS))), fields


def view(row: int, fields: dict[str, int]) -> PositionView:
    rest = {name: value for name, value in fields.items() if name not in ("quantity", "price")}
    return PositionView(position_slot(1, row, fields["quantity"], fields["price"], **rest).tobytes(), TERMS[ROWS[row]])


def as_json(one: PositionView) -> dict[str, Any]:
    return json.loads(json.dumps(one.as_dict()))


@given(st.lists(position(), max_size=30), st.lists(st.booleans(), min_size=30, max_size=30), st.integers(0, 30))
def test_a_snapshot_and_the_patches_behind_it_are_the_state(steps, learns, joins_at) -> None:
    told, state, first, late = Told(), {}, {}, None
    for number, ((row, fields), learn) in enumerate(zip(steps, learns, strict=False)):
        if number == joins_at:
            late = {row: json.loads(told.whole(row)) for row in state}
        now = view(row, fields)
        state[row] = as_json(now)
        if learn and row not in told:  # someone asked for everything before the frame
            told.learn([row], [now])
            if late is not None:
                late[row] = json.loads(told.whole(row))
        for change in told.change([row], [now]):
            item = json.loads(change.item)
            assert change.book == item["book"] == TERMS[ROWS[row]].book
            for client in (first, late):
                if client is not None:
                    client.setdefault(row, {}).update(item)
    assert first == state
    assert late is None or late == state
    assert {row: json.loads(told.whole(row)) for row in state} == state


def test_a_patch_has_the_key_and_what_changed() -> None:
    told = Told()
    before = {"quantity": 5, "price": 100, "last_sequence": 7}
    assert json.loads(told.change([0], [view(0, before)])[0].item) == as_json(view(0, before))
    (change,) = told.change([0], [view(0, before | {"quantity": 6, "last_sequence": 9})])
    assert json.loads(change.item) == {"book": "ALPHA", "instrument": "A", "quantity": "6", "cost": "6", "last_sequence": 9}
    assert told.change([0], [view(0, before | {"quantity": 6, "last_sequence": 9})]) == [], "the same again is no change"


def test_words_that_are_gone_become_null_in_a_patch() -> None:
    flat, held = view(0, {"quantity": 0, "price": 0}).as_dict(), view(0, {"quantity": 1, "price": 2}).as_dict()
    assert json.loads(patch_of(held, flat))["average_price"] is None


def test_a_message_is_joined_of_its_parts() -> None:
    data = blotter_of([b'{"book":"A"}'], [])
    message = json.loads(head_of("blotter") + b"7" + tail_of("live", 12, 11, data, b',"topic":"x"'))
    assert message == {
        "type": "blotter", "seq": 7, "state": "live", "sequence": 12, "durable": 11, "topic": "x",
        "data": {"positions": [{"book": "A"}], "trades": []},
    }  # fmt: skip
    assert list_of([]) == b"[]"


@given(st.integers(0, 3), st.integers(0, 5 * DETAIL_TEXT_BYTES), st.integers(0, 6))
def test_an_event_waits_for_its_details(plain, text_bytes, there) -> None:
    records = np.zeros(plain + 1 + there, EVENT)
    records["kind"] = Kind.TRADE
    records["kind"][plain + 1 :] = Kind.DETAIL
    records["flags"][plain], records["detail_bytes"][plain] = Flag.HAS_DETAIL, text_bytes
    whole = there >= details_count(text_bytes)
    assert whole_groups(records) == (len(records) if whole else plain)
