"""Accumulator k: the only writer of its shard's positions. Events in, lots matched, slots written, matches and verdicts said.

Its own memory is never trusted: a restart folds the newest checkpoint, the journal and the rest of the ring, and publishes nothing until it
has passed the last sequence that it published before it died. Waits for the journal only to read the past for a re-derivation, and for
another shard only for the lots of a transfer at a lower or equal sequence.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import numpy as np

from pks.base.host import Wait
from pks.engine.lots.reentry import reentry_event
from pks.engine.lots.run import DONE
from pks.engine.lots.shard import MovedSet
from pks.engine.lots.state import CHANGED, CHANGED_ACCOUNTS, KEYS_COUNT, MATCHES, VERDICTS, Results
from pks.layouts.codes import MatchKind
from pks.layouts.event import EVENT
from pks.layouts.match import MATCH
from pks.layouts.slots import POSITION_SLOT, POSITION_WORDS
from pks.segments.errors import TableFull
from pks.segments.journal_view import JournalView
from pks.segments.ring import CONTROL_WORDS, RingReader, RingWriter, ring_cursor, ring_head, ring_oldest
from pks.segments.slots import TRIES_MAX, pack_key, slot_find, slot_read
from pks.segments.stream import StreamReader, StreamWriter
from pks.segments.wait import Waker, drop_ticket, look_again, take_ticket
from pks.workers import accumulator_loop as loop
from pks.workers.checkpoint import latest_checkpoint, load_positions
from pks.workers.positions import Positions
from pks.workers.runtime import IDLE_NS, Context

REPLAY_BATCH = 1 << 15
LOOK_BACK = 1 << 12
"""Records of a stream that are compared at a time when a new life looks for where the old one ended."""

SEQUENCE_WORD = POSITION_SLOT.fields["last_sequence"][1] // 8 if POSITION_SLOT.fields else 0


class Resume:
    """What a stream already holds: records that a replay makes again must not be published a second time.

    A shard says the same records in the same order in every life, so what the stream holds is found by the first record of the replay.
    """

    def __init__(self, stream: StreamWriter, reader: StreamReader) -> None:
        self._stream, self._reader = stream, reader
        self.skip = -1  # records of the replay that are there already; -1: not looked for yet

    def keep(self, records: Any) -> Any:
        """The records that are new."""
        if self.skip < 0 and len(records):
            self.skip = self._held_from(records[0])
        skipped = min(max(0, self.skip), len(records))
        self.skip -= skipped
        return records[skipped:]

    def _held_from(self, first: Any) -> int:
        """How many records the stream holds from `first` on, 0 when that is not among them."""
        head = until = self._stream.ring.head
        wanted = np.frombuffer(first.tobytes(), np.int64)
        while until >= 0:
            start = max(-1, until - LOOK_BACK)
            self._reader.cursor = start
            held = []
            while self._reader.cursor < until:
                held.append(self._reader.read(until - self._reader.cursor))
            same = (np.concatenate(held).view(np.int64).reshape(-1, len(wanted)) == wanted).all(axis=1)
            if same.any():
                return int(head - start - np.flatnonzero(same)[-1])
            until = start
        return 0


class Accumulator:
    """Implements runtime.Worker."""

    def __init__(self, context: Context) -> None:
        self.context, self.host, self.shard_number = context, context.host, context.shard
        host, shard = self.host, context.shard
        self.ring = host.events
        self.events = self.ring.records.view(EVENT).reshape(-1)
        self.mask = self.ring.capacity - 1
        self.reader = RingReader(self.ring, context.name)
        self.view = JournalView(context.paths.journal)
        self.journal_place = self.ring.place("journal")
        self.positions_table, self.accounts_table = host.positions, host.accounts
        self.positions_table.take_range(shard)
        self.accounts_table.take_range(shard)
        self.matches: StreamWriter = host.matches(shard).writer()
        self.transfers: StreamWriter = host.transfers(shard).writer()
        self.verdicts: StreamWriter = host.verdicts(shard).writer()
        self.updates = RingWriter(host.updates(shard))
        self.wakers = [Waker(ring, host.instance) for ring in (self.matches.ring, self.transfers.ring, self.updates.ring)]
        self.capture_bell = context.bell("capture")
        self.others = {k: host.transfers(k).reader() for k in range(host.shards) if k != shard}
        self.parts: dict[tuple[int, int], list[Any]] = {}
        self.reentry = host.reentry(shard)
        self.reentry_requests = RingWriter(self.reentry.requests)
        self.reentry_replies = RingReader(self.reentry.replies, "source")
        self.reentry_waker = Waker(self.reentry.requests, host.instance)
        self.row = np.zeros(POSITION_WORDS, np.int64)
        self.changed_count = context.cells.counter("positions_changed")
        self.refused_count = context.cells.counter("events_refused")
        self.derived_count = context.cells.counter("keys_rederived")
        self.published = context.cells.gauge("published")  # slots may reflect events up to here; outlives us
        self.streams_from = context.cells.gauge("streams_from")  # the event from which this run's streams were said, plus 1; 0: none yet
        self.resumes = {
            "matches": Resume(self.matches, host.matches(shard).reader()),
            "transfers": Resume(self.transfers, host.transfers(shard).reader()),
            "verdicts": Resume(self.verdicts, host.verdicts(shard).reader()),
        }
        self.positions = Positions(self.view.records, index=shard, shards=host.shards, keys=1 << 12, lots=1 << 14)
        self.area = loop.new_area(
            self.ring,
            self.ring.place(context.name),
            shard,
            host.shards,
            self.wakers[0],
            self.verdicts.ring,
            self.wakers[-1],
            loop.SlotArrays.of(self.positions_table),
            loop.SlotArrays.of(self.accounts_table),
            context.cells.cells,
            [metric.place for metric in (self.published, self.changed_count, self.refused_count)],
            context.points,
            len(self.positions.shard.out.changed),
        )
        self.loop_state = self.area.state
        self._viewed = self.positions.shard.state, self.positions.shard.out
        self._views = loop.words_of(*self._viewed)
        self.replaying, self.muted = True, False
        self._recover()
        self.waiter = context.waiter([self.reader])
        self.turn_ns = loop.TURN_NS if context.wait is Wait.SPIN else 0
        context.ready()

    # recovery

    def _recover(self) -> None:
        """Fold checkpoint and journal up to where this shard stood, then show every position."""
        context = self.context
        target = min(max(self.reader.cursor, self.published.value()), self.ring.head)
        shard = self.positions.shard
        shard.ready, shard.wait_for_set, shard.beat = self._ready_to_derive, self._wait_for_set, context.beat
        self.learn_reference, shard.refdata = shard.refdata, self._reference
        start = 0
        said = min(self.reader.cursor, target)  # what follows may not have been said: a checkpoint that knows more would leave it out
        checkpoint = latest_checkpoint(context.paths.checkpoints, said)
        if checkpoint is not None:
            load_positions(self.positions, checkpoint)
            start = checkpoint.sequence
        if not self.streams_from.value():
            self.streams_from.set(start + 1)
        said_from = self.streams_from.value() - 1  # an older checkpoint than the first life's: what comes before was never said
        shard.taken = self._taken
        at = start
        while at < target:
            self.muted = at < said_from
            durable = int(ring_cursor(self.ring.control, self.journal_place))
            last = min(target, at + REPLAY_BATCH)
            last = said_from if at < said_from < last else last
            if at < durable:
                last = min(last, durable)
                self.view.refresh()
                self.positions.apply(self.view.records, -1, at + 1, last)
            else:
                self.positions.apply(self.events, self.mask, at + 1, last)
            at = last
            self._publish_sets()
            self._flush_streams()
            context.beat()
        for name, resume in self.resumes.items():
            assert resume.skip <= 0, f"{name}: the replay reaches the end of what was said"
        self.view.release(target)
        loop.start_at(self.area, target)
        self.replaying = self.muted = False
        self._show_all()
        self.reader.cursor = max(self.reader.cursor, target)
        self._finish_upto(target)
        context.cursor = target
        context.log.info("recovered", checkpoint=start, sequence=target, keys=int(shard.state.meta[KEYS_COUNT]))

    def _show_all(self) -> None:
        """Write every slot that is not there or that is older than what this replay gave."""
        state = self.positions.shard.state
        count = int(state.meta[KEYS_COUNT])
        table = self.positions_table
        fresh = []
        for k in range(count):
            row = int(
                slot_find(table.indexes[self.shard_number], pack_key(int(state.keys[k]["book_id"]), int(state.keys[k]["instrument_id"])))
            )
            if row >= 0:
                state.keys[k]["slot"] = row
                slot_read(table.slots, row, self.row, TRIES_MAX)
            if int(self.row[SEQUENCE_WORD] if row >= 0 else 0) < int(state.keys[k]["last_sequence"]):
                fresh.append(k)
        self._write_slots(np.array(fresh, np.int32), len(fresh))
        pairs = []
        for k in range(count):
            row = int(state.keys[k]["accounts"])
            while row >= 0:
                pairs.append((row, k))
                row = int(state.accounts[row]["next"])
        self._write_accounts(np.array(pairs, np.int32).reshape(-1, 2), len(pairs))

    # publishing

    def _taken(self, out: Results) -> None:
        """Say what a run of events gave. Called before the ring is released, so nothing is lost with us."""
        counts = out.counts
        if counts[MATCHES]:
            matches = out.matches[: counts[MATCHES]]
            self._say("matches", self.matches, matches)
        if counts[VERDICTS]:
            verdicts = out.verdicts[: counts[VERDICTS]]
            self._say("verdicts", self.verdicts, verdicts)
            self.refused_count.add(int(counts[VERDICTS]))
        if self.replaying:
            return
        if counts[CHANGED] or counts[CHANGED_ACCOUNTS]:
            self.context.point("before_slots")
            self._write_slots(out.changed, int(counts[CHANGED]))
            self._write_accounts(out.changed_accounts, int(counts[CHANGED_ACCOUNTS]))
            self.context.point("after_slots")

    def _say(self, name: str, stream: StreamWriter, records: Any) -> None:
        if self.muted:
            return
        fresh = np.ascontiguousarray(self.resumes[name].keep(records))
        self.context.point("before_" + name)
        at = 0
        while at < len(fresh):
            at += stream.publish(fresh[at:])
            if at < len(fresh):
                stream.flush()
                if not stream.free(1):
                    self.context.beat()
                    self.context.nap(1_000_000)
        self.context.point("after_" + name)

    def _write_slots(self, rows: Any, count: int) -> None:
        """Write the positions of key rows rows[:count] (int32[n])."""
        state, area, words = self.positions.shard.state, self.area, self._words()[0]
        limit = len(area.written)
        for first in range(0, count, limit):
            part, number = rows[first:], min(limit, count - first)
            done = loop.write_positions(
                state.keys, words, part, number, area.slots, area.indexes, area.counts, self.shard_number, area.written, area.points,
                area.point_rows[loop.BETWEEN_COPIES],
            )  # fmt: skip
            if done < 0:
                raise TableFull("positions", self.shard_number, self.positions_table.slots_per_range)
            loop.say_updates(
                state.keys, part, number, area.written, self.shard_number, area.said, area.updates_control, area.updates
            )  # fmt: skip
        self.changed_count.add(count)

    def _write_accounts(self, pairs: Any, count: int) -> None:
        """Write the account quantities pairs[:count] (int32[n, 2]: account row, key row)."""
        state, area = self.positions.shard.state, self.area
        done = loop.write_accounts(
            state.keys, state.accounts, pairs, count, area.account_slots, area.account_indexes, area.account_counts, self.shard_number,
            area.account_words, area.account,
        )  # fmt: skip
        if done < 0:
            raise TableFull("accounts", self.shard_number, self.accounts_table.slots_per_range)

    # the duty cycle

    def step(self) -> int:
        """Let the compiled loop work, and do what it came back for."""
        shard, words = self.positions.shard, self.loop_state
        words[loop.WORK] = 0
        reason = int(loop.run_accumulator(shard.state, shard.out, *self._words(), self.area, self.turn_ns))
        work = int(words[loop.WORK])
        if reason != DONE:
            self._attend(reason)
            work += 1
        if words[loop.FINISHED]:
            words[loop.FINISHED] = 0
            self.capture_bell.ring()
        if words[loop.WAKE] or reason != DONE:
            words[loop.WAKE] = 0
            for waker in self.wakers:
                waker.wake()
        self.context.cursor = self.reader.cursor = self.at
        self.context.lag = int(ring_head(self.ring.control)) - self.at
        return work + self._send_reentries()

    @property
    def at(self) -> int:
        """The last event that is applied, said and shown."""
        return int(self.loop_state[loop.AT])

    def _words(self) -> tuple[Any, Any, Any]:
        """Our tables as the loop wants them; made anew when one has grown."""
        shard = self.positions.shard
        if self._viewed[0] is not shard.state or self._viewed[1] is not shard.out:
            self._viewed, self._views = (shard.state, shard.out), loop.words_of(shard.state, shard.out)
        return self._views

    def _attend(self, reason: int) -> None:
        """What the loop could not do."""
        words, shard = self.loop_state, self.positions.shard
        if reason == loop.POSITIONS_FULL:
            raise TableFull("positions", self.shard_number, self.positions_table.slots_per_range)
        if reason == loop.ACCOUNTS_FULL:
            raise TableFull("accounts", self.shard_number, self.accounts_table.slots_per_range)
        if reason == loop.STREAMS_FULL:
            shard.flush()
        else:
            words[loop.NEXT] = self.positions.attend(self.events, self.mask, int(words[loop.NEXT]), reason)
        self._publish_sets()

    def _finish_upto(self, last: int) -> None:
        """Events up to `last` are applied; those behind the last end of a batch are finished only if no key waits for the next one."""
        loop.finish_upto(self.positions.shard.state, self.area, last)

    def idle(self) -> None:
        """Wait for events, unless the loop has done so."""
        if not self.turn_ns:
            self.waiter.wait(IDLE_NS if self.positions.shard.reentries else self.context.rest_ns())

    def housekeeping(self) -> None:
        """Put the streams behind their rings."""
        self._flush_streams()
        self.context.lag = int(ring_head(self.ring.control)) - self.at

    def _flush_streams(self) -> None:
        for stream in (self.matches, self.transfers, self.verdicts):
            stream.flush()

    def drain(self) -> bool:
        """Everything that was sequenced is applied and said."""
        if int(ring_head(self.ring.control)) != self.at:
            return False
        self._flush_streams()
        return True

    def close(self) -> None:
        """Close the streams' files."""
        for stream in (self.matches, self.transfers, self.verdicts):
            stream.close()

    # the past and the other shards

    def _ready_to_derive(self, upto: int) -> None:
        """A re-derivation reads events up to `upto` from the journal."""
        self.derived_count.add()
        self._wait_for_journal(upto)

    def _reference(self, e: Any) -> None:
        """Keys that change with reference data are marked with its event, which is read from the journal."""
        self._wait_for_journal(int(e["sequence"]))
        assert self.learn_reference is not None, "positions learn reference data"
        self.learn_reference(e)

    def _wait_for_journal(self, upto: int) -> None:
        """Until events up to `upto` are in the journal, and mapped."""
        self.context.beat()
        while int(ring_cursor(self.ring.control, self.journal_place)) < upto:
            self.context.beat()
            self.context.nap(200_000)
        if upto > self.view.extent[1]:
            self.view.refresh()

    def _publish_sets(self) -> None:
        """Say what our books gave away, for the shards of the receivers."""
        shard = self.positions.shard
        for made in shard.sets_out:
            records = made.moves.copy() if len(made.moves) else np.zeros(1, MATCH)
            records["sequence"], records["cause"] = made.transfer, made.version
            records["count"], records["index"] = len(records), np.arange(len(records))
            if not len(made.moves):
                records["kind"], records["code"] = (MatchKind.REFUSED if made.code else MatchKind.NO_MATCH), made.code
            self._say("transfers", self.transfers, records)
        shard.sets_out.clear()

    def _wait_for_set(self, transfer: int, version: int) -> MovedSet:
        """The lots of a transfer from another shard's book; our own work up to here is shown first, so that nobody waits in a ring."""
        self.positions.shard.flush()
        self._publish_sets()
        if not self.replaying:
            self.reader.cursor = max(self.reader.cursor, self.positions.shard.sequence)
            loop.finish(self.area, self.reader.cursor)
            self.capture_bell.ring()
        while True:
            for reader in self.others.values():
                for record in reader.read(1024):
                    self.parts.setdefault((int(record["sequence"]), int(record["cause"])), []).append(record)
            parts = self.parts.get((transfer, version), [])
            if parts and len(parts) == int(parts[0]["count"]):
                moves = np.array(parts, MATCH)
                return MovedSet(transfer, version, int(moves[0]["code"]), moves[moves["kind"] == MatchKind.MOVED])
            self._flush_streams()
            self.context.beat()
            self.context.nap(200_000)

    def _send_reentries(self) -> int:
        """Put changed transfers back in at the top, as far as our intake ring has room; what does not fit is sent later."""
        replies = self.reentry_replies.read(256)
        if len(replies):
            self.reentry_replies.finish()
        pending = self.positions.shard.reentries
        sent = 0
        while pending and self.reentry_requests.free(1):
            transfer, cause = pending[0]
            self._wait_for_journal(transfer)
            self.reentry_requests.publish(reentry_event(self.view.records[transfer], cause))
            pending.pop(0)
            sent += 1
        if sent:
            self.reentry_waker.wake()
        return sent


def make(context: Context) -> Accumulator:
    """The accumulator of the context's shard."""
    return Accumulator(context)


def warm() -> None:
    """Compile the kernels: a small core books one of everything, and a loop of its own takes an event."""
    from pks.workers.warm import warm_accumulator, warm_fold, warm_rings

    warm_fold()
    warm_rings()
    warm_accumulator()
    control, heads = np.zeros(CONTROL_WORDS, np.int64), np.zeros(1, np.int64)
    take_ticket(control, 0)
    look_again(np.array([heads.ctypes.data], np.int64), np.zeros(1, np.int64))
    drop_ticket(control, 0)
    ring_head(control)
    ring_oldest(control)
