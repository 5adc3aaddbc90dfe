"""Capture: the one process that puts every event in its place. It checks, deduplicates, routes, links and seals, and answers the sources.

The only writer of the events ring. An answer leaves when the event is durable and applied everywhere, with the verdict that the accumulator
gave. Plain trades and answers are the business of the compiled loop (`capture_loop`); here is what it comes back for. Sources are other
programs: their records and cursors are copied before they are looked at. Source: design.md section 2.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import posix_ipc

from pks.base.clock import StrictlyRecorded
from pks.base.errors import Code
from pks.base.host import Wait
from pks.base.limits import PARK_SECONDS, PARKED_TRADES_MAX
from pks.engine.booking.admit import Admitted
from pks.engine.booking.links import chain_swap
from pks.engine.booking.take import DONE, SLOW, TABLE_FULL, same_trade
from pks.engine.instruments.rows import to_row
from pks.engine.lots.tables import pair_copy, pair_find, pair_set
from pks.layouts.codes import Flag, Kind
from pks.layouts.event import EVENT, EVENT_WORDS, FIELD_NUMBER, REPLY
from pks.layouts.reject import DATES_WORD
from pks.segments.errors import LayoutUnknown, RingLapped
from pks.segments.journal_view import JournalView
from pks.segments.ring import Place, Ring, RingReader, ring_claim, ring_cursor
from pks.segments.slots import VERSION_WORDS, slot_append, slot_current
from pks.segments.table import RefdataTable
from pks.segments.wait import Waker
from pks.topology import Intake
from pks.workers import capture_loop as loop
from pks.workers.booking import Booking, DayFiles, Room
from pks.workers.checkpoint import latest_checkpoint, load_booking
from pks.workers.rejects import NO_REFUSALS, RejectsWriter
from pks.workers.runtime import IDLE_NS, Context

REPLAY_BATCH = 1 << 15
OPEN_RECORDS_MAX = 1 << 17
"""Records without an end of batch, at most, and never more than a quarter of the events ring, which dirty keys hold back."""

PATIENCE_NS = 2_000_000_000
"""How long an orderly stop waits for sources that take no answers: a dead one never will."""

OWED_WAIT_NS = 1_000_000
"""The longest sleep while answers are owed."""

PARKED_TURN_NS = 500_000
"""How long the loop stays while a correction waits for its trade: then the correction is tried again."""

OUTSIDE_FLAGS = np.uint16(0xFFFF ^ (Flag.REENTRY | Flag.GROUP_LEG | Flag.END_OF_BATCH))
"""What a source may say; the rest is ours."""


class IntakeReader(RingReader):
    """The reader of one intake ring; its cursor lies in the loop's row of the source."""

    def __init__(self, ring: Ring, row: Any) -> None:
        self._row = row
        super().__init__(ring, "capture")

    @property
    def cursor(self) -> int:
        """Last record that was read."""
        return int(self._row[loop.CURSOR])

    @cursor.setter
    def cursor(self, cursor: int) -> None:
        self._row[loop.CURSOR] = cursor


class IntakeWatch:
    """What capture waits for at a source: what it has not read, and while it is owed all that it may be owed, only what comes from now on.

    So a source that takes no answers keeps nobody awake. Implements wait.Watched.
    """

    def __init__(self, reader: IntakeReader, row: Any) -> None:
        self.ring, self.place, self._reader, self._row = reader.ring, reader.place, reader, row

    @property
    def cursor(self) -> int:
        """Behind what a wait looks."""
        return self.ring.head if self._row[loop.OWED_COUNT] >= loop.OWED_MAX else self._reader.cursor


