"""Attaching, losing and finding the system again, and what is read meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pks.base.clock import ManualClock
from pks.base.errors import Code
from pks.layouts.codes import Kind, Side, Subject
from pks.layouts.match import VERDICT
from pks.layouts.segment import header_word
from pks.segments.journal_file import file_path
from pks.tui.board import Board
from pks.tui.feed import FEED_MOVES, RETRY_NS, Feed, FeedState
from tests.screens.blotter_host import HOUR_NS, MONOTONIC_NS, NOW_NS, BlotterHost
from tests.unit.cli.journals import write_desk_journal


@pytest.mark.parametrize("before", list(FeedState))
@pytest.mark.parametrize("after", list(FeedState))
def test_every_move_is_legal_or_an_assertion(before: FeedState, after: FeedState) -> None:
    feed = Feed("none", None, ManualClock(NOW_NS, MONOTONIC_NS))
    feed.state = before
    if after in FEED_MOVES[before]:
        feed._move(after, "because")
        assert (feed.state, feed.reason) == (after, "because")
    else:
        with pytest.raises(AssertionError, match="->"):
            feed._move(after, "because")


def test_nothing_runs(clock: ManualClock) -> None:
    feed = Feed("nobodyishere", None, clock)
    news = feed.poll()
    assert (feed.state, news.state, len(news.rows)) == (FeedState.ABSENT, True, 0)
    assert "is the system running?" in feed.reason
    clock.advance(RETRY_NS)
    assert not feed.poll().state, "the same reason is no news"


def test_attempts_to_attach_are_rare(desk: BlotterHost, clock: ManualClock) -> None:
    desk.stop()
    feed = Feed(desk.instance, None, clock)
    feed.poll()
    desk.start()
    feed.poll()
    assert feed.state == FeedState.ABSENT
    clock.advance(RETRY_NS)
    assert feed.poll().attached


def test_only_what_was_written_is_read_again(desk: BlotterHost, feed: Feed, board: Board) -> None:
    assert len(feed.poll().rows) == 0
    row = desk.put("RU-EQ", "SBER.MOEX", 1)
    assert feed.poll().rows.tolist() == [row]
    assert int(board.records[row]["qty_raw"]) == 1
    assert len(feed.poll().rows) == 0


def test_rows_of_both_shards_are_found_and_new_ones_come_in_between(desk: BlotterHost, feed: Feed, board: Board) -> None:
    before = board.rows.tolist()
    first, second = desk.put("RU-FI", "GAZP.MOEX", 1), desk.put("RU-EQ", "BTC-PERP", 1)
    assert sorted(feed.poll().rows.tolist()) == sorted([first, second])
    assert sorted(board.rows.tolist()) == sorted([*before, first, second])


def test_cursors_are_those_of_the_slowest(desk: BlotterHost, feed: Feed) -> None:
    desk.done(7, durable=5)
    feed.poll()
    assert tuple(feed.cursors) == (7, 5, 7)


def test_a_changed_name_is_seen(desk: BlotterHost, feed: Feed, board: Board) -> None:
    desk.define(Subject.BOOK, 11, "RU-EQUITY", parent="AUR-RU", group="RU desk")
    assert feed.poll().names
    codes = {view.book for view in map(board.view, board.rows.tolist()) if view is not None}
    assert codes == {"RU-EQUITY", "RU-FI", "CR-PERP"}


def test_a_position_whose_names_are_not_there_yet_has_no_line(desk: BlotterHost, feed: Feed) -> None:
    desk.instruments["NEW"] = (40, "NEW", "RUB", 2, 0, (1, 1))
    row = desk.put("RU-EQ", "NEW", 1)
    feed.poll()
    assert feed.line(row) is None
    desk.define_instrument("NEW")
    feed.poll()
    line = feed.line(row)
    assert line is not None and line.view.instrument == "NEW"


def test_a_segment_of_another_version_is_said_and_tried_again(desk: BlotterHost, clock: ManualClock) -> None:
    header = desk.host.segment("positions").header
    word = header_word("layout_version")
    header[word] += 1
    feed = Feed(desk.instance, None, clock)
    feed.poll()
    assert feed.state == FeedState.ABSENT and "layout version" in feed.reason
    header[word] -= 1
    clock.advance(RETRY_NS)
    feed.poll()
    assert feed.state == FeedState.LIVE


def test_the_tape_begins_with_the_journals_tail(tmp_path: Path, clock: ManualClock) -> None:
    data_dir = tmp_path / "data"
    last = write_desk_journal(data_dir)
    desk = BlotterHost(data_dir, f"tuitail{os.getpid()}", events=last)
    try:
        feed = Feed(desk.instance, data_dir, clock)
        feed.poll()
        tape = feed.tape
        assert tape is not None and feed.journal_note == ""
        sequences = [int(event["sequence"]) for event in tape.events]
        assert sequences == sorted(sequences, reverse=True)
        assert {int(event["kind"]) for event in tape.events} == {Kind.OPENING, Kind.TRADE, Kind.ALLOCATION}
        desk.tell("RU-EQ", "SBER.MOEX", 5, 31_640, Side.BUY)
        feed.poll()
        assert int(tape.events[0]["sequence"]) == last + 1 > sequences[0]
    finally:
        desk.close()


def test_the_tape_says_what_the_position_refused(desk: BlotterHost, clock: ManualClock) -> None:
    desk.folder.joinpath("streams").mkdir(parents=True, exist_ok=True)
    feed = Feed(desk.instance, desk.folder, clock)
    feed.poll()
    desk.tell("RU-EQ", "SBER.MOEX", 5, 31_640, Side.SELL)
    feed.poll()
    tape = feed.tape
    assert tape is not None and tape.line(0, 0).refused == ""
    verdict = np.zeros(1, VERDICT)
    verdict["sequence"], verdict["code"] = tape.events[0]["sequence"], Code.OVERSELL
    desk.host.verdicts(1).writer().publish(verdict)
    assert feed.poll().tape_count == 1
    assert tape.line(0, 0).refused == "OVERSELL"


def test_a_damaged_journal_costs_the_tapes_past_only(desk: BlotterHost, clock: ManualClock) -> None:
    journal = desk.folder / "journal"
    journal.mkdir(parents=True)
    file_path(journal, 0).write_bytes(b"no journal at all")
    feed = Feed(desk.instance, desk.folder, clock)
    feed.poll()
    assert feed.state == FeedState.LIVE
    assert file_path(journal, 0).name in feed.journal_note
    assert feed.tape is not None and len(feed.tape.events) == 7


def test_a_system_without_a_heartbeat_keeps_its_last_figures(desk: BlotterHost, feed: Feed, board: Board) -> None:
    figures = board.records.copy()
    desk.host.beat(-HOUR_NS)
    news = feed.poll()
    assert (feed.state, news.state) == (FeedState.STALE, True)
    assert "heartbeat too old" in feed.reason
    assert np.array_equal(board.records, figures)
    assert feed.board is board
