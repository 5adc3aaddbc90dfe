"""Booking a whole file through an intake ring: rows in, an outcome a row, in bounded memory at any size.

Plain trades of a large CSV go as columns, never as text; every other row goes through the border one by one, in its place in the order.
What is outstanding is bounded by the ring: a full one is waited for. Owns no file format (`edges.files`) and no rule (`client.border`).
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pks.base.clock import format_date, format_time
from pks.base.errors import CODES, Code, Refused
from pks.base.ids import key_of
from pks.base.limits import INTAKE_CAPACITY
from pks.base.units import format_scaled
from pks.client.producer import NO_ROOM, NoAnswer, Producer, read_catalogue
from pks.client.records import RECORDS_A_ROW_MAX, Translations, Translator, make_records, mark_rows, new_room
from pks.edges.files.scan import Name
from pks.engine.booking.border import DEFAULT_SOURCE, Border, joined
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.events import definition_event
from pks.layouts.codes import Flag, Kind
from pks.layouts.event import FIELD_NAME, FIELD_WORDS

WINDOW = 1 << 19
"""Plain trades that may be outstanding: more than ring, batches and owed answers hold together."""

ANSWER_SECONDS = 120.0
SEND_ROWS = 1024
"""Rows sent at once; their records are at most half of an intake ring, so that capture works on one half while the other is filled."""

assert 2 * RECORDS_A_ROW_MAX * SEND_ROWS <= INTAKE_CAPACITY, "two sends fit the ring"
NAP_SECONDS = 0.0005
"""Between two looks at rings that cannot go on: a tenth of what a full ring takes the system, or less."""

CORRECTIONS = (Kind.AMEND, Kind.CANCEL, Kind.FEE)

VERDICT_FIELDS = {
    Code.OVERSELL: "quantity",
    Code.UNKNOWN_LOT: "lot_id",
    Code.LOT_EXCEEDED: "lot_id",
    Code.LOT_REQUIRED: "lot_id",
}
"""What a position refuses: its verdict names no field."""


class Outcome(NamedTuple):
    """What became of one row, in the words of `pks book --json`."""

    line: int
    trade_id: str
    status: str  # ACCEPTED, DUPLICATE, REFUSED
    sequence: int
    code: str
    field: str
    value: str
    reason: str


def refused_outcome(line: int, trade_id: str, error: Refused) -> Outcome:
    """The outcome of a row that the border refused."""
    return Outcome(line, trade_id, "REFUSED", 0, error.code.name, error.field, str(error.value), error.reason)


class Waiting(NamedTuple):
    """A row sent one by one."""

    line: int
    trade_id: str
    row: Any


class Sent(NamedTuple):
    """Plain trades that were sent at once, kept until all are answered."""

    ticket: int  # of the first record
    records: Any  # EVENT[n] with their DETAIL records
    places: Any  # int64[trades]: where the trades are among them


class FileBooker:
    """Sends rows and matches answers to them. `outcomes` is called with what came back."""

    def __init__(self, producer: Producer, catalogue: Catalogue, *, accepted: bool, say: Callable[[list[Outcome]], None]) -> None:
        """accepted: whether every accepted row is said too, or only counted."""
        self.producer, self.catalogue, self.accepted, self.say = producer, catalogue, accepted, say
        self.border, self.translator = Border(catalogue), Translator(catalogue)
        self.counts = {"ACCEPTED": 0, "DUPLICATE": 0, "REFUSED": 0}
        self.lines = np.zeros(WINDOW, np.int64)
        self.ids = np.zeros(WINDOW, "S40")
        self.plain_out = 0  # plain trades sent and not answered
        self.waiting: dict[int, list[Waiting]] = {}  # by ticket: the rows of one group
        self.groups: dict[int, Any] = {}  # by ticket: the records of those
        self.sent: deque[Sent] = deque()
        self.open = np.zeros(WINDOW, np.bool_)  # plain trades, by ticket, that are not answered
        self.last_answer = time.monotonic()
        self.life, self.named = os.urandom(8).hex(), 0

    # rows one by one

    def rows(self, rows: Iterable[Any]) -> None:
        """Book rows in order (TradeRow, or RowError for what could not be read). Children of one block go as one group."""
        block: list[Any] = []
        for row in rows:
            if block and not (getattr(row, "parent_id", "") and row.parent_id == block[0].parent_id):
                self._send_block(block)
                block = []
            if hasattr(row, "code"):
                self._say(Outcome(row.line, row.trade_id, "REFUSED", 0, row.code.name, row.field, row.value, row.reason))
            elif row.parent_id:
                block.append(row)
            else:
                self._send_rows([row], self._group_of(row))
        if block:
            self._send_block(block)

    def _group_of(self, row: Any) -> Any | None:
        try:
            self._know_source(self.border.source_of(row))
            return self.border.group_of(row)
        except Refused as error:
            self._say(refused_outcome(row.line, row.trade_id or row.lot_id, error))
            return None

    def _send_block(self, rows: list[Any]) -> None:
        made = [self._group_of(row) for row in rows]
        groups = [group for group in made if group is not None]
        if len(groups) < len(rows):
            for row, one in zip(rows, made, strict=True):
                if one is not None:
                    error = Refused(Code.GROUP_REFUSED, "parent_id", row.parent_id, "another child of this block was refused")
                    self._say(refused_outcome(row.line, row.trade_id, error))
            return
        self._send_rows(rows, joined(groups))

    def _know_source(self, code: str) -> None:
        """Define a source that is named for the first time."""
        for definition in self.producer.define_sources(self.catalogue, [code]):
            self.settle()
            self.producer.book([definition_event(definition)])
            self.reload()

    def reload(self) -> None:
        """Read reference data again."""
        self.catalogue = read_catalogue(self.producer.host, self.producer.data_dir)
        self.border, self.translator = Border(self.catalogue), Translator(self.catalogue)

    def _send_rows(self, rows: list[Any], group: Any | None) -> None:
        if group is None:
            return
        self._name_correction(group[0])
        ticket = self._send(group)
        self.waiting[ticket] = [Waiting(row.line, row.trade_id or row.lot_id, row) for row in rows]
        self.groups[ticket] = group
        self._take()

    def _name_correction(self, e: Any) -> None:
        """A correction without a key of its own gets one for this life, so that it may be sent twice if an answer is lost."""
        if e["kind"] in CORRECTIONS and not (e["second_key_hi"] or e["second_key_lo"]):
            self.named += 1
            hi, lo = key_of("SENT", f"{self.life}/{self.named}", 0)
            e["second_key_hi"], e["second_key_lo"] = hi & (2**64 - 1), lo & (2**64 - 1)

    def _send(self, records: Any) -> int:
        while (ticket := self.producer.send(records)) == NO_ROOM:
            self._take()
            self._breathe()
        return ticket

    # columns

    def columns(self, reader: Any) -> Iterator[int]:
        """Book a ColumnReader's batches; yields bytes read, for a progress bar."""
        for batch in reader:
            self._batch(reader, batch)
            self._take()
            yield reader.bytes_read

    def _batch(self, reader: Any, batch: Any) -> None:
        """Send one batch: runs of plain rows as arrays, the others by the border, in the order of the file."""
        known = self._translate(reader)
        batch.scale(known.price_scales, known.qty_scales)
        mark_rows(batch.arrays, known)
        marked = batch.slow != 0
        edges = (np.flatnonzero(marked[1:] != marked[:-1]) + 1).tolist()
        for first, last in zip([0, *edges], [*edges, batch.count], strict=True):
            if marked[first]:
                self.rows(batch.row(i) for i in range(first, last))
                continue
            for start in range(first, last, SEND_ROWS):
                self._send_plain(batch, known, start, min(last, start + SEND_ROWS))

    def _send_plain(self, batch: Any, known: Translations, first: int, last: int) -> None:
        room = new_room(last - first)
        count = make_records(batch.arrays, batch.qty_raw, batch.price_raw, known, first, last, room)
        while self.plain_out + last - first > WINDOW // 2:
            self._take()
            self._breathe()
        self._send_kept(room.events[:count], room.places, batch.line[first:last], batch.trade_id[first:last])
        self._take()

    def _translate(self, reader: Any) -> Translations:
        """The tables for every name that the reader has met; sources among them that are new become known."""
        for text in (DEFAULT_SOURCE, *reader.names(Name.SOURCE)[self.translator.sources_count :]):
            self._know_source(text)
        return self.translator.tables(reader)

    def _send_kept(self, sent: Any, places: Any, lines: Any, ids: Any) -> None:
        """Send plain trades (at `places` among the records `sent`) and remember them until they are answered."""
        ticket = self._send(sent)
        at = (ticket + places) & (WINDOW - 1)
        self.lines[at], self.ids[at], self.open[at] = lines, ids, True
        self.plain_out += len(places)
        self.sent.append(Sent(ticket, sent, places))

    # answers

    def settle(self, seconds: float = ANSWER_SECONDS) -> None:
        """Wait until everything that was sent is answered. Raises NoAnswer."""
        while self.plain_out or self.waiting:
            if not self._take():
                self._breathe(seconds)

    def _breathe(self, seconds: float = ANSWER_SECONDS) -> None:
        self.producer.check_live()
        if time.monotonic() - self.last_answer > seconds and (self.plain_out or self.waiting):
            raise NoAnswer(self.plain_out + len(self.waiting), seconds)
        time.sleep(NAP_SECONDS)

    def _take(self) -> int:
        """Match what has come back to its rows; send again what a dead capture took and did not answer."""
        lost = self.producer.lost_upto()
        replies = self.producer.answers()
        taken = self._match(replies)
        if lost >= 0:
            self._send_again(lost)
        return taken

    def _send_again(self, lost: int) -> None:
        """Send what is missing of the tickets up to `lost`; under its first ticket it is forgotten."""
        tickets = [ticket for ticket in self.waiting if ticket <= lost]
        groups = [(self.waiting.pop(ticket), self.groups.pop(ticket)) for ticket in tickets]
        batches = [self._missing(batch) for batch in self.sent if batch.ticket <= lost]
        self.sent = deque(batch for batch in self.sent if batch.ticket > lost)
        for rows, group in groups:
            ticket = self._send(group)
            self.waiting[ticket], self.groups[ticket] = rows, group
        for sent, places, lines, ids in batches:
            if len(places):
                self._send_kept(sent, places, lines, ids)

    def _missing(self, batch: Sent) -> tuple[Any, Any, Any, Any]:
        """What `_send_kept` wants of the trades of a batch that are not answered; they count as not sent from here on."""
        at = (batch.ticket + batch.places) & (WINDOW - 1)
        ends = np.append(batch.places[1:], len(batch.records))
        missing = np.flatnonzero(self.open[at])
        self.open[at] = False
        self.plain_out -= len(missing)
        parts = [batch.records[batch.places[i] : ends[i]] for i in missing.tolist()]
        sizes = (ends - batch.places)[missing]
        kept = np.concatenate(parts) if parts else batch.records[:0]
        return kept, np.cumsum(sizes) - sizes, self.lines[at[missing]], self.ids[at[missing]]

    def _match(self, replies: Any) -> int:
        if not len(replies):
            return 0
        self.last_answer = time.monotonic()
        tickets = replies["ticket"]
        single = np.array([ticket in self.waiting for ticket in tickets.tolist()]) if self.waiting else np.zeros(len(replies), np.bool_)
        for reply in replies[single]:
            self.groups.pop(int(reply["ticket"]))
            for waiting in self.waiting.pop(int(reply["ticket"])):
                self._say(outcome_of(reply, waiting.line, waiting.trade_id, waiting.row))
        plain = replies[~single]
        plain = plain[self.open[plain["ticket"] & (WINDOW - 1)]]  # not those of what was sent again, and is answered there
        self.open[plain["ticket"] & (WINDOW - 1)] = False
        self.plain_out -= len(plain)
        if len(plain):
            self._take_plain(plain)
        while self.sent and not self.open[(self.sent[0].ticket + self.sent[0].places) & (WINDOW - 1)].any():
            self.sent.popleft()
        return len(replies)

    def _take_plain(self, replies: Any) -> None:
        at = replies["ticket"] & (WINDOW - 1)
        if not self.accepted:
            accepted = replies["code"] == Code.ACCEPTED
            self.counts["ACCEPTED"] += int(accepted.sum())
            replies, at = replies[~accepted], at[~accepted]
        outcomes = [
            outcome_of(reply, line, trade_id.decode(errors="replace"), record=self._record_of(int(reply["ticket"])))
            for reply, line, trade_id in zip(replies, self.lines[at].tolist(), self.ids[at].tolist(), strict=True)
        ]
        for outcome in outcomes:
            self.counts[outcome.status] += 1
        if outcomes:
            self.say(outcomes)

    def _record_of(self, ticket: int) -> Any:
        """The EVENT that was sent under this ticket, of plain trades that are kept."""
        for batch in self.sent:
            if batch.ticket <= ticket < batch.ticket + len(batch.records):
                return batch.records[ticket - batch.ticket]
        return None

    def _say(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        if self.accepted or outcome.status != "ACCEPTED":
            self.say([outcome])


def outcome_of(reply: Any, line: int, trade_id: str, row: Any = None, record: Any = None) -> Outcome:
    """A reply in the words of `pks book --json`. The value is the row's own text, else what the EVENT that was sent has."""
    code = Code(int(reply["code"]))
    if code in (Code.ACCEPTED, Code.DUPLICATE):
        return Outcome(line, trade_id, code.name, int(reply["sequence"]), "", "", "", "")
    name = FIELD_NAME.get(int(reply["field"]), "")
    field = FIELD_WORDS.get(name, name) or VERDICT_FIELDS.get(code, "trade_id")
    reason = CODES[code]
    if code is Code.AMBIGUOUS_ORIGINAL:
        reason = f"{reason}: events {int(reply['value'])} and {int(reply['other'])}"
    elif code is Code.IDEMPOTENCY_CONFLICT and reply["sequence"]:
        reason = f"{reason} (first booked as event {int(reply['sequence'])})"
    return Outcome(line, trade_id, "REFUSED", int(reply["sequence"]), code.name, field, _value_of(field, trade_id, row, record), reason)


def _value_of(field: str, trade_id: str, row: Any, record: Any) -> str:
    """What the row gave for the field, "" for nothing."""
    if field == "trade_id":
        return trade_id
    if row is not None:
        return str(getattr(row, field, ""))
    if record is None:
        return ""
    match field:
        case "quantity":
            return format_scaled(int(record["qty_raw"]), int(record["qty_scale"]))
        case "price":
            return format_scaled(int(record["price_raw"]), int(record["price_scale"]))
        case "fee":
            return format_scaled(int(record["fee_raw"]), int(record["fee_scale"]))
        case "trade_time":
            return format_time(int(record["trade_time_ns"]))
        case "business_date" if record["flags"] & Flag.HAS_BUSINESS_DATE:
            return format_date(int(record["effective_date"]))
        case _:
            return ""
