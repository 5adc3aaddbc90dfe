"""The whole journal as one array: record n is `view.records[n]`, in Python and in compiled code alike.

Owns one reserved range of address space and maps each file into it at its place: plain files read-only and shared with the page cache,
packed ones unpacked into private memory. Any process may have a view, while the journal is being written too. It
reads only; it checks headers but no record, and knows nothing of what is durable: that is the journal's cursor.
Only `extent` may be touched: elsewhere the range has no memory and the process would be killed by SIGSEGV.
"""

from __future__ import annotations

import ctypes
import errno
import gzip
import mmap
import os
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pks.base.errors import Fatal
from pks.layouts.event import EVENT, EVENT_BYTES, EVENT_WORDS
from pks.layouts.segment import JOURNAL_HEADER_BYTES
from pks.segments.journal_errors import JournalFileDamaged, JournalGap, JournalTooLong
from pks.segments.journal_file import JournalFile, check_file, file_bytes, file_path, find_file, list_files
from pks.segments.journal_records import Rows

VIEW_RECORDS_MAX = 1 << 34
"""Records that a view reserves address space for: 4 TB of the 128 that x86-64 and aarch64 give; no memory is taken by it."""

_PROT_NONE = 0
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_READ_STEP_BYTES = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_libc.mmap.restype = ctypes.c_void_p
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MAP_FAILED = ctypes.c_void_p(-1).value


