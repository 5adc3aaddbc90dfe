"""The oracle against figures worked out by hand: the desk's, and one small case for each sentence of design.md section 4.

Names are "a", "b", ... in the order of booking; a lot is (lot id, quantity, price, cost). Money in the comments is worked out, not copied.
"""

from __future__ import annotations

import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from . import desk
from .calc import calc, unrealised
from .key import Event
from .model import START, Match, Model, Snapshot
from .money import decimal, half_even, plain
from .script import DATES, DAY, Script


def seen(*values: Any) -> tuple[Any, ...]:
    """Values side by side, to compare Decimals and Fractions with the integers that they should be."""
    return values


def closed(snapshot: Model | Snapshot, trade_id: str, book: str = "A", instrument: str = "X") -> list[tuple[str, str, str, str]]:
    """The match set of a closing event on a key: (lot id, quantity, close price, realised)."""
    return [
        (m.lot_id, plain(m.quantity), str(m.close_price), plain(m.realised_gross)) for m in match_rows(snapshot, trade_id, book, instrument)
    ]


def match_rows(snapshot: Model | Snapshot, trade_id: str, book: str = "A", instrument: str = "X") -> tuple[Match, ...]:
    sets = [group for group in snapshot.matches() if (group.trade_id, group.book, group.instrument) == (trade_id, book, instrument)]
    assert len(sets) <= 1, "one current match set for a closing event"
    return sets[0].matches if sets else ()


# -- numbers ---------------------------------------------------------------------------------------------------------------------------


def test_half_even_goes_to_the_even_digit_on_both_sides_of_zero() -> None:
    halves = ["0.125", "0.135", "-0.125", "-0.135", "0.1250001"]
    assert [half_even(Fraction(text), 2) for text in halves] == [Fraction(text) for text in ("0.12", "0.14", "-0.12", "-0.14", "0.13")]


def test_decimal_is_exact_where_it_can_be() -> None:
    assert decimal(Fraction(1, 3), 4) == Decimal("0.3333")
    assert decimal(Fraction(-7, 2**20), 2) == Decimal(-7) / 2**20
    assert plain(decimal(Fraction(12000), 0)) == "12000"
    assert plain(Decimal("-0.500")) == "-0.5"


# -- the desk day ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def day() -> Model:
    model = Model()
    for event in desk.journal():
        model.apply(event)
    return model


def later(**values: Any) -> list[Event]:
    """The desk's journal and one event more."""
    events = desk.journal()
    empty = dict.fromkeys(
        (
            "book",
            "to_book",
            "instrument",
            "account",
            "to_account",
            "side",
            "quantity",
            "price",
            "fee",
            "fee_currency",
            "lot_date",
            "original",
            "lot",
            "lot_leg",
        )
    )
    return [
        *events,
        {
            **empty,
            "sequence": len(events) + 1,
            "flags": [],
            "trade_id": "later",
            "effective_date": "2025-03-14",
            "trade_time_ns": desk.nanoseconds("2025-03-14T20:30:00Z"),
            **values,
        },
    ]


def whole_day(events: list[Event]) -> Model:
    model = Model()
    for event in events:
        model.apply(event)
    assert model.refused == {}
    return model


def find(trade_id: str) -> Event:
    return next(event for event in desk.journal() if event["trade_id"] == trade_id)


def test_desk_day_gives_expected_eod_positions(day: Model) -> None:
    assert day.refused == {}
    marks = {row["instrument_id"]: row["price"] for row in desk.rows("marks.csv")}
    expected = desk.rows("expected_eod_positions.csv")
    positions = day.positions()
    assert set(positions) == {(row["book_id"], row["instrument_id"]) for row in expected}
    for row in expected:
        position = positions[row["book_id"], row["instrument_id"]]
        places = 8 if row["pnl_ccy"] == "BTC" else 2
        average = position.average_price
        assert average is not None
        instrument = day.instruments[row["instrument_id"]]
        got = {
            "lot_method": position.method,
            "qty": position.quantity,
            "open_lots": len(position.open_lots),
            "avg_open_price": half_even(average, 6),
            "realised_gross_day": half_even(Fraction(position.realised_gross), places),
            "unrealised": half_even(Fraction(unrealised(position, instrument, Fraction(marks[row["instrument_id"]]))), places),
            "fees_day": position.fees,
            "pnl_ccy": position.pnl_currency,
        }
        fees = [] if row["fees_day"] == "0" else [fee.split() for fee in row["fees_day"].split("; ")]
        assert got == {
            "lot_method": row["lot_method"],
            "qty": Decimal(row["qty"]),
            "open_lots": int(row["open_lots"]),
            "avg_open_price": Fraction(row["avg_open_price"]),
            "realised_gross_day": Fraction(row["realised_gross_day"]),
            "unrealised": Fraction(row["unrealised"]),
            "fees_day": {currency: Decimal(amount) for amount, currency in fees},
            "pnl_ccy": row["pnl_ccy"],
        }, row["instrument_id"]


def test_hand_checked_matches(day: Model) -> None:
    assert closed(day, "T0001", "RU-EQ", "SBER.MOEX") == [("L001", "10000", "1582/5", "350000"), ("L002", "2000", "1582/5", "13000")]
    assert closed(day, "T0010", "US-EQ", "AAPL.US") == [("L009", "500", "851/4", "-7175"), ("L008", "300", "851/4", "5205")]
    assert closed(day, "T0005", "RU-FO", "SiM5") == [("L005", "200", "88990", "-832000")]
    assert closed(day, "T0020", "CR-PERP", "BTCUSDT-PERP.BIN") == [("L023", "-8", "83950", "-10800")]
    (gazp,) = day.positions()["RU-EQ", "GAZP.MOEX"].open_lots
    assert seen(gazp.lot_id, gazp.leg, gazp.quantity, gazp.price) == ("T0002/2", 2, 5000, Fraction("170.10"))
    assert match_rows(day, "T0002", "RU-EQ", "GAZP.MOEX")[0].leg == 1


def test_hand_checked_bitcoin_average(day: Model) -> None:
    cost = Fraction("12.5") * 82400 + Fraction("2.4975") * 83900
    taken = half_even(cost * 5 / Fraction("14.9975"), 18)
    position = day.positions()["CR-SPOT", "BTC.SPOT"]
    assert position.realised_gross == decimal(5 * 84200 - taken, 18)
    assert position.cost == decimal(cost - taken, 18)
    assert position.realised_net == position.realised_gross - 421


