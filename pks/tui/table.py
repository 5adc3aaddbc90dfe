"""The positions table: a virtual table on Textual's Line API, which draws only the lines on the screen, from arrays.

Owns the cursor, the lines' texts while they are shown, and the flash of what has changed. A line's texts are made once a version of its
position; each second the cells that follow the clock. Knows no segment: it is handed rows, and asks `line_of` for a position's figures.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from pks.tui.columns import Column, Line, Value
from pks.tui.figures import sign

Words = NDArray[np.int64]
Cell = tuple[Value, str]

FLASH_NS = 700_000_000
"""How long a changed cell stands out."""

HELD_LINES_MAX = 512
"""Lines whose texts are kept; a screen shows some 40, and what scrolls away is made again."""

_NO_ROWS: Words = np.empty(0, np.int64)


@dataclass(slots=True)
class _Held:
    """The cells of one line, and which of them flash (sign of the change) until when."""

    version: int
    cells: list[Cell | None]  # by column; None: not on the screen yet
    flash: list[int]
    flash_until_ns: int


class PositionsTable(ScrollView, can_focus=True, inherit_bindings=False):
    """A header line and a line a position."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "positions--header",
        "positions--sorted",
        "positions--cursor",
        "positions--up",
        "positions--down",
        "positions--flash-up",
        "positions--flash-down",
        "positions--flat",
    }

    DEFAULT_CSS = """
    PositionsTable {
        background: $surface;
        overflow-x: auto;
        overflow-y: scroll;
        scrollbar-size-vertical: 1;
        scrollbar-size-horizontal: 1;
        &> .positions--header { background: $panel; color: $foreground; text-style: bold; }
        &> .positions--sorted { background: $panel; color: $accent; text-style: bold; }
        &> .positions--cursor { background: $primary-muted; }
        &:focus > .positions--cursor { background: $primary; color: $text; text-style: bold; }
        &> .positions--up { color: $text-success; }
        &> .positions--down { color: $text-error; }
        &> .positions--flash-up { background: $success-muted; color: $text-success; text-style: bold; }
        &> .positions--flash-down { background: $error-muted; color: $text-error; text-style: bold; }
        &> .positions--flat { color: $text-muted; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Lots & trades"),
        Binding("up,k", "cursor(-1)", "Up", show=False),
        Binding("down,j", "cursor(1)", "Down", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", show=False),
        Binding("home,g", "edge(-1)", "First", show=False),
        Binding("end,G", "edge(1)", "Last", show=False),
        Binding("left", "scroll_left", "Left", show=False),
        Binding("right", "scroll_right", "Right", show=False),
    ]

    class Opened(Message):
        """Enter or a double click on a position."""

        def __init__(self, row: int) -> None:
            super().__init__()
            self.row = row

    class HeaderClicked(Message):
        """A click on a column's title."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    def __init__(self, columns: tuple[Column, ...], line_of: Callable[[int], Line | None], now_ns: Callable[[], int], *, id: str) -> None:
        """line_of: the figures of a row, None while its names are not known. now_ns: CLOCK_MONOTONIC."""
        super().__init__(id=id)
        self._line_of, self._now_ns = line_of, now_ns
        self.columns = columns
        self.sort, self.descending = "", False
        self.order: Words = _NO_ROWS
        self.cursor = 0
        self._held: dict[int, _Held] = {}
        self._flashing: dict[int, int] = {}
        self._undurable: dict[int, int] = {}
        self._styles: dict[str, Style] = {}
        self._starts = [0]
        self.lines_drawn_count = 0

    def on_mount(self) -> None:
        self._measure()

    # what is shown

    def show_columns(self, columns: tuple[Column, ...]) -> None:
        """Other columns."""
        self.columns = columns
        self._held.clear()
        self._measure()
        self.refresh()

    def show_rows(self, order: Words, sort: str, descending: bool) -> None:
        """These rows (int64[n]) in this order; the cursor stays on its position where that is still shown."""
        at = self.row_at_cursor
        if len(order) == len(self.order) and (sort, descending) == (self.sort, self.descending) and (order == self.order).all():
            return
        resized = len(order) != len(self.order)
        self.order, self.sort, self.descending = order, sort, descending
        found = np.flatnonzero(order == at) if at is not None else _NO_ROWS
        kept = int(found[0]) if len(found) else min(self.cursor, max(0, len(order) - 1))
        held = self.cursor - int(self.scroll_offset.y)
        self.cursor = kept
        if resized:
            self._measure()
        if len(found) and 0 <= held < self._lines_visible:
            self.scroll_to(y=max(0, kept - held), animate=False, immediate=True)  # its line on the screen stays the same
        else:
            self._reveal()
        self.refresh()

    def forget(self) -> None:
        """All positions are others now: the system was attached anew."""
        self._held.clear()
        self._flashing.clear()
        self._undurable.clear()
        self.order, self.cursor = _NO_ROWS, 0
        self._measure()
        self.refresh()

    def rows_changed(self, rows: Words) -> None:
        """These rows (int64[n]) have new figures: draw those on the screen."""
        visible = self.visible_rows
        on_screen = np.isin(visible, rows)
        for line in np.flatnonzero(on_screen).tolist():
            self._refresh_line(line + 1)
        shown = set(visible[on_screen].tolist())
        for row in set(rows.tolist()) & self._held.keys() - shown:
            del self._held[row]  # seen again later, it is no news

    def cool_down(self) -> None:
        """End the flash of cells whose time is over."""
        if not self._flashing:
            return
        now_ns = self._now_ns()
        over = [row for row, until_ns in self._flashing.items() if until_ns <= now_ns]
        for row in over:
            del self._flashing[row]
        if over:
            self.rows_changed(np.array(over, np.int64))

    def clock_moved(self) -> None:
        """A second has passed: draw the lines whose cells follow the clock."""
        if any(column.timed for column in self.columns):
            for line in range(len(self.visible_rows)):
                self._refresh_line(line + 1)

    def durable_moved(self, durable: int) -> None:
        """More is on disk: draw the lines whose last event was not, when they were drawn last."""
        over = [row for row, sequence in self._undurable.items() if sequence <= durable]
        for row in over:
            del self._undurable[row]
        if over:
            visible = self.visible_rows
            for number in np.flatnonzero(np.isin(visible, np.array(over, np.int64))).tolist():
                self._refresh_line(number + 1)

    @property
    def visible_rows(self) -> Words:
        """Rows on the screen, from the top."""
        top = int(self.scroll_offset.y)
        return self.order[top : top + self._lines_visible]

    @property
    def row_at_cursor(self) -> int | None:
        """The row that the cursor is on."""
        return int(self.order[self.cursor]) if self.cursor < len(self.order) else None

    @property
    def _lines_visible(self) -> int:
        return max(0, self.scrollable_content_region.height - 1)

    def _measure(self) -> None:
        self._starts = list(itertools.accumulate((column.width + 1 for column in self.columns), initial=0))
        self.virtual_size = Size(self._starts[-1], len(self.order) + 1)

    def _refresh_line(self, y: int) -> None:
        self.refresh(Region(0, y, self.size.width, 1))

    # drawing

    def notify_style_update(self) -> None:
        self._styles.clear()
        super().notify_style_update()

    def _style(self, name: str) -> Style:
        if name not in self._styles:
            base = self.rich_style
            self._styles[name] = base + self.get_component_rich_style(f"positions--{name}", partial=True) if name else base
        return self._styles[name]

    def render_line(self, y: int) -> Strip:
        """Line `y` of the widget: the header, or a position."""
        left, width = int(self.scroll_offset.x), self.size.width
        self.lines_drawn_count += 1
        if y == 0:
            return self._header().crop_extend(left, left + width, self._style("header"))
        number = y - 1 + int(self.scroll_offset.y)
        if number >= len(self.order):
            return Strip.blank(width, self._style(""))
        row = int(self.order[number])
        at_cursor = number == self.cursor
        return Strip(self._segments(row, at_cursor)).crop_extend(left, left + width, self._style("cursor" if at_cursor else ""))

    def _header(self) -> Strip:
        segments = []
        for column in self.columns:
            title = column.title
            if column.key == self.sort:
                arrow = "▼" if self.descending else "▲"
                title = f"{title[: column.width - 1]}{arrow}"
            text = title.ljust(column.width) if column.left else title.rjust(column.width)
            segments.append(Segment(text[: column.width] + " ", self._style("sorted" if column.key == self.sort else "header")))
        return Strip(segments)

    def _segments(self, row: int, at_cursor: bool) -> list[Segment]:
        line = self._line_of(row)
        if line is None:
            return [Segment(f"row {row}: its book or instrument is not known yet", self._style("flat"))]
        window = self._window()
        held, now_ns = self._hold(row, line, window), self._now_ns()
        if line.view.last_sequence > line.durable:
            self._undurable[row] = line.view.last_sequence
        flashes = held.flash_until_ns > now_ns
        plain_style = self._style("cursor" if at_cursor else "flat" if line.view.is_flat else "")
        segments: list[Segment] = []
        run, run_style = " " * self._starts[window.start], plain_style  # neighbours of one style are one segment, which is what costs
        for number in window:
            column = self.columns[number]
            value, text = column.cell(line) if column.timed else held.cells[number] or self._late_cell(held, number, line)
            shown = text.ljust(column.width) if column.left else text.rjust(column.width)
            style = plain_style
            if flashes and held.flash[number]:
                style = self._style("flash-up" if held.flash[number] > 0 else "flash-down")
            elif column.signed and not at_cursor and (direction := sign(value)):
                style = self._style("up" if direction > 0 else "down")
            if style is not run_style:
                segments.append(Segment(run, run_style))
                run, run_style = "", style
            run += shown[: column.width] + " "
        segments.append(Segment(run, run_style))
        return segments

    def _late_cell(self, held: _Held, number: int, line: Line) -> Cell:
        """The cell of a column that has been scrolled into sight since its line was made."""
        cell = held.cells[number] = self.columns[number].cell(line)
        return cell

    def _window(self) -> range:
        """Numbers of the columns on the screen: figures of the others are not made."""
        left, right = int(self.scroll_offset.x), int(self.scroll_offset.x) + self.size.width
        inside = [number for number, start in enumerate(self._starts[:-1]) if start < right and self._starts[number + 1] > left]
        return range(inside[0], inside[-1] + 1) if inside else range(0)

    def _hold(self, row: int, line: Line, window: range) -> _Held:
        """The cells of a line, made anew when its position has another version; those that differ from before flash."""
        held = self._held.get(row)
        if held is not None and held.version == line.view.version:
            return held
        if len(self._held) >= HELD_LINES_MAX:
            visible = set(self.visible_rows.tolist())
            self._held = {row: kept for row, kept in self._held.items() if row in visible}
            self._undurable = {row: sequence for row, sequence in self._undurable.items() if row in visible}
        fresh = _Held(line.view.version, [None] * len(self.columns), [0] * len(self.columns), 0)
        for number in window:
            column = self.columns[number]
            if column.timed:
                continue
            cell = fresh.cells[number] = column.cell(line)
            before = None if held is None else held.cells[number]
            if before is not None and before[1] != cell[1]:
                fresh.flash[number] = _direction(before[0], cell[0])
        if held is not None:
            fresh.flash_until_ns = self._flashing[row] = self._now_ns() + FLASH_NS
        self._held[row] = fresh
        return fresh

    # keys and mouse

    def move_cursor(self, number: int) -> None:
        """The cursor on line `number`, or the nearest there is."""
        before, self.cursor = self.cursor, max(0, min(number, len(self.order) - 1))
        top = int(self.scroll_offset.y)
        self._reveal()
        if int(self.scroll_offset.y) == top:
            for line in (before, self.cursor):
                self._refresh_line(line - top + 1)

    def _reveal(self) -> None:
        top, lines = int(self.scroll_offset.y), self._lines_visible
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif lines and self.cursor >= top + lines:
            self.scroll_to(y=self.cursor - lines + 1, animate=False, immediate=True)

    def action_cursor(self, step: int) -> None:
        self.move_cursor(self.cursor + step)

    def action_page(self, step: int) -> None:
        self.move_cursor(self.cursor + step * max(1, self._lines_visible - 1))

    def action_edge(self, end: int) -> None:
        self.move_cursor(0 if end < 0 else len(self.order) - 1)

    def action_open(self) -> None:
        row = self.row_at_cursor
        if row is not None:
            self.post_message(self.Opened(row))

    def action_scroll_left(self) -> None:
        self.scroll_relative(x=-8, animate=False)

    def action_scroll_right(self) -> None:
        self.scroll_relative(x=8, animate=False)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None:
            return
        if offset.y == 0:
            column = self._column_at(offset.x + int(self.scroll_offset.x))
            if column is not None:
                self.post_message(self.HeaderClicked(column.key))
            return
        number = offset.y - 1 + int(self.scroll_offset.y)
        if number < len(self.order):
            self.move_cursor(number)
            if event.chain == 2:
                self.action_open()

    def _column_at(self, x: int) -> Column | None:
        number = bisect.bisect_right(self._starts, x) - 1
        return self.columns[number] if number < len(self.columns) else None


def _direction(before: Value, after: Value) -> int:
    """Sign of a change; 1 for texts and figures without a sign of their own."""
    if before is None or after is None or isinstance(before, str) or isinstance(after, str):
        return 1
    return -1 if after < before else 1
