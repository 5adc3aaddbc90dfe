"""Calling every kernel once with the argument types that the workers use, so that a forked worker finds them compiled.

Run in the zygote. A small desk is booked through capture's fold and through shards: every kind of event, every lot method, from writable
arrays (rings) and read-only ones (the journal). Touches no shared memory; its files live in a temporary folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.clock import NS_PER_DAY
from pks.base.errors import Code
from pks.base.host import Wait
from pks.base.kernels import monotonic_ns
from pks.engine.booking.admit import GIVEN
from pks.engine.booking.keys import inline_id
from pks.engine.instruments.definitions import AnyDefinition, Book, Currency, Entity, Instrument, Source
from pks.engine.instruments.events import definition_event
from pks.engine.lots.snapshot import export_state, import_state
from pks.engine.lots.state import ANCHOR_EVENTS, KEYS_COUNT
from pks.layouts.codes import Flag, Kind, Method, Oversell, Side
from pks.layouts.event import EVENT, REPLY
from pks.layouts.match import MATCH, VERDICT
from pks.layouts.reject import REJECT
from pks.layouts.slots import ACCOUNT_WORDS, POSITION_WORDS, UPDATE
from pks.segments.ring import PLACES_MAX, Place, Ring, RingReader, RingWriter, ring_bytes, ring_claim, ring_commit, ring_gate, ring_wake
from pks.segments.slots import VERSION_WORDS, pack_key, range_recover, slot_find, slot_read
from pks.segments.wait import Waiter, Waker
from pks.workers.accumulator_loop import (
    AT,
    SlotArrays,
    finish,
    finish_upto,
    run_accumulator,
    say_updates,
    start_at,
    words_of,
    write_accounts,
    write_positions,
)
from pks.workers.accumulator_loop import new_area as accumulator_area
from pks.workers.booking import Booking, DayFiles
from pks.workers.capture_loop import AT_NS, WALL_NS, applied, mark_end, new_area, publish, run_capture, set_source
from pks.workers.points import no_points
from pks.workers.positions import Positions
from pks.workers.rejects import warm_rejects

DAY = 20_000
NOW_NS = (DAY + 30) * NS_PER_DAY
CAPACITY = 1 << 10


def _book(code: str, method: Method, oversell: Oversell) -> Book:
    return Book(code=code, entity="E", method=method.name, oversell=oversell.name, report_currency="USD", zone="UTC")


def _definitions() -> list[AnyDefinition]:
    common: dict[str, Any] = {
        "currency": "USD",
        "settle_ccy": "USD",
        "quote_factor": "1",
        "price_scale": 2,
        "qty_scale": 2,
        "money_scale": 18,
    }
    flags: dict[str, Any] = {"negative_price": False, "zero_price": False, "traded_asset": True}
    return [
        Currency(code="USD", minor_digits=2),
        Currency(code="BTC", minor_digits=8),
        Entity(code="E", functional_currency="USD", timezone="UTC"),
        Source(code="S"),
        *(_book(method.name, method, oversell) for method, oversell in zip(Method, (Oversell.FLIP, Oversell.REJECT) * 3, strict=False)),
        _book("OTHER", Method.FIFO, Oversell.FLIP),
        Instrument(code="LINEAR", asset_class="FUTURE", base_currency="BTC", cleared=True, **common, **flags),
        Instrument(
            code="INVERSE", asset_class="CRYPTO_PERP", base_currency="BTC", contract_type="INVERSE", cleared=False, **common, **flags
        ),
    ]


class SmallCapture:
    """Capture's fold over an array, as the worker has it over a ring and the journal; a shard's kernels are none of its business."""

    def __init__(self, folder: Path, keys: int = 64) -> None:
        self.records = np.zeros(CAPACITY, EVENT)
        self.booking = Booking(lambda sequence: self.records[sequence], DayFiles(folder / "keys"), keys=keys)
        self.journal = self.records.view()
        self.journal.flags.writeable = False
        self.number = 0
        for definition in _definitions():
            self.place(definition_event(definition))

    def place(self, group: Any, *, ends: bool = True) -> int:
        """Admit and place a group, which `ends` a batch; its first sequence, 0 when refused."""
        outcome = self.booking.admit(group, NOW_NS)
        if outcome.records is None:
            return 0
        first = self.booking.sequence + 1
        placed = self.booking.place(outcome.records, NOW_NS, 0)
        self.records[first : first + len(placed)] = placed
        if not ends:
            self.records[self.booking.sequence]["flags"] &= np.uint16(0xFFFF ^ Flag.END_OF_BATCH)
        return first

    def event(self, kind: Kind, book: int = 1, instrument: int = 1, **fields: Any) -> Any:
        """EVENT[1] of a new trade id."""
        self.number += 1
        e = np.zeros(1, EVENT)
        e["kind"], e["group_count"], e["book_id"], e["instrument_id"], e["source_id"] = kind, 1, book, instrument, 1
        e["price_scale"], e["qty_scale"], e["money_scale"], e["trade_id"] = 2, 2, 18, inline_id(f"T{self.number}")
        e["trade_time_ns"], e["side"], e["qty_raw"], e["price_raw"] = DAY * NS_PER_DAY, Side.BUY, 1000, 10_000
        e["flags"] = Flag.HAS_PRICE
        for name, value in fields.items():
            e[name] = value
        return e


class SmallCore(SmallCapture):
    """The same with one shard behind it."""

    def __init__(self, folder: Path, keys: int = 64) -> None:
        super().__init__(folder, keys)
        self.live = Positions(self.journal, keys=8, lots=16)
        self.live.shard.state.meta[ANCHOR_EVENTS] = 1  # so that derivations go on from anchors
        self.live.apply(self.records, CAPACITY - 1, 1, self.booking.sequence)

    def book(self, group: Any, *, ends: bool = True) -> int:
        """Place a group and apply it; its first sequence, 0 when refused."""
        first = self.place(group, ends=ends)
        if first:
            self.live.apply(self.records, CAPACITY - 1, first, self.booking.sequence)
        return first

    def correct(self, kind: Kind, trade: Any, **fields: Any) -> int:
        """Book a correction of `trade`."""
        e = np.zeros(1, EVENT)
        e["kind"], e["group_count"], e["trade_id"] = kind, 1, trade["trade_id"]
        for name in ("price_scale", "qty_scale", "money_scale"):
            e[name] = trade[name]
        for name, value in fields.items():
            e[name] = value
        return self.book(e)


def _book_everything(core: SmallCore) -> None:
    for book in range(1, len(Method) + 1):
        for instrument in (1, 2):
            first = core.event(Kind.TRADE, book, instrument)
            opened = core.book(first)
            core.book(core.event(Kind.TRADE, book, instrument, price_raw=10_100))
            core.book(core.event(Kind.TRADE, book, instrument, side=Side.SELL, qty_raw=300, lot=opened))
            core.book(core.event(Kind.TRADE, book, instrument, trade_time_ns=(DAY - 1) * NS_PER_DAY))  # late: a re-derivation
            core.correct(Kind.CANCEL, first)
    fee = {"fee_raw": 1, "fee_scale": 2, "fee_currency_id": 2}
    traded = core.event(Kind.TRADE, flags=Flag.HAS_PRICE | Flag.HAS_FEE, **fee)
    core.book(traded)
    core.correct(Kind.FEE, traded, flags=Flag.HAS_FEE, **fee)
    core.correct(Kind.FEE, traded, flags=Flag.HAS_FEE, **{**fee, "fee_currency_id": 1})
    core.correct(Kind.AMEND, traded, price_raw=9_900, subject=4, flags=Flag.HAS_PRICE)
    core.book(core.event(Kind.TRADE, side=Side.SELL, qty_raw=900_000))  # a flip
    for book in range(1, len(Method) + 1):
        for ends in (False, True):  # two that are late, in one batch
            core.book(core.event(Kind.TRADE, book, trade_time_ns=(DAY - 1) * NS_PER_DAY), ends=ends)
    core.book(core.event(Kind.TRADE, 3, qty_raw=5000))
    closing = core.event(Kind.TRADE, 3, side=Side.SELL, qty_raw=50)
    core.book(closing)
    for days in (3, -3):  # it has another place, with other matches; then none
        core.correct(Kind.AMEND, closing, trade_time_ns=(DAY + days) * NS_PER_DAY, subject=GIVEN["trade_time_ns"])
    core.correct(Kind.CANCEL, closing)
    moved = core.event(Kind.TRANSFER, to_book_id=3, side=0, qty_raw=100)
    core.book(moved)
    core.correct(Kind.FEE, moved, flags=Flag.HAS_FEE, **fee)
    core.book(core.event(Kind.TRANSFER, to_book_id=3, side=0, qty_raw=100, trade_time_ns=(DAY - 2) * NS_PER_DAY))
    core.book(core.event(Kind.TRANSFER, to_book_id=len(Method) + 1, side=0, qty_raw=100))  # a book that had nothing
    for days in (1, -1):
        core.book(core.event(Kind.ACTION, 0, qty_raw=3, price_raw=2, effective_date=DAY + days, flags=0))
        core.book(core.event(Kind.FIXING, 0, effective_date=DAY + days + 1, flags=Flag.HAS_PRICE))
    for method in (Method.LIFO, Method.SPECIFIC, Method.AVERAGE, Method.HIFO):
        core.book(definition_event(_book(Method.FIFO.name, method, Oversell.FLIP)))


def warm_fold() -> None:
    """Every kernel that folds events into positions, for live and recovering shards."""
    with tempfile.TemporaryDirectory() as folder:
        core = SmallCore(Path(folder))
        _book_everything(core)
        again = Positions(core.journal, keys=8, lots=16)
        again.apply(core.journal, -1, 1, core.booking.sequence)
        assert again.shard.state.meta[KEYS_COUNT] == core.live.shard.state.meta[KEYS_COUNT], "a replay makes the same keys"
        import_state(export_state(again.shard.state), 0, 2)


def _small_ring(dtype: Any, *places: str, start: int = -1) -> Ring:
    area = np.zeros(ring_bytes(16, dtype.itemsize) // 8, np.int64)
    return Ring.format(area, "warm", dtype, 16, start=start, places=[Place(name, True, None) for name in places])


def _small_table(words: int) -> SlotArrays:
    return SlotArrays(np.zeros((4, VERSION_WORDS + 2 * words), np.int64), np.zeros((1, 8, 2), np.int64), np.zeros((1, 16), np.int64))


def warm_accumulator() -> None:
    """The kernels of an accumulator's loop, and those of them that its worker calls from Python."""
    with tempfile.TemporaryDirectory() as folder:
        core = SmallCore(Path(folder))
        core.book(core.event(Kind.TRADE))
        events = _small_ring(EVENT, "gate", start=core.booking.sequence)
        outcome = core.booking.admit(core.event(Kind.TRADE), NOW_NS)
        RingWriter(events).publish(core.booking.place(outcome.records, NOW_NS, 0))
        matches, verdicts, updates = (_small_ring(dtype) for dtype in (MATCH, VERDICT, UPDATE))
        table, accounts = _small_table(POSITION_WORDS), _small_table(ACCOUNT_WORDS)
        cells = np.zeros(16, np.int64)
        area = accumulator_area(
            events, 0, 0, 1, Waker(matches), verdicts, Waker(updates), table, accounts, cells, [0, 1, 2], no_points(), 8
        )
        shard = core.live.shard
        start_at(area, events.start)
        run_accumulator(shard.state, shard.out, *words_of(shard.state, shard.out), area, 0)
        assert area.state[AT] == RingReader(events, "gate").cursor == events.head, "the event is applied and finished"
        finish(area, events.head)
        finish_upto(shard.state, area, events.head)
        rows, pairs = np.zeros(1, np.int32), np.zeros((1, 2), np.int32)
        keys = shard.state.keys
        words = words_of(shard.state, shard.out)[0]
        write_positions(keys, words, rows, 1, *table, 0, area.written, area.points, area.point_rows[0])
        say_updates(keys, rows, 1, area.written, 0, area.said, area.updates_control, area.updates)
        write_accounts(keys, shard.state.accounts, pairs, 0, *accounts, 0, area.account_words, area.account)
        range_recover(*table, 0)
        slot_find(table.indexes[0], pack_key(1, 1))
        slot_read(table.slots, 0, np.zeros(POSITION_WORDS, np.int64), 1)


