"""Answers of the room for the past: the same as the commands', page by page, at any moment; and what-if against really booking."""

from __future__ import annotations

import hashlib
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pks.base.clock import parse_time
from pks.base.units import to_int
from pks.edges.files.desk import packaged_desk
from pks.edges.files.rows import TradeRow
from pks.edges.files.trades import read_trades
from pks.engine.lots.state import KEYS_COUNT
from pks.layouts.codes import MatchKind
from pks.past.answers import answer, matches_of
from pks.past.journal import settle
from pks.past.keeper import Keeper
from pks.past.moment import lots_as_of, lots_now, moment_as_of, moment_of
from pks.past.names import CatalogueNames
from pks.past.questions import AnyAnswer, Failed, Held, History, Imagined, LotsOf, Page, PositionsAt, Question, TradeOf, Trades, WhatIf
from pks.past.trades import History as Corrections
from pks.past.trades import page, scan, trade_rows
from pks.past.wanted import KINDS, Wanted
from pks.past.whatif import imagine
from pks.workers.positions import Positions
from tests.engine_script import RandomDay
from tests.harness import NOW_NS
from tests.unit.cli.conftest import Run, json_of
from tests.unit.cli.journals import desk_core, write_journal

pytestmark = pytest.mark.timeout(600)  # the kernels compile at their first call, on a busy machine for minutes

NOON = "2025-03-14T11:15:10Z"


def keeper_of(data_dir: Path) -> Keeper:
    """A keeper of a journal at rest."""
    from pks.segments.journal_recovery import find_end

    last = find_end(data_dir / "journal", 0).last
    return Keeper(data_dir, lambda: last)


def rows_of(keeper: Keeper, question: Question) -> list[dict[str, Any]]:
    found = answer(keeper, question)
    assert isinstance(found, Page), found
    assert found.next is None
    return found.rows


def whole(keeper: Keeper, question: Any, limit: int) -> list[dict[str, Any]]:
    """All pages one behind another."""
    import msgspec

    rows: list[dict[str, Any]] = []
    asked = msgspec.structs.replace(question, limit=limit)
    while True:
        found = answer(keeper, asked)
        assert isinstance(found, Page), found
        assert len(found.rows) <= limit
        rows += found.rows
        if found.next is None:
            return rows
        assert found.rows, "a page that is not the last has rows"
        asked = msgspec.structs.replace(asked, after=found.next, known_at=found.sequence)


@pytest.mark.parametrize("options", [{}, {"as_of": parse_time(NOON)}, {"known_at": 275}, {"as_of": parse_time(NOON), "known_at": 275}])
def test_the_same_as_the_commands(desk_day_dir: Path, pks_run: Run, options: dict[str, int]) -> None:
    keeper = keeper_of(desk_day_dir)
    words = [*(["--as-of", NOON] if "as_of" in options else []), *(["--known-at", "275"] if "known_at" in options else [])]
    positions = json_of(pks_run(desk_day_dir, "positions", "--all", "--json", *words))
    assert rows_of(keeper, PositionsAt(flat=True, **options)) == positions != []
    assert rows_of(keeper, PositionsAt(**options)) == [row for row in positions if row["quantity"] != "0"]
    assert rows_of(keeper, Held(**options)) == json_of(pks_run(desk_day_dir, "positions", "--by", "account", "--json", *words))
    trades = json_of(pks_run(desk_day_dir, "trades", "--json", *words))
    assert rows_of(keeper, Trades(limit=5000, **options)) == trades != []
    for row in positions:
        lots = json_of(pks_run(desk_day_dir, "lots", row["book"], row["instrument"], "--json", *words))
        assert rows_of(keeper, LotsOf(book=row["book"], instrument=row["instrument"], **options)) == lots


