"""The blotter's other screens: one position's lots and trades, health, columns, help.

Owns their widgets. What they show comes from `detail`, `health` and the list of columns; may not read segments.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import DataTable, Footer, SelectionList, Static
from textual.widgets.selection_list import Selection

from pks.base.errors import PksError
from pks.engine.positions.view import PositionView, plain, total
from pks.tui.columns import COLUMNS
from pks.tui.detail import Detail, LotLine, TradeLine
from pks.tui.figures import NOTHING, figure, sign
from pks.tui.health import PERCENTILES, Health

LINES_MAX = 500
"""Lots and trades shown of a position: the widget keeps every cell as an object; the counts are of all."""


class DetailScreen(Screen[None]):
    """Lots of a position, and the trades behind them."""

    CSS = """
    DetailScreen #facts { height: auto; padding: 0 1; background: $panel; }
    DetailScreen .title { height: 1; padding: 0 1; background: $boost; text-style: bold; }
    DetailScreen DataTable { height: 1fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "app.pop_screen", "Back"),
        Binding("r", "reload", "Read again"),
        Binding("tab", "app.focus_next", "Lots/trades"),
        Binding("question_mark", "app.help", "Help"),
    ]

    def __init__(self, view: PositionView, now: Callable[[], PositionView | None], detail: Detail | None) -> None:
        """view: as it was opened; now: the position as it is, None when the system is gone."""
        super().__init__()
        self.view, self._now, self._detail = view, now, detail
        self._read_version = view.version

    def compose(self) -> ComposeResult:
        yield Static(id="facts")
        yield Static("Open lots", id="lots-title", classes="title")
        yield DataTable(id="lots", cursor_type="row", zebra_stripes=True)
        yield Static("Trades", id="trades-title", classes="title")
        yield DataTable(id="trades", cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#lots", DataTable).add_columns("Lot", "Date", *_right("Quantity", "Price", "Cost", "Sequence"))
        figures = _right("Quantity", "Price", "Fees")
        self.query_one("#trades", DataTable).add_columns(
            *_right("Sequence"), "Trade time UTC", "Event", "Side", *figures, "Account", "Trade id", "State"
        )
        self.show_facts()
        self.action_reload()
        self.set_interval(0.5, self.show_facts)

    def show_facts(self) -> None:
        """The figures of the position in full, as they are now."""
        self.view = self._now() or self.view
        self.query_one("#facts", Static).update(_facts_text(self.view, self.view.version != self._read_version))

    def action_reload(self) -> None:
        """Read lots and trades again."""
        if self._detail is None:
            self._say("lots", "Open lots: no journal to read them from (the data directory is not known)")
            self._say("trades", "Trades: no journal to read them from (the data directory is not known)")
            return
        self._say("lots", "Open lots: reading ...")
        self._say("trades", "Trades: reading ...")
        self._read(self._detail, self.view.book, self.view.instrument, self.view.version)

    @work(thread=True, exclusive=True)
    def _read(self, detail: Detail, book: str, instrument: str, version: int) -> None:
        for name, ask, show in (("lots", detail.lots, self._show_lots), ("trades", detail.trades, self._show_trades)):
            try:
                lines = list(ask(book, instrument))
            except PksError as error:
                self.app.call_from_thread(self._say, name, f"{name}: {error}")
            else:
                self.app.call_from_thread(show, lines)
        self.app.call_from_thread(self._was_read, version)

    def _was_read(self, version: int) -> None:
        self._read_version = version
        self.show_facts()

    def _say(self, name: str, text: str) -> None:
        self.query_one(f"#{name}-title", Static).update(Text(text))

    def _show_lots(self, lots: list[LotLine]) -> None:
        table = self.query_one("#lots", DataTable)
        table.clear()
        for lot in lots[:LINES_MAX]:
            price = NOTHING if lot.price is None else figure(lot.price, 24)
            table.add_row(
                lot.lot_id, lot.date, _signed(lot.quantity), _to_right(price), _to_right(figure(lot.cost, 30, 2)),
                _to_right(f"{lot.sequence:,}"),
            )  # fmt: skip
        summed = f", {figure(total([lot.quantity for lot in lots]), 30)} in all" if lots else ""
        self._say("lots", f"Open lots: {_counted(len(lots))}{summed}")

    def _show_trades(self, trades: list[TradeLine]) -> None:
        table = self.query_one("#trades", DataTable)
        table.clear()
        for trade in trades[:LINES_MAX]:
            quantity, price = ("" if value is None else figure(value, 24) for value in (trade.quantity, trade.price))
            table.add_row(
                _to_right(f"{trade.sequence:,}"), trade.time, trade.kind, _sided(trade.side), _to_right(quantity), _to_right(price),
                _to_right(trade.fees), trade.account, trade.trade_id, trade.state,
            )  # fmt: skip
        self._say("trades", f"Trades behind it: {_counted(len(trades))}, the last one first")


class HealthScreen(Screen[None]):
    """Workers, rings, latencies and counters, once a second."""

    CSS = "HealthScreen Static { padding: 0 1; }"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,h,q", "app.pop_screen", "Back"),
        Binding("question_mark", "app.help", "Help"),
        Binding("up,k", "scroll(-1)", "Up", show=False),
        Binding("down,j", "scroll(1)", "Down", show=False),
    ]

    def __init__(self, read: Callable[[], Health | str], cursors: Callable[[], tuple[int, int, int]]) -> None:
        """read: the health now, or why there is none."""
        super().__init__()
        self._read, self._cursors = read, cursors

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(id="system")
            yield Static(id="alerts")
            yield Static(id="workers")
            yield Static(id="rings")
            yield Static(id="latencies")
            yield Static(id="counters")
        yield Footer()

    def on_mount(self) -> None:
        self.show()
        self.set_interval(1.0, self.show)

    def show(self) -> None:
        """Look again."""
        health = self._read()
        if isinstance(health, str):
            self.query_one("#system", Static).update(Text(health, "bold red"))
            return
        accepted, durable, applied = self._cursors()
        self.query_one("#system", Static).update(
            Text.assemble(
                ("System ", "bold"), health.state, "   ", ("accepted ", "dim"), f"{accepted:,}", "   ", ("durable ", "dim"), f"{durable:,}",
                "   ", ("applied ", "dim"), f"{applied:,}", "   ", ("edges ", "dim"), health.edges,
            )
        )  # fmt: skip
        alerts = self.query_one("#alerts", Static)
        alerts.display = bool(health.alerts)
        alerts.update(alerts_table(health))
        self.query_one("#workers", Static).update(workers_table(health))
        self.query_one("#rings", Static).update(rings_table(health))
        self.query_one("#latencies", Static).update(latencies_table(health))
        self.query_one("#counters", Static).update(counters_table(health))

    def action_scroll(self, step: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=step, animate=False)


