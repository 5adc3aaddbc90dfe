"""`pks tui` itself: its answers from a real journal, and a caller without a terminal."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from pks.base.config import Config
from pks.base.errors import PksError
from pks.cli.group import EXIT_USAGE
from pks.cli.tui import JournalDetail, tui
from pks.edges.files.desk import packaged_desk
from tests.unit.cli.journals import Booked, desk_day


@pytest.fixture(scope="module")
def booked(tmp_path_factory: pytest.TempPathFactory) -> Booked:
    return desk_day(tmp_path_factory.mktemp("core"))


@pytest.fixture
def detail(booked: Booked, tmp_path: Path) -> Iterator[JournalDetail]:
    booked.write(tmp_path)
    yield JournalDetail(Config(data_dir=str(tmp_path), instance="tuidetail"))


def test_lots_add_up_to_the_desks_expected_positions(detail: JournalDetail) -> None:
    with (packaged_desk() / "expected_eod_positions.csv").open() as file:
        expected = list(csv.DictReader(file))
    assert len(expected) > 10
    for row in expected:
        lots = detail.lots(row["book_id"], row["instrument_id"])
        assert sum((lot.quantity for lot in lots), Decimal(0)) == Decimal(row["qty"]), row
        assert len(lots) == int(row["open_lots"]), row


def test_trades_are_the_last_first_and_those_of_the_book(detail: JournalDetail) -> None:
    with (packaged_desk() / "trades.csv").open() as file:
        ids = [row["trade_id"] for row in csv.DictReader(file) if (row["book_id"], row["instrument_id"]) == ("RU-EQ", "SBER.MOEX")]
    trades = detail.trades("RU-EQ", "SBER.MOEX")
    assert [trade.trade_id for trade in trades if trade.kind == "TRADE"] == ids[::-1]
    assert [trade.sequence for trade in trades] == sorted((trade.sequence for trade in trades), reverse=True)
    first = next(trade for trade in trades if trade.trade_id == "T0001")
    assert (first.side, first.quantity, first.price, first.fees) == ("SELL", Decimal(12_000), Decimal("316.4"), "379.68 RUB")
    assert {trade.state for trade in trades} == {"BOOKED"}


def test_a_second_question_goes_on_from_the_first(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    booked = desk_day(tmp_path_factory.mktemp("core"))
    booked.write(tmp_path)
    detail = JournalDetail(Config(data_dir=str(tmp_path), instance="tuidetail"))
    before = sum(lot.quantity for lot in detail.lots("RU-EQ", "SBER.MOEX"))
    answer = booked.row(
        trade_id="LATE", book="RU-EQ", instrument="SBER.MOEX", side="BUY", quantity="70", price="316", trade_time="2025-03-14T15:00:00Z"
    )
    assert answer[1] == "ACCEPTED"
    for file in (tmp_path / "journal").iterdir():
        file.unlink()
    booked.write(tmp_path)
    assert sum(lot.quantity for lot in detail.lots("RU-EQ", "SBER.MOEX")) == before + 70
    assert detail.trades("RU-EQ", "SBER.MOEX")[0].trade_id == "LATE"


def test_what_is_not_known_is_an_error_with_its_name(detail: JournalDetail) -> None:
    with pytest.raises(PksError, match="NOBOOK"):
        detail.lots("NOBOOK", "SBER.MOEX")


def test_no_journal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PksError, match="no journal"):
        JournalDetail(Config(data_dir=str(tmp_path), instance="tuidetail")).lots("RU-EQ", "SBER.MOEX")


def test_without_a_terminal_it_says_what_to_use() -> None:
    result = CliRunner().invoke(tui, [])
    assert result.exit_code == EXIT_USAGE
    assert "pks positions" in result.output
