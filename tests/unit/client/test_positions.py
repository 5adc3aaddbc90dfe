"""Positions by name, by handle, in numbers, and their figures."""

from __future__ import annotations

import threading
from decimal import Decimal

import numpy as np
import pytest

from pks.client import AmbiguousName, NoPosition, Position, UnknownName
from pks.layouts.codes import Subject
from pks.layouts.slots import POSITION_SLOT
from tests.unit.client.small_host import BOOKS, INSTRUMENTS


def test_a_position_by_every_name_of_its_instrument(small, host) -> None:
    small.put("ALPHA", "GAZP.MOEX", -20_000, 17130, event_time_ns=1_741_946_711_000_000_000)
    for name in ("GAZP.MOEX", "RU00022", "GAZP"):
        position = host.positions["ALPHA", name]
        assert (position.book, position.instrument, position.quantity) == ("ALPHA", "GAZP.MOEX", Decimal(-20000))
    assert position.average_price == Decimal("171.3")
    assert position.cost == Decimal(-3426000)
    assert (position.currency, position.open_lots, position.last_sequence) == ("RUB", 1, 1)
    assert position.last_trade_time == "2025-03-14T10:05:11Z"
    assert isinstance(position, Position)


def test_multiplier_and_quote_factor_are_applied(small, host) -> None:
    small.put("ALPHA", "OFZ26238", 1000, 5012)
    position = host.positions["ALPHA", "OFZ26238"]
    assert (position.cost, position.average_price) == (Decimal("501.2"), Decimal("50.12"))


def test_fees_by_currency_and_net(small, host) -> None:
    cells = {"fee_currency_id": [1, 2, 0, 0], "fees_lo": [25 * 10**17, 10**18, 0, 0], "realised": 10 * 10**18}
    small.put("ALPHA", "SBER.MOEX", 0, **cells)
    small.put("BETA", "SBER.MOEX", 0, **cells)
    alpha, beta = host.positions["ALPHA", "SBER.MOEX"], host.positions["BETA", "SBER.MOEX"]
    assert alpha.fees == {"RUB": Decimal("2.5"), "USD": Decimal(1)}
    assert (alpha.realised_gross, alpha.realised_net) == (10, Decimal("7.5"))
    assert (beta.realised_gross, beta.realised_net) == (10, 10)  # its fees are in cost


def test_names_that_are_not_known_are_explained(small, host) -> None:
    small.put("ALPHA", "SBER.MOEX", 5)
    with pytest.raises(KeyError, match="no book 'ALPH'; is it ALPHA"):
        _ = host.positions["ALPH", "SBER.MOEX"]
    with pytest.raises(UnknownName, match=r"no instrument 'GAZP.MEX'; is it GAZP\.MOEX"):
        _ = host.positions["ALPHA", "GAZP.MEX"]
    with pytest.raises(NoPosition, match=r"book BETA never had a position in SBER\.MOEX"):
        _ = host.positions["BETA", "SBER.MOEX"]
    with pytest.raises(AmbiguousName, match=r"one of SBER\.MOEX, SBERP\.MOEX"):
        _ = host.positions["ALPHA", "SBER"]
    assert host.positions.get("BETA", "SBER.MOEX") is None
    assert ("ALPHA", "SBER.MOEX") in host.positions
    assert ("BETA", "SBER.MOEX") not in host.positions
    assert ("ALPHA", "NOTHING") not in host.positions


def test_what_is_defined_later_is_found(small, host) -> None:
    with pytest.raises(UnknownName):
        _ = host.positions["ALPHA", "LKOH.MOEX"]
    small.define(Subject.INSTRUMENT, 99, "LKOH.MOEX", symbol="LKOH", pnl_currency="RUB", pnl_currency_id=1, multiplier_numerator=1,
                 multiplier_denominator=1)  # fmt: skip
    with pytest.raises(NoPosition):
        _ = host.positions["ALPHA", "LKOH"]
    INSTRUMENTS["LKOH.MOEX"] = 99
    try:
        small.put("ALPHA", "LKOH.MOEX", 7)
    finally:
        del INSTRUMENTS["LKOH.MOEX"]
    assert host.positions["ALPHA", "LKOH"].quantity == 7


def test_a_change_of_reference_data_reaches_handles(small, host) -> None:
    small.put("ALPHA", "SBER.MOEX", 0, realised=10**18, fee_currency_id=[1, 0, 0, 0], fees_lo=[10**18, 0, 0, 0])
    handle = host.positions.handle("ALPHA", "SBER.MOEX")
    assert handle.read().realised_net == 0
    small.define(Subject.BOOK, BOOKS["ALPHA"], "ALPHA", fees_in_cost=True)
    small.put("ALPHA", "SBER.MOEX", 0, realised=10**18, fee_currency_id=[1, 0, 0, 0], fees_lo=[10**18, 0, 0, 0])
    assert handle.read().realised_net == 1


