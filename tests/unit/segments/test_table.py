"""A table of rows: appended, written over, counted changes, and what a reader keeps of them."""

from __future__ import annotations

import numpy as np
import pytest

from pks.layouts.codes import Subject
from pks.layouts.refdata import ROW
from pks.layouts.slots import REFDATA_SLOT
from pks.segments.errors import StaleHost, TableFull
from pks.segments.shm import Segment, retire, segment_name
from pks.segments.slots import SlotTable, table_bytes
from pks.segments.table import RefdataTable

ROOM = 4


def row_of(row_id: int, code: str, subject: Subject = Subject.INSTRUMENT, scale: int = 2) -> np.ndarray:
    row = np.zeros(1, ROW)
    row["row_id"], row["subject"], row["code"], row["price_scale"] = row_id, subject, code, scale
    return row


@pytest.fixture
def rows(make_segment) -> RefdataTable:
    segment = make_segment(table_bytes(1, ROOM, REFDATA_SLOT.itemsize))
    table = RefdataTable(SlotTable(segment, "refdata", REFDATA_SLOT, 1, ROOM))
    assert table.take() == 0
    table.write(row_of(1, "WARM"))  # compiles the kernels: the first calls may last longer than a heartbeat
    segment.beat()
    table.read_changed(np.zeros(ROOM, np.int64))
    segment.beat()
    table.read(Subject.INSTRUMENT, 1)
    table.table.segment.words(0, table_bytes(1, ROOM, REFDATA_SLOT.itemsize))[:] = 0
    table.take()
    segment.beat()
    return table


def test_the_writer_fills_a_segment_that_is_not_live_yet(instance, make_segment) -> None:
    segment = Segment.create(
        segment_name("pks-refdata-v1", instance),
        layout_name="refdata", layout_version=1, layout_hash=1, body_bytes=table_bytes(1, ROOM, REFDATA_SLOT.itemsize),
    )  # fmt: skip
    table = RefdataTable(SlotTable(segment, "refdata", REFDATA_SLOT, 1, ROOM))
    table.take()
    assert table.write(row_of(1, "A"))
    assert not table.write(row_of(1, "A"))
    assert RefdataTable(table.table).take() == 1
    retire(segment.name)


def test_rows_are_appended_and_found_by_their_ids(rows) -> None:
    assert rows.write(row_of(7, "SBER.MOEX"))
    assert rows.write(row_of(7, "RUB", Subject.CURRENCY))
    assert len(rows) == 2
    found = rows.read(Subject.INSTRUMENT, 7)
    assert (found["code"], found["price_scale"], found["version"]) == (b"SBER.MOEX", 2, 1)
    assert rows.read(Subject.CURRENCY, 7)["code"] == b"RUB"
    assert rows.read(Subject.BOOK, 7) is None
    assert rows.read_all()["code"].tolist() == [b"SBER.MOEX", b"RUB"]


def test_a_changed_row_keeps_its_place_and_counts(rows) -> None:
    rows.write(row_of(1, "A"))
    rows.write(row_of(2, "B"))
    before = rows.version
    assert rows.write(row_of(1, "A", scale=4))
    assert rows.version == before + 1
    assert rows.read_all()[["row_id", "price_scale"]].tolist() == [(1, 4), (2, 2)]


def test_an_equal_row_writes_nothing(rows) -> None:
    rows.write(row_of(1, "A"))
    before = rows.version
    assert not rows.write(row_of(1, "A"))
    assert (rows.version, rows.read(Subject.INSTRUMENT, 1)["version"]) == (before, 1)


def test_a_reader_reads_only_what_changed(rows) -> None:
    seen = np.zeros(ROOM, np.int64)
    rows.write(row_of(1, "A"))
    rows.write(row_of(2, "B"))
    assert rows.read_changed(seen)["code"].tolist() == [b"A", b"B"]
    assert len(rows.read_changed(seen)) == 0
    rows.write(row_of(3, "C"))
    rows.write(row_of(1, "A", scale=3))
    assert rows.read_changed(seen)["code"].tolist() == [b"A", b"C"]
    assert len(rows.read_changed(seen)) == 0


def test_the_next_writer_goes_on_and_readers_look_again(rows) -> None:
    rows.write(row_of(1, "A"))
    rows.table.write(0, _slot_of(row_of(1, "A", scale=9)))  # a writer that died before it counted its change
    before = rows.version
    successor = RefdataTable(rows.table)
    assert successor.take() == 1
    assert successor.version > before
    assert successor.write(row_of(2, "B"))
    assert not successor.write(row_of(1, "A", scale=9))
    assert successor.read_all()["price_scale"].tolist() == [9, 2]


def _slot_of(row: np.ndarray) -> np.void:
    slot = np.zeros(1, REFDATA_SLOT)
    for name in ROW.names[:-1]:
        slot[name] = row[name]
    return slot[0]


def test_a_full_table_says_so_and_changes_nothing(rows) -> None:
    for row_id in range(1, ROOM + 1):
        rows.write(row_of(row_id, f"I{row_id}"))
    before = rows.version
    with pytest.raises(TableFull, match="refdata"):
        rows.write(row_of(99, "MORE"))
    assert (rows.version, len(rows)) == (before, ROOM)
    assert rows.read(Subject.INSTRUMENT, 99) is None


def test_a_closed_table_is_not_read(rows) -> None:
    rows.write(row_of(1, "A"))
    rows.table.segment.mark_closed()
    with pytest.raises(StaleHost):
        rows.read_all()
    with pytest.raises(StaleHost):
        rows.read(Subject.INSTRUMENT, 1)
