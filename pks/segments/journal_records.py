"""Records of the journal as bytes: seals, batch fields, and what makes a run of records whole.

Owns the checksums of an EVENT and the rules of batches and groups, as kernels over rows of 64-bit words. Capture seals records with it,
the journal stamps batches with it, recovery and `pks journal verify` walk with it. Knows EVENT's head and tail, no
other field except the two links; touches no file and no clock.

Rows are int64[rows, EVENT_WORDS], C-contiguous, an EVENT or DETAIL each. A `Fault` says what is wrong with a record; 0 is nothing.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from pks.base.limits import GROUP_RECORDS_MAX, SEGMENT_RECORDS_MIN
from pks.base.units import hash_words, mix_64
from pks.layouts.codes import Kind
from pks.layouts.event import (
    BATCH_CHECK_WORD,
    BATCH_FIRST_WORD,
    BATCH_LAST_WORD,
    CHECKED_WORDS,
    CHECKSUM_WORD,
    EVENT,
    EVENT_WORDS,
)

Rows = npt.NDArray[np.int64]
"""int64[rows, EVENT_WORDS]"""

BATCH_RECORDS_MAX = 1 << 13
"""Records that one fdatasync covers: 2 MB, where a disk's flush costs what its bandwidth says; bounds what a recovery may cut."""
assert GROUP_RECORDS_MAX <= BATCH_RECORDS_MAX, "a group lies in one batch"
assert BATCH_RECORDS_MAX <= SEGMENT_RECORDS_MIN, "a batch lies in at most two files"

CHECKSUM_SEED = 0x504B534556454E54
BATCH_SEED = 0x504B534241544348


class Fault(IntEnum):
    """What is wrong with a record at its place in the journal."""

    NONE = 0
    EMPTY = 1
    SEQUENCE = 2
    CHECKSUM = 3
    BATCH_CHECK = 4
    BATCH_RANGE = 5
    BATCH_START = 6
    BATCH_DIFFERS = 7
    GROUP_START = 8
    GROUP_DIFFERS = 9
    GROUP_CUT = 10
    TIME = 11
    LINK = 12


FAULT_TEXTS = {
    Fault.NONE: "nothing",
    Fault.EMPTY: "nothing is written there",
    Fault.SEQUENCE: "it carries another sequence",
    Fault.CHECKSUM: "its checksum does not fit its bytes",
    Fault.BATCH_CHECK: "its batch fields do not fit their checksum",
    Fault.BATCH_RANGE: "it lies outside the batch that it names, or the batch is too large",
    Fault.BATCH_START: "its batch does not start where the one before it ended",
    Fault.BATCH_DIFFERS: "it names another batch than the record before it",
    Fault.GROUP_START: "it is not the first of its group, or its group is empty or too large",
    Fault.GROUP_DIFFERS: "it does not go on with the group of the record before it",
    Fault.GROUP_CUT: "its batch ends inside its group",
    Fault.TIME: "it was recorded before the record in front of it",
    Fault.LINK: "a link does not point to an earlier record",
}
assert FAULT_TEXTS.keys() == set(Fault), "every fault has its text"


def _place(field: str) -> int:
    assert EVENT.fields is not None, "structured"
    return int(EVENT.fields[field][1])


SEQUENCE_WORD = _place("sequence") // 8
RECORDED_WORD = _place("recorded_ns") // 8
_GROUP_WORD = _place("group_index") // 8
_GROUP_INDEX_SHIFT = _place("group_index") % 8 * 8
_GROUP_COUNT_SHIFT = _place("group_count") % 8 * 8
_KIND_WORD = _place("kind") // 8
_KIND_SHIFT = _place("kind") % 8 * 8
_PREVIOUS_WORD = _place("previous") // 8
_PREVIOUS_OTHER_WORD = _place("previous_other") // 8
assert _place("group_count") // 8 == _GROUP_WORD, "both group fields lie in one word"

_DETAIL = int(Kind.DETAIL)
_EMPTY, _SEQUENCE, _CHECKSUM = int(Fault.EMPTY), int(Fault.SEQUENCE), int(Fault.CHECKSUM)
_BATCH_CHECK, _BATCH_RANGE, _BATCH_START = int(Fault.BATCH_CHECK), int(Fault.BATCH_RANGE), int(Fault.BATCH_START)
_BATCH_DIFFERS, _GROUP_START, _GROUP_DIFFERS = int(Fault.BATCH_DIFFERS), int(Fault.GROUP_START), int(Fault.GROUP_DIFFERS)
_GROUP_CUT, _TIME, _LINK = int(Fault.GROUP_CUT), int(Fault.TIME), int(Fault.LINK)

