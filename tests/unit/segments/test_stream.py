"""Recorded streams: nobody is too late, a full disk loses nothing, a file that is wrong is named."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from pks.segments.errors import LayoutUnknown, StreamDamaged
from pks.segments.ring import Place, Ring, ring_bytes
from pks.segments.stream import FILE_PLACE, StreamFile, StreamLayout, StreamReader, StreamWriter

RECORD = np.dtype([("cursor", "<i8"), ("values", "<i8", (3,))])
LAYOUT = StreamLayout("scratch", 1, 0xFEEDFACE87654321, RECORD)


def make_ring(capacity: int = 16, start: int = -1) -> Ring:
    area = np.zeros(ring_bytes(capacity, RECORD.itemsize) // 8, np.int64)
    return Ring.format(area, "scratch", RECORD, capacity, start=start, places=(FILE_PLACE, Place("late")))


def records(first: int, count: int) -> np.ndarray:
    made = np.zeros(count, RECORD)
    made["cursor"] = np.arange(first, first + count)
    made["values"] = made["cursor"][:, None] * 10 + np.arange(3)
    return made


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scratch.stream"


def write(writer: StreamWriter, first: int, count: int) -> None:
    """Publish records one ring at a time, flushing when the file holds the ring back."""
    while count:
        taken = writer.publish(records(first, count))
        first, count = first + taken, count - taken
        if count:
            assert writer.flush() > 0


def test_a_late_reader_reads_the_file_then_the_ring(path) -> None:
    ring = make_ring()
    writer, reader = StreamWriter(ring, path, LAYOUT), StreamReader(ring, path, LAYOUT, -1, place="late")
    write(writer, 0, 100)
    got = []
    while reader.lag:
        got.append(reader.read(7))
    assert np.concatenate(got).tobytes() == records(0, 100).tobytes()
    assert 80 <= reader.from_file_count < 100
    reader.finish()
    assert ring.cursor("late") == 99
    assert len(reader.read(7)) == 0
    reader.close()
    writer.close()


def test_nothing_leaves_the_ring_before_it_is_in_the_file(path) -> None:
    ring = make_ring()
    writer = StreamWriter(ring, path, LAYOUT)
    assert writer.publish(records(0, 30)) == 16
    assert writer.publish(records(16, 1)) == 0
    assert (writer.unflushed, writer.slowest()) == (16, "file")
    assert writer.flush() == 16
    assert writer.publish(records(16, 1)) == 1
    writer.close()


def test_a_reader_at_every_position(path) -> None:
    ring = make_ring()
    writer = StreamWriter(ring, path, LAYOUT)
    write(writer, 0, 50)
    for position in range(-1, 50):
        reader = StreamReader(ring, path, LAYOUT, position)
        got = reader.read(100)
        assert got[:1].tobytes() == records(position + 1, min(1, 49 - position)).tobytes()
        reader.close()
    writer.close()


@pytest.mark.parametrize("broken", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_loses_nothing(path, monkeypatch, broken) -> None:
    ring = make_ring()
    writer = StreamWriter(ring, path, LAYOUT)
    writer.publish(records(0, 10))
    real, room = os.pwrite, [3 * RECORD.itemsize + 5]

    def full(descriptor, data, offset):
        if room[0] == 0:
            raise OSError(broken, "full")
        written = real(descriptor, bytes(data)[: room[0]], offset)
        room[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", full)
    assert writer.flush() == 3
    assert (writer.flushed, writer.full_count) == (2, 1)
    assert writer.flush() == 0
    assert writer.publish(records(10, 20)) == 9
    monkeypatch.setattr(os, "pwrite", real)
    assert writer.flush() == 16
    assert StreamFile(path, LAYOUT).read(-1, 100).tobytes() == records(0, 19).tobytes()
    writer.close()


def test_another_error_of_the_disk_is_raised(path, monkeypatch) -> None:
    writer = StreamWriter(make_ring(), path, LAYOUT)
    writer.publish(records(0, 3))

    def broken(descriptor, data, offset):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "pwrite", broken)
    with pytest.raises(OSError, match="broken"):
        writer.flush()
    writer.close()


def test_the_next_start_cuts_the_file(path) -> None:
    writer = StreamWriter(make_ring(), path, LAYOUT)
    write(writer, 0, 40)
    writer.flush()
    writer.close()
    with path.open("ab") as file:
        file.write(b"half a record")
    assert StreamFile(path, LAYOUT).last_cursor == 39
    ring = make_ring(start=25)
    writer = StreamWriter(ring, path, LAYOUT)
    assert writer.file.last_cursor == 25
    write(writer, 26, 30)
    reader = StreamReader(ring, path, LAYOUT, 20)
    got = [reader.read(100) for _ in range(4)]
    assert np.concatenate(got).tobytes() == records(21, 35).tobytes()
    reader.close()
    writer.close()


def test_a_writer_goes_on_after_its_death(path) -> None:
    ring = make_ring()
    first = StreamWriter(ring, path, LAYOUT)
    write(first, 0, 20)
    first.file.close()
    again = StreamWriter(ring, path, LAYOUT)
    assert again.flushed == first.flushed
    again.flush()
    assert StreamFile(path, LAYOUT).read(-1, 100).tobytes() == records(0, 20).tobytes()
    again.close()


def test_a_file_that_is_too_short_is_named(path) -> None:
    writer = StreamWriter(make_ring(), path, LAYOUT)
    write(writer, 0, 5)
    writer.flush()
    writer.close()
    with pytest.raises(StreamDamaged, match="ends at record 4, 9 was promised"):
        StreamWriter(make_ring(start=9), path, LAYOUT)


def test_a_file_cut_behind_the_writers_back_is_named(path) -> None:
    ring = make_ring()
    writer, reader = StreamWriter(ring, path, LAYOUT), StreamReader(ring, path, LAYOUT, -1)
    write(writer, 0, 60)
    os.truncate(path, writer.file.offset(3))
    with pytest.raises(StreamDamaged, match="early"):
        reader.read(10)
    reader.close()
    writer.close()


def test_a_file_of_something_else_is_named(path) -> None:
    path.write_bytes(b"x" * 5000)
    with pytest.raises(StreamDamaged, match="no stream"):
        StreamFile(path, LAYOUT)
    path.write_bytes(b"x" * 50)
    with pytest.raises(StreamDamaged, match="50 bytes"):
        StreamFile(path, LAYOUT, writable=True)
    path.unlink()
    StreamFile(path, LAYOUT, writable=True).close()
    with pytest.raises(LayoutUnknown, match="hash"):
        StreamFile(path, StreamLayout("scratch", 1, 1, RECORD))
    with pytest.raises(FileNotFoundError):
        StreamFile(path.with_name("none"), LAYOUT)


def test_record_n_is_at_a_computable_offset(path) -> None:
    writer = StreamWriter(make_ring(), path, LAYOUT)
    write(writer, 0, 30)
    writer.flush()
    mapped = np.memmap(path, RECORD, "r", offset=4096)
    assert mapped[17].tobytes() == records(17, 1)[0].tobytes()
    writer.close()
