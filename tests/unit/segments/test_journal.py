"""The journal's writer: what it writes where, in which order, and what it does when the disk says no.

The small helpers at the top make sealed records and journals for the other journal tests too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pks.base.limits import GROUP_RECORDS_MAX
from pks.layouts.codes import Kind
from pks.layouts.event import EVENT, EVENT_BYTES, EVENT_WORDS
from pks.segments.journal import BATCH_RECORDS_MAX, JournalWriter, record_checksum, seal
from pks.segments.journal_errors import BatchRefused, JournalDiskFailed, JournalFull, JournalMismatch
from pks.segments.journal_file import Disk, file_bytes, file_path, record_offset
from pks.segments.journal_records import Fault, batch_checksum
from pks.segments.journal_recovery import recover

CREATED_NS = 1_700_000_000_000_000_000
RECORDS = 32
"""Places a file in these tests: two pages."""

Records = npt.NDArray[np.void]


def rows_of(records: Records) -> npt.NDArray[np.int64]:
    return records.view(np.int64).reshape(-1, EVENT_WORDS)


def sealed(first: int, groups: list[int], kind: Kind = Kind.TRADE) -> Records:
    """Events from sequence `first` on in groups of these sizes, with some content, as capture leaves them."""
    count = sum(groups)
    records = np.zeros(count, EVENT)
    records["sequence"] = np.arange(first, first + count)
    records["recorded_ns"] = CREATED_NS + records["sequence"] // 3
    records["kind"] = kind
    records["group_index"] = np.concatenate([np.arange(size) for size in groups])
    records["group_count"] = np.repeat(groups, groups)
    records["qty_raw"] = records["sequence"] * 1_000_003
    records["previous"] = records["sequence"] - 1
    records["trade_id"] = [f"T{sequence}" for sequence in records["sequence"]]
    for i in range(count):
        seal(rows_of(records), i)
    return records


def writer_of(directory: Path, last: int = 0, disk: Disk | None = None, records: int = RECORDS) -> JournalWriter:
    return JournalWriter(directory, last, wall_ns=lambda: CREATED_NS, records=records, instance="test", disk=disk)


def write_batches(directory: Path, batches: list[list[int]]) -> int:
    """A new journal of these batches, each a list of group sizes; its last sequence."""
    writer = writer_of(directory)
    for groups in batches:
        first = writer.durable + 1
        writer.append(sealed(first, groups), first, first + sum(groups) - 1)
    writer.close()
    return writer.durable


class LoggingDisk(Disk):
    """Notes every effect as (operation, file name, bytes)."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, int]] = []
        self._names: dict[int, str] = {}

    def open(self, path: Path, flags: int) -> int:
        descriptor = super().open(path, flags)
        self._names[descriptor] = path.name
        return descriptor

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        self.log.append(("pwrite", self._names[descriptor], len(data)))
        return super().pwrite(descriptor, data, offset)

    def fdatasync(self, descriptor: int) -> None:
        self.log.append(("fdatasync", self._names[descriptor], 0))
        super().fdatasync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self.log.append(("rename", target.name, 0))
        super().rename(source, target)


class FailingDisk(Disk):
    """Fails the operations named in `failures`, each with its errno; takes at most `taken_max` bytes a write."""

    def __init__(self) -> None:
        self.failures: dict[str, int] = {}
        self.taken_max = 1 << 40

    def _maybe_fail(self, operation: str) -> None:
        if operation in self.failures:
            raise OSError(self.failures[operation], os.strerror(self.failures[operation]))

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        if self.taken_max == 0:
            self._maybe_fail("pwrite")
        taken = super().pwrite(descriptor, data[: self.taken_max], offset)
        if "pwrite" in self.failures:
            self.taken_max = 0  # the first part was taken, the next is refused, as a disk that fills up does
        return taken

    def preallocate(self, descriptor: int, size_bytes: int) -> None:
        self._maybe_fail("preallocate")
        super().preallocate(descriptor, size_bytes)

    def fdatasync(self, descriptor: int) -> None:
        self._maybe_fail("fdatasync")
        super().fdatasync(descriptor)

    def fsync(self, descriptor: int) -> None:
        self._maybe_fail("fsync")
        super().fsync(descriptor)

    def fsync_directory(self, path: Path) -> None:
        self._maybe_fail("fsync_directory")
        super().fsync_directory(path)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "journal"