def test_hand_checked_variation_margin() -> None:
    def fixing(instrument: str, date: str, price: str) -> dict[str, Any]:
        return {
            "kind": "FIXING",
            "flags": [],
            "trade_id": "",
            "instrument": instrument,
            "effective_date": date,
            "price": price,
            "trade_time_ns": desk.nanoseconds(date + "T21:00:00Z"),
        }

    expected = {"SiM5": ("RU-FO", -301500), "ESM5": ("US-DRV", 33375), "BRJ5": ("RU-FO", -230)}
    marks = {row["instrument_id"]: row for row in desk.rows("marks.csv")}
    journal = desk.journal()
    events = [event for event in journal if event["kind"] in ("REFDATA", "OPENING")]
    events += [fixing(name, "2025-03-13", marks[name]["prev_close"]) for name in expected]
    events += [event for event in journal if event["kind"] not in ("REFDATA", "OPENING")]
    shift = len(expected)
    model = Model()
    before: dict[str, Decimal] = {}
    for sequence, event in enumerate(events, start=1):
        original = event.get("original")
        model.apply({**event, "sequence": sequence, "original": original + shift if original else None})
        if sequence == len(events) - len([e for e in journal if e["kind"] not in ("REFDATA", "OPENING")]):
            before = {name: margin(model, book, name) for name, (book, _) in expected.items()}
    for number, name in enumerate(expected, start=1):
        model.apply({**fixing(name, "2025-03-14", marks[name]["price"]), "sequence": len(events) + number})
    assert {name: margin(model, book, name) - before[name] for name, (book, _) in expected.items()} == {
        name: amount for name, (_, amount) in expected.items()
    }


def margin(model: Model, book: str, instrument: str) -> Decimal:
    amount = model.positions()[book, instrument].variation_margin
    assert amount is not None
    return amount


def test_block_waits_for_its_allocation() -> None:
    allocations = [event["sequence"] for event in desk.journal() if event["kind"] == "ALLOCATION"]
    before = Model.as_of(desk.journal(), known_at=min(allocations) - 1).positions()
    assert not [key for key in before if key[1] == "GMKN.MOEX"]
    after = Model.as_of(desk.journal(), known_at=max(allocations)).positions()
    assert after["RU-EQ", "GMKN.MOEX"].fees == {"RUB": Decimal("77.65")}
    assert after["RU-ARB", "GMKN.MOEX"].fees == {"RUB": Decimal("38.83")}


def test_lifecycle_amend_adds_twenty(day: Model) -> None:
    original = find("T0012")
    model = whole_day(
        later(
            **{name: value for name, value in original.items() if name != "sequence"}
            | {"kind": "AMEND", "original": original["sequence"], "price": "561.80"}
        )
    )
    key = ("US-EQ", "SPY.US")
    assert model.positions()[key].realised_gross == day.positions()[key].realised_gross + 20
    assert model.positions()[key].fees == {"USD": Decimal("1")}


def test_lifecycle_cancel_leaves_nothing() -> None:
    position = whole_day(later(kind="CANCEL", original=find("T0003")["sequence"])).positions()["RU-EQ", "YDEX.MOEX"]
    assert seen(position.quantity, position.cost, position.realised_gross, position.fees, position.open_lots) == (0, 0, 0, {}, [])
    assert position.average_price is None


def test_lifecycle_interbook_at_cost_moves_the_lot(day: Model) -> None:
    model = whole_day(later(kind="TRANSFER", book="RU-EQ", to_book="RU-ARB", instrument="GMKN.MOEX", account="NSD-RU-01", quantity="1000"))
    giver, receiver = model.positions()["RU-EQ", "GMKN.MOEX"], model.positions()["RU-ARB", "GMKN.MOEX"]
    assert seen(giver.quantity, giver.realised_gross, receiver.quantity, receiver.realised_gross) == (5000, 0, 4000, 0)
    assert [seen(lot.lot_id, lot.quantity, lot.price, lot.date) for lot in receiver.open_lots] == [
        ("T0004-A2", 3000, Fraction("129.42"), "2025-03-14"),
        ("T0004-A1", 1000, Fraction("129.42"), "2025-03-14"),
    ]


def test_lifecycle_backdated_amend_of_an_opening(day: Model) -> None:
    original = find("L001")
    model = whole_day(
        later(
            **{name: value for name, value in original.items() if name != "sequence"}
            | {"kind": "AMEND", "original": original["sequence"], "price": "280.90"}
        )
    )
    key = ("RU-EQ", "SBER.MOEX")
    assert model.positions()[key].realised_gross == day.positions()[key].realised_gross + 5000
    assert model.positions()[key].open_lots == day.positions()[key].open_lots


# -- methods ---------------------------------------------------------------------------------------------------------------------------


def three_lots(method: str, side: str = "BUY") -> Script:
    """10 at 10.00, 10 at 30.00, 10 at 20.00 on three days."""
    script = Script(method)
    for day, (name, price) in enumerate((("a", "10"), ("b", "30"), ("c", "20"))):
        script.fill(side, "10", price, day, trade_id=name)
    return script


@pytest.mark.parametrize(
    ("method", "side", "expected"),
    [
        ("FIFO", "BUY", [("a", "10", "25", "150"), ("b", "5", "25", "-25")]),
        ("LIFO", "BUY", [("c", "10", "25", "50"), ("b", "5", "25", "-25")]),
        ("HIFO", "BUY", [("b", "10", "25", "-50"), ("c", "5", "25", "25")]),
        ("AVERAGE", "BUY", [("a", "15", "25", "75")]),
        ("FIFO", "SELL", [("a", "-10", "25", "-150"), ("b", "-5", "25", "25")]),
        ("LIFO", "SELL", [("c", "-10", "25", "-50"), ("b", "-5", "25", "25")]),
        ("HIFO", "SELL", [("a", "-10", "25", "-150"), ("c", "-5", "25", "-25")]),
        ("AVERAGE", "SELL", [("a", "-15", "25", "-75")]),
    ],
)
def test_each_method_takes_its_lots(method: str, side: str, expected: list[tuple[str, str, str, str]]) -> None:
    script = three_lots(method, side)
    script.fill("SELL" if side == "BUY" else "BUY", "15", "25", 3, trade_id="x")
    assert closed(script.model, "x") == expected
    assert script.position().realised_gross == sum(Decimal(row[3]) for row in expected)
    assert abs(script.position().quantity) == 15


def test_hifo_ties_take_the_oldest() -> None:
    script = Script("HIFO")
    for name in "abc":
        script.buy("1", "10", trade_id=name)
    script.sell("2", "11", trade_id="x")
    assert [row[0] for row in closed(script.model, "x")] == ["a", "b"]


def test_lot_date_rules_before_sequence() -> None:
    script = Script("FIFO")
    script.opening("BUY", "5", "10", "2025-02-20", trade_id="a")
    script.opening("BUY", "5", "20", "2025-01-20", trade_id="b")
    script.sell("6", "30", 1, trade_id="x")
    assert [(row[0], row[1]) for row in closed(script.model, "x")] == [("b", "5"), ("a", "1")]


