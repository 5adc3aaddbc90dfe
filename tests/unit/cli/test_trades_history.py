"""`pks trades --history` without a store, and what it does not take; with a store: tests/crash/test_edge_timeseries.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from pks.cli.trades_history import LENGTHS
from pks.edges.questdb.history import bar_words, trade_words
from pks.edges.questdb.store import BAR_SECONDS, BOOKED, Bar, TradeRow
from tests.unit.cli.conftest import Run


def test_the_lengths_are_those_of_the_stores() -> None:
    assert LENGTHS == tuple(BAR_SECONDS)


def test_where_no_server_has_started_one_line_says_so(pks_run: Run, tmp_path: Path) -> None:
    done = pks_run(tmp_path, "trades", "--history")
    assert done.exit_code == 1
    assert "no time series from" in done.output
    assert "Traceback" not in done.output


def test_where_the_server_is_gone_one_line_says_so_without_the_password(
    pks_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PKS_QUESTDB_URL", "http://user:hush@127.0.0.1:1?sql_port=1")
    done = pks_run(tmp_path, "trades", "--history")
    assert done.exit_code == 1
    assert "no time series from questdb" in done.output
    assert "hush" not in done.output


@pytest.mark.parametrize(
    "words",
    [
        ("--history", "--account", "A"),
        ("--history", "--unallocated"),
        ("--history", "--matches"),
        ("--bars", "1m"),
        ("--bars", "1m", "--instrument", "A", "--instrument", "B"),
        ("--bars", "1m", "--instrument", "A", "--book", "X", "--book", "Y"),
        ("--bars", "7m", "--instrument", "A"),
    ],
)
def test_what_the_time_series_do_not_know_is_refused(pks_run: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert pks_run(tmp_path, "trades", *words).exit_code == 2


def test_figures_are_text_and_exact() -> None:
    row = TradeRow(
        1_000_000_001, "S/T/0", 5, 6, "TRADE", BOOKED, "X", None, "I", None, "S", "SELL", 2**62 + 1, 12, -5, 3
    )  # fmt: skip
    words = trade_words(row)
    assert (words["quantity"], words["price"]) == ("4611686.018427387905", "-0.005")
    assert words["trade_time"] == "1970-01-01T00:00:01.000000001Z"
    assert trade_words(row._replace(price_raw=None))["price"] is None
    bar = Bar(0, 0.1 + 0.2, 10.0, 0.1, 250.25, 0.1 * 3, 3, 2, 1)
    assert bar_words(bar) == {
        "time": "1970-01-01T00:00:00Z", "open": "0.3", "high": "10", "low": "0.1", "close": "250.25", "volume": "0.3", "trades": 3,
    }  # fmt: skip