class Checklist(SelectionList[str], inherit_bindings=False):
    """A selection list that leaves Enter to its screen, and chooses at once: neither key overtakes the other, however fast they come."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "cursor_up", "Up", show=False),
        Binding("down,j", "cursor_down", "Down", show=False),
        Binding("home,g", "first", "First", show=False),
        Binding("end,G", "last", "Last", show=False),
        Binding("pageup", "page_up", "Page up", show=False),
        Binding("pagedown", "page_down", "Page down", show=False),
        Binding("space", "choose", "Choose", show=False),
    ]

    def action_choose(self) -> None:
        """Turn the choice under the cursor; the list's own way is a message to itself, which Enter would overtake."""
        if self.highlighted is not None:
            self.toggle(self.get_option_at_index(self.highlighted))


class ColumnsScreen(ModalScreen[tuple[str, ...] | None]):
    """A checklist of columns; the answer is the chosen keys, None to leave things as they are."""

    CSS = """
    ColumnsScreen { align: center middle; }
    ColumnsScreen > Vertical { width: 104; height: 80%; border: round $primary; background: $surface; padding: 0 1; }
    ColumnsScreen Checklist { height: 1fr; border: none; background: $surface; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "Leave as it was"),
        Binding("enter,c", "take", "Take"),
        Binding("d", "defaults", "Defaults"),
    ]

    def __init__(self, keys: tuple[str, ...]) -> None:
        super().__init__()
        self._keys = keys

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text.assemble(("Columns   ", "bold"), ("space chooses, enter takes, d the defaults, escape leaves", "dim")))
            yield Checklist(
                *(
                    Selection(Text.assemble(f"{column.title:<16}", (column.meaning, "dim")), column.key, column.key in self._keys)
                    for column in COLUMNS
                )
            )

    def action_leave(self) -> None:
        self.dismiss(None)

    def action_take(self) -> None:
        chosen = self.query_one(Checklist).selected
        self.dismiss(tuple(column.key for column in COLUMNS if column.key in chosen))

    def action_defaults(self) -> None:
        choices = self.query_one(Checklist)
        for column in COLUMNS:
            (choices.select if column.default else choices.deselect)(column.key)


class HelpScreen(ModalScreen[None]):
    """Keys, the filter's language, the marks."""

    CSS = """
    HelpScreen { align: center middle; }
    HelpScreen > VerticalScroll { width: 112; height: 85%; border: round $primary; background: $surface; padding: 0 2; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,q,enter", "dismiss", "Back")]

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(help_text())


KEYS = (
    ("↑ ↓ PgUp PgDn Home End", "move; j and k too"),
    ("← →", "scroll the columns; in the tree, close and open"),
    ("Tab  Shift+Tab", "from tree to positions to tape"),
    ("Enter", "lots of the position and the trades behind them"),
    ("/", "filter; Escape clears it"),
    ("s  S", "order by the next column; the other way round (or click a title)"),
    ("c", "choose columns; kept for the next time"),
    ("f", "flat positions on or off"),
    ("t", "trade tape on or off"),
    ("h", "health: workers, rings, lags, latencies, restarts"),
    ("?  q", "this help; quit"),
)

FILTERS = (
    ("sber", "book, instrument or symbol contains it"),
    ("!ofz", "none of them does"),
    ("qty>0 net<=-1k", "figures compared, k thousand and m million; all must hold"),
    ("book=RU-EQ ccy!=RUB book~eq", "texts: equal, other, contains"),
    ("lots>=3 age<60 seq>1000", "lots, seconds since the last event, sequence"),
)

MARKS = (
    ("*", "the last event is applied but not on disk yet: a power cut could still take it back"),
    ("?", "the fee of a trade is not known yet: fees and net lack it"),
    ("F", "an event was booked although the book's policy would now refuse it"),
    ("I", "inverse contract: cost and P&L are in its base currency"),
    ("~", "before a figure: the column is too narrow to show it whole; Enter shows it"),
)


def help_text() -> Text:
    """The help in full."""
    text = Text()
    for title, lines in (("Keys", KEYS), ("Filter", FILTERS), ("Marks", MARKS)):
        text.append(f"\n{title}\n", "bold")
        for key, meaning in lines:
            text.append(f"  {key:<30}", "cyan")
            text.append(f"{meaning}\n")
    text.append("\nThe tree's node under the cursor chooses whose positions are shown.\n", "dim")
    return text


def workers_table(health: Health) -> Table:
    """Workers as the supervisor and they themselves describe them."""
    figures = ("Pid>", "Core>", "Restarts>", "Heartbeat>", "In state>", "Cursor>", "Lag>", "Work>")
    table = _table("Workers", "Worker", "State", *figures, "Last error")
    for line in health.workers:
        table.add_row(
            line.name, Text(line.state, "green" if line.is_well else "bold red"), line.pid, line.core,
            Text(str(line.restarts), "yellow" if line.restarts else ""), line.age, line.since, f"{line.cursor:,}", f"{line.lag:,}",
            f"{line.work:,}", Text(line.last_error, "red"),
        )  # fmt: skip
    return table


def rings_table(health: Health) -> Table:
    """Rings with their fill, and each reader's lag."""
    table = _table("Rings", "Ring", "Reader", "Gates", "Capacity>", "Published>", "Cursor>", "Lag>", "Fill>")
    for line in health.rings:
        if line.reader:
            table.add_row("", line.reader, "yes" if line.gates else "no", "", "", _cursor(line.cursor), _cursor(line.lag), "")
        else:
            style = "bold red" if line.fill_percent >= 90 else "yellow" if line.fill_percent >= 50 else ""
            fill = Text(f"{line.fill_percent:.1f}%", style)
            table.add_row(line.ring, "", "", f"{line.capacity:,}", f"{line.published:,}", "", f"{line.lag:,}", fill)
    return table


