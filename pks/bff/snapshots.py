"""All positions that a user sees as one body, out of bytes that are encoded once a version: what screens ask for again and again.

Owns the encoded words of each slot and the bodies made of them, each for as long as no event was applied. `rest_positions` answers with
them where nothing is filtered or sorted otherwise; Front does the same without the framework, which costs more than the rest together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np

from pks.bff.compress import compressed
from pks.client.host import Host

BODIES_MAX = 64
"""Bodies kept: one for each set of books that users see, flat positions in or out."""

ROWS_MAX = 10_000
"""More positions than this are had page by page."""

Books = frozenset[str] | None


class Body(NamedTuple):
    """One body with its encodings as they were asked for."""

    sequence: int  # every event up to it is in
    plain: bytes
    encoded: dict[bytes, bytes]

    def in_encoding(self, encoding: bytes) -> bytes:
        """Compressed once."""
        if encoding not in self.encoded:
            self.encoded[encoding] = compressed(self.plain, encoding) if encoding else self.plain
        return self.encoded[encoding]


class Snapshots:
    """Of one attachment to the host; made anew with it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._words: dict[int, bytes] = {}  # row -> encoded
        self._versions = np.zeros(0, np.int64)  # by row: the version that is encoded
        self._names_change = host.names.change
        self._orders: dict[Books, tuple[int, Any]] = {}  # -> (rows of the table, int64[n] in order)
        self._bodies: dict[tuple[Books, bool], Body] = {}

    def body(self, books: Books, with_flat: bool) -> Body | None:
        """`{"items": [...], "next": null}` by book and instrument; None where there are too many rows. Raises StaleHost, UnstableSlot."""
        sequence = self._host.applied_sequence
        known = self._bodies.get((books, with_flat))
        if known is not None and known.sequence == sequence:
            return known
        rows = self._ordered(books)
        if len(rows) > ROWS_MAX:
            return None
        records = self._host.positions.snapshot(rows)
        self._encode(rows, records)
        shown = rows if with_flat else rows[records["qty_raw"] != 0]
        words = self._words
        made = Body(sequence, b'{"items":[%b],"next":null}' % b",".join([words[row] for row in shown.tolist()]), {})
        if len(self._bodies) >= BODIES_MAX:
            self._bodies.clear()
        self._bodies[books, with_flat] = made
        return made

    def _ordered(self, books: Books) -> Any:
        count = len(self._host.positions)
        known = self._orders.get(books)
        if known is not None and known[0] == count:
            return known[1]
        names = self._host.positions.books
        rows = self._host.positions.rows(None if books is None else [book for book in sorted(books) if book in names])
        views = self._host.positions.views(self._host.positions.snapshot(rows))
        order = sorted(range(len(views)), key=lambda at: (views[at].book, views[at].instrument))
        if len(self._orders) >= BODIES_MAX:
            self._orders.clear()
        made = rows[np.array(order, np.int64)] if order else rows
        self._orders[books] = (count, made)
        return made

    def _encode(self, rows: Any, records: Any) -> None:
        """Encode the slots that changed."""
        self._host.names.refresh()
        if self._host.names.change != self._names_change:  # a change of reference data may change every word
            self._names_change = self._host.names.change
            self._versions[:] = 0
        if len(rows) and int(rows.max()) >= len(self._versions):
            grown = np.zeros(2 * int(rows.max()) + 64, np.int64)
            grown[: len(self._versions)] = self._versions
            self._versions = grown
        changed = np.flatnonzero(self._versions[rows] != records["version"])
        if len(changed):
            for row, view in zip(rows[changed].tolist(), self._host.positions.views(records[changed]), strict=True):
                self._words[row] = msgspec.json.encode(view.as_dict())
            self._versions[rows[changed]] = records["version"][changed]