def test_record_lies_at_its_offset_with_batch_fields(directory: Path) -> None:
    writer = writer_of(directory)
    records = sealed(1, [1, 3, 1])
    assert writer.append(records, 1, 5) == 5
    assert writer.durable == 5
    raw = file_path(directory, 0).read_bytes()
    assert len(raw) == file_bytes(RECORDS) == 4096 + RECORDS * 256
    for sequence in range(1, 6):
        offset = 4096 + sequence * 256
        assert offset == record_offset(sequence, RECORDS)
        found = np.frombuffer(raw, EVENT, 1, offset)[0]
        assert found["sequence"] == sequence
        assert (found["batch_first"], found["batch_last"]) == (1, 5)
        assert np.int64(found["batch_check"].view(np.int64)) == batch_checksum(sequence, 1, 5)
        assert found["trade_id"] == f"T{sequence}".encode()
        assert found["checksum"] == records["checksum"][sequence - 1]
    assert raw[4096 : 4096 + 256] == bytes(256), "place 0 stays empty"
    assert raw[4096 + 6 * 256 :] == bytes(len(raw) - 4096 - 6 * 256), "nothing behind the batch"


def test_given_records_are_not_changed(directory: Path) -> None:
    records = sealed(1, [2])
    before = records.tobytes()
    writer_of(directory).append(records, 1, 2)
    assert records.tobytes() == before


def test_one_write_and_one_flush_for_each_file_of_a_batch(directory: Path) -> None:
    disk = LoggingDisk()
    writer = writer_of(directory, disk=disk)
    writer.append(sealed(1, [1] * 20), 1, 20)
    while not writer.prepare_next():
        pass
    disk.log.clear()
    writer.append(sealed(21, [1] * 30), 21, 50)
    name_0, name_1 = file_path(directory, 0).name, file_path(directory, RECORDS).name
    assert disk.log == [
        ("pwrite", name_0, 11 * EVENT_BYTES),
        ("pwrite", name_1, 19 * EVENT_BYTES),
        ("fdatasync", name_0, 0),
        ("fdatasync", name_1, 0),
    ]
    disk.log.clear()
    writer.append(sealed(51, [1]), 51, 51)
    assert disk.log == [("pwrite", name_1, EVENT_BYTES), ("fdatasync", name_1, 0)]


def test_batch_over_more_than_two_small_files(directory: Path) -> None:
    write_batches(directory, [[1] * 100])
    assert recover(directory).last == 100
    assert len(list(directory.glob("*.events"))) == 4


def test_ring_form_takes_records_across_the_wrap(directory: Path) -> None:
    ring = np.zeros((16, EVENT_WORDS), np.int64)
    writer = writer_of(directory)
    for first, last in ((1, 11), (12, 20)):
        for row in rows_of(sealed(first, [1] * (last - first + 1))):
            ring[row[0] & 15] = row
        assert writer.batch_last(ring, last) == last
        assert writer.append_ring(ring, first, last) == last
    assert recover(directory).last == 20


def test_batch_ends_at_a_group_end(directory: Path) -> None:
    ring = np.zeros((64, EVENT_WORDS), np.int64)
    for row in rows_of(sealed(1, [1, 4, 5, 2])):
        ring[row[0] & 63] = row
    writer = writer_of(directory)
    assert [writer.batch_last(ring, last) for last in range(1, 13)] == [1, 1, 1, 1, 5, 5, 5, 5, 5, 10, 10, 12]
    writer.append_ring(ring, 1, 1)
    assert writer.batch_last(ring, 4) == 1, "no whole group has arrived"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"sequence": 9}, Fault.SEQUENCE),
        ({"group_index": 1}, Fault.GROUP_START),
        ({"group_count": 0}, Fault.GROUP_START),
        ({"group_count": GROUP_RECORDS_MAX + 1}, Fault.GROUP_START),
        ({"group_count": 2}, Fault.GROUP_DIFFERS),
    ],
)
def test_records_that_break_the_rules_are_not_written(directory: Path, change: dict[str, int], fault: Fault) -> None:
    writer = writer_of(directory)
    records = sealed(1, [1, 1, 1])
    for field, value in change.items():
        records[field][1] = value
    seal(rows_of(records), 1)
    with pytest.raises(BatchRefused) as caught:
        writer.append(records, 1, 3)
    assert caught.value.sequence == (3 if fault is Fault.GROUP_DIFFERS else 2)
    assert writer.durable == 0
    assert not list(directory.glob("*.events")), "nothing was written"


