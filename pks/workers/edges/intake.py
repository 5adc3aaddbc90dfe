"""A worker's own intake ring: groups in, one answer each, awaited; sent again when the capture that owed the answer has died.

Owns the claim, the tickets and who waits for which. Called in the worker's event loop alone. What `pks.client.producer` is to programs of
users this is to workers of edges, which may not import a client.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from pks.base.errors import Retryable
from pks.segments.claims import take_claim
from pks.segments.errors import AlreadyClaimed
from pks.segments.ring import RingReader, RingWriter
from pks.segments.wait import Waker
from pks.topology import workers_of
from pks.workers.runtime import Context

REPLIES_A_LOOK = 4096
LOOK_SECONDS = 0.001
CLOSED_LOOK_SECONDS = 0.1

CAPTURE_NUMBER = 0
"""Capture's place in the plan of workers, and so its row in the control segment."""

assert workers_of(1)[CAPTURE_NUMBER].name == "capture", "capture is the first worker"


class NoFreeRing(Retryable):
    """Every intake ring for sources is claimed by another program."""

    def __init__(self, rings: int) -> None:
        super().__init__(f"all {rings} intake rings are taken by other programs: nothing is taken in until one is given back")
        self.rings = rings


class Owed(NamedTuple):
    """A group that was sent, and who waits for its answer."""

    group: Any
    answer: asyncio.Future[Any]


class OwnIntake:
    """One claimed ring. `send` in the order in which things are to be booked; `run` beside it takes the answers."""

    def __init__(self, context: Context) -> None:
        """Raises NoFreeRing."""
        self.context = context
        self.claim, number = self._take_ring()
        self.intake = context.host.intake(number)
        self.requests, self.replies = RingWriter(self.intake.requests), RingReader(self.intake.replies, "source")
        self.waker = Waker(self.intake.requests, context.host.instance)
        self._owed: dict[int, Owed] = {}
        self._sent = asyncio.Event()
        self._capture = self._ready_capture()

    def _take_ring(self) -> tuple[Any, int]:
        """From the highest down: programs of users look from the lowest up."""
        for number in range(self.context.host.sources - 1, 0, -1):
            try:
                return take_claim(self.context.paths.run, f"intake-{number}"), number
            except AlreadyClaimed:
                continue
        raise NoFreeRing(self.context.host.sources - 1)

    @property
    def is_open(self) -> bool:
        """Whether the system takes input now."""
        return self.intake.is_open

    async def send(self, group: Any) -> asyncio.Future[Any]:
        """Put one group (EVENT[n]) in, once there is room and the system takes input; the REPLY to come."""
        owed = Owed(group, asyncio.get_running_loop().create_future())
        while not self._put(owed):
            await asyncio.sleep(LOOK_SECONDS if self.is_open else CLOSED_LOOK_SECONDS)
        return owed.answer

    def _put(self, owed: Owed) -> bool:
        """Put a group in if there is room now; its ticket is the cursor of its first record."""
        group = owed.group
        if not self.is_open or self.requests.free(len(group)) < len(group):
            return False
        self._owed[int(self.intake.requests.head) + 1] = owed
        self._sent.set()
        self.requests.publish_all(group)
        self.waker.wake()
        return True

    async def run(self) -> None:
        """Take answers for ever; cancelled at the end."""
        while True:
            if not self._owed:
                self._take()  # what was owed to an earlier life
                self._sent.clear()
                await self._sent.wait()
            lost = self._lost_upto()
            if not self._take():
                await asyncio.sleep(LOOK_SECONDS)
            if lost >= 0:
                await self._send_again(lost)

    def _take(self) -> int:
        replies = self.replies.read(REPLIES_A_LOOK)
        if len(replies):
            self.replies.finish()
        for reply in replies:
            owed = self._owed.pop(int(reply["ticket"]), None)
            if owed is not None and not owed.answer.done():
                owed.answer.set_result(reply.copy())
        return len(replies)

    def _lost_upto(self) -> int:
        """After another capture took over: the last ticket that the dead one had taken; -1 otherwise."""
        capture = self._ready_capture()
        if capture in (0, self._capture):
            return -1
        self._capture = capture
        return int(self.intake.requests.cursor("capture"))

    async def _send_again(self, lost: int) -> None:
        """Answers that a dead capture owed never come; what was booked is answered with its first sequence."""
        self._take()
        for ticket in sorted(ticket for ticket in self._owed if ticket <= lost):
            owed = self._owed.pop(ticket)
            while not self._put(owed):
                await asyncio.sleep(LOOK_SECONDS if self.is_open else CLOSED_LOOK_SECONDS)
                self._take()

    def _ready_capture(self) -> int:
        """Pid of the capture that reads the rings, 0 while it starts."""
        row = self.context.host.control.reports.read(CAPTURE_NUMBER)
        return int(row["pid"]) if row["ready"] else 0

    def close(self) -> None:
        """Give the ring back."""
        self.claim.release()