# What a walk knows: int64[WALK_WORDS].
NEXT, BATCH_FIRST, BATCH_LAST, GROUP_NEXT, GROUP_COUNT, WHOLE_LAST, RECORDED, ADOPT, WALK_WORDS = range(9)

# What a survey finds: int64[SURVEY_WORDS].
WRITTEN_LAST, SOUND_COUNT, SOUND_BATCH_LAST, LATER, SURVEY_WORDS = range(5)


@njit(cache=True)
def record_checksum(rows: Any, i: int) -> int:
    """Checksum of rows[i], every word before the tail, as int64."""
    return hash_words(rows[i], 0, CHECKED_WORDS, CHECKSUM_SEED)  # type: ignore[no-any-return]


@njit(cache=True)
def seal(rows: Any, i: int) -> None:
    """Write the checksum of rows[i] into it; the last thing that capture does to a record."""
    rows[i, CHECKSUM_WORD] = record_checksum(rows, i)


@njit(cache=True)
def batch_checksum(sequence: int, batch_first: int, batch_last: int) -> int:
    """`batch_check` of a record, as int64; a change of any of the three always changes it."""
    return mix_64(mix_64(mix_64(sequence ^ BATCH_SEED) ^ batch_first) ^ batch_last)  # type: ignore[no-any-return]


@njit(cache=True)
def _group_index(rows: Any, i: int) -> int:
    return (rows[i, _GROUP_WORD] >> _GROUP_INDEX_SHIFT) & 0xFFFF  # type: ignore[no-any-return]


@njit(cache=True)
def _group_count(rows: Any, i: int) -> int:
    return (rows[i, _GROUP_WORD] >> _GROUP_COUNT_SHIFT) & 0xFFFF  # type: ignore[no-any-return]


@njit(cache=True)
def whole_groups(rows: Any, mask: int, shift: int, first: int, last: int) -> int:
    """The largest sequence in [first, last] that ends a group, or first - 1.

    rows: record n stands at (n - shift) & mask: shift = first, mask = -1 for rows that start with record `first`; shift = 0,
    mask = capacity - 1 for a ring's.
    """
    sequence = last
    while sequence >= first:
        i = (sequence - shift) & mask
        if _group_index(rows, i) + 1 >= _group_count(rows, i):
            return sequence
        sequence -= 1
    return sequence


@njit(cache=True)
def stamp_batch(rows: Any, mask: int, shift: int, first: int, last: int, target: Any, outcome: Any) -> int:
    """Copy records first..last into target[0:last - first + 1] with their batch fields; (mask, shift) as in `whole_groups`.

    target: int64[>= last - first + 1, EVENT_WORDS]. outcome: int64[1], written with the sequence at fault. Returns a Fault.
    """
    group_next = 0
    group_count = 0
    for sequence in range(first, last + 1):
        i = (sequence - shift) & mask
        outcome[0] = sequence
        if rows[i, SEQUENCE_WORD] != sequence:
            return _SEQUENCE
        at = sequence - first
        for word in range(CHECKED_WORDS):
            target[at, word] = rows[i, word]
        target[at, CHECKSUM_WORD] = rows[i, CHECKSUM_WORD]
        if record_checksum(target, at) != target[at, CHECKSUM_WORD]:
            return _CHECKSUM
        index, count = _group_index(target, at), _group_count(target, at)
        if group_next == 0:
            if index != 0 or count < 1 or count > GROUP_RECORDS_MAX:
                return _GROUP_START
        elif index != group_next or count != group_count:
            return _GROUP_DIFFERS
        group_count = count
        group_next = 0 if index + 1 == count else index + 1
        target[at, BATCH_FIRST_WORD] = first
        target[at, BATCH_LAST_WORD] = last
        target[at, BATCH_CHECK_WORD] = batch_checksum(sequence, first, last)
    return _GROUP_CUT if group_next != 0 else 0


@njit(cache=True)
def check_record(rows: Any, sequence: int) -> int:
    """The Fault of rows[sequence] by itself: its place, its bytes, its batch fields."""
    if rows[sequence, SEQUENCE_WORD] != sequence:
        if rows[sequence, SEQUENCE_WORD] == 0 and rows[sequence, CHECKSUM_WORD] == 0:
            return _EMPTY
        return _SEQUENCE
    if record_checksum(rows, sequence) != rows[sequence, CHECKSUM_WORD]:
        return _CHECKSUM
    batch_first, batch_last = rows[sequence, BATCH_FIRST_WORD], rows[sequence, BATCH_LAST_WORD]
    if batch_checksum(sequence, batch_first, batch_last) != rows[sequence, BATCH_CHECK_WORD]:
        return _BATCH_CHECK
    if batch_first < 1 or batch_first > sequence or batch_last < sequence or batch_last - batch_first >= BATCH_RECORDS_MAX:
        return _BATCH_RANGE
    return 0


