"""Keys of older dates leave memory for their files: each date whole and sorted, and the worker shows life between any two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pks.engine.booking.dedup import KEY_HI, KEY_LO, SEQUENCE, TAIL, dedup_add, dedup_find
from pks.engine.booking.tables import IN_MEMORY, KEYS_COUNT, KEYS_LIMIT
from pks.workers import booking as booking_module
from pks.workers.booking import Booking, DayFiles, Room

FIRST_DATE, DATES, KEYS_A_DATE = 20_000, 7, 11


def booking_with_keys(folder: Path, durable: int, beats: list[int]) -> tuple[Booking, list[tuple[int, int, int, int]]]:
    """A booking that holds keys of several dates, mixed, and those keys: (date, hi, lo, sequence)."""

    def no_record(sequence: int) -> Any:
        raise AssertionError(f"no record is asked for, and not {sequence}")

    made = Booking(no_record, DayFiles(folder), keys=1 << 8, durable=lambda: durable, beat=lambda: beats.append(1))
    chance = np.random.default_rng(7)
    keys = []
    for sequence in range(1, DATES * KEYS_A_DATE + 1):
        date = FIRST_DATE + sequence % DATES
        hi, lo = (int(word) for word in chance.integers(-(2**63), 2**63 - 1, 2))
        dedup_add(made.tables.dedup, hi, lo, 5, date, sequence)
        made.tables.counts[KEYS_COUNT] += 1
        made.tables.dates[date] = IN_MEMORY
        keys.append((date, hi, lo, sequence))
    return made, keys


def test_dates_leave_whole_and_sorted(tmp_path: Path) -> None:
    beats: list[int] = []
    booking, keys = booking_with_keys(tmp_path, 2**62, beats)
    gone = [FIRST_DATE + 1, FIRST_DATE + 4, FIRST_DATE + 6]
    assert booking.evict(gone) is Room.MADE
    assert len(beats) >= len(gone), "life is shown at each date"
    for date, hi, lo, sequence in keys:
        in_memory = int(dedup_find(booking.tables.dedup, hi, lo, 5))
        in_file = list(booking.files.find(hi, lo, [date]))
        assert (in_memory, in_file) == ((0, [(sequence, 5)]) if date in gone else (sequence, []))
    for date in gone:
        rows = booking.files.rows(date)
        assert len(rows) == KEYS_A_DATE
        assert rows[:, KEY_LO].tolist() == sorted(rows[:, KEY_LO].tolist())
        assert set((rows[:, TAIL] & 0xFFFFFFFF).tolist()) == {date}
    assert booking.tables.counts[KEYS_COUNT] == (DATES - len(gone)) * KEYS_A_DATE
    assert np.flatnonzero(booking.tables.dates).tolist() == [FIRST_DATE + n for n in range(DATES) if FIRST_DATE + n not in gone]


@pytest.mark.parametrize("again", [False, True])
def test_a_date_that_comes_back_is_merged_into_its_file(tmp_path: Path, again: bool) -> None:
    booking, keys = booking_with_keys(tmp_path, 2**62, [])
    assert booking.evict([FIRST_DATE]) is Room.MADE
    sequence = keys[0][3] if again else 10_000
    hi, lo = (keys[0][1], keys[0][2]) if again else (1, 2)
    date = keys[0][0]
    booking.evict([date])
    dedup_add(booking.tables.dedup, hi, lo, 5, date, sequence)
    assert booking.evict([date]) is Room.MADE
    rows = booking.files.rows(date)
    assert len(rows) == KEYS_A_DATE + (not again)
    assert sequence in rows[:, SEQUENCE]
    assert (rows[rows[:, SEQUENCE] == sequence][:, KEY_HI] == hi).all()


def test_a_date_with_an_event_that_is_not_durable_stays(tmp_path: Path) -> None:
    booking, keys = booking_with_keys(tmp_path, 0, [])
    assert booking.evict([FIRST_DATE, FIRST_DATE + 1]) is Room.LATER
    assert not booking.files.dates()
    assert all(dedup_find(booking.tables.dedup, hi, lo, 5) == sequence for _, hi, lo, sequence in keys)


def test_the_table_grows_to_what_was_allowed_and_only_then_do_dates_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(booking_module, "KEYS_AT_FIRST", 16)
    booking = Booking(lambda sequence: None, DayFiles(tmp_path), keys=64)
    lengths = set()
    for sequence in range(1, 66):
        assert booking.make_room(FIRST_DATE + sequence % 3) is Room.MADE
        lengths.add(len(booking.tables.dedup))
        assert bool(booking.files.dates()) == (sequence == 65), "64 keys have room in memory, the next one's date makes others leave"
        dedup_add(booking.tables.dedup, sequence, 7 * sequence, 5, FIRST_DATE + sequence % 3, sequence)
        booking.tables.counts[KEYS_COUNT] += 1
        booking.tables.dates[FIRST_DATE + sequence % 3] = IN_MEMORY
    assert lengths == {32, 64, 128}
    for sequence in range(1, 66):
        in_files = [found for found, _ in booking.files.find(sequence, 7 * sequence, booking.files.dates())]
        assert [int(dedup_find(booking.tables.dedup, sequence, 7 * sequence, 5)), *in_files].count(sequence) == 1


@pytest.mark.parametrize(("dense", "full"), [(False, 128), (True, 192)])
def test_a_table_grows_when_it_is_full_and_holds_no_more_than_its_most(tmp_path: Path, dense: bool, full: int) -> None:
    def no_record(sequence: int) -> Any:
        raise AssertionError(f"no record is asked for, and not {sequence}")

    booking = Booking(no_record, DayFiles(tmp_path), keys=1 << 7, dense=dense)
    booking.slots_max = 1 << 9
    assert len(booking.tables.dedup) == 256
    booking.tables.counts[KEYS_COUNT] = full - 1
    booking._limit_keys()
    assert booking.make_room(FIRST_DATE) is Room.MADE
    assert len(booking.tables.dedup) == 256, "there is room for one more"
    booking.tables.counts[KEYS_COUNT] = full
    assert booking.make_room(FIRST_DATE) is Room.MADE
    assert len(booking.tables.dedup) == 512
    assert booking.tables.counts[KEYS_LIMIT] == 256, "dense or not, the longest table holds as many"


@pytest.mark.parametrize("dense", [False, True])
def test_a_checkpoints_keys_find_their_place(tmp_path: Path, dense: bool) -> None:
    def no_record(sequence: int) -> Any:
        raise AssertionError(f"no record is asked for, and not {sequence}")

    chance = np.random.default_rng(3)
    rows = chance.integers(1, 2**62, (700, 4))
    booking = Booking(no_record, DayFiles(tmp_path), keys=1 << 7, dense=dense)
    booking.load_tables(rows, booking.tables.dates, np.zeros((0, 2), np.int64), booking.tables.instrument_chain)
    assert len(booking.tables.dedup) == (1024 if dense else 2048), "more keys than are wanted in memory are taken all the same"
    for hi, lo, sequence, tail in rows.tolist():
        assert int(dedup_find(booking.tables.dedup, hi, lo, tail >> 32)) == sequence
