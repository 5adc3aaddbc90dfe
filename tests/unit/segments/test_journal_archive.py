"""Packing closed files: only what is known durable, compared before the plain file goes, and undone by gunzip."""

from __future__ import annotations

import errno
import gzip
from pathlib import Path

import pytest

from pks.segments.journal_archive import PackedDiffers, pack_file, packable_files
from pks.segments.journal_errors import JournalBroken, JournalFileDamaged, JournalFull, NotClosed
from pks.segments.journal_file import Disk, file_path, packed_path
from pks.segments.journal_recovery import recover, verify
from tests.unit.segments.test_journal import FailingDisk, sealed, write_batches, writer_of


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_packed_file_is_the_plain_one_in_gzip(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 20, [1] * 30, [1]])
    plain = file_path(tmp_path, 0).read_bytes()
    packed = pack_file(tmp_path, 0)
    assert packed == packed_path(file_path(tmp_path, 0))
    assert gzip.decompress(packed.read_bytes()) == plain
    assert names(tmp_path) == [packed.name, file_path(tmp_path, 32).name]
    assert packed.stat().st_size < len(plain) / 2
    found = recover(tmp_path)
    assert (found.first, found.last, found.cut) == (1, 51, None)
    assert list(verify(tmp_path)) == []
    assert pack_file(tmp_path, 0) == packed, "packed already"
    file_path(tmp_path, 0).write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert recover(tmp_path).last == 51


def test_writer_goes_on_behind_packed_files(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 63, [1]])
    pack_file(tmp_path, 0)
    pack_file(tmp_path, 32)
    found = recover(tmp_path)
    assert found.last == 64
    writer = writer_of(tmp_path, found.last)
    assert writer.append(sealed(65, [3]), 65, 67) == 67
    assert recover(tmp_path, 20).last == 67


def test_damage_in_a_packed_journal_is_found(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 40, [1]])
    packed = pack_file(tmp_path, 0)
    raw = bytearray(gzip.decompress(packed.read_bytes()))
    raw[4096 + 9 * 256 + 100] ^= 1
    packed.write_bytes(gzip.compress(raw))
    with pytest.raises(JournalBroken) as caught:
        recover(tmp_path)
    assert (caught.value.file, caught.value.sequence) == (packed, 9)
    assert [problem.sequence for problem in verify(tmp_path)] == [9]


def test_only_files_with_a_sound_batch_behind_theirs_are_packed(tmp_path: Path) -> None:
    assert packable_files(tmp_path) == []
    writer = writer_of(tmp_path)
    for first, count, packable in ((1, 20, []), (21, 20, []), (41, 22, [0]), (63, 1, [0]), (64, 1, [0, 32])):
        writer.append(sealed(first, [1] * count), first, first + count - 1)
        assert [file.first_sequence for file in packable_files(tmp_path)] == packable, first
    with pytest.raises(NotClosed, match="not full"):
        pack_file(tmp_path, 64)
    with pytest.raises(JournalFileDamaged, match="no file that starts at sequence 96"):
        pack_file(tmp_path, 96)


def test_last_batch_in_two_files_keeps_the_first_one_open(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 20, [1] * 30])
    with pytest.raises(NotClosed, match="nothing follows"):
        pack_file(tmp_path, 0)
    assert packable_files(tmp_path) == []


def test_damaged_file_is_not_packed(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 20, [1] * 30, [1]])
    path = file_path(tmp_path, 0)
    raw = bytearray(path.read_bytes())
    raw[4096 + 9 * 256 + 100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(JournalBroken, match="record 9 is damaged"):
        pack_file(tmp_path, 0)
    assert path.read_bytes() == raw


def test_no_room_to_pack(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 40, [1]])
    before = names(tmp_path)
    disk = FailingDisk()
    disk.failures["pwrite"], disk.taken_max = errno.ENOSPC, 200
    with pytest.raises(JournalFull):
        pack_file(tmp_path, 0, disk)
    assert names(tmp_path) == before
    assert recover(tmp_path).last == 41


class LyingDisk(Disk):
    """Writes one byte other than it was given."""

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        changed = bytearray(data)
        if len(changed) > 60:
            changed[60] ^= 4
        return super().pwrite(descriptor, memoryview(changed), offset)


def test_plain_file_stays_when_the_packed_one_differs(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 40, [1]])
    plain = file_path(tmp_path, 0).read_bytes()
    with pytest.raises(PackedDiffers):
        pack_file(tmp_path, 0, LyingDisk())
    assert file_path(tmp_path, 0).read_bytes() == plain
    assert names(tmp_path) == [file_path(tmp_path, 0).name, file_path(tmp_path, 32).name]
    assert recover(tmp_path).last == 41


class DyingDisk(Disk):
    """The process ends where a file would be removed."""

    def unlink(self, path: Path) -> None:
        raise KeyboardInterrupt


def test_packing_that_was_interrupted_is_done_again(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 40, [1]])
    with pytest.raises(KeyboardInterrupt):
        pack_file(tmp_path, 0, DyingDisk())
    assert len(names(tmp_path)) == 3, "both forms are there"
    assert recover(tmp_path).last == 41
    pack_file(tmp_path, 0)
    assert names(tmp_path) == [packed_path(file_path(tmp_path, 0)).name, file_path(tmp_path, 32).name]