def test_average_divides_half_even_and_flat_costs_nothing() -> None:
    script = Script("AVERAGE", money_scale=6)
    script.buy("1", "1", trade_id="a")
    script.buy("2", "2", trade_id="b")
    script.sell("1", "2", trade_id="x")  # 5 / 3 = 1.666667
    assert script.lots() == [("a", "2", "167/100", "3333333/1000000")]
    assert script.position().realised_gross == Decimal("0.333333")
    script.sell("1", "2", trade_id="y")  # 3.333333 / 2 = 1.6666665 -> 1.666666 (even)
    assert script.position().realised_gross == Decimal("0.333333") + 2 - Decimal("1.666666")
    script.sell("1", "2", trade_id="z")  # the last takes all: 1.666667
    assert seen(script.position().cost, script.position().realised_gross) == (0, 1)


def test_sale_does_not_change_the_average() -> None:
    script = Script("AVERAGE")
    script.buy("10", "10")
    script.buy("30", "20")
    script.sell("16", "30")
    assert script.position().average_price == Fraction("17.5")
    script.buy("24", "27.50")  # re-weighted on the remaining quantity: (24 x 17.5 + 24 x 27.5) / 48
    assert script.position().average_price == Fraction("22.5")


def test_specific_takes_the_named_lot_and_spills_nothing() -> None:
    script = Script("SPECIFIC")
    a = script.buy("10", "10", trade_id="a")
    b = script.buy("10", "20", trade_id="b")
    script.sell("4", "30", lot=b, trade_id="x")
    assert closed(script.model, "x") == [("b", "4", "30", "40")]
    refused = {
        script.sell("1", "30"): "LOT_REQUIRED",
        script.sell("7", "30", lot=b): "LOT_EXCEEDED",
        script.sell("1", "30", lot=999): "UNKNOWN_LOT",
        script.sell("1", "30", lot=a, lot_leg=2): "UNKNOWN_LOT",
    }
    assert script.model.refused == refused
    assert script.position().quantity == 16


def test_specific_names_the_lot_a_flip_opened_by_its_leg() -> None:
    script = Script("SPECIFIC")
    a = script.buy("10", "10", trade_id="a")
    x = script.sell("15", "12", lot=a, flags=["GROUP_LEG"], trade_id="x")  # alone it would be refused
    assert script.lots() == [("x/2", "-5", "12", "-60")]
    script.buy("2", "11", lot=x, trade_id="y")
    assert script.model.refused[len(script.events)] == "UNKNOWN_LOT"
    script.buy("2", "11", lot=x, lot_leg=2, trade_id="z")
    assert closed(script.model, "z") == [("x/2", "-2", "11", "2")]


def test_specific_kept_verdict_takes_the_rest_fifo_then_flips() -> None:
    script = Script("SPECIFIC")
    script.buy("3", "10", trade_id="a")
    b = script.buy("5", "20", trade_id="b")
    script.sell("5", "30", 1, lot=b, trade_id="x")
    script.amend(b, quantity="1")
    assert closed(script.model, "x") == [("b", "1", "30", "10"), ("a", "3", "30", "60")]
    assert script.lots() == [("x/2", "-1", "30", "-30")]
    assert script.model.refused == {}


def test_class_override_goes_before_the_book() -> None:
    script = Script("FIFO")
    script.add("REFDATA", definition={"type": "class_method", "book": "A", "asset_class": "EQUITY", "method": "AVERAGE"})
    script.buy("1", "10", trade_id="a")
    script.buy("1", "20", trade_id="b")
    assert script.lots() == [("a", "2", "15", "30")]
    assert script.position().method == "AVERAGE"
    assert script.position().average_price == 15


def test_change_of_method_rebases_open_lots_at_its_place() -> None:
    script = Script("FIFO")
    script.buy("1", "10", trade_id="a")
    script.buy("1", "20", trade_id="b")
    script.sell("1", "12", 1, trade_id="x")
    script.buy("1", "40", 1, trade_id="c")
    script.book_row("A", "AVERAGE", day=2)
    assert script.position().realised_gross == 2  # never restated
    (pool,) = script.position().open_lots
    assert seen(pool.lot_id, pool.date, pool.cost, script.position().average_price) == ("b", DATES[0], 60, 30)
    script.book_row("A", "LIFO", day=3)
    script.buy("1", "50", 3, trade_id="d")
    assert script.lots() == [("b", "2", "30", "60"), ("d", "1", "50", "50")]
    script.sell("1", "31", 1, trade_id="late")  # before the change: still FIFO, takes b
    assert closed(script.model, "late") == [("b", "1", "31", "11")]
    assert script.lots() == [("c", "1", "40", "40"), ("d", "1", "50", "50")]


# -- flips and refusals ----------------------------------------------------------------------------------------------------------------


def test_flip_closes_all_then_opens_the_rest() -> None:
    script = Script()
    script.buy("10", "10", trade_id="a")
    script.sell("25", "12", trade_id="x")
    assert closed(script.model, "x") == [("a", "10", "12", "20")]
    assert script.lots() == [("x/2", "-15", "12", "-180")]
    assert seen(script.position().cost, script.position().average_price) == (-180, 12)
    script.buy("15", "11")
    assert seen(script.position().quantity, script.position().cost, script.position().realised_gross) == (0, 0, 35)


def test_reject_book_refuses_the_whole_sale_and_keeps_the_verdict() -> None:
    script = Script(oversell="REJECT")
    a = script.buy("10", "10", 0, trade_id="a")
    refused = script.sell("11", "12", 1, trade_id="x")
    assert script.model.refused == {refused: "OVERSELL"}
    assert script.position().quantity == 10
    script.sell("10", "12", 1, trade_id="y")
    script.buy("5", "9", 0, trade_id="late")  # x would fit now; it stays refused
    assert script.position().quantity == 5
    script.amend(a, quantity="2")  # y would not be sold now; it stays booked, as a flip
    assert script.model.refused == {refused: "OVERSELL"}
    assert script.lots() == [("y/2", "-3", "12", "-36")]


def test_verdict_is_made_at_the_events_place() -> None:
    script = Script(oversell="REJECT")
    script.buy("10", "10", 2, trade_id="a")
    refused = script.sell("1", "10", 1, trade_id="x")  # day 1: nothing was held yet
    assert script.model.refused == {refused: "OVERSELL"}


def test_amend_is_judged_by_its_new_content_and_the_old_stays() -> None:
    script = Script(oversell="REJECT")
    script.buy("10", "10", trade_id="a")
    x = script.sell("4", "12", 1, trade_id="x")
    refused = script.amend(x, quantity="11", price="13")
    assert script.model.refused == {refused: "OVERSELL"}
    assert seen(script.position().quantity, script.position().realised_gross) == (6, 8)


def test_leg_of_a_group_is_never_refused() -> None:
    script = Script(oversell="REJECT")
    script.sell("4", "12", flags=["GROUP_LEG"], trade_id="x")
    assert script.lots() == [("x", "-4", "12", "-48")]
    assert script.model.refused == {}


