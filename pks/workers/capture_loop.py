"""Capture's compiled loop: looks at every intake ring, takes plain trades, publishes, and sends the answers that are due.

Owns what the loop knows (`Area`) and how it is laid out; `capture` makes one, calls `run_capture`, and does what the loop comes back for:
anything but a plain trade, a full table, a source that wrote garbage, verdicts to be read, a sleeper to be woken. Comes back at least
every ten milliseconds, since signals are seen in Python only. Sources are other programs: their records and cursors are copied before
they are looked at, and no value of theirs makes the loop leave its arrays. Allocates nothing, waits for nobody, logs nothing.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pks.base.errors import Code
from pks.base.kernels import clock_room, kernel, monotonic_ns
from pks.base.limits import CAPTURE_BATCH_MAX, PARKED_TRADES_MAX, REJECTS_BURST
from pks.engine.booking.dedup import ENTRY_WORDS, dedup_home
from pks.engine.booking.keys import trade_key
from pks.engine.booking.links import chain_home
from pks.engine.booking.take import DONE, RING_FULL, SLOW, TABLE_FULL, take_trades
from pks.engine.lots.tables import pair_find
from pks.layouts.codes import Flag, Kind
from pks.layouts.event import EVENT, EVENT_WORDS, REPLY, REPLY_WORDS
from pks.layouts.reject import DATES_WORD, REJECT
from pks.segments.atomics import load_acquire_at, pause, prefetch_write, rows_at, words_at
from pks.segments.counters import counter_add
from pks.segments.journal_records import seal
from pks.segments.ring import (
    CONTROL_WORDS,
    HEAD,
    PLACES_MAX,
    Ring,
    ring_claim,
    ring_commit,
    ring_cursor,
    ring_gate,
    ring_oldest,
    ring_publish,
    ring_read,
    ring_wake,
)
from pks.workers.points import KillPoints, kill_here
from pks.workers.rejects import REJECT_STATE, ROOM, tell_refusal

BATCH = 256
"""Records copied from one source before the next has its turn: 64 KB, so that they stay in the core's cache."""
assert BATCH <= CAPTURE_BATCH_MAX, "no source waits for another for long"

OWED_ROWS = 1 << 16
OWED_MAX = OWED_ROWS - (1 << 14)
"""Answers that a source may have outstanding; its ring is not read before it has taken some."""
assert OWED_MAX + BATCH + PARKED_TRADES_MAX <= OWED_ROWS, "what is owed when the ring is last read, and all that was parked, has room"

TURN_NS = 4_000_000
"""About how long a spinning loop stays, by the costs below; they are high, so that a slow machine stays within 10 ms."""
PASS_NS, LOOK_NS, RECORD_NS = 30, 3, 300

GIVE_UP = TABLE_FULL + 1
"""A source's control words are garbage; with the reasons of `take_trades` what `run_capture` comes back for."""

# A source's row.
REQUESTS, CURSOR, OWED_COUNT, OWED_FIRST, CAPACITY, RECORDS, INTAKE, SLEEPS = range(8)
REPLIES, ANSWERS, ANSWERS_CAPACITY = 8, 9, 10
SOURCE_WORDS = 16

# The state.
(
    SEQUENCE,  # last event published
    ENDED,  # last end of a batch
    LAST_KIND,  # of the last event
    RECORDED_NS,  # of the last event
    EPOCH,
    OPEN_MAX,  # records without an end of batch, at most
    JOURNAL_PLACE,
    WALL_NS,  # wall clock ..
    AT_NS,  # .. and monotonic clock when the loop was entered
    NEXT,  # source that is looked at next
    NUMBER,  # the source that the loop came back for:
    START,  # its batch in `batch` stands behind this cursor,
    COUNT,  # has so many records,
    TAKEN,  # of which so many are dealt with,
    NOW_NS,  # and was judged at this time
    WORK,  # records taken, answers sent, TICKs
    WAKE,  # 1: a reader of events sleeps
    SLEEPERS,  # 1: a source whose row has SLEEPS set sleeps
    UNREAD,  # 1: verdicts are to be read before anything can be answered
    HELD,  # 1: a source has records for which the events ring had no room
) = range(20)
STATE_WORDS = 32

