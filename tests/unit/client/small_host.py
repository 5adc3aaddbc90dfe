"""A small host for readers: real segments as the topology makes them, filled by the test instead of by workers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from pks import topology
from pks.base.config import Config, Sizes
from pks.base.units import from_int
from pks.layouts.codes import Subject
from pks.layouts.refdata import ROW
from pks.layouts.slots import ACCOUNT_SLOT, POSITION_SLOT, UPDATE
from pks.segments.ring import RingWriter
from pks.segments.table import RefdataTable

SIZES = Sizes(1 << 8, 1 << 6, 1 << 6, 1 << 9, 64, 16, 16, "a test's")
HOUR_NS = 3_600 * 10**9
WORD = 2**64 - 1

BOOKS = {"ALPHA": 11, "BETA": 12}
INSTRUMENTS = {"SBER.MOEX": 21, "GAZP.MOEX": 22, "OFZ26238": 23, "SBERP.MOEX": 24}
ACCOUNTS = {"NSD-RU-01": 31, "NSD-RU-02": 32}
CURRENCIES = {"RUB": 1, "USD": 2}


class SmallHost:
    """A live host with two books, four instruments and two accounts; `put` writes positions as accumulators do."""

    def __init__(self, folder: Path, instance: str, shards: int = 2) -> None:
        config = Config(data_dir=str(folder), instance=instance, shards=shards)
        topology.retire_all(instance)
        self.plans = topology.workers_of(shards)
        self.host = topology.Host.create(config, SIZES, self.plans, topology.Starts())
        self.instance, self.shards = instance, shards
        self.refdata = RefdataTable(self.host.refdata)
        self.refdata.take()
        self.updates = [RingWriter(self.host.updates(shard)) for shard in range(shards)]
        self.sequence = 0
        for code, row_id in CURRENCIES.items():
            self.define(Subject.CURRENCY, row_id, code)
        for code, row_id in BOOKS.items():
            self.define(Subject.BOOK, row_id, code, fees_in_cost=code == "BETA")
        for code, row_id in ACCOUNTS.items():
            self.define(Subject.ACCOUNT, row_id, code)
        for code, row_id in INSTRUMENTS.items():
            self.define(
                Subject.INSTRUMENT, row_id, code, symbol="SBER" if code.startswith("SBER") else code.split(".")[0], isin=f"RU000{row_id}",
                pnl_currency="RUB", pnl_currency_id=1, multiplier_numerator=1, multiplier_denominator=100 if code == "OFZ26238" else 1,
            )  # fmt: skip
        self.host.go_live()
        self.live()

    def live(self, ahead_ns: int = HOUR_NS) -> None:
        """Beat so far ahead that no compilation in a test makes the host look dead."""
        self.host.beat(time.monotonic_ns() + ahead_ns)

    def define(self, subject: Subject, row_id: int, code: str, **fields: Any) -> None:
        row = np.zeros(1, ROW)
        row["subject"], row["row_id"], row["code"] = subject, row_id, code
        for name, value in fields.items():
            row[name] = value
        self.refdata.write(row)

    def put(self, book: str, instrument: str, quantity: int, price: int = 100, **fields: Any) -> int:
        """Write the position as a new event of its shard would, and say so on the updates ring; the row."""
        self.sequence += 1
        shard = BOOKS[book] % self.shards
        slot = position_slot(BOOKS[book], INSTRUMENTS[instrument], quantity, price, last_sequence=self.sequence, **fields)
        table = self.host.positions
        key = (BOOKS[book], INSTRUMENTS[instrument])
        row = table.find(key, shard)
        if row is None:
            row = table.append(shard, key, slot)
        else:
            table.write(row, slot)
        self.updates[shard].publish(np.array([(self.sequence, row, shard)], UPDATE))
        return row

    def put_account(self, account: str, book: str, instrument: str, quantity: int) -> None:
        slot = np.zeros(1, ACCOUNT_SLOT)
        slot["book_id"], slot["instrument_id"], slot["account_id"] = BOOKS[book], INSTRUMENTS[instrument], ACCOUNTS[account]
        slot["qty_raw"], slot["qty_scale"], slot["last_sequence"] = quantity, 0, self.sequence
        row = self.host.positions.find((BOOKS[book], INSTRUMENTS[instrument]))
        assert row is not None, "the position comes first"
        key, table = (row, ACCOUNTS[account]), self.host.accounts
        at = table.find(key)
        if at is None:
            table.append(BOOKS[book] % self.shards, key, slot[0])
        else:
            table.write(at, slot[0])

    def close(self) -> None:
        self.host.close_all()


def position_slot(book_id: int, instrument_id: int, quantity: int, price: int, **fields: Any) -> np.void:
    """A POSITION_SLOT of whole units at price_scale 2; the price is in hundredths."""
    slot = np.zeros(1, POSITION_SLOT)
    slot["book_id"], slot["instrument_id"], slot["qty_raw"], slot["open_lots"] = book_id, instrument_id, quantity, int(quantity != 0)
    slot["price_scale"], slot["money_scale"], slot["trades_count"] = 2, 18, 1
    hi, lo = from_int(quantity * price * 10**16)
    slot["cost_hi"], slot["cost_lo"] = hi, lo & WORD
    for name, value in fields.items():
        if f"{name}_hi" in POSITION_SLOT.names:
            high, low = from_int(value)
            slot[f"{name}_hi"], slot[f"{name}_lo"] = high, low & WORD
        else:
            slot[name] = value
    return slot[0]
