"""Capture: the one process that puts every event in its place. It checks, deduplicates, routes, links and seals, and answers the sources.

The only writer of the events ring. An answer leaves when the event is durable and applied everywhere, with the verdict that the accumulator
gave. Sources are other programs: their records and cursors are copied before they are looked at. Source: design.md section 2.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import posix_ipc
from numba import njit

from pks.base.clock import StrictlyRecorded
from pks.base.errors import Code
from pks.base.limits import PARK_SECONDS, PARKED_TRADES_MAX
from pks.engine.booking.admit import Admitted
from pks.engine.booking.links import chain_swap
from pks.engine.booking.take import ANSWERS_FULL, RING_FULL, SLOW, TABLE_FULL, same_trade, take_trades
from pks.engine.instruments.rows import to_row
from pks.engine.lots.tables import pair_copy, pair_find, pair_set
from pks.layouts.codes import Flag, Kind
from pks.layouts.event import EVENT, EVENT_WORDS, FIELD_NUMBER, REPLY
from pks.segments.errors import LayoutUnknown, RingLapped
from pks.segments.journal_records import seal
from pks.segments.journal_view import JournalView
from pks.segments.ring import Place, RingReader, RingWriter, ring_claim, ring_commit, ring_cursor
from pks.segments.slots import VERSION_WORDS, slot_current
from pks.segments.table import RefdataTable
from pks.segments.wait import Waker
from pks.topology import Intake
from pks.workers.booking import Booking, DayFiles, Room
from pks.workers.checkpoint import latest_checkpoint, load_booking
from pks.workers.runtime import Context

BATCH = 1024
"""Records taken from one source before the next has its turn."""

OWED_MAX = 1 << 17
"""Answers that a source may have outstanding; its ring is not read before it has taken some."""

REPLAY_BATCH = 1 << 15
OPEN_RECORDS_MAX = 1 << 17
"""Records without an end of batch, at most, and never more than a quarter of the events ring, which dirty keys hold back."""

PATIENCE_NS = 2_000_000_000
"""How long an orderly stop waits for sources that take no answers: a dead one never will."""

END_OF_BATCH = int(Flag.END_OF_BATCH)
OUTSIDE_FLAGS = np.uint16(0xFFFF ^ (Flag.REENTRY | Flag.GROUP_LEG | Flag.END_OF_BATCH))
"""What a source may say; the rest is ours."""


@njit(cache=True)
def seal_batch(events, rows, mask, first, last, ends):
    """Seal records first..last of the ring, the last one flagged as a batch's end if `ends`; they can be published then."""
    if ends:
        events[last & mask].flags |= END_OF_BATCH
    for n in range(first, last + 1):
        seal(rows, n & mask)


@njit(cache=True)
def due(answers, limit, verdicts):
    """How many of `answers` (REPLY[n], in order) may leave: those before the first with a sequence > limit. Puts verdicts into them."""
    count = 0
    for i in range(answers.shape[0]):
        a = answers[i]
        if a.sequence > limit:
            break
        if a.sequence != 0 and a.code <= 1:
            code = pair_find(verdicts, a.sequence)
            if code > 0:
                a.code = code
        count += 1
    return count


@dataclass
class Source:
    """One intake ring as capture sees it."""

    intake: Intake
    reader: RingReader
    replies: RingWriter
    waker: Waker
    owed: deque[Any] = field(default_factory=deque)  # arrays of REPLY, in order
    owed_count: int = 0
    has_record: bool = False

    def owe(self, answers: Any) -> None:
        """Remember answers to be sent when they are due."""
        self.owed.append(answers)
        self.owed_count += len(answers)


