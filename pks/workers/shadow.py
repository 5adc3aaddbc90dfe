"""The shadow: replays the journal by itself, compares with what readers see, and writes checkpoints.

It folds all books in one piece whatever the number of shards, from durable events only, so its checkpoints fit any later start. A live slot
that reflects the same event and says something else is an alarm: memory was corrupted, or the fold is not deterministic. Wrong rules
it cannot find, since it uses the same ones.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import numpy as np
from numba import njit

from pks.base.limits import EDGE_REST_NS_MAX
from pks.engine.lots.state import DIRTY_COUNT, KEYS_COUNT
from pks.layouts.codes import Kind
from pks.layouts.event import EVENT
from pks.layouts.slots import POSITION_SLOT, POSITION_WORDS
from pks.layouts.state import KEY, KEY_WORDS
from pks.segments.journal_view import JournalView
from pks.segments.ring import ring_cursor, ring_head
from pks.segments.slots import pack_key, slot_find_any, slot_read
from pks.workers.accumulator_loop import last_end
from pks.workers.booking import Booking, DayFiles
from pks.workers.checkpoint import (
    capture_arrays,
    check_not_beyond,
    latest_checkpoint,
    load_booking,
    load_positions,
    positions_arrays,
    write_checkpoint,
)
from pks.workers.edges.snapshot import snapshots_of
from pks.workers.positions import Positions
from pks.workers.runtime import Context

BATCH = 1 << 14
COMPARED_A_STEP = 1 << 12
RELEASED_EVENTS = 1 << 15
"""How many events behind the fold the journal's pages may count as ours before they are let go."""

CHECKPOINT_IDLE_NS = 60_000_000_000
"""A quiet system gets a checkpoint of what it has after this long."""

SEQUENCE_WORD = POSITION_SLOT.fields["last_sequence"][1] // 8 if POSITION_SLOT.fields else 0
TRIES = 1000


@njit(cache=True)
def compare_keys(keys, key_words, first, count, slots, indexes, row, found):
    """Compare the live slots of key rows first..first+count-1 with ours where both reflect one event.

    row: int64[POSITION_WORDS] to read into. found: int64[2], written: how many were compared, the first key row that differs or -1.
    """
    found[0] = 0
    found[1] = -1
    for k in range(first, first + count):
        at = slot_find_any(indexes, pack_key(keys[k].book_id, keys[k].instrument_id))
        if at < 0 or slot_read(slots, at, row, TRIES) <= 0 or row[SEQUENCE_WORD] != keys[k].last_sequence:
            continue
        found[0] += 1
        for word in range(1, POSITION_WORDS):
            if row[word] != key_words[k, word]:
                found[1] = k
                return


