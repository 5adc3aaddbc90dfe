"""An accumulator's compiled loop: events from the ring onto positions, what came of them said and shown, the cursor moved.

Owns the kernels that write slots and say what changed, what the loop knows (`Area`), and how it is laid out. `accumulator` makes one, calls
`run_accumulator`, and does what the loop comes back for: events that need more than a kernel, streams without room, sleepers. Comes back at
least every ten milliseconds, since signals are seen in Python only. Allocates nothing, waits for nobody, logs nothing.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pks.base.kernels import kernel
from pks.engine.lots.keys import key_find
from pks.engine.lots.run import DONE, FULL, JUDGE, run
from pks.engine.lots.state import CHANGED, CHANGED_ACCOUNTS, DIRTY_COUNT, MATCHES, RUN, VERDICTS, Results, State
from pks.engine.lots.tables import packed, pair_home
from pks.layouts.codes import Flag
from pks.layouts.event import EVENT, EVENT_WORDS
from pks.layouts.match import MATCH_WORDS, VERDICT
from pks.layouts.slots import ACCOUNT_SLOT, UPDATE, UPDATE_WORDS
from pks.layouts.state import ACCOUNT, KEY_WORDS, LOT
from pks.segments.atomics import copy_words, pause, prefetch, prefetch_write
from pks.segments.counters import counter_add, gauge_set
from pks.segments.ring import Ring, ring_cursor, ring_free, ring_gate, ring_head, ring_publish, ring_wake
from pks.segments.slots import FULL as TABLE_HAS_NO_ROW
from pks.segments.slots import VERSION_WORDS, SlotTable, pack_key, slot_current, slot_put, slot_write
from pks.segments.wait import Waker
from pks.workers.points import KillPoints, kill_here

BATCH = 4096
"""Events applied before their positions are shown; a reader sees a position's last state of a batch."""

WINDOW = 32
"""Events for which lines of memory are asked ahead at a time: the keys of one are applied while those of the next are on their way."""
WINDOWED_MIN = 8
"""Events in hand from which that pays: of fewer all lines are asked at once."""
AHEAD, FAR_AHEAD = 8, 16
"""Slots that are asked ahead while one is written: its copy, and before that the version that says which copy."""

TURN_NS = 4_000_000
"""About how long a spinning loop stays, by the costs below; they are high, so that a slow machine stays within 10 ms."""
LOOK_NS, EVENT_NS = 40, 300

STREAMS_FULL, POSITIONS_FULL, ACCOUNTS_FULL = 7, 8, 9
"""With the reasons of `engine.lots.run` what `run_accumulator` comes back for."""
assert JUDGE < STREAMS_FULL, "reasons differ"

# The state.
(
    AT,  # last event of the last batch that is done
    LAST,  # of the batch in hand; AT when there is none
    NEXT,  # event that is applied next
    PLACE,  # ours in the events ring
    SHARD,
    SHARDS,
    WORK,  # events applied
    FINISHED,  # 1: the cursor has moved
    WAKE,  # 1: a reader of what we say sleeps
    UNSAID,  # 1: `out` holds what earlier windows of the batch gave
) = range(10)
STATE_WORDS = 16

PUBLISHED_CELL, CHANGED_CELL, REFUSED_CELL = range(3)
POINTS = (
    "before_matches",
    "after_matches",
    "before_verdicts",
    "after_verdicts",
    "before_slots",
    "between_copies",
    "after_slots",
    "before_cursor",
    "after_cursor",
)
BEFORE_MATCHES, AFTER_MATCHES, BEFORE_VERDICTS, AFTER_VERDICTS = range(4)
BEFORE_SLOTS, BETWEEN_COPIES, AFTER_SLOTS, BEFORE_CURSOR, AFTER_CURSOR = range(4, len(POINTS))

VERDICT_WORDS, LOT_WORDS, ACCOUNT_ROW_WORDS = VERDICT.itemsize // 8, LOT.itemsize // 8, ACCOUNT.itemsize // 8
END_OF_BATCH = int(Flag.END_OF_BATCH)
_SHARD_SHIFT = 32
assert UPDATE.fields is not None, "structured"
assert (UPDATE.fields["slot"][1], UPDATE.fields["shard"][1]) == (8, 12), "slot and shard are the halves of the second word"


