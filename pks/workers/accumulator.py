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
from pks.engine.lots.state import CHANGED, CHANGED_ACCOUNTS, KEYS_COUNT, MATCHES, VERDICTS, Results
from pks.layouts.codes import MatchKind
from pks.layouts.event import EVENT
from pks.layouts.match import MATCH
from pks.layouts.slots import ACCOUNT_SLOT, ACCOUNT_WORDS, POSITION_WORDS
from pks.layouts.state import ACCOUNT, KEY, KEY_WORDS
from pks.segments.errors import TableFull
from pks.segments.journal_view import JournalView
from pks.segments.ring import RingReader, RingWriter, ring_cursor, ring_head
from pks.segments.slots import FULL, pack_key, slot_append, slot_find, slot_write
from pks.segments.stream import StreamWriter
from pks.segments.wait import Waker
from pks.workers.checkpoint import latest_checkpoint, load_positions
from pks.workers.positions import Positions
from pks.workers.runtime import Context

BATCH = 4096
"""Events applied between two looks at signals and rings."""

REPLAY_BATCH = 1 << 15


@njit(cache=True)
def write_positions(keys, key_words, rows, count, slots, indexes, counts, shard, written):
    """Write the positions of key rows rows[:count] to their slots; into written (int64[n]) the slot of each. FULL when one has no place."""
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
            slot_write(slots, np.int64(keys[k].slot), source)
        written[i] = keys[k].slot
    return count


@njit(cache=True)
def write_accounts(keys, accounts, pairs, count, slots, indexes, counts, shard, row_words, row):
    """Write account quantities pairs[:count] (account row, key row) of keys that have a slot. `row`, row_words: one ACCOUNT_SLOT to build in."""
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
    """What a stream already holds: records that a replay makes again must not be published a second time."""

    def __init__(self, cause: int, count: int) -> None:
        self.cause, self.count = cause, count

    def keep(self, records: Any, causes: Any) -> Any:
        """The records that are new: those of later causes, and of the last cause those behind the ones that are there."""
        if self.cause < 0:
            return records
        fresh = causes > self.cause
        same = np.flatnonzero(causes == self.cause)
        skipped = min(self.count, len(same))
        fresh[same[skipped:]] = True
        self.count -= skipped
        if fresh.any() and causes[fresh].max() > self.cause:
            self.cause = -1
        return records[fresh]


