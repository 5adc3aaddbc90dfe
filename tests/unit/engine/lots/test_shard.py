"""What a shard does at its limits: overflow is a refusal, tables grow, a locked period is said, a verdict is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pks.base.errors import Code
from pks.base.units import to_int
from pks.engine.lots.check import check_state, state_hash
from pks.engine.lots.side import Fold as SideFold
from pks.layouts.codes import Flag, Kind, MatchFlag, MatchKind, PositionFlag
from pks.layouts.event import EVENT
from tests.engine_small import Small
from tests.harness import Core, Fold
from tests.oracle.model import Model

HUGE = str(9 * 10**18)


def sound(core: Core) -> None:
    for position in core.positions:
        check_state(position.shard.state)


def test_quantity_overflow_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    small = Small(tmp_path)
    assert small.buy(HUGE, "0.01") == Code.ACCEPTED
    assert small.buy(HUGE, "0.01") == Code.QUANTITY_OVERFLOW
    assert small.sell(HUGE, "0.01", account="") == Code.ACCEPTED  # flat as a whole, both accounts full
    assert small.sell(HUGE, "0.01", account="") == Code.QUANTITY_OVERFLOW
    assert small.buy(HUGE, "0.01", -1) == Code.QUANTITY_OVERFLOW  # the same from a re-derivation
    assert small.quantity() == 0
    sound(small.core)


def test_money_overflow_is_refused(tmp_path: Path) -> None:
    small = Small(tmp_path)
    assert small.buy(str(10**13), "1000000") == Code.ACCEPTED
    assert small.buy(str(10**15), "1000000") == Code.MONEY_OVERFLOW
    assert small.buy(str(10**15), "1000000", -1) == Code.MONEY_OVERFLOW
    sound(small.core)


def test_a_late_trade_that_breaks_a_later_one_is_the_one_refused(tmp_path: Path) -> None:
    small = Small(tmp_path)
    half = str(5 * 10**18)
    assert small.sell(half, "0.01", 1) == Code.ACCEPTED
    assert small.buy(half, "0.01", 2) == Code.ACCEPTED
    assert small.buy(half, "0.01", 3) == Code.ACCEPTED
    assert small.sell(half, "0.01", 0) == Code.QUANTITY_OVERFLOW  # at its place -5, then -10 on the day after
    assert small.quantity() == 5 * 10**18
    sound(small.core)


def test_split_overflow_is_refused_by_its_key_only(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.buy(HUGE, "0.01")
    small.buy("10", "0.10", book="B")
    assert small.split(3, 1, 1) == Code.QUANTITY_OVERFLOW
    assert small.quantity() == int(HUGE)
    assert small.quantity("B") == 30
    assert small.buy("1", "0.10", 0, book="B") == Code.ACCEPTED  # late: the verdict of A's key is not B's
    assert small.quantity("B") == 33
    sound(small.core)


def test_receiver_that_cannot_hold_the_lots_says_so(tmp_path: Path) -> None:
    small = Small(tmp_path, shards=1)
    small.buy(HUGE, "0.01")
    small.buy(HUGE, "0.01", book="B")
    assert small.transfer("500000000000000000") == Code.QUANTITY_OVERFLOW
    assert small.quantity() == int(HUGE) - 500000000000000000  # given
    assert small.quantity("B") == int(HUGE)
    sound(small.core)


def test_more_keys_of_an_instrument_than_results_hold(tmp_path: Path) -> None:
    small = Small(tmp_path)
    shard = small.core.positions[0].shard
    shard.out = shard.out._replace(changed=np.zeros(8, np.int32), changed_accounts=np.zeros((4, 2), np.int32))
    for n in range(30):
        small.core.define(_book(f"M{n}"))
        small.buy("3", "10", book=f"M{n}")
    assert small.split(2, 1, 2) == Code.ACCEPTED
    assert sorted({int(key["qty_raw"]) for key in small.core.keys()}) == [6]
    small.split(2, 1, 1)  # late: every key is derived again
    assert sorted({int(key["qty_raw"]) for key in small.core.keys()}) == [12]
    sound(small.core)


def _book(code: str) -> object:
    from pks.engine.instruments.definitions import Book

    return Book(code=code, entity="E", method="FIFO", oversell="FLIP", report_currency="USD", zone="UTC")


@pytest.mark.parametrize("method", ["FIFO", "HIFO", "SPECIFIC"])
def test_one_close_of_many_lots_and_a_transfer_of_them(tmp_path: Path, method: str) -> None:
    small = Small(tmp_path, method)
    core = small.core
    core.positions[0].shard.out = core.positions[0].shard.out._replace(matches=np.zeros(16, core.positions[0].shard.out.matches.dtype))
    for n in range(100):
        small.buy("2", str(10 + n % 7))
    named = {"lot_id": "t1"} if method == "SPECIFIC" else {}
    moved = "2" if named else "150"
    assert small.transfer(moved, 1, **named) == Code.ACCEPTED
    small.split(1, 3, 2)
    assert small.buy("1", "10", -1) == Code.ACCEPTED
    code = small.sell("40", "11", 3)
    assert code == (Code.LOT_REQUIRED if named else Code.ACCEPTED)
    sound(core)
    fold = Fold(core.records, 2, keys=2, lots=2)
    fold.apply(1, core.sequence)
    assert sum(state_hash(p.shard.state) for p in fold.positions) % 2**128 == state_hash(core.positions[0].shard.state)


def test_the_cash_of_an_earlier_split_names_the_trade_that_opened_its_position(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.buy("11", "10", 0)
    paid = int(Flag.WHOLE_UNITS | Flag.HAS_CASH_PRICE)
    assert small.instrument_event(Kind.ACTION, 2, qty_raw=1, price_raw=2, fee_raw=2000, flags=paid) == Code.ACCEPTED
    split = small.core.sequence
    cash = small.core.matches[split, 1, 1]
    assert (cash["kind"].tolist(), cash["cause"].tolist()) == ([MatchKind.CASH], [split])
    small.buy("7", "10", 1, book="B")  # backdated: the split comes behind it
    (said,) = [part for part in small.core.fold.said[-1:] if len(part)]
    assert said["sequence"].tolist() == [split]
    assert (said["kind"][0], said["cause"][0], said["revision"][0]) == (MatchKind.CASH, small.core.sequence, 0)
    assert said["recorded_ns"][0] == small.core.records[small.core.sequence]["recorded_ns"], "so that who follows the stream misses none"


def test_sets_that_reach_into_a_locked_period_say_so(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.buy("10", "10", 0, trade_id="open")
    small.sell("4", "12", 2, trade_id="close")
    closing = small.core.sequence
    assert small.core.matches[closing, 1, 1]["flags"].max() & MatchFlag.PRIOR_PERIOD == 0
    assert small.lock(2, "A") == Code.ACCEPTED
    small.sell("1", "12", 3)
    assert small.core.matches[small.core.sequence, 1, 1]["flags"][0] & MatchFlag.PRIOR_PERIOD == 0
    small.row(kind="AMEND", trade_id="open", price="11")
    amended = small.core.matches[closing, 1, 1]
    assert amended["flags"][0] & MatchFlag.PRIOR_PERIOD
    assert (int(amended["revision"][0]), int(amended["cause"][0])) == (1, small.core.sequence)
    small.sell("1", "12", 1)  # a late trade, dated into the locked period
    assert small.core.matches[small.core.sequence, 1, 1]["flags"][0] & MatchFlag.PRIOR_PERIOD
    small.row(kind="CANCEL", trade_id="close")
    said = small.core.fold.said[-1]
    assert said["kind"][said["sequence"] == closing].tolist() == [MatchKind.NO_MATCH]
    assert said["flags"][said["sequence"] == closing][0] & MatchFlag.PRIOR_PERIOD
    small.buy("10", "10", 1, book="B")
    small.sell("1", "12", 1, book="B")
    assert small.core.matches[small.core.sequence, 2, 1]["flags"][0] & MatchFlag.PRIOR_PERIOD == 0  # B is not locked


def test_a_kept_verdict_is_booked_as_a_flip_and_flagged(tmp_path: Path) -> None:
    small = Small(tmp_path, oversell="REJECT")
    small.buy("10", "10", 0, trade_id="open")
    assert small.sell("11", "12", 1) == Code.OVERSELL
    assert small.sell("10", "12", 1) == Code.ACCEPTED
    assert small.row(kind="CANCEL", trade_id="open") == Code.ACCEPTED
    assert small.quantity() == -10
    assert small.key()["flags"] & PositionFlag.FORCED
    assert small.row(kind="AMEND", trade_id="t2", price="1") == Code.INVALID_TRANSITION
    assert small.row(kind="CANCEL", trade_id="open") == Code.ALREADY_CANCELLED
    sound(small.core)


def test_a_fifth_fee_currency_is_refused_and_a_fee_of_nothing_takes_no_place(tmp_path: Path) -> None:
    small = Small(tmp_path)
    for currency in ("USD", "EUR", "BTC"):
        assert small.buy("1", "10", fee="1", fee_currency=currency) == Code.ACCEPTED
    assert small.buy("1", "10", fee="0", fee_currency="RUB") == Code.ACCEPTED
    assert small.buy("1", "10", fee="1", fee_currency="BNB", trade_id="last") == Code.ACCEPTED
    assert small.row(kind="FEE", trade_id="last", fee="1", fee_currency="CHF") == Code.FEE_CURRENCY_LIMIT
    assert small.buy("1", "10", -1, fee="1", fee_currency="CHF") == Code.FEE_CURRENCY_LIMIT
    assert small.row(kind="CANCEL", trade_id="last") == Code.ACCEPTED
    assert small.buy("1", "10", fee="1", fee_currency="CHF") == Code.ACCEPTED
    sound(small.core)


def test_events_of_unknown_keys_and_instruments_do_nothing() -> None:
    records = np.zeros(8, EVENT)
    fold = Fold(records)
    for sequence, kind in enumerate((Kind.CANCEL, Kind.FIXING, Kind.TICK), start=1):
        records[sequence]["sequence"], records[sequence]["kind"] = sequence, kind
        records[sequence]["book_id"], records[sequence]["instrument_id"] = 3, 5
    fold.apply(1, 3)
    assert fold.keys() == []


def test_cost_is_exact_at_any_size(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.buy(str(10**15), "999.99")
    small.sell(str(10**15 - 1), "0.01")
    key = small.key()
    assert to_int(int(key["cost_hi"]), int(key["cost_lo"])) == 99999 * 10**16
    assert to_int(int(key["realised_hi"]), int(key["realised_lo"])) == (1 - 99999) * (10**15 - 1) * 10**16


def test_a_verdict_does_not_depend_on_what_follows_in_the_batch(tmp_path: Path) -> None:
    said = []
    for batch in (1, 4):
        small = Small(tmp_path / str(batch), batch=batch)
        for currency in ("USD", "EUR", "BTC", "BNB"):
            small.buy("1", "10", 1, fee="1", fee_currency=currency, trade_id=currency)
        small.core.flush()
        small.buy("1", "10", 0, fee="1", fee_currency="CHF", trade_id="late")  # a fifth fee currency
        small.row(kind="CANCEL", trade_id="BNB")  # too late for it
        small.buy("1", "10", 0, fee="1", fee_currency="RUB", trade_id="last")  # in time
        small.core.flush()
        said.append((small.core.verdicts, small.quantity(), state_hash(small.core.positions[0].shard.state)))
        sound(small.core)
    assert said[0] == said[1]
    assert list(said[0][0].values()) == [Code.FEE_CURRENCY_LIMIT]


def test_a_correction_of_an_event_of_its_own_batch_finds_it_judged(tmp_path: Path) -> None:
    said = []
    for batch in (1, 3):
        small = Small(tmp_path / str(batch), batch=batch)
        for currency in ("USD", "EUR", "BTC", "BNB"):
            small.buy("1", "10", 1, fee="1", fee_currency=currency)
        small.core.flush()
        small.buy("1", "10", 0, fee="1", fee_currency="CHF", trade_id="late")
        small.row(kind="CANCEL", trade_id="late")
        small.core.flush()
        said.append(small.core.verdicts)
        assert small.quantity() == 4
    assert said[0] == said[1]
    assert list(said[0].values()) == [Code.FEE_CURRENCY_LIMIT, Code.INVALID_TRANSITION]


def test_a_key_that_a_refused_event_made_goes_by_the_method_of_its_next(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.buy("1", "10", 0)
    small.method("HIFO", 2, book="B")
    assert small.transfer("5") == Code.INSUFFICIENT_POSITION  # B's key is made by it, before the change
    small.buy("1", "10", 3, book="B")
    small.buy("1", "12", 3, book="B")
    small.buy("1", "11", 3, book="B")
    small.sell("1", "13", 4, book="B")
    assert to_int(int(small.key("B")["realised_hi"]), int(small.key("B")["realised_lo"])) == 10**18


def test_a_key_without_an_accepted_event_is_no_position(tmp_path: Path) -> None:
    small = Small(tmp_path, oversell="REJECT")
    assert small.sell("1", "10", 1) == Code.OVERSELL
    assert small.sell("1", "10", 0) == Code.OVERSELL  # late
    small.split(2, 1, 2)
    small.split(2, 1, 0)
    small.method("LIFO", 3)
    small.method("FIFO", 1)
    assert small.key()["last_sequence"] == 0
    small.buy("1", "10", 4)
    assert small.key()["last_sequence"] == small.core.sequence


def test_a_correction_of_a_recent_date_walks_from_its_anchor_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small(tmp_path)
    shard = small.core.positions[0].shard
    for n in range(900):
        small.buy("1", "10", n // 300, trade_id=f"n{n}")
    beats: list[int] = []
    shard.beat = lambda: beats.append(1)
    folded: list[int] = []
    run = SideFold.run

    def counted(fold: SideFold, stop: int = -1, *, keep: bool = True) -> tuple[int, int]:
        before = fold.at
        found = run(fold, stop, keep=keep)
        folded.append(fold.at - before)
        return found

    monkeypatch.setattr(SideFold, "run", counted)
    walked = []
    for trade_id in ("n620", "n621", "n0"):
        folded.clear()
        small.row(kind="CANCEL", trade_id=trade_id)
        walked.append(sum(folded))
    recent, again, oldest = walked
    assert recent < 2 * 300 < oldest
    assert again <= recent
    assert len(beats) >= 3
    sound(small.core)


def test_fees_that_cancel_out_keep_their_currency(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.buy("1", "10", fee="1", fee_currency="RUB", trade_id="first")
    small.row(kind="FEE", trade_id="first", fee="-1", fee_currency="RUB")
    for currency in ("USD", "EUR", "BTC"):
        assert small.buy("1", "10", fee="1", fee_currency=currency) == Code.ACCEPTED
    assert small.buy("1", "10", fee="1", fee_currency="BNB") == Code.FEE_CURRENCY_LIMIT
    assert small.buy("1", "10", -1, fee="1", fee_currency="BNB") == Code.FEE_CURRENCY_LIMIT  # late
    model = Model()
    for event in small.core.dump():
        model.apply(event)
    assert list(model.refused.values()) == ["FEE_CURRENCY_LIMIT"] * 2


def test_a_key_that_changes_again_behind_a_wait_is_shown_again(tmp_path: Path) -> None:
    """The receiver's shard hands its results on before it waits for the giver; what comes then is a change of the same run."""
    small = Small(tmp_path)
    for n in range(8):
        small.core.define(_book(f"R{n}"))
    first = small.core.sequence
    small.buy("10", "10")
    for n in range(8):
        small.buy("3", "10", book=f"R{n}")
        assert small.transfer("1", to_book=f"R{n}") == Code.ACCEPTED
    fold = Fold(small.core.records, 2)
    apart = [position.shard.owns(1) for position in fold.positions]
    assert sorted(apart) == [False, True]
    assert any(position.shard.owns(book) and not position.shard.owns(1) for position in fold.positions for book in range(3, 11))
    fold.apply(1, first)
    fold.apply(first + 1, small.core.sequence)
    assert fold.unshown() == []
