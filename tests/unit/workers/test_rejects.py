"""The stream of what capture refused: its bound, its file over restarts, cuts and damage, and what a reader makes of it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pks.base.limits import GROUP_RECORDS_TOLD_MAX, REJECTS_BURST, REJECTS_PER_SECOND
from pks.layouts.event import EVENT_WORDS, REPLY
from pks.layouts.reject import REJECT, REJECT_WORDS
from pks.segments.ring import Ring, ring_bytes
from pks.segments.stream import FILE_PLACE, StreamFile
from pks.topology import Stream, channel, stream_layout
from pks.workers import rejects
from pks.workers.log import Log
from pks.workers.rejects import REJECT_STATE, ROOM, RejectsReader, RejectsWriter, last_kept

LAYOUT = stream_layout(channel("rejects"))
SECOND_NS = 1_000_000_000


class Room:
    """One life of the stream: its ring, its file, a writer, and what was dropped."""

    def __init__(self, folder: Path, capacity: int = 64, epoch: int = 1) -> None:
        self.path = folder / "rejects.stream"
        area = np.zeros(ring_bytes(capacity, REJECT.itemsize) // 8, np.int64)
        start = last_kept(self.path, LAYOUT)
        self.stream = Stream(Ring.format(area, "rejects", REJECT, capacity, start=start, places=[FILE_PLACE]), self.path, LAYOUT)
        self.log = Log(folder / "log", "test", lambda: 0)
        self.epoch, self.dropped = epoch, 0
        self.open()

    def open(self) -> None:
        """As a capture does that is started again on the same ring."""
        self.state = np.zeros(REJECT_STATE, np.int64)
        self.state[ROOM] = REJECTS_BURST
        self.writer = RejectsWriter(self.stream, self.state, self.log, self._drop, 0)

    def _drop(self, count: int) -> None:
        self.dropped += count

    def tell(self, mark: int, count: int = 1) -> None:
        """A group of `count` records full of `mark`."""
        answer = np.zeros(1, REPLY)
        answer["ticket"], answer["code"] = mark, 12
        self.writer.tell(np.full((count, EVENT_WORDS), mark, np.int64), mark, self.epoch, 3, 77, answer[0])

    def read(self, position: int = -1) -> list[tuple[int, int]]:
        """(mark, records) of each group behind `position`."""
        reader, found = RejectsReader(self.stream, position), list[Any]()
        while reader.lag:
            found += reader.read()
        reader.close()
        for group in found:
            assert set(group.records["original"].view(np.int64).ravel().tolist()) == {int(group.records[0]["ticket"])}
            assert group.records["number"].tolist() == list(range(group.first, group.last + 1))
        return [(int(group.records[0]["ticket"]), len(group.records)) for group in found]


def test_what_is_told_is_read_from_ring_and_file(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for mark in range(1, 101):
        room.tell(mark, 1 + mark % 3)
        if mark % 20 == 0:
            room.writer.flush()
    assert room.read() == [(mark, 1 + mark % 3) for mark in range(1, 101)]
    assert room.dropped == 0


def test_a_new_start_goes_on_behind_the_last_whole_group(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for mark in range(1, 11):
        room.tell(mark, 2)
    room.writer.flush()
    room.writer.close()
    size = room.path.stat().st_size
    with room.path.open("r+b") as file:
        file.truncate(size - REJECT.itemsize)  # the last group lost its second record
    again = Room(tmp_path, epoch=2)
    assert again.stream.ring.head == 17
    again.tell(50, 3)
    assert again.read() == [*((mark, 2) for mark in range(1, 10)), (50, 3)]
    assert again.path.stat().st_size == size - 2 * REJECT.itemsize, "what was cut is gone before it is written anew"


@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"\x13"])
def test_damage_in_the_middle_and_at_the_end_is_passed_over(tmp_path: Path, fill: bytes) -> None:
    room = Room(tmp_path)
    for mark in range(1, 21):
        room.tell(mark, 2)
    room.writer.flush()
    room.writer.close()
    with room.path.open("r+b") as file:
        for record, size in ((7, 8), (30, 3000)):
            file.seek(4096 + record * REJECT.itemsize + 100)
            file.write(fill * size)
    again = Room(tmp_path)
    damaged = {4, 16, 17, 18, 19, 20}
    assert again.stream.ring.head == 29, "the end is cut"
    assert again.read() == [(mark, 2) for mark in range(1, 21) if mark not in damaged]


def test_another_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "rejects.stream"
    path.write_bytes(b"something else" * 1000)
    assert last_kept(path, LAYOUT) == -1
    assert not path.exists()
    assert path.with_name("rejects.stream.old").exists()
    assert last_kept(path, LAYOUT) == -1


def test_a_file_that_was_taken_away_under_a_running_system_becomes_a_hole(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for mark in range(1, 65):
        room.tell(mark)
    room.writer.flush()
    room.path.unlink()
    room.open()
    room.tell(65)
    room.writer.flush()
    assert room.read()[-1] == (65, 1)
    for mark in range(66, 129):
        room.tell(mark)
    room.writer.flush()
    for mark in range(129, 140):
        room.tell(mark)
    assert room.read(63)[:3] == [(65, 1), (66, 1), (67, 1)]
    assert room.dropped == 0


def test_a_reader_whose_file_is_gone_goes_on_in_the_ring(tmp_path: Path) -> None:
    room = Room(tmp_path)
    for mark in range(1, 161):
        room.tell(mark)
        if mark % 32 == 0:
            room.writer.flush()
    room.path.unlink()
    found = room.read()
    assert found and found[-1] == (160, 1)


def test_a_full_or_broken_disk_drops_and_counts_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(tmp_path)
    for code in (errno.ENOSPC, errno.EIO):

        def failing(*words: Any, code: int = code) -> int:
            raise OSError(code, "the disk")

        before = room.dropped
        with monkeypatch.context() as patch:
            patch.setattr("pks.segments.stream.os.pwrite", failing)
            for _ in range(10):
                for mark in range(1, 11):
                    room.tell(mark)
                room.writer.housekeeping(0)
        assert room.dropped - before == 100 - 64
        room.writer.housekeeping(0)
        assert room.writer.is_flushed
    room.tell(99)
    assert room.read()[-1] == (99, 1)


def test_the_bound_is_a_burst_and_then_so_many_a_second(tmp_path: Path) -> None:
    room = Room(tmp_path, capacity=1 << 13)
    for mark in range(1, REJECTS_BURST + 101):
        room.tell(mark)
    assert room.dropped == 100
    now_ns = 0
    for _ in range(30):  # ten a second, of uneven length
        now_ns += 50_000_001
        room.writer.housekeeping(now_ns)
    assert int(room.state[ROOM]) == now_ns * REJECTS_PER_SECOND // SECOND_NS
    room.writer.housekeeping(now_ns + 1000 * SECOND_NS)
    assert int(room.state[ROOM]) == REJECTS_BURST


def test_of_a_huge_group_the_first_records_are_told(tmp_path: Path) -> None:
    room = Room(tmp_path, capacity=1 << 13)
    room.tell(1, GROUP_RECORDS_TOLD_MAX + 7)
    room.tell(2, GROUP_RECORDS_TOLD_MAX)
    assert room.read() == [(1, GROUP_RECORDS_TOLD_MAX), (2, GROUP_RECORDS_TOLD_MAX)]
    assert room.dropped == 7


def test_what_is_old_gives_its_room_on_the_disk_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejects, "REJECTS_KEPT", 100)
    monkeypatch.setattr(rejects, "REJECTS_KEPT_STEP", 50)
    room = Room(tmp_path)
    for mark in range(1, 3001):
        room.tell(mark)
        if mark % 32 == 0:
            room.writer.housekeeping(mark * SECOND_NS)
    room.writer.flush()
    file = StreamFile(room.path, LAYOUT)
    first = file.read(-1, 1)
    file.close()
    if int(first["epoch"][0]) != 0:
        pytest.skip("the file system of the test's folder has no holes")
    assert room.path.stat().st_blocks * 512 < room.path.stat().st_size // 4
    assert room.read() == [(mark, 1) for mark in range(2901, 3001)]
    assert REJECT_WORDS * 8 == REJECT.itemsize
