"""Packing closed journal files, on a person's order: the same bytes as gzip, compared before the plain file goes.

Owns the packed form: a plain gzip stream of the whole file, so `gunzip` gives the file back. Called by `pks journal archive`, beside a
running journal or without one; views read packed files by themselves. The program never packs or removes a file on its own.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from pks.base.errors import Fatal
from pks.layouts.event import BATCH_FIRST_WORD, BATCH_LAST_WORD
from pks.segments.journal_errors import JournalBroken, JournalDiskFailed, JournalFileDamaged, JournalFull, NotClosed
from pks.segments.journal_file import FULL_ERRNOS, Disk, JournalFile, find_file, list_files, packed_path, write_all
from pks.segments.journal_records import ADOPT, FAULT_TEXTS, NEXT, Fault, check_record, walk, walk_from
from pks.segments.journal_view import JournalView

_STEP_BYTES = 1 << 20
_LEVEL = 6
_GZIP_WINDOW = 31  # zlib's number for its largest window in a gzip wrapping


def packable_files(directory: Path) -> list[JournalFile]:
    """The plain files that can be packed now: full, and their last batch has a sound one behind it, so it is on the disk."""
    files = list_files(directory)
    if not files:
        return []
    view = JournalView(directory)
    return [file for file in files if not file.packed and _open_reason(view, file) is None]


def pack_file(directory: Path, first_sequence: int, disk: Disk | None = None) -> Path:
    """Pack the file that starts at `first_sequence`, compare, then remove the plain one; the packed file's path.

    Every record is checked first. A packing that was interrupted is done again. Already packed is not an error.
    Raises NotClosed, JournalBroken, JournalFull, JournalDiskFailed, JournalFileDamaged (no such file).
    """
    disk = disk or Disk()
    file = find_file(directory, first_sequence)
    if file is None:
        raise JournalFileDamaged(directory, f"has no file that starts at sequence {first_sequence}")
    if file.packed:
        return file.path
    _check_records(directory, file)
    packed = packed_path(file.path)
    making = packed.with_name(packed.name + ".new")
    try:
        _write_packed(disk, file.path, making)
        _compare(file.path, making)
    except PackedDiffers:
        disk.unlink(making)
        raise
    except OSError as error:
        if making.exists():
            disk.unlink(making)
        failure = JournalFull if error.errno in FULL_ERRNOS else JournalDiskFailed
        raise failure(packed, "packing", error.errno or 0) from error
    disk.rename(making, packed)
    disk.fsync_directory(directory)
    disk.unlink(file.path)
    disk.fsync_directory(directory)
    return packed


def _check_records(directory: Path, file: JournalFile) -> None:
    view = JournalView(directory, file.first_sequence)
    if (reason := _open_reason(view, file)) is not None:
        raise NotClosed(file.path, reason)
    state = walk_from(max(1, file.first_sequence))
    state[ADOPT] = 1
    fault = Fault(walk(view.words, file.last_sequence, state, True))
    if fault is not Fault.NONE:
        raise JournalBroken(file.path, int(state[NEXT]), FAULT_TEXTS[fault])


def _open_reason(view: JournalView, file: JournalFile) -> str | None:
    """Why the file may not be packed yet, or None. Batch b+1 is written only after b is on the disk."""
    last = file.last_sequence
    if check_record(view.words, last) != Fault.NONE:
        return "it is not full, or its last record is damaged"
    follower = int(view.words[last, BATCH_LAST_WORD]) + 1
    if follower > view.extent[1] or check_record(view.words, follower) != Fault.NONE or view.words[follower, BATCH_FIRST_WORD] != follower:
        return "nothing follows its last batch yet"
    return None


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(_STEP_BYTES):
            yield chunk


def _write_packed(disk: Disk, plain: Path, making: Path) -> None:
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP_WINDOW)
    descriptor = disk.open(making, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        offset = 0
        for chunk in _chunks(plain):
            offset = _put(disk, descriptor, packer.compress(chunk), offset)
        _put(disk, descriptor, packer.flush(), offset)
        disk.fsync(descriptor)
    finally:
        disk.close(descriptor)


def _put(disk: Disk, descriptor: int, data: bytes, offset: int) -> int:
    write_all(disk, descriptor, memoryview(data), offset)
    return offset + len(data)


class PackedDiffers(Fatal):
    """What was packed does not unpack to the file: the disk or memory is at fault. The plain file stays."""

    def __init__(self, packed: Path) -> None:
        super().__init__(f"journal {packed}: does not unpack to the file that was packed, which stays as it is")
        self.packed = packed


def _compare(plain: Path, making: Path) -> None:
    with gzip.open(making) as stream:
        try:
            same = all(stream.read(len(chunk)) == chunk for chunk in _chunks(plain)) and not stream.read(1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise PackedDiffers(making) from error
    if not same:
        raise PackedDiffers(making)