def test_cancelled_is_cancelled() -> None:
    script = Script()
    a = script.buy("10", "10")
    script.cancel(a)
    refused = [script.cancel(a), script.amend(a, price="11"), script.fee(a, "1 USD")]
    assert script.model.refused == dict.fromkeys(refused, "ALREADY_CANCELLED")
    assert seen(script.position().quantity, script.position().fees) == (0, {})


def test_what_does_not_fit_is_refused() -> None:
    script = Script(price_scale=9, qty_scale=9)
    most = script.buy("9223372036.854775807", "1")
    refused = script.buy("0.000000001", "1")
    assert script.model.refused == {refused: "QUANTITY_OVERFLOW"}
    script.cancel(most)
    script.buy("9000000000", "9000000000")  # 8.1e19 x 1e18 = 8.1e37 each, 2^127 = 1.7e38
    script.sell("9000000000", "0")
    script.buy("9000000000", "9000000000")
    script.sell("9000000000", "0")
    assert script.position().realised_gross == Decimal("-1.62e20")
    script.buy("9000000000", "9000000000")
    refused_too = script.sell("9000000000", "0")
    assert script.model.refused == {refused: "QUANTITY_OVERFLOW", refused_too: "MONEY_OVERFLOW"}
    assert script.position().quantity == 9000000000


def test_fifth_fee_currency_is_refused() -> None:
    script = Script()
    for currency in ("USD", "EUR", "BNB", "OKB"):
        script.buy("1", "10", fee=f"1 {currency}")
    refused = script.buy("1", "10", fee="1 RUB")
    assert script.model.refused == {refused: "FEE_CURRENCY_LIMIT"}
    assert script.position().quantity == 4


# -- fees ------------------------------------------------------------------------------------------------------------------------------


def test_fee_in_pnl_currency_is_expensed() -> None:
    script = Script(multiplier=(10, 1))
    script.buy("10", "10", fee="1.5 USD")
    script.sell("4", "12", fee="-0.25 USD")  # a rebate
    position = script.position()
    assert seen(position.cost, position.realised_gross, position.realised_net) == (600, 80, Decimal("78.75"))
    assert position.fees == {"USD": Decimal("1.25")}


def test_fee_in_the_traded_asset_changes_the_quantity() -> None:
    script = Script(base="BTC")
    script.buy("2", "100", fee="0.002 BTC", trade_id="a")
    script.sell("1", "110", fee="0.001 BTC", trade_id="x")
    position = script.position()
    assert position.quantity == Decimal("0.997")  # 2 - 0.002 - 1 - 0.001
    assert closed(script.model, "x") == [("a", "1.001", "110", "10.01")]
    assert (position.realised_net, position.fees) == (Decimal("10.01"), {"BTC": Decimal("0.003")})


def test_fee_in_a_third_currency_is_only_listed() -> None:
    script = Script()
    script.buy("1", "10", fee="0.01 BNB")
    script.sell("1", "12", fee="0.02 BNB")
    assert seen(script.position().realised_net, script.position().fees) == (2, {"BNB": Decimal("0.03")})


def test_fees_in_cost_for_long_and_short() -> None:
    script = Script(fees_in_cost=True, multiplier=(10, 1))
    script.buy("10", "10", fee="5 USD", trade_id="a")  # cost 1000 + 5
    assert seen(script.position().cost, script.position().average_price) == (1005, Fraction("10.05"))
    script.sell("4", "12", fee="2 USD", trade_id="x")  # 480 - 2 - 402
    assert seen(script.position().realised_gross, script.position().realised_net) == (76, 76)
    script.sell("6", "12", trade_id="y")
    script.sell("10", "10", fee="5 USD", trade_id="s")  # short: cost -1000 + 5
    assert script.position().cost == -995
    script.buy("10", "9", fee="3 USD", trade_id="z")  # 995 - 900 - 3
    assert closed(script.model, "z") == [("s", "-10", "9", "92")]
    assert script.position().fees == {"USD": Decimal("15")}


def test_fees_in_cost_over_several_lots_and_a_flip() -> None:
    script = Script(fees_in_cost=True)
    script.buy("1", "10", trade_id="a")
    script.buy("2", "10", trade_id="b")
    script.sell("7", "10", fee="1 USD", trade_id="x")
    closing = half_even(Fraction(3, 7), 18)  # 1 x 3 / 7 to 18 places; the remainder is on the opening
    first = half_even(closing / 3, 18)
    assert [m.realised_gross for m in match_rows(script.model, "x")] == [decimal(-first, 18), decimal(first - closing, 18)]
    assert script.position().cost == decimal(-40 + 1 - closing, 18)
    assert script.position().realised_net == script.position().realised_gross == decimal(-closing, 18)


def test_fee_events_add_up_and_survive_an_amend() -> None:
    script = Script(base="BTC")
    a = script.buy("2", "100", fee="1 USD")
    script.fee(a, "2 USD", 1)
    script.fee(a, "0.5 BTC", 1)
    assert seen(script.position().quantity, script.position().realised_net) == (Decimal("1.5"), -3)
    script.amend(a, fee="10", fee_currency="USD", quantity="3")
    assert (script.position().quantity, script.position().fees) == (Decimal("2.5"), {"BTC": Decimal("0.5"), "USD": Decimal("12")})
    script.cancel(a)
    assert script.position().fees == {}


def test_fee_event_rederives_what_followed() -> None:
    script = Script(fees_in_cost=True)
    a = script.buy("10", "10", trade_id="a")
    script.sell("5", "12", 1, trade_id="x")
    script.fee(a, "4 USD", 2)
    assert closed(script.model, "x") == [("a", "5", "12", "8")]
    assert script.position().cost == 52


def test_fee_event_is_never_refused_for_policy() -> None:
    script = Script(oversell="REJECT", base="BTC")
    script.buy("10", "10", trade_id="a")
    x = script.sell("10", "12", 1, trade_id="x")
    script.fee(x, "1 USD", 1)
    script.fee(x, "0.1 BTC", 1)
    assert script.model.refused == {}
    assert seen(script.position().quantity, script.position().fees) == (Decimal("-0.1"), {"BTC": Decimal("0.1"), "USD": 1})


def test_unknown_fee_is_no_fee() -> None:
    script = Script()
    script.buy("1", "10", flags=["FEE_UNKNOWN"])
    assert script.position().fees == {}


# -- inverse contracts -----------------------------------------------------------------------------------------------------------------


def inverse(**policy: Any) -> Script:
    return Script(kind="INVERSE", base=None, pnl="BTC", money_scale=18, qty_scale=0, price_scale=1, **policy)


