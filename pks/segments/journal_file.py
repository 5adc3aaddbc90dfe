"""Journal files: their names, their header page, where a record lies in them, and the one door through which they are changed.

Owns the rules of a directory of files, and `Disk`. The other `journal*` modules of this room use it, nobody else needs
it, except tests, which give their own `Disk` to record, delay or fail what reaches the platter. May not look into a record.

A file holds a header page and `records` places of 256 bytes; record n lies in file n // records, at 4096 + (n % records) * 256. Place 0 of
the first file stays empty, since sequences start at 1. A file is made whole (zeros on disk, header, fsync) under another
name and then renamed, so a file of this name always has its full size. A closed file may be packed by gzip: same name plus ".gz".
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pks.base.limits import SEGMENT_RECORDS_MAX
from pks.base.units import hash_words
from pks.layouts.event import DETAIL, EVENT, EVENT_BYTES, EVENT_LAYOUT_VERSION
from pks.layouts.segment import JOURNAL_HEADER, JOURNAL_HEADER_BYTES, JOURNAL_HEADER_VERSION, JOURNAL_MAGIC
from pks.segments.journal_errors import JournalFileDamaged, JournalGap, JournalMismatch

_HEADER_SEED = 0x6A6F75726E616C31

RECORDS_STEP = JOURNAL_HEADER_BYTES // EVENT_BYTES
"""`records` is a multiple of this, so that every file starts on a page of the view."""

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Failures of a write that may pass: room is made, a limit raised, a path to the disk comes back."""

_NAME = re.compile(r"(\d{20})\.events(\.gz)?", re.ASCII)


def layout_hash() -> int:
    """64-bit hash of the names, types and places of EVENT's and DETAIL's fields."""
    text = ""
    for layout in (EVENT, DETAIL):
        assert layout.fields is not None, "structured"
        text += ";".join(f"{name}:{field[0].str}{field[0].shape}@{field[1]}" for name, field in layout.fields.items()) + "\n"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Disk:
    """Every effect on journal files, one method each, thin over the system call; errors are OSError."""

    def open(self, path: Path, flags: int) -> int:
        """A descriptor; `flags` as in os.open. A new file is readable by the group."""
        return os.open(path, flags | os.O_CLOEXEC, 0o640)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Bytes taken, which may be fewer than given."""
        return os.pwrite(descriptor, data, offset)

    def preallocate(self, descriptor: int, size_bytes: int) -> None:
        """Give the file its size and its blocks."""
        os.posix_fallocate(descriptor, 0, size_bytes)

    def fdatasync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)

    def fsync_directory(self, path: Path) -> None:
        """Make names in `path` durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_all(disk: Disk, descriptor: int, data: memoryview, offset: int) -> None:
    """Write the whole of `data` (bytes); usually one call. Raises OSError; a disk that takes nothing without an error is full."""
    done = 0
    while done < len(data):
        taken = disk.pwrite(descriptor, data[done:] if done else data, offset + done)
        if taken == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += taken


@dataclass(frozen=True, slots=True)
class JournalFile:
    """One file of a journal, its header checked."""

    path: Path
    first_sequence: int  # of its first place
    records: int
    instance: str
    packed: bool

    @property
    def last_sequence(self) -> int:
        """Of its last place, written or not."""
        return self.first_sequence + self.records - 1


def file_path(directory: Path, first_sequence: int) -> Path:
    """Where the plain file that starts at `first_sequence` stands."""
    return directory / f"{first_sequence:020d}.events"


def packed_path(plain: Path) -> Path:
    """Where the packed form of a plain file stands."""
    return plain.with_name(plain.name + ".gz")


def file_bytes(records: int) -> int:
    """Size of a plain file."""
    return JOURNAL_HEADER_BYTES + records * EVENT_BYTES


def record_offset(sequence: int, records: int) -> int:
    """Where record `sequence` starts in its file."""
    return JOURNAL_HEADER_BYTES + sequence % records * EVENT_BYTES


