"""The running system as the gateway reads it: mapped read-only, found again after it was away, and how fresh what it shows is.

Owns the reader's mappings of this process and the judgement `live` or `stale`, which every answer carries. REST, WebSocket and gRPC ask it;
it asks no server and writes nothing. One event loop uses it; no call waits.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from typing import NamedTuple

from pks.base.errors import Retryable
from pks.client.host import Host, attach
from pks.layouts.segment import WorkerState
from pks.segments.errors import SegmentMissing, SegmentNotReady, StaleHost
from pks.topology import Host as Segments

STATE_HEADER, SEQUENCE_HEADER, DURABLE_HEADER = "Pks-State", "Pks-Sequence", "Pks-Durable-Sequence"

BEHIND_EVENTS_MAX = 1 << 16
"""An accumulator that is further behind what was accepted does not show what is."""


STATES_SECONDS = 0.05
"""How long the workers' states are taken for what they were."""


class State(enum.StrEnum):
    """Whether what is shown is of now."""

    LIVE = "live"
    STALE = "stale"  # a worker that makes it is away or far behind: the last figures, which may no longer be right


class NotLive(Retryable):
    """There is nothing to show: the system starts, ends or hangs."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the core gives no figures now: {reason}")
        self.reason = reason


class Freshness(NamedTuple):
    """What an answer says of its figures: they reflect every event up to `applied`; the disk has those up to `durable`."""

    state: State
    applied: int
    durable: int

    @property
    def headers(self) -> dict[str, str]:
        """Of an HTTP answer."""
        return {STATE_HEADER: self.state.value, SEQUENCE_HEADER: str(self.applied), DURABLE_HEADER: str(self.durable)}


class Live:
    """The host, attached when it is first asked for and again after it was gone. `attachments` counts: readers with cursors begin anew."""

    def __init__(self, instance: str, segments: Segments, now: Callable[[], float] = time.monotonic) -> None:
        """segments: the worker's own host, in which the supervisor says how the workers are."""
        self._instance, self._segments, self._now = instance, segments, now
        self._host: Host | None = None
        self._accumulators_run, self._looked_at = False, -STATES_SECONDS
        self.attachments = 0

    @property
    def host(self) -> Host:
        """A host that lives. Raises NotLive."""
        if self._host is not None:
            try:
                self._host.check_live()
            except StaleHost as error:
                self._let_go()
                raise NotLive(str(error)) from error
            return self._host
        try:
            self._host = attach(self._instance)
        except (SegmentMissing, SegmentNotReady, StaleHost) as error:
            raise NotLive(str(error)) from error
        self.attachments += 1
        return self._host

    def freshness(self) -> Freshness:
        """How fresh the figures are. Raises NotLive."""
        try:
            host = self.host
            durable = host.durable_sequence  # before the others: none of them is behind it for long
            applied, accepted = host.applied_sequence, host.accepted_sequence
        except StaleHost as error:
            self._let_go()
            raise NotLive(str(error)) from error
        if self._now() - self._looked_at >= STATES_SECONDS:
            self._looked_at = self._now()
            states = [worker.state for worker in self._segments.control.workers() if worker.name.startswith("accumulator-")]
            self._accumulators_run = all(state == WorkerState.READY for state in states)
        is_live = accepted - applied <= BEHIND_EVENTS_MAX and self._accumulators_run
        return Freshness(State.LIVE if is_live else State.STALE, applied, durable)

    def _let_go(self) -> None:
        if self._host is not None:
            self._host.close()
            self._host = None

    def close(self) -> None:
        """Let go of the mappings."""
        self._let_go()
