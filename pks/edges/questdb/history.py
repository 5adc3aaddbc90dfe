"""Questions about trades of the past, for the gateway and the command line: trades between times, bars, the latest of each key.

Owns the words of an answer (decimals are texts, times RFC 3339) and the paging. Whoever asks need not know which store answers. Raises
HistoryUnavailable for a store that cannot be reached; it stops nobody else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import asyncpg

from pks.base.clock import format_time
from pks.base.config import Config
from pks.base.errors import Retryable
from pks.base.units import format_scaled
from pks.edges.questdb.choice import Choice, choose, store_of
from pks.edges.questdb.store import Bar, TimeSeriesStore, TradeRow, Wanted

PAGE_ROWS = 5_000

UNREACHABLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a store that is down raises."""


class HistoryUnavailable(Retryable):
    """There are no time series, or their server does not answer."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(f"no time series from {store}: {reason}")
        self.store, self.reason = store, reason


class History:
    """`async with History(config) as history`: one connection to the store that is used here."""

    def __init__(self, config: Config) -> None:
        """Raises HistoryUnavailable where there is no store."""
        self.choice: Choice = choose(config)
        if self.choice.place is None:
            raise HistoryUnavailable(self.choice.name, "it has never started, or is not wanted here (edges)")
        self._store: TimeSeriesStore = store_of(self.choice)

    async def __aenter__(self) -> History:
        """Raises HistoryUnavailable."""
        try:
            await self._store.open()
        except UNREACHABLE as error:
            await self._store.close()
            raise HistoryUnavailable(self.choice.name, _said(error)) from error
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._store.close()

    async def trades(self, wanted: Wanted) -> AsyncIterator[TradeRow]:
        """By (ts_ns, trade_id), cancelled ones among them; `wanted.limit` is over all pages. Raises HistoryUnavailable."""
        left = wanted.limit
        while left > 0:
            size = min(left, PAGE_ROWS)
            page = await self._asked(self._store.trades(wanted._replace(limit=size)))
            for row in page:
                yield row
            left -= len(page)
            if len(page) < size:
                return
            wanted = wanted._replace(after=(page[-1].ts_ns, page[-1].trade_id))

    async def bars(self, wanted: Wanted, length: str) -> list[Bar]:
        """Prices and volume of spans of `length`, a key of store.BAR_SECONDS; see `TimeSeriesStore.bars`. Raises HistoryUnavailable."""
        bars: list[Bar] = await self._asked(self._store.bars(wanted, length))
        return bars

    async def latest(self, wanted: Wanted) -> list[TradeRow]:
        """The last trade of each (book, instrument). Raises HistoryUnavailable."""
        rows: list[TradeRow] = await self._asked(self._store.latest(wanted))
        return rows

    async def _asked(self, question: Any) -> Any:
        try:
            return await question
        except UNREACHABLE as error:
            raise HistoryUnavailable(self.choice.name, _said(error)) from error


def trade_words(row: TradeRow) -> dict[str, Any]:
    """A trade as JSON has it."""
    return {
        "sequence": row.sequence,
        "trade_id": row.trade_id,
        "kind": row.kind,
        "status": row.status,
        "book": row.book,
        "to_book": row.to_book,
        "instrument": row.instrument,
        "account": row.account,
        "source": row.source,
        "side": row.side,
        "quantity": format_scaled(row.qty_raw, row.qty_scale),
        "price": None if row.price_raw is None else format_scaled(row.price_raw, row.price_scale),
        "trade_time": format_time(row.ts_ns),
        "last_sequence": row.last_sequence,
    }


def bar_words(bar: Bar) -> dict[str, Any]:
    """A bar as JSON has it: doubles rounded to the digits that prices and quantities have."""
    prices = {name: _plain(getattr(bar, name), bar.price_scale) for name in ("open", "high", "low", "close")}
    return {"time": format_time(bar.start_ns), **prices, "volume": _plain(bar.volume, bar.qty_scale), "trades": bar.trades}


def _plain(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
