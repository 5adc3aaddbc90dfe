"""A system of this test's own for the blotter: real segments as the topology makes them, with a small desk, written by the test."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from pks import topology
from pks.base.config import Config, Sizes
from pks.base.units import from_int
from pks.layouts.codes import Kind, PositionFlag, Side, Subject
from pks.layouts.event import EVENT
from pks.layouts.refdata import ROW
from pks.layouts.segment import WorkerState
from pks.layouts.slots import POSITION_SLOT
from pks.segments.ring import RingWriter, ring_gate
from pks.segments.table import RefdataTable
from pks.segments.wait import remove_semaphores

HOUR_NS = 3_600 * 10**9
NOW_NS = 1_742_000_000_000_000_000  # 2025-03-15T00:53:20Z
MONOTONIC_NS = 50_000 * 10**9
WORD = 2**64 - 1

CURRENCIES = {"RUB": 1, "USD": 2, "BTC": 3}
BOOKS = {"RU-EQ": (11, "AUR-RU", "RU desk"), "RU-FI": (12, "AUR-RU", "RU desk"), "CR-PERP": (13, "AUR-AE", "Crypto")}
# id, symbol, currency of P&L, price scale, quantity scale, multiplier
INSTRUMENTS = {
    "SBER.MOEX": (21, "SBER", "RUB", 2, 0, (1, 1)),
    "GAZP.MOEX": (22, "GAZP", "RUB", 2, 0, (1, 1)),
    "OFZ26238": (23, "SU26238", "RUB", 3, 0, (10, 1)),
    "BTC-PERP": (24, "BTCUSD", "USD", 1, 5, (1, 1)),
    "XBTUSD": (25, "XBTUSD", "BTC", 1, 0, (1, 1)),
}
ACCOUNTS = {"NSD-RU-01": 31}


class BlotterHost:
    """A live host with three books and five instruments: `put` writes as accumulators do, `tell` as capture does."""

    def __init__(
        self,
        folder: Path,
        instance: str,
        shards: int = 2,
        positions: int = 1 << 9,
        instruments: int = 64,
        books: int = 16,
        events: int = 0,
    ) -> None:
        """events: the journal's last sequence, behind which the events ring begins."""
        self.config = Config(data_dir=str(folder), instance=instance, shards=shards)
        self.sizes = Sizes(1 << 8, 1 << 6, 1 << 6, positions, instruments, books, 16, "a test's")
        self.instance, self.shards, self.folder, self.starts = instance, shards, folder, topology.Starts(events=events)
        self.plans = topology.workers_of(shards)
        self.books, self.instruments = dict(BOOKS), dict(INSTRUMENTS)
        self.start()

    def start(self) -> None:
        """Make the segments and fill in the desk, as a start of the system does."""
        topology.retire_all(self.instance)
        self.host = topology.Host.create(self.config, self.sizes, self.plans, self.starts)
        self.live()  # compiling in the lines below may take seconds
        self.refdata = RefdataTable(self.host.refdata)
        self.refdata.take()
        self.events = RingWriter(self.host.events)
        for code, row_id in CURRENCIES.items():
            self.define(Subject.CURRENCY, row_id, code)
        for code, row_id in ACCOUNTS.items():
            self.define(Subject.ACCOUNT, row_id, code)
        for code in self.books:
            self.define_book(code)
        for code in self.instruments:
            self.define_instrument(code)
        for number, plan in enumerate(self.plans):
            for state in (WorkerState.STARTING, WorkerState.READY):
                self.host.control.watch(
                    number, name=plan.name, pid=1000 + number, core=-1, state=int(state), since_ns=MONOTONIC_NS - HOUR_NS
                )
        self.host.go_live()
        self.live()

    def live(self, ahead_ns: int = HOUR_NS) -> None:
        """Beat so far ahead that nothing in a test makes the host look dead."""
        self.host.beat(time.monotonic_ns() + ahead_ns)

    def hang(self) -> None:
        """Nobody beats any more."""
        self.host.beat(time.monotonic_ns() - HOUR_NS)

    def stop(self) -> None:
        """An orderly stop: every segment closed and gone."""
        self.host.close_all()

    def define(self, subject: Subject, row_id: int, code: str, **fields: Any) -> None:
        row = np.zeros(1, ROW)
        row["subject"], row["row_id"], row["code"] = int(subject), row_id, code
        for name, value in fields.items():
            row[name] = value
        self.refdata.write(row)

    def define_book(self, code: str) -> None:
        row_id, entity, desk = self.books[code]
        self.define(Subject.BOOK, row_id, code, parent=entity, group=desk)

    def define_instrument(self, code: str) -> None:
        row_id, symbol, currency, price_scale, qty_scale, (numerator, denominator) = self.instruments[code]
        self.define(
            Subject.INSTRUMENT, row_id, code, symbol=symbol, pnl_currency=currency, pnl_currency_id=CURRENCIES[currency],
            multiplier_numerator=numerator, multiplier_denominator=denominator, price_scale=price_scale, qty_scale=qty_scale,
        )  # fmt: skip

    def slot(self, book: str, instrument: str, quantity: int, price: int, realised: int = 0, fee: int = 0, **fields: Any) -> np.void:
        """quantity at the instrument's scale, price at its price scale, realised and fee in hundredths of its P&L currency."""
        row_id, _, currency, price_scale, qty_scale, _ = self.instruments[instrument]
        slot = np.zeros(1, POSITION_SLOT)[0]
        slot["book_id"], slot["instrument_id"], slot["qty_raw"] = self.books[book][0], row_id, quantity
        slot["price_scale"], slot["qty_scale"], slot["money_scale"] = price_scale, qty_scale, 18
        cost = quantity * price * 10 ** (18 - price_scale - qty_scale)
        if instrument == "XBTUSD":
            slot["flags"] = PositionFlag.INVERSE
            cost = quantity * 10 ** (18 + price_scale) // price
        slot["open_lots"], slot["trades_count"], slot["last_price_raw"] = int(quantity != 0), 1, price
        slot["event_time_ns"] = slot["recorded_ns"] = NOW_NS - 95 * 10**9
        put_wide(slot, "cost", cost)
        put_wide(slot, "realised", realised * 10**16)
        if fee:
            slot["fee_currency_id"][0] = CURRENCIES[currency]
            high, low = from_int(fee * 10**16)
            slot["fees_hi"][0], slot["fees_lo"][0] = high, low & WORD
        for name, value in fields.items():
            slot[name] = value
        return slot

    def put(self, book: str, instrument: str, quantity: int, price: int = 10_000, realised: int = 0, fee: int = 0, **fields: Any) -> int:
        """Write the position; its row. An event with its sequence is published, as capture would have done before."""
        sequence = self.tell(book, instrument, abs(quantity) or 1, price, Side.BUY if quantity >= 0 else Side.SELL)
        slot = self.slot(book, instrument, quantity, price, realised, fee, last_sequence=sequence, **fields)
        table, key = self.host.positions, (int(slot["book_id"]), int(slot["instrument_id"]))
        row = table.find(key)
        if row is None:
            return table.append(key[0] % self.shards, key, slot)
        table.write(row, slot)
        return row

    def tell(self, book: str, instrument: str, quantity: int, price: int, side: Side, kind: Kind = Kind.TRADE) -> int:
        """Publish an event, with which every gating reader is done; its sequence."""
        event = np.zeros(1, EVENT)
        row_id, _, _, price_scale, qty_scale, _ = self.instruments[instrument]
        event["sequence"] = self.host.events.head + 1
        event["kind"], event["side"], event["qty_raw"], event["price_raw"] = int(kind), int(side), quantity, price
        event["price_scale"], event["qty_scale"] = price_scale, qty_scale
        event["book_id"], event["instrument_id"], event["account_id"] = self.books[book][0], row_id, ACCOUNTS["NSD-RU-01"]
        event["trade_time_ns"], event["trade_id"] = NOW_NS - 95 * 10**9, f"T{self.host.events.head + 1:04}"
        published = self.events.publish(event)
        assert published == 1, "the ring has room: its readers are done with everything"
        self.done(self.host.events.head)
        return self.host.events.head

    def done(self, sequence: int, durable: int | None = None) -> None:
        """Accumulators have applied `sequence`, and journal has written `durable` (default: the same)."""
        ring = self.host.events
        for number, place in enumerate(ring.places):
            ring_gate(ring.control, number, durable if durable is not None and place.name == "journal" else sequence)

    def fill_desk(self) -> None:
        """Seven positions, one of them flat."""
        self.put("RU-EQ", "SBER.MOEX", 12_000, 31_640, realised=1_250_075, fee=37_968)
        self.put("RU-EQ", "GAZP.MOEX", -25_000, 17_010, realised=-310_050, fee=42_525)
        self.put("RU-FI", "OFZ26238", 500, 61_250, realised=0)
        self.put("RU-FI", "SBER.MOEX", 0, 31_600, realised=99_900, fee=100)
        self.put("CR-PERP", "BTC-PERP", 150_000, 832_505, realised=123_456, fee=1_999)
        self.put("CR-PERP", "XBTUSD", -20_000, 831_000, realised=1)
        self.put("RU-EQ", "OFZ26238", 40, 61_300, realised=-5)

    def close(self) -> None:
        topology.retire_all(self.instance)
        remove_semaphores(topology.semaphores_of(len(self.plans), topology.sources_of(self.sizes)), self.instance)


def put_wide(slot: np.void, name: str, value: int) -> None:
    """128-bit money into its two words."""
    high, low = from_int(value)
    slot[f"{name}_hi"], slot[f"{name}_lo"] = high, low & WORD
