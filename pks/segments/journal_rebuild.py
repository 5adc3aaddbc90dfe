"""A journal made again from copies of its records that lie elsewhere: the local disk was lost, and others have what it held.

Owns the order: parts are taken as they come, overlaps are compared and left out, a gap or a difference ends it, and only whole groups are
written. Batches are made anew, so the files differ from the lost ones in their batch fields alone. Where the copies come from is the
caller's business; a directory that holds journal files is refused, and what was begun stays for a second attempt from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from pks.base.errors import Fatal
from pks.base.limits import SEGMENT_RECORDS
from pks.layouts.event import CHECKSUM_WORD, EVENT, EVENT_BYTES, EVENT_WORDS
from pks.segments.journal import JournalWriter
from pks.segments.journal_file import Disk, list_files
from pks.segments.journal_records import BATCH_RECORDS_MAX, record_checksum, whole_groups


class JournalThere(Fatal):
    """The directory holds a journal, which is better than any copy."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"journal {directory} is there: nothing is made again over it; move it away if it is to be replaced")
        self.directory = directory


class CopyUnfit(Fatal):
    """A part of the copy does not continue what was taken, or is damaged."""

    def __init__(self, sequence: int, reason: str) -> None:
        super().__init__(f"the copy of the journal does not fit at record {sequence}: {reason}")
        self.sequence, self.reason = sequence, reason


class JournalRebuild:
    """Give it the parts with `add`, in order, from any number of sources one after another; `finish` says the last sequence."""

    def __init__(
        self,
        directory: Path,
        *,
        wall_ns: Callable[[], int],
        records: int = SEGMENT_RECORDS,
        instance: str = "",
        disk: Disk | None = None,
    ) -> None:
        """Arguments as JournalWriter's. Raises JournalThere."""
        if directory.exists() and list_files(directory):
            raise JournalThere(directory)
        self._writer = JournalWriter(directory, 0, wall_ns=wall_ns, records=records, instance=instance, disk=disk)
        self._waiting = np.zeros(0, EVENT)  # behind `durable`, perhaps with a group that is not whole yet

    @property
    def last(self) -> int:
        """Last record that was taken."""
        return self._writer.durable + len(self._waiting)

    def add(self, first: int, data: bytes) -> None:
        """Take records first, first + 1, ... (256 bytes each). What was taken before is left out. Raises CopyUnfit, JournalFull."""
        if len(data) % EVENT_BYTES:
            raise CopyUnfit(first, f"{len(data)} bytes are no whole records")
        records = np.frombuffer(data, EVENT)
        if first > self.last + 1:
            raise CopyUnfit(self.last + 1, f"it is missing, the next part begins at {first}")
        records = records[self.last + 1 - first :]
        if not len(records):
            return
        self._check(records, self.last + 1)
        self._waiting = np.concatenate([self._waiting, records])
        if len(self._waiting) >= BATCH_RECORDS_MAX:
            self._write()

    def _check(self, records: npt.NDArray[np.void], first: int) -> None:
        rows = np.ascontiguousarray(records).view(np.int64).reshape(-1, EVENT_WORDS)
        wrong = np.flatnonzero(records["sequence"] != np.arange(first, first + len(records)))
        if len(wrong):
            raise CopyUnfit(first + int(wrong[0]), f"it says that it is record {int(records[wrong[0]]['sequence'])}")
        for i in range(len(rows)):
            if int(record_checksum(rows, i)) != int(rows[i, CHECKSUM_WORD]):
                raise CopyUnfit(first + i, "its checksum is wrong")

    def _write(self) -> None:
        while len(self._waiting):
            rows = np.ascontiguousarray(self._waiting).view(np.int64).reshape(-1, EVENT_WORDS)
            first = self._writer.durable + 1
            last = int(whole_groups(rows, -1, first, first, first + min(len(rows), BATCH_RECORDS_MAX) - 1))
            if last < first:
                return
            self._writer.append(self._waiting[: last - first + 1], first, last)
            self._waiting = self._waiting[last - first + 1 :]
            if len(self._waiting) < BATCH_RECORDS_MAX:
                return

    def finish(self) -> int:
        """Write the rest, of which a group that is not whole is left out; the last sequence of the journal."""
        self._write()
        return self._writer.durable

    def close(self) -> None:
        """Let go of the files."""
        self._writer.close()

    def __enter__(self) -> JournalRebuild:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