class Shadow:
    """Implements runtime.Worker."""

    def __init__(self, context: Context) -> None:
        self.context, self.host = context, context.host
        self.ring = self.host.events
        self.journal_place = self.ring.place("journal")
        self.view = JournalView(context.paths.journal)
        self.positions = Positions(self.view.records, keys=1 << 12, lots=1 << 14)
        self.positions.shard.beat = context.beat
        files = DayFiles(context.paths.keys)
        keys = context.config.dedup_keys
        self.booking = Booking(lambda sequence: self.view.records[sequence], files, keys=keys, dense=True, beat=context.beat)
        self.compared = context.cells.counter("compared")
        self.differences = context.cells.counter("differences")
        self.checkpoint_gauge = context.cells.gauge("checkpoint")
        self.reentries: list[tuple[int, int]] = []  # (transfer, cause) that an accumulator owes and the journal does not have
        durable = self._durable()
        check_not_beyond(context.paths.checkpoints, self.ring.head)
        checkpoint = latest_checkpoint(context.paths.checkpoints, durable)
        if checkpoint is not None:
            load_positions(self.positions, checkpoint)
            load_booking(self.booking, checkpoint)
            self._owe_reentries(checkpoint.sequence, checkpoint.sequence)
        self.sequence = self.saved = checkpoint.sequence if checkpoint is not None else 0
        self.released = self.sequence
        self.saved_ns = context.clock.monotonic_ns()
        self.next_key = 0
        self.row = np.zeros(POSITION_WORDS, np.int64)
        self.found = np.zeros(2, np.int64)
        self.snapshots = snapshots_of(context, self.positions, self.view)
        context.ready()

    def _durable(self) -> int:
        return int(ring_cursor(self.ring.control, self.journal_place))

    def step(self) -> int:
        """Fold what has become durable; compare some positions. Nothing while the system starts: others need the cores, and nobody us."""
        if not (self.context.is_system_ready() or self.context.is_system_stopping()):
            return 0
        durable = self._durable()
        last = min(durable, self.sequence + BATCH)
        if last > self.view.extent[1]:
            self.view.refresh()
        if last > self.sequence:  # up to the end of a batch, so that no key waits for one when a checkpoint is due
            ended = int(last_end(self.view.records, -1, self.sequence + 1, last))
            last = ended if ended > self.sequence else last
        work = last - self.sequence
        if work > 0:
            self.positions.apply(self.view.records, -1, self.sequence + 1, last)
            self.positions.shard.sets_out.clear()
            self._owe_reentries(self.sequence + 1, last)
            self.booking.learn(self.view.records, -1, self.sequence + 1, last)
            self.booking.defined.clear()
            self.sequence = last
            if last - self.released >= RELEASED_EVENTS:
                self.view.release(last)
                self.released = last
        self.context.cursor, self.context.lag = self.sequence, durable - self.sequence
        self._compare()
        if self.snapshots is not None:
            self.snapshots.turn(self.sequence, self.reentries)
        return work

    def _owe_reentries(self, first: int, last: int) -> None:
        """Take the re-entries that events first..last caused; those of a transfer are settled by any later correction of it."""
        made = self.positions.shard.reentries
        self.reentries += made
        made.clear()
        if not self.reentries:
            return
        events = self.view.records[first : last + 1]
        settled: dict[int, int] = {}
        for at in np.flatnonzero((events["to_book_id"] != 0) & np.isin(events["kind"], (Kind.AMEND, Kind.CANCEL))).tolist():
            settled[int(events[at]["original"])] = first + at
        self.reentries = [(transfer, cause) for transfer, cause in self.reentries if settled.get(transfer, 0) <= cause]

    def _compare(self) -> None:
        state = self.positions.shard.state
        count = int(state.meta[KEYS_COUNT])
        if not count:
            return
        first = self.next_key if self.next_key < count else 0
        upto = min(count, first + COMPARED_A_STEP)
        table = self.host.positions
        words = state.keys.view(np.int64).reshape(-1, KEY_WORDS)
        compare_keys(state.keys, words, first, upto - first, table.slots, table.indexes, self.row, self.found)
        self.compared.add(int(self.found[0]))
        self.next_key = upto
        if self.found[1] >= 0:
            self._alarm(int(self.found[1]))

    def _alarm(self, k: int) -> None:
        """Say which position differs and in which fields."""
        ours = self.positions.shard.state.keys[k]
        live = self.row.view(POSITION_SLOT)[0]
        fields = [name for name in POSITION_SLOT.names or () if name != "version" and not np.array_equal(ours[name], live[name])]
        book, instrument = int(ours["book_id"]), int(ours["instrument_id"])
        said = {name: (str(ours[name]), str(live[name])) for name in fields}
        self.differences.add()
        self.context.fail(f"position of book {book}, instrument {instrument} differs in {', '.join(fields)}")
        self.context.log.error("a live position differs from the journal's", book=book, instrument=instrument, ours_and_live=str(said))
        self.next_key = k + 1

    def idle(self) -> None:
        """Look again in a while; nobody waits for the shadow."""
        self.context.nap(self.context.rest_ns(EDGE_REST_NS_MAX))

    def housekeeping(self) -> None:
        """A checkpoint after enough events, or when it has been quiet for a while.

        None while the system starts: capture takes verdicts from its checkpoint on, accumulators say them from theirs on, and both are one.
        """
        if not self.context.is_system_ready():
            return
        events = self.sequence - self.saved
        quiet = self.context.clock.monotonic_ns() - self.saved_ns > CHECKPOINT_IDLE_NS
        if events >= self.context.config.checkpoint_events or (events > 1 and quiet):
            self._save()

    def _save(self) -> None:
        """Write a checkpoint, when no key waits for its batch's end; a disk without room costs only the time of a longer replay."""
        if self.sequence == self.saved or self.positions.shard.state.meta[DIRTY_COUNT]:
            return
        self.saved_ns = self.context.clock.monotonic_ns()
        facts, arrays = capture_arrays(self.booking)
        arrays.update(positions_arrays(self.positions, self.reentries))
        self.context.point("before_checkpoint")
        try:
            write_checkpoint(self.context.paths.checkpoints, self.sequence, facts, arrays, self.context.point)
        except OSError as error:
            self.context.log.warning("no checkpoint", error=str(error))
            return
        self.context.point("after_checkpoint")
        self.saved = self.sequence
        self.checkpoint_gauge.set(self.saved)

    def drain(self) -> bool:
        """All that is durable is folded, and saved."""
        if self.sequence < int(ring_head(self.ring.control)):
            return False
        self._save()
        return True

    def close(self) -> None:
        """End the way to Postgres."""
        if self.snapshots is not None:
            self.snapshots.close()


def make(context: Context) -> Shadow:
    """The shadow."""
    return Shadow(context)


def warm() -> None:
    """Compile the kernels of this worker."""
    from pks.engine.lots.extract import warm_extract
    from pks.engine.lots.state import new_state
    from pks.workers.warm import warm_fold, warm_rings

    warm_fold()
    warm_rings()
    warm_extract(new_state(4, 4, 4, 4, 4))
    journal = np.zeros(1, EVENT)
    journal.flags.writeable = False
    last_end(journal, -1, 0, 0)
    keys = np.zeros(1, KEY)
    words = keys.view(np.int64).reshape(-1, KEY_WORDS)
    slots, indexes = np.zeros((1, 8 + 2 * POSITION_WORDS), np.int64), np.zeros((1, 4, 2), np.int64)
    compare_keys(keys, words, 0, 1, slots, indexes, np.zeros(POSITION_WORDS, np.int64), np.zeros(2, np.int64))
