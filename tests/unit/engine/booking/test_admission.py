"""What capture makes of corrections, lots named by text, blocks and transfers before a shard sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pks.base.errors import Code, Refused
from pks.edges.files.rows import TradeRow
from pks.engine.booking.keys import NO_LOT
from pks.layouts.codes import Flag, Kind
from tests.engine_small import Small


def test_a_lot_is_named_by_trade_id_by_leg_or_by_its_own_id(tmp_path: Path) -> None:
    small = Small(tmp_path, "SPECIFIC")
    small.buy("10", "10", trade_id="a")
    assert small.buy("10", "11", trade_id="b", lot_id="MINE") == Code.ACCEPTED
    assert small.sell("4", "12", lot_id="MINE") == Code.ACCEPTED
    assert small.sell("4", "12", lot_id="a") == Code.ACCEPTED
    assert small.sell("4", "12", lot_id="NOBODY") == Code.UNKNOWN_LOT
    assert small.core.last()["lot"] == NO_LOT
    assert small.sell("7", "12", lot_id="MINE") == Code.LOT_EXCEEDED
    assert small.sell("4", "12") == Code.LOT_REQUIRED
    assert small.quantity() == 12


def test_an_opening_lot_has_one_name(tmp_path: Path) -> None:
    small = Small(tmp_path, "SPECIFIC")
    named = {
        "kind": "OPENING",
        "book": "A",
        "instrument": "X",
        "account": "acc",
        "side": "BUY",
        "quantity": "5",
        "price": "10",
        "business_date": "2025-01-02",
        "open_date": "2025-01-02",
    }
    with pytest.raises(Refused, match=r"lot_id = 'L1'.*leave one of the two out"):
        small.row(**named, trade_id="a", lot_id="L1")
    assert small.row(**named, trade_id="L1", lot_id="L1") == Code.ACCEPTED
    assert small.sell("4", "12", lot_id="L1") == Code.ACCEPTED


def test_lot_ids_survive_a_replay_of_captures_fold(tmp_path: Path) -> None:
    from pks.workers.booking import Booking, DayFiles

    small = Small(tmp_path, "SPECIFIC")
    small.buy("10", "11", trade_id="b", lot_id="MINE")
    again = Booking(lambda sequence: small.core.records[sequence], DayFiles(tmp_path / "again"))
    again.learn(small.core.records, -1, 1, small.core.sequence)
    assert again.versions.lot_names == small.core.booking.versions.lot_names != {}
    assert again.versions == small.core.booking.versions


def test_an_amend_is_filled_from_the_last_version_that_stands(tmp_path: Path) -> None:
    small = Small(tmp_path, oversell="REJECT")
    small.buy("10", "10", trade_id="a")
    assert small.row(kind="AMEND", trade_id="a", price="11") == Code.ACCEPTED
    assert small.row(kind="AMEND", trade_id="a", side="SELL", price="99") == Code.OVERSELL
    assert small.row(kind="AMEND", trade_id="a", quantity="12") == Code.ACCEPTED
    event = small.core.last()
    assert (event["side"], event["quantity"], event["price"]) == ("BUY", "12", "11")


@pytest.mark.parametrize(
    ("change", "other"),
    [
        ({"quantity": "12"}, {"quantity": "13"}),
        ({"quantity": "12.00"}, {"quantity": "12", "price": "11"}),
        ({"price": "11.25", "fee": "1", "fee_currency": "USD"}, {"price": "11.25", "fee": "1", "fee_currency": "EUR"}),
        ({"book": "B"}, {"book": "B", "quantity": "12"}),
        ({"quantity": "12", "price": "11"}, {"quantity": "12"}),
    ],
)
def test_an_amend_is_repeated_by_its_key(tmp_path: Path, change: dict[str, str], other: dict[str, str]) -> None:
    small = Small(tmp_path)
    small.buy("10", "10", trade_id="a")

    def amend(words: dict[str, str]) -> Any:
        group = small.border.group_of(TradeRow(line=1, row=1, kind="AMEND", trade_id="a", **words))
        group[0]["second_key_hi"], group[0]["second_key_lo"] = 1, 2
        return small.core.book(group)

    first = amend(change)
    again = amend(change)
    assert (first.code, again.code) == (Code.ACCEPTED, Code.DUPLICATE)
    assert small.core.records[again.sequence]["second_key_lo"] == 2, "the first one's sequence"
    assert amend(other).code == Code.IDEMPOTENCY_CONFLICT


def test_a_cancelled_or_refused_trade_cannot_move_to_another_book(tmp_path: Path) -> None:
    small = Small(tmp_path, oversell="REJECT")
    small.buy("10", "10", trade_id="a")
    small.row(kind="CANCEL", trade_id="a")
    assert small.row(kind="AMEND", trade_id="a", book="B") == Code.ALREADY_CANCELLED
    assert small.sell("10", "10", trade_id="s") == Code.OVERSELL
    assert small.row(kind="AMEND", trade_id="s", book="B") == Code.INVALID_TRANSITION
    assert [int(key["qty_raw"]) for key in small.core.keys()] == [0]


def test_an_amend_of_a_moved_trade_is_judged_as_any_other(tmp_path: Path) -> None:
    small = Small(tmp_path, oversell="REJECT")
    small.buy("10", "10", trade_id="a")
    assert small.row(kind="AMEND", trade_id="a", book="B") == Code.ACCEPTED
    assert (small.quantity(), small.quantity("B")) == (0, 10)
    assert small.row(kind="AMEND", trade_id="a", side="SELL") == Code.OVERSELL
    assert "GROUP_LEG" not in small.core.last()["flags"]


def test_the_date_follows_a_time_that_is_amended_later(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.buy("10", "10", 0, trade_id="a")
    small.row(kind="AMEND", trade_id="a", price="11")
    small.row(kind="AMEND", trade_id="a", trade_time=f"{small.date(3)}T10:00:00Z")
    assert small.core.last()["effective_date"] == small.date(3)


@pytest.mark.parametrize("first", ["cancelled", "allocated"])
def test_what_is_done_with_a_block_is_done_once(tmp_path: Path, first: str) -> None:
    small = Small(tmp_path)
    block = {"source": "BLOCK", "instrument": "X", "side": "BUY", "quantity": "10", "price": "10", "account": "acc"}
    assert small.row(trade_id="block", **block) == Code.ACCEPTED
    children = [small.border.group_of(TradeRow(line=1, row=1, trade_id=f"c{b}", parent_id="block", book=b, quantity="5")) for b in "AB"]
    group = np.concatenate(children)
    group["group_count"], group["group_index"] = 2, (0, 1)
    if first == "cancelled":
        assert small.row(kind="CANCEL", trade_id="block") == Code.ACCEPTED
        expected = Code.ALREADY_CANCELLED
    else:
        assert small.core.book(group).code == Code.ACCEPTED
        expected = Code.ALREADY_ALLOCATED
        assert small.core.book(group).code == Code.DUPLICATE
    assert small.row(kind="CANCEL", trade_id="block") == expected
    assert small.row(kind="AMEND", trade_id="block", price="11") == expected
    assert small.row(kind="FEE", trade_id="block", fee="1", fee_currency="USD") == expected
    if first == "cancelled":
        assert small.core.book(group).code == Code.ALREADY_CANCELLED


def test_a_child_whose_fee_the_instrument_cannot_hold_refuses_the_group(tmp_path: Path) -> None:
    small = Small(tmp_path, base_currency="BTC", traded_asset=True)
    small.row(trade_id="block", source="BLOCK", instrument="X", side="BUY", quantity="10", price="10")
    row = TradeRow(line=1, row=1, trade_id="c", parent_id="block", book="A", quantity="10", fee="0.1", fee_currency="BTC")
    assert small.core.book(small.border.group_of(row)).code == Code.OVER_PRECISE
    assert small.core.keys() == []


def test_a_transfers_fee_is_the_givers(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.buy("10", "10")
    assert small.transfer("4", trade_id="m", fee="1", fee_currency="USD") == Code.ACCEPTED
    assert small.row(kind="FEE", trade_id="m", fee="2", fee_currency="USD") == Code.ACCEPTED
    assert small.core.last()["trade_time_ns"] > 0  # of the transfer, since none was given
    assert int(small.key()["fees_lo"][0]) == 3 * 10**18
    assert int(small.key("B")["fees_lo"][0]) == 0
    assert small.buy("1", "10", -1) == Code.ACCEPTED  # derived again, they stay
    assert int(small.key()["fees_lo"][0]) == 3 * 10**18


def test_a_reentry_is_sent_once_and_ends(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.buy("10", "10", 0, trade_id="a")
    small.buy("10", "20", 0)
    small.transfer("15", 1, trade_id="m")
    small.row(kind="AMEND", trade_id="a", price="11")
    event = small.core.last()
    assert event["kind"] == Kind.AMEND.name
    assert Flag.REENTRY.name in event["flags"]
    assert int(small.key("B")["cost_lo"]) + (int(small.key("B")["cost_hi"]) << 64) == (110 + 100) * 10**18
    before = small.core.sequence
    small.row(kind="AMEND", trade_id="m", quantity="16")
    assert small.core.sequence == before + 1
    assert Flag.REENTRY.name not in small.core.last()["flags"]
