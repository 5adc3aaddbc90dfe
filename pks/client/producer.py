"""A producer: one intake ring of the running system, claimed; records in, one answer a group back, in order.

Used by `pks book`, the loader of reference data and every program that books on the host. Reads reference data from the journal, where each
definition stands whole. Never blocks for ever: a full ring is told, and the caller goes on later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pks.base.errors import Retryable
from pks.base.limits import BOOKING_STALE_NS
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import AnyDefinition, Source
from pks.engine.instruments.events import catalogue_of
from pks.layouts.codes import Subject
from pks.layouts.segment import SegmentState
from pks.segments.claims import Claim, take_claim
from pks.segments.errors import AlreadyClaimed, StaleHost
from pks.segments.journal_view import JournalView
from pks.segments.ring import RingReader, RingWriter
from pks.segments.shm import Segment
from pks.segments.wait import Waker
from pks.topology import Host, Paths, workers_of

REPLY_BATCH = 4096
NO_ROOM = -1
POLL_SECONDS = 0.0005
LATE_SECONDS = 0.01
"""Between two looks for a late heartbeat."""
T = TypeVar("T")

CAPTURE_NUMBER = 0
"""Capture's place in the plan of workers (`topology.workers_of`), and so its row in the control segment."""

assert workers_of(1)[CAPTURE_NUMBER].name == "capture", "capture is the first worker"


class NoFreeIntake(Retryable):
    """Every intake ring for sources is claimed by another program."""

    def __init__(self, rings: int) -> None:
        super().__init__(f"all {rings} intake rings are taken by other programs; try again when one has ended")
        self.rings = rings


class DoorClosed(Retryable):
    """The system starts or stops: it takes no input now."""

    def __init__(self) -> None:
        super().__init__("SHUTTING_DOWN: the system takes no input now (it starts or stops)")


class SystemGone(StaleHost):
    """The system ended, or gave no sign of life for BOOKING_STALE_NS, while somebody booked."""

    def __init__(self, name: str, reason: str, age_ns: int) -> None:
        super().__init__(name, reason, age_ns)
        self.args = (
            f"the system went away while booking ({reason}, last heartbeat {age_ns / 1e9:.1f} s ago); what was sent and not answered "
            f"may or may not be booked, and may be sent again",
        )


class NoAnswer(Retryable):
    """The system has not answered in time; what was sent may or may not be booked, and may be sent again."""

    def __init__(self, outstanding: int, seconds: float) -> None:
        super().__init__(f"no answer to {outstanding} records within {seconds:g} s; they may be sent again")
        self.outstanding = outstanding


def check_host(segment: Segment) -> bool:
    """Whether the heartbeat is in time. Raises SystemGone: closed, its maker ended, or the heartbeat older than BOOKING_STALE_NS."""
    try:
        segment.check_live()
    except StaleHost as error:
        facts = segment.facts()
        if facts.state != SegmentState.LIVE:
            raise SystemGone(segment.name, f"state {facts.state.name}", error.age_ns) from None
        if not Path("/proc", str(facts.creator_pid)).exists():
            raise SystemGone(segment.name, f"its supervisor, pid {facts.creator_pid}, is gone", error.age_ns) from None
        if error.age_ns > BOOKING_STALE_NS:
            raise SystemGone(segment.name, "heartbeat too old", error.age_ns) from None
        return False
    return True


def patiently(segment: Segment, read: Callable[[], T]) -> T:
    """What `read` gives; a late heartbeat, which it refuses, is waited for. Raises SystemGone."""
    while True:
        try:
            return read()
        except StaleHost:
            if not check_host(segment):
                time.sleep(LATE_SECONDS)


def read_catalogue(host: Host, data_dir: Path) -> Catalogue:
    """The reference data of the running system as it is now."""
    view, rows = JournalView(Paths(data_dir).journal), patiently(host.refdata.segment, host.refdata.snapshot)
    view.refresh()
    return catalogue_of(view.records, rows)