def test_matches_are_those_of_the_command(desk_day_dir: Path, pks_run: Run) -> None:
    keeper = keeper_of(desk_day_dir)
    told: dict[int, list[dict[str, Any]]] = {}
    for row in json_of(pks_run(desk_day_dir, "trades", "--matches", "--json")):
        told.setdefault(row["sequence"], []).append({key: row[key] for key in row if key not in ("revision", "cause")})
    assert told, "the desk's day closes something"
    for sequence, matches in told.items():
        (row,) = rows_of(keeper, TradeOf(sequence=sequence))
        assert row["matches"] == matches
        (same,) = rows_of(keeper, TradeOf(trade_id=row["trade_id"]))
        assert same == row
        position = rows_of(keeper, History(book=row["book"], instrument=row["instrument"]))
        assert next(one for one in position if one["sequence"] == sequence) == row


def test_pages_are_the_whole(desk_day_dir: Path) -> None:
    keeper = keeper_of(desk_day_dir)
    for question in (PositionsAt(flat=True), Held(), Trades(), History(book="RU-ARB", instrument="GMKN.MOEX")):
        rows = whole(keeper, question, 5000)
        assert rows
        for limit in (1, 2, 7):
            assert whole(keeper, question, limit) == rows, (question, limit)
    newest = whole(keeper, Trades(newest_first=True), 3)
    assert newest == whole(keeper, Trades(), 3)[::-1]


def test_books_that_may_not_be_seen_do_not_show(desk_day_dir: Path) -> None:
    keeper = keeper_of(desk_day_dir)
    books = ("RU-EQ",)
    for question in (PositionsAt(books=books), Held(books=books), Trades(books=books)):
        rows = rows_of(keeper, question)
        assert rows
        assert all("RU-EQ" in (row.get("book"), row.get("to_book"), *row.get("books", {})) for row in rows)
        assert {name for row in rows for name in row.get("books", {})} <= {"RU-EQ"}
    assert rows_of(keeper, PositionsAt(books=())) == []
    for question in (PositionsAt, Held, Trades):  # a grant may name a book that is yet to come
        assert rows_of(keeper, question(books=("RU-EQ", "YET-TO-COME"))) == rows_of(keeper, question(books=books))
        assert rows_of(keeper, question(books=("YET-TO-COME",))) == []
    other = next(row for row in rows_of(keeper, Trades(limit=5000)) if row["book"] != "RU-EQ" and row["to_book"] is None)
    assert failure(answer(keeper, TradeOf(sequence=other["sequence"], books=books))) == ("UNKNOWN_TRADE", "sequence")
    assert failure(answer(keeper, TradeOf(trade_id=other["trade_id"], books=books))) == ("UNKNOWN_TRADE", "trade_id")


def failure(found: AnyAnswer) -> tuple[str, str]:
    assert isinstance(found, Failed), found
    return found.code, found.field


@pytest.mark.parametrize(
    ("question", "code", "field"),
    [
        (LotsOf(book="RU-EC", instrument="SBER.MOEX"), "UNKNOWN_BOOK", "book"),
        (LotsOf(book="RU-EQ", instrument="NOPE"), "UNKNOWN_INSTRUMENT", "instrument"),
        (Held(accounts=("NOBODY",)), "UNKNOWN_ACCOUNT", "account"),
        (Trades(sources=("NOBODY",)), "UNKNOWN_SOURCE", "source"),
        (Trades(kinds=("CANCEL",)), "UNKNOWN_KIND", "kind"),
        (TradeOf(trade_id="NOPE"), "UNKNOWN_TRADE", "trade_id"),
        (TradeOf(sequence=10**9), "UNKNOWN_TRADE", "sequence"),
        (PositionsAt(known_at=10**9), "BEYOND_JOURNAL", "known_at"),
    ],
)
def test_what_is_asked_amiss(desk_day_dir: Path, question: Question, code: str, field: str) -> None:
    found = answer(keeper_of(desk_day_dir), question)
    assert failure(found) == (code, field)
    assert isinstance(found, Failed)
    assert "RU-EQ" not in found.reason, "no name is offered that the asker may not know"


def test_without_a_journal(tmp_path: Path) -> None:
    found = answer(Keeper(tmp_path, lambda: 0), PositionsAt())
    assert failure(found) == ("NO_JOURNAL", "")


