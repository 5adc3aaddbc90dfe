"""Named POSIX shared memory with a header page: create, open, refuse, retire, list.

Owns the mapping, the header page and its state, heartbeat and refusals. Creators (the supervisor) call `Segment.create`, everyone else
`Segment.open`. Knows nothing of what a body holds. Segments outlive their makers on purpose: nothing here unlinks at exit, `retire` does.
A mapping made before a fork serves the child; numpy views keep it alive after `close`. Creating and retiring go through posix_ipc, imported
there alone: who only opens segments needs numpy and numba.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import errno
import grp
import mmap
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pks.base.limits import HEARTBEAT_STALE_NS
from pks.layouts.segment import (
    SEGMENT_HEADER,
    SEGMENT_HEADER_BYTES,
    SEGMENT_HEADER_VERSION,
    SEGMENT_MAGIC,
    SEGMENT_STATE_MOVES,
    SegmentState,
    header_word,
)
from pks.segments.atomics import load_acquire, load_relaxed, read_word, store_release, write_word
from pks.segments.errors import (
    LayoutUnknown,
    NotASegment,
    SegmentExists,
    SegmentMissing,
    SegmentNoSpace,
    SegmentNotReady,
    StaleHost,
)

SHM_DIRECTORY = Path("/dev/shm")
NAME_PREFIXES = ("pks-", "md-")

_STATE = header_word("state")
_HEARTBEAT = header_word("heartbeat_ns")
_CLOSED = int(SegmentState.CLOSED)
_LIVE = int(SegmentState.LIVE)

Words = NDArray[np.int64]


def segment_name(base: str, instance: str = "") -> str:
    """POSIX name of a segment: `pks-positions-v1`, instance `x` -> `/pks-positions-v1.x`."""
    assert base and "/" not in base and "/" not in instance, "a segment's name is one path component"
    return f"/{base}.{instance}" if instance else f"/{base}"


@njit(cache=True)
def host_state(header, now_ns):
    """0 when the segment of `header` (int64[512]) lives at now_ns (CLOCK_MONOTONIC), 1 when it is not LIVE, 2 when its heartbeat is old."""
    if load_acquire(header, _STATE) != _LIVE:
        return 1
    if now_ns - load_relaxed(header, _HEARTBEAT) > HEARTBEAT_STALE_NS:
        return 2
    return 0


@njit(cache=True)
def beat(header, now_ns):
    """Renew the heartbeat (CLOCK_MONOTONIC)."""
    store_release(header, _HEARTBEAT, now_ns)


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What the header of a segment says."""

    name: str
    layout_name: str
    layout_version: int
    layout_hash: int
    state: SegmentState
    header_bytes: int
    body_bytes: int
    creator_pid: int
    epoch: int
    heartbeat_ns: int


