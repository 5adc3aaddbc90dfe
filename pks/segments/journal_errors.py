"""What can go wrong with the journal, one class a thing, grouped by what the caller should do.

Raised by the Python forms of `journal*`; kernels return codes (`journal_records.Fault`). Processes never exchange these objects.
"""

from __future__ import annotations

import os
from pathlib import Path

from pks.base.errors import Fatal, Retryable


class JournalFull(Retryable):
    """The disk did not take a write: no room, a size limit, or an I/O error. Nothing of it counts as durable; write it again later."""

    def __init__(self, path: Path, operation: str, errno: int) -> None:
        super().__init__(f"journal {path}: {operation} failed, {os.strerror(errno)}; nothing is acknowledged until it succeeds")
        self.path, self.operation, self.errno = path, operation, errno


class JournalDiskFailed(Fatal):
    """A flush failed, or a write in a way that waiting does not cure: what the disk holds of the last batch is unknown."""

    def __init__(self, path: Path, operation: str, errno: int) -> None:
        super().__init__(f"journal {path}: {operation} failed, {os.strerror(errno)}; the last batch may not be on disk, a start finds out")
        self.path, self.operation, self.errno = path, operation, errno


class BatchRefused(Fatal):
    """A record that was to be written breaks the journal's rules: its writer, or memory, is at fault. Nothing was written."""

    def __init__(self, sequence: int, reason: str) -> None:
        super().__init__(f"journal: record {sequence} is not written: {reason}")
        self.sequence, self.reason = sequence, reason


class JournalBroken(Fatal):
    """A record that was acknowledged, or may have been, is damaged. Nothing was changed; restore the file from a copy."""

    def __init__(self, file: Path, sequence: int, reason: str) -> None:
        super().__init__(f"journal {file}: record {sequence} is damaged: {reason}; nothing was changed, restore the file from a copy")
        self.file, self.sequence, self.reason = file, sequence, reason


class JournalFileDamaged(Fatal):
    """A file does not have the form of a journal file."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"journal {file}: {reason}")
        self.file, self.reason = file, reason


class JournalMismatch(Fatal):
    """A file is sound, but not of this journal or not of this program's layout."""

    def __init__(self, file: Path, field: str, found: int | str, expected: int | str) -> None:
        super().__init__(f"journal {file}: {field} is {found!r}, expected {expected!r}")
        self.file, self.field, self.found, self.expected = file, field, found, expected


class JournalGap(Fatal):
    """A file between others, or before the first one, is not there."""

    def __init__(self, missing: Path, present: Path) -> None:
        super().__init__(f"journal: {missing.name} is missing from {missing.parent}, though {present.name} is there or needs it")
        self.missing, self.present = missing, present


class JournalShort(Fatal):
    """Something was derived from records that the journal does not have: it was lost, or restored from an old copy."""

    def __init__(self, directory: Path, wanted: int, last: int) -> None:
        super().__init__(f"journal {directory} ends at sequence {last}, but {wanted} was already used: lost, or restored from an old copy")
        self.directory, self.wanted, self.last = directory, wanted, last


class JournalTooLong(Fatal):
    """The address space granted to this process does not hold the whole journal at once."""

    def __init__(self, directory: Path, records: int, granted: int) -> None:
        super().__init__(f"journal {directory}: {records} records needed, address space for {granted} granted (see ulimit -v)")
        self.directory, self.records, self.granted = directory, records, granted


class NotClosed(Retryable):
    """The file may still be written, or its last batch is not known to be durable, so it cannot be packed yet."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"journal {file} cannot be packed: {reason}")
        self.file, self.reason = file, reason
