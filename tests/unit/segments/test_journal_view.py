"""The journal as one array: places, growth, packed files, and that nothing is read that is not there."""

from __future__ import annotations

import mmap
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from pks.layouts.event import EVENT
from pks.segments.journal_archive import pack_file
from pks.segments.journal_errors import JournalFileDamaged, JournalGap, JournalTooLong
from pks.segments.journal_file import file_path, packed_path
from pks.segments.journal_view import JournalView
from tests.unit.segments.test_journal import RECORDS, sealed, write_batches, writer_of
from tests.unit.segments.test_journal_full_disk import run_in_child


@njit(cache=True)
def sum_of(words, first, last, word):
    """Sum of one word over records first..last; words: int64[.., EVENT_WORDS]."""
    total = 0
    for sequence in range(first, last + 1):
        total += words[sequence, word]
    return total


def test_record_n_stands_at_n(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 20, [1] * 30, [1] * 50])
    view = JournalView(tmp_path)
    assert view.extent == (1, 127)
    assert view.records.dtype == EVENT
    assert [int(view.records[n]["sequence"]) for n in range(101)] == list(range(101))
    assert not view.records[101:128].tobytes().strip(b"\0"), "made, not written"
    assert sum_of(view.words, 1, 100, 0) == 5050
    assert [view.file_of(n).first_sequence for n in (1, 31, 32, 100)] == [0, 0, 32, 96]
    assert len(view.records) >= 1 << 32


def test_view_cannot_be_written(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1]])
    view = JournalView(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        view.words[1, 0] = 5
    with pytest.raises(ValueError, match="read-only"):
        view.records["sequence"][1] = 5


def test_view_follows_the_writer(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    view = JournalView(directory)
    assert view.extent == view.refresh() == (1, 0)
    writer = writer_of(directory)
    writer.append(sealed(1, [1] * 5), 1, 5)
    assert view.refresh() == (1, 31)
    writer.append(sealed(6, [1] * 2), 6, 7)
    assert int(view.records[7]["sequence"]) == 7, "written after it was mapped"
    writer.append(sealed(8, [1] * 60), 8, 67)
    assert view.extent == (1, 31)
    assert view.refresh() == (1, 95)
    assert int(view.records[67]["sequence"]) == 67


def test_view_from_a_sequence_reaches_back_on_demand(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 100])
    view = JournalView(tmp_path, 70)
    assert view.extent == (64, 127)
    assert view.reach(40) == (32, 127)
    assert view.reach(90) == (32, 127)
    file_path(tmp_path, 0).unlink()
    with pytest.raises(JournalGap, match=r"00000000000000000000\.events is missing"):
        view.reach(1)
    assert view.extent == (32, 127)


def test_view_from_behind_the_end_shows_the_last_file(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 40])
    assert JournalView(tmp_path, 5000).extent == (32, 63)


def test_arrays_outlive_the_view_and_the_files(tmp_path: Path) -> None:
    write_batches(tmp_path / "journal", [[1] * 40])
    kept = JournalView(tmp_path / "journal").records[30:41]
    shutil.rmtree(tmp_path / "journal")
    assert list(kept["sequence"]) == list(range(30, 41))


def test_address_space_is_given_back(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 40])

    def mapped() -> int:
        return sum(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())

    before = mapped()
    view = JournalView(tmp_path)
    part = view.words[3]
    del view
    assert mapped() == before + 2, "an array is held"
    del part
    assert mapped() == before


def test_packed_file_is_read_at_its_place(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 20, [1] * 30, [1] * 50, [1]])
    whole = JournalView(tmp_path).records[:101].tobytes()
    for first in (0, 32):
        pack_file(tmp_path, first)
    view = JournalView(tmp_path)
    assert [file.packed for file in view.files] == [True, True, False, False]
    assert view.records[:101].tobytes() == whole
    view.release(1000)
    view.prefetch(view.files[0])
    assert view.records[:101].tobytes() == whole, "what was let go of comes back, packed or plain"
    late = JournalView(tmp_path, 64)
    assert late.extent == (64, 127)
    assert late.reach(1) == (1, 127)
    assert late.records[:101].tobytes() == whole


def test_pages_behind_are_let_go_within_a_file(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 20, [1] * 30, [1]])
    view = JournalView(tmp_path)

    def held() -> int:
        """Bytes of the journal's first file that count as ours."""
        parts = Path("/proc/self/smaps").read_text().split(str(file_path(tmp_path, 0)))
        return sum(int(part.partition("\nRss:")[2].split()[0]) << 10 for part in parts[1:])

    whole = view.records[:32].tobytes()
    before = held()
    view.release(14)
    assert held() == before, "a page is let go of whole"
    view.release(20)
    assert held() == before - mmap.PAGESIZE
    assert view.records[:32].tobytes() == whole


def test_file_packed_while_a_view_is_open_stays_readable(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 40, [1]])
    view = JournalView(tmp_path)
    pack_file(tmp_path, 0)
    assert list(view.records[1:41]["sequence"]) == list(range(1, 41))
    assert view.refresh() == (1, 63)


@pytest.mark.parametrize("place", [12, 2000, -6, -1])
def test_damaged_packed_file(tmp_path: Path, place: int) -> None:
    write_batches(tmp_path, [[1] * 40, [1]])
    path = pack_file(tmp_path, 0)
    raw = bytearray(path.read_bytes())
    raw[place if place < len(raw) else len(raw) // 2] ^= 0x41
    path.write_bytes(raw)
    with pytest.raises(JournalFileDamaged, match=r"00000000000000000000\.events\.gz"):
        JournalView(tmp_path)


def test_packed_file_cut_short(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 40, [1]])
    path = pack_file(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(JournalFileDamaged, match="cannot be unpacked"):
        JournalView(tmp_path)
    assert path == packed_path(file_path(tmp_path, 0))


def test_little_address_space_is_enough_or_said(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * 3000])

    def work() -> None:
        used = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize")) * 1024
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
        view = JournalView(tmp_path)
        assert 3000 < len(view.records) <= (64 << 20) // 256
        assert int(view.records[3000]["sequence"]) == 3000
        del view
        resource.setrlimit(resource.RLIMIT_AS, (used + (768 << 10), hard))
        with pytest.raises(JournalTooLong) as caught:
            JournalView(tmp_path)
        assert caught.value.granted < 3000

    JournalView(tmp_path)
    run_in_child(work)


def test_words_and_records_are_the_same_memory(tmp_path: Path) -> None:
    write_batches(tmp_path, [[1] * RECORDS])
    view = JournalView(tmp_path)
    assert np.shares_memory(view.words[5], view.records[5:6])
