"""What can go wrong with shared memory, one class a thing, grouped by what the caller should do.

Raised by this room's Python forms; kernels return codes. Processes never exchange these objects.
"""

from __future__ import annotations

from pks.base.errors import Fatal, Retryable


class SegmentMissing(Retryable):
    """No segment of this name exists: nothing runs, or not yet."""

    def __init__(self, name: str) -> None:
        super().__init__(f"segment {name} does not exist; is the system running?")
        self.name = name


class SegmentNotReady(Retryable):
    """The segment is being filled by its maker."""

    def __init__(self, name: str) -> None:
        super().__init__(f"segment {name} is not complete yet")
        self.name = name


class StaleHost(Retryable):
    """The segment is closed or nobody keeps it alive: its content is yesterday's. Open it anew."""

    def __init__(self, name: str, reason: str, age_ns: int) -> None:
        super().__init__(f"segment {name}: {reason}, last heartbeat {age_ns / 1e9:.3f} s ago")
        self.name, self.reason, self.age_ns = name, reason, age_ns


class SegmentExists(Fatal):
    """A segment of this name is there already; a start retires old ones first."""

    def __init__(self, name: str) -> None:
        super().__init__(f"segment {name} exists already")
        self.name = name


class SegmentNoSpace(Fatal):
    """/dev/shm cannot hold the segment; nothing was left behind."""

    def __init__(self, name: str, wanted_bytes: int, free_bytes: int) -> None:
        super().__init__(f"segment {name} needs {wanted_bytes} bytes of /dev/shm, {free_bytes} are free; set a smaller [shm] size")
        self.name, self.wanted_bytes, self.free_bytes = name, wanted_bytes, free_bytes


class NotASegment(Fatal):
    """The shared memory of this name was not made by this program."""

    def __init__(self, name: str, magic: int) -> None:
        super().__init__(f"{name} is no segment of this program (magic {magic & 0xFFFFFFFFFFFFFFFF:#x})")
        self.name, self.magic = name, magic


class LayoutUnknown(Fatal):
    """The bytes have another layout than this program knows."""

    def __init__(self, name: str, what: str, found: int | str, known: int | str) -> None:
        super().__init__(f"{name}: {what} is {found!r}, this program knows {known!r}")
        self.name, self.what, self.found, self.known = name, what, found, known


class AlreadyClaimed(Fatal):
    """Another process (or another part of this one) is the writer."""

    def __init__(self, claim: str, holder: str) -> None:
        super().__init__(f"{claim} is claimed already, by {holder}")
        self.claim, self.holder = claim, holder


class RingFull(Retryable):
    """A claim would overrun the slowest gating reader; nothing was written."""

    def __init__(self, ring: str, requested: int, free: int, slowest: str) -> None:
        super().__init__(f"ring {ring}: {requested} records requested, {free} free, waiting on {slowest}")
        self.ring, self.requested, self.free, self.slowest = ring, requested, free, slowest


class RingLapped(Retryable):
    """The writer has overwritten records that a free reader had not read; continue behind `cursor`."""

    def __init__(self, ring: str, cursor: int, oldest: int) -> None:
        super().__init__(f"ring {ring}: records {cursor + 1} to {oldest} were overwritten before they were read")
        self.ring, self.cursor, self.lost, self.continue_at = ring, cursor, oldest - cursor, oldest


class PlaceUnknown(Fatal):
    """The ring was made without a place for this reader."""

    def __init__(self, ring: str, reader: str, places: list[str]) -> None:
        super().__init__(f"ring {ring} has no place for reader {reader!r}; it has {', '.join(places) or 'none'}")
        self.ring, self.reader, self.places = ring, reader, places


class StreamDamaged(Fatal):
    """The file of a recorded stream does not hold what it should."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"stream {path}: {reason}")
        self.path, self.reason = path, reason


class UnstableSlot(Retryable):
    """A slot changed under every attempt to read it."""

    def __init__(self, table: str, row: int, waited_ns: int) -> None:
        super().__init__(f"table {table}: slot {row} did not hold still for {waited_ns} ns")
        self.table, self.row, self.waited_ns = table, row, waited_ns


class TableFull(Fatal):
    """A range of a slot table has no slot left for another key."""

    def __init__(self, table: str, range_index: int, slots: int) -> None:
        super().__init__(f"table {table}: range {range_index} holds {slots} slots and all are taken; set a larger [shm] size")
        self.table, self.range_index, self.slots = table, range_index, slots


class CellsFull(Fatal):
    """An owner has named more metrics than the control segment has room for."""

    def __init__(self, owner: str, kind: str, room: int) -> None:
        super().__init__(f"owner {owner}: no room for another {kind}, {room} are taken")
        self.owner, self.kind, self.room = owner, kind, room