class SlotArrays(NamedTuple):
    """A table of slots as kernels take it."""

    slots: Any  # int64[rows, stride]
    indexes: Any  # int64[ranges, entries, 2]
    counts: Any  # int64[ranges, 16]

    @classmethod
    def of(cls, table: SlotTable) -> SlotArrays:
        """The arrays of a mapped table."""
        return cls(table.slots, table.indexes, table.counts)


class Area(NamedTuple):
    """What the loop reads and writes; made once a life by `new_area`."""

    control: Any  # of the events ring
    events: Any  # EVENT[capacity]
    matches_control: Any
    matches: Any  # int64[capacity, 16]
    matches_posted: Any  # int64[32]: wait.Waker's
    verdicts_control: Any
    verdicts: Any  # int64[capacity, 2]
    updates_control: Any
    updates: Any  # int64[capacity, 2]
    updates_posted: Any
    slots: Any  # of the positions: int64[rows, stride]
    indexes: Any
    counts: Any
    account_slots: Any
    account_indexes: Any
    account_counts: Any
    account: Any  # ACCOUNT_SLOT[1], to build in
    account_words: Any  # int64[8], the same
    written: Any  # int64[n]: slots written
    said: Any  # int64[n, 2]: their updates
    ahead: Any  # int64[2 x WINDOW]: key rows of events, as they were looked up ahead
    cells: Any  # int64[]: the worker's metrics
    cell_places: Any  # int64[3]
    points: Any  # int64[n, 2]: KillPoints.words
    point_rows: Any  # int64[9]
    state: Any  # int64[STATE_WORDS]


def new_area(
    events: Ring,
    place: int,
    shard: int,
    shards: int,
    matches: Waker,
    verdicts: Ring,
    updates: Waker,
    positions: SlotArrays,
    accounts: SlotArrays,
    cells: Any,
    cell_places: Sequence[int],
    points: KillPoints,
    changed_max: int,
) -> Area:
    """The loop's memory for one shard. place: ours in the events ring; cell_places: *_CELL; changed_max: positions of one run."""
    account = np.zeros(1, ACCOUNT_SLOT)
    state = np.zeros(STATE_WORDS, np.int64)
    state[PLACE], state[SHARD], state[SHARDS] = place, shard, shards
    return Area(
        control=events.control,
        events=events.records.view(EVENT).reshape(-1),
        matches_control=matches.ring.control,
        matches=matches.ring.records,
        matches_posted=matches.posted,
        verdicts_control=verdicts.control,
        verdicts=verdicts.records,
        updates_control=updates.ring.control,
        updates=updates.ring.records,
        updates_posted=updates.posted,
        slots=positions.slots,
        indexes=positions.indexes,
        counts=positions.counts,
        account_slots=accounts.slots,
        account_indexes=accounts.indexes,
        account_counts=accounts.counts,
        account=account,
        account_words=account.view(np.int64),
        written=np.zeros(changed_max, np.int64),
        said=np.zeros((changed_max, UPDATE_WORDS), np.int64),
        ahead=np.full(2 * WINDOW, -1, np.int64),
        cells=cells,
        cell_places=np.array(cell_places, np.int64),
        points=points.words,
        point_rows=np.array([points.row(name) for name in POINTS], np.int64),
        state=state,
    )


def start_at(area: Area, sequence: int) -> None:
    """Every event up to this one is applied, shown and said."""
    area.state[AT] = area.state[LAST] = sequence
    area.state[NEXT] = sequence + 1


def words_of(state: State, out: Results) -> tuple[Any, Any, Any]:
    """(keys, matches, verdicts) as rows of int64."""
    return (
        state.keys.view(np.int64).reshape(-1, KEY_WORDS),
        out.matches.view(np.int64).reshape(-1, MATCH_WORDS),
        out.verdicts.view(np.int64).reshape(-1, VERDICT_WORDS),
    )


# slots


@kernel
def die_between_copies(slots, row, source, points, point):
    """When the kill point is due: die as `slot_write` would between the new copy and its version, which readers then never see."""
    if points[point, 0] == 1:
        words = (slots.shape[1] - VERSION_WORDS) >> 1
        base = row * slots.shape[1] + VERSION_WORDS
        other = 2 * base + words - slot_current(slots, row)
        copy_words(slots, other, source, 0, words)
    kill_here(points, point)


