"""The blotter: one look at the system ten times a second, and the widgets that show what was new.

Owns the beat, the keys, the choice of what is shown, and what is kept for the next time. Started by `pks tui`, which hands in the feed and
the answers from the journal. May not read segments but through the feed, and may not write any.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Footer, Input, Static, Tree

from pks.base.clock import NS_PER_SECOND
from pks.engine.positions.view import PositionView
from pks.segments.errors import SegmentMissing, SegmentNotReady, StaleHost, UnstableSlot
from pks.topology import SystemState
from pks.tui.choice import Choice
from pks.tui.columns import BY_KEY, Line, chosen
from pks.tui.detail import Detail
from pks.tui.feed import Feed, FeedState
from pks.tui.figures import moment
from pks.tui.filters import NO_FILTER, FilterError, parse_filter
from pks.tui.health import Health, read_health
from pks.tui.rollup import Roll, roll_books
from pks.tui.screens import ColumnsScreen, DetailScreen, HealthScreen, HelpScreen
from pks.tui.settings import Settings, load_settings, save_settings
from pks.tui.strips import TapeView
from pks.tui.table import PositionsTable
from pks.tui.tree import BookTree, Node, roll_of, rolls_text

Words = NDArray[np.int64]

REDRAW_SECONDS = 0.1

SLOW_BEATS = 2
"""Beats between two looks of the status line and the tape, which nobody reads faster."""

SUMS_NS = NS_PER_SECOND
"""Between two roll-ups, and between two choices by figures that move: an order that changes ten times a second cannot be read."""

FILTER_KEYS = "enter takes it, escape clears it"

MAIN_ACTIONS = {"filter", "sort_next", "sort_turn", "columns", "flat", "tape", "health", "clear_filter"}
"""Keys that say nothing while another screen is on top."""


class Blotter(App[None]):
    """Book tree, positions, tape."""

    TITLE = "PKS"
    ENABLE_COMMAND_PALETTE = False

    CSS = """
    #status { height: 1; background: $panel; padding: 0 1; }
    #banner { height: auto; background: $error; color: $text; text-style: bold; padding: 0 1; display: none; }
    #banner.shown { display: block; }
    #side { width: 31; }
    BookTree { height: 1fr; background: $surface; scrollbar-size: 1 1; padding: 0; }
    #rolls { height: auto; max-height: 12; background: $boost; padding: 0 1; }
    #work { width: 1fr; border-left: vkey $panel; }
    PositionsTable { height: 1fr; }
    TapeView { height: 9; border-top: hkey $panel; }
    TapeView.hidden { display: none; }
    #filter-line { height: 1; display: none; background: $boost; }
    #filter-line.shown { display: block; }
    #filter-line > Static { width: 3; color: $accent; text-style: bold; padding: 0 1; }
    #filter-line > Input { width: 50; height: 1; border: none; padding: 0; background: $boost; }
    #filter-line > #filter-error { width: 1fr; color: $text-muted; }
    #filter-line > #filter-error.wrong { color: $text-error; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("s", "sort_next", "Sort"),
        Binding("S", "sort_turn", "Turn", key_display="S"),
        Binding("c", "columns", "Columns"),
        Binding("f", "flat", "Flat"),
        Binding("t", "tape", "Tape"),
        Binding("h", "health", "Health"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("escape", "clear_filter", "Clear the filter", show=False),
    ]

    def __init__(self, feed: Feed, detail: Detail | None = None, settings_file: Path | None = None, *, redraw: bool = True) -> None:
        """redraw: False for one who calls `beat` himself."""
        super().__init__()
        self.feed, self._detail, self._settings_file, self._redraw = feed, detail, settings_file, redraw
        self.settings, self._settings_note = load_settings(settings_file)
        if self.settings.sort not in BY_KEY:
            self.settings = msgspec.structs.replace(self.settings, sort=Settings().sort)
        self.choice = Choice(flat=self.settings.flat, sort=self.settings.sort, descending=self.settings.descending)
        self._rolls: dict[int, Roll] = {}
        self._summed_ns = self._second = 0
        self._has_changes = self._must_choose = self._has_events = False
        self._beats = 0
        self._durable = 0
        self._system_state = ""

    def compose(self) -> ComposeResult:
        columns = chosen(self.settings.columns)
        yield Static(id="status")
        yield Static(id="banner")
        with Horizontal():
            with Vertical(id="side"):
                yield BookTree(id="tree")
                yield Static(id="rolls")
            with Vertical(id="work"):
                yield PositionsTable(columns, self._line_of, self.feed.clock.monotonic_ns, id="positions")
                yield TapeView(self.feed.clock.wall_ns, id="tape")
        with Horizontal(id="filter-line"):
            yield Static("/")
            yield Input(placeholder="text, qty>0, net<-1k, book=RU-EQ ...  ? explains", id="filter")
            yield Static(FILTER_KEYS, id="filter-error")
        yield Footer()

    def on_mount(self) -> None:
        self._table, self._tree, self._tape = self.query_one(PositionsTable), self.query_one(BookTree), self.query_one(TapeView)
        self._status, self._banner, self._sums = (self.query_one(f"#{name}", Static) for name in ("status", "banner", "rolls"))
        self._tape.set_class(not self.settings.tape, "hidden")
        self._table.focus()
        if self._settings_note:
            self.notify(self._settings_note, severity="warning")
        self._show_banner()
        self._show_status()
        if self._redraw:
            self.call_after_refresh(self._begin)  # the first screen is up before the first attempt, which may have to compile
        else:
            self.beat()

    def _begin(self) -> None:
        self.beat()
        self.set_interval(REDRAW_SECONDS, self.beat)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The keys of the main screen are its own."""
        return action not in MAIN_ACTIONS or len(self.screen_stack) == 1

    # the beat

    def beat(self) -> None:
        """Look once, and draw what is new."""
        feed, news = self.feed, self.feed.poll()
        if news.attached:
            self._table.forget()
            self._must_choose = True
            self._summed_ns = 0
        if news.state:
            self._show_banner()
            self._must_choose = True
        if feed.board is None:
            self._show_status()
            return
        if news.names and feed.names is not None:
            self._tree.show_books(feed.names.books())
            self._must_choose = True
        now_ns = feed.clock.monotonic_ns()
        if len(news.rows):
            self._has_changes = True
            self._table.rows_changed(news.rows)
            self._must_choose = self._must_choose or len(feed.board.rows) != self._known_count
        if self._must_choose:
            self._choose()
        if now_ns - self._summed_ns >= SUMS_NS or news.attached:
            self._summed_ns = now_ns
            self._second_passed()
        if feed.cursors.durable != self._durable:
            self._durable = feed.cursors.durable
            self._table.durable_moved(self._durable)
        self._table.cool_down()
        self._beats += 1
        self._has_events = self._has_events or news.tape_count > 0 or news.attached
        if news.attached or self._beats % SLOW_BEATS == 0:  # figures change at every beat, the lines around them less often
            if self._has_events:
                self._has_events = False
                self._tape.show_tape(feed.tape)
            self._show_status()
        elif news.state:
            self._show_status()

    def _second_passed(self) -> None:
        if self._has_changes or not self._rolls:
            assert self.feed.board is not None, "attached"
            self._rolls = roll_books(self.feed.board)
            self._tree.show_rolls(self._rolls)
            self._show_sums()
            if self.choice.moves():
                self._choose()
        elif any(term.column is not None and term.column.key == "age" for term in self.choice.filter.terms):
            self._choose()
        self._has_changes = False
        self._table.clock_moved()
        if self.feed.host is not None and self.feed.state == FeedState.LIVE:
            self._system_state = self._read_system_state()

    def _read_system_state(self) -> str:
        assert self.feed.host is not None, "attached"
        try:
            return SystemState(self.feed.host.system_state).name
        except StaleHost:
            return ""  # the next poll says so, with the reason

    def _choose(self) -> None:
        board = self.feed.board
        self._must_choose = False
        if board is not None:
            self._known_count = len(board.rows)
            rows = self.choice.rows(board, self._line_of, self.feed.clock.wall_ns())
            self._table.show_rows(rows, self.choice.sort, self.choice.descending)

    def _line_of(self, row: int) -> Line | None:
        return self.feed.line(row)

    # status, banner

    _known_count = 0

    def _show_status(self) -> None:
        feed, cursors, choice = self.feed, self.feed.cursors, self.choice
        text = Text.assemble(("PKS", "bold"), f" {feed.label}" if feed.label else "", "  ")
        if feed.state == FeedState.LIVE:
            text.append(self._system_state, "green" if self._system_state == SystemState.READY.name else "yellow")
        else:
            text.append(feed.state.name, "bold red")
        if feed.board is not None:
            for name, value in zip(("accepted", "durable", "applied"), cursors, strict=True):
                text.append(f"  {name} ", "dim").append(f"{value:,}")
            text.append("  positions ", "dim").append(f"{len(self._table.order):,} of {len(feed.board.rows):,}")
            text.append("  by ", "dim").append(f"{BY_KEY[choice.sort].title} {'▼' if choice.descending else '▲'}")
            if choice.filter.line:
                text.append("  filter ", "dim").append(choice.filter.line, "cyan")
            if not choice.flat:
                text.append("  flat hidden", "dim")
            if feed.tape is not None and feed.tape.skipped_count:
                text.append(f"  tape skipped {feed.tape.skipped_count:,}", "dim")
        if text != self._status_shown:
            self._status_shown = text
            self._status.update(text, layout=False)  # one line: no other widget moves

    _status_shown = _sums_shown = Text()

    def _show_banner(self) -> None:
        feed = self.feed
        self._banner.set_class(feed.state != FeedState.LIVE, "shown")
        if feed.state == FeedState.STALE:
            when = moment(feed.since_ns, feed.clock.wall_ns())
            said = f"THE SYSTEM IS GONE since {when} UTC: what is shown is its last state.  {feed.reason}.  Waiting for it."
            self._banner.update(Text(said))
        elif feed.state == FeedState.ABSENT:
            self._banner.update(Text(f"NOT ATTACHED: {feed.reason}.  Waiting for it; start it with pks run."))

    def _show_sums(self) -> None:
        node = self._tree.chosen
        if node.data is not None:
            text = rolls_text(node.data, roll_of(node.data, self._rolls))
            if text != self._sums_shown:
                moves = text.plain.count("\n") != self._sums_shown.plain.count("\n")
                self._sums_shown = text
                self._sums.update(text, layout=moves)

    # what is chosen

    def _change(self, **changes: object) -> None:
        """Take another choice, and show it."""
        self.choice = Choice(**({name: getattr(self.choice, name) for name in Choice.__slots__} | changes))
        self._choose()
        self._show_status()

    def _keep(self, **changes: object) -> None:
        """Keep settings for the next time."""
        self.settings = msgspec.structs.replace(self.settings, **changes)
        problem = save_settings(self._settings_file, self.settings)
        if problem:
            self.notify(problem, severity="warning")

    @on(Tree.NodeHighlighted)
    def _node_chosen(self, event: Tree.NodeHighlighted[Node]) -> None:
        node = event.node.data
        if node is not None:
            self._change(books=None if node.level == "all" else node.books)
            self._show_sums()

    @on(Tree.NodeSelected)
    def _node_entered(self) -> None:
        self._table.focus()

    @on(PositionsTable.HeaderClicked)
    def _header_clicked(self, event: PositionsTable.HeaderClicked) -> None:
        self._sort(event.key, not self.choice.descending if event.key == self.choice.sort else self.choice.descending)

    @on(PositionsTable.Opened)
    def _position_opened(self, event: PositionsTable.Opened) -> None:
        line = self._line_of(event.row)
        if line is not None:
            self.push_screen(DetailScreen(line.view, lambda: self._view_now(line.view), self._detail))

    def _view_now(self, view: PositionView) -> PositionView | None:
        """The position that `view` was, as it is now; the system may have been attached anew since."""
        board = self.feed.board
        if board is None:
            return None
        record = view.record
        rows = board.rows
        found = rows[
            (board.records["book_id"][rows] == record["book_id"]) & (board.records["instrument_id"][rows] == record["instrument_id"])
        ]
        return board.view(int(found[0])) if len(found) else None

    def action_sort_next(self) -> None:
        """Order by the next of the shown columns."""
        keys = [column.key for column in self._table.columns]
        at = keys.index(self.choice.sort) if self.choice.sort in keys else -1
        self._sort(keys[(at + 1) % len(keys)], self.choice.descending)

    def action_sort_turn(self) -> None:
        """The other way round."""
        self._sort(self.choice.sort, not self.choice.descending)

    def _sort(self, key: str, descending: bool) -> None:
        self._change(sort=key, descending=descending)
        self._keep(sort=key, descending=descending)

    def action_flat(self) -> None:
        """Positions without quantity: shown or not."""
        self._change(flat=not self.choice.flat)
        self._keep(flat=self.choice.flat)

    def action_tape(self) -> None:
        """The tape: shown or not."""
        self._tape.toggle_class("hidden")
        self._keep(tape=not self._tape.has_class("hidden"))

    # the filter line

    def action_filter(self) -> None:
        """Open the filter line."""
        self.query_one("#filter-line").add_class("shown")
        self.query_one("#filter", Input).focus()

    def action_clear_filter(self) -> None:
        """Without a filter."""
        self.query_one("#filter", Input).value = ""
        self._close_filter()
        self._change(filter=NO_FILTER)

    def _close_filter(self) -> None:
        self.query_one("#filter-line").remove_class("shown")
        self._table.focus()

    @on(Input.Changed, "#filter")
    def _filter_typed(self, event: Input.Changed) -> None:
        said = self.query_one("#filter-error", Static)
        said.remove_class("wrong")
        try:
            found = parse_filter(event.value)
        except FilterError as error:
            said.add_class("wrong")
            said.update(Text(str(error)))  # the last line that was understood stays in force
            return
        said.update(FILTER_KEYS)
        self._change(filter=found)

    @on(Input.Submitted, "#filter")
    def _filter_taken(self) -> None:
        self._close_filter()

    # other screens

    def action_columns(self) -> None:
        """The checklist of columns."""
        self.push_screen(ColumnsScreen(tuple(column.key for column in self._table.columns)), self._columns_taken)

    def _columns_taken(self, keys: tuple[str, ...] | None) -> None:
        if keys is None:
            return
        columns = chosen(keys)
        self._table.show_columns(columns)
        self._keep(columns=tuple(column.key for column in columns))

    def action_health(self) -> None:
        """The health screen."""
        self.push_screen(HealthScreen(self._read_health, lambda: self.feed.cursors))

    def _read_health(self) -> Health | str:
        feed = self.feed
        if feed.host is None or feed.state != FeedState.LIVE:
            return f"{feed.state.name}: {feed.reason}"
        try:
            return read_health(feed.host, feed.clock, feed.data_dir)
        except (StaleHost, SegmentMissing, SegmentNotReady, UnstableSlot) as error:
            return str(error)

    def action_help(self) -> None:
        """The help."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen())
