"""A running system as one of its readers sees it: `attach` maps what is there, read-only, and asks no server.

Owns the reader's mappings, opened when they are first needed. Strategies, screens and scripts use it; the system does not know of them. A
reader sees all books of the host. Needs numpy and numba alone.
"""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import NoReturn

from pks.client.accounts import Accounts
from pks.client.errors import NotInThisBuild
from pks.client.kernels import RingArrays
from pks.client.names import Names
from pks.client.positions import Positions
from pks.client.updates import Updates
from pks.layouts.fields import SEGMENTS
from pks.segments.errors import SegmentMissing, SegmentNotReady, StaleHost
from pks.segments.ring import Ring, ring_cursor
from pks.segments.shm import Segment, segment_name
from pks.segments.slots import SlotTable
from pks.segments.table import RefdataTable

INSTANCE_VARIABLE = "PKS_INSTANCE"
JOURNAL_PLACE, ACCUMULATOR_PLACE = "journal", "accumulator-"

ATTACH_NAP_SECONDS = 0.01
"""Between two attempts of an `attach` that may wait."""


def attach(instance: str | None = None, *, timeout: float = 0.0) -> Host:
    """The running system of this name (default: PKS_INSTANCE, else the one without a name), to be read.

    timeout: seconds to wait for one that starts. Raises SegmentMissing (nothing runs), SegmentNotReady (it starts), StaleHost (its last
    segments are there, it is gone), LayoutUnknown (another version runs), PermissionError (another user's, and not our group).
    """
    named = os.environ.get(INSTANCE_VARIABLE, "") if instance is None else instance
    deadline = time.monotonic() + timeout
    while True:
        try:
            return Host(named)
        except (SegmentMissing, SegmentNotReady, StaleHost):
            if time.monotonic() >= deadline:
                raise
            time.sleep(ATTACH_NAP_SECONDS)


class Host:
    """The segments of one system. Every call raises StaleHost when the system is gone, stopped or hangs: then attach anew."""

    def __init__(self, instance: str = "") -> None:
        self.instance = instance
        self._segments: dict[str, Segment] = {}
        self._rings: dict[str, Ring] = {}
        self._accounts: Accounts | None = None
        self._closed = False
        try:
            self._names = Names(RefdataTable(self._table("refdata")))
            self._positions = Positions(self._table("positions"), self._names)
            self.check_live()
        except BaseException:
            self.close()
            raise

    # how far the system is

    @property
    def accepted_sequence(self) -> int:
        """Last event that has its place in the order."""
        self.check_live()
        return self._ring("events").head

    @property
    def durable_sequence(self) -> int:
        """Last event that is on disk; what lies behind it may still be lost with the power."""
        self.check_live()
        return self._cursors(JOURNAL_PLACE)[0]

    @property
    def applied_sequence(self) -> int:
        """Last event that every accumulator has applied: all positions reflect it."""
        self.check_live()
        return min(self._cursors(ACCUMULATOR_PLACE))

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the oldest sign of life of a mapped segment."""
        self.check_live()
        now_ns = time.monotonic_ns()
        return max(now_ns - segment.facts().heartbeat_ns for segment in self._segments.values()) / 1e9

    def check_live(self) -> None:
        """Raise StaleHost when the system is gone, or this host was closed."""
        self._check_open()
        for segment in self._segments.values():
            segment.check_live()

    def _check_open(self) -> None:
        if self._closed:
            raise StaleHost(segment_name(SEGMENTS["positions"].base, self.instance), "let go of by this program", 0)

    @property
    def shards(self) -> int:
        """Accumulators, each with a range of the positions."""
        return self._table("positions").ranges

    # what is read

    @property
    def positions(self) -> Positions:
        """One by name, many by book, all as arrays."""
        self._check_open()
        return self._positions

    @property
    def accounts(self) -> Accounts:
        """Quantities by (account, instrument)."""
        self.check_live()
        if self._accounts is None:
            self._accounts = Accounts(self._table("accounts"), self._names)
        return self._accounts

    @property
    def names(self) -> Names:
        """Books, instruments, accounts and currencies: names to ids and back."""
        self.check_live()
        return self._names

    def updates(self, book: str | None = None, timeout: float | None = None, *, initial: bool = False) -> Updates:
        """Changed positions as they come, of one book or all; each is given out once with its latest state.

        timeout: seconds without a change after which the iteration ends, None: never. initial: begin with every position as it is now.
        Raises UnknownName, StaleHost; the iteration raises StaleHost too.
        """
        self.check_live()
        rings = [self._ring("updates", shard) for shard in range(self.shards)]
        return Updates(self._table("positions"), self.positions, rings, book, timeout, initial)

    @property
    def update_rings(self) -> list[RingArrays]:
        """The updates ring of each shard, for `kernels.updates_read`."""
        self.check_live()
        rings = [self._ring("updates", shard) for shard in range(self.shards)]
        return [RingArrays(ring.control, ring.records) for ring in rings]

    @property
    def marks(self) -> NoReturn:
        """Raises NotInThisBuild."""
        raise NotInThisBuild("marks", "/md-marks-v1")

    @property
    def greeks(self) -> NoReturn:
        """Raises NotInThisBuild."""
        raise NotInThisBuild("Greeks", "/pks-greeks-v1")

    # mappings

    def close(self) -> None:
        """Let go of every mapping. Handles, arrays and streams that were taken keep theirs until they are dropped, and stay readable."""
        self._closed = True
        self._rings.clear()
        self._segments.clear()
        self.__dict__.pop("_positions", None)
        self._accounts = None

    def __enter__(self) -> Host:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{', '.join(sorted(self._segments))}"
        return f"<Host {self.instance or '(no name)'}: {state}>"

    def _segment(self, channel: str, index: int = 0) -> Segment:
        layout = SEGMENTS[channel]
        name = segment_name(layout.base.format(index=index), self.instance)
        if name not in self._segments:
            self._segments[name] = Segment.open(name, layout_name=layout.name, layout_version=layout.version, layout_hash=layout.hash)
        return self._segments[name]

    def _table(self, channel: str) -> SlotTable:
        segment = self._segment(channel)
        ranges, rows = segment.counts[:2]
        return SlotTable(segment, channel, SEGMENTS[channel].dtypes[0], ranges, rows)

    def _ring(self, channel: str, index: int = 0) -> Ring:
        label = f"{channel}-{index}"
        if label not in self._rings:
            segment = self._segment(channel, index)
            self._rings[label] = Ring.attach(segment.body, label, SEGMENTS[channel].dtypes[0])
        return self._rings[label]

    def _cursors(self, prefix: str) -> list[int]:
        """Cursors of the places of the events ring whose names begin so."""
        ring = self._ring("events")
        return [int(ring_cursor(ring.control, number)) for number, place in enumerate(ring.places) if place.name.startswith(prefix)]