class Source:
    """One intake ring as capture sees it: a row of the loop's area."""

    def __init__(self, area: loop.Area, number: int, intake: Intake, instance: str) -> None:
        requests, replies = intake.requests, intake.replies
        loop.set_source(area, number, intake.number, requests, replies, requests.cursor("capture"))
        self.intake, self.number = intake, number
        self.reader = IntakeReader(requests, area.sources[number])
        self.watch = IntakeWatch(self.reader, area.sources[number])
        self.waker = Waker(replies, instance)
        self.waker.posted = area.reply_posted[number]
        self._row, self._owed = area.sources[number], area.owed[number]

    @property
    def owed_count(self) -> int:
        """Answers that have not left yet."""
        return int(self._row[loop.OWED_COUNT])

    def owe(self, answer: Any) -> None:
        """Remember one answer (REPLY[1]), to be sent when it is due."""
        assert self.owed_count < loop.OWED_ROWS, "what may be owed has room"
        self._owed[(int(self._row[loop.OWED_FIRST]) + self.owed_count) & (loop.OWED_ROWS - 1)] = answer[0]
        self._row[loop.OWED_COUNT] += 1

    def forget(self) -> None:
        """Owe nothing, and go on behind the ring's head."""
        self._row[loop.OWED_COUNT] = self._row[loop.OWED_FIRST] = 0
        self.waker.posted[:] = 0
        self.reader.cursor = self.reader.ring.head


@dataclass(frozen=True)
class Parked:
    """A correction that came before its trade."""

    source: int
    ticket: int
    group: Any
    sent: Any  # int64[n, 32]: the group as it came
    deadline_ns: int


