"""An accumulator's compiled loop beside the plain way of a replay: the same positions, shown and said, and the cursor where it may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pks.bench.desk import Desk, definitions, trades
from pks.engine.lots.check import state_hash
from pks.engine.lots.run import DERIVE, DONE
from pks.layouts.codes import Flag
from pks.layouts.event import EVENT
from pks.layouts.match import MATCH, VERDICT
from pks.layouts.slots import ACCOUNT_WORDS, POSITION_SLOT, POSITION_WORDS, UPDATE
from pks.segments.ring import Place, Ring, RingReader, RingWriter, ring_bytes
from pks.segments.slots import TRIES_MAX, VERSION_WORDS, slot_read
from pks.segments.wait import Waker
from pks.workers import accumulator_loop as loop
from pks.workers.points import no_points
from pks.workers.positions import Positions

SHOWN = ("book_id", "instrument_id", "qty_raw", "cost_hi", "cost_lo", "realised_hi", "realised_lo", "last_sequence", "open_lots")


def a_ring(dtype: np.dtype[Any], capacity: int, *places: str, start: int = -1) -> Ring:
    area = np.zeros(ring_bytes(capacity, dtype.itemsize) // 8, np.int64)
    return Ring.format(area, "test", dtype, capacity, start=start, places=[Place(name, True, None) for name in places])


def a_table(rows: int, words: int) -> loop.SlotArrays:
    entries = 1 << (2 * rows - 1).bit_length()
    return loop.SlotArrays(
        np.zeros((rows, VERSION_WORDS + 2 * words), np.int64), np.zeros((1, entries, 2), np.int64), np.zeros((1, 16), np.int64)
    )


class Shard:
    """One shard's loop over a ring that the test fills."""

    def __init__(self, folder: Path, books: int, instruments: int, made: int, *gates: str, matches: int = 1 << 14, lots: int = 16) -> None:
        self.desk = Desk(folder, definitions(books, instruments))
        self.made = trades(made, self.desk.last + 1, books, instruments)
        self.journal = self.desk.journal(self.made)
        self.events = a_ring(EVENT, 1 << 14, "accumulator-0", start=self.desk.last)
        self.matches, self.verdicts, self.updates = a_ring(MATCH, matches, *gates), a_ring(VERDICT, 16), a_ring(UPDATE, 1 << 14)
        self.positions = self.folded(self.desk.last, lots)
        self.table, accounts = a_table(books * instruments, POSITION_WORDS), a_table(books * instruments, ACCOUNT_WORDS)
        self.area = loop.new_area(
            self.events, 0, 0, 1, Waker(self.matches), self.verdicts, Waker(self.updates), self.table, accounts, np.zeros(16, np.int64),
            (0, 1, 2), no_points(), len(self.positions.shard.out.changed),
        )  # fmt: skip
        loop.start_at(self.area, self.desk.last)

    def folded(self, last: int, lots: int = 16) -> Positions:
        """The plain way: events 1..last of the journal."""
        made = Positions(self.journal, keys=16, lots=lots)
        made.apply(self.journal, -1, 1, last)
        return made

    def send(self, records: Any) -> None:
        RingWriter(self.events).publish_all(records)

    def run(self) -> int:
        """One turn; tables grow as in the worker."""
        shard = self.positions.shard
        reason = int(loop.run_accumulator(shard.state, shard.out, *loop.words_of(shard.state, shard.out), self.area, 0))
        if reason not in (DONE, DERIVE) and reason < loop.STREAMS_FULL:
            words = self.area.state
            events = self.area.events
            words[loop.NEXT] = self.positions.attend(events, len(events) - 1, int(words[loop.NEXT]), reason)
        return reason

    def run_all(self) -> None:
        for _ in range(1000):
            if self.area.state[loop.AT] == self.events.head:
                return
            self.run()
        raise AssertionError("the loop gets to the end")

    def slot(self, row: int) -> Any:
        room = np.zeros(1, POSITION_SLOT)
        assert slot_read(self.table.slots, row, room.view(np.int64), TRIES_MAX) > 0, "it was written"
        return room[0]


@pytest.mark.parametrize(("books", "instruments", "parts"), [(1, 1, 3), (2, 3, 7), (20, 40, 1), (20, 40, 40)])
def test_the_loop_gives_what_a_replay_gives(tmp_path: Path, books: int, instruments: int, parts: int) -> None:
    shard = Shard(tmp_path, books, instruments, 4000)
    for part in np.array_split(shard.made, parts):
        shard.send(part)
        shard.run_all()
    wanted = shard.folded(shard.desk.last + len(shard.made)).shard.state
    assert state_hash(shard.positions.shard.state) == state_hash(wanted)
    assert shard.events.cursor("accumulator-0") == shard.events.head == shard.desk.last + len(shard.made)
    assert int(shard.area.cells[0]) == shard.events.head, "what may be seen is told before it is shown"


def test_slots_and_updates_show_the_last_state_of_each_position(tmp_path: Path) -> None:
    shard = Shard(tmp_path, 3, 5, 2000, lots=1 << 12)
    for part in np.array_split(shard.made, 9):
        shard.send(part)
        assert shard.run() == DONE
    state = shard.positions.shard.state
    for k in range(15):
        shown = shard.slot(int(state.keys[k]["slot"]))
        assert {name: shown[name] for name in SHOWN} == {name: state.keys[k][name] for name in SHOWN}
    said = RingReader(shard.updates, position=-1).read(1 << 14)
    last = {int(u["slot"]): int(u["sequence"]) for u in said}
    assert last == {int(key["slot"]): int(key["last_sequence"]) for key in state.keys[:15]}
    assert set(said["shard"].tolist()) == {0}


def test_a_position_is_listed_once_a_batch(tmp_path: Path) -> None:
    shard = Shard(tmp_path, 1, 1, 1000, lots=1 << 12)
    shard.send(shard.made[:1])
    shard.run_all()
    before, version = shard.updates.head, int(shard.table.slots[0, 0])
    shard.send(shard.made[1:])
    assert shard.run() == DONE
    assert shard.area.state[loop.AT] == shard.events.head, "one batch, of many windows"
    assert shard.updates.head - before == int(shard.table.slots[0, 0]) - version == 1


def test_a_full_stream_is_told_before_anything_is_said(tmp_path: Path) -> None:
    shard = Shard(tmp_path, 1, 1, 600, "file", matches=16, lots=1 << 12)
    shard.send(shard.made)
    for _ in range(1000):
        reason = shard.run()
        if reason == loop.STREAMS_FULL:
            break
    assert reason == loop.STREAMS_FULL
    head, counts = shard.matches.head, shard.positions.shard.out.counts
    assert counts[0] > 0, "what was not said is still there"
    assert head - shard.matches.cursor("file") + counts[0] > 16, "and does not fit"


def test_a_late_trade_stops_the_loop_and_holds_the_cursor_at_the_last_end(tmp_path: Path) -> None:
    shard = Shard(tmp_path, 1, 1, 6)
    late = shard.made[3:4]
    shard.made["flags"] &= np.uint16(0xFFFF ^ Flag.END_OF_BATCH)
    shard.made["flags"][1] |= Flag.END_OF_BATCH
    late["effective_date"] -= 1
    shard.send(shard.made)
    for _ in range(10):
        assert shard.run() != DERIVE, "no batch ends behind the late trade"
    assert shard.area.state[loop.AT] == shard.events.head
    assert shard.events.cursor("accumulator-0") == shard.desk.last + 2
