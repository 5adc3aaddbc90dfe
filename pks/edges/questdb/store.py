"""The port of the time series: what a row of `bo_positions` is, what a store can do, and what can go wrong with one.

Two stores implement it and pass one set of tests: QuestDB (`ilp`) and a stand-in on Postgres (`standin`) where QuestDB has no Java or no
jar. A row is a trade as it stands, under the key (ts_ns, trade_id); writing it again replaces it, so a replay changes nothing. Prices and
quantities stand twice: as whole numbers with their scale, which are exact, and as doubles, which are for charts and computed here alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

BAR_SECONDS = {"1s": 1, "10s": 10, "1m": 60, "5m": 300, "15m": 900, "1h": 3600, "4h": 14_400, "1d": 86_400}
"""Lengths of a bar by name; they begin at multiples of their length from 1970-01-01 UTC."""

BOOKED, AMENDED, CANCELLED, MOVED = "BOOKED", "AMENDED", "CANCELLED", "MOVED"
"""`status`: MOVED stays under the time that an amendment has taken from a trade, and no question finds it."""

BLOCK = "BLOCK"
"""`kind` of an unallocated block; the other kinds are those of events: TRADE, ALLOCATION, OPENING, TRANSFER."""

TRADES_MAX = 100_000
"""The most rows that one question answers; who wants more goes on behind the last."""


class TradeRow(NamedTuple):
    """One row of `bo_positions`: a trade as it stands at `last_sequence`."""

    ts_ns: int  # trade time; for what has none (some openings) the beginning of its date, UTC
    trade_id: str  # source/id/leg, the firm's own key; /discriminator behind it where the source's ids recur
    sequence: int  # event that booked it
    last_sequence: int  # event that made it what it is
    kind: str
    status: str
    book: str | None
    to_book: str | None  # receiver of a TRANSFER
    instrument: str
    account: str | None
    source: str | None
    side: str | None  # BUY, SELL; None for a TRANSFER
    qty_raw: int
    qty_scale: int
    price_raw: int | None  # None: a TRANSFER at cost
    price_scale: int

    @property
    def quantity(self) -> float:
        """For charts."""
        return float(self.qty_raw / 10**self.qty_scale)

    @property
    def price(self) -> float | None:
        """For charts."""
        return None if self.price_raw is None else float(self.price_raw / 10**self.price_scale)


class Bar(NamedTuple):
    """Prices and volume of one span, from doubles: exact as long as a figure has at most 15 digits."""

    start_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int
    price_scale: int  # digits that the prices have
    qty_scale: int


class Wanted(NamedTuple):
    """Which trades; None is any. Times are inclusive."""

    book: str | None = None  # also as the receiver of a transfer
    instrument: str | None = None
    first_ns: int | None = None
    last_ns: int | None = None
    after: tuple[int, str] | None = None  # (ts_ns, trade_id) of the last row of the page before
    limit: int = TRADES_MAX


class TimeSeriesStore(Protocol):
    """What both stores can do. Methods run in one event loop; any exception but RowsRefused means that the connection is lost."""

    name: str

    async def open(self) -> None:
        """Connect, and make the table if it is not there. Raises what the library raises."""

    async def cursor(self) -> int:
        """The last event whose row is certainly there with all before it; 0 for an empty table."""

    async def write(self, rows: Sequence[TradeRow], last: int) -> None:
        """Store rows, which reach up to event `last`, durably as the server does that; later ones of a key replace earlier ones.

        Raises RowsRefused when the server took none because of what is in them.
        """

    async def check(self) -> None:
        """Is the table still the one that was opened? Raises TableLost."""

    async def trades(self, wanted: Wanted) -> list[TradeRow]:
        """By (ts_ns, trade_id), cancelled ones among them."""

    async def bars(self, wanted: Wanted, length: str) -> list[Bar]:
        """Prices and volume of spans of `length` (a key of BAR_SECONDS), without cancelled trades; spans without a trade are left out."""

    async def latest(self, wanted: Wanted) -> list[TradeRow]:
        """The last trade of each (book, instrument), by (book, instrument); cancelled ones do not count."""

    async def count(self) -> int:
        """Rows, those under MOVED too."""

    async def ask_refill(self) -> None:
        """Ask, durably, that whoever writes empties the table and begins at the first event; his `check` raises TableLost then."""

    async def is_refill_asked(self) -> bool:
        """Whether that is still to be done."""

    async def empty_if_asked(self) -> bool:
        """Do it, by who writes or while nobody does; may be broken off and done again. Whether it was asked for."""

    async def close(self) -> None:
        """Let go of the connection, whatever its state."""
