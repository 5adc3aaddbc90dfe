"""The way out for what capture refuses: how it is written into the rejects stream, kept within bounds, and read again.

Owns the bound on what is told, the repair of the file, and what counts as a sound record. Capture alone writes; anyone may read. Telling
never holds capture back and never fails it: what finds no room in the ring, on the disk or in the bound is counted, and its source has its
reply all the same. It decides nothing about a record and sends nothing.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pks.base.errors import Code
from pks.base.kernels import kernel
from pks.base.limits import GROUP_RECORDS_TOLD_MAX, REJECTS_BURST, REJECTS_CAPACITY, REJECTS_KEPT, REJECTS_KEPT_STEP, REJECTS_PER_SECOND
from pks.base.units import hash_words
from pks.layouts.event import EVENT_WORDS
from pks.layouts.reject import CHECK_WORD, DATES_WORD, ORIGINAL_WORD, REJECT
from pks.segments.errors import LayoutUnknown, StreamDamaged
from pks.segments.ring import Ring, ring_claim, ring_commit, ring_free
from pks.segments.stream import StreamFile, StreamLayout, StreamReader, StreamWriter
from pks.topology import Stream
from pks.workers.log import Log

NS_PER_SECOND = 1_000_000_000

CHECK_SEED = 0x52454A454354
"""Seed of the check over a record's bytes: "REJECT"."""

READ_RECORDS = 4 * GROUP_RECORDS_TOLD_MAX
SCAN_RECORDS = 1 << 12

# What the writer knows: int64[REJECT_STATE].
ROOM, TOLD, REJECT_STATE = 0, 1, 8
"""ROOM: records that may still be told now. TOLD: records told since Python last looked."""

NO_REFUSALS = frozenset((Code.ACCEPTED, Code.DUPLICATE, Code.BUSY, Code.SHUTTING_DOWN))
"""Answers that refuse nothing: the last two ask their source to send again."""


class Refusal(NamedTuple):
    """A refused group as it stands in the stream."""

    first: int  # numbers of its records
    last: int
    records: Any  # REJECT[n]


@kernel
def tell_refusal(control, records, rows, state, words, first, count, dates, epoch, intake, recorded_ns, ticket, code, field, value, other):
    """Write words[first : first + count] (int64[n, 32], a refused group) into the ring and publish it; how many records found no room.

    control, records, rows: of the rejects ring (REJECT[capacity] and int64[capacity, 40] over the same bytes); state: int64[REJECT_STATE];
    dates: the word of both dates in the group's first record as its source sent it, since the check of a trade writes them.
    """
    told = min(count, GROUP_RECORDS_TOLD_MAX)
    if state[ROOM] < told or ring_free(control, told) < told or ring_claim(control, told) < told:
        return count
    head = control[0]  # ring.HEAD: nobody else writes it
    mask = rows.shape[0] - 1
    for i in range(told):
        number = head + 1 + i
        at = number & mask
        r = records[at]
        r.number, r.recorded_ns, r.ticket, r.value, r.other = number, recorded_ns, ticket, value, other
        r.epoch, r.intake, r.code, r.field, r.index, r.count = epoch, intake, code, field, i, told
        r._reserved = 0
        for w in range(EVENT_WORDS):
            rows[at, ORIGINAL_WORD + w] = words[first + i, w]
        if i == 0:
            rows[at, ORIGINAL_WORD + DATES_WORD] = dates
        rows[at, CHECK_WORD] = hash_words(rows[at], 0, CHECK_WORD, CHECK_SEED)
    ring_commit(control, told)
    state[ROOM] -= told
    state[TOLD] += told
    return count - told


@kernel
def find_sound(words, first, sound):
    """Into sound (bool[n]) which of words[:n] (int64[n, 40]) are whole records of their places, the first having number `first`."""
    for i in range(words.shape[0]):
        sound[i] = words[i, 0] == first + i and words[i, CHECK_WORD] == hash_words(words[i], 0, CHECK_WORD, CHECK_SEED)


def sound_of(records: Any, first: int) -> Any:
    """bool[n]: which of REJECT[n] are what was written at numbers first, first + 1, ..."""
    words = np.ascontiguousarray(records).view(np.int64).reshape(len(records), -1)
    sound = np.zeros(len(records), np.bool_)
    find_sound(words, first, sound)
    return sound


def last_kept(path: Path, layout: StreamLayout) -> int:
    """The last number of a stopped system's file that ends a whole group, -1 for none: where the next start goes on.

    A file of another version or none at all is put aside as `.old`, in place of an earlier one.
    """
    if not path.exists():
        return -1
    try:
        file = StreamFile(path, layout)
    except (StreamDamaged, LayoutUnknown):
        path.replace(path.with_name(path.name + ".old"))
        return -1
    try:
        last = file.last_cursor
        while last >= 0:
            first = max(0, last + 1 - SCAN_RECORDS)
            records = file.read(first - 1, last + 1 - first)
            ends = sound_of(records, first) & (records["index"] + 1 == records["count"])
            if ends.any():
                return first + int(np.flatnonzero(ends)[-1])
            last = first - 1
        return -1
    finally:
        file.close()


def groups_in(records: Any, first: int) -> tuple[list[Refusal], int]:
    """(whole groups in REJECT[n], which begin at number `first`; how many records are done with).

    What is not sound, and what is left of a group of which another part is not, is passed over. A group that `records` cut is not done.
    """
    sound = sound_of(records, first)
    index, count = records["index"].astype(np.int64), records["count"].astype(np.int64)
    found: list[Refusal] = []
    end = len(records)
    for at in np.flatnonzero(sound & (index == 0)).tolist():
        size = int(count[at])
        if at + size > end:
            return found, at
        part = records[at : at + size]
        if sound[at : at + size].all() and (index[at : at + size] == np.arange(size)).all() and (part["ticket"] == part["ticket"][0]).all():
            found.append(Refusal(first + at, first + at + size - 1, part))
    return found, end


