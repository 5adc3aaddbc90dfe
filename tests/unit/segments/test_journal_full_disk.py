"""The journal on a disk that is really full: a size limit of the process, and a small file system."""

from __future__ import annotations

import errno
import os
import resource
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from pks.segments.journal_errors import JournalFull
from pks.segments.journal_file import file_bytes, file_path, record_offset
from pks.segments.journal_recovery import recover
from tests.unit.segments.test_journal import RECORDS, sealed, writer_of


def run_in_child(work: Callable[[], None]) -> None:
    """Run `work` in a forked process, whose limits are its own; fail with its traceback if it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            work()
        except BaseException:
            text = traceback.format_exc()
        os.write(writer, text.encode()[-60_000:])
        os._exit(1 if text else 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        text = stream.read().decode()
    _, status = os.waitpid(child, 0)
    assert (text, status) == ("", 0), text


def limit_file_size(size_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_write_beyond_the_size_limit(tmp_path: Path) -> None:
    directory = tmp_path / "journal"

    def work() -> None:
        writer = writer_of(directory)
        writer.append(sealed(1, [1] * 4), 1, 4)
        limit_file_size(record_offset(7, RECORDS) + 100)  # record 7 would be torn
        batch = sealed(5, [2, 4])
        for _ in range(3):
            with pytest.raises(JournalFull) as caught:
                writer.append(batch, 5, 10)
            assert caught.value.errno == errno.EFBIG
            assert writer.durable == 4
        limit_file_size(resource.RLIM_INFINITY)
        assert writer.append(batch, 5, 10) == 10

    run_in_child(work)
    found = recover(directory)
    assert (found.last, found.cut) == (10, None)


def test_death_on_a_full_disk_leaves_what_was_acknowledged(tmp_path: Path) -> None:
    directory = tmp_path / "journal"

    def work() -> None:
        writer = writer_of(directory)
        writer.append(sealed(1, [1] * 4), 1, 4)
        limit_file_size(record_offset(7, RECORDS) + 100)
        with pytest.raises(JournalFull):
            writer.append(sealed(5, [2, 4]), 5, 10)

    run_in_child(work)
    assert file_path(directory, 0).read_bytes()[record_offset(5, RECORDS) :].strip(b"\0"), "a part was written"
    found = recover(directory)
    assert found.last == 4
    assert found.cut is not None
    assert (found.cut.first, found.cut.last) == (5, 10)


def test_next_file_beyond_the_size_limit(tmp_path: Path) -> None:
    directory = tmp_path / "journal"

    def work() -> None:
        writer = writer_of(directory)
        writer.append(sealed(1, [1] * 30), 1, 30)
        limit_file_size(file_bytes(RECORDS) - 1)
        with pytest.raises(JournalFull) as caught:
            writer.prepare_next()
        assert caught.value.errno == errno.EFBIG
        with pytest.raises(JournalFull):
            writer.append(sealed(31, [1] * 10), 31, 40)
        limit_file_size(file_bytes(RECORDS))
        assert writer.append(sealed(31, [1] * 10), 31, 40) == 40

    run_in_child(work)
    assert recover(directory).last == 40


def test_small_file_system_fills_up_and_gets_room_again(mount_small: Callable[..., Path]) -> None:
    small_disk = mount_small("64k")
    directory = small_disk / "journal"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(30_000))
    writer = writer_of(directory)
    with pytest.raises(JournalFull) as caught:
        while True:
            first = writer.durable + 1
            writer.append(sealed(first, [1] * 5), first, first + 4)
    assert caught.value.errno == errno.ENOSPC
    acknowledged = writer.durable
    assert acknowledged >= 2 * RECORDS - 6, "two files fit beside the ballast"
    assert recover(directory).last == acknowledged
    with pytest.raises(JournalFull):
        writer.append(sealed(first, [1] * 5), first, first + 4)
    ballast.unlink()
    assert writer.append(sealed(first, [1] * 5), first, first + 4) == acknowledged + 5
    writer.close()
    assert recover(directory).last == acknowledged + 5