@kernel
def ask_version(slots, row):
    """Ask for the line of a slot's version, if there is a slot."""
    if row >= 0:
        prefetch_write(slots, row * slots.shape[1])


@kernel
def ask_copy(slots, row):
    """Ask for the lines of the copy that the slot's next version goes to."""
    if row >= 0:
        words = (slots.shape[1] - VERSION_WORDS) >> 1
        first = row * slots.shape[1] + VERSION_WORDS + ((slots[row, 0] + 1) & 1) * words
        for line in range(0, words, 8):
            prefetch_write(slots, first + line)


@kernel
def write_positions(keys, key_words, rows, count, slots, indexes, counts, shard, written, points, point):
    """Write the positions of key rows rows[:count] to their slots; into written (int64[n]) the slot of each. FULL when one has no place.

    points, point: KillPoints.words and the row of the point between a slot's two copies.
    """
    for i in range(min(FAR_AHEAD, count)):
        ask_version(slots, np.int64(keys[rows[i]].slot))
    for i in range(count):
        if i + FAR_AHEAD < count:
            ask_version(slots, np.int64(keys[rows[i + FAR_AHEAD]].slot))
        if i + AHEAD < count:
            ask_copy(slots, np.int64(keys[rows[i + AHEAD]].slot))
        k = rows[i]
        source = key_words[k]
        if keys[k].slot < 0:
            row = slot_put(slots, indexes, counts, shard, pack_key(keys[k].book_id, keys[k].instrument_id), source)
            if row == TABLE_HAS_NO_ROW:
                return TABLE_HAS_NO_ROW
            keys[k].slot = row
        else:
            die_between_copies(slots, np.int64(keys[k].slot), source, points, point)
            slot_write(slots, np.int64(keys[k].slot), source)
        written[i] = keys[k].slot
    return count


@kernel
def write_accounts(keys, accounts, pairs, count, slots, indexes, counts, shard, row_words, row):
    """Write account quantities pairs[:count] (account row, key row) of keys with a slot. row, row_words: one ACCOUNT_SLOT to build in."""
    for i in range(count):
        if i + FAR_AHEAD < count:
            prefetch(accounts, np.int64(pairs[i + FAR_AHEAD, 0]) * ACCOUNT_ROW_WORDS)
        if i + AHEAD < count:
            at = np.int64(accounts[pairs[i + AHEAD, 0]].slot)
            ask_version(slots, at)
            ask_copy(slots, at)
        account = pairs[i, 0]
        k = pairs[i, 1]
        if keys[k].slot < 0:
            continue
        slot = row[0]
        slot.book_id, slot.instrument_id = keys[k].book_id, keys[k].instrument_id
        slot.account_id, slot.qty_scale = accounts[account].account_id, keys[k].qty_scale
        slot.qty_raw, slot.last_sequence = accounts[account].qty_raw, accounts[account].last_sequence
        if accounts[account].slot < 0:
            at = slot_put(slots, indexes, counts, shard, pack_key(keys[k].slot, accounts[account].account_id), row_words)
            if at == TABLE_HAS_NO_ROW:
                return TABLE_HAS_NO_ROW
            accounts[account].slot = at
        else:
            slot_write(slots, np.int64(accounts[account].slot), row_words)
    return count


@kernel
def say_updates(keys, rows, count, written, shard, said, control, records):
    """One UPDATE for each slot written[:count] of key rows rows[:count]. said: int64[n, 2], to build in; nobody gates this ring."""
    for i in range(count):
        said[i, 0] = keys[rows[i]].last_sequence
        said[i, 1] = written[i] | (np.int64(shard) << _SHARD_SHIFT)
    at = 0
    while at < count:
        at += ring_publish(control, records, said, at, min(count - at, records.shape[0] >> 1))


# saying and showing


@kernel
def have_room(out, area):
    """Do the results of a run fit the streams as they are now, and our own tables?"""
    counts = out.counts
    return (
        (counts[MATCHES] == 0 or ring_free(area.matches_control, counts[MATCHES]) >= counts[MATCHES])
        and (counts[VERDICTS] == 0 or ring_free(area.verdicts_control, counts[VERDICTS]) >= counts[VERDICTS])
        and counts[CHANGED] <= area.written.shape[0]
    )


