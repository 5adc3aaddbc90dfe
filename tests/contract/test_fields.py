"""The field catalogue against the dtypes, and its segments against the topology."""

from __future__ import annotations

import pytest

from pks.layouts import codes, fields, segment
from pks.layouts.fields import FIELDS, LAYOUTS, SEGMENTS, TIERS, Layout, described, dtype_text, fields_of, layout_of
from pks.layouts.refdata import ROW
from pks.layouts.slots import ACCOUNT_SLOT, POSITION_SLOT, REFDATA_SLOT

NAMES = [layout.name for layout in LAYOUTS]


@pytest.mark.parametrize("layout", LAYOUTS, ids=NAMES)
def test_every_field_is_listed_with_its_type_and_in_its_place(layout: Layout) -> None:
    listed = [field for field in fields_of(layout.name) if field.until is None]
    assert [field.name for field in listed] == list(layout.dtype.names)
    for field in listed:
        dtype, offset = layout.dtype.fields[field.name][:2]
        assert field.dtype == dtype_text(dtype), field.name
        assert described(field)["offset_bytes"] == offset


@pytest.mark.parametrize("layout", LAYOUTS, ids=NAMES)
def test_fields_leave_no_gap(layout: Layout) -> None:
    place = 0
    for name in layout.dtype.names:
        dtype, offset = layout.dtype.fields[name][:2]
        assert offset == place, name
        place += dtype.itemsize
    assert place == layout.dtype.itemsize


def test_entries_are_whole() -> None:
    for field in FIELDS:
        assert field.meaning and field.source and field.unit, field
        assert field.tier in TIERS
        assert 1 <= field.since <= layout_of(field.layout).version
        assert field.until is None or field.since < field.until <= layout_of(field.layout).version
    assert len({(field.layout, field.name) for field in FIELDS}) == len(FIELDS)
    assert {field.layout for field in FIELDS} == set(NAMES)


@pytest.mark.parametrize(("name", "dtype"), [("position", POSITION_SLOT), ("account", ACCOUNT_SLOT), ("refdata", REFDATA_SLOT)])
def test_tier_0_of_a_slot_is_its_first_cache_line(name, dtype) -> None:
    for field in fields_of(name):
        offset = dtype.fields[field.name][1]
        assert (field.tier == 0) == (offset < 64), field.name


def test_a_row_of_the_segment_has_the_fields_of_a_row() -> None:
    assert [field.name for field in fields_of("refdata")][1:] == list(ROW.names)


def test_names_of_codes_are_those_of_enumerations() -> None:
    known = {name for room in (codes, segment) for name in dir(room)} | {"Code", "ReplyStatus"}
    for field in FIELDS:
        if field.unit[0].isupper():
            assert field.unit in known, field


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(KeyError, match="nothing"):
        fields_of("nothing")


@pytest.mark.parametrize("name", SEGMENTS)
def test_segments_are_those_of_the_topology(name: str) -> None:
    topology = pytest.importorskip("pks.topology")
    channel, layout = topology.channel(name), SEGMENTS[name]
    assert (layout.name, layout.version, layout.hash) == (channel.layout.name, channel.layout.version, channel.layout.hash)
    assert layout.dtypes == channel.layout.dtypes
    assert [layout.base.format(index=index) for index in (0, 3)][: 1 if channel.per is topology.Per.SYSTEM else 2] == [
        channel.segment_base(index) for index in (0, 3)
    ][: 1 if channel.per is topology.Per.SYSTEM else 2]


def test_the_hash_sees_every_change() -> None:
    hashes = {fields.layout_hash(layout.dtype) for layout in LAYOUTS}
    assert len(hashes) == len(LAYOUTS)