def make_header(first_sequence: int, records: int, instance: str, created_ns: int) -> bytes:
    """The 4096 bytes that open a file."""
    header: npt.NDArray[np.void] = np.zeros(1, JOURNAL_HEADER)
    header["magic"], header["header_version"] = JOURNAL_MAGIC, JOURNAL_HEADER_VERSION
    header["layout_version"], header["layout_hash"] = EVENT_LAYOUT_VERSION, layout_hash()
    header["first_sequence"], header["records"], header["created_ns"] = first_sequence, records, created_ns
    header["instance"] = instance.encode("ascii")
    header["checksum"] = _header_checksum(header)
    return header.tobytes()


def _header_checksum(header: npt.NDArray[np.void]) -> np.uint64:
    words = header.view(np.int64)
    return np.uint64(int(hash_words(words, 0, len(words) - 1, _HEADER_SEED)) & 0xFFFF_FFFF_FFFF_FFFF)


def read_header(path: Path, packed: bool) -> JournalFile:
    """Check a file's header and, of a plain file, its size.

    Raises JournalFileDamaged, JournalMismatch (layout), FileNotFoundError.
    """
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            raw = stream.read(JOURNAL_HEADER_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise JournalFileDamaged(path, f"cannot be unpacked ({error})") from error
    if len(raw) < JOURNAL_HEADER_BYTES:
        raise JournalFileDamaged(path, f"has {len(raw)} bytes, fewer than a header")
    header = np.frombuffer(raw, JOURNAL_HEADER)
    if header["magic"][0] != JOURNAL_MAGIC:
        raise JournalFileDamaged(path, "is no journal file of this program, or the start of its header is damaged")
    if header["checksum"][0] != _header_checksum(header):
        raise JournalFileDamaged(path, "its header is damaged (checksum)")
    for field, known in (
        ("header_version", JOURNAL_HEADER_VERSION),
        ("layout_version", EVENT_LAYOUT_VERSION),
        ("layout_hash", layout_hash()),
    ):
        if int(header[field][0]) != known:
            raise JournalMismatch(path, field, int(header[field][0]), known)
    records = int(header["records"][0])
    if not RECORDS_STEP <= records <= SEGMENT_RECORDS_MAX or records % RECORDS_STEP:
        raise JournalFileDamaged(path, f"its header says {records} records")
    if not packed and (size := path.stat().st_size) != file_bytes(records):
        raise JournalFileDamaged(path, f"has {size} bytes, its header says {file_bytes(records)}")
    return JournalFile(path, int(header["first_sequence"][0]), records, header["instance"][0].decode("ascii"), packed)


def find_file(directory: Path, first_sequence: int) -> JournalFile | None:
    """The file that starts at `first_sequence`, plain if it exists in both forms, or None. Raises as `read_header`."""
    plain = file_path(directory, first_sequence)
    for path, packed in ((plain, False), (packed_path(plain), True), (plain, False)):  # one that is packed meanwhile is in one of them
        try:
            return read_header(path, packed)
        except FileNotFoundError:
            continue
    return None


def check_file(file: JournalFile, first_sequence: int, instance: str | None, records: int | None) -> None:
    """Raise JournalMismatch if `file` is not the one that starts at `first_sequence` in the journal of `instance` (None: any)."""
    if file.first_sequence != first_sequence:
        raise JournalMismatch(file.path, "first_sequence", file.first_sequence, first_sequence)
    if instance is not None and file.instance != instance:
        raise JournalMismatch(file.path, "instance", file.instance, instance)
    if records is not None and file.records != records:
        raise JournalMismatch(file.path, "records", file.records, records)


def list_files(directory: Path, instance: str | None = None, records: int | None = None) -> list[JournalFile]:
    """All files in order, each header checked, without a gap from sequence 0 on; [] where there are none or no directory.

    instance, records: what the files must say; None takes what the first one says. Other files in the directory are passed over.
    Raises JournalGap, JournalMismatch, JournalFileDamaged.
    """
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    firsts = sorted({int(match[1]) for match in map(_NAME.fullmatch, names) if match})
    files: list[JournalFile] = []
    expected = 0
    for first in firsts:
        if first > expected:
            raise JournalGap(file_path(directory, expected), file_path(directory, first))
        file = find_file(directory, first)
        if file is None or first < expected:
            raise JournalFileDamaged(file_path(directory, first), "its name is not a place where a file of this journal starts")
        check_file(file, first, instance, records)
        instance, records = file.instance, file.records
        files.append(file)
        expected = first + file.records
    return files