@kernel
def show(state, key_words, out, area):
    """Write the slots of every position and account quantity that changed, and say so; DONE, POSITIONS_FULL or ACCOUNTS_FULL."""
    count, shard = out.counts[CHANGED], area.state[SHARD]
    kill_here(area.points, area.point_rows[BEFORE_SLOTS])
    done = write_positions(
        state.keys, key_words, out.changed, count, area.slots, area.indexes, area.counts, shard, area.written, area.points,
        area.point_rows[BETWEEN_COPIES],
    )  # fmt: skip
    if done < 0:
        return POSITIONS_FULL
    counter_add(area.cells, area.cell_places[CHANGED_CELL], count)
    say_updates(state.keys, out.changed, count, area.written, shard, area.said, area.updates_control, area.updates)
    done = write_accounts(
        state.keys, state.accounts, out.changed_accounts, out.counts[CHANGED_ACCOUNTS], area.account_slots, area.account_indexes,
        area.account_counts, shard, area.account_words, area.account,
    )  # fmt: skip
    if done < 0:
        return ACCOUNTS_FULL
    kill_here(area.points, area.point_rows[AFTER_SLOTS])
    return DONE


@kernel
def say_and_show(state, key_words, out, match_words, verdict_words, area):
    """Say what a run gave and show what it changed, and forget it. DONE, or STREAMS_FULL with nothing said, or a table is full."""
    counts = out.counts
    if not have_room(out, area):
        return STREAMS_FULL
    if counts[MATCHES] > 0:
        kill_here(area.points, area.point_rows[BEFORE_MATCHES])
        ring_publish(area.matches_control, area.matches, match_words, 0, counts[MATCHES])
        kill_here(area.points, area.point_rows[AFTER_MATCHES])
    if counts[VERDICTS] > 0:
        kill_here(area.points, area.point_rows[BEFORE_VERDICTS])
        ring_publish(area.verdicts_control, area.verdicts, verdict_words, 0, counts[VERDICTS])
        kill_here(area.points, area.point_rows[AFTER_VERDICTS])
        counter_add(area.cells, area.cell_places[REFUSED_CELL], counts[VERDICTS])
    if counts[CHANGED] > 0 or counts[CHANGED_ACCOUNTS] > 0:
        code = show(state, key_words, out, area)
        if code != DONE:
            return code
    for cell in range(counts.shape[0]):
        counts[cell] = 0
    return DONE


# the cursor


@kernel
def last_end(events, mask, first, last):
    """Sequence of the last event in first..last (event n at events[n & mask]) that ends a batch, or first - 1."""
    n = last
    while n >= first and not events[n & mask].flags & END_OF_BATCH:
        n -= 1
    return n


@kernel
def finish(area, cursor):
    """Events up to `cursor` are applied and judged: answers may go out, the ring may reuse them."""
    kill_here(area.points, area.point_rows[BEFORE_CURSOR])
    ring_gate(area.control, area.state[PLACE], cursor)
    kill_here(area.points, area.point_rows[AFTER_CURSOR])
    area.state[FINISHED] = 1


@kernel
def finish_upto(state, area, last):
    """Events up to `last` are applied; those behind the last end of a batch are finished only if no key waits for the next one."""
    done = ring_cursor(area.control, area.state[PLACE])
    if state.meta[DIRTY_COUNT] > 0:
        last = last_end(area.events, area.events.shape[0] - 1, done + 1, last)
    if last > done:
        finish(area, last)


# asking ahead


@kernel
def ask_events(area, first, last):
    """Ask for the lines of events first..last, which another core has written."""
    mask = area.events.shape[0] - 1
    for n in range(first, last + 1):
        for line in range(0, EVENT_WORDS, 8):
            prefetch(area.events, (n & mask) * EVENT_WORDS + line)


@kernel
def ask_index(state, area, first, last):
    """Ask for the lines in which the keys of events first..last will be looked up."""
    mask = area.events.shape[0] - 1
    for n in range(first, last + 1):
        e = area.events[n & mask]
        prefetch(state.index, pair_home(state.index, packed(e.book_id, e.instrument_id)) * 2)


@kernel
def ask_keys(state, key_words, area, first, last):
    """Look those keys up and ask for their rows."""
    mask = area.events.shape[0] - 1
    for n in range(first, last + 1):
        e = area.events[n & mask]
        k = key_find(state, e.book_id, e.instrument_id)
        area.ahead[n & (2 * WINDOW - 1)] = k
        if k >= 0:
            for line in range(0, KEY_WORDS, 8):
                prefetch_write(key_words, k * KEY_WORDS + line)


