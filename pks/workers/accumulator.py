"""Accumulator k: the only writer of its shard's positions. Events in, lots matched, slots written, matches and verdicts said.

Its own memory is never trusted: a restart folds the newest checkpoint, the journal and the rest of the ring, and publishes nothing until it
has passed the last sequence that it published before it died. Waits for the journal only to read the past for a re-derivation, and for
another shard only for the lots of a transfer at a lower or equal sequence.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from pks.engine.lots.reentry import reentry_event
from pks.engine.lots.shard import MovedSet
from pks.engine.lots.state import CHANGED, CHANGED_ACCOUNTS, DIRTY_COUNT, KEYS_COUNT, MATCHES, VERDICTS, Results
from pks.layouts.codes import Flag, MatchKind
from pks.layouts.event import EVENT
from pks.layouts.match import MATCH
from pks.layouts.slots import ACCOUNT_SLOT, ACCOUNT_WORDS, POSITION_SLOT, POSITION_WORDS
from pks.layouts.state import ACCOUNT, KEY, KEY_WORDS
from pks.segments.atomics import copy_words
from pks.segments.errors import TableFull
from pks.segments.journal_view import JournalView
from pks.segments.ring import CONTROL_WORDS, RingReader, RingWriter, ring_cursor, ring_head, ring_oldest
from pks.segments.slots import (
    FULL,
    TRIES_MAX,
    VERSION_WORDS,
    pack_key,
    range_recover,
    slot_append,
    slot_current,
    slot_find,
    slot_read,
    slot_write,
)
from pks.segments.stream import StreamReader, StreamWriter
from pks.segments.wait import Waker, drop_ticket, look_again, take_ticket
from pks.workers.checkpoint import latest_checkpoint, load_positions
from pks.workers.points import kill_here, no_points
from pks.workers.positions import Positions
from pks.workers.runtime import Context

BATCH = 4096
"""Events applied between two looks at signals and rings."""

REPLAY_BATCH = 1 << 15
LOOK_BACK = 1 << 12
"""Records of a stream that are compared at a time when a new life looks for where the old one ended."""

SEQUENCE_WORD = POSITION_SLOT.fields["last_sequence"][1] // 8 if POSITION_SLOT.fields else 0
END_OF_BATCH = int(Flag.END_OF_BATCH)


@njit(cache=True)
def last_end(events, mask, first, last):
    """Sequence of the last event in first..last (event n at events[n & mask]) that ends a batch, or first - 1."""
    n = last
    while n >= first and not events[n & mask].flags & END_OF_BATCH:
        n -= 1
    return n


@njit(cache=True)
def die_between_copies(slots, row, source, points, point):
    """When the kill point is due: die as `slot_write` would between the new copy and its version, which readers then never see."""
    if points[point, 0] == 1:
        words = (slots.shape[1] - VERSION_WORDS) >> 1
        base = row * slots.shape[1] + VERSION_WORDS
        other = 2 * base + words - slot_current(slots, row)
        copy_words(slots, other, source, 0, words)
    kill_here(points, point)


@njit(cache=True)
def write_positions(keys, key_words, rows, count, slots, indexes, counts, shard, written, points, point):
    """Write the positions of key rows rows[:count] to their slots; into written (int64[n]) the slot of each. FULL when one has no place.

    points, point: KillPoints.words and the row of the point between a slot's two copies.
    """
    for i in range(count):
        k = rows[i]
        source = key_words[k]
        if keys[k].slot < 0:
            key = pack_key(keys[k].book_id, keys[k].instrument_id)
            row = slot_find(indexes[shard], key)
            if row < 0:
                row = slot_append(slots, indexes, counts, shard, key, source)
                if row == FULL:
                    return FULL
            else:
                slot_write(slots, row, source)
            keys[k].slot = row
        else:
            die_between_copies(slots, np.int64(keys[k].slot), source, points, point)
            slot_write(slots, np.int64(keys[k].slot), source)
        written[i] = keys[k].slot
    return count


@njit(cache=True)
def write_accounts(keys, accounts, pairs, count, slots, indexes, counts, shard, row_words, row):
    """Write account quantities pairs[:count] (account row, key row) of keys with a slot. row, row_words: one ACCOUNT_SLOT to build in."""
    for i in range(count):
        account = pairs[i, 0]
        k = pairs[i, 1]
        if keys[k].slot < 0:
            continue
        slot = row[0]
        slot.book_id, slot.instrument_id = keys[k].book_id, keys[k].instrument_id
        slot.account_id, slot.qty_scale = accounts[account].account_id, keys[k].qty_scale
        slot.qty_raw, slot.last_sequence = accounts[account].qty_raw, accounts[account].last_sequence
        if accounts[account].slot < 0:
            key = pack_key(keys[k].slot, accounts[account].account_id)
            at = slot_find(indexes[shard], key)
            if at < 0:
                at = slot_append(slots, indexes, counts, shard, key, row_words)
                if at == FULL:
                    return FULL
            else:
                slot_write(slots, at, row_words)
            accounts[account].slot = at
        else:
            slot_write(slots, np.int64(accounts[account].slot), row_words)
    return count


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
        self.account_slot = np.zeros(1, ACCOUNT_SLOT)
        self.written = np.zeros(1 << 16, np.int64)
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
        self.slot_point = context.points.row("between_copies")
        self.replaying, self.muted = True, False
        self._recover()
        self.waiter = context.waiter([self.reader])
        context.ready()

    # recovery

    def _recover(self) -> None:
        """Fold checkpoint and journal up to where this shard stood, then show every position."""
        context = self.context
        target = min(max(self.reader.cursor, self.published.value()), self.ring.head)
        self.positions = Positions(self.view.records, index=self.shard_number, shards=self.host.shards, keys=1 << 12, lots=1 << 14)
        shard = self.positions.shard
        shard.ready, shard.wait_for_set, shard.beat = self._ready_to_derive, self._wait_for_set, context.beat
        self.learn_reference, shard.refdata = shard.refdata, self._reference
        start = 0
        checkpoint = latest_checkpoint(context.paths.checkpoints, target)
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
        self.at = target
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
        state, table = self.positions.shard.state, self.positions_table
        if count > len(self.written):
            self.written = np.zeros(2 * count, np.int64)
        words = state.keys.view(np.int64).reshape(-1, KEY_WORDS)
        done = int(
            write_positions(
                state.keys,
                words,
                rows,
                count,
                table.slots,
                table.indexes,
                table.counts,
                self.shard_number,
                self.written,
                self.context.points.words,
                self.slot_point,
            )
        )
        if done == FULL:
            raise TableFull("positions", self.shard_number, table.slots_per_range)
        self.changed_count.add(count)
        update = np.zeros(count, self.updates.ring.dtype)
        update["slot"], update["shard"] = self.written[:count], self.shard_number
        update["sequence"] = state.keys["last_sequence"][rows[:count]]
        at = 0
        while at < count:
            at += self.updates.publish(update[at : at + self.updates.ring.capacity // 2])

    def _write_accounts(self, pairs: Any, count: int) -> None:
        state, table = self.positions.shard.state, self.accounts_table
        row_words = self.account_slot.view(np.int64)
        done = int(
            write_accounts(
                state.keys,
                state.accounts,
                pairs,
                count,
                table.slots,
                table.indexes,
                table.counts,
                self.shard_number,
                row_words,
                self.account_slot,
            )
        )
        if done == FULL:
            raise TableFull("accounts", self.shard_number, table.slots_per_range)

    # the duty cycle

    def step(self) -> int:
        """Apply what has arrived."""
        head = int(ring_head(self.ring.control))
        first = self.at + 1
        last = min(head, self.at + BATCH)
        if last < first:
            return self._send_reentries()
        self.published.set(last)
        self.positions.apply(self.events, self.mask, first, last)
        self._publish_sets()
        self.at = self.reader.cursor = last
        self._finish_upto(last)
        for waker in self.wakers:
            waker.wake()
        self.context.cursor, self.context.lag = last, head - last
        self._send_reentries()
        return last - first + 1

    def _finish_upto(self, last: int) -> None:
        """Events up to `last` are applied; those behind the last end of a batch are finished only if no key waits for the next one."""
        done = int(ring_cursor(self.ring.control, self.reader.place))
        if self.positions.shard.state.meta[DIRTY_COUNT]:
            last = int(last_end(self.events, self.mask, done + 1, last))
        if last > done:
            self._finish(last)

    def _finish(self, cursor: int) -> None:
        """Events up to `cursor` are applied and judged: answers may go out, the ring may reuse them. Late ones wait for a batch's end."""
        self.context.point("before_cursor")
        self.reader.finish(cursor)
        self.context.point("after_cursor")
        self.capture_bell.ring()

    def idle(self) -> None:
        """Wait for events."""
        self.waiter.wait(5_000_000)

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
            self._finish(self.reader.cursor)
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
    """Compile the kernels: a small core books one of everything."""
    from pks.workers.warm import warm_fold, warm_rings

    warm_fold()
    warm_rings()
    keys, accounts = np.zeros(2, KEY), np.zeros(2, ACCOUNT)
    keys["slot"], accounts["slot"] = -1, -1
    indexes, counts = np.zeros((1, 4, 2), np.int64), np.zeros((1, 16), np.int64)
    last_end(np.zeros(2, EVENT), 1, 0, 1)
    words = keys.view(np.int64).reshape(-1, KEY_WORDS)
    slots, written = np.zeros((2, 8 + 2 * POSITION_WORDS), np.int64), np.zeros(2, np.int64)
    row = np.zeros(1, ACCOUNT_SLOT)
    for _ in range(2):
        write_positions(keys, words, np.zeros(1, np.int32), 1, slots, indexes, counts, 0, written, no_points().words, 0)
    _warm_slots(slots, indexes, counts)
    indexes, counts = np.zeros((1, 4, 2), np.int64), np.zeros((1, 16), np.int64)
    slots = np.zeros((2, 8 + 2 * ACCOUNT_WORDS), np.int64)
    for _ in range(2):
        write_accounts(keys, accounts, np.zeros((1, 2), np.int32), 1, slots, indexes, counts, 0, row.view(np.int64), row)


def _warm_slots(slots: Any, indexes: Any, counts: Any) -> None:
    """What a life calls from Python before it has written anything, and when it parks."""
    range_recover(slots, indexes, counts, 0)
    key = pack_key(1, 1)
    slot_find(indexes[0], key)
    slot_append(slots, indexes, counts, 0, key, np.zeros(POSITION_WORDS, np.int64))
    slot_read(slots, 0, np.zeros(POSITION_WORDS, np.int64), 1)
    control, heads = np.zeros(CONTROL_WORDS, np.int64), np.zeros(1, np.int64)
    take_ticket(control, 0)
    look_again(np.array([heads.ctypes.data], np.int64), np.zeros(1, np.int64))
    drop_ticket(control, 0)
    ring_head(control)
    ring_oldest(control)
