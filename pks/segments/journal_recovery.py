"""Finding the journal's end after any stop, and checking all of it: what a start may trust and what stops it.

Owns the rule that tells a batch that was never acknowledged from damage: batch b+1 is written only after batch b is on the disk,
so a batch with anything sound behind it was durable. A broken *last* batch is cut whole; anything else that is broken stops by name
and nothing is changed. `recover` is for the journal's one writer before it writes (the caller holds its claim); `verify` reads only and may
run beside it. Neither knows what an event means.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pks.layouts.event import BATCH_FIRST_WORD, EVENT_BYTES
from pks.segments.journal_errors import JournalBroken, JournalDiskFailed, JournalFull, JournalGap, JournalShort
from pks.segments.journal_file import FULL_ERRNOS, Disk, JournalFile, file_path, record_offset, write_all
from pks.segments.journal_records import (
    ADOPT,
    BATCH_LAST,
    BATCH_RECORDS_MAX,
    FAULT_TEXTS,
    LATER,
    NEXT,
    SOUND_BATCH_LAST,
    SOUND_COUNT,
    SURVEY_WORDS,
    WHOLE_LAST,
    WRITTEN_LAST,
    Fault,
    check_record,
    survey,
    walk,
    walk_from,
)
from pks.segments.journal_view import JournalView


@dataclass(frozen=True, slots=True)
class Cut:
    """A last batch that was found broken, was never acknowledged, and is zeros now."""

    first: int
    last: int
    reason: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """Records first .. last are whole and durable; first > last in an empty journal. `first` is where the walk began."""

    first: int
    last: int
    cut: Cut | None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that `verify` found. `unfinished`: only a last batch that is being written, or that a start would cut."""

    file: Path
    sequence: int
    reason: str
    unfinished: bool = False


def recover(
    directory: Path, from_sequence: int = 0, *, instance: str | None = None, records: int | None = None, disk: Disk | None = None
) -> Recovered:
    """Walk from a sequence that is known to be durable (a checkpoint's; 0: from the start) to the end, and make the end durable.

    The last whole batch is written again and flushed, since a process may have died between write and flush; a broken one behind it
    is overwritten with zeros and flushed. instance, records: what the files must say; None takes what the first one says.
    Raises JournalBroken, JournalShort, JournalGap, JournalMismatch, JournalFileDamaged; JournalFull and JournalDiskFailed from the disk.
    """
    disk = disk or Disk()
    view = JournalView(directory, from_sequence, instance=instance, records=records)
    found = _find_end(view, from_sequence)
    if view.extent[1] > 0:
        disk.fsync_directory(directory)
    if found.last >= found.first:
        _rewrite(view, disk, int(view.words[found.last, BATCH_FIRST_WORD]), found.last, zero=False)
    if found.cut is not None:
        _rewrite(view, disk, found.cut.first, found.cut.last, zero=True)
    return found


def find_end(directory: Path, from_sequence: int = 0, *, instance: str | None = None, records: int | None = None) -> Recovered:
    """What `recover` would return, changing nothing and making nothing durable: for tools that look at a journal at rest.

    Beside a running journal a batch that is being written shows as `cut`. Raises as `recover`, without the disk's.
    """
    return _find_end(JournalView(directory, from_sequence, instance=instance, records=records), from_sequence)


def verify(directory: Path, from_sequence: int = 1) -> Iterator[Problem]:
    """Check every record from the batch of `from_sequence` on: bytes, order, batches, groups, times, links; yields what is wrong.

    Changes nothing. Problems with a file itself are raised: JournalGap, JournalMismatch, JournalFileDamaged.
    """
    view = JournalView(directory, from_sequence)
    _, last = view.extent
    if last < max(from_sequence, 1):
        return
    state = walk_from(max(from_sequence, 1))
    state[ADOPT] = int(from_sequence > 1)
    later = 0  # a sound record of a later batch: every fault in front of it is damage
    while True:
        fault = Fault(walk(view.words, last, state, True))
        sequence = int(state[NEXT])
        if fault is Fault.NONE:
            if view.refresh()[1] > last:
                _, last = view.extent
                continue
            if state[BATCH_LAST] > last:
                raise _missing_behind(view)
            return
        if sequence >= later and fault not in (Fault.TIME, Fault.LINK):  # those two are sound records that say something impossible
            tail = _judge_tail(view, int(state[WHOLE_LAST]) + 1, sequence, fault)
            if tail is None:
                return
            if not tail.broken:
                yield Problem(view.file_of(tail.cut.first).path, tail.cut.first, tail.cut.reason, unfinished=True)
                return
            later = tail.later
        if walk(view.words, sequence, state, True) == Fault.NONE:
            continue  # it was being written when we looked first
        yield Problem(view.file_of(sequence).path, sequence, FAULT_TEXTS[fault])
        state[NEXT], state[ADOPT] = sequence + 1, 1


@dataclass(frozen=True, slots=True)
class _Tail:
    """What follows the last whole batch: either broken (with the record to name) or a batch to cut."""

    sequence: int
    broken: bool
    cut: Cut
    later: int = 0  # the first sound record of a later batch


def _find_end(view: JournalView, from_sequence: int) -> Recovered:
    if view.extent[1] < max(from_sequence, 1):
        if from_sequence > 0:
            raise JournalShort(view.directory, from_sequence, _last_written(view, view.extent[1] + 1))
        return Recovered(1, 0, None)
    first = _trusted_batch(view, from_sequence)
    whole_last, tail = _walk_to_end(view, first)
    if tail is not None and (tail.broken or tail.cut.first <= from_sequence):
        raise JournalBroken(view.file_of(tail.sequence).path, tail.sequence, tail.cut.reason)
    if whole_last < from_sequence:
        raise JournalShort(view.directory, from_sequence, whole_last)
    return Recovered(first, whole_last, None if tail is None else tail.cut)