@pytest.mark.parametrize("number", range(3))
def test_random_days(seed: int, number: int, tmp_path: Path) -> None:
    """Matches, lots and trades at random moments, from a keeper that follows a growing journal, against folds made for the question."""
    chance = random.Random(seed)
    day = RandomDay(seed, tmp_path / "keys", batch=1 + number)
    for _ in range(60):
        day.step()
    day.core.flush()
    records, last = day.core.records, day.core.booking.sequence
    write_journal(tmp_path / "journal", records[1 : last + 1], 1 << 13)
    reached = [0]
    keeper = Keeper(tmp_path, lambda: reached[0])
    for upto in [*sorted(chance.sample(range(1, last), 4)), last]:
        reached[0] = upto
        past = keeper.now()
        assert past.last <= upto
        known = chance.randint(1, max(1, past.last))
        if past.last == 0:
            continue
        where = f"seed {seed}, {past.last} of {last}, known {known}"
        fresh = Positions(records)
        fresh.apply(records, -1, 1, known)
        settle(fresh)
        refused = {sequence: code for sequence, code in fresh.shard.state.refused.tolist() if sequence > 0}
        whole_past = past.__class__(past.data_dir, past.view, known, None)
        wanted = Wanted(kinds=KINDS)
        history, chosen = scan(whole_past, wanted, refused, None)
        ours = keeper.history(past, known)
        if known == past.last or records[known]["flags"] & 1:  # in the midst of a batch a verdict may not be given yet
            assert ours == history, where
        assert page(whole_past, wanted, history, after=None, limit=10**6) == chosen, where
        names = keeper.names(past, known)
        theirs = list(trade_rows(whole_past, CatalogueNames(fresh.catalogue), history, chosen))
        assert list(trade_rows(whole_past, names, history, chosen)) == theirs, where
        times = [int(e["trade_time_ns"]) for e in records[1 : known + 1] if e["trade_time_ns"]]
        as_of = chance.choice(times) if times else 0
        now, then = moment_of(fresh), moment_as_of(fresh, as_of)
        for key in fresh.shard.state.keys[: fresh.shard.state.meta[KEYS_COUNT]]:
            pair = int(key["book_id"]), int(key["instrument_id"])
            for told, moment in ((lots_now(fresh, *pair), now), (lots_as_of(fresh, *pair, as_of), then)):
                assert told["open_sequence"].tolist() == moment.lots(*pair)["open_sequence"].tolist(), where
                assert told["qty_raw"].tolist() == moment.lots(*pair)["qty_raw"].tolist(), where
    past = keeper.now()
    folded = keeper.positions(past, past.last)
    theirs = {name: found for name, found in day.core.matches.items()}
    ours = {}
    for key in folded.shard.state.keys[: folded.shard.state.meta[KEYS_COUNT]]:
        pair = int(key["book_id"]), int(key["instrument_id"])
        ours |= {(sequence, *pair): found for sequence, found in matches_of(folded, *pair, None).items()}
    told = [{name: facts(found) for name, found in sets.items() if facts(found)} for sets in (ours, theirs)]
    assert told[0] == told[1], f"seed {seed}"


def facts(records: Any) -> list[tuple[Any, ...]]:
    """What a match set says, apart from how often it was said and at which scales; what a kept transfer lacked is no match."""
    shown = [e for e in records if not (e["kind"] == MatchKind.MOVED and e["open_sequence"] == e["sequence"] and e["open_leg"] == 2)]
    return [
        (
            *(int(e[name]) for name in ("kind", "open_sequence", "open_leg")),
            Fraction(int(e["qty_raw"]), 10 ** int(e["qty_scale"])) if e["kind"] != MatchKind.CASH else int(e["qty_raw"]),
            *(Fraction(int(e[name]), 10 ** int(e["price_scale"])) for name in ("open_price_raw", "close_price_raw")),
            *(Fraction(to_int(int(e[f"{name}_hi"]), int(e[f"{name}_lo"])), 10 ** int(e["money_scale"])) for name in ("realised", "cost")),
        )
        for e in shown
        if e["kind"] != MatchKind.NO_MATCH
    ]