def test_inverse_divides_at_money_scale() -> None:
    script = inverse()
    script.buy("100", "30000", trade_id="a")  # 100 / 30000 = 0.0033...
    script.sell("40", "40000", fee="0.0001 BTC", trade_id="x")
    cost = half_even(Fraction(1, 300), 18)
    taken = half_even(cost * 2 / 5, 18)
    assert script.position().realised_gross == decimal(taken - Fraction("0.001"), 18)
    assert script.position().realised_net == decimal(taken - Fraction("0.0011"), 18)
    assert script.position().cost == decimal(cost - taken, 18)
    average = script.position().average_price
    assert average is not None
    assert half_even(average, 7) == 30000
    assert script.position().clearing_cost is None


def test_inverse_fee_in_cost_lowers_the_gain() -> None:
    script = inverse(fees_in_cost=True)
    script.buy("100", "25000", fee="0.0001 BTC")  # worth 0.004 at open, counted as 0.0039
    script.sell("100", "50000", fee="0.0002 BTC")  # 0.0039 - 0.002 - 0.0002
    assert script.position().realised_gross == script.position().realised_net == Decimal("0.0017")


# -- corrections -----------------------------------------------------------------------------------------------------------------------


def test_late_trade_is_inserted_where_it_belongs() -> None:
    script = Script()
    script.buy("10", "20", 1, trade_id="b")
    script.sell("10", "30", 3, trade_id="x")
    script.buy("10", "10", 0, trade_id="a")
    assert closed(script.model, "x") == [("a", "10", "30", "200")]
    assert script.lots() == [("b", "10", "20", "200")]
    assert script.position().last_sequence == len(script.events)


def test_late_sale_comes_before_later_buys() -> None:
    script = Script()
    script.buy("10", "20", 1, trade_id="b")
    script.sell("4", "30", 0, trade_id="s")  # day 0: opened a short, which b closes in part
    assert closed(script.model, "b") == [("s", "-4", "20", "40")]
    assert script.lots() == [("b/2", "6", "20", "120")]


def test_amend_keeps_its_place_unless_the_date_changes() -> None:
    script = Script()
    a = script.buy("5", "10", 1, trade_id="a")
    script.buy("5", "20", 1, trade_id="b")
    script.sell("5", "30", 3, trade_id="x")
    script.amend(a, price="11")
    assert closed(script.model, "x") == [("a", "5", "30", "95")]
    script.amend(a, effective_date=DATES[2])
    assert closed(script.model, "x") == [("b", "5", "30", "50")]
    script.amend(a, effective_date=DATES[0], side="SELL")
    assert closed(script.model, "b") == [("a", "-5", "20", "-50")]
    assert script.lots() == [("x", "-5", "30", "-150")]


def test_cancel_rederives_what_followed() -> None:
    script = Script("LIFO")
    script.buy("5", "10", 0, trade_id="a")
    b = script.buy("5", "20", 1, trade_id="b")
    script.sell("5", "30", 2, trade_id="x")
    script.cancel(b, 3)
    assert closed(script.model, "x") == [("a", "5", "30", "100")]
    assert seen(script.position().quantity, script.position().realised_gross) == (0, 100)


# -- as of, known at -------------------------------------------------------------------------------------------------------------------


def test_as_of_and_known_at_are_two_times() -> None:
    script = Script()
    a = script.buy("10", "10", 0, trade_id="a")
    script.sell("4", "12", 2, trade_id="x")
    known = len(script.events)
    script.cancel(a, 4)
    b = script.buy("7", "11", 1, trade_id="b")

    def quantity(day: int | None, known_at: int | None) -> Decimal:
        return Model.as_of(script.events, None if day is None else (day + 1) * DAY, known_at).positions()["A", "X"].quantity

    assert [quantity(day, known) for day in (0, 1, 2, 3, None)] == [10, 10, 6, 6, 6]
    assert [quantity(day, b) for day in (0, 1, 2, 3, None)] == [0, 7, 3, 3, 3]  # the cancel acts whatever its own time
    assert quantity(None, b - 1) == -4


def test_as_of_uses_the_amended_time_and_keeps_verdicts() -> None:
    script = Script(oversell="REJECT")
    a = script.buy("10", "10", 1, trade_id="a")
    script.sell("10", "12", 2, trade_id="x")
    script.amend(a, trade_time_ns=3 * DAY)
    as_of = Model.as_of(script.events, 3 * DAY - 1).positions()["A", "X"]
    assert seen(as_of.quantity, [lot.lot_id for lot in as_of.open_lots]) == (-10, ["x"])  # booked once, so booked here, as a flip
    assert script.position().quantity == 0


def test_fee_counts_from_its_own_time() -> None:
    script = Script()
    a = script.buy("10", "10", 0)
    script.fee(a, "2 USD", 2)
    assert Model.as_of(script.events, 2 * DAY).positions()["A", "X"].fees == {}
    assert Model.as_of(script.events, 3 * DAY).positions()["A", "X"].fees == {"USD": Decimal("2")}


# -- transfers -------------------------------------------------------------------------------------------------------------------------


def test_transfer_at_cost_keeps_lot_id_date_and_takes_its_sequence() -> None:
    script = Script("LIFO")
    script.buy("10", "10", 0, trade_id="a")
    script.buy("10", "20", 1, trade_id="b")
    script.add("TRADE", 1, book="B", instrument="X", account="ACC", side="BUY", quantity="1", price="15", trade_id="own")
    moved = script.transfer("12", 2, to_account="OTHER", trade_id="m")
    assert script.lots() == [("a", "8", "10", "80")]
    assert script.lots("B") == [("a", "2", "10", "20"), ("own", "1", "15", "15"), ("b", "10", "20", "200")]
    assert [(lot.date, lot.order) for lot in script.position("B").open_lots if lot.lot_id != "own"] == [
        (DATES[0], moved),
        (DATES[1], moved),
    ]
    assert seen(script.position().realised_gross, script.position("B").realised_gross) == (0, 0)
    assert [seen(m.kind, m.lot_id, m.quantity) for m in match_rows(script.model, "m")] == [("MOVE", "b", 10), ("MOVE", "a", 2)]
    assert script.model.accounts() == {("A", "ACC", "X"): 8, ("B", "ACC", "X"): 1, ("B", "OTHER", "X"): 12}


def test_transfer_at_market_realises_in_the_giver() -> None:
    script = Script()
    script.sell("10", "10", 0, trade_id="a")
    script.transfer("4", 1, flags=["AT_MARKET"], price="8", trade_id="m")
    assert closed(script.model, "m") == [("a", "-4", "8", "8")]
    assert script.lots() == [("a", "-6", "10", "-60")]
    assert script.lots("B") == [("a", "-4", "8", "-32")]
    assert script.position("B").open_lots[0].date == DATES[0]


def test_moved_lots_close_opposite_ones_at_their_open_price() -> None:
    script = Script()
    script.buy("10", "10", 0, trade_id="a")
    script.add("TRADE", 0, book="B", instrument="X", account="ACC", side="SELL", quantity="4", price="13", trade_id="s")
    script.transfer("6", 1, trade_id="m")
    assert closed(script.model, "m", "B") == [("s", "-4", "10", "12")]
    assert script.lots("B") == [("a", "2", "10", "20")]
    assert script.position().realised_gross == 0