class Segment:
    """One mapped segment.

    header: int64[512] view of the header page; body: int64[body_bytes / 8] view of the rest; whole: of both, for kernels that take one
    array. All are read-only unless `writable`.
    """

    def __init__(self, name: str, mapping: mmap.mmap, writable: bool) -> None:
        self.name, self.writable, self._mapping = name, writable, mapping
        self.whole: Words = np.frombuffer(mapping, dtype=np.int64)
        self.header: Words = self.whole[: SEGMENT_HEADER_BYTES // 8]
        self.body: Words = self.whole[SEGMENT_HEADER_BYTES // 8 :]

    @classmethod
    def create(
        cls,
        name: str,
        *,
        layout_name: str,
        layout_version: int,
        layout_hash: int,
        body_bytes: int,
        mode: int = 0o640,
        group: str | int | None = None,
        epoch: int = 0,
        counts: Sequence[int] = (),
    ) -> Segment:
        """Make segment `name`, all zero, in state CREATING; `go_live` opens it to readers.

        body_bytes: a multiple of 8. layout_hash: unsigned 64-bit. group: owner group, name or number. counts: up to 16 sizes.
        Raises SegmentExists, SegmentNoSpace (ENOSPC; nothing is left behind).
        """
        import posix_ipc

        assert body_bytes > 0 and body_bytes % 8 == 0, f"body of {body_bytes} bytes is not whole words"
        total = SEGMENT_HEADER_BYTES + body_bytes
        try:
            memory = posix_ipc.SharedMemory(name, flags=posix_ipc.O_CREX, mode=mode)
        except posix_ipc.ExistentialError:
            raise SegmentExists(name) from None
        try:
            _take_memory(memory.fd, name, total)
            os.fchmod(memory.fd, mode)
            if group is not None:
                os.fchown(memory.fd, -1, group if isinstance(group, int) else grp.getgrnam(group).gr_gid)
            mapping = mmap.mmap(memory.fd, total, flags=mmap.MAP_SHARED)
        except BaseException:
            posix_ipc.unlink_shared_memory(name)
            raise
        finally:
            memory.close_fd()
        segment = cls(name, mapping, writable=True)
        head = segment.header.view(SEGMENT_HEADER)[0]
        head["header_version"], head["layout_name"] = SEGMENT_HEADER_VERSION, layout_name.encode("ascii")
        head["layout_version"], head["layout_hash"], head["body_bytes"] = layout_version, layout_hash, body_bytes
        head["creator_pid"], head["epoch"], head["created_ns"] = os.getpid(), epoch, time.monotonic_ns()
        head["counts"][: len(counts)] = counts
        segment.beat()
        write_word(segment.header, header_word("magic"), SEGMENT_MAGIC)  # ORDER segment-made: pairs with open's read of the magic
        return segment

    @classmethod
    def open(
        cls,
        name: str,
        *,
        layout_name: str | None = None,
        layout_version: int | None = None,
        layout_hash: int | None = None,
        writable: bool = False,
        creating: bool = False,
    ) -> Segment:
        """Map an existing segment, read-only unless `writable`. The layout facts given are compared with the header's.

        creating: also take one that is not LIVE yet (its writers fill it). Raises SegmentMissing, NotASegment, LayoutUnknown,
        SegmentNotReady (retry), StaleHost (closed).
        """
        try:
            descriptor = os.open(SHM_DIRECTORY / name[1:], os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_RDWR if writable else os.O_RDONLY))
        except FileNotFoundError:
            raise SegmentMissing(name) from None
        try:
            size = os.fstat(descriptor).st_size
            if size <= SEGMENT_HEADER_BYTES:
                raise SegmentNotReady(name)
            protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            mapping = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=protection)
        finally:
            os.close(descriptor)
        segment = cls(name, mapping, writable)
        segment._check_header(layout_name, layout_version, layout_hash, creating)
        return segment

    def _check_header(self, layout_name: str | None, layout_version: int | None, layout_hash: int | None, creating: bool) -> None:
        magic = read_word(self.header, header_word("magic"))  # ORDER segment-made: pairs with create's write of the magic
        if magic == 0:
            raise SegmentNotReady(self.name)
        if magic != SEGMENT_MAGIC:
            raise NotASegment(self.name, magic)
        head = self.header.view(SEGMENT_HEADER)[0]
        if head["header_version"] != SEGMENT_HEADER_VERSION:
            raise LayoutUnknown(self.name, "header version", int(head["header_version"]), SEGMENT_HEADER_VERSION)
        facts = self.facts()
        for what, found, known in (
            ("layout name", facts.layout_name, layout_name),
            ("layout version", facts.layout_version, layout_version),
            ("layout hash", facts.layout_hash, layout_hash),
        ):
            if known is not None and found != known:
                raise LayoutUnknown(self.name, what, found, known)
        if facts.body_bytes != self.body.nbytes:
            raise LayoutUnknown(self.name, "body size", self.body.nbytes, facts.body_bytes)
        if facts.state == SegmentState.CLOSED:
            raise StaleHost(self.name, "closed", 0)
        if facts.state == SegmentState.CREATING and not creating:
            raise SegmentNotReady(self.name)

    @property
    def state(self) -> SegmentState:
        return SegmentState(read_word(self.header, _STATE))

    @property
    def counts(self) -> tuple[int, ...]:
        """The sizes that were given at creation."""
        return tuple(int(count) for count in self.header.view(SEGMENT_HEADER)[0]["counts"])

    def facts(self) -> SegmentFacts:
        """The header in Python's terms."""
        return _facts_of(self.name, self.header.view(SEGMENT_HEADER)[0])

    def go_live(self) -> None:
        """The content is complete: let readers in."""
        self._move(SegmentState.LIVE)

    def mark_closed(self) -> None:
        """Tell every reader that holds this mapping to let go of it; closing twice is harmless."""
        if self.state != SegmentState.CLOSED:
            self._move(SegmentState.CLOSED)

    def _move(self, state: SegmentState) -> None:
        assert state in SEGMENT_STATE_MOVES[self.state], f"{self.name}: {self.state.name} -> {state.name}"
        self.beat()
        write_word(self.header, _STATE, int(state))  # ORDER segment-state: pairs with host_state's load

    def beat(self, now_ns: int | None = None) -> None:
        """Renew the heartbeat; whoever keeps the segment alive calls this at least four times a second."""
        beat(self.header, time.monotonic_ns() if now_ns is None else now_ns)

    def check_live(self, now_ns: int | None = None) -> None:
        """Raise StaleHost when the segment is closed or its heartbeat older than 1 s."""
        now = time.monotonic_ns() if now_ns is None else now_ns
        code = host_state(self.header, now)
        if code:
            self.raise_stale(code, now)

    def raise_stale(self, code: int, now_ns: int) -> None:
        """Raise StaleHost for a code of `host_state`."""
        reason = f"state {self.state.name}" if code == 1 else "heartbeat too old"
        raise StaleHost(self.name, reason, now_ns - int(self.header[_HEARTBEAT]))

    def words(self, offset_bytes: int, length_bytes: int) -> Words:
        """View of a part of the body, int64[length_bytes / 8]."""
        assert offset_bytes % 8 == 0 and length_bytes % 8 == 0, "parts are whole words"
        assert 0 <= offset_bytes <= offset_bytes + length_bytes <= self.body.nbytes, f"{self.name}: part ends behind the body"
        return self.body[offset_bytes // 8 : (offset_bytes + length_bytes) // 8]

    def close(self) -> None:
        """Drop this object's views. Views that others took keep the memory mapped until they are gone."""
        del self.header, self.body, self.whole
        try:
            self._mapping.close()
        except BufferError:
            self.writable = False  # someone's view still stands on it; the mapping goes with the last of them

    def __enter__(self) -> Segment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _take_memory(descriptor: int, name: str, total_bytes: int) -> None:
    """Size the object and take every page now, so that a full /dev/shm is an error here and never a SIGBUS later."""
    try:
        os.posix_fallocate(descriptor, 0, total_bytes)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        free = os.statvfs(SHM_DIRECTORY)
        raise SegmentNoSpace(name, total_bytes, free.f_bavail * free.f_frsize) from error


def _facts_of(name: str, head: np.void) -> SegmentFacts:
    return SegmentFacts(
        name=name,
        layout_name=bytes(head["layout_name"]).decode("ascii", "replace"),
        layout_version=int(head["layout_version"]),
        layout_hash=int(head["layout_hash"]),
        state=SegmentState(int(head["state"])),
        header_bytes=SEGMENT_HEADER_BYTES,
        body_bytes=int(head["body_bytes"]),
        creator_pid=int(head["creator_pid"]),
        epoch=int(head["epoch"]),
        heartbeat_ns=int(head["heartbeat_ns"]),
    )


def retire(name: str) -> bool:
    """Mark segment `name` CLOSED, so that those who still map it notice, and unlink it. False when there was none.

    Also removes what a creator left half made. Called at a start and at an orderly stop, by the holder of the data directory's lock.
    """
    import posix_ipc

    try:
        memory = posix_ipc.SharedMemory(name)
    except posix_ipc.ExistentialError:
        return False
    try:
        if os.fstat(memory.fd).st_size >= SEGMENT_HEADER_BYTES:
            with mmap.mmap(memory.fd, SEGMENT_HEADER_BYTES, flags=mmap.MAP_SHARED) as page:
                header = np.frombuffer(page, dtype=np.int64)
                if header[header_word("magic")] == SEGMENT_MAGIC:
                    write_word(header, _STATE, _CLOSED)  # ORDER segment-state: pairs with host_state's load
                del header
    finally:
        memory.close_fd()
    posix_ipc.unlink_shared_memory(name)
    return True


def list_segments(instance: str = "") -> list[SegmentFacts]:
    """Facts of every segment of one instance, by name; files that are no segments of ours are left out."""
    found = []
    for path in sorted(SHM_DIRECTORY.iterdir()):
        base, _, suffix = path.name.partition(".")
        if suffix == instance and base.startswith(NAME_PREFIXES):
            facts = _read_facts(path)
            if facts is not None:
                found.append(facts)
    return found


def _read_facts(path: Path) -> SegmentFacts | None:
    try:
        with path.open("rb") as file:
            page = file.read(SEGMENT_HEADER_BYTES)
    except (FileNotFoundError, PermissionError):
        return None  # removed since the listing, or another user's
    if len(page) < SEGMENT_HEADER_BYTES:
        return None
    head = np.frombuffer(page, dtype=SEGMENT_HEADER)[0]
    return _facts_of(f"/{path.name}", head) if int(head["magic"]) == SEGMENT_MAGIC else None
