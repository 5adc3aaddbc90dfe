"""The tape at the foot of the screen: a virtual list of events, newest first, decoded as they are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from pks.tui.tape import TAPE_LINES, Tape, TapeLine

WIDTHS = (11, 14, 10, 4, 14, 16, 12, 16, 14, 40, 24)
"""Width of each part of a line."""

RIGHT = {"sequence", "quantity", "price"}
TITLES = TapeLine(
    "Sequence", "Trade time UTC", "Event", "Side", "Quantity", "Instrument", "Price", "Book", "Account", "Trade id", "Refused"
)
_LAYOUT = [(name, width, name in RIGHT) for name, width in zip(TapeLine._fields, WIDTHS, strict=True)]
_WIDTH = sum(WIDTHS) + len(WIDTHS) - 1

ROOM_STEP = 50
"""Lines by which the list's room grows."""


class TapeView(ScrollView, can_focus=True, inherit_bindings=False):
    """The last events, newest first."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"tape--header", "tape--buy", "tape--sell", "tape--other", "tape--refused"}

    DEFAULT_CSS = """
    TapeView {
        background: $surface;
        overflow-x: auto;
        overflow-y: scroll;
        scrollbar-size-vertical: 1;
        scrollbar-size-horizontal: 1;
        &> .tape--header { background: $panel; color: $foreground; text-style: bold; }
        &> .tape--buy { color: $text-success; }
        &> .tape--sell { color: $text-error; }
        &> .tape--other { color: $text-muted; }
        &> .tape--refused { color: $text-warning; text-style: strike; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(0,-1)", "Up", show=False),
        Binding("down,j", "move(0,1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "newest", "Newest", show=False),
        Binding("left", "move(-8,0)", "Left", show=False),
        Binding("right", "move(8,0)", "Right", show=False),
    ]

    def __init__(self, now_ns: Callable[[], int], *, id: str) -> None:
        """now_ns: wall clock."""
        super().__init__(id=id)
        self._now_ns = now_ns
        self._tape: Tape | None = None
        self._lines = -ROOM_STEP
        self._styles: dict[str, Style] = {}

    def show_tape(self, tape: Tape | None) -> None:
        """Draw what is in it now."""
        self._tape = tape
        lines = 0 if tape is None else len(tape.events)
        if lines < self._lines or lines >= min(TAPE_LINES, self._lines + ROOM_STEP):  # another size makes Textual lay out everything
            self._lines = lines
            self.virtual_size = Size(_WIDTH, lines + ROOM_STEP)
        self.refresh()

    def notify_style_update(self) -> None:
        self._styles.clear()
        super().notify_style_update()

    def _style(self, name: str) -> Style:
        if name not in self._styles:
            self._styles[name] = self.rich_style + self.get_component_rich_style(f"tape--{name}", partial=True)
        return self._styles[name]

    def render_line(self, y: int) -> Strip:
        """Line `y`: the header, or an event."""
        left, width = int(self.scroll_offset.x), self.size.width
        if y == 0:
            return _strip(TITLES, self._style("header")).crop_extend(left, left + width, self._style("header"))
        number = y - 1 + int(self.scroll_offset.y)
        if self._tape is None or number >= len(self._tape.events):
            return Strip.blank(width, self.rich_style)
        line = self._tape.line(number, self._now_ns())
        style = self._style("refused" if line.refused else {"BUY": "buy", "SELL": "sell"}.get(line.side, "other"))
        return _strip(line, style).crop_extend(left, left + width, self.rich_style)

    def action_move(self, x: int, y: int) -> None:
        self.scroll_relative(x=x or None, y=y or None, animate=False)

    def action_page(self, step: int) -> None:
        self.scroll_relative(y=step * max(1, self.size.height - 2), animate=False)

    def action_newest(self) -> None:
        self.scroll_to(y=0, animate=False)


def _strip(line: TapeLine, style: Style) -> Strip:
    parts = []
    for (_, width, right), text in zip(_LAYOUT, line, strict=True):
        cut = text if len(text) <= width else text[: width - 1] + "…"
        parts.append(cut.rjust(width) if right else cut.ljust(width))
    return Strip([Segment(" ".join(parts), style)])
