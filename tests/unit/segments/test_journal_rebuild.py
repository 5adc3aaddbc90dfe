"""A journal made again from copies of its records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pks.layouts.event import EVENT, EVENT_BYTES
from pks.segments.journal_rebuild import CopyUnfit, JournalRebuild, JournalThere
from pks.segments.journal_recovery import recover, verify
from pks.segments.journal_view import JournalView
from tests.unit.segments.test_journal import CREATED_NS, RECORDS, sealed, write_batches

GROUPS = [1, 3, 1, 4, 1, 1, 2, 5, 1, 1, 1, 3]
COUNT = sum(GROUPS)
COPY = sealed(1, GROUPS)
OWN = [name for name in EVENT.names or () if not name.startswith("batch_")]


def rebuild_of(directory: Path) -> JournalRebuild:
    return JournalRebuild(directory, wall_ns=lambda: CREATED_NS, records=RECORDS, instance="test")


def part(first: int, last: int) -> bytes:
    return COPY[first - 1 : last].tobytes()


@pytest.mark.parametrize("size", [1, 2, 5, COUNT])
def test_parts_of_any_size_give_the_journal(tmp_path: Path, size: int) -> None:
    with rebuild_of(tmp_path) as made:
        for first in range(1, COUNT + 1, size):
            made.add(first, part(first, min(COUNT, first + size - 1)))
        assert made.finish() == COUNT
    assert not list(verify(tmp_path))
    assert recover(tmp_path).last == COUNT
    records = JournalView(tmp_path).records[1 : COUNT + 1]
    for name in OWN:
        assert np.array_equal(records[name], COPY[name]), name


def test_overlaps_are_left_out_and_a_second_source_goes_on(tmp_path: Path) -> None:
    with rebuild_of(tmp_path) as made:
        made.add(1, part(1, 9))
        made.add(4, part(4, 8))
        made.add(7, part(7, COUNT))
        assert made.last == COUNT
        assert made.finish() == COUNT


def test_a_group_that_is_not_whole_is_left_out(tmp_path: Path) -> None:
    with rebuild_of(tmp_path) as made:
        made.add(1, part(1, 3))
        assert made.finish() == 1  # the second group has records 2 to 4
    assert recover(tmp_path).last == 1


def test_a_gap_is_told(tmp_path: Path) -> None:
    with rebuild_of(tmp_path) as made:
        made.add(1, part(1, 4))
        with pytest.raises(CopyUnfit, match="record 5: it is missing, the next part begins at 6"):
            made.add(6, part(6, 9))


def test_a_flipped_bit_and_a_wrong_place_are_told(tmp_path: Path) -> None:
    with rebuild_of(tmp_path) as made:
        damaged = bytearray(part(1, 4))
        damaged[2 * EVENT_BYTES + 100] ^= 1
        with pytest.raises(CopyUnfit, match="record 3: its checksum is wrong"):
            made.add(1, bytes(damaged))
        with pytest.raises(CopyUnfit, match="record 1: it says that it is record 2"):
            made.add(1, part(2, 4))
        with pytest.raises(CopyUnfit, match="no whole records"):
            made.add(1, part(1, 4)[:-1])
        assert made.last == 0


def test_a_journal_that_is_there_is_not_touched(tmp_path: Path) -> None:
    last = write_batches(tmp_path, [[1, 2], [1]])
    with pytest.raises(JournalThere, match="move it away"):
        rebuild_of(tmp_path)
    assert recover(tmp_path).last == last
