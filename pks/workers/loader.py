"""The loader: reference data and opening lots of a desk folder into the running system, and the demo's generated trading day.

Everything goes in at the top, through intake ring 0, like any other input; a definition that is known already is answered as a duplicate
and journaled once only, so every start may load the same folder again. Reads files; writes no segment but its ring.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.clock import format_time
from pks.base.errors import CODES, Code, Refused
from pks.edges.files.desk import packaged_desk, read_desk
from pks.engine.booking.border import DEFAULT_SOURCE, Border
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import AnyDefinition, Source, subject_of
from pks.engine.instruments.events import definition_event
from pks.layouts.codes import Subject
from pks.layouts.segment import WORKER_REPORT
from pks.segments.ring import RingReader, RingWriter
from pks.segments.slots import TRIES_MAX, slot_read
from pks.segments.wait import Waker
from pks.topology import workers_of
from pks.workers.demo import DEMO_SOURCE, DemoDay
from pks.workers.runtime import Context

DEMO_BATCH_MAX = 512

CAPTURE_NUMBER = 0
"""Capture's place in the plan of workers, and so its row in the control segment."""

assert workers_of(1)[CAPTURE_NUMBER].name == "capture", "capture is the first worker"


class Loader:
    """Implements runtime.Worker: a list of groups to send, then a day to stream."""

    def __init__(self, context: Context) -> None:
        self.context = context
        intake = context.host.intake(0)
        self.intake = intake
        self.requests, self.replies = RingWriter(intake.requests), RingReader(intake.replies, "source")
        self.waker = Waker(intake.requests, context.host.instance)
        self.sent = 0
        self.owed: dict[int, tuple[str, Any]] = {}  # by ticket: name and records of what is not answered
        self.again: deque[tuple[str, Any]] = deque()  # to be sent again
        self.capture = self._ready_capture()
        self.refused = context.cells.counter("refused")
        self.folder = packaged_desk() if context.config.desk == "demo" else Path(context.config.desk)
        self.steps = self._steps()
        self.is_loaded = False
        self.demo: DemoDay | None = None
        self.streamed = 0
        self.began = 0.0
        context.ready()

    def _steps(self) -> Iterator[None]:
        """Load the desk; each `next` does a bounded piece, and yields None while it has to wait."""
        desk = read_desk(self.folder)
        for error in desk.errors:
            self.context.log.error("a row of the desk is refused", error=str(error))
            self.context.fail(str(error))
        definitions: list[AnyDefinition] = [*desk.definitions]
        sources = {d.code for d in definitions if isinstance(d, Source)}
        definitions += [Source(code=code) for code in (DEFAULT_SOURCE, DEMO_SOURCE) if code not in sources]
        for definition in definitions:
            yield from self._send(definition_event(definition), f"{subject_of(definition).name.lower()} {definition.code}")
        yield from self._settled()
        border = Border(self._catalogue(definitions))
        for row in desk.opening_lots:
            try:
                yield from self._send(border.group_of(row), f"opening lot {row.lot_id}")
            except Refused as error:
                self.context.log.error("an opening lot is refused", lot=row.lot_id, error=str(error))
        yield from self._settled()
        self.context.log.info("desk loaded", folder=str(self.folder), definitions=len(definitions), opening_lots=len(desk.opening_lots))
        if self.context.config.demo_rate:
            marks = self.folder / "marks.csv"
            day = random.Random(self.context.epoch)
            life = f"D{self.context.epoch}.{self.intake.requests.head}"  # no life of the loader gives an id of another one
            self.demo = DemoDay(border, desk.opening_lots, marks, day, life)
            self.began = time.monotonic()

    def _send(self, group: Any, name: str) -> Iterator[None]:
        while self.requests.free(len(group)) < len(group) or not self.intake.is_open:
            yield
        self._publish(name, group)
        self.sent += 1
        self.waker.wake()

    def _publish(self, name: str, group: Any) -> None:
        self.owed[int(self.intake.requests.head) + 1] = name, group
        self.requests.publish_all(group)

    def _settled(self) -> Iterator[None]:
        while self.owed or self.again:
            yield

    def _ready_capture(self) -> int:
        """Pid of the capture that reads the rings, 0 while it starts."""
        row = np.zeros(1, WORKER_REPORT)
        slot_read(self.context.host.control.reports.slots, CAPTURE_NUMBER, row.view(np.int64), TRIES_MAX)
        return int(row[0]["pid"]) if row[0]["ready"] else 0

    def _send_again(self) -> None:
        """Another capture took over: the answers that the dead one owed never come, so what they were about is sent again."""
        capture = self._ready_capture()
        if capture not in (0, self.capture):
            done = self.intake.requests.cursor("capture")
            self._take_answers()
            self.again += [self.owed.pop(ticket) for ticket in sorted(self.owed) if ticket <= done]
            self.capture = capture
        while self.again and self.intake.is_open and self.requests.free(len(self.again[0][1])) >= len(self.again[0][1]):
            self._publish(*self.again.popleft())
            self.waker.wake()

    def _catalogue(self, definitions: list[AnyDefinition]) -> Catalogue:
        """The desk's definitions under the ids that capture gave them."""
        rows = self.context.host.refdata.snapshot()
        ids = {(int(row["subject"]), bytes(row["code"])): int(row["row_id"]) for row in rows}
        catalogue = Catalogue()
        for number, definition in enumerate(definitions, start=1):
            row_id = ids.get((int(subject_of(definition)), definition.code.encode()), 0)
            if row_id:
                catalogue.apply(Subject(subject_of(definition)), row_id, definition, number)
        return catalogue

    def _take_answers(self) -> int:
        replies = self.replies.read(4096)
        if len(replies):
            self.replies.finish()
        for reply in replies:
            if int(reply["ticket"]) not in self.owed:
                continue  # an answer to an earlier life of the loader
            name, _ = self.owed.pop(int(reply["ticket"]))
            code = Code(int(reply["code"]))
            if code not in (Code.ACCEPTED, Code.DUPLICATE):
                self.refused.add()
                if name:
                    self.context.log.error("refused", what=name, code=code.name, reason=CODES[code])
                    self.context.fail(f"{name}: {code.name}: {CODES[code]}")
        return len(replies)

    def step(self) -> int:
        """Send what there is room for; take answers."""
        work = self._take_answers()
        self._send_again()
        for _ in range(64):
            before = self.sent
            try:
                next(self.steps)
            except StopIteration:
                self.is_loaded = True
                break
            if self.sent == before:
                break
            work += 1
        if self.demo is not None:
            work += self._stream(self.demo)
        self.context.cursor = self.sent
        return work

    def _stream(self, demo: DemoDay) -> int:
        """As many generated fills as the rate wants by now."""
        wanted = int((time.monotonic() - self.began) * self.context.config.demo_rate) - self.streamed
        room = min(self.requests.free(), DEMO_BATCH_MAX)
        count = min(wanted, room)
        if count <= 0 or not self.intake.is_open:
            return 0
        groups = [demo.next_fill(format_time(self.context.clock.wall_ns())) for _ in range(count)]
        for ticket, group in enumerate(groups, start=int(self.intake.requests.head) + 1):
            assert len(group) == 1, "a generated fill has no details"
            self.owed[ticket] = "", group
        self.requests.publish_all(np.concatenate(groups))
        self.sent += count
        self.streamed += count
        self.waker.wake()
        return count

    def idle(self) -> None:
        """Look again soon while something is to be sent or answered."""
        self.context.nap(2_000_000 if self.demo or self.owed or self.again or not self.is_loaded else None)

    def housekeeping(self) -> None:
        """Progress."""
        self.context.lag = len(self.owed)

    def drain(self) -> bool:
        """Nothing more is sent; what is out is answered by a capture that drains too."""
        self.demo = None
        self._take_answers()
        return True

    def close(self) -> None:
        """Nothing is held open."""


def make(context: Context) -> Loader:
    """The loader."""
    return Loader(context)


def warm() -> None:
    """It shares capture's kernels."""
    from pks.workers.warm import warm_booking

    warm_booking()