def _trusted_batch(view: JournalView, from_sequence: int) -> int:
    """First sequence of the batch of `from_sequence`, or 1."""
    if from_sequence == 0:
        return 1
    fault = Fault(check_record(view.words, from_sequence))
    if fault is Fault.EMPTY:
        found = np.zeros(SURVEY_WORDS, np.int64)
        survey(view.words, from_sequence, view.extent[1], found)
        if found[WRITTEN_LAST] < from_sequence:
            raise JournalShort(view.directory, from_sequence, _last_written(view, from_sequence))
    if fault is not Fault.NONE:
        raise JournalBroken(view.file_of(from_sequence).path, from_sequence, FAULT_TEXTS[fault])
    first = int(view.words[from_sequence, BATCH_FIRST_WORD])
    view.reach(first)
    return first


def _last_written(view: JournalView, before: int) -> int:
    """The last sequence below `before` that is not empty, for a text."""
    sequence = before - 1
    while sequence > 0:
        if sequence < view.extent[0]:
            view.reach(sequence)
        if check_record(view.words, sequence) != Fault.EMPTY:
            return sequence
        sequence -= 1
    return 0


def _walk_to_end(view: JournalView, first: int) -> tuple[int, _Tail | None]:
    """(last record of the last whole batch, what is behind it if anything is).

    Beside a running journal a record may be written, or a file made, between two looks: then it goes on.
    """
    state = walk_from(first)
    while True:
        _, last = view.extent
        fault = _walk_files(view, state)
        whole_last, sequence = int(state[WHOLE_LAST]), int(state[NEXT])
        if fault is not Fault.NONE:
            tail = _judge_tail(view, whole_last + 1, sequence, fault)
            if tail is None or not tail.broken or walk(view.words, sequence, state, False) != Fault.NONE:
                return whole_last, tail
        elif view.refresh()[1] == last:
            if whole_last < last:
                raise _missing_behind(view)
            return whole_last, None


def _walk_files(view: JournalView, state: npt.NDArray[np.int64]) -> Fault:
    for file in view.files:
        view.prefetch(file)
        fault = Fault(walk(view.words, file.last_sequence, state, False))
        if fault is not Fault.NONE:
            return fault
    return Fault.NONE


def _missing_behind(view: JournalView) -> JournalGap:
    """The last batch goes on in a file that must have been there before it was written."""
    last_file = view.files[-1]
    return JournalGap(file_path(view.directory, last_file.last_sequence + 1), last_file.path)


def _judge_tail(view: JournalView, first: int, sequence: int, fault: Fault) -> _Tail | None:
    """What to think of `fault` at `sequence`, in a batch that starts at `first`; None where nothing is written behind the last batch."""
    found = np.zeros(SURVEY_WORDS, np.int64)
    survey(view.words, first, view.extent[1], found)
    written_last, batch_last, later = int(found[WRITTEN_LAST]), int(found[SOUND_BATCH_LAST]), int(found[LATER])
    if written_last < first:
        return None
    reason = FAULT_TEXTS[fault]
    if later:
        return _Tail(sequence, True, Cut(first, written_last, f"{reason}, and record {later} of a later batch is sound"), later)
    if batch_last > view.extent[1] and batch_last > view.refresh()[1]:
        raise _missing_behind(view)
    if batch_last and int(found[SOUND_COUNT]) == batch_last - first + 1:
        return _Tail(sequence, True, Cut(first, written_last, f"{reason}, though its batch {first} to {batch_last} is complete"))
    limit = batch_last or first + BATCH_RECORDS_MAX - 1
    if written_last > limit:
        return _Tail(sequence, True, Cut(first, written_last, f"{reason}, and bytes up to {written_last} belong to no batch"))
    if view.file_of(first).packed:
        return _Tail(sequence, True, Cut(first, written_last, f"{reason}, in a packed file"))
    last = max(written_last, batch_last)
    return _Tail(sequence, False, Cut(first, last, f"batch {first} to {last} is not whole: record {sequence}: {reason}"))


def _rewrite(view: JournalView, disk: Disk, first: int, last: int, zero: bool) -> None:
    """Write records first..last again as they are, or as zeros, and flush; packed files are durable as they are."""
    sequence = first
    while sequence <= last:
        file = view.file_of(sequence)
        end = min(last, file.last_sequence)
        if not file.packed:
            count = end - sequence + 1
            data = bytes(count * EVENT_BYTES) if zero else view.words[sequence : end + 1].tobytes()
            _write_flushed(disk, file, memoryview(data), record_offset(sequence, file.records))
        sequence = end + 1


def _write_flushed(disk: Disk, file: JournalFile, data: memoryview, offset: int) -> None:
    descriptor = disk.open(file.path, os.O_RDWR)
    try:
        try:
            write_all(disk, descriptor, data, offset)
        except OSError as error:
            failure = JournalFull if error.errno in FULL_ERRNOS else JournalDiskFailed
            raise failure(file.path, "write", error.errno or 0) from error
        try:
            disk.fdatasync(descriptor)
        except OSError as error:
            raise JournalDiskFailed(file.path, "fdatasync", error.errno or 0) from error
    finally:
        disk.close(descriptor)