class Capture:
    """Implements runtime.Worker."""

    def __init__(self, context: Context) -> None:
        self.context, self.host = context, context.host
        self.ring = self.host.events
        self.rows = self.ring.records
        self.events = self.rows.view(EVENT).reshape(-1)
        self.mask = self.ring.capacity - 1
        self.view = JournalView(context.paths.journal)
        self.journal_place = self.ring.place("journal")
        self.verdict_readers = [self.host.verdicts(k).reader(-1, "capture") for k in range(self.host.shards)]
        self.verdicts = np.zeros((1 << 12, 2), np.int64)
        self.verdicts_count = 0
        self.refdata = RefdataTable(self.host.refdata)
        self.refdata.take()
        files, keys = DayFiles(context.paths.keys), context.config.dedup_keys
        self.booking = Booking(self.record_at, files, keys=keys, durable=self._durable, beat=context.beat)
        self.booking.admission.verdict_of = self._verdict_of
        self.parked: deque[Parked] = deque()
        self.moved_ns = context.clock.monotonic_ns()  # when a step last did anything
        self.held_back = False  # a source has records for which there is no room yet
        self.accepted_count = context.cells.counter("events_accepted")
        self.duplicate_count = context.cells.counter("duplicates")
        self.refused_count = context.cells.counter("refused")
        self.busy_count = context.cells.counter("busy")
        self.dropped_count = context.cells.counter("rejects_dropped")
        self.parked_gauge = context.cells.gauge("parked")
        self.sequence_gauge = context.cells.gauge("sequence")
        intakes = self.host.intakes()
        self.area = loop.new_area(
            self.ring,
            self.journal_place,
            [self.ring.place(f"accumulator-{k}") for k in range(self.host.shards)],
            len(intakes),
            [reader.ring for reader in self.verdict_readers],
            self.host.rejects.ring,
            context.cells.cells,
            [counter.place for counter in (self.accepted_count, self.duplicate_count, self.refused_count, self.dropped_count)],
            context.points,
        )
        self.state = self.area.state
        self.rejects = RejectsWriter(
            self.host.rejects, self.area.reject_state, context.log, self.dropped_count.add, context.clock.monotonic_ns()
        )
        self.state[loop.OPEN_MAX] = min(OPEN_RECORDS_MAX, self.ring.capacity // 4)
        self.waker = Waker(self.ring, self.host.instance)
        self.waker.posted = self.area.posted
        self.sources = [self._source(number, intake) for number, intake in enumerate(intakes)]
        self._recover()
        self.clock = StrictlyRecorded(context.clock, self.booking.recorded_ns)
        if self.booking.sequence == self.ring.start:
            self._start_epoch()
        self.waiter = context.waiter([source.watch for source in self.sources])
        self.turn_ns = loop.TURN_NS if context.wait is Wait.SPIN else 0
        context.ready()

    def _source(self, number: int, intake: Intake) -> Source:
        if not self._is_sound(intake):
            self.context.log.warning("a source wrote garbage over its ring: it is made anew", intake=intake.number)
            self._format(intake)
        return Source(self.area, number, intake, self.host.instance)

    def _is_sound(self, intake: Intake) -> bool:
        """Are the control words of a source's rings what they were made as, and its cursors possible? Other programs write there."""
        if intake.number >= self.host.sources:
            return True
        try:
            requests, replies = intake.requests, intake.replies
            places = requests.places + replies.places
        except (LayoutUnknown, UnicodeDecodeError):
            return False
        ours, theirs = Place("capture", True, self.context.number), Place("source", True, self.host.owners - 1 + intake.number)
        return places == [ours, theirs] and 0 <= requests.head - requests.cursor("capture") <= requests.capacity

    def _format(self, intake: Intake) -> None:
        intake.format(self.host.owners - 1 + intake.number, self.context.number)

    # recovery

    def _recover(self) -> None:
        """Fold checkpoint, journal and the ring's rest up to the last event that was published."""
        context, target = self.context, self.ring.head
        checkpoint = latest_checkpoint(context.paths.checkpoints, target)
        at = 0
        if checkpoint is not None:
            load_booking(self.booking, checkpoint)
            at = checkpoint.sequence
            for sequence, code in checkpoint.arrays["state_refused"].tolist():
                self._learn_verdict(sequence, code)
        start = at
        while at < target:
            durable = self._durable()
            if at < durable:
                last = min(target, durable, at + REPLAY_BATCH)
                self.view.refresh()
                self.booking.learn(self.view.records, -1, at + 1, last)
            else:
                last = target
                self.booking.learn(self.events, self.mask, at + 1, last)
            at = last
            context.beat()
        self.view.release(target)
        self._show_definitions()
        self._read_verdicts()
        context.cursor = target
        context.log.info("recovered", checkpoint=start, sequence=target)

    def _durable(self) -> int:
        return int(ring_cursor(self.ring.control, self.journal_place))

    def _start_epoch(self) -> None:
        """Every start is an EPOCH event; a capture that is only restarted finds it in the ring."""
        epoch = np.zeros(1, EVENT)
        epoch["kind"], epoch["group_count"] = Kind.EPOCH, 1
        self.booking.epoch = max(self.booking.epoch + 1, self.context.epoch)
        while not self._sequence(epoch, 0):
            self.context.beat()
            self.context.nap(1_000_000)

    def record_at(self, sequence: int) -> Any:
        """The event of a sequence: from the ring while it is there, else from the journal."""
        if sequence > self.ring.oldest:
            return self.events[sequence & self.mask]
        if not self.view.extent[0] <= sequence <= self.view.extent[1]:
            self.view.refresh()
        return self.view.records[sequence]

    # the duty cycle

    def step(self) -> int:
        """Let the compiled loop work, and do what it came back for."""
        self._enter()
        turn_ns = min(self.turn_ns, PARKED_TURN_NS) if self.parked else self.turn_ns
        reason = int(loop.run_capture(self.booking.tables, self.verdicts, self.area, turn_ns))
        self._leave()
        work = int(self.state[loop.WORK])
        self.held_back = bool(self.state[loop.HELD]) and not self.turn_ns
        self._wake_all()
        if self.state[loop.UNREAD]:
            self._read_verdicts()
            work += 1
        if reason != DONE:
            work += self._attend(reason)
        if self.parked:
            self._unpark()
        self.rejects.flush_if_filling()
        if work:
            self.moved_ns = self.context.clock.monotonic_ns()
        elif reason != DONE and self.booking.last_kind != Kind.TICK and self._durable() >= self.booking.sequence:
            self._end_batch()  # as the loop does where all is quiet
        self.context.cursor = self.booking.sequence
        return work

    def idle(self) -> None:
        """Wait for records, unless the loop has done so; the journal and the accumulators ring when answers may have become due."""
        if self.held_back:
            self.context.nap(1_000_000)  # what waits in the rings cannot be taken before the journal or an accumulator goes on
        elif not self.turn_ns:
            self.waiter.wait(self._wait_ns())

    def _wait_ns(self) -> int:
        """Answers become due without a record, and a correction that waits for its trade is given up at a time."""
        if any(source.owed_count for source in self.sources):
            return OWED_WAIT_NS
        return IDLE_NS if self.parked else self.context.rest_ns()

    def _enter(self) -> None:
        """Tell the kernels of the loop what Python knows."""
        state, booking = self.state, self.booking
        state[loop.SEQUENCE], state[loop.LAST_KIND], state[loop.EPOCH] = booking.sequence, booking.last_kind, booking.epoch
        state[loop.RECORDED_NS] = max(self.clock.last_ns, booking.recorded_ns)
        state[loop.WALL_NS], state[loop.AT_NS] = self.context.clock.wall_ns(), self.context.clock.monotonic_ns()
        state[loop.WORK] = state[loop.UNREAD] = state[loop.HELD] = 0

    def _leave(self) -> None:
        """Learn what they did."""
        state, booking = self.state, self.booking
        booking.sequence, booking.last_kind = int(state[loop.SEQUENCE]), int(state[loop.LAST_KIND])
        self.clock.last_ns = booking.recorded_ns = max(booking.recorded_ns, int(state[loop.RECORDED_NS]))

    def _wake_all(self) -> None:
        """Post the readers of events and the sources that the kernels found asleep."""
        if self.state[loop.WAKE]:
            self.state[loop.WAKE] = 0
            self.waker.wake()
        if self.state[loop.SLEEPERS]:
            self.state[loop.SLEEPERS] = 0
            for number in np.flatnonzero(self.area.sources[:, loop.SLEEPS]).tolist():
                self.area.sources[number, loop.SLEEPS] = 0
                self._wake(self.sources[number])

    def housekeeping(self) -> None:
        """Progress, and what was refused into its file."""
        self.rejects.housekeeping(self.context.clock.monotonic_ns())
        self.sequence_gauge.set(self.booking.sequence)
        self.parked_gauge.set(len(self.parked))
        self.context.lag = self.booking.sequence - self._durable()

    def drain(self) -> bool:
        """All that sources had sent is sequenced and answered, as far as they take answers."""
        while self.parked:
            waiting = self.parked.popleft()
            self._settle(self.sources[waiting.source], Admitted(int(Code.SHUTTING_DOWN)), waiting.ticket, waiting.sent)
        self.rejects.flush()
        waiting_for = [s.intake.number for s in self.sources if s.intake.number < self.host.sources and (s.reader.lag > 0 or s.owed_count)]
        if waiting_for and self.context.clock.monotonic_ns() - self.moved_ns > PATIENCE_NS:
            self.context.log.warning("sources take no answers: the stop goes on without them", intakes=waiting_for)
            return True
        return not waiting_for

    def close(self) -> None:
        """Close the file of what was refused, which has everything."""
        self.rejects.flush()
        self.rejects.close()

    # taking

    def _attend(self, reason: int) -> int:
        """Deal with the record that the loop left, or with the source that it gave up; how many records."""
        state = self.state
        source, start, count, at = self.sources[state[loop.NUMBER]], *(int(state[n]) for n in (loop.START, loop.COUNT, loop.TAKEN))
        if reason == loop.GIVE_UP:
            self._give_up(source, f"its cursor went to {source.reader.ring.head}, {source.reader.cursor} was read")
            return 1
        batch, ticket = self.area.batch[:count], start + 1 + at
        source.reader.cursor = start + count
        used = 0
        if reason == SLOW:
            used = self._take_group(source, batch, at, ticket, int(state[loop.NOW_NS]))
            self.held_back = used == 0
        else:
            assert reason == TABLE_FULL, f"the loop comes back for what is known, not {reason}"
            room = self.booking.make_room(int(batch[at]["effective_date"]))
            self.held_back = room is Room.LATER
            if room is Room.NONE:
                self._reply_busy(source, ticket)
                used = max(1, int(batch[at]["group_count"]))
        source.reader.cursor = start + at + used
        if used:
            self.context.point("before_finish")
            source.reader.finish()
        return 0 if self.held_back else max(1, used)

    def _publish(self, first: int, last: int) -> None:
        loop.publish(self.area, first, last, True)
        self._wake_all()

    def _count(self, answers: Any) -> None:
        codes = answers["code"]
        accepted = int((codes == Code.ACCEPTED).sum())
        duplicates = int((codes == Code.DUPLICATE).sum())
        self.accepted_count.add(accepted)
        self.duplicate_count.add(duplicates)
        self.refused_count.add(len(answers) - accepted - duplicates)

    def _take_group(self, source: Source, batch: Any, done: int, ticket: int, now_ns: int) -> int:
        """Take one group in Python; records used, 0 when there is no room for it yet."""
        head = batch[done]
        count = max(1, int(head["group_count"]))
        group = batch[done : done + count]
        if len(group) < count:
            group = self._whole_group(source, batch, done, count)
        count = len(group)
        came, group = group, np.array(group, EVENT)
        if source.intake.number < self.host.sources:
            group["flags"] &= OUTSIDE_FLAGS
        outcome = self._admit(source, group, now_ns)
        if outcome.later:
            return 0
        sent = None if outcome.code in NO_REFUSALS else self._as_sent(source, came, ticket)
        if outcome.code == Code.UNKNOWN_TRADE and int(group[0]["kind"]) in (Kind.AMEND, Kind.CANCEL, Kind.FEE):
            if len(self.parked) < PARKED_TRADES_MAX:
                self.parked.append(Parked(source.number, ticket, group, sent, self.context.clock.monotonic_ns() + PARK_SECONDS * 10**9))
                return count
            outcome = Admitted(int(Code.PARKING_FULL))
        return count if self._settle(source, outcome, ticket, sent) else 0

    def _as_sent(self, source: Source, group: Any, ticket: int) -> Any:
        """int64[n, 32]: a group's bytes as its source wrote them; the loop's check of a trade may have filled its dates in."""
        words = np.array(group, EVENT).view(np.int64).reshape(-1, EVENT_WORDS)
        requests = source.reader.ring
        words[0, DATES_WORD] = requests.records[ticket & (requests.capacity - 1), DATES_WORD]
        return words

    def _admit(self, source: Source, group: Any, now_ns: int) -> Admitted:
        """The booking's word on a group. Nothing that another program writes may end this process, so what no check foresaw is refused."""
        try:
            return self.booking.admit(group, now_ns)
        except Exception as error:
            self.context.log.crash(error)
            self.context.log.error("a group that no check foresaw is refused", intake=source.intake.number, record=group[0].tobytes().hex())
            return Admitted(int(Code.BAD_RECORD))

    def _whole_group(self, source: Source, batch: Any, done: int, count: int) -> Any:
        """A group that reaches beyond the batch: all of it, or its first record alone when the rest is not there."""
        have = len(batch) - done
        if int(batch[done]["group_index"]) != 0 or have + source.reader.lag < count or count > source.reader.ring.capacity:
            return batch[done : done + 1]  # a group is published whole, so this is none; admit says what is wrong with it
        try:
            more = source.reader.read(count - have)
        except RingLapped:
            return batch[done : done + 1]
        source.reader.cursor -= len(more)
        return np.concatenate([batch[done:], more])

    def _settle(self, source: Source, outcome: Admitted, ticket: int, sent: Any) -> bool:
        """Sequence what was admitted and owe the answer; False when the ring has no room and nothing was done.

        sent: int64[n, 32], what is refused, as it came.
        """
        sequence = outcome.sequence
        if outcome.records is not None:
            first = self._sequence(outcome.records, source.intake.number)
            if not first:
                return False
            sequence = first
        answers = np.zeros(1, REPLY)
        answers["ticket"], answers["sequence"], answers["code"] = ticket, sequence, outcome.code
        answers["field"], answers["value"], answers["other"] = FIELD_NUMBER.get(outcome.field_name, 0), outcome.value, outcome.other
        self._count(answers)
        if outcome.code not in NO_REFUSALS:
            assert sent is not None, "who refuses a group has it"
            wall_ns = self.context.clock.wall_ns()
            self.rejects.tell(sent, int(sent[0, DATES_WORD]), self.booking.epoch, source.intake.number, wall_ns, answers[0])
        source.owe(answers)
        return True

    def _sequence(self, records: Any, intake: int) -> int:
        """Give a group its place and publish it as a batch of its own; its first sequence, 0 when the ring has no room."""
        count = len(records)
        if int(ring_claim(self.ring.control, count)) < count:
            return 0
        first = self.booking.sequence + 1
        placed = self.booking.place(records, self.clock.next_ns(), intake)
        for e in placed:
            self.events[int(e["sequence"]) & self.mask] = e
        self._publish(first, self.booking.sequence)
        self._show_definitions()
        return first

    def _unpark(self) -> None:
        """Try what waits for its trade again; what has waited too long is refused."""
        now = self.context.clock.monotonic_ns()
        for _ in range(len(self.parked)):
            waiting = self.parked.popleft()
            outcome = self._admit(self.sources[waiting.source], waiting.group.copy(), self.context.clock.wall_ns())
            known = outcome.code != Code.UNKNOWN_TRADE and not outcome.later
            late = now >= waiting.deadline_ns
            if not (known or late) or not self._settle(self.sources[waiting.source], outcome, waiting.ticket, waiting.sent):
                self.parked.append(waiting)

    def _reply_busy(self, source: Source, ticket: int) -> None:
        answers = np.zeros(1, REPLY)
        answers["ticket"], answers["code"], answers["field"] = ticket, Code.BUSY, FIELD_NUMBER["effective_date"]
        self.busy_count.add()
        source.owe(answers)
        self.context.fail("one date fills the table of idempotency keys: set dedup_keys higher")

    def _give_up(self, source: Source, error: str) -> None:
        """The source wrote garbage over its control words: its rings are made anew, and nobody else notices."""
        self.context.log.warning("a source wrote garbage over its ring: it is made anew", intake=source.intake.number, error=error)
        self._format(source.intake)
        source.forget()

    # answering

    def _applied(self) -> int:
        return int(loop.applied(self.area))

    def _wake(self, source: Source) -> None:
        try:
            source.waker.wake()
        except (posix_ipc.Error, AssertionError, IndexError, ValueError) as error:  # it reads places that the source may write
            self._give_up(source, f"{type(error).__name__}: {error}")

    def _verdict_of(self, sequence: int) -> int:
        """Code by which the accumulators refused an event, 0 for none; waits until they have judged it."""
        if self._applied() < sequence and int(self.state[loop.ENDED]) < self.booking.sequence:
            while not self._end_batch():
                self._rest()
        while self._applied() < sequence:
            self._rest()
        self._read_verdicts()
        return max(0, int(pair_find(self.verdicts, sequence)))

    def _rest(self) -> None:
        self.context.beat()
        self.context.nap(200_000)

    def _read_verdicts(self) -> None:
        for reader in self.verdict_readers:
            while len(records := reader.read(1024)):
                for sequence, code in zip(records["sequence"].tolist(), records["code"].tolist(), strict=True):
                    self._learn_verdict(sequence, code)
                reader.finish()
        self.area.verdict_cursors[:] = [reader.cursor for reader in self.verdict_readers]

    def _learn_verdict(self, sequence: int, code: int) -> None:
        if sequence <= 0:
            return
        if 2 * (self.verdicts_count + 1) > len(self.verdicts):
            longer = np.zeros((2 * len(self.verdicts), 2), np.int64)
            pair_copy(self.verdicts, longer)
            self.verdicts = longer
        self.verdicts_count += int(pair_set(self.verdicts, sequence, code))

    # ends of batches and reference data

    def _end_batch(self) -> int:
        """Sequence a TICK, which ends whatever batch is open; 0 when the ring has no room."""
        self._enter()
        sequence = int(loop.mark_end(self.area))
        self._leave()
        self._wake_all()
        return sequence

    def _show_definitions(self) -> None:
        """Write changed reference data into its segment."""
        latest = {(row[0], row[1]): row[2] for row in self.booking.defined}  # no row goes back, in a replay too
        for (subject, row_id), definition in latest.items():
            sequence = self.booking.catalogue.sequence_of(subject, row_id)
            row = to_row(definition, self.booking.catalogue, row_id, sequence)[0]
            self.refdata.write(row)
        self.booking.defined.clear()


def make(context: Context) -> Capture:
    """The capture worker."""
    return Capture(context)


def warm() -> None:
    """Compile the kernels of this worker."""
    from pks.workers.warm import warm_booking, warm_rings

    warm_booking()
    warm_rings()
    events = np.zeros(2, EVENT)
    slots, indexes, counts = np.zeros((2, VERSION_WORDS + 2), np.int64), np.zeros((1, 4, 2), np.int64), np.zeros((1, 16), np.int64)
    slot_append(slots, indexes, counts, 0, 1, np.zeros(1, np.int64))
    slot_current(slots, 0)
    pair_copy(np.ones((2, 2), np.int64), np.zeros((4, 2), np.int64))
    pair_set(np.zeros((4, 2), np.int64), 1, 1)
    pair_find(np.zeros((4, 2), np.int64), 1)
    chain_swap(np.zeros((4, 2), np.int64), np.zeros(8, np.int64), 1, 1, 1)
    same_trade(events[0], events[1])
