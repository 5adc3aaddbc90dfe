"""Seals and batch fields: no bit of a written record can change unnoticed, and no record can stand in another's place."""

from __future__ import annotations

import numpy as np

from pks.layouts.event import EVENT, EVENT_BYTES, EVENT_WORDS
from pks.segments.journal_records import (
    BATCH_RECORDS_MAX,
    FAULT_TEXTS,
    Fault,
    batch_checksum,
    check_record,
    record_checksum,
    seal,
    stamp_batch,
)
from tests.unit.segments.test_journal import rows_of, sealed


def stamped(last: int) -> np.ndarray:
    """int64[last + 1, EVENT_WORDS]: records 1..last as one batch, record n in row n, as a view has them."""
    rows = np.zeros((last + 1, EVENT_WORDS), np.int64)
    assert stamp_batch(rows_of(sealed(1, [1] * last)), -1, 1, 1, last, rows[1:], np.zeros(1, np.int64)) == Fault.NONE
    return rows


def test_every_flipped_bit_is_found() -> None:
    rows = stamped(3)
    raw = rows.view(np.uint8).reshape(-1)
    assert check_record(rows, 2) == Fault.NONE
    for bit in range(EVENT_BYTES * 8):
        place = 2 * EVENT_BYTES + bit // 8
        raw[place] ^= 1 << bit % 8
        assert check_record(rows, 2) != Fault.NONE, f"bit {bit}"
        raw[place] ^= 1 << bit % 8
    assert check_record(rows, 2) == Fault.NONE


def test_record_in_anothers_place_is_found() -> None:
    rows = stamped(3)
    rows[2] = rows[3]
    assert check_record(rows, 2) == Fault.SEQUENCE
    rows[2, 0] = 2
    assert check_record(rows, 2) == Fault.CHECKSUM
    seal(rows, 2)
    assert check_record(rows, 2) == Fault.BATCH_CHECK, "batch fields are bound to the sequence"


def test_zeros_are_empty_and_not_sound() -> None:
    rows = np.zeros((3, EVENT_WORDS), np.int64)
    assert check_record(rows, 2) == Fault.EMPTY
    assert record_checksum(rows, 2) != 0
    assert batch_checksum(0, 0, 0) != 0


def test_batch_must_hold_the_record_and_be_of_bounded_size() -> None:
    rows = stamped(3)
    for first, last in ((3, 3), (1, 1), (0, 3), (2, 1 + BATCH_RECORDS_MAX + 1), (-5, 2)):
        rows[2, 28], rows[2, 29], rows[2, 30] = first, last, batch_checksum(2, first, last)
        assert check_record(rows, 2) == Fault.BATCH_RANGE, (first, last)
    rows[2, 28], rows[2, 29], rows[2, 30] = 2, 1 + BATCH_RECORDS_MAX, batch_checksum(2, 2, 1 + BATCH_RECORDS_MAX)
    assert check_record(rows, 2) == Fault.NONE


def test_batch_checksum_depends_on_each_value() -> None:
    values = {batch_checksum(a, b, c) for a in range(1, 12) for b in range(1, 12) for c in range(1, 12)}
    assert len(values) == 11**3


def test_seal_covers_no_batch_field() -> None:
    """Capture seals first, the journal stamps later."""
    records = sealed(5, [1])
    before = int(records["checksum"][0])
    records["batch_first"], records["batch_last"], records["batch_check"] = 5, 6, 7
    seal(rows_of(records), 0)
    assert int(records["checksum"][0]) == before
    assert EVENT.names is not None and EVENT.names[-4:] == ("batch_first", "batch_last", "batch_check", "checksum")


def test_every_fault_has_its_own_text() -> None:
    assert len(set(FAULT_TEXTS.values())) == len(Fault)