def resume_of(ring: Any, field: str) -> Resume:
    """How far the stream in `ring` got: the cause of its last record, and how many at its end have that cause."""
    head = ring.head
    oldest = ring.oldest
    if head < 0 or head <= oldest:
        return Resume(-1, 0)
    records = ring.records.view(ring.dtype).reshape(-1)
    mask = ring.capacity - 1
    cause = int(records[head & mask][field])
    count, at = 0, head
    while at > oldest and int(records[at & mask][field]) == cause:
        count, at = count + 1, at - 1
    return Resume(cause, count)


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
        self.changed_count = context.cells.counter("positions_changed")
        self.refused_count = context.cells.counter("events_refused")
        self.derived_count = context.cells.counter("keys_rederived")
        self.published_upto = self.reader.cursor  # slots of events up to here were written in an earlier life, or stand for the start
        self.resumes = {
            "matches": resume_of(self.matches.ring, "cause"),
            "transfers": resume_of(self.transfers.ring, "cause"),
            "verdicts": resume_of(self.verdicts.ring, "sequence"),
        }
        self.replaying = True
        self._recover()
        self.waiter = context.waiter([self.reader])
        context.ready()

    # recovery

    def _recover(self) -> None:
        """Fold checkpoint and journal up to where this shard stood, then show every position."""
        context, target = self.context, self.reader.cursor
        self.positions = Positions(
            self.view.records, index=self.shard_number, shards=self.host.shards, keys=1 << 12, lots=1 << 14
        )
        shard = self.positions.shard
        shard.ready, shard.wait_for_set = self._wait_for_journal, self._wait_for_set
        start = 0
        checkpoint = latest_checkpoint(context.paths.checkpoints, target)
        if checkpoint is not None:
            load_positions(self.positions, checkpoint)
            start = checkpoint.sequence
            shard.ready, shard.wait_for_set = self._wait_for_journal, self._wait_for_set
        shard.taken = self._taken
        at = start
        while at < target:
            durable = int(ring_cursor(self.ring.control, self.journal_place))
            last = min(target, at + REPLAY_BATCH)
            if last <= durable:
                self.view.refresh()
                self.positions.apply(self.view.records, -1, at + 1, last)
            else:
                last = target if at >= durable else min(last, durable)
                self.positions.apply(*((self.events, self.mask) if at >= durable else (self.view.records, -1)), at + 1, last)
            at = last
            self._flush_streams()
            context.beat()
        self.replaying = False
        self._show_all()
        self._publish_sets()
        context.cursor = target
        context.log.info("recovered", checkpoint=start, sequence=target, keys=int(shard.state.meta[KEYS_COUNT]))

    def _show_all(self) -> None:
        """Write slots that are not there yet. One that is there reflects at least what this replay does, and is written with the next event."""
        state = self.positions.shard.state
        count = int(state.meta[KEYS_COUNT])
        table = self.positions_table
        fresh = []
        for k in range(count):
            row = int(slot_find(table.indexes[self.shard_number], pack_key(int(state.keys[k]["book_id"]), int(state.keys[k]["instrument_id"]))))
            if row < 0:
                fresh.append(k)
            else:
                state.keys[k]["slot"] = row
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
            self._say("matches", self.matches, matches, matches["cause"])
        if counts[VERDICTS]:
            verdicts = out.verdicts[: counts[VERDICTS]]
            self._say("verdicts", self.verdicts, verdicts, verdicts["sequence"])
            self.refused_count.add(int(counts[VERDICTS]))
        if self.replaying:
            return
        if counts[CHANGED]:
            self.context.point("before_slots")
            self._write_slots(out.changed, int(counts[CHANGED]))
            self._write_accounts(out.changed_accounts, int(counts[CHANGED_ACCOUNTS]))
            self.context.point("after_slots")

    def _say(self, name: str, stream: StreamWriter, records: Any, causes: Any) -> None:
        fresh = np.ascontiguousarray(self.resumes[name].keep(records, causes))
        at = 0
        while at < len(fresh):
            at += stream.publish(fresh[at:])
            if at < len(fresh):
                stream.flush()
                if not stream.free(1):
                    self.context.beat()
                    self.context.nap(1_000_000)

    def _write_slots(self, rows: Any, count: int) -> None:
        state, table = self.positions.shard.state, self.positions_table
        if count > len(self.written):
            self.written = np.zeros(2 * count, np.int64)
        words = state.keys.view(np.int64).reshape(-1, KEY_WORDS)
        done = int(write_positions(state.keys, words, rows, count, table.slots, table.indexes, table.counts, self.shard_number, self.written))
        if done == FULL:
            raise TableFull("positions", len(table.slots) // self.host.shards)
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
                state.keys, state.accounts, pairs, count, table.slots, table.indexes, table.counts, self.shard_number, row_words, self.account_slot
            )
        )
        if done == FULL:
            raise TableFull("accounts", len(table.slots) // self.host.shards)

    # the duty cycle

    def step(self) -> int:
        """Apply what has arrived."""
        head = int(ring_head(self.ring.control))
        first = self.reader.cursor + 1
        last = min(head, first + BATCH - 1)
        if last < first:
            return self._send_reentries()
        self.positions.apply(self.events, self.mask, first, last)
        self._publish_sets()
        self.context.point("before_cursor")
        self.reader.cursor = last
        self.reader.finish(last)
        self.context.point("after_cursor")
        for waker in self.wakers:
            waker.wake()
        self.capture_bell.ring()
        self.context.cursor, self.context.lag = last, head - last
        self._send_reentries()
        return last - first + 1

    def idle(self) -> None:
        """Wait for events."""
        self.waiter.wait(5_000_000)

    def housekeeping(self) -> None:
        """Put the streams behind their rings."""
        self._flush_streams()
        self.context.lag = int(ring_head(self.ring.control)) - self.reader.cursor

    def _flush_streams(self) -> None:
        for stream in (self.matches, self.transfers, self.verdicts):
            stream.flush()

    def drain(self) -> bool:
        """Everything that was sequenced is applied and said."""
        if int(ring_head(self.ring.control)) != self.reader.cursor:
            return False
        self._flush_streams()
        return True

    def close(self) -> None:
        """Close the streams' files."""
        for stream in (self.matches, self.transfers, self.verdicts):
            stream.close()

    # the past and the other shards

    def _wait_for_journal(self, upto: int) -> None:
        """A re-derivation reads events up to `upto` from the journal: wait until they are written."""
        self.derived_count.add()
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
            self._say("transfers", self.transfers, records, records["cause"])
        shard.sets_out.clear()

    def _wait_for_set(self, transfer: int, version: int) -> MovedSet:
        """The lots of a transfer from another shard's book; our own work up to here is shown first, so that nobody waits in a ring."""
        if not self.replaying:
            self.positions.shard.flush()
            self._publish_sets()
            self.reader.cursor = max(self.reader.cursor, self.positions.shard.sequence)
            self.reader.finish(self.reader.cursor)
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
    words = keys.view(np.int64).reshape(-1, KEY_WORDS)
    slots, written = np.zeros((2, 8 + 2 * POSITION_WORDS), np.int64), np.zeros(2, np.int64)
    row = np.zeros(1, ACCOUNT_SLOT)
    for _ in range(2):
        write_positions(keys, words, np.zeros(1, np.int32), 1, slots, indexes, counts, 0, written)
    indexes, counts = np.zeros((1, 4, 2), np.int64), np.zeros((1, 16), np.int64)
    slots = np.zeros((2, 8 + 2 * ACCOUNT_WORDS), np.int64)
    for _ in range(2):
        write_accounts(keys, accounts, np.zeros((1, 2), np.int32), 1, slots, indexes, counts, 0, row.view(np.int64), row)
