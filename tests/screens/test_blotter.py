"""The blotter's keys on a small live system: filter, order, drill-down, columns, tape, health, and the system going and coming."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Static

from pks.base.clock import ManualClock
from pks.layouts.codes import Side
from pks.tui.app import Blotter
from pks.tui.columns import DEFAULT_KEYS
from pks.tui.feed import RETRY_NS, FeedState
from pks.tui.screens import ColumnsScreen, DetailScreen, HealthScreen, HelpScreen
from pks.tui.strips import TapeView
from pks.tui.table import FLASH_NS, PositionsTable
from pks.tui.tree import BookTree
from tests.screens.blotter_host import BlotterHost
from tests.screens.conftest import DeskDetail

SIZE = (150, 40)
SECOND_NS = 10**9

Make = Callable[[], Blotter]


def shown(app: Blotter) -> list[tuple[str, str]]:
    """(book, instrument) of the table's rows, in order."""
    table = app.query_one(PositionsTable)
    lines = [app.feed.line(row) for row in table.order.tolist()]
    return [(line.view.book, line.view.instrument) for line in lines if line is not None]


def screen_text(app: Blotter) -> str:
    """What is on the terminal, line by line."""
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in app.screen._compositor.render_strips())


def said(app: Blotter, name: str) -> str:
    return str(app.query_one(f"#{name}", Static).content)


async def type_keys(pilot: Pilot[None], *keys: str) -> None:
    await pilot.press(*keys)
    await pilot.pause()


async def test_positions_stand_in_the_order_of_books_with_exact_figures(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert shown(app) == [
            ("CR-PERP", "BTC-PERP"), ("CR-PERP", "XBTUSD"), ("RU-EQ", "GAZP.MOEX"), ("RU-EQ", "OFZ26238"), ("RU-EQ", "SBER.MOEX"),
            ("RU-FI", "OFZ26238"), ("RU-FI", "SBER.MOEX"),
        ]  # fmt: skip
        text = screen_text(app)
        assert "RU-EQ      SBER.MOEX               12,000         316.4      12,500.75      12,121.07 RUB" in text
        assert "CR-PERP    BTC-PERP                   1.5      83,250.5       1,234.56       1,214.57 USD" in text
        assert "CR-PERP    XBTUSD                 -20,000        83,100" in text


async def test_a_filter_narrows_as_it_is_typed_and_escape_ends_it(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "slash", *"sber")
        assert shown(app) == [("RU-EQ", "SBER.MOEX"), ("RU-FI", "SBER.MOEX")]
        await type_keys(pilot, "space", *"qty>0")
        assert shown(app) == [("RU-EQ", "SBER.MOEX")]
        await type_keys(pilot, "enter")
        assert isinstance(app.focused, PositionsTable)
        assert "filter sber qty>0" in said(app, "status")
        await type_keys(pilot, "escape")
        assert len(shown(app)) == 7
        assert app.query_one("#filter", Input).value == ""


async def test_a_filter_that_cannot_be_read_is_said_and_the_last_one_stays(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "slash", *"qty>0")
        app.query_one("#filter", Input).value = "qty>0 colour>1"  # pasted
        await pilot.pause()
        assert "there is no column colour" in said(app, "filter-error")
        assert len(shown(app)) == 4


async def test_s_orders_by_the_next_column_and_shift_s_turns(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "s", "s")
        assert app.choice.sort == "quantity"
        assert shown(app)[0] == ("RU-EQ", "GAZP.MOEX")
        assert shown(app)[-1] == ("RU-EQ", "SBER.MOEX")
        await type_keys(pilot, "S")
        assert shown(app)[0] == ("RU-EQ", "SBER.MOEX")
        assert "by Quantity ▼" in said(app, "status")


async def test_positions_without_a_figure_are_last_either_way(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "s", "s", "s")
        assert app.choice.sort == "average_price"
        assert shown(app)[-1] == ("RU-FI", "SBER.MOEX")
        await type_keys(pilot, "S")
        assert shown(app)[-1] == ("RU-FI", "SBER.MOEX")


async def test_a_click_on_a_title_orders_by_it(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert await pilot.click(PositionsTable, offset=(13, 0))
        await pilot.pause()
        assert app.choice.sort == "instrument"
        assert shown(app)[0] == ("CR-PERP", "BTC-PERP")
        assert await pilot.click(PositionsTable, offset=(13, 0))
        await pilot.pause()
        assert shown(app)[0] == ("CR-PERP", "XBTUSD")


async def test_the_cursor_stays_on_its_position_when_the_order_changes(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "down", "down")
        table = app.query_one(PositionsTable)
        row = table.row_at_cursor
        await type_keys(pilot, "s")
        assert (table.row_at_cursor, table.cursor) == (row, 1)


async def test_enter_shows_the_lots_and_the_trades_behind_a_position(make_blotter: Make, detail: DeskDetail) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "down", "down", "enter")
        assert isinstance(app.screen, DetailScreen)
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert detail.asked == [("lots", "RU-EQ", "GAZP.MOEX"), ("trades", "RU-EQ", "GAZP.MOEX")]
        assert app.screen.query_one("#lots", DataTable).row_count == 2
        assert app.screen.query_one("#trades", DataTable).row_count == 2
        text = screen_text(app)
        assert "realised gross -3100.5   net -3525.75   fees RUB 425.25" in text
        assert "Open lots: 2, 12,000 in all" in text
        await type_keys(pilot, "escape")
        assert isinstance(app.focused, PositionsTable)


async def test_the_drill_down_says_when_the_position_has_moved_on(make_blotter: Make, desk: BlotterHost) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "down", "down", "enter")
        screen = app.screen
        assert isinstance(screen, DetailScreen)
        await app.workers.wait_for_complete()
        await pilot.pause()
        assert "r reads again" not in screen_text(app)
        desk.put("RU-EQ", "GAZP.MOEX", -26_000, 17_000)
        app.beat()
        screen.show_facts()
        await pilot.pause()
        assert "quantity -26000" in screen_text(app)
        assert "r reads again" in screen_text(app)