def test_a_handle_reads_the_latest_and_keeps_the_object_while_nothing_changes(small, host) -> None:
    small.put("ALPHA", "SBER.MOEX", 5)
    handle = host.positions.handle("ALPHA", "SBER.MOEX")
    first = handle.read()
    assert handle.read() is first
    small.put("ALPHA", "SBER.MOEX", 6)
    second = handle.read()
    assert (first.quantity, second.quantity, second.version) == (5, 6, 2)
    assert host.positions["ALPHA", "SBER.MOEX"] is second


def test_one_handle_in_several_threads(small, host) -> None:
    small.put("ALPHA", "SBER.MOEX", 1)
    handle = host.positions.handle("ALPHA", "SBER.MOEX")
    stop, wrong = threading.Event(), []

    def read() -> None:
        last = 0
        while not stop.is_set():
            position = handle.read()
            if position.cost != position.quantity or position.last_sequence < last:
                wrong.append(position)
            last = position.last_sequence

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for quantity in range(1, 2000):
        small.put("ALPHA", "SBER.MOEX", quantity)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert handle.read().quantity == 1999


@pytest.fixture
def several(small):
    small.put("ALPHA", "SBER.MOEX", 5)
    small.put("BETA", "SBER.MOEX", -3)
    small.put("ALPHA", "GAZP.MOEX", 0)
    return small


def test_many_by_book_and_instrument(several, host) -> None:
    def keys(found: list[Position]) -> list[tuple[str, str]]:
        return sorted((position.book, position.instrument) for position in found)

    assert keys(host.positions.find("ALPHA")) == [("ALPHA", "SBER.MOEX")]
    assert keys(host.positions.find("ALPHA", flat=True)) == [("ALPHA", "GAZP.MOEX"), ("ALPHA", "SBER.MOEX")]
    assert keys(host.positions.find(instrument="RU00021")) == [("ALPHA", "SBER.MOEX"), ("BETA", "SBER.MOEX")]
    assert keys(host.positions.find(["ALPHA", "BETA"], "GAZP", flat=True)) == [("ALPHA", "GAZP.MOEX")]
    assert keys(list(host.positions)) == [("ALPHA", "GAZP.MOEX"), ("ALPHA", "SBER.MOEX"), ("BETA", "SBER.MOEX")]
    assert len(host.positions) == 3
    with pytest.raises(UnknownName):
        host.positions.find("GAMMA")
    several.put("BETA", "OFZ26238", 1)
    assert len(host.positions.find("BETA")) == 2


def test_snapshots_are_raw_slots(several, host) -> None:
    records = host.positions.to_numpy(books=["ALPHA"])
    assert records.dtype == POSITION_SLOT
    assert sorted(records["qty_raw"].tolist()) == [0, 5]
    rows = host.positions.rows("BETA")
    assert rows.tolist() == [host.positions.row("BETA", "SBER.MOEX")]
    room = np.zeros(8, POSITION_SLOT)
    part = host.positions.snapshot(rows, target=room)
    assert (len(part), part["qty_raw"][0], room["qty_raw"][0]) == (1, -3, -3)
    assert len(host.positions.snapshot(np.empty(0, np.int64))) == 0


def test_dicts_are_those_of_the_command_line(several, host) -> None:
    rows = host.positions.to_dicts(books=["BETA"], flat=False)
    assert rows == [
        {
            "book": "BETA", "instrument": "SBER.MOEX", "quantity": "-3", "average_price": "1", "cost": "-3", "realised_gross": "0",
            "realised_net": "0", "fees": {}, "open_lots": 1, "currency": "RUB", "last_trade_time": None, "last_sequence": 2,
        }
    ]  # fmt: skip


def test_arrow_holds_every_digit(several, host) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    several.put("ALPHA", "SBER.MOEX", 3, cost=10**18, event_time_ns=1_741_946_711_000_000_123)
    table = host.positions.to_arrow()
    row = next(
        row for row in table.drop_columns("last_trade_time").to_pylist() if (row["book"], row["instrument"]) == ("ALPHA", "SBER.MOEX")
    )
    assert (row["quantity"], row["average_price"], row["cost"]) == (Decimal(3), Decimal("0.33333333"), Decimal(1))
    assert pyarrow.types.is_decimal128(table.schema.field("cost").type)
    assert table.column("last_trade_time").cast("int64").to_pylist().count(1_741_946_711_000_000_123) == 1
    several.put("BETA", "SBER.MOEX", 3, cost=15 * 10**37)
    several.put("ALPHA", "SBER.MOEX", 3, cost=1)
    wide = host.positions.to_arrow()
    assert wide.schema.field("cost").type == pyarrow.string()
    assert sorted(wide.column("cost").to_pylist()) == ["0", "0.000000000000000001", "150000000000000000000"]
    assert len(host.positions.to_arrow(books=["BETA"], flat=False)) == 1