def test_transfer_out_of_a_pool_and_into_one() -> None:
    script = Script("AVERAGE")
    script.buy("10", "10", 0, trade_id="a")
    script.buy("10", "20", 1, trade_id="b")
    script.transfer("8", 2, trade_id="m")
    assert script.lots("B") == [("a", "8", "15", "120")]
    script.add("TRADE", 3, book="B", instrument="X", account="ACC", side="BUY", quantity="2", price="40", trade_id="own")
    script.transfer("10", 4, book="B", to_book="A", trade_id="back")  # 120 + 80 into a pool of 12 at 15
    (pool,) = script.position().open_lots
    assert seen(pool.lot_id, pool.quantity, pool.cost, script.position().average_price) == ("a", 22, 380, Fraction(380, 22))


def test_transfer_of_more_than_is_held_is_refused() -> None:
    script = Script()
    script.buy("10", "10")
    refused = script.transfer("11", 1)
    assert script.model.refused == {refused: "INSUFFICIENT_POSITION"}
    assert ("B", "X") not in script.model.positions()


def test_kept_transfer_opens_the_opposite_side_for_what_is_missing() -> None:
    script = Script()
    a = script.buy("10", "10", trade_id="a")
    m = script.transfer("10", 1, trade_id="m")
    script.amend(a, quantity="4")
    assert script.lots() == [("m/2", "-6", "10", "-60")]
    assert script.lots("B") == [("a", "10", "10", "100")]  # as the giver stood; until the re-entry
    script.amend(m, flags=["REENTRY"])
    assert script.lots("B") == [("a", "4", "10", "40"), ("m/2", "6", "10", "60")]
    assert script.position().quantity + script.position("B").quantity == 4
    script.cancel(a)
    script.amend(m, flags=["REENTRY"])  # nothing left and no price: opened at 0
    assert script.lots() == [("m/2", "-10", "0", "0")]
    assert script.lots("B") == [("m/2", "10", "0", "0")]


def test_correction_reaches_the_receiver_by_re_entry_and_as_of_at_once() -> None:
    script = Script()
    a = script.buy("10", "10", trade_id="a")
    m = script.transfer("6", 1, trade_id="m")
    script.amend(a, price="11")
    known = len(script.events)
    assert script.lots() == [("a", "4", "11", "44")]
    assert script.lots("B") == [("a", "6", "10", "60")]
    assert Model.as_of(script.events, 5 * DAY).positions()["B", "X"].cost == 66
    script.amend(m, flags=["REENTRY"])
    assert script.lots("B") == [("a", "6", "11", "66")]
    assert Model.as_of(script.events, known_at=known).positions()["B", "X"].cost == 60


def test_cancelled_transfer_takes_the_lots_back() -> None:
    script = Script()
    script.buy("10", "10", trade_id="a")
    m = script.transfer("6", 1)
    script.add("TRADE", 2, book="B", instrument="X", account="ACC", side="SELL", quantity="6", price="12", trade_id="x")
    script.cancel(m)
    assert script.lots() == [("a", "10", "10", "100")]
    assert script.lots("B") == [("x", "-6", "12", "-72")]


def test_chain_of_transfers_as_of() -> None:
    script = Script()
    script.buy("10", "10", trade_id="a")
    script.transfer("6", 1, trade_id="m")
    script.transfer("5", 2, book="B", to_book="C", trade_id="n")
    assert [Model.as_of(script.events, day * DAY).positions().get((book, "X")) is not None for day in (1, 2, 3) for book in "ABC"] == [
        True,
        False,
        False,
        True,
        True,
        False,
        True,
        True,
        True,
    ]
    quantities = [Model.as_of(script.events, 3 * DAY).positions()[book, "X"].quantity for book in "ABC"]
    assert quantities == [4, 1, 5]


def test_give_up_moves_only_the_account() -> None:
    script = Script()
    script.buy("10", "10", trade_id="a")
    script.transfer("4", 1, to_book="A", to_account="CLEARER")
    assert script.lots() == [("a", "10", "10", "100")]
    assert script.model.accounts() == {("A", "ACC", "X"): 6, ("A", "CLEARER", "X"): 4}


# -- splits ----------------------------------------------------------------------------------------------------------------------------


def test_ca007_reverse_split_keeps_cost_and_dates() -> None:
    script = Script("LIFO")
    script.opening("BUY", "50", "2.42", "2023-06-12", trade_id="L013")
    script.opening("BUY", "250", "0.57", "2023-11-20", trade_id="L014")
    script.split(1, 25, whole=True)
    assert script.lots() == [("L013", "2", "121/2", "121"), ("L014", "10", "57/4", "285/2")]
    assert [lot.date for lot in script.position().open_lots] == ["2023-06-12", "2023-11-20"]
    assert seen(script.position().realised_gross, script.model.refused) == (0, {})


def test_ca008_cash_in_lieu() -> None:
    script = Script()
    script.buy("250", "8.40", trade_id="a")
    script.split(1, 7, whole=True, cash_price="64.40")
    assert script.lots() == [("a", "35", "294/5", "2058")]
    assert script.position().realised_gross == 4  # 46.00 - 42.00
    (paid,) = [match for group in script.model.matches() for match in group.matches]
    assert seen(paid.kind, paid.cost, paid.realised_gross) == ("CASH_IN_LIEU", 42, 4)


def test_fraction_without_a_price_is_refused_by_that_key_only() -> None:
    script = Script()
    script.buy("250", "8.40", trade_id="a")
    script.add("TRADE", book="B", instrument="X", account="ACC", side="SELL", quantity="14", price="8", trade_id="s")
    refused = script.split(1, 7, whole=True)
    assert script.model.refused == {refused: "CASH_PRICE_REQUIRED"}
    assert seen(script.position().quantity, script.position("B").quantity) == (250, -2)


def test_split_cuts_cumulatively_in_method_order() -> None:
    script = Script(qty_scale=0)
    for name, quantity in (("a", "1"), ("b", "1"), ("c", "1"), ("d", "2")):
        script.buy(quantity, "10", trade_id=name)
    script.split(1, 2)  # C = 0.5, 1, 1.5, 2.5 -> 0, 1, 0, 1; nothing is paid below qty_scale
    assert script.lots() == [("b", "1", "20", "20"), ("d", "1", "20", "30")]
    assert seen(script.position().quantity, script.position().cost, script.position().realised_gross) == (2, 50, 0)


def test_split_order_follows_the_method() -> None:
    script = Script("LIFO", qty_scale=0)
    script.buy("1", "10", trade_id="a")
    script.buy("2", "10", trade_id="b")
    script.split(1, 2)  # LIFO: b first: C = 1, 1.5 -> b 1, a 0; a is last, its cost goes back to b
    assert script.lots() == [("b", "1", "20", "30")]