async def test_chosen_columns_are_shown_and_kept_for_the_next_time(make_blotter: Make, tmp_path: Path) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "c")
        assert isinstance(app.screen, ColumnsScreen)
        await type_keys(pilot, *["down"] * 7, "space", *["down"] * 7, "space", "enter")
        keys = [column.key for column in app.query_one(PositionsTable).columns]
        assert "cost" in keys and "fees" not in keys
        assert "3,796,800.00" in screen_text(app)
    assert json.loads((tmp_path / "config" / "tui.json").read_text())["columns"] == keys
    again = make_blotter()
    async with again.run_test(size=SIZE):
        assert [column.key for column in again.query_one(PositionsTable).columns] == keys


async def test_keys_typed_in_one_go_are_taken_in_their_order(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "c")
        driver = app._driver
        assert driver is not None
        for key, character in (("d", "d"), ("home", None), ("space", " "), ("enter", "\r")):
            pressed = events.Key(key, character)
            pressed.set_sender(app)
            driver.send_message(pressed)  # as a terminal that sends all at once: nobody waits in between
        deadline = time.monotonic() + 20
        while len(app.screen_stack) > 1 and time.monotonic() < deadline:
            await pilot.pause(0.02)
        assert [column.key for column in app.query_one(PositionsTable).columns] == ["entity", *DEFAULT_KEYS]


async def test_leaving_the_checklist_changes_nothing(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        before = app.query_one(PositionsTable).columns
        await type_keys(pilot, "c", "space", "escape")
        assert app.query_one(PositionsTable).columns == before


async def test_settings_that_cannot_be_read_are_said_and_passed_over(make_blotter: Make, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "tui.json").write_text('{"columns": 7}')
    app = make_blotter()
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await pilot.pause()
        assert "was passed over" in next(note.message for note in app._notifications)
        assert len(shown(app)) == 7


async def test_flat_positions_can_be_hidden(make_blotter: Make, desk: BlotterHost, clock: ManualClock) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "f")
        assert ("RU-FI", "SBER.MOEX") not in shown(app)
        desk.put("RU-FI", "OFZ26238", 0)
        clock.advance(SECOND_NS)
        app.beat()
        assert ("RU-FI", "OFZ26238") not in shown(app)