def warm_booking() -> None:
    """Every kernel of capture's fold and of its compiled loop."""
    with tempfile.TemporaryDirectory() as folder:
        core = SmallCapture(Path(folder))
        core.place(core.event(Kind.TRADE))
        booking = core.booking
        _turn_capture(booking, core.event(Kind.TRADE))
        fresh = Booking(lambda sequence: core.records[sequence], DayFiles(Path(folder) / "other"), keys=64)
        fresh.learn(core.journal, -1, 1, booking.sequence - 1)
        fresh.learn(core.records, CAPACITY - 1, booking.sequence, booking.sequence)
        fresh.evict([DAY])
        assert fresh.sequence == booking.sequence, "the fold reaches the end"


def _turn_capture(booking: Booking, trade: Any) -> None:
    """One trade through capture's loop, from an intake ring to its answer; then the TICK behind it."""
    events, requests, replies = _small_ring(EVENT, "gate"), _small_ring(EVENT, "capture"), _small_ring(REPLY, "source")
    cells = np.zeros(16, np.int64)
    verdicts = _small_ring(VERDICT)
    rejects = _small_ring(REJECT)
    area = new_area(events, 0, [0], 1, [verdicts], rejects, cells, [0, 1, 2, 3], no_points())
    set_source(area, 0, 0, requests, replies, -1)
    area.state[WALL_NS], area.state[AT_NS] = NOW_NS, monotonic_ns(area.clock)
    RingWriter(requests).publish(trade)
    run_capture(booking.tables, np.zeros((4, 2), np.int64), area, 0)
    ring_gate(events.control, 0, events.head)
    run_capture(booking.tables, np.zeros((4, 2), np.int64), area, 0)
    assert len(RingReader(replies, "source").read(4)) == 1, Code.BAD_RECORD.name
    applied(area)
    claimed = ring_claim(events.control, 1)
    publish(area, events.head + 1, events.head + claimed, True)
    assert mark_end(area) == events.head, "there is room"
    warm_rejects(rejects, area.words)


def warm_rings() -> None:
    """The kernels by which workers read and write rings, and look whether to sleep."""
    for dtype in (EVENT, REPLY, MATCH, VERDICT, REJECT, UPDATE):
        area = np.zeros(ring_bytes(16, dtype.itemsize) // 8, np.int64)
        ring = Ring.format(area, "warm", dtype, 16, places=[Place("gate", True, None), Place("free", False, None)])
        writer, gate, free = RingWriter(ring), RingReader(ring, "gate"), RingReader(ring, position=-1)
        writer.free(1)
        writer.publish_all(np.zeros(1, dtype))
        writer.publish(np.zeros(1, dtype))
        assert len(gate.read(4)) == len(free.read(4)) == 2, "both read what was published"
        gate.finish()
        ring_claim(ring.control, 1)
        ring_commit(ring.control, 1)
        ring_wake(ring.control, np.zeros(PLACES_MAX, np.int64))
        Waiter([gate], Wait.SPIN).wait(1000)