class RejectsReader:
    """A free reader of refused groups, from record `position` on; what the file has given up or a power cut has damaged is passed over."""

    def __init__(self, stream: Stream, position: int) -> None:
        self._ring = stream.ring
        self._reader: StreamReader = stream.reader(max(position, stream.ring.head - REJECTS_KEPT, -1))

    @property
    def cursor(self) -> int:
        """The last number that was read."""
        return self._reader.cursor

    @property
    def lag(self) -> int:
        """Records that are there and were not read."""
        return max(0, self._reader.lag)

    def read(self) -> list[Refusal]:
        """The next groups, perhaps none though there is more to read. Where the file was taken away, what only it had is passed over."""
        first = self._reader.cursor + 1
        try:
            records = self._reader.read(READ_RECORDS)
        except (StreamDamaged, LayoutUnknown, OSError):
            self._reader.close()
            self._reader.cursor = max(self._reader.cursor, self._ring.oldest)
            return []
        if not len(records):
            return []
        groups, done = groups_in(records, first)
        self._reader.cursor = first + done - 1
        return groups

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()


class RejectsWriter:
    """The stream as capture writes it: the loop by `tell_refusal` over `ring` and `state`, Python by `tell`."""

    def __init__(self, stream: Stream, state: Any, log: Log, dropped: Callable[[int], None], now_ns: int) -> None:
        """state: int64[REJECT_STATE], the loop's. dropped: counts refused records that were not told."""
        self.ring, self._log, self._dropped = stream.ring, log, dropped
        self._records, self._rows = stream.ring.records.view(REJECT).reshape(-1), stream.ring.records
        self._state = state
        self._at_ns, self._rest_ns = now_ns, 0
        self._failed = ""
        self._given_up = 0
        self._writer = self._open(stream)

    def _open(self, stream: Stream) -> StreamWriter | None:
        """The writer; a file that was cut or exchanged while we ran is made long enough, its lost records being holes."""
        try:
            return stream.writer()
        except (StreamDamaged, LayoutUnknown, OSError) as error:
            self._log.warning("the file of refusals is not what we left: what it lacks is lost", error=str(error))
        try:
            last_kept(stream.path, stream.layout)  # puts another one aside
            file = StreamFile(stream.path, stream.layout, writable=True)
            os.ftruncate(file.descriptor, file.offset(self.ring.cursor("file") + 1))
            file.close()
            return stream.writer()
        except (StreamDamaged, LayoutUnknown, OSError) as error:
            self._fail(error)
            return None

    def tell(self, words: Any, dates: int, epoch: int, intake: int, recorded_ns: int, answer: Any) -> None:
        """Tell a refused group (int64[n, 32]); answer: its REPLY."""
        said = (int(answer[name]) for name in ("ticket", "code", "field", "value", "other"))
        lost = tell_refusal(
            self.ring.control, self._records, self._rows, self._state, words, 0, len(words), dates, epoch, intake, recorded_ns, *said
        )
        if lost:
            self._dropped(int(lost))

    def housekeeping(self, now_ns: int) -> None:
        """Put the ring's records into the file, and let the bound grow with time."""
        grown = self._rest_ns + (now_ns - self._at_ns) * REJECTS_PER_SECOND
        self._at_ns, self._rest_ns = now_ns, grown % NS_PER_SECOND
        self._state[ROOM] = min(REJECTS_BURST, int(self._state[ROOM]) + grown // NS_PER_SECOND)
        self.flush()

    def flush(self) -> None:
        """Put the ring's records into the file. A disk that is full or broken leaves the ring full, so that the next ones are dropped."""
        self._state[TOLD] = 0
        if self._writer is None or not self._writer.unflushed:
            return
        try:
            self._writer.flush()
            self._give_up_old(self._writer)
        except OSError as error:
            self._fail(error)
        else:
            self._failed = ""

    def flush_if_filling(self) -> None:
        """The same before the ring is full, where many come at once."""
        if self._state[TOLD] >= REJECTS_CAPACITY // 4:
            self.flush()

    def _give_up_old(self, writer: StreamWriter) -> None:
        """Give back the disk's room of what is older than what is kept."""
        old = writer.flushed - REJECTS_KEPT
        if old - self._given_up >= REJECTS_KEPT_STEP:
            writer.file.give_up(old)
            self._given_up = old

    def _fail(self, error: Exception) -> None:
        """Say it once."""
        said = f"{type(error).__name__}: {error}"
        if said != self._failed:
            self._log.warning("refusals are not written down; their sources have their replies", error=said)
        self._failed = said

    @property
    def is_flushed(self) -> bool:
        """The file has everything, or takes nothing."""
        return self._writer is None or bool(self._failed) or not self._writer.unflushed

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


def warm_reading() -> None:
    """Call the kernels of a reader; `warm_rings` has those of the ring."""
    assert not sound_of(np.zeros(1, REJECT), 1).any(), "zeros are nothing"


def warm_rejects(ring: Ring, words: Any) -> None:
    """Call the kernels over a ring of REJECT and int64[n, 32] as the loop and Python call them."""
    state = np.zeros(REJECT_STATE, np.int64)
    state[ROOM] = 1
    lost = tell_refusal(ring.control, ring.records.view(REJECT).reshape(-1), ring.records, state, words, 0, 1, 0, 1, 0, 1, 0, 12, 0, 0, 0)
    assert lost == 0, "there is room for one"
    warm_reading()
    assert sound_of(ring.records[:1].reshape(-1).view(REJECT), 0).all(), "what was written is sound"