async def test_the_tree_chooses_whose_positions_are_shown_and_rolls_up(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        app.query_one(BookTree).focus()
        await type_keys(pilot, "down")
        assert shown(app) == [("CR-PERP", "BTC-PERP"), ("CR-PERP", "XBTUSD")]
        assert "2 open of 2 positions" in said(app, "rolls")
        await type_keys(pilot, "down", "down", "down", "down", "down")
        assert {book for book, _ in shown(app)} == {"RU-EQ"}
        assert "RUB     9,399.75     8,594.82" in said(app, "rolls")
        assert "RU-EQ 3 8,595 RUB" in screen_text(app)


async def test_all_books_are_summed_before_the_cursor_moves(make_blotter: Make) -> None:
    app = Blotter(make_blotter().feed)  # it beats by itself: the tree is on the screen before its books are known
    async with app.run_test(size=SIZE) as pilot:
        for _ in range(50):
            await pilot.pause(0.1)
            if "open of 7 positions" in said(app, "rolls"):
                break
        assert "6 open of 7 positions" in said(app, "rolls")
        assert "RUB " in said(app, "rolls")


async def test_the_tree_moves_by_letters_too(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        app.query_one(BookTree).focus()
        await type_keys(pilot, "j")
        assert "2 open of 2 positions" in said(app, "rolls")
        await type_keys(pilot, "k")
        assert "6 open of 7 positions" in said(app, "rolls")


async def test_a_change_is_shown_and_flashes_for_a_moment(make_blotter: Make, desk: BlotterHost, clock: ManualClock) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        table = app.query_one(PositionsTable)
        row = desk.put("RU-EQ", "GAZP.MOEX", -24_000, 17_010, realised=-300_000)
        app.beat()
        await pilot.pause()
        styles = {segment.text.strip(): segment.style for segment in table._segments(row, at_cursor=False)}
        assert styles["-24,000"] == table._style("flash-up")
        clock.advance(FLASH_NS)
        app.beat()
        await pilot.pause()
        styles = {segment.text.strip(): segment.style for segment in table._segments(row, at_cursor=False)}
        assert styles["-24,000"] == table._style("down")


async def test_only_changed_lines_are_drawn(make_blotter: Make, desk: BlotterHost) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        table = app.query_one(PositionsTable)
        before = table.lines_drawn_count
        app.beat()
        await pilot.pause()
        assert table.lines_drawn_count == before
        desk.put("RU-EQ", "GAZP.MOEX", -24_000)
        app.beat()
        await pilot.pause()
        assert table.lines_drawn_count == before + 1


async def test_what_is_not_on_disk_yet_is_marked_until_it_is(make_blotter: Make, desk: BlotterHost) -> None:
    app = make_blotter()
    async with app.run_test(size=(200, 40)) as pilot:
        desk.put("RU-EQ", "SBER.MOEX", 12_500, 31_640)
        head = desk.host.events.head
        desk.done(head, durable=head - 1)
        app.beat()
        await pilot.pause()
        line = next(line for line in screen_text(app).splitlines() if "12,500" in line)
        assert f"{head} *" in line
        desk.done(head)
        app.beat()
        await pilot.pause()
        line = next(line for line in screen_text(app).splitlines() if "12,500" in line)
        assert f"{head} *" not in line


async def test_a_new_position_of_a_new_instrument_appears_at_once(make_blotter: Make, desk: BlotterHost) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        desk.instruments["LKOH.MOEX"] = (30, "LKOH", "RUB", 1, 0, (1, 1))
        desk.define_instrument("LKOH.MOEX")
        desk.put("RU-EQ", "LKOH.MOEX", 5, 71_000)
        app.beat()
        await pilot.pause()
        assert ("RU-EQ", "LKOH.MOEX") in shown(app)
        assert "7,100" in screen_text(app)


async def test_the_tape_shows_events_newest_first_and_counts_what_it_skipped(make_blotter: Make, desk: BlotterHost) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        for number in range(3):
            desk.tell("RU-EQ", "SBER.MOEX", 100 + number, 31_700, Side.SELL)
        app.beat()
        await pilot.pause()
        tape = app.feed.tape
        assert tape is not None
        assert [tape.line(number, 0).quantity for number in range(3)] == ["102", "101", "100"]
        assert "SELL            102 SBER.MOEX" in screen_text(app)
        for _ in range(300):  # more than the ring holds
            desk.tell("RU-EQ", "SBER.MOEX", 7, 31_700, Side.SELL)
        app.beat()
        assert tape.skipped_count >= 300 - desk.host.events.capacity
        desk.tell("RU-EQ", "SBER.MOEX", 8, 31_700, Side.BUY)
        app.beat()
        assert tape.line(0, 0).quantity == "8"
        await type_keys(pilot, "t")
        assert app.query_one(TapeView).has_class("hidden")


async def test_health_shows_workers_rings_cursors_latencies_and_counters(make_blotter: Make, desk: BlotterHost) -> None:
    cells = desk.host.control.owner(0)
    for _ in range(100):
        cells.histogram("capture_ns").record(1_500)
    cells.counter("refused").add(3)
    desk.host.control.report(1).write(heartbeat_ns=49_999 * SECOND_NS, cursor=7, last_error="disk full")
    app = make_blotter()
    async with app.run_test(size=(150, 80)) as pilot:
        await type_keys(pilot, "h")
        assert isinstance(app.screen, HealthScreen)
        text = screen_text(app)
        assert "accepted 7   durable 7   applied 7   edges unknown" in text
        assert "accumulator-1  READY  1003" in text
        journal = next(line for line in text.splitlines() if line.strip().startswith("journal") and "READY" in line)
        assert "1.0s" in journal and "disk full" in journal
        latency = next(line for line in text.splitlines() if "capture_ns" in line)
        assert "100" in latency and "1.5µs" in latency
        assert next(line for line in text.splitlines() if "refused" in line).split() == ["capture", "refused", "counter", "3"]
        ring = next(line for line in text.splitlines() if line.strip().startswith("events"))
        assert ring.split() == ["events", "256", "7", "0", "0.0%"]
        await type_keys(pilot, "escape")
        assert len(app.screen_stack) == 1


async def test_health_shows_a_reader_that_lags(make_blotter: Make, desk: BlotterHost) -> None:
    desk.done(7, durable=3)
    app = make_blotter()
    async with app.run_test(size=(150, 80)) as pilot:
        await type_keys(pilot, "h")
        lines = screen_text(app).splitlines()
        at = next(number for number, line in enumerate(lines) if line.strip().startswith("events"))
        assert lines[at].split() == ["events", "256", "7", "4", "1.6%"]
        assert lines[at + 1].split() == ["journal", "yes", "3", "4"]


async def test_help_explains_keys_filters_and_marks(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "question_mark")
        assert isinstance(app.screen, HelpScreen)
        assert "lots of the position and the trades behind them" in screen_text(app)
        await type_keys(pilot, "escape")
        assert len(app.screen_stack) == 1


async def test_the_keys_of_the_main_screen_are_dead_on_others(make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "h", "s", "f", "c")
        assert isinstance(app.screen, HealthScreen)
        assert (app.choice.sort, app.choice.flat) == ("book", True)


@pytest.mark.parametrize("end", ["hang", "stop"])
async def test_a_system_that_is_gone_is_said_its_figures_stay_and_it_is_attached_again(
    make_blotter: Make, desk: BlotterHost, clock: ManualClock, end: str
) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await type_keys(pilot, "slash", *"sber", "enter")
        getattr(desk, end)()
        app.beat()
        await pilot.pause()
        assert app.feed.state == FeedState.STALE
        assert "THE SYSTEM IS GONE since 00:53:20.000 UTC" in screen_text(app)
        assert len(shown(app)) == 2
        clock.advance(RETRY_NS)
        app.beat()
        assert app.feed.state == FeedState.STALE, "there is nothing to attach to"
        desk.start()
        desk.put("RU-EQ", "SBER.MOEX", 4_321, 31_000)
        clock.advance(RETRY_NS)
        app.beat()
        await pilot.pause()
        assert app.feed.state == FeedState.LIVE
        text = screen_text(app)
        assert "THE SYSTEM IS GONE" not in text
        assert shown(app) == [("RU-EQ", "SBER.MOEX")]
        assert "4,321" in text
        desk.put("RU-EQ", "SBER.MOEX", 1_234, 31_000)
        app.beat()
        await pilot.pause()
        assert "1,234" in screen_text(app), "it follows the new system"


async def test_the_blotter_may_start_before_the_system(make_blotter: Make, desk: BlotterHost, clock: ManualClock) -> None:
    desk.stop()
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        assert "NOT ATTACHED" in screen_text(app)
        await type_keys(pilot, "enter", "s", "f", "h")
        assert "ABSENT" in screen_text(app)
        await type_keys(pilot, "escape")
        desk.start()
        desk.fill_desk()
        clock.advance(RETRY_NS)
        app.beat()
        await pilot.pause()
        assert "NOT ATTACHED" not in screen_text(app)
        assert len(shown(app)) == 7 - 1, "flat positions were switched off meanwhile"


async def test_it_beats_by_itself(desk: BlotterHost, make_blotter: Make) -> None:
    app = Blotter(make_blotter().feed)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(0.3)
        desk.put("RU-EQ", "SBER.MOEX", 777, 31_000)
        row = desk.host.positions.find((11, 21))
        board = app.feed.board
        assert row is not None and board is not None
        for _ in range(50):
            if int(board.records[row]["qty_raw"]) == 777:
                break
            await pilot.pause(0.1)
        assert int(board.records[row]["qty_raw"]) == 777


async def test_moving_through_ten_thousand_positions_draws_a_screenful(desk: BlotterHost, make_blotter: Make) -> None:
    app = make_blotter()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()
        table = app.query_one(PositionsTable)
        table.show_rows(np.resize(table.order, 10_000), "book", True)
        await pilot.pause()
        before = table.lines_drawn_count
        await type_keys(pilot, "end")
        assert table.cursor == 9_999
        assert 0 < table.lines_drawn_count - before <= 3 * SIZE[1]
        await type_keys(pilot, "home", "pagedown")
        assert table.cursor == table._lines_visible - 1