def test_split_of_a_short_is_symmetric() -> None:
    script = Script()
    script.sell("250", "8.40", trade_id="a")
    script.split(1, 7, whole=True, cash_price="64.40")
    assert script.lots() == [("a", "-35", "294/5", "-2058")]
    assert script.position().realised_gross == -4


def test_split_to_nothing() -> None:
    script = Script(qty_scale=0)
    script.buy("1", "10", trade_id="a")
    script.split(1, 3)
    assert seen(script.position().quantity, script.position().cost, script.position().realised_gross) == (0, 0, -10)
    paid = Script(qty_scale=0)
    paid.buy("1", "10")
    paid.buy("1", "20")
    paid.split(1, 3, whole=True, cash_price="60")
    assert seen(paid.position().quantity, paid.position().cost, paid.position().realised_gross) == (0, 0, 10)  # 2/3 x 60 - 30


def test_fraction_comes_out_of_the_last_lot_that_remains() -> None:
    script = Script()
    script.buy("7", "10", trade_id="a")
    script.buy("3", "10", trade_id="b")
    script.split(1, 7, whole=True, cash_price="70")  # C = 1, 10/7: b is cut to 0, a holds 100 for 10/7; 3/7 cost 30 and bring 30
    assert script.lots() == [("a", "1", "70", "70")]
    assert script.position().realised_gross == 0


def test_split_is_first_on_its_date_and_reaches_late_keys() -> None:
    script = Script()
    script.buy("10", "10", 0, trade_id="a")
    script.buy("10", "5", 1, trade_id="b")  # of the ex-date: new units already
    script.split(2, 1, day=1)
    assert script.lots() == [("a", "20", "5", "100"), ("b", "10", "5", "50")]
    script.add("TRADE", 0, book="C", instrument="X", account="ACC", side="BUY", quantity="3", price="10", trade_id="late")
    assert script.lots("C") == [("late", "6", "5", "30")]


def test_lot_of_an_inexact_price_is_sold_by_share_of_cost() -> None:
    script = Script(money_scale=6)
    script.buy("1", "10", trade_id="a")
    script.split(3, 1)
    script.sell("1", "4", 2, trade_id="x")  # 10 / 3 = 3.333333
    assert script.position().realised_gross == Decimal("0.666667")
    assert script.position().cost == Decimal("6.666667")


def test_split_makes_accounts_add_up() -> None:
    script = Script(qty_scale=0)
    script.buy("1", "10", account="b", trade_id="1")
    script.buy("1", "10", account="a", trade_id="2")
    script.buy("3", "10", account="c", trade_id="3")
    script.split(1, 2)  # a 0.5, b 1, c 2.5 -> 0, 1, 1
    assert script.model.accounts() == {("A", "a", "X"): 0, ("A", "b", "X"): 1, ("A", "c", "X"): 1}


# -- clearing --------------------------------------------------------------------------------------------------------------------------


def test_variation_margin_between_fixings() -> None:
    script = Script(multiplier=(10, 1))
    script.buy("2", "100", 0)
    script.add("FIXING", 0, instrument="X", price="103")
    assert seen(script.position().variation_margin, script.position().clearing_cost) == (60, 2060)
    script.sell("3", "101", 1)
    script.add("FIXING", 1, instrument="X", price="102")
    assert script.position().variation_margin == 60 + 10 * (2 * (101 - 103) - 1 * (102 - 101))
    assert script.position().clearing_cost == -1020


# -- laws over random journals ---------------------------------------------------------------------------------------------------------