def _cursor(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def latencies_table(health: Health) -> Table:
    """Histograms: percentiles, each at most one sixteenth too high."""
    table = _table("Latencies", "Worker", "What", "Count>", *(f"p{percent:g}>" for percent in PERCENTILES), "Mean>", "Max>")
    for line in health.latencies:
        table.add_row(line.worker, line.name, f"{line.values_count:,}", *line.percentiles, line.mean, line.largest)
    return table


def alerts_table(health: Health) -> Table:
    """The latest alerts."""
    table = _table("Alerts", "Since", "Severity", "What", "Count>", "Text", "Sent")
    for line in health.alerts:
        style = {"CRITICAL": "bold red", "WARNING": "yellow"}.get(line.severity, "")
        table.add_row(line.time, Text(line.severity, style), line.alert_class, f"{line.events:,}", line.text, line.state)
    return table


def counters_table(health: Health) -> Table:
    """Counters and gauges."""
    table = _table("Counters", "Worker", "What", "Kind", "Value>")
    for line in health.counters:
        table.add_row(line.worker, line.name, line.kind, f"{line.value:,}")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title, "bold"), title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(name.removesuffix(">"), justify="right" if name.endswith(">") else "left", no_wrap=True)
    return table


def _facts_text(view: PositionView, is_newer: bool) -> Text:
    facts = view.as_dict()
    text = Text.assemble((f"{view.book}  {view.instrument}", "bold"), f"   event {view.last_sequence:,}")
    if is_newer:
        text.append("   changed since lots and trades were read: r reads again", "yellow")
    text.append("\n")
    for name, title in (("quantity", "quantity"), ("average_price", "average price"), ("cost", "cost")):
        text.append(f"{title} ", "dim").append(f"{NOTHING if facts[name] is None else facts[name]}   ")
    text.append(f"{view.currency}\n")
    for title, value in (("realised gross", view.realised_gross), ("net", view.realised_net)):
        text.append(f"{title} ", "dim").append(f"{plain(value)}   ", _style_of(sign(value)))
    fees = " ".join(f"{code} {amount}" for code, amount in facts["fees"].items()) or NOTHING
    text.append("fees ", "dim").append(f"{fees}   ")
    text.append("lots ", "dim").append(f"{view.open_lots:,}   ")
    text.append("trades ", "dim").append(f"{view.trades_count:,}   ")
    text.append("last trade ", "dim").append(facts["last_trade_time"] or NOTHING)
    return text


def _counted(count: int) -> str:
    return f"{count:,}" if count <= LINES_MAX else f"{LINES_MAX} of {count:,}"


def _right(*titles: str) -> list[Text]:
    return [Text(title, justify="right") for title in titles]


def _to_right(text: str) -> Text:
    return Text(text, justify="right")


def _signed(value: Decimal) -> Text:
    return Text(figure(value, 24), _style_of(sign(value)), justify="right")


def _sided(side: str) -> Text:
    return Text(side, {"BUY": "green", "SELL": "red"}.get(side, ""))


def _style_of(direction: int) -> str:
    return "green" if direction > 0 else "red" if direction < 0 else ""