BEFORE_PUBLISH, AFTER_PUBLISH, BEFORE_FINISH, AFTER_ANSWER = range(4)
POINTS = ("before_publish", "after_publish", "before_finish", "after_answer")
ACCEPTED_CELL, DUPLICATE_CELL, REFUSED_CELL, DROPPED_CELL = range(4)

TRADE, TICK = int(Kind.TRADE), int(Kind.TICK)
END_OF_BATCH = int(Flag.END_OF_BATCH)
ACCEPTED, DUPLICATE = int(Code.ACCEPTED), int(Code.DUPLICATE)
assert Code.ACCEPTED < Code.DUPLICATE < min(set(Code) - {Code.ACCEPTED, Code.DUPLICATE}), "what is above refuses"


class Area(NamedTuple):
    """What the loop reads and writes; made once a life by `new_area`."""

    control: Any  # of the events ring
    events: Any  # EVENT[capacity]
    rows: Any  # int64[capacity, 32], the same
    posted: Any  # int64[32]: wait.Waker's
    shard_places: Any  # int64[shards], in the events ring
    sources: Any  # int64[sources, SOURCE_WORDS]
    reply_posted: Any  # int64[sources, 32]
    owed: Any  # REPLY[sources, OWED_ROWS], a ring a source
    owed_words: Any  # int64[sources x OWED_ROWS, 8], the same
    batch: Any  # EVENT[BATCH], the private copy
    words: Any  # int64[BATCH, 32], the same
    keys: Any  # int64[BATCH, 2]
    answers: Any  # REPLY[BATCH]
    answer_words: Any  # int64[BATCH, 8], the same
    verdict_heads: Any  # int64[shards]: addresses of the heads of the verdict rings
    verdict_cursors: Any  # int64[shards]
    cells: Any  # int64[]: the worker's metrics
    cell_places: Any  # int64[4]
    rejects_control: Any  # of the rejects ring
    rejects: Any  # REJECT[capacity]
    reject_rows: Any  # int64[capacity, 40], the same
    reject_state: Any  # int64[REJECT_STATE]
    points: Any  # int64[n, 2]: KillPoints.words
    point_rows: Any  # int64[4]
    clock: Any  # base.kernels.clock_room
    state: Any  # int64[STATE_WORDS]


def new_area(
    ring: Ring,
    journal_place: int,
    shard_places: Sequence[int],
    sources: int,
    verdict_rings: Sequence[Ring],
    rejects: Ring,
    cells: Any,
    cell_places: Sequence[int],
    points: KillPoints,
) -> Area:
    """The loop's memory over the events ring, for so many sources; their rows are set by `set_source`. cell_places: *_CELL.

    rejects: the ring of what is refused. The caller keeps it and the verdict rings mapped. Answers take memory when they are first owed,
    up to 4 MB a source.
    """
    batch, answers = np.zeros((BATCH, EVENT_WORDS), np.int64), np.zeros((BATCH, REPLY_WORDS), np.int64)
    owed = np.zeros((sources * OWED_ROWS, REPLY_WORDS), np.int64)
    state = np.zeros(STATE_WORDS, np.int64)
    state[SEQUENCE] = state[ENDED] = ring.head
    state[OPEN_MAX], state[JOURNAL_PLACE] = ring.capacity, journal_place
    reject_state = np.zeros(REJECT_STATE, np.int64)
    reject_state[ROOM] = REJECTS_BURST
    return Area(
        control=ring.control,
        events=ring.records.view(EVENT).reshape(-1),
        rows=ring.records,
        posted=np.zeros(PLACES_MAX, np.int64),
        shard_places=np.array(shard_places, np.int64),
        sources=np.zeros((sources, SOURCE_WORDS), np.int64),
        reply_posted=np.zeros((sources, PLACES_MAX), np.int64),
        owed=owed.view(REPLY).reshape(sources, OWED_ROWS),
        owed_words=owed,
        batch=batch.view(EVENT).reshape(-1),
        words=batch,
        keys=np.zeros((BATCH, 2), np.int64),
        answers=answers.view(REPLY).reshape(-1),
        answer_words=answers,
        verdict_heads=np.array([one.control.ctypes.data + 8 * HEAD for one in verdict_rings], np.int64),
        verdict_cursors=np.full(len(verdict_rings), -1, np.int64),
        cells=cells,
        cell_places=np.array(cell_places, np.int64),
        rejects_control=rejects.control,
        rejects=rejects.records.view(REJECT).reshape(-1),
        reject_rows=rejects.records,
        reject_state=reject_state,
        points=points.words,
        point_rows=np.array([points.row(name) for name in POINTS], np.int64),
        clock=clock_room(),
        state=state,
    )


