"""Capture's compiled loop over rings of its own: what it takes, what it leaves, when an answer goes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pks.base.errors import Code
from pks.base.kernels import monotonic_ns
from pks.engine.booking.take import DONE, SLOW
from pks.engine.lots.tables import pair_set
from pks.layouts.codes import Flag, Kind
from pks.layouts.detail import with_text
from pks.layouts.event import CHECKSUM_WORD, EVENT, FIELD_NAME, REPLY
from pks.layouts.match import VERDICT
from pks.layouts.reject import REJECT
from pks.segments.journal_records import record_checksum
from pks.segments.ring import HEAD, Place, Ring, RingReader, RingWriter, ring_bytes, ring_gate
from pks.workers import capture_loop as loop
from pks.workers.capture import IntakeReader, IntakeWatch
from pks.workers.points import no_points
from pks.workers.rejects import ROOM, groups_in
from pks.workers.warm import NOW_NS, SmallCore

CAPACITY = 1 << 10
JOURNAL, SHARD = 0, 1


def a_ring(dtype: np.dtype[Any], capacity: int, *places: str, start: int = -1) -> Ring:
    area = np.zeros(ring_bytes(capacity, dtype.itemsize) // 8, np.int64)
    return Ring.format(area, "test", dtype, capacity, start=start, places=[Place(name, True, None) for name in places])


class Desk:
    """The loop with two sources, one journal and one accumulator, whose cursors the test moves."""

    def __init__(self, folder: Path, capacity: int = CAPACITY, rejects: int = 1 << 13) -> None:
        self.core = SmallCore(folder, keys=CAPACITY)
        self.core.book(self.core.event(Kind.TRADE))  # its date is in memory from here on
        self.first = self.core.booking.sequence
        self.events = a_ring(EVENT, capacity, "journal", "accumulator-0", start=self.first)
        self.requests = [a_ring(EVENT, CAPACITY, "capture") for _ in range(2)]
        self.replies = [a_ring(REPLY, CAPACITY, "source") for _ in range(2)]
        self.verdict_ring = a_ring(VERDICT, 16)
        self.rejects = a_ring(REJECT, rejects, "file")
        self.cells = np.zeros(16, np.int64)
        self.area = loop.new_area(
            self.events, JOURNAL, [SHARD], 2, [self.verdict_ring], self.rejects, self.cells, (0, 1, 2, 3), no_points()
        )
        for number in range(2):
            loop.set_source(self.area, number, number, self.requests[number], self.replies[number], -1)
        self.state = self.area.state
        self.state[loop.WALL_NS], self.state[loop.AT_NS] = NOW_NS, monotonic_ns(self.area.clock)
        self.verdicts = np.zeros((16, 2), np.int64)
        self.taken = [RingReader(replies, "source") for replies in self.replies]

    def trade(self, **fields: Any) -> Any:
        return self.core.event(Kind.TRADE, **fields)

    def send(self, *records: Any, source: int = 0) -> None:
        RingWriter(self.requests[source]).publish_all(np.concatenate(records))

    def run(self) -> int:
        self.state[loop.HELD] = self.state[loop.UNREAD] = 0
        return int(loop.run_capture(self.core.booking.tables, self.verdicts, self.area, 0))

    def finish(self, journal: int, shard: int) -> None:
        ring_gate(self.events.control, JOURNAL, journal)
        ring_gate(self.events.control, SHARD, shard)

    def answers(self, source: int = 0) -> list[tuple[int, int, int]]:
        """(ticket, sequence, code) of each that has come."""
        found = self.taken[source].read(CAPACITY)
        self.taken[source].finish()
        return [(int(a["ticket"]), int(a["sequence"]), int(a["code"])) for a in found]

    def event(self, sequence: int) -> Any:
        return self.area.events[sequence & (self.events.capacity - 1)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_trade_is_published_sealed_and_ends_a_batch(desk: Desk) -> None:
    desk.send(desk.trade())
    assert desk.run() == DONE
    assert desk.events.head == desk.first + 1
    e = desk.event(desk.first + 1)
    assert int(e["sequence"]) == desk.first + 1
    assert int(e["recorded_ns"]) >= NOW_NS
    assert int(e["flags"]) & Flag.END_OF_BATCH
    row = (desk.first + 1) & (desk.events.capacity - 1)
    assert desk.events.records[row, CHECKSUM_WORD] == record_checksum(desk.events.records, row)
    assert desk.requests[0].cursor("capture") == 0
    assert desk.cells[:3].tolist() == [1, 0, 0]


def test_an_answer_waits_for_journal_and_accumulator(desk: Desk) -> None:
    first = desk.first
    desk.send(desk.trade())
    desk.run()
    for journal, shard in ((first, first), (first + 1, first), (first, first)):
        desk.finish(journal, shard)
        desk.run()
        assert desk.answers() == []
        assert desk.events.head <= first + 2
    desk.finish(first + 1, first + 1)
    desk.run()
    assert desk.answers() == [(0, first + 1, Code.ACCEPTED)]


def test_unread_verdicts_hold_answers_back_and_then_stand_in_them(desk: Desk) -> None:
    desk.send(desk.trade())
    desk.run()
    desk.finish(desk.first + 1, desk.first + 1)
    RingWriter(desk.verdict_ring).publish_all(np.array([(desk.first + 1, Code.OVERSELL, 0)], VERDICT))
    desk.run()
    assert desk.state[loop.UNREAD] == 1
    assert desk.answers() == []
    pair_set(desk.verdicts, desk.first + 1, int(Code.OVERSELL))
    desk.area.verdict_cursors[0] = desk.verdict_ring.head
    desk.run()
    assert desk.answers() == [(0, desk.first + 1, Code.OVERSELL)]


def test_what_is_not_plain_is_left_and_the_other_source_goes_on(desk: Desk) -> None:
    amend = desk.trade()
    amend["kind"] = Kind.AMEND
    desk.send(desk.trade(), amend, desk.trade())
    desk.send(desk.trade(), source=1)
    assert desk.run() == SLOW
    assert (desk.state[loop.NUMBER], desk.state[loop.START], desk.state[loop.TAKEN]) == (0, -1, 1)
    assert int(desk.area.batch[1]["kind"]) == Kind.AMEND
    assert desk.requests[0].cursor("capture") == 0
    assert desk.run() == SLOW, "the record stays until Python has dealt with it"
    assert desk.requests[1].cursor("capture") == 0, "and nobody else waits for it"


def test_a_group_that_only_the_batch_cuts_is_plain(desk: Desk) -> None:
    whole = np.concatenate([desk.trade(), np.zeros(2, EVENT)])
    whole["kind"][1:], whole["group_count"], whole["group_index"] = Kind.DETAIL, 3, [0, 1, 2]
    whole["flags"][0] |= Flag.HAS_DETAIL
    desk.send(*(desk.trade() for _ in range(loop.BATCH - 1)), whole)
    assert desk.run() == DONE
    assert desk.requests[0].cursor("capture") == loop.BATCH - 2
    assert desk.run() == DONE
    assert desk.requests[0].cursor("capture") == loop.BATCH + 1
    assert desk.events.head == desk.first + loop.BATCH + 2


def test_no_end_of_batch_while_the_accumulators_work_at_the_last_one(desk: Desk) -> None:
    for _ in range(3):
        desk.send(desk.trade())
        desk.run()
    flags = [bool(int(desk.event(desk.first + n)["flags"]) & Flag.END_OF_BATCH) for n in (1, 2, 3)]
    assert flags == [True, False, False]
    desk.finish(desk.first, desk.first + 1)
    desk.send(desk.trade())
    desk.run()
    assert int(desk.event(desk.first + 4)["flags"]) & Flag.END_OF_BATCH


def test_one_tick_when_all_is_durable_and_quiet(desk: Desk) -> None:
    desk.send(desk.trade())
    desk.run()
    desk.finish(desk.first + 1, desk.first + 1)
    for _ in range(3):
        desk.run()
        desk.finish(desk.events.head, desk.events.head)
    assert desk.events.head == desk.first + 2
    assert int(desk.event(desk.first + 2)["kind"]) == Kind.TICK


def test_a_repeat_is_answered_with_the_first_sequence_or_as_a_conflict(desk: Desk) -> None:
    once = desk.trade()
    other = once.copy()
    other["qty_raw"] += 1
    desk.send(once, once, other)
    desk.run()
    desk.finish(desk.first + 1, desk.first + 1)
    desk.run()
    assert [code for _, _, code in desk.answers()] == [Code.ACCEPTED, Code.DUPLICATE, Code.IDEMPOTENCY_CONFLICT]
    assert desk.cells[:3].tolist() == [1, 1, 1]


def test_a_full_events_ring_holds_back_and_loses_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path, capacity=16)
    desk.send(*(desk.trade() for _ in range(40)))
    for _ in range(10):
        assert desk.run() == DONE
    assert desk.state[loop.HELD] == 1
    assert desk.events.head == desk.first + 16
    while desk.requests[0].cursor("capture") < 39:
        desk.finish(desk.events.head, desk.events.head)
        desk.run()
    for _ in range(3):
        desk.finish(desk.events.head, desk.events.head)
        desk.run()
    assert [ticket for ticket, _, _ in desk.answers()] == list(range(40))
    assert desk.cells[:3].tolist() == [40, 0, 0]


@pytest.mark.parametrize("head", [2**62, -(2**62), 2**63 - 1, -(2**63), CAPACITY + 1, -2])
def test_garbage_cursors_of_a_source_are_given_up(desk: Desk, head: int) -> None:
    desk.requests[1].control[HEAD] = head
    desk.send(desk.trade())
    assert desk.run() == loop.GIVE_UP
    assert desk.state[loop.NUMBER] == 1
    assert desk.events.head == desk.first + 1, "the source before it was served"


def test_a_source_that_takes_no_answers_is_not_read_and_keeps_nobody_awake(desk: Desk) -> None:
    row = desk.area.sources[0]
    watch = IntakeWatch(IntakeReader(desk.requests[0], row), row)
    desk.send(desk.trade())
    assert (watch.cursor, desk.requests[0].head) == (-1, 0), "a wait would end at once"
    row[loop.OWED_COUNT] = loop.OWED_MAX
    desk.area.owed[0]["sequence"] = 1 << 40  # not due
    assert desk.run() == DONE
    assert desk.requests[0].cursor("capture") == -1
    assert watch.cursor == desk.requests[0].head == 0
    row[loop.OWED_COUNT] = 0
    assert desk.run() == DONE
    assert desk.requests[0].cursor("capture") == watch.cursor == 0


def told(desk: Desk) -> list[Any]:
    """The refused groups in the rejects ring, REJECT[n] each."""
    records = RingReader(desk.rejects, position=-1).read(CAPACITY * 8)
    groups, done = groups_in(records, 0)
    assert done == len(records), "every group is whole"
    return [group.records for group in groups]


def test_what_is_refused_is_told_as_it_came(desk: Desk) -> None:
    good, bad = desk.trade(), desk.trade(qty_raw=0)
    late = desk.trade(settle_date=1)  # refused after its dates were filled in
    late["effective_date"], late["lot_date"], late["flags"] = -7, 9, int(late["flags"][0]) & ~int(Flag.HAS_BUSINESS_DATE)
    other = good.copy()
    other["qty_raw"] += 1
    desk.send(good, bad, late, good, other, desk.trade())
    desk.state[loop.EPOCH] = 5
    assert desk.run() == DONE
    found = [group[0] for group in told(desk)]
    assert [(int(r["ticket"]), Code(int(r["code"])), FIELD_NAME[int(r["field"])]) for r in found] == [
        (1, Code.NOT_POSITIVE, "qty_raw"),
        (2, Code.SETTLES_BEFORE_TRADE, "settle_date"),
        (4, Code.IDEMPOTENCY_CONFLICT, "trade_id"),
    ]
    assert [r["original"].tobytes() for r in found] == [sent.tobytes() for sent in (bad, late, other)]
    assert {(int(r["epoch"]), int(r["intake"]), int(r["index"]), int(r["count"])) for r in found} == {(5, 0, 0, 1)}
    assert all(int(r["recorded_ns"]) >= NOW_NS for r in found)
    assert desk.cells[:4].tolist() == [2, 1, 3, 0]


def test_a_refused_group_is_told_whole(desk: Desk) -> None:
    whole = with_text(desk.trade(side=7)[0], b"x" * 500)
    desk.send(desk.trade(), whole, desk.trade(), source=1)
    assert desk.run() == DONE
    (group,) = told(desk)
    assert (len(group), group["index"].tolist(), set(group["count"].tolist())) == (4, [0, 1, 2, 3], {4})
    assert group["original"].tobytes() == whole.tobytes()
    assert set(group["intake"].tolist()) == {1}


def test_records_of_chance_are_refused_and_told(desk: Desk, seed: int) -> None:
    chance = np.random.default_rng(seed)
    sent = [desk.trade() for _ in range(200)]
    for record in sent:
        words = record.view(np.int64)
        for word in chance.integers(4, 21, 3):  # all but what makes it a plain trade and its id
            words[word] = chance.integers(-(2**63), 2**63)
        record["original"] = record["lot"] = record["to_book_id"] = record["second_key_hi"] = record["second_key_lo"] = 0
        record["book_id"] = max(1, int(record["book_id"][0]))
    desk.send(*sent)
    assert desk.run() in (DONE, SLOW)
    assert int(desk.cells[2]) == len(told(desk)) > 10
    for group in told(desk):
        assert group["original"].tobytes() == sent[int(group[0]["ticket"])].tobytes()


def test_no_more_is_told_than_the_bound_and_the_rest_is_counted(desk: Desk) -> None:
    desk.area.reject_state[ROOM] = 5
    desk.send(*(desk.trade(qty_raw=0) for _ in range(3)), with_text(desk.trade(qty_raw=0)[0], b"x" * 400), desk.trade(qty_raw=0))
    desk.run()
    assert [int(group[0]["ticket"]) for group in told(desk)] == [0, 1, 2, 7], "the group had no room, the one behind it had"
    assert desk.cells[:4].tolist() == [0, 0, 5, 4]
    desk.finish(desk.first, desk.first)
    desk.run()
    assert len(desk.answers()) == 5, "the source has every reply"


def test_a_ring_that_its_file_does_not_empty_holds_nobody_back(tmp_path: Path) -> None:
    desk = Desk(tmp_path, rejects=4)
    for _ in range(3):
        desk.send(*(desk.trade(qty_raw=0) for _ in range(3)), desk.trade())
        assert desk.run() == DONE
    assert len(told(desk)) == 4
    assert desk.cells[:4].tolist() == [3, 0, 9, 5]