@dataclass(frozen=True)
class Parked:
    """A correction that came before its trade."""

    source: int
    ticket: int
    group: Any
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
        self.shard_places = [self.ring.place(f"accumulator-{k}") for k in range(self.host.shards)]
        self.waker = Waker(self.ring, self.host.instance)
        self.verdict_readers = [self.host.verdicts(k).reader(-1, "capture") for k in range(self.host.shards)]
        self.verdicts = np.zeros((1 << 12, 2), np.int64)
        self.verdicts_count = 0
        self.refdata = RefdataTable(self.host.refdata)
        self.refdata.take()
        self.booking = Booking(self.record_at, DayFiles(context.paths.keys), keys=context.config.dedup_keys, durable=self._durable)
        self.booking.admission.verdict_of = self._verdict_of
        self.sources = [self._source(intake) for intake in self.host.intakes()]
        self.batch = np.zeros((BATCH, EVENT_WORDS), np.int64)
        self.answers = np.zeros(BATCH, REPLY)
        self.parked: deque[Parked] = deque()
        self.ended = self.ring.head  # the last end of a batch
        self.open_max = min(OPEN_RECORDS_MAX, self.ring.capacity // 4)
        self.moved_ns = context.clock.monotonic_ns()  # when a step last did anything
        self.held_back = False  # a source has records for which there is no room yet
        self.accepted_count = context.cells.counter("events_accepted")
        self.duplicate_count = context.cells.counter("duplicates")
        self.refused_count = context.cells.counter("refused")
        self.busy_count = context.cells.counter("busy")
        self.parked_gauge = context.cells.gauge("parked")
        self.sequence_gauge = context.cells.gauge("sequence")
        self._recover()
        self.clock = StrictlyRecorded(context.clock, self.booking.recorded_ns)
        if self.booking.sequence == self.ring.start:
            self._start_epoch()
        self.waiter = context.waiter([source.reader for source in self.sources])
        context.ready()

    def _source(self, intake: Intake) -> Source:
        if not self._is_sound(intake):
            self.context.log.warning("a source wrote garbage over its ring: it is made anew", intake=intake.number)
            self._format(intake)
        requests, replies = intake.requests, intake.replies
        return Source(intake, RingReader(requests, "capture"), RingWriter(replies), Waker(replies, self.host.instance))

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
        """Take from every source once, answer what is due, mark the end when all is quiet."""
        work, self.held_back = 0, False
        for number, source in enumerate(self.sources):
            if source.reader.lag < 0:
                self._give_up(source, f"its cursor went back to {source.reader.ring.head}")
            elif source.reader.lag and source.owed_count < OWED_MAX:
                work += self._take(number, source)
        if self.parked:
            self._unpark()
        work += self._answer()
        if work == 0:
            self._tick()
        else:
            self.moved_ns = self.context.clock.monotonic_ns()
        self.context.cursor = self.booking.sequence
        return work

    def idle(self) -> None:
        """Wait for records; the journal and the accumulators ring when answers may have become due."""
        if self.held_back:
            self.context.nap(1_000_000)  # what waits in the rings cannot be taken before the journal or an accumulator goes on
        else:
            self.waiter.wait(1_000_000 if any(source.owed_count for source in self.sources) else 5_000_000)

    def housekeeping(self) -> None:
        """Progress."""
        self.sequence_gauge.set(self.booking.sequence)
        self.parked_gauge.set(len(self.parked))
        self.context.lag = self.booking.sequence - self._durable()

    def drain(self) -> bool:
        """All that sources had sent is sequenced and answered, as far as they take answers."""
        while self.parked:
            waiting = self.parked.popleft()
            self._settle(self.sources[waiting.source], Admitted(int(Code.SHUTTING_DOWN)), waiting.ticket)
        waiting_for = [s.intake.number for s in self.sources if s.intake.number < self.host.sources and (s.reader.lag > 0 or s.owed_count)]
        if waiting_for and self.context.clock.monotonic_ns() - self.moved_ns > PATIENCE_NS:
            self.context.log.warning("sources take no answers: the stop goes on without them", intakes=waiting_for)
            return True
        return not waiting_for

    def close(self) -> None:
        """Nothing is held open."""

    # taking

    def _take(self, number: int, source: Source) -> int:
        """Take one batch of a source; how many records were dealt with."""
        try:
            batch = source.reader.read(BATCH)
        except RingLapped as error:
            self._give_up(source, str(error))
            return 1
        start = source.reader.cursor - len(batch)
        rows = batch.view(np.int64).reshape(-1, EVENT_WORDS)
        now_ns = self.context.clock.wall_ns()
        done = 0
        while done < len(batch):
            taken, reason = self._take_plain(source, number, batch, rows, done, start + 1 + done, now_ns)
            done += taken
            if done == len(batch):
                break
            if reason == RING_FULL:
                self.held_back = True
                break
            if reason == ANSWERS_FULL:
                continue
            if reason == TABLE_FULL:
                room = self.booking.make_room(int(batch[done]["effective_date"]))
                if room is Room.LATER:
                    self.held_back = True
                    break
                if room is Room.NONE:
                    self._reply_busy(source, batch, done, start + 1 + done)
                    done += max(1, int(batch[done]["group_count"]))
                continue
            if reason == SLOW:
                used = self._take_group(source, number, batch, done, start + 1 + done, now_ns)
                if used == 0:
                    self.held_back = True
                    break
                done += used
        source.reader.cursor = start + done
        self.context.point("before_finish")
        source.reader.finish(source.reader.cursor)
        return done

    def _take_plain(self, source: Source, number: int, batch: Any, rows: Any, done: int, ticket: int, now_ns: int) -> tuple[int, int]:
        booking = self.booking
        room = int(ring_claim(self.ring.control, min(self.ring.capacity // 2, len(batch) - done)))
        before = booking.sequence
        recorded_ns = self.clock.next_ns()
        taken, sequence, said, reason = take_trades(
            booking.tables,
            batch,
            rows,
            done,
            len(batch),
            self.events,
            self.rows,
            self.mask,
            self.ring.oldest,
            before,
            room,
            recorded_ns,
            now_ns,
            booking.epoch,
            source.intake.number,
            ticket,
            self.answers,
        )
        if sequence > before:
            booking.recorded_ns = max(booking.recorded_ns, recorded_ns)
            self._publish(before + 1, int(sequence), self._may_end(int(sequence)))
            booking.sequence, booking.last_kind = int(sequence), int(Kind.TRADE)
        if said:
            self._count(self.answers[:said])
            source.owe(self.answers[:said].copy())
        return int(taken), int(reason)

    def _publish(self, first: int, last: int, ends: bool = True) -> None:
        self.context.point("before_publish")
        seal_batch(self.events, self.rows, self.mask, first, last, ends)
        if ends:
            self.ended = last
        ring_commit(self.ring.control, last - first + 1)
        self.context.point("after_publish")
        self.waker.wake()

    def _may_end(self, sequence: int) -> bool:
        """Should a batch end here? Yes, unless the accumulators still work at the last end: then late trades wait for the next end.

        Whatever comes, an end comes within OPEN_RECORDS_MAX records or with the next TICK.
        """
        return self._applied() >= self.ended or sequence - self.ended >= self.open_max

    def _count(self, answers: Any) -> None:
        codes = answers["code"]
        accepted = int((codes == Code.ACCEPTED).sum())
        duplicates = int((codes == Code.DUPLICATE).sum())
        self.accepted_count.add(accepted)
        self.duplicate_count.add(duplicates)
        self.refused_count.add(len(answers) - accepted - duplicates)

    def _take_group(self, source: Source, number: int, batch: Any, done: int, ticket: int, now_ns: int) -> int:
        """Take one group in Python; records used, 0 when there is no room for it yet."""
        head = batch[done]
        count = max(1, int(head["group_count"]))
        group = batch[done : done + count]
        if len(group) < count:
            group = self._whole_group(source, batch, done, count)
        count = len(group)
        group = np.array(group, EVENT)
        if source.intake.number < self.host.sources:
            group["flags"] &= OUTSIDE_FLAGS
        outcome = self._admit(source, group, now_ns)
        if outcome.later:
            return 0
        if outcome.code == Code.UNKNOWN_TRADE and int(group[0]["kind"]) in (Kind.AMEND, Kind.CANCEL, Kind.FEE):
            if len(self.parked) < PARKED_TRADES_MAX:
                self.parked.append(Parked(number, ticket, group, self.context.clock.monotonic_ns() + PARK_SECONDS * 10**9))
                return count
            outcome = Admitted(int(Code.PARKING_FULL))
        return count if self._settle(source, outcome, ticket) else 0

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

    def _settle(self, source: Source, outcome: Admitted, ticket: int) -> bool:
        """Sequence what was admitted and owe the answer; False when the ring has no room and nothing was done."""
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
            outcome = self.booking.admit(waiting.group.copy(), self.context.clock.wall_ns())
            known = outcome.code != Code.UNKNOWN_TRADE and not outcome.later
            late = now >= waiting.deadline_ns
            if not (known or late) or not self._settle(self.sources[waiting.source], outcome, waiting.ticket):
                self.parked.append(waiting)

    def _reply_busy(self, source: Source, batch: Any, at: int, ticket: int) -> None:
        answers = np.zeros(1, REPLY)
        answers["ticket"], answers["code"], answers["field"] = ticket, Code.BUSY, FIELD_NUMBER["effective_date"]
        self.busy_count.add()
        source.owe(answers)
        self.context.fail("one date fills the table of idempotency keys: set dedup_keys higher")

    def _give_up(self, source: Source, error: str) -> None:
        """The source wrote garbage over its control words: its rings are made anew, and nobody else notices."""
        self.context.log.warning("a source wrote garbage over its ring: it is made anew", intake=source.intake.number, error=error)
        self._format(source.intake)
        source.reader.cursor = source.reader.ring.head
        source.waker.posted[:] = 0
        source.owed.clear()
        source.owed_count = 0

    # answering

    def _limit(self) -> int:
        """Events up to here are durable and applied by every shard."""
        return min(self._durable(), self._applied())

    def _applied(self) -> int:
        return min(int(ring_cursor(self.ring.control, place)) for place in self.shard_places)

    def _answer(self) -> int:
        """Send every answer that is due, as far as reply rings have room."""
        if not any(source.owed_count for source in self.sources):
            return 0
        limit = self._limit()
        self._read_verdicts()
        sent = 0
        for source in self.sources:
            while source.owed:
                answers = source.owed[0]
                count = int(due(answers, limit, self.verdicts))
                count = source.replies.publish(answers[:count]) if count else 0
                sent += count
                source.owed_count -= count
                if count == len(answers):
                    source.owed.popleft()
                    continue
                if count:
                    source.owed[0] = answers[count:]
                break
            self._wake(source)
        if sent:
            self.context.point("after_answer")
        return sent

    def _wake(self, source: Source) -> None:
        try:
            source.waker.wake()
        except (posix_ipc.Error, AssertionError, IndexError, ValueError) as error:  # it reads places that the source may write
            self._give_up(source, f"{type(error).__name__}: {error}")

    def _verdict_of(self, sequence: int) -> int:
        """Code by which the accumulators refused an event, 0 for none; waits until they have judged it."""
        if self._applied() < sequence and self.ended < self.booking.sequence:
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

    def _learn_verdict(self, sequence: int, code: int) -> None:
        if sequence <= 0:
            return
        if 2 * (self.verdicts_count + 1) > len(self.verdicts):
            longer = np.zeros((2 * len(self.verdicts), 2), np.int64)
            pair_copy(self.verdicts, longer)
            self.verdicts = longer
        self.verdicts_count += int(pair_set(self.verdicts, sequence, code))

    # marks and reference data

    def _tick(self) -> None:
        """When all is durable and nothing waits, one TICK behind the last event: a batch with anything behind it is known durable."""
        booking = self.booking
        if booking.last_kind != Kind.TICK and self._durable() >= booking.sequence:
            self._end_batch()

    def _end_batch(self) -> int:
        """Sequence a TICK, which ends whatever batch is open; 0 when the ring has no room."""
        tick = np.zeros(1, EVENT)
        tick["kind"], tick["group_count"] = Kind.TICK, 1
        return self._sequence(tick, 0)

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
    events = np.zeros(16, EVENT)
    seal_batch(events, events.view(np.int64).reshape(-1, EVENT_WORDS), 15, 1, 2, True)
    due(np.zeros(1, REPLY), 0, np.zeros((4, 2), np.int64))
    slot_current(np.zeros((2, VERSION_WORDS + 2), np.int64), 0)
    pair_copy(np.ones((2, 2), np.int64), np.zeros((4, 2), np.int64))
    pair_set(np.zeros((4, 2), np.int64), 1, 1)
    pair_find(np.zeros((4, 2), np.int64), 1)
    chain_swap(np.zeros((4, 2), np.int64), np.zeros(8, np.int64), 1, 1, 1)
    same_trade(events[0], events[1])