def random_script(seed: int, events: int) -> Script:
    """A week in three books with every kind of event, many of them late or corrections."""
    chance = random.Random(seed)
    script = Script(
        chance.choice(("FIFO", "LIFO", "HIFO", "AVERAGE", "SPECIFIC")),
        chance.choice(("FLIP", "REJECT")),
        chance.random() < 0.3,
        base=chance.choice((None, "BTC")),
        qty_scale=chance.choice((0, 3)),
        multiplier=chance.choice(((1, 1), (10, 1), (1, 100))),
    )
    fills: list[int] = []
    transfers: list[int] = []
    for number in range(events):
        day = min(5, number * 6 // events) if chance.random() < 0.8 else chance.randrange(6)
        roll = chance.random()
        quantity, price = str(chance.randint(1, 20)), str(chance.randint(500, 1500) / Decimal(100))
        if roll < 0.65 or not fills:
            lot = chance.choice(fills) if fills and chance.random() < 0.5 else None
            fee = chance.choice((None, "0.07 USD", "1 BNB", "-0.02 USD", "1 BTC"))
            fills.append(
                script.fill(
                    chance.choice(("BUY", "SELL")),
                    quantity,
                    price,
                    day,
                    fee,
                    lot=lot,
                    account=chance.choice("xyz"),
                    book=chance.choice("AAB"),
                    flags=["GROUP_LEG"] if chance.random() < 0.1 else [],
                )
            )
        elif roll < 0.72:
            script.cancel(chance.choice(fills + transfers), day)
        elif roll < 0.80:
            script.amend(chance.choice(fills), quantity=quantity, price=price, effective_date=DATES[day])
        elif roll < 0.85:
            script.fee(chance.choice(fills), chance.choice(("0.5 USD", "1 BTC", "1 BNB")), day)
        elif roll < 0.92:
            market = chance.random() < 0.5
            book, to_book = chance.choice((("A", "B"), ("B", "A"), ("B", "C"), ("C", "A")))
            transfers.append(
                script.transfer(
                    str(chance.randint(1, 8)),
                    day,
                    book,
                    to_book,
                    price=price if market else None,
                    flags=["AT_MARKET"] if market else [],
                    lot=chance.choice(fills),
                )
            )
        elif roll < 0.95 and transfers:
            chosen = chance.choice(transfers)
            script.amend(chosen, flags=[*script.events[chosen - 1]["flags"], "REENTRY"])
        elif roll < 0.98:
            script.split(
                chance.randint(1, 3), chance.randint(1, 3), day, whole=chance.random() < 0.5, cash_price=chance.choice((None, "12"))
            )
        else:
            script.add("FIXING", day, instrument="X", price=price)
    return script


@pytest.mark.parametrize("seed", range(40))
def test_laws_hold_on_random_journals(seed: int) -> None:
    script = random_script(seed, 120)
    model = script.model
    positions, matches = model.positions(), model.matches()
    for key in list(model.states):  # what was continued event by event equals one fold from the start
        assert model._fold(key, START) is None
    assert (model.positions(), model.matches()) == (positions, matches)
    for (book, instrument), position in positions.items():
        state = model.states[book, instrument]
        assert sum(quantity for (b, _, _), quantity in model.accounts().items() if b == book) == position.quantity
        assert position.quantity != 0 or position.cost == 0
        assert sum((row.realised for row in state.taken), Fraction(0)) == state.realised
        if not state.fees_in_cost:  # clearing moves cash, never P&L
            assert state.variation_margin - state.clearing_cost == state.realised - state.cost
        assert (position.average_price is None) == (position.quantity == 0)


@pytest.mark.parametrize("seed", range(40, 60))
def test_transfers_create_nothing(seed: int) -> None:
    """With lots flowing at once, the firm holds what its fills add up to, whatever was transferred, refused or corrected."""
    script = random_script(seed, 80)
    events = [event for event in script.events if event["kind"] != "ACTION"]
    whole = Model.as_of(events, 6 * DAY)
    assert sum(position.quantity for position in whole.positions().values()) == decimal(standing_quantity(events), 3)


@pytest.mark.parametrize("seed", range(60, 80))
def test_as_of_the_end_is_the_live_state_without_transfers(seed: int) -> None:
    script = random_script(seed, 120)
    moves = {event["sequence"] for event in script.events if event["kind"] == "TRANSFER"}
    events = [event for event in script.events if event["sequence"] not in moves and event["original"] not in moves]
    live, end = Model.as_of(events), Model.as_of(events, 6 * DAY)
    assert (live.positions(), live.accounts(), live.matches()) == (end.positions(), end.accounts(), end.matches())


def standing_quantity(events: list[Event]) -> Fraction:
    """Signed sum of the fills that stand, as last amended, less fees in BTC where that is the traded asset; from the refusals alone."""
    model = Model()
    for event in events:
        model.apply(event)
    accepted = [event for event in events if event["sequence"] not in model.refused]
    fills = {event["sequence"]: event for event in accepted if event["kind"] == "TRADE"}
    fees = [event for event in accepted if event["kind"] == "FEE"]
    for event in accepted:
        if event["kind"] == "CANCEL":
            fills.pop(event["original"], None)
        elif event["kind"] == "AMEND" and event["original"] in fills:
            fills[event["original"]] = event
    total = sum((Fraction(fill["quantity"]) * (1 if fill["side"] == "BUY" else -1) for fill in fills.values()), Fraction(0))
    if model.instruments["X"].base_currency == "BTC":
        charged = [*fills.values(), *(fee for fee in fees if fee["original"] in fills)]
        total -= sum(
            (Fraction(event["fee"]) for event in charged if event["fee"] is not None and event["fee_currency"] == "BTC"), Fraction(0)
        )
    return total


# -- pks calc lots ---------------------------------------------------------------------------------------------------------------------


def request(**values: Any) -> dict[str, Any]:
    return {
        "id": "r",
        "method": "FIFO",
        "instrument": {"kind": "linear", "multiplier": "1", "currency": "USD"},
        "oversell": "flip",
        **values,
    }


def test_calc_answers_the_hand_checked_sber() -> None:
    answer = calc(
        request(
            mark="316.90",
            opening_lots=[
                {"lot_id": "L001", "date": "2025-01-20", "quantity": "10000", "price": "281.40"},
                {"lot_id": "L002", "date": "2025-02-18", "quantity": "5000", "price": "309.90"},
            ],
            events=[
                {
                    "type": "TRADE",
                    "trade_id": "T0001",
                    "side": "SELL",
                    "quantity": "12000",
                    "price": "316.40",
                    "fee": "379.68",
                    "fee_currency": "USD",
                    "time": "2025-03-14T10:05:11Z",
                }
            ],
        )
    )
    assert answer == {
        "id": "r",
        "quantity": "3000",
        "average_price": "309.9",
        "cost": "929700",
        "realised_gross": "363000",
        "realised_net": "362620.32",
        "fees": {"USD": "379.68"},
        "unrealised": "21000",
        "lots": [{"lot_id": "L002", "date": "2025-02-18", "quantity": "3000", "price": "309.9", "cost": "929700"}],
        "matches": [
            {
                "open_trade_id": "L001",
                "close_trade_id": "T0001",
                "open_date": "2025-01-20",
                "quantity": "10000",
                "open_price": "281.4",
                "close_price": "316.4",
                "realised_gross": "350000",
                "cost": "2814000",
            },
            {
                "open_trade_id": "L002",
                "close_trade_id": "T0001",
                "open_date": "2025-02-18",
                "quantity": "2000",
                "open_price": "309.9",
                "close_price": "316.4",
                "realised_gross": "13000",
                "cost": "619800",
            },
        ],
        "errors": [],
    }


def test_calc_corrections_specific_and_errors() -> None:
    answer = calc(
        request(
            method="SPECIFIC",
            events=[
                {"type": "TRADE", "trade_id": "a", "side": "BUY", "quantity": "10", "price": "10", "lot_id": "MINE"},
                {"type": "TRADE", "trade_id": "b", "side": "BUY", "quantity": "10", "price": "20"},
                {"type": "TRADE", "trade_id": "x", "side": "SELL", "quantity": "4", "price": "30", "lot_id": "MINE"},
                {"type": "TRADE", "trade_id": "y", "side": "SELL", "quantity": "4", "price": "30", "lot_id": "NONE"},
                {"type": "TRADE", "trade_id": "z", "side": "SELL", "quantity": "4", "price": "30"},
                {"type": "AMEND", "trade_id": "b", "quantity": "5"},
                {"type": "CANCEL", "trade_id": "nobody"},
            ],
        )
    )
    assert [(lot["lot_id"], lot["quantity"]) for lot in answer["lots"]] == [("MINE", "6"), ("b", "5")]
    assert [(match["open_trade_id"], match["realised_gross"]) for match in answer["matches"]] == [("a", "80")]
    assert [(error["trade_id"], error["code"]) for error in answer["errors"]] == [
        ("y", "UNKNOWN_LOT"),
        ("z", "LOT_REQUIRED"),
        ("nobody", "UNKNOWN_TRADE"),
    ]


def test_calc_split_keeps_its_place_in_the_array() -> None:
    answer = calc(
        request(
            events=[
                {"type": "TRADE", "trade_id": "a", "side": "BUY", "quantity": "250", "price": "8.40"},
                {"type": "SPLIT", "numerator": 1, "denominator": 7, "whole_units": True, "cash_price": "64.40"},
                {"type": "TRADE", "trade_id": "b", "side": "BUY", "quantity": "1", "price": "60"},
            ]
        )
    )
    assert (answer["quantity"], answer["cost"], answer["realised_gross"]) == ("36", "2118", "4")
    assert answer["average_price"] == "58.8333333"


def test_calc_inverse_unrealised() -> None:
    answer = calc(
        {
            "id": 1,
            "instrument": {"kind": "inverse", "multiplier": "1", "currency": "USD", "base_currency": "BTC"},
            "mark": "84325.0",
            "opening_lots": [{"lot_id": "L025", "date": "2025-03-11", "quantity": "-100000", "price": "82000"}],
            "events": [],
        }
    )
    assert answer["unrealised"][:11] == "-0.03362426"[:11]
    assert (answer["quantity"], answer["average_price"]) == ("-100000", "82000")