@njit(cache=True)
def walk(rows: Any, last: int, state: Any, deep: bool) -> int:
    """Check records state[NEXT] .. last, each by itself and against the one before it; stops at the first Fault and returns it.

    rows: the journal, record n in rows[n]. state: int64[WALK_WORDS]; start it with `walk_from`. Afterwards state[NEXT] is the record
    at fault, or last + 1; state[WHOLE_LAST] ends the last batch that was whole. With state[ADOPT] set the next record's batch and
    group are taken as they are: so a caller that only looks goes on behind a fault. deep: check recorded times and links as well.
    """
    batch_first, batch_last = state[BATCH_FIRST], state[BATCH_LAST]
    group_next, group_count = state[GROUP_NEXT], state[GROUP_COUNT]
    whole_last, recorded, adopt = state[WHOLE_LAST], state[RECORDED], state[ADOPT]
    fault = 0
    sequence = state[NEXT]
    while sequence <= last:
        fault = check_record(rows, sequence)
        if fault != 0:
            break
        first_named, last_named = rows[sequence, BATCH_FIRST_WORD], rows[sequence, BATCH_LAST_WORD]
        index, count = _group_index(rows, sequence), _group_count(rows, sequence)
        if adopt != 0:
            batch_first, batch_last = first_named, last_named
            group_next, group_count = index, count
            recorded = rows[sequence, RECORDED_WORD]
        if sequence > batch_last:
            if first_named != sequence:
                fault = _BATCH_START
                break
            batch_first, batch_last = first_named, last_named
        elif first_named != batch_first or last_named != batch_last:
            fault = _BATCH_DIFFERS
            break
        if group_next == 0:
            if index != 0 or count < 1 or count > GROUP_RECORDS_MAX:
                fault = _GROUP_START
                break
        elif index != group_next or count != group_count:
            fault = _GROUP_DIFFERS
            break
        if deep:
            if rows[sequence, RECORDED_WORD] < recorded:
                fault = _TIME
                break
            if ((rows[sequence, _KIND_WORD] >> _KIND_SHIFT) & 0xFF) != _DETAIL:
                previous, other = rows[sequence, _PREVIOUS_WORD], rows[sequence, _PREVIOUS_OTHER_WORD]
                if previous < 0 or previous >= sequence or other < 0 or other >= sequence:
                    fault = _LINK
                    break
        recorded = rows[sequence, RECORDED_WORD]
        adopt = 0
        group_count = count
        group_next = 0 if index + 1 == count else index + 1
        if sequence == batch_last:
            if group_next != 0:
                fault = _GROUP_CUT
                break
            whole_last = sequence
        sequence += 1
    state[NEXT], state[BATCH_FIRST], state[BATCH_LAST] = sequence, batch_first, batch_last
    state[GROUP_NEXT], state[GROUP_COUNT] = group_next, group_count
    state[WHOLE_LAST], state[RECORDED], state[ADOPT] = whole_last, recorded, adopt
    return fault


def walk_from(sequence: int) -> npt.NDArray[np.int64]:
    """The state of a walk that starts at `sequence`, the first of a batch."""
    state = np.zeros(WALK_WORDS, np.int64)
    state[NEXT], state[BATCH_LAST], state[WHOLE_LAST] = sequence, sequence - 1, sequence - 1
    return state


@njit(cache=True)
def survey(rows: Any, first: int, last: int, found: Any) -> None:
    """Look at everything in first..last, where a whole batch may have been expected to start at `first`.

    found: int64[SURVEY_WORDS], written: WRITTEN_LAST the last record with a byte that is not zero (first - 1: none); SOUND_COUNT how
    many sound records name a batch that starts at `first`; SOUND_BATCH_LAST where they say that it ends (0: nobody says);
    LATER the first sound record that says anything else (0: none), so that what lies before it was durable; the look ends there.
    """
    found[WRITTEN_LAST], found[SOUND_COUNT], found[SOUND_BATCH_LAST], found[LATER] = first - 1, 0, 0, 0
    for sequence in range(first, last + 1):
        bits = 0
        for word in range(EVENT_WORDS):
            bits |= rows[sequence, word]
        if bits == 0:
            continue
        found[WRITTEN_LAST] = sequence
        if check_record(rows, sequence) != 0:
            continue
        batch_last = rows[sequence, BATCH_LAST_WORD]
        if rows[sequence, BATCH_FIRST_WORD] != first or (found[SOUND_BATCH_LAST] != 0 and found[SOUND_BATCH_LAST] != batch_last):
            found[LATER] = sequence
            return
        found[SOUND_COUNT] += 1
        found[SOUND_BATCH_LAST] = batch_last