def test_unsealed_and_cut_groups_are_not_written(directory: Path) -> None:
    writer = writer_of(directory)
    records = sealed(1, [1, 1])
    records["qty_raw"][1] ^= 1
    with pytest.raises(BatchRefused, match="record 2 is not written: its checksum"):
        writer.append(records, 1, 2)
    with pytest.raises(BatchRefused, match="inside its group"):
        writer.append(sealed(1, [1, 3])[:3], 1, 3)
    with pytest.raises(AssertionError, match="without a gap"):
        writer.append(sealed(2, [1]), 2, 2)
    with pytest.raises(AssertionError, match="BATCH_RECORDS_MAX"):
        writer.append(np.zeros(BATCH_RECORDS_MAX + 1, EVENT), 1, BATCH_RECORDS_MAX + 1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EDQUOT])
def test_failed_write_acknowledges_nothing_and_can_be_repeated(directory: Path, number: int) -> None:
    disk = FailingDisk()
    writer = writer_of(directory, disk=disk)
    writer.append(sealed(1, [1, 1]), 1, 2)
    disk.failures["pwrite"], disk.taken_max = number, 3 * EVENT_BYTES
    batch = sealed(3, [1] * 8)
    for _ in range(2):
        with pytest.raises(JournalFull) as caught:
            writer.append(batch, 3, 10)
        assert (caught.value.errno, caught.value.operation) == (number, "write")
        assert writer.durable == 2
    with pytest.raises(AssertionError, match="written again as it was"):
        writer.append(sealed(3, [1]), 3, 3)
    assert writer.batch_last(np.zeros((64, EVENT_WORDS), np.int64), 40) == 10, "the same batch is due"
    disk.failures.clear()
    disk.taken_max = 100  # short writes that succeed are carried on
    assert writer.append(batch, 3, 10) == 10
    assert writer.append(sealed(11, [1]), 11, 11) == 11
    found = recover(directory)
    assert (found.first, found.last, found.cut) == (1, 11, None)


def test_a_start_after_a_failed_write_cuts_the_part(directory: Path) -> None:
    disk = FailingDisk()
    writer = writer_of(directory, disk=disk)
    writer.append(sealed(1, [1, 1]), 1, 2)
    disk.failures["pwrite"], disk.taken_max = errno.ENOSPC, 3 * EVENT_BYTES
    with pytest.raises(JournalFull):
        writer.append(sealed(3, [1] * 8), 3, 10)
    found = recover(directory)
    assert found.last == 2
    assert found.cut is not None
    assert (found.cut.first, found.cut.last) == (3, 10)


def test_failed_flush_is_the_end_of_this_writer(directory: Path) -> None:
    disk = FailingDisk()
    writer = writer_of(directory, disk=disk)
    writer.append(sealed(1, [1]), 1, 1)
    disk.failures["fdatasync"] = errno.EIO
    with pytest.raises(JournalDiskFailed) as caught:
        writer.append(sealed(2, [1]), 2, 2)
    assert (caught.value.operation, caught.value.errno) == ("fdatasync", errno.EIO)
    assert writer.durable == 1
    disk.failures.clear()
    with pytest.raises(JournalDiskFailed):
        writer.append(sealed(2, [1]), 2, 2)
    assert writer.durable == 1