def set_source(area: Area, number: int, intake: int, requests: Ring, replies: Ring, cursor: int) -> None:
    """Let the loop read a source's requests behind `cursor`. The caller keeps both rings mapped."""
    row = area.sources[number]
    row[:] = 0
    row[REQUESTS], row[RECORDS], row[CAPACITY] = requests.control.ctypes.data, requests.records.ctypes.data, requests.capacity
    row[REPLIES], row[ANSWERS] = replies.control.ctypes.data, replies.records.ctypes.data
    row[ANSWERS_CAPACITY], row[INTAKE], row[CURSOR] = replies.capacity, intake, cursor


# cursors


@kernel
def applied(area):
    """Events up to here are applied by every shard."""
    lowest = ring_cursor(area.control, area.shard_places[0])
    for k in range(1, area.shard_places.shape[0]):
        lowest = min(lowest, ring_cursor(area.control, area.shard_places[k]))
    return lowest


@kernel
def durable(area):
    """Events up to here are on the disk."""
    return ring_cursor(area.control, area.state[JOURNAL_PLACE])


@kernel
def may_end(area, sequence):
    """Should a batch end here? Yes, unless the accumulators still work at the last end: then late trades wait for the next end.

    Whatever comes, an end comes within OPEN_MAX records or with the next TICK.
    """
    ended = area.state[ENDED]
    return applied(area) >= ended or sequence - ended >= area.state[OPEN_MAX]


# publishing


@kernel
def seal_batch(events, rows, mask, first, last, ends):
    """Seal records first..last of the ring, the last one flagged as a batch's end if `ends`; they can be published then."""
    if ends:
        events[last & mask].flags |= END_OF_BATCH
    for n in range(first, last + 1):
        seal(rows, n & mask)


@kernel
def publish(area, first, last, ends):
    """Seal and publish the records first..last, which are claimed and written; sets WAKE when somebody sleeps."""
    state = area.state
    kill_here(area.points, area.point_rows[BEFORE_PUBLISH])
    seal_batch(area.events, area.rows, area.rows.shape[0] - 1, first, last, ends)
    if ends:
        state[ENDED] = last
    ring_commit(area.control, last - first + 1)
    state[SEQUENCE] = last
    kill_here(area.points, area.point_rows[AFTER_PUBLISH])
    if ring_wake(area.control, area.posted) != 0:
        state[WAKE] = 1


@kernel
def record_ns(area, now_ns):
    """The recorded time of an event that is taken at `now_ns`: never before the last one's."""
    area.state[RECORDED_NS] = max(area.state[RECORDED_NS], now_ns)
    return area.state[RECORDED_NS]


@kernel
def wall_now(area):
    """The wall clock as it was when the loop was entered, and the time since."""
    return area.state[WALL_NS] + monotonic_ns(area.clock) - area.state[AT_NS]


@kernel
def mark_end(area):
    """Sequence a TICK, which ends whatever batch is open; its sequence, 0 when the ring has no room."""
    if ring_claim(area.control, 1) < 1:
        return np.int64(0)
    state = area.state
    sequence = state[SEQUENCE] + 1
    at = sequence & (area.rows.shape[0] - 1)
    for word in range(EVENT_WORDS):
        area.rows[at, word] = 0
    e = area.events[at]
    e.sequence, e.recorded_ns, e.kind = sequence, record_ns(area, wall_now(area)), TICK
    e.group_count, e.epoch = 1, state[EPOCH]
    publish(area, sequence, sequence, True)
    state[LAST_KIND] = TICK
    return sequence


# taking