# What if.


class Noon:
    """The clock of the harness."""

    def wall_ns(self) -> int:
        return NOW_NS

    def monotonic_ns(self) -> int:
        return 0


def a_row(trade_id: str, **fields: str) -> dict[str, str]:
    usual = {"book": "RU-EQ", "instrument": "SBER.MOEX", "account": "NSD-RU-01", "trade_time": "2025-03-14T12:00:00Z"}
    return usual | {"trade_id": trade_id, "side": "BUY", "quantity": "10", "price": "300"} | fields


ROWS: tuple[dict[str, str], ...] = (
    a_row("W1", fee="1.5", fee_currency="RUB"),
    a_row("W2", side="SELL", quantity="100000", price="310"),
    a_row("W2", side="SELL", quantity="100000", price="310"),
    a_row("W2", side="SELL", quantity="7", price="310"),
    a_row("EARLY", quantity="5", price="290", trade_time="2025-03-13T12:00:00Z"),
    {"kind": "AMEND", "trade_id": "W1", "price": "299"},
    {"kind": "TRANSFER", "trade_id": "W3", "book": "RU-EQ", "to_book": "RU-ARB", "instrument": "GAZP.MOEX", "quantity": "5", "at": "COST",
     "trade_time": "2025-03-14T12:30:00Z"},
    {"kind": "CANCEL", "trade_id": "EARLY"},
    a_row("BAD", quantity="-1"),
    a_row("NOWHERE", book="NOPE"),
    {"kind": "CANCEL", "trade_id": "NEVER"},
)  # fmt: skip


def digest(folder: Path) -> dict[str, str]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_what_if_is_what_booking_would_do(tmp_path: Path) -> None:
    booked = desk_core(tmp_path / "keys")
    for row in read_trades(packaged_desk() / "trades.csv"):
        assert isinstance(row, TradeRow)
        booked.book([row])
    data_dir = tmp_path / "data"
    last = booked.write(data_dir)
    before = digest(data_dir)
    found = imagine(keeper_of(data_dir), WhatIf(rows=ROWS, marks={"SBER.MOEX": "311.5"}), Noon())
    assert isinstance(found, Imagined), found
    assert digest(data_dir) == before, "no file was written"
    assert found.sequence == last
    statuses = [(outcome["status"], outcome["code"]) for outcome in found.outcomes]
    assert statuses[:8] == [("ACCEPTED", "")] * 2 + [("DUPLICATE", ""), ("REFUSED", "IDEMPOTENCY_CONFLICT")] + [("ACCEPTED", "")] * 4
    assert statuses[8:] == [("REFUSED", "NOT_POSITIVE"), ("REFUSED", "UNKNOWN_BOOK"), ("REFUSED", "UNKNOWN_TRADE")]
    assert [outcome["line"] for outcome in found.outcomes] == list(range(1, len(ROWS) + 1))

    for row, (status, _) in zip(ROWS, statuses, strict=True):
        if status == "ACCEPTED":
            assert booked.row(**row)[1] == "ACCEPTED"
    really = keeper_of_written(booked, tmp_path / "really")
    positions = rows_of(really, PositionsAt(flat=True))
    changed = [row for row in positions if row["last_sequence"] > last]
    told = [{name: row[name] for name in row if name != "unrealised"} for row in found.after]
    assert sorted(told, key=lambda row: (row["book"], row["instrument"])) == changed
    pairs = {(row["book"], row["instrument"]) for row in changed}
    assert pairs == {("RU-EQ", "SBER.MOEX"), ("RU-ARB", "GAZP.MOEX"), ("RU-EQ", "GAZP.MOEX")}
    for row in changed:
        lots = rows_of(really, LotsOf(book=row["book"], instrument=row["instrument"]))
        own = [lot for lot in found.lots if (lot["book"], lot["instrument"]) == (row["book"], row["instrument"])]
        assert [{key: lot[key] for key in lot if key not in ("book", "instrument")} for lot in own] == lots
    sber = next(row for row in found.after if row["instrument"] == "SBER.MOEX")
    was = next(row for row in found.before if row["instrument"] == "SBER.MOEX")
    gain = next(row for row in found.changes if row["instrument"] == "SBER.MOEX")
    assert decimal(gain["realised_gross"]) == decimal(sber["realised_gross"]) - decimal(was["realised_gross"]) != 0
    assert gain["fees"] == {"RUB": "1.5"}
    assert decimal(sber["unrealised"]) == decimal(sber["quantity"]) * decimal("311.5") - decimal(sber["cost"])
    matches = [{name: one[name] for name in one if name not in ("revision", "cause")} for one in found.matches if one["trade_id"] == "W2"]
    assert matches == rows_of(really, TradeOf(trade_id="W2"))[0]["matches"] != []