def _check_call(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _map(address: int | None, size_bytes: int, protection: int, flags: int, descriptor: int = -1, offset: int = 0) -> int:
    result = _libc.mmap(address, size_bytes, protection, flags, descriptor, offset)
    if result == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    assert result is not None, "nothing is mapped at address 0"
    return int(result)


class _Range:
    """Reserved address space; every array over it holds it, and with the last of them it is given back."""

    def __init__(self, records_max: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self.records = records_max
        while True:
            try:
                self.address = _map(None, self.records * EVENT_BYTES, _PROT_NONE, flags)
                break
            except OSError as error:
                if error.errno != errno.ENOMEM or self.records <= 1:
                    raise
                self.records //= 2  # a limit on address space (ulimit -v) or a small machine: take what is granted
        weakref.finalize(self, _libc.munmap, self.address, self.records * EVENT_BYTES)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": (self.records * EVENT_BYTES,), "typestr": "|u1", "data": (self.address, True)}

    def map_file(self, path: Path, first: int, records: int) -> None:
        """Show the records of a plain file at record `first`. Raises FileNotFoundError."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if (size := os.fstat(descriptor).st_size) != file_bytes(records):
                raise JournalFileDamaged(path, f"has {size} bytes, {file_bytes(records)} are expected")
            place = self.address + first * EVENT_BYTES
            _map(place, records * EVENT_BYTES, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, descriptor, JOURNAL_HEADER_BYTES)
        finally:
            os.close(descriptor)

    def unpack_file(self, path: Path, first: int, records: int) -> None:
        """Unpack the records of a packed file to record `first`. Raises FileNotFoundError, JournalFileDamaged."""
        place, size = self.address + first * EVENT_BYTES, records * EVENT_BYTES
        with gzip.open(path) as stream:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
            _map(place, size, mmap.PROT_READ | mmap.PROT_WRITE, flags)
            target = memoryview(np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(place)).data)
            try:
                stream.read(JOURNAL_HEADER_BYTES)
                done = 0
                while taken := stream.readinto(target[done : done + _READ_STEP_BYTES]):
                    done += taken
                left = stream.read(1)  # reads on to the end of the stream, where gzip keeps its checksum
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                self.hide(first, records)
                raise JournalFileDamaged(path, f"cannot be unpacked ({error})") from error
        if done != size or left:
            self.hide(first, records)
            raise JournalFileDamaged(path, f"unpacks to {done}{' or more' if left else ''} bytes of records, {size} are expected")
        _check_call(_libc.mprotect(place, size, mmap.PROT_READ))

    def hide(self, first: int, records: int) -> None:
        """Take the memory away from a part of the range."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
        _map(self.address + first * EVENT_BYTES, records * EVENT_BYTES, _PROT_NONE, flags)

    def draft(self, first: int, records: int, kept: bytes) -> Any:
        """Private writable memory for records first..first + records - 1; `kept`: what stands before them on the first of their pages."""
        start = self.address + first * EVENT_BYTES - len(kept)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        _map(start, len(kept) + records * EVENT_BYTES, mmap.PROT_READ | mmap.PROT_WRITE, flags)
        ctypes.memmove(start, kept, len(kept))
        return np.ctypeslib.as_array((ctypes.c_ubyte * (records * EVENT_BYTES)).from_address(start + len(kept))).view(EVENT)

    def advise(self, first: int, records: int, advice: int) -> None:
        """madvise for a part of the range."""
        _check_call(_libc.madvise(self.address + first * EVENT_BYTES, records * EVENT_BYTES, advice))


class PageSizeUnknown(Fatal):
    """This machine's pages are larger than a journal file's header, so records cannot be mapped at their place."""

    def __init__(self, page_bytes: int) -> None:
        super().__init__(f"journal: pages of {page_bytes} bytes, files are made for {JOURNAL_HEADER_BYTES}")
        self.page_bytes = page_bytes


class JournalView:
    """All records of the journal in `directory`, or those from the file of `from_sequence` on.

    records: EVENT[...], record n at n, read-only. words: the same as int64[..., EVENT_WORDS], for kernels. extent: (first, last)
    sequence that may be touched, (1, 0) in an empty journal; `last` is the last place, written or not yet.
    Arrays stay valid as long as anybody holds them, whatever becomes of the view or of the files' names.
    """

    def __init__(self, directory: Path, from_sequence: int = 0, *, instance: str | None = None, records: int | None = None) -> None:
        """instance, records: what the files must say; None takes what the first file says.

        Raises JournalGap, JournalMismatch, JournalFileDamaged, JournalTooLong.
        """
        if mmap.PAGESIZE > JOURNAL_HEADER_BYTES:
            raise PageSizeUnknown(mmap.PAGESIZE)
        self.directory = directory
        self._from_sequence, self._instance, self._file_records = from_sequence, instance, records
        self._files: dict[int, JournalFile] = {}  # by number, mapped
        self._range = _Range(VIEW_RECORDS_MAX)
        whole = np.asarray(self._range)
        self.records: npt.NDArray[np.void] = whole.view(EVENT)
        self.words: Rows = whole.view(np.int64).reshape(-1, EVENT_WORDS)
        self.extent = (1, 0)
        self.refresh()

    @property
    def files(self) -> list[JournalFile]:
        """The mapped files in order."""
        return [self._files[number] for number in sorted(self._files)]

    def file_of(self, sequence: int) -> JournalFile:
        """The mapped file that holds `sequence`, which lies in the extent."""
        assert self._file_records is not None, "a journal with an extent has files"
        return self._files[sequence // self._file_records]

    def refresh(self) -> tuple[int, int]:
        """Map files that were made since; the extent."""
        if not self._files:
            self._map_first()
        if self._files:
            assert self._file_records is not None, "taken from the first file"
            while (file := self._find(max(self._files) + 1)) is not None:
                self._map_file(file)
            self._take_extent()
        return self.extent

    def reach(self, sequence: int) -> tuple[int, int]:
        """Map earlier files too, back to the one of `sequence` >= 0; the extent. Raises JournalGap if one is gone."""
        if self._files:
            assert self._file_records is not None, "taken from the first file"
            while min(self._files) > sequence // self._file_records:
                number = min(self._files) - 1
                if (file := self._find(number)) is None:
                    raise JournalGap(file_path(self.directory, number * self._file_records), self.files[0].path)
                self._map_file(file)
            self._take_extent()
        return self.extent

    def prefetch(self, file: JournalFile) -> None:
        """Ask for a mapped plain file's pages ahead of their use."""
        if not file.packed:
            self._range.advise(file.first_sequence, file.records, mmap.MADV_WILLNEED)

    def draft(self, first: int, records: int) -> Any:
        """EVENT[records], zeros to be written: from here on this view has them in place of the journal's records from `first` on.

        For who asks what would be and then throws the view away: no file is written, and what files get behind `first` is not seen here any
        more. Record first - 1 lies in the extent or in an earlier draft. The array may be used as long as the view is held.
        """
        on_page = first % (mmap.PAGESIZE // EVENT_BYTES)
        return self._range.draft(first, records, self.records[first - on_page : first].tobytes())

    def release(self, last: int) -> None:
        """Let go of the pages of plain files up to record `last`, which count as ours; touching brings them back."""
        for file in self._files.values():
            records = min(file.last_sequence, last) + 1 - file.first_sequence
            whole = records - records % (mmap.PAGESIZE // EVENT_BYTES)
            if whole > 0 and not file.packed:
                self._range.advise(file.first_sequence, whole, mmap.MADV_DONTNEED)

    def _map_first(self) -> None:
        """Map the file of `from_sequence`, or the last one if that is not made yet."""
        files = list_files(self.directory, self._instance, self._file_records)
        if files:
            self._instance, self._file_records = files[0].instance, files[0].records
            self._map_file(files[min(self._from_sequence // self._file_records, len(files) - 1)])

    def _find(self, number: int) -> JournalFile | None:
        assert self._file_records is not None, "taken from the first file"
        file = find_file(self.directory, number * self._file_records)
        if file is not None:
            check_file(file, number * self._file_records, self._instance, self._file_records)
        return file

    def _map_file(self, file: JournalFile) -> None:
        if file.last_sequence >= self._range.records:
            raise JournalTooLong(self.directory, file.last_sequence + 1, self._range.records)
        number = file.first_sequence // file.records
        try:
            self._show(file)
        except FileNotFoundError:  # packed between the look and the opening
            found = self._find(number)
            if found is None:
                raise
            file = found
            self._show(file)
        self._files[number] = file

    def _show(self, file: JournalFile) -> None:
        show = self._range.unpack_file if file.packed else self._range.map_file
        show(file.path, file.first_sequence, file.records)

    def _take_extent(self) -> None:
        self.extent = (max(1, self._files[min(self._files)].first_sequence), self._files[max(self._files)].last_sequence)