@kernel
def look_ahead(t, area, count):
    """Keys of the records in hand, and their lines of capture's tables asked for, so that they come while others are judged."""
    for i in range(count):
        e = area.batch[i]
        hi, lo = trade_key(area.words, i, np.int64(e.leg))
        area.keys[i, 0], area.keys[i, 1] = hi, lo
        prefetch_write(t.dedup, dedup_home(t.dedup, lo) * ENTRY_WORDS)
        prefetch_write(t.chains, chain_home(t.chains, e.book_id, e.instrument_id) * 2)


@kernel
def tell_refused(area, number, said, first_ticket, now_ns):
    """Tell everybody else what answers[:said] refuse of the batch whose first record has `first_ticket`."""
    row, state = area.sources[number], area.state
    requests = rows_at(row[RECORDS], row[CAPACITY], EVENT_WORDS)
    lost = 0
    for i in range(said):
        a = area.answers[i]
        if a.code <= DUPLICATE:
            continue
        at = a.ticket - first_ticket
        lost += tell_refusal(
            area.rejects_control, area.rejects, area.reject_rows, area.reject_state, area.words, at, np.int64(area.batch[at].group_count),
            requests[a.ticket & (row[CAPACITY] - 1), DATES_WORD], state[EPOCH], row[INTAKE], now_ns, a.ticket, np.int64(a.code),
            np.int64(a.field), a.value, a.other,
        )  # fmt: skip
    if lost > 0:
        counter_add(area.cells, area.cell_places[DROPPED_CELL], lost)


@kernel
def owe(area, number, said, first_ticket, now_ns):
    """Remember answers[:said], to be sent to the source when they are due, and count them. Before the source's cursor is moved."""
    row = area.sources[number]
    accepted, duplicates = 0, 0
    at = (row[OWED_FIRST] + row[OWED_COUNT]) & (OWED_ROWS - 1)
    base = number * OWED_ROWS
    for i in range(said):
        code = area.answers[i].code
        accepted += code == ACCEPTED
        duplicates += code == DUPLICATE
        for word in range(REPLY_WORDS):
            area.owed_words[base + at, word] = area.answer_words[i, word]
        at = (at + 1) & (OWED_ROWS - 1)
    row[OWED_COUNT] += said
    if accepted > 0:
        counter_add(area.cells, area.cell_places[ACCEPTED_CELL], accepted)
    if duplicates > 0:
        counter_add(area.cells, area.cell_places[DUPLICATE_CELL], duplicates)
    if said > accepted + duplicates:
        counter_add(area.cells, area.cell_places[REFUSED_CELL], said - accepted - duplicates)
        tell_refused(area, number, said, first_ticket, now_ns)


@kernel
def take_source(t, area, number):
    """Take one batch of a source. Returns DONE or what Python is needed for; the state then says where in the batch."""
    state, row = area.state, area.sources[number]
    control = words_at(row[REQUESTS], CONTROL_WORDS)
    start = row[CURSOR]
    count = ring_read(control, rows_at(row[RECORDS], row[CAPACITY], EVENT_WORDS), start, area.words, BATCH)
    state[NUMBER] = number
    if count <= 0:  # its head was ahead of us a moment ago
        return GIVE_UP
    now_ns = wall_now(area)
    look_ahead(t, area, count)
    capacity = area.rows.shape[0]
    room = ring_claim(area.control, min(capacity >> 1, count))
    before = state[SEQUENCE]
    recorded_ns = max(state[RECORDED_NS], now_ns)
    taken, last, said, reason = take_trades(
        t, area.batch, area.words, area.keys, count, area.events, area.rows, capacity - 1, ring_oldest(area.control), before, room,
        recorded_ns, now_ns, state[EPOCH], row[INTAKE], start + 1, area.answers,
    )  # fmt: skip
    if last > before:
        record_ns(area, now_ns)
        publish(area, before + 1, last, may_end(area, last))
        state[LAST_KIND] = TRADE
    if said > 0:
        owe(area, number, said, start + 1, now_ns)
    if taken > 0:
        row[CURSOR] = start + taken
        kill_here(area.points, area.point_rows[BEFORE_FINISH])
        ring_gate(control, 0, start + taken)
        state[WORK] += taken
    state[START], state[COUNT], state[TAKEN], state[NOW_NS] = start, count, taken, now_ns
    if reason == RING_FULL:
        state[HELD] = 1
        return DONE
    if reason == SLOW and taken > 0 and count == BATCH and taken + np.int64(area.batch[taken].group_count) > count:
        return DONE  # a group that only our batch has cut
    return reason


