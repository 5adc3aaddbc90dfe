"""The journal's writer: batches of events appended to pre-written files, each durable before the next is begun.

Owns the order of effects on which recovery rests: all files of a batch exist durably before it, one write a file, one fdatasync a
file, and nothing of batch b+1 before the fdatasync of b has returned. Called by the journal worker alone, which holds the claim on the
data directory; everyone else reads through `journal_view`. Reads no clock but the one it is given, waits for nothing but the disk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pks.base.limits import INSTANCE_CHARACTERS_MAX, SEGMENT_RECORDS, SEGMENT_RECORDS_MAX, is_power_of_two
from pks.layouts.event import EVENT, EVENT_WORDS
from pks.layouts.segment import JOURNAL_HEADER_BYTES
from pks.segments.journal_errors import BatchRefused, JournalDiskFailed, JournalFull
from pks.segments.journal_file import (
    FULL_ERRNOS,
    RECORDS_STEP,
    Disk,
    file_bytes,
    file_path,
    list_files,
    make_header,
    record_offset,
    write_all,
)
from pks.segments.journal_records import (
    BATCH_RECORDS_MAX,
    FAULT_TEXTS,
    Fault,
    Rows,
    record_checksum,
    seal,
    stamp_batch,
    whole_groups,
)

PREPARE_STEP_BYTES = 1 << 22
"""Zeros that one `prepare_next` writes and flushes: a few milliseconds, the longest that housekeeping keeps a batch waiting."""

_ZEROS = memoryview(bytes(PREPARE_STEP_BYTES))
_PLAIN_MASK = -1


class JournalWriter:
    """Appends batches behind sequence `last`, which `recover` has found (0: an empty journal).

    durable: the last sequence that is on disk. Failed writes raise JournalFull: nothing of the batch is durable, and the same call
    may be made again when there is room. JournalDiskFailed ends this writer; a start recovers.
    """

    def __init__(
        self,
        directory: Path,
        last: int,
        *,
        wall_ns: Callable[[], int],
        records: int = SEGMENT_RECORDS,
        instance: str = "",
        disk: Disk | None = None,
    ) -> None:
        """wall_ns: UTC, for the creation time in headers. records: places a file, the same for a journal's whole life.

        Raises JournalMismatch, JournalGap, JournalFileDamaged; OSError if the directory cannot be made.
        """
        assert RECORDS_STEP <= records <= SEGMENT_RECORDS_MAX, "a file has at least a page of records"
        assert records % RECORDS_STEP == 0, "every file starts on a page of the view"
        assert instance.isascii() and len(instance) <= INSTANCE_CHARACTERS_MAX, "an instance's name was checked by its configuration"
        self.directory, self.records, self.instance = directory, records, instance
        self.durable = last
        self._disk = disk or Disk()
        self._wall_ns = wall_ns
        self._buffer: Rows = np.zeros((BATCH_RECORDS_MAX, EVENT_WORDS), np.int64)
        self._bytes = self._buffer.data.cast("B")
        self._outcome = np.zeros(1, np.int64)
        self._descriptors: dict[int, int] = {}  # by file number
        self._begun: tuple[int, int] | None = None  # a batch that may be partly on disk
        self._failed: JournalDiskFailed | None = None
        self._preparing: tuple[int, int] | None = None  # descriptor of the file in the making, bytes done
        self._disk.make_directory(directory)
        self._disk.fsync_directory(directory.parent)
        self._disk.fsync_directory(directory)  # a file that a killed writer had renamed may not have a durable name yet
        self._files = len(list_files(directory, instance, records))

    def append(self, records: npt.NDArray[np.void], first: int, last: int) -> int:
        """Make records first..last durable as one batch; returns `last`, the new durable sequence.

        records: EVENT[last - first + 1], sealed, batch fields ignored; first == durable + 1; whole groups, at most BATCH_RECORDS_MAX.
        Raises BatchRefused, JournalFull (call again with the same batch), JournalDiskFailed.
        """
        assert records.dtype == EVENT, "records are EVENTs"
        assert len(records) == last - first + 1, "the array is the batch"
        return self._append(np.ascontiguousarray(records).view(np.int64).reshape(-1, EVENT_WORDS), _PLAIN_MASK, first, first, last)

    def append_ring(self, rows: Rows, first: int, last: int) -> int:
        """The same for records in a ring: int64[capacity, EVENT_WORDS], record n at n & (capacity - 1)."""
        assert is_power_of_two(len(rows)), "a ring's slot is found by masking the sequence"
        assert last - first < len(rows), "a ring holds its capacity"
        return self._append(rows, len(rows) - 1, 0, first, last)

    def batch_last(self, rows: Rows, last: int) -> int:
        """Where a batch behind `durable` ends, `last` being what has arrived in the ring `rows`; `durable` if no group is whole."""
        first = self.durable + 1
        if self._begun is not None:
            return self._begun[1]
        return int(whole_groups(rows, len(rows) - 1, 0, first, min(last, first + BATCH_RECORDS_MAX - 1)))

    def prepare_next(self) -> bool:
        """A bounded piece of making the file behind the current one; True when it is there and nothing is left to do.

        Called from housekeeping, so that `append` does not have to. Raises JournalFull; the piece is begun anew by the next call.
        """
        if self._files > self._file_number(self.durable + 1) + 1:
            return True
        self._prepare_step()
        return self._files > self._file_number(self.durable + 1) + 1

    def close(self) -> None:
        """Give back descriptors; a file in the making is left for the next writer to begin anew."""
        for descriptor in self._descriptors.values():
            self._disk.close(descriptor)
        self._descriptors.clear()
        if self._preparing is not None:
            self._disk.close(self._preparing[0])
            self._preparing = None

    def _file_number(self, sequence: int) -> int:
        return sequence // self.records

    def _append(self, rows: Rows, mask: int, shift: int, first: int, last: int) -> int:
        if self._failed is not None:
            raise self._failed
        assert first == self.durable + 1, "batches follow each other without a gap"
        assert first <= last < first + BATCH_RECORDS_MAX, "a batch has 1 to BATCH_RECORDS_MAX records"
        assert self._begun in (None, (first, last)), "a batch that failed is written again as it was"
        fault = Fault(stamp_batch(rows, mask, shift, first, last, self._buffer, self._outcome))
        if fault is not Fault.NONE:
            raise BatchRefused(int(self._outcome[0]), FAULT_TEXTS[fault])
        while self._files <= self._file_number(last):
            self._prepare_step()
        self._begun = (first, last)
        numbers = range(self._file_number(first), self._file_number(last) + 1)
        for number in numbers:
            self._write_part(number, max(first, number * self.records), min(last, (number + 1) * self.records - 1), first)
        for number in numbers:
            self._flush(number)
        self._begun = None
        self.durable = last
        if self._descriptors.keys() - {numbers[-1]}:
            self._close_before(numbers[-1])
        return last

    def _write_part(self, number: int, start: int, end: int, batch_first: int) -> None:
        """One write: records start..end of the buffer into file `number`."""
        row_bytes = EVENT_WORDS * 8
        data = self._bytes[(start - batch_first) * row_bytes : (end - batch_first + 1) * row_bytes]
        try:
            if number not in self._descriptors:
                self._descriptors[number] = self._disk.open(file_path(self.directory, number * self.records), os.O_RDWR)
            write_all(self._disk, self._descriptors[number], data, record_offset(start, self.records))
        except OSError as error:
            path = file_path(self.directory, number * self.records)
            if error.errno in FULL_ERRNOS:
                raise JournalFull(path, "write", error.errno or 0) from error
            raise self._fail(path, "write", error) from error

    def _flush(self, number: int) -> None:
        """A flush that failed once may have dropped the pages and succeed the next time, so there is no next time."""
        try:
            self._disk.fdatasync(self._descriptors[number])
        except OSError as error:
            raise self._fail(file_path(self.directory, number * self.records), "fdatasync", error) from error

    def _fail(self, path: Path, operation: str, error: OSError) -> JournalDiskFailed:
        self._failed = JournalDiskFailed(path, operation, error.errno or errno.EIO)
        return self._failed

    def _close_before(self, number: int) -> None:
        for closed in [held for held in self._descriptors if held < number]:
            self._disk.close(self._descriptors.pop(closed))

    def _prepare_step(self) -> None:
        """Write and flush up to PREPARE_STEP_BYTES of the next file; with the last of them give it its header and its name."""
        first = self._files * self.records
        path = file_path(self.directory, first)
        making = path.with_name(path.name + ".new")
        size = file_bytes(self.records)
        try:
            descriptor, done = self._preparing or self._begin_file(making, size)
            step = min(size - done, PREPARE_STEP_BYTES)
            write_all(self._disk, descriptor, _ZEROS[:step], done)
            if done + step == size:
                header = make_header(first, self.records, self.instance, self._wall_ns())
                assert len(header) == JOURNAL_HEADER_BYTES, "one page"
                write_all(self._disk, descriptor, memoryview(header), 0)
                self._disk.fsync(descriptor)
            else:
                self._disk.fdatasync(descriptor)
                self._preparing = (descriptor, done + step)
                return
            self._preparing = None
            self._disk.close(descriptor)
            self._disk.rename(making, path)
        except OSError as error:
            self._abandon(making)
            if error.errno in FULL_ERRNOS:
                raise JournalFull(path, "making the next file", error.errno or 0) from error
            raise self._fail(path, "making the next file", error) from error
        try:
            self._disk.fsync_directory(self.directory)
        except OSError as error:
            raise self._fail(path, "flush of the directory", error) from error
        self._files += 1

    def _begin_file(self, making: Path, size: int) -> tuple[int, int]:
        descriptor = self._disk.open(making, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._preparing = (descriptor, 0)
        self._disk.preallocate(descriptor, size)
        return self._preparing

    def _abandon(self, making: Path) -> None:
        """Drop the file in the making, so that what room there is goes to others."""
        if self._preparing is not None:
            self._disk.close(self._preparing[0])
            self._preparing = None
        if making.exists():
            self._disk.unlink(making)


__all__ = ["BATCH_RECORDS_MAX", "JournalWriter", "record_checksum", "seal"]
