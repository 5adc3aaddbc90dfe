"""What the host shows since the last look, once for all clients: changed positions and, as they become durable, booked trades.

Owns the cursors of one attachment to the host: over the updates rings, the events ring and the verdicts. A free reader; nothing here waits.
When the host goes away the feed is thrown away with it. Only the hub calls it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pks.bff.frames import Change, Told, Trade, trades_of, whole_groups
from pks.client.errors import UnknownName
from pks.client.host import Host
from pks.engine.positions.view import PositionTerms, PositionView
from pks.layouts.event import EVENT, EVENT_WORDS
from pks.segments.ring import LAPPED, ring_cursor, ring_read_free
from pks.segments.stream import StreamReader
from pks.topology import Host as Segments

ROWS_A_LOOK = 1_000
"""Positions taken at once, some 10 ms of work; the others wait, and are taken at their latest."""

EVENTS_A_LOOK = 512
TERMS_SECONDS = 1.0
"""How soon a change of reference data that changes no position is shown."""

VERDICTS_BACK = 4096
"""How far behind now the verdicts are read from the start on."""


class Positions:
    """Changed positions, and the words of all that were told."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.updates = host.updates()
        self.told = Told(host.positions.rows().tolist())
        self._terms: dict[int, PositionTerms] = {}
        self._names_change = host.names.change

    def look(self) -> list[Change]:
        """What changed since the last look. Raises StaleHost, UnstableSlot."""
        rows, records = self.updates.poll_records(ROWS_A_LOOK)
        return self._change(rows, records) if len(rows) else []

    def _change(self, rows: Any, records: Any) -> list[Change]:
        order = np.argsort(records["last_sequence"], kind="stable")
        chosen = rows[order].tolist()
        return self.told.change(chosen, self._views(chosen, records[order]))

    def _views(self, rows: list[int], records: Any) -> list[PositionView]:
        views = self.host.positions.views(records)
        self._terms.update(zip(rows, (view.terms for view in views), strict=True))
        return views

    def learn(self, rows: list[int]) -> None:
        """Read positions that nobody was told of yet. Raises StaleHost, UnstableSlot."""
        records = self.host.positions.snapshot(np.array(rows, np.int64))
        self.told.learn(rows, self._views(rows, records))

    def rename(self) -> list[Change]:
        """Positions whose reference data changed what they show, though no event of theirs did. Raises StaleHost, UnstableSlot."""
        names = self.host.names
        names.refresh()
        if names.change == self._names_change:
            return []
        self._names_change = names.change
        rows = [row for row, terms in self._terms.items() if names.terms(*self._ids_of(row)) != terms]
        return self._change(np.array(rows, np.int64), self.host.positions.snapshot(np.array(rows, np.int64))) if rows else []

    def _ids_of(self, row: int) -> tuple[int, int]:
        view = self._terms[row]
        return self.host.names.book_id(view.book), self.host.names.instrument_id(view.instrument)

    def rows_of(self, books: frozenset[str] | None) -> list[int]:
        """Rows of all positions of some books, or of all. Raises StaleHost."""
        positions, names = self.host.positions, self.host.names
        if books is None:
            return list(positions.rows().tolist())
        known = [book for book in books if _is_book(names, book)]
        return list(positions.rows(known).tolist()) if known else []


def _is_book(names: Any, book: str) -> bool:
    try:
        names.book_id(book)
    except UnknownName:
        return False  # granted, and not defined yet
    return True


class Trades:
    """Trades that every accumulator has judged and that are on disk, in their order, from now on."""

    def __init__(self, host: Host, segments: Segments) -> None:
        self._names, self._ring = host.names, segments.events
        self._judges = [self._ring.place(name) for name in ("journal", *(f"accumulator-{shard}" for shard in range(segments.shards)))]
        self.cursor = self._limit()
        self._room = np.empty((EVENTS_A_LOOK, EVENT_WORDS), np.int64)
        self._refused: dict[int, int] = {}
        self._verdicts: list[StreamReader] = []
        for shard in range(segments.shards):
            stream = segments.verdicts(shard)
            self._verdicts.append(stream.reader(max(-1, stream.ring.head - VERDICTS_BACK)))

    def _limit(self) -> int:
        """The last event that is on disk and that every accumulator has judged."""
        return min(int(ring_cursor(self._ring.control, place)) for place in self._judges)

    @property
    def has_new(self) -> bool:
        """Whether there are events to look at: a compiled look at each cursor."""
        return self._limit() > self.cursor

    def look(self) -> list[Trade] | None:
        """The next trades; None when events went by unread: then it goes on behind them."""
        limit = self._limit()
        if limit <= self.cursor:
            return []
        most = min(limit - self.cursor, EVENTS_A_LOOK)
        count = int(ring_read_free(self._ring.control, self._ring.records, self.cursor, self._room, most))
        if count == LAPPED:
            self.cursor = limit
            return None
        self._read_verdicts()
        records = self._room[:count].reshape(-1).view(EVENT)
        told = whole_groups(records)
        self.cursor += told
        return trades_of(records[:told], self._names, self._refused)

    def _read_verdicts(self) -> None:
        for reader in self._verdicts:
            while len(records := reader.read(VERDICTS_BACK)):
                self._refused.update(zip(records["sequence"].tolist(), records["code"].tolist(), strict=True))
        if len(self._refused) > 2 * VERDICTS_BACK:
            self._refused = {sequence: code for sequence, code in self._refused.items() if sequence > self.cursor}

    def close(self) -> None:
        """Let go of files."""
        for reader in self._verdicts:
            reader.close()


OpenSegments = Callable[[], Segments]
"""Gives the system's segments, with its paths; called after each attachment of a host."""