# answering


@kernel
def due(owed, number, first, count, limit, verdicts):
    """How many of the answers owed[number, first : first + count] may leave: those before the first with a sequence > limit.

    Puts verdicts into them (int64[slots, 2]: sequence, code).
    """
    for i in range(count):
        a = owed[number, first + i]
        if a.sequence > limit:
            return i
        if a.sequence != 0 and a.code <= 1:
            code = pair_find(verdicts, a.sequence)
            if code > 0:
                a.code = code
    return count


@kernel
def answer_source(area, verdicts, number, limit):
    """Send what is due to a source, as far as its reply ring has room; how many."""
    row = area.sources[number]
    control = words_at(row[REPLIES], CONTROL_WORDS)
    sent = 0
    while row[OWED_COUNT] > 0:
        first = row[OWED_FIRST]
        run = min(row[OWED_COUNT], OWED_ROWS - first)
        ready = due(area.owed, number, first, run, limit, verdicts)
        if ready == 0:
            break
        records = rows_at(row[ANSWERS], row[ANSWERS_CAPACITY], REPLY_WORDS)
        done = ring_publish(control, records, area.owed_words, number * OWED_ROWS + first, ready)
        sent += done
        row[OWED_COUNT] -= done
        row[OWED_FIRST] = (first + done) & (OWED_ROWS - 1) if row[OWED_COUNT] > 0 else 0
        if done < run:
            break
    if sent > 0 and ring_wake(control, area.reply_posted[number]) != 0:
        row[SLEEPS] = 1
        area.state[SLEEPERS] = 1
    return sent


@kernel
def answer_all(area, verdicts):
    """Send every answer that is due; how many. Sets UNREAD when there are verdicts that must be known first."""
    limit = min(durable(area), applied(area))
    for k in range(area.verdict_heads.shape[0]):
        if load_acquire_at(area.verdict_heads[k]) != area.verdict_cursors[k]:  # ORDER ring-publish: pairs with ring_commit's release store
            area.state[UNREAD] = 1
            return 0
    sent = 0
    for number in range(area.sources.shape[0]):
        if area.sources[number, OWED_COUNT] > 0:
            sent += answer_source(area, verdicts, number, limit)
    if sent > 0:
        kill_here(area.points, area.point_rows[AFTER_ANSWER])
    return sent


# the loop


@kernel
def run_capture(t, verdicts, area, turn_ns):
    """Take, publish and answer until Python is needed or about `turn_ns` have gone by; with 0 once.

    t: Tables. verdicts: int64[slots, 2]. Returns DONE, SLOW, TABLE_FULL (the record at batch[TAKEN] of source NUMBER) or GIVE_UP (that
    source); WAKE, SLEEPERS and UNREAD are set beside it.
    """
    state = area.state
    sources = area.sources.shape[0]
    left_ns = turn_ns
    while True:
        before, owed, reason = state[WORK], 0, DONE
        for _ in range(sources):
            number = state[NEXT]
            state[NEXT] = number + 1 if number + 1 < sources else 0
            row = area.sources[number]
            head = load_acquire_at(row[REQUESTS])  # ORDER ring-publish: pairs with ring_commit's release store
            if head != row[CURSOR]:
                if head < row[CURSOR]:
                    state[NUMBER] = number
                    reason = GIVE_UP
                elif row[OWED_COUNT] < OWED_MAX:
                    reason = take_source(t, area, number)
            owed += row[OWED_COUNT]
            if reason != DONE:
                owed = 1
                break
        if owed > 0:
            state[WORK] += answer_all(area, verdicts)
        if reason != DONE:
            return reason
        work = state[WORK] - before
        if work == 0 and state[LAST_KIND] != TICK and durable(area) >= state[SEQUENCE] and mark_end(area) > 0:
            work = 1
            state[WORK] += 1
        left_ns -= PASS_NS + LOOK_NS * sources + RECORD_NS * work
        if left_ns <= 0 or state[WAKE] != 0 or state[SLEEPERS] != 0 or state[UNREAD] != 0:
            return DONE
        if work == 0:
            pause()