@kernel
def ask_lots(state, area, first, last):
    """Ask for the first and last lots of those keys, and for their first account quantity."""
    for n in range(first, last + 1):
        k = area.ahead[n & (2 * WINDOW - 1)]
        if k >= 0:
            key = state.keys[k]
            if key.oldest >= 0:
                prefetch_write(state.lots, np.int64(key.oldest) * LOT_WORDS)
                prefetch_write(state.lots, np.int64(key.newest) * LOT_WORDS)
            if key.accounts >= 0:
                prefetch_write(state.accounts, np.int64(key.accounts) * ACCOUNT_ROW_WORDS)


@kernel
def ask_ahead(state, key_words, area, first, until, last):
    """Before events first..until of a batch up to `last` are applied: ask for what they and the windows behind them touch."""
    if first == area.state[AT] + 1:
        ask_events(area, first, min(last, first + 3 * WINDOW - 1))
        ask_index(state, area, first, min(last, first + 2 * WINDOW - 1))
        ask_keys(state, key_words, area, first, until)
    ask_events(area, first + 3 * WINDOW, min(last, first + 4 * WINDOW - 1))
    ask_index(state, area, first + 2 * WINDOW, min(last, first + 3 * WINDOW - 1))
    ask_keys(state, key_words, area, first + WINDOW, min(last, first + 2 * WINDOW - 1))
    ask_lots(state, area, first, until)


@kernel
def ask_few(state, area, first, last):
    """A fill or a few: their lines and the copies of their slots at once, not one after another as they are met.

    The line of a slot's version is left alone: whoever waits for it would only fetch it back.
    """
    ask_events(area, first, last)
    mask = area.events.shape[0] - 1
    for n in range(first, last + 1):
        e = area.events[n & mask]
        k = key_find(state, e.book_id, e.instrument_id)
        if k >= 0:
            ask_copy(area.slots, np.int64(state.keys[k].slot))


# the loop


@kernel
def run_accumulator(state, out, key_words, match_words, verdict_words, area, turn_ns):
    """Apply, say, show and finish events until Python is needed or about `turn_ns` have gone by; with 0 one batch, if there is one.

    The words are `words_of` the first two. Returns DONE, a reason of `run` (for the event NEXT, `out` not said yet; the caller goes on
    behind it by setting NEXT), STREAMS_FULL (`out` not said yet), POSITIONS_FULL or ACCOUNTS_FULL; WAKE and FINISHED are set beside it.
    """
    words = area.state
    mask = area.events.shape[0] - 1
    left_ns = turn_ns
    while True:
        if words[LAST] == words[AT]:
            head = ring_head(area.control)
            if head <= words[AT]:
                left_ns -= LOOK_NS
                if left_ns <= 0:
                    return DONE
                pause()
                continue
            words[LAST] = min(head, words[AT] + BATCH)
            gauge_set(area.cells, area.cell_places[PUBLISHED_CELL], words[LAST])
        while words[NEXT] <= words[LAST]:
            before, until = words[NEXT], words[LAST]
            if until - before >= WINDOWED_MIN:
                until = min(until, before + WINDOW - 1)
                ask_ahead(state, key_words, area, before, until, words[LAST])
            else:
                ask_few(state, area, before, until)
            if words[UNSAID] != 0:
                state.meta[RUN] -= 1  # the same run goes on: a key that is listed as changed is not listed twice
            following, reason = run(state, out, area.events, mask, before, until, words[SHARD], words[SHARDS])
            words[NEXT] = following
            words[WORK] += following - before
            words[UNSAID] = 1
            if reason == DONE and following <= words[LAST]:
                continue
            words[UNSAID] = 0
            if reason == DONE or reason == FULL:
                reason = say_and_show(state, key_words, out, match_words, verdict_words, area)
            if reason != DONE:
                return reason
        finish_upto(state, area, words[LAST])
        left_ns -= EVENT_NS * (words[LAST] - words[AT])
        words[AT] = words[LAST]
        if ring_wake(area.matches_control, area.matches_posted) != 0 or ring_wake(area.updates_control, area.updates_posted) != 0:
            words[WAKE] = 1
        if left_ns <= 0 or words[WAKE] != 0:
            return DONE