class Producer:
    """A claimed intake ring. `send` puts groups in, `answers` takes what came back; `book` does both for a few groups."""

    def __init__(self, host: Host, data_dir: Path) -> None:
        self.host, self.data_dir = host, data_dir
        self.claim, self.number = self._take_ring()
        try:
            self._attach()
        except BaseException:
            self.claim.release()  # the system starts: who tries again is to find a free ring
            raise

    def _attach(self) -> None:
        intake = self.host.intake(self.number)
        self.intake = intake
        self.requests, self.replies = RingWriter(intake.requests), RingReader(intake.replies, "source")
        self.waker = Waker(intake.requests, self.host.instance)
        self.first = intake.requests.head + 1  # answers to lower tickets are a dead producer's, and may still come
        self._capture = patiently(self.host.control.segment, self._ready_capture)

    @classmethod
    def open(cls, instance: str, data_dir: Path) -> Producer:
        """On the running system. Raises SegmentMissing, StaleHost, NoFreeIntake."""
        return cls(Host.open(instance, data_dir, produces=True), data_dir)

    def _take_ring(self) -> tuple[Claim, int]:
        run = Paths(self.data_dir).run
        for number in range(1, self.host.sources):
            try:
                return take_claim(run, f"intake-{number}"), number
            except AlreadyClaimed:
                continue
        raise NoFreeIntake(self.host.sources - 1)

    def send(self, records: Any) -> int:
        """Publish whole groups (EVENT[n]), all or nothing; the ticket of the first record, NO_ROOM when the ring is full now."""
        if not self.intake.is_open:
            raise DoorClosed
        if self.requests.free(len(records)) < len(records):
            return NO_ROOM
        first = self.intake.requests.head + 1
        published = self.requests.publish(records)
        assert published == len(records), "there was room"
        self.waker.wake()
        return int(first)

    def answers(self) -> Any:
        """REPLY[n]: what has come back since the last call, perhaps nothing."""
        replies = self.replies.read(REPLY_BATCH)
        if len(replies):
            self.replies.finish()
            if int(replies["ticket"].min()) < self.first:
                replies = replies[replies["ticket"] >= self.first]
        return replies

    def lost_upto(self) -> int:
        """After another capture took the ring over: its last ticket that the dead one had taken. -1 otherwise, and once it was told.

        Answers that the dead one owed are lost with it. Take `answers` after this call; what is missing then of the tickets up to this
        one is to be sent again, and is answered with its first sequence if it was booked.
        """
        try:
            capture = self._ready_capture()
        except StaleHost:
            self.check_live()
            return -1  # nothing is known of a takeover until the heartbeat is back
        if capture in (0, self._capture):
            return -1
        done = int(self.intake.requests.cursor("capture"))
        self._capture = capture
        return done

    def check_live(self) -> None:
        """Raise SystemGone when the system is gone; a heartbeat that is late by less than BOOKING_STALE_NS is not."""
        check_host(self.intake.segment)

    def _ready_capture(self) -> int:
        """Pid of the capture that reads the rings, 0 while it starts."""
        row = self.host.control.reports.read(CAPTURE_NUMBER)
        return int(row["pid"]) if row["ready"] else 0

    def book(self, groups: Iterable[Any], timeout: float = 60.0) -> list[Any]:
        """Send groups one after another and wait for all answers: one REPLY each, in order. Raises NoAnswer, DoorClosed, SystemGone."""
        answers: dict[int, Any] = {}
        waiting: dict[int, tuple[int, Any]] = {}  # ticket -> place among the groups, and the group
        deadline = time.monotonic() + timeout

        def take() -> None:
            lost = self.lost_upto()
            fresh = self.answers()
            for reply in fresh:
                place, _ = waiting.pop(int(reply["ticket"]), (-1, None))
                if place >= 0:
                    answers[place] = reply
            for ticket in [ticket for ticket in waiting if ticket <= lost]:
                send(*waiting.pop(ticket))
            if not len(fresh):
                self._breathe(deadline, len(waiting), timeout)

        def send(place: int, group: Any) -> None:
            while (ticket := self.send(group)) == NO_ROOM:
                take()
            waiting[ticket] = place, group

        count = 0
        for count, group in enumerate(groups, start=1):
            send(count - 1, group)
        while waiting:
            take()
        return [answers[place] for place in range(count)]

    def _breathe(self, deadline: float, outstanding: int, timeout: float) -> None:
        """Let capture work; notice when it does not."""
        self.check_live()
        if time.monotonic() > deadline:
            raise NoAnswer(outstanding, timeout)
        time.sleep(POLL_SECONDS)

    def define_sources(self, catalogue: Catalogue, codes: Iterable[str]) -> list[AnyDefinition]:
        """The definitions of sources that are not known yet, to be booked before trades that name them."""
        return [Source(code=code) for code in dict.fromkeys(codes) if code and not catalogue.id_of(Subject.SOURCE, code)]

    def close(self) -> None:
        """Give the ring back."""
        self.claim.release()

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
