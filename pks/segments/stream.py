"""Recorded stream: a ring and the plain file behind it, so that no reader is ever too late.

Owns the stream files and the order "in the file before its row is reused". The writer's housekeeping calls `flush`; the file is one
gating place of the ring (`FILE_PLACE`), so a full disk holds the writer back in the end and loses nothing. Files are not fsynced: what
they hold can be derived again. Record n of a stream (from 0) lies at 4096 + n * record_bytes. May not decide what goes into a stream, or
wait.
"""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pks.layouts.segment import STREAM_HEADER, STREAM_HEADER_BYTES, STREAM_MAGIC
from pks.segments.errors import LayoutUnknown, StreamDamaged
from pks.segments.ring import LAPPED, Place, Ring, RingWriter, ring_cursor, ring_gate, ring_read_free

Records = NDArray[Any]

FILE_PLACE = Place("file", gating=True)
"""Give this to `Ring.format` first among the places of a recorded stream's ring."""

RUN_BYTES_MAX = 1 << 22
"""Bytes of one pwrite: large enough to cost nothing, small enough to come back to the worker's loop within milliseconds."""

_PUNCH_HOLE, _KEEP_SIZE = 2, 1  # linux/falloc.h
_NO_HOLES = (errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class StreamLayout:
    """What a stream's records are; compared with the file's header."""

    name: str
    version: int
    hash: int
    dtype: np.dtype[Any]


class StreamFile:
    """The file of one stream. One process writes it, any number read."""

    def __init__(self, path: Path, layout: StreamLayout, *, writable: bool = False) -> None:
        """Open the file; `writable` makes it when it is missing. Raises StreamDamaged, LayoutUnknown, FileNotFoundError."""
        self.path, self.layout, self.record_bytes = path, layout, layout.dtype.itemsize
        self.descriptor = os.open(path, (os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY) | os.O_CLOEXEC, 0o640)
        try:
            if writable and os.fstat(self.descriptor).st_size == 0:
                self._write_header()
            self._check_header()
        except BaseException:
            self.close()
            raise

    def _write_header(self) -> None:
        head = np.zeros(1, STREAM_HEADER)
        head["magic"], head["layout_name"], head["layout_version"] = STREAM_MAGIC, self.layout.name.encode("ascii"), self.layout.version
        head["layout_hash"], head["record_bytes"] = self.layout.hash, self.record_bytes
        if os.pwrite(self.descriptor, head.tobytes(), 0) != STREAM_HEADER_BYTES:
            os.ftruncate(self.descriptor, 0)
            raise OSError(errno.ENOSPC, "no room for a stream's header", str(self.path))

    def _check_header(self) -> None:
        page = os.pread(self.descriptor, STREAM_HEADER_BYTES, 0)
        if len(page) != STREAM_HEADER_BYTES:
            raise StreamDamaged(str(self.path), f"its header has {len(page)} bytes")
        head = np.frombuffer(page, STREAM_HEADER)[0]
        if int(head["magic"]) != STREAM_MAGIC:
            raise StreamDamaged(str(self.path), f"it is no stream file (magic {int(head['magic']):#x})")
        for what, found, known in (
            ("layout name", bytes(head["layout_name"]).decode("ascii", "replace"), self.layout.name),
            ("layout version", int(head["layout_version"]), self.layout.version),
            ("layout hash", int(head["layout_hash"]), self.layout.hash),
            ("record bytes", int(head["record_bytes"]), self.record_bytes),
        ):
            if found != known:
                raise LayoutUnknown(str(self.path), what, found, known)

    def offset(self, cursor: int) -> int:
        """Place of record `cursor` in the file, bytes."""
        return STREAM_HEADER_BYTES + cursor * self.record_bytes

    @property
    def last_cursor(self) -> int:
        """Last whole record by the file's length, -1 when there is none. While a writer runs, only its file place says what is complete."""
        return (os.fstat(self.descriptor).st_size - STREAM_HEADER_BYTES) // self.record_bytes - 1

    def truncate(self, cursor: int) -> None:
        """Cut everything behind record `cursor`. Raises StreamDamaged when the file does not reach it."""
        if self.last_cursor < cursor:
            raise StreamDamaged(str(self.path), f"it ends at record {self.last_cursor}, {cursor} was promised")
        os.ftruncate(self.descriptor, self.offset(cursor + 1))

    def give_up(self, cursor: int) -> None:
        """Give the disk's room of records up to `cursor` back; they are zeros from then on. A file system without holes keeps them.

        Raises OSError.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        length = ctypes.c_long(self.offset(cursor + 1) - STREAM_HEADER_BYTES)
        if libc.fallocate(self.descriptor, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(STREAM_HEADER_BYTES), length) == 0:
            return
        failed = ctypes.get_errno()
        if failed not in _NO_HOLES:
            raise OSError(failed, os.strerror(failed), str(self.path))

    def read_into(self, cursor: int, room: NDArray[np.int64]) -> None:
        """Fill room (int64[n, words]) with the n records behind `cursor`. Raises StreamDamaged when they are not all there."""
        if room.size == 0:
            return
        view, offset = room.data.cast("B"), self.offset(cursor + 1)
        while len(view):
            count = os.preadv(self.descriptor, [view], offset)
            if count == 0:
                raise StreamDamaged(str(self.path), f"it ends at byte {offset}, {len(view)} bytes early")
            view, offset = view[count:], offset + count

    def read(self, cursor: int, limit: int) -> Records:
        """Copy of at most `limit` records behind `cursor`, by the file's length; for files that nobody writes."""
        count = max(0, min(limit, self.last_cursor - cursor))
        room = np.empty((count, self.record_bytes // 8), np.int64)
        self.read_into(cursor, room)
        return room.reshape(-1).view(self.layout.dtype)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class StreamWriter(RingWriter):
    """The one writer of a recorded stream: a ring's writer whose records also reach the file, by `flush`.

    Opening cuts the file to what the ring's file place says is in it: for a ring made anew that is the cursor it was started with, for one
    that outlived its writer the last record flushed. Raises StreamDamaged when the file ends before that.
    """

    def __init__(self, ring: Ring, path: Path, layout: StreamLayout) -> None:
        super().__init__(ring)
        assert layout.dtype == ring.dtype, f"stream {ring.name}: ring and file hold the same records"
        self._place = ring.place(FILE_PLACE.name)
        assert ring.places[self._place].gating, f"stream {ring.name}: the file gates the ring"
        self.file = StreamFile(path, layout, writable=True)
        self.flushed = int(ring_cursor(ring.control, self._place))
        self.file.truncate(self.flushed)
        self.full_count = 0

    @property
    def unflushed(self) -> int:
        """Records published and not in the file yet; the ring is full for the writer when this reaches its capacity."""
        return self.ring.head - self.flushed

    def flush(self, limit_bytes: int = 16 * RUN_BYTES_MAX) -> int:
        """Write what is not in the file yet, at most about `limit_bytes`; how many records became complete.

        A full disk (ENOSPC, EDQUOT) is counted in `full_count` and changes nothing else: the next call tries again. Others are raised.
        """
        first, head, capacity, size = self.flushed, self.ring.head, self.ring.capacity, self.file.record_bytes
        last = min(head, first + max(1, limit_bytes // size))
        while self.flushed < last:
            row = (self.flushed + 1) & (capacity - 1)
            run = min(last - self.flushed, capacity - row, max(1, RUN_BYTES_MAX // size))
            try:
                written = os.pwrite(self.file.descriptor, self.ring.records[row : row + run].data, self.file.offset(self.flushed + 1))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self.full_count += 1
                break
            whole = written // size
            self.flushed += whole
            ring_gate(self.ring.control, self._place, self.flushed)
            if whole == 0:
                self.full_count += 1
                break
        return self.flushed - first

    def close(self) -> None:
        """Close the file. What is not flushed stays in the ring."""
        self.file.close()


class StreamReader:
    """A reader of a recorded stream at its own cursor: from the ring while it can, from the file until it has caught up.

    It gates nothing and never misses a record. `place` (optional) is the place under which it parks and shows its progress.
    """

    def __init__(self, ring: Ring, path: Path, layout: StreamLayout, position: int, *, place: str | None = None) -> None:
        """position: the last record that this reader has dealt with, -1 is none."""
        self.ring, self.path, self.layout, self.cursor = ring, path, layout, position
        self.place = None if place is None else ring.place(place)
        self._file_place = ring.place(FILE_PLACE.name)
        self._file: StreamFile | None = None
        self.from_file_count = 0

    @property
    def lag(self) -> int:
        """Records published and not read."""
        return self.ring.head - self.cursor

    def read(self, limit: int) -> Records:
        """Copy of the next records, at most `limit`, perhaps none. Raises StreamDamaged."""
        room = np.empty((min(limit, self.ring.capacity), self.ring.words), np.int64)
        count = int(ring_read_free(self.ring.control, self.ring.records, self.cursor, room, limit))
        if count == LAPPED:
            count = self._read_file(room)
        self.cursor += count
        return room[:count].reshape(-1).view(self.ring.dtype)

    def _read_file(self, room: NDArray[np.int64]) -> int:
        complete = int(ring_cursor(self.ring.control, self._file_place))
        count = min(len(room), complete - self.cursor)
        assert count > 0, f"stream {self.ring.name}: record {self.cursor + 1} left the ring before it was in the file"
        if self._file is None:
            self._file = StreamFile(self.path, self.layout)
        self._file.read_into(self.cursor, room[:count])
        self.from_file_count += count
        return count

    def finish(self, cursor: int | None = None) -> None:
        """Show that all records up to `cursor` (default: all that were read) are dealt with; for a reader with a place."""
        assert self.place is not None, "a reader without a place has nothing to finish"
        ring_gate(self.ring.control, self.place, self.cursor if cursor is None else cursor)

    def close(self) -> None:
        """Close the file, if it was needed."""
        if self._file is not None:
            self._file.close()
            self._file = None
