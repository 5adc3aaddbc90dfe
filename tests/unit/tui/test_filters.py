"""The filter line: words, texts, figures to the last digit, and what it refuses."""

from __future__ import annotations

import pytest

from pks.tui.board import Board
from pks.tui.feed import Feed
from pks.tui.filters import FilterError, parse_filter
from tests.screens.blotter_host import NOW_NS, BlotterHost


def passed(line: str, board: Board, feed: Feed, now_ns: int = NOW_NS) -> set[str]:
    """book/instrument of the positions that the line lets through."""
    mask = parse_filter(line).mask(board, board.rows, feed.line, now_ns)
    views = [board.view(row) for row in board.rows[mask].tolist()]
    return {f"{view.book}/{view.instrument}" for view in views if view is not None}


def test_an_empty_line_lets_everything_through(board: Board, feed: Feed) -> None:
    assert len(passed("  ", board, feed)) == 7


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("sber", {"RU-EQ/SBER.MOEX", "RU-FI/SBER.MOEX"}),
        ("BTCUSD", {"CR-PERP/BTC-PERP"}),  # a symbol
        ("ru-eq !sber !gazp", {"RU-EQ/OFZ26238"}),
        ("qty<0", {"RU-EQ/GAZP.MOEX", "CR-PERP/XBTUSD"}),
        ("qty>=12k", {"RU-EQ/SBER.MOEX"}),
        ("qty>12000", set()),
        ("qty=1.5", {"CR-PERP/BTC-PERP"}),
        ("quantity=0", {"RU-FI/SBER.MOEX"}),
        ("avg<62 avg>61.25", {"RU-EQ/OFZ26238"}),
        ("avg!=0 ru-fi", {"RU-FI/OFZ26238"}),  # a flat one has no average
        ("net<=-3525.75", {"RU-EQ/GAZP.MOEX"}),
        ("net<-3525.75", set()),
        ("fees>379 fees<400", {"RU-EQ/SBER.MOEX"}),
        ("ccy=btc", {"CR-PERP/XBTUSD"}),
        ("ccy!=RUB", {"CR-PERP/BTC-PERP", "CR-PERP/XBTUSD"}),
        ("entity~ae lots>=1", {"CR-PERP/BTC-PERP", "CR-PERP/XBTUSD"}),
        ("marks~i", {"CR-PERP/XBTUSD"}),
        ("seq>6", {"RU-EQ/OFZ26238"}),
    ],
)
def test_what_a_line_lets_through(line: str, found: set[str], board: Board, feed: Feed) -> None:
    assert passed(line, board, feed) == found


def test_figures_are_compared_to_the_last_digit_where_float64_cannot_tell_them_apart(desk: BlotterHost, board: Board, feed: Feed) -> None:
    desk.put("RU-EQ", "GAZP.MOEX", 9_007_199_254_740_993)
    desk.put("RU-EQ", "SBER.MOEX", 9_007_199_254_740_992)
    feed.poll()
    assert passed("qty>9007199254740992", board, feed) == {"RU-EQ/GAZP.MOEX"}
    assert passed("qty=9007199254740993", board, feed) == {"RU-EQ/GAZP.MOEX"}
    assert passed("qty<9007199254740993 qty>1m", board, feed) == {"RU-EQ/SBER.MOEX"}


def test_ages_are_compared_to_the_nanosecond(board: Board, feed: Feed) -> None:
    for line, now_ns, count in (
        ("age=95", NOW_NS, 7), ("age<95", NOW_NS, 0), ("age<=95", NOW_NS, 7), ("age>95", NOW_NS, 0), ("age>95", NOW_NS + 1, 7),
        ("age>=95.0000000005", NOW_NS, 0), ("age<95.0000000005", NOW_NS, 7), ("age!=95", NOW_NS, 0), ("age<1e60", NOW_NS, 7),
    ):  # fmt: skip
        assert len(passed(line, board, feed, now_ns)) == count, line


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("colour>1", "there is no column colour"),
        ("qty>", "a comparison is written column>value"),
        (">5", "a comparison is written column>value"),
        ("qty>x", "x is not a number"),
        ("qty>nan", "nan is not a number"),
        ("qty~5", "quantity is a number"),
        ("book>A", "book is a text"),
        ("last_trade>2025", "compare age instead"),
        ("!", "a word is missing"),
    ],
)
def test_a_line_that_cannot_be_read_says_why(line: str, reason: str) -> None:
    with pytest.raises(FilterError, match=reason):
        parse_filter(line)