def test_recovery_writes_the_last_batch_again_before_it_counts(directory: Path) -> None:
    """After a failed flush the page cache can hold what the disk does not, and call it clean."""
    write_batches(directory, [[1], [1, 2]])
    disk = LoggingDisk()
    assert recover(directory, disk=disk).last == 4
    name = file_path(directory, 0).name
    assert disk.log == [("pwrite", name, 3 * EVENT_BYTES), ("fdatasync", name, 0)]
    failing = FailingDisk()
    failing.failures["fdatasync"] = errno.EIO
    with pytest.raises(JournalDiskFailed):
        recover(directory, disk=failing)


@pytest.mark.parametrize("operation", ["preallocate", "fsync"])
def test_no_room_for_the_next_file(directory: Path, operation: str) -> None:
    disk = FailingDisk()
    writer = writer_of(directory, disk=disk)
    writer.append(sealed(1, [1] * 30), 1, 30)
    disk.failures[operation] = errno.ENOSPC
    with pytest.raises(JournalFull):
        writer.prepare_next()
    with pytest.raises(JournalFull):
        writer.append(sealed(31, [1] * 5), 31, 35)
    assert sorted(path.name for path in directory.iterdir()) == [file_path(directory, 0).name], "the started file was dropped"
    assert writer.append(sealed(31, [1]), 31, 31) == 31, "what fits is taken, also another batch, since nothing was begun"
    disk.failures.clear()
    assert writer.append(sealed(32, [1] * 5), 32, 36) == 36
    assert recover(directory).last == 36


def test_a_file_whose_name_may_not_be_durable_is_not_used(directory: Path) -> None:
    disk = FailingDisk()
    writer = writer_of(directory, disk=disk)
    disk.failures["fsync_directory"] = errno.EIO
    with pytest.raises(JournalDiskFailed):
        writer.append(sealed(1, [1]), 1, 1)
    disk.failures.clear()
    with pytest.raises(JournalDiskFailed):
        writer.append(sealed(1, [1]), 1, 1)
    again = writer_of(directory, recover(directory).last)
    assert again.append(sealed(1, [1]), 1, 1) == 1


def test_next_file_is_made_in_bounded_pieces_ahead_of_need(directory: Path) -> None:
    disk = LoggingDisk()
    records = (1 << 22) // EVENT_BYTES + 16  # one step and a little
    writer = writer_of(directory, disk=disk, records=records)
    assert [writer.prepare_next() for _ in range(5)] == [False, False, False, True, True]
    assert max(size for operation, _, size in disk.log if operation == "pwrite") == 1 << 22
    assert [name for operation, name, _ in disk.log if operation == "rename"] == [
        file_path(directory, 0).name,
        file_path(directory, records).name,
    ]
    disk.log.clear()
    writer.append(sealed(1, [1]), 1, 1)
    assert [operation for operation, _, _ in disk.log] == ["pwrite", "fdatasync"], "append found its file made"
    writer.close()


def test_a_file_left_in_the_making_is_begun_anew(directory: Path) -> None:
    directory.mkdir()
    leftover = directory / (file_path(directory, 0).name + ".new")
    leftover.write_bytes(b"\xff" * 50_000)
    write_batches(directory, [[1] * 40])
    assert recover(directory).last == 40
    assert not leftover.exists()


def test_writer_goes_on_behind_a_recovered_journal(directory: Path) -> None:
    last = write_batches(directory, [[1] * 40, [2, 3]])
    found = recover(directory, instance="test", records=RECORDS)
    assert found.last == last == 45
    writer = writer_of(directory, found.last)
    assert writer.append(sealed(46, [30]), 46, 75) == 75
    assert recover(directory).last == 75


def test_writer_refuses_a_journal_of_another_kind(directory: Path) -> None:
    write_batches(directory, [[1]])
    with pytest.raises(JournalMismatch) as caught:
        JournalWriter(directory, 1, wall_ns=lambda: CREATED_NS, records=RECORDS, instance="other")
    assert (caught.value.field, caught.value.found, caught.value.expected) == ("instance", "test", "other")
    with pytest.raises(JournalMismatch, match="records is 32, expected 64"):
        writer_of(directory, 1, records=64)


def test_seal_is_the_checksum_of_the_record() -> None:
    rows = rows_of(sealed(7, [1]))
    assert record_checksum(rows, 0) == rows[0, -1] != 0
