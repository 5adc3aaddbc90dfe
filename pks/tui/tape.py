"""The trade tape: the last events of the order that a trader cares for, as raw records, decoded when they are drawn.

Owns the choice of kinds, the bounded memory of them, and the words of a line. Reads the events ring as a free reader, which holds nobody
back, the accumulators' verdicts, so that a line which the position refused does not look booked, and once, at the start, the journal's
tail, so that a fresh start of the system shows yesterday's last trades too. May not write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pks.base.errors import Code
from pks.base.units import to_decimal
from pks.layouts.codes import Flag, Kind, Side, Subject
from pks.layouts.event import EVENT, EVENT_WORDS
from pks.segments.journal_view import JournalView
from pks.segments.ring import LAPPED, Ring, ring_read_free
from pks.segments.stream import StreamReader
from pks.tui.figures import figure, moment
from pks.tui.names import Names

Records = NDArray[Any]

TAPE_LINES = 500
"""Events that the tape remembers; a screen shows some ten of them."""

READ_MAX = 1024
"""Events read at a look; of a busier time the tape shows the last ones and counts the others."""

JOURNAL_RECORDS_MAX = 16 * 1024
"""Records looked at from the journal's end: 4 MB, so that attaching never waits for a long file of reference data."""

HIDDEN = (Kind.REFDATA, Kind.PERIOD_LOCK, Kind.RULES, Kind.EPOCH, Kind.TICK, Kind.DETAIL)
SHOWN = tuple(kind for kind in Kind if kind not in HIDDEN)
_SHOWN = np.array([int(kind) for kind in SHOWN], np.uint8)


class TapeLine(NamedTuple):
    """One event in words."""

    sequence: str
    time: str
    kind: str
    side: str
    quantity: str
    instrument: str
    price: str
    book: str
    account: str
    trade_id: str
    refused: str = ""  # the code by which the position refused it


class Tape:
    """The last events of the ring, newest first."""

    def __init__(self, ring: Ring, names: Names, journal: JournalView | None = None, verdicts: Sequence[StreamReader] = ()) -> None:
        """verdicts: a reader a shard; without them no line is known to be refused."""
        self._ring, self._names, self._verdicts = ring, names, verdicts
        self._refused: dict[int, int] = {}
        self._room = np.empty((READ_MAX, EVENT_WORDS), np.int64)
        self.events: deque[Any] = deque(maxlen=TAPE_LINES)
        self.skipped_count = 0
        head = ring.head
        self._cursor = max(ring.oldest, head - READ_MAX, ring.start)
        if journal is not None:
            self._keep(_tail(journal, self._cursor))

    def poll(self) -> int:
        """Take the events that were published since the last call; how many lines are new or are seen to be refused."""
        return self._poll_events() + self._poll_verdicts()

    def _poll_verdicts(self) -> int:
        count = 0
        for reader in self._verdicts:
            records = reader.read(READ_MAX)
            count += len(records)
            self._refused.update(zip(records["sequence"].tolist(), records["code"].tolist(), strict=True))
        if len(self._refused) > 2 * READ_MAX and self.events:
            oldest = int(self.events[-1]["sequence"])
            self._refused = {sequence: code for sequence, code in self._refused.items() if sequence >= oldest}
        return count

    def _poll_events(self) -> int:
        head, before = self._ring.head, self._cursor
        self._cursor = max(before, head - READ_MAX)
        self.skipped_count += self._cursor - before
        count = int(ring_read_free(self._ring.control, self._ring.records, self._cursor, self._room, READ_MAX))
        if count == LAPPED:  # the writer came round while we copied: go on at its head
            self.skipped_count += head - self._cursor
            self._cursor = head
            return 0
        self._cursor += count
        return self._keep(self._room[:count].copy().reshape(-1).view(EVENT))

    def _keep(self, records: Records) -> int:
        chosen = records[np.isin(records["kind"], _SHOWN)]
        self.events.extendleft(chosen[-TAPE_LINES:])
        return min(len(chosen), TAPE_LINES)

    def line(self, number: int, now_ns: int) -> TapeLine:
        """Line `number`, 0 is the newest."""
        event = self.events[number]
        code = self._refused.get(int(event["sequence"]), 0)
        line = describe(event, self._names, now_ns)
        return line._replace(refused=Code(code).name) if code else line


def describe(event: Any, names: Names, now_ns: int) -> TapeLine:
    """An EVENT in words. now_ns: wall clock; a time of another day gets its date."""
    kind, flags = Kind(int(event["kind"])), int(event["flags"])
    ratio = kind == Kind.ACTION
    counted = kind in (Kind.TRADE, Kind.AMEND, Kind.OPENING, Kind.ALLOCATION, Kind.TRANSFER)
    priced = counted and (kind != Kind.TRANSFER or flags & Flag.HAS_PRICE)
    book = names.code(Subject.BOOK, int(event["book_id"]))
    if int(event["to_book_id"]):
        book += f" > {names.code(Subject.BOOK, int(event['to_book_id']))}"
    if kind == Kind.TRADE and flags & Flag.BLOCK:
        book = "(block)"
    quantity = figure(to_decimal(int(event["qty_raw"]), int(event["qty_scale"])), 16) if counted else ""
    price = figure(to_decimal(int(event["price_raw"]), int(event["price_scale"])), 14) if priced else ""
    if ratio:
        quantity, price = f"{int(event['qty_raw'])}:{int(event['price_raw'])}", ""
    if kind == Kind.FEE:
        currency = names.code(Subject.CURRENCY, int(event["fee_currency_id"]))
        quantity, price = figure(to_decimal(int(event["fee_raw"]), int(event["fee_scale"])), 16), currency
    side = Side(int(event["side"]))
    return TapeLine(
        sequence=f"{int(event['sequence']):,}",
        time=moment(int(event["trade_time_ns"]), now_ns),
        kind=kind.name,
        side="" if side == Side.NONE else side.name,
        quantity=quantity,
        instrument=names.code(Subject.INSTRUMENT, int(event["instrument_id"])),
        price=price,
        book=book,
        account=names.code(Subject.ACCOUNT, int(event["account_id"])),
        trade_id=bytes(event["trade_id"]).decode("utf-8", "replace"),
    )


def _tail(journal: JournalView, last: int) -> Records:
    """The journal's records up to event `last`, at most JOURNAL_RECORDS_MAX and only those that are written already, in order."""
    first, end = journal.extent
    last = min(last, end)
    first = max(first, last - JOURNAL_RECORDS_MAX + 1)
    if last < first:
        return np.empty(0, EVENT)
    records = journal.records[first : last + 1]
    written = records["sequence"] == np.arange(first, last + 1)
    tail: Records = records[written].copy()
    return tail
