"""The end of the journal after any stop: a batch that was never acknowledged is cut, damage stops the start and changes nothing."""

from __future__ import annotations

import os
import select
from pathlib import Path

import numpy as np
import pytest

from pks.layouts.codes import Kind
from pks.layouts.event import EVENT_BYTES
from pks.segments.journal_errors import JournalBroken, JournalShort
from pks.segments.journal_file import file_path, record_offset
from pks.segments.journal_records import BATCH_RECORDS_MAX
from pks.segments.journal_recovery import Problem, find_end, recover, verify
from pks.segments.journal_view import JournalView
from tests.unit.segments.test_journal import RECORDS, rows_of, seal, sealed, write_batches, writer_of

BATCHES = [[1] * 5, [1, 2, 1], [4, 3], [1] * 20, [5, 1, 1]]
ENDS = [5, 9, 16, 36, 43]


def patch(directory: Path, sequence: int, data: bytes, offset: int = 0) -> None:
    """Overwrite a record's bytes from `offset` on, over file ends if need be."""
    with file_path(directory, sequence // RECORDS * RECORDS).open("r+b") as stream:
        stream.seek(record_offset(sequence, RECORDS) + offset)
        stream.write(data)


def flip(directory: Path, sequence: int, bit: int) -> None:
    path = file_path(directory, sequence // RECORDS * RECORDS)
    place = record_offset(sequence, RECORDS) + bit // 8
    patch(directory, sequence, bytes([path.read_bytes()[place] ^ 1 << bit % 8]), bit // 8)


def image(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_empty_journal(tmp_path: Path) -> None:
    for directory in (tmp_path / "missing", tmp_path):
        found = recover(directory)
        assert (found.first, found.last, found.cut) == (1, 0, None)
    writer = writer_of(tmp_path)
    while not writer.prepare_next():
        pass
    found = recover(tmp_path)
    assert (found.first, found.last, found.cut) == (1, 0, None), "a made file without a record"
    assert list(verify(tmp_path)) == []


@pytest.mark.parametrize("count", [1, 31, 32, 63, 64])
def test_end_at_and_around_a_file_end(tmp_path: Path, count: int) -> None:
    write_batches(tmp_path, [[1] * count])
    assert recover(tmp_path).last == count
    assert list(verify(tmp_path)) == []


def test_clean_journal_is_walked_to_its_end(tmp_path: Path) -> None:
    assert write_batches(tmp_path, BATCHES) == ENDS[-1]
    before = image(tmp_path)
    found = recover(tmp_path)
    assert (found.first, found.last, found.cut) == (1, 43, None)
    assert image(tmp_path) == before


@pytest.mark.parametrize("sequence", range(37, 44))
def test_torn_last_batch_is_cut_whole(tmp_path: Path, sequence: int) -> None:
    write_batches(tmp_path, BATCHES)
    patch(tmp_path, sequence, bytes(EVENT_BYTES))
    found = recover(tmp_path)
    assert found.last == 36
    assert found.cut is not None
    assert (found.cut.first, found.cut.last) == (37, 43)
    assert f"record {sequence}: nothing is written there" in found.cut.reason
    assert not JournalView(tmp_path).records[37:64].tobytes().strip(b"\0")
    again = recover(tmp_path)
    assert (again.last, again.cut) == (36, None)
    assert writer_of(tmp_path, 36).append(sealed(37, [2]), 37, 38) == 38


def test_find_end_says_the_same_and_changes_nothing(tmp_path: Path) -> None:
    assert find_end(tmp_path / "missing").last == 0
    write_batches(tmp_path, BATCHES)
    assert find_end(tmp_path).last == 43
    patch(tmp_path, 40, bytes(EVENT_BYTES))
    before = image(tmp_path)
    found = find_end(tmp_path)
    assert image(tmp_path) == before
    assert found == recover(tmp_path)
    assert found.cut is not None
    assert find_end(tmp_path).cut is None


def test_torn_batch_over_two_files_is_cut_in_both(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 20, [1] * 30])
    patch(tmp_path, 25, bytes(EVENT_BYTES))
    found = recover(tmp_path)
    assert found.last == 20
    assert found.cut is not None
    assert (found.cut.first, found.cut.last) == (21, 50)
    assert not JournalView(tmp_path).records[21:64].tobytes().strip(b"\0")


def test_nothing_sound_of_the_last_batch(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 5])
    patch(tmp_path, 6, b"\x01" * 700)
    found = recover(tmp_path)
    assert found.last == 5
    assert found.cut is not None
    assert (found.cut.first, found.cut.last) == (6, 8)


def test_torn_first_batch(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 5])
    patch(tmp_path, 1, bytes(EVENT_BYTES))
    found = recover(tmp_path)
    assert (found.first, found.last) == (1, 0)
    assert found.cut is not None
    assert (found.cut.first, found.cut.last) == (1, 5)


@pytest.mark.parametrize("damage", ["flip", "zero"])
@pytest.mark.parametrize("sequence", [*range(1, 10), 16, 17, 31, 32, 36])
def test_damage_in_an_earlier_batch_stops_the_start(tmp_path: Path, sequence: int, damage: str) -> None:
    write_batches(tmp_path, BATCHES)
    if damage == "flip":
        flip(tmp_path, sequence, 800)
    else:
        patch(tmp_path, sequence, bytes(EVENT_BYTES))
    before = image(tmp_path)
    with pytest.raises(JournalBroken) as caught:
        recover(tmp_path)
    assert (caught.value.sequence, caught.value.file) == (sequence, file_path(tmp_path, sequence // RECORDS * RECORDS))
    assert f"record {sequence} is damaged" in str(caught.value)
    assert "of a later batch is sound" in str(caught.value)
    assert image(tmp_path) == before, "nothing is guessed or changed"


def test_every_bit_of_an_earlier_record_matters(tmp_path: Path) -> None:
    write_batches(tmp_path, BATCHES)
    for bit in range(0, EVENT_BYTES * 8, 7):
        flip(tmp_path, 8, bit)
        with pytest.raises(JournalBroken) as caught:
            recover(tmp_path)
        assert caught.value.sequence == 8, f"bit {bit}"
        flip(tmp_path, 8, bit)
    assert recover(tmp_path).last == 43


def test_flip_in_an_acknowledged_batch_with_a_tick_behind_it(tmp_path: Path) -> None:
    """A TICK is a batch of its own, so the batch before it is known to have been durable."""
    write_batches(tmp_path, [[1] * 5])
    writer = writer_of(tmp_path, 5)
    writer.append(sealed(6, [1], Kind.TICK), 6, 6)
    flip(tmp_path, 5, 500)
    with pytest.raises(JournalBroken, match="record 6 of a later batch is sound"):
        recover(tmp_path)


def test_flip_in_the_last_batch_with_nothing_behind_it_cuts(tmp_path: Path) -> None:
    write_batches(tmp_path, BATCHES)
    flip(tmp_path, 40, 500)
    found = recover(tmp_path)
    assert found.last == 36
    assert found.cut is not None
    assert "checksum" in found.cut.reason


def test_bytes_far_behind_the_end_are_not_a_torn_batch(tmp_path: Path) -> None:
    records = 4 * BATCH_RECORDS_MAX
    writer = writer_of(tmp_path, records=records)
    writer.append(sealed(1, [1] * 3), 1, 3)
    writer.close()
    path = file_path(tmp_path, 0)
    with path.open("r+b") as stream:
        stream.seek(record_offset(3 + BATCH_RECORDS_MAX, records))
        stream.write(b"\x07")
    found = recover(tmp_path)
    assert found.cut is not None
    assert (found.last, found.cut.last) == (3, 3 + BATCH_RECORDS_MAX), "as far as one batch can reach"
    with path.open("r+b") as stream:
        stream.seek(record_offset(4 + BATCH_RECORDS_MAX, records))
        stream.write(b"\x07")
    with pytest.raises(JournalBroken, match="belong to no batch"):
        recover(tmp_path)


def test_a_complete_batch_that_breaks_a_rule_is_not_cut(tmp_path: Path) -> None:
    """It may have been acknowledged: a fault of the program, not of the disk."""
    write_batches(tmp_path, [[1] * 3])
    writer = writer_of(tmp_path, 3)
    writer.append(sealed(4, [1, 1]), 4, 5)
    rows = JournalView(tmp_path).words[5:6].copy()
    rows.view(np.uint16)[0, 10] = 1  # group_index
    seal(rows, 0)
    patch(tmp_path, 5, rows.tobytes())
    with pytest.raises(JournalBroken, match=r"record 5 is damaged: it is not the first of its group.*though its batch 4 to 5 is complete"):
        recover(tmp_path)


@pytest.mark.parametrize(
    ("batches", "others", "sequence", "reason"),
    [
        ([[1, 1, 1], [1]], [[1], [1, 1], [1]], 2, "another batch than the record before"),
        ([[1, 1, 1], [1]], [[1, 1], [1], [1]], 2, "another batch than the record before"),
        ([[1], [1], [1]], [[1, 1], [1]], 2, "does not start where the one before it ended"),
    ],
)
def test_sound_record_of_another_history(
    tmp_path: Path, batches: list[list[int]], others: list[list[int]], sequence: int, reason: str
) -> None:
    """The same event, journaled in other batches: a file or page of an old copy."""
    write_batches(tmp_path / "this", batches)
    write_batches(tmp_path / "other", others)
    patch(tmp_path / "this", sequence, JournalView(tmp_path / "other").records[sequence].tobytes())
    with pytest.raises(JournalBroken, match=reason) as caught:
        recover(tmp_path / "this")
    assert caught.value.sequence == sequence
    assert reason in next(verify(tmp_path / "this")).reason


def test_journal_shorter_than_a_checkpoint(tmp_path: Path) -> None:
    write_batches(tmp_path, BATCHES)
    for wanted in (44, 63, 64, 5000):
        with pytest.raises(JournalShort, match=f"ends at sequence 43, but {wanted} was already used") as caught:
            recover(tmp_path, wanted)
        assert (caught.value.wanted, caught.value.last) == (wanted, 43)
    with pytest.raises(JournalShort):
        recover(tmp_path / "missing", 1)


@pytest.mark.parametrize(("sequence", "first"), [(1, 1), (9, 6), (12, 10), (33, 17), (43, 37)])
def test_walk_from_a_checkpoint_starts_at_its_batch(tmp_path: Path, sequence: int, first: int) -> None:
    write_batches(tmp_path, BATCHES)
    flip(tmp_path, 2, 99) if first > 1 else None
    found = recover(tmp_path, sequence)
    assert (found.first, found.last, found.cut) == (first, 43, None)


def test_what_a_checkpoint_used_is_never_cut(tmp_path: Path) -> None:
    write_batches(tmp_path, BATCHES)
    patch(tmp_path, 42, bytes(EVENT_BYTES))
    before = image(tmp_path)
    for used in (37, 41, 43):
        with pytest.raises(JournalBroken) as caught:
            recover(tmp_path, used)
        assert caught.value.sequence == 42
    with pytest.raises(JournalBroken):
        recover(tmp_path, 42)
    assert image(tmp_path) == before
    assert recover(tmp_path, 36).last == 36


def test_verify_names_each_problem_and_goes_on(tmp_path: Path) -> None:
    write_batches(tmp_path, BATCHES)
    flip(tmp_path, 3, 700)
    patch(tmp_path, 8, bytes(2 * EVENT_BYTES))
    flip(tmp_path, 34, 1000)
    before = image(tmp_path)
    problems = list(verify(tmp_path))
    assert [problem.sequence for problem in problems] == [3, 8, 9, 34]
    assert not any(problem.unfinished for problem in problems)
    assert problems[1] == Problem(file_path(tmp_path, 0), 8, "nothing is written there")
    assert image(tmp_path) == before
    assert [problem.sequence for problem in verify(tmp_path, 9)] == [9, 34]
    assert [problem.sequence for problem in verify(tmp_path, 10)] == [34]


def test_verify_beside_a_running_writer_calls_nothing_broken(tmp_path: Path) -> None:
    records = 512  # many files would make each look slow, none would not be a test of files that appear
    writer_of(tmp_path, records=records).append(sealed(1, [1]), 1, 1)
    stopped, stop = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(stop)
            os.set_blocking(stopped, False)
            writer = writer_of(tmp_path, 1, records=records)
            while select.select([stopped], [], [], 0)[0] == []:  # readable when the other end is closed, also by a failed test
                first = writer.durable + 1
                writer.append(sealed(first, [1] * 20), first, first + 19)
            code = 0
        finally:
            os._exit(code)
    os.close(stopped)
    ends = []
    try:
        while len(set(ends)) < 30:
            assert [problem for problem in verify(tmp_path) if not problem.unfinished] == []
            ends.append(find_end(tmp_path).last)
    finally:
        os.close(stop)
        _, status = os.waitpid(child, 0)
    assert status == 0
    assert ends == sorted(ends)
    assert recover(tmp_path).last >= ends[-1]


def test_verify_calls_a_torn_last_batch_unfinished(tmp_path: Path) -> None:
    write_batches(tmp_path, BATCHES)
    patch(tmp_path, 43, bytes(EVENT_BYTES))
    (problem,) = verify(tmp_path)
    assert (problem.sequence, problem.unfinished) == (37, True)


def test_verify_finds_a_file_of_zeros_in_reasonable_time(tmp_path: Path) -> None:
    records = 1 << 14
    writer = writer_of(tmp_path, records=records)
    for first in range(1, 3 * records, BATCH_RECORDS_MAX):
        writer.append(sealed(first, [1] * BATCH_RECORDS_MAX), first, first + BATCH_RECORDS_MAX - 1)
    path = file_path(tmp_path, records)
    path.write_bytes(path.read_bytes()[:4096] + bytes(records * EVENT_BYTES))
    assert [problem.sequence for problem in verify(tmp_path)] == list(range(records, 2 * records))


@pytest.mark.parametrize(("field", "value", "text"), [("previous", 4, "link"), ("previous_other", 900, "link"), ("previous", -1, "link")])
def test_verify_checks_links(tmp_path: Path, field: str, value: int, text: str) -> None:
    records = sealed(1, [1] * 6)
    records[field][3] = value
    seal(rows_of(records), 3)
    writer_of(tmp_path).append(records, 1, 6)
    (problem,) = verify(tmp_path)
    assert problem.sequence == 4
    assert text in problem.reason
    assert recover(tmp_path).last == 6, "the bytes are what was acknowledged"


def test_verify_checks_recorded_times_and_spares_text(tmp_path: Path) -> None:
    records = sealed(1, [3, 1])
    records["recorded_ns"][1] = records["recorded_ns"][0] - 1
    records["kind"][2] = Kind.DETAIL
    records["previous"][2] = 0x7A7A7A7A7A7A7A7A  # text lies there in a DETAIL
    for i in range(4):
        seal(rows_of(records), i)
    writer_of(tmp_path).append(records, 1, 4)
    (problem,) = verify(tmp_path)
    assert (problem.sequence, problem.unfinished) == (2, False)
    assert "recorded before" in problem.reason