def keeper_of_written(booked: Any, data_dir: Path) -> Keeper:
    booked.write(data_dir)
    return keeper_of(data_dir)


def decimal(text: str) -> Any:
    from decimal import Decimal

    return Decimal(text)


def test_what_if_shows_no_other_book(desk_dir: Path) -> None:
    rows = (
        a_row("MINE"),
        a_row("THEIRS", book="RU-ARB"),
        {"kind": "CANCEL", "trade_id": "T0004-A2"},  # lies in RU-ARB
        {"kind": "CANCEL", "trade_id": "NEVER"},
        {
            "kind": "TRANSFER",
            "trade_id": "OUT",
            "book": "RU-EQ",
            "to_book": "RU-ARB",
            "instrument": "SBER.MOEX",
            "quantity": "5",
            "at": "COST",
        },
    )
    found = imagine(keeper_of(desk_dir), WhatIf(rows=rows, books=("RU-EQ",)), Noon())
    assert isinstance(found, Imagined), found
    codes = [outcome["code"] for outcome in found.outcomes]
    assert codes == ["", "UNKNOWN_BOOK", "UNKNOWN_TRADE", "UNKNOWN_TRADE", "UNKNOWN_BOOK"]
    assert found.outcomes[2] == found.outcomes[3] | {"line": 3, "trade_id": "T0004-A2", "value": "T0004-A2"}
    assert {row["book"] for row in (*found.before, *found.after, *found.lots, *found.matches, *found.changes)} == {"RU-EQ"}


def test_what_if_names_what_is_missing(desk_dir: Path) -> None:
    for marks, code in (
        ({"NOPE": "1"}, "UNKNOWN_INSTRUMENT"),
        ({"SBER.MOEX": "NaN"}, "NOT_A_NUMBER"),
        ({"SBER.MOEX": "x"}, "NOT_A_NUMBER"),
    ):
        found = imagine(keeper_of(desk_dir), WhatIf(rows=(), marks=marks), Noon())
        assert isinstance(found, Failed)
        assert found.code == code


def test_corrections_known_earlier() -> None:
    found = Corrections({5: 1, 9: 2}, {1: [4, 8], 2: [9]}, {3: 7}, {1: [6, 10]}, {2: 9}, {9: 2}, {6: 8})
    assert found.upto(8) == Corrections({5: 1}, {1: [4, 8]}, {3: 7}, {1: [6]}, {}, {}, {6: 8})
    assert found.upto(6) == Corrections({5: 1}, {1: [4]}, {}, {1: [6]}, {}, {}, {})


def test_a_keeper_gives_up_and_begins_again(desk_day_dir: Path) -> None:
    keeper = keeper_of(desk_day_dir)
    now, then = PositionsAt(flat=True), PositionsAt(flat=True, known_at=275)
    found = rows_of(keeper, now), rows_of(keeper, then)
    assert keeper.sequence > 0
    assert keeper.forget_moments()
    assert not keeper.forget_moments()
    assert (rows_of(keeper, now), rows_of(keeper, then)) == found
    keeper.forget()
    assert (keeper.sequence, keeper.behind()) == (0, 0)
    assert (rows_of(keeper, then), rows_of(keeper, now)) == found[::-1]
