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
from numba import njit

from pks.base.errors import CODES, Code, Refused
from pks.base.ids import key_of
from pks.client.producer import NO_ROOM, NoAnswer, Producer, read_catalogue
from pks.engine.booking.border import DEFAULT_SOURCE, Border
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.events import definition_event
from pks.layouts.codes import Flag, Kind, Subject
from pks.layouts.event import DETAIL, DETAIL_TEXT_BYTES, EVENT, FIELD_NAME

WINDOW = 1 << 19
"""Plain trades that may be outstanding: more than ring, batches and owed answers hold together."""

ANSWER_SECONDS = 120.0
SEND_RECORDS = 2048
PREFIX = np.frombuffer(b'{"order_id":"', np.uint8)
SUFFIX = np.frombuffer(b'"}', np.uint8)
NO_DATE = np.int32(np.iinfo(np.int32).min)
CORRECTIONS = (Kind.AMEND, Kind.CANCEL, Kind.FEE)

FIELD_WORDS = {
    "qty_raw": "quantity",
    "price_raw": "price",
    "fee_raw": "fee",
    "fee_currency_id": "fee_currency",
    "instrument_id": "instrument",
    "book_id": "book",
    "to_book_id": "to_book",
    "account_id": "account",
    "source_id": "source",
    "trade_time_ns": "trade_time",
    "effective_date": "business_date",
    "lot_date": "open_date",
    "original": "trade_id",
    "lot": "lot_id",
}
"""What a person calls the fields of an EVENT."""


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


@njit(cache=True)
def fill_details(texts, ids, prefix, suffix, lengths):
    """Write {"order_id":"..."} of each id (uint8[n, 40], zeros behind the text) into texts (uint8[n, 192]); lengths (int64[n])."""
    for i in range(ids.shape[0]):
        at = 0
        for c in prefix:
            texts[i, at] = c
            at += 1
        for j in range(ids.shape[1]):
            if ids[i, j] == 0:
                break
            texts[i, at] = ids[i, j]
            at += 1
        for c in suffix:
            texts[i, at] = c
            at += 1
        lengths[i] = at


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
        self.border = Border(catalogue)
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
        self._translations: dict[tuple[int, Subject], Any] = {}

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
        group = np.concatenate([group[:1] for group in groups if group is not None])
        group["group_count"], group["group_index"] = len(group), np.arange(len(group))
        group["flags"] &= np.uint16(0xFFFF ^ Flag.HAS_DETAIL)
        group["detail_bytes"] = 0
        self._send_rows(rows, group)

    def _know_source(self, code: str) -> None:
        """Define a source that is named for the first time."""
        for definition in self.producer.define_sources(self.catalogue, [code]):
            self.settle()
            self.producer.book([definition_event(definition)])
            self.reload()

    def reload(self) -> None:
        """Read reference data again."""
        self.catalogue = read_catalogue(self.producer.host, self.producer.data_dir)
        self.border = Border(self.catalogue)
        self._translations.clear()

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
        only_orders = not {"note", "counterparty", "venue"} & set(getattr(reader.form, "fields", ()))
        for batch in reader:
            self._batch(reader, batch, only_orders)
            self._take()
            yield reader.bytes_read

    def _ids(self, reader: Any, name: int, subject: Subject) -> Any:
        """int64[codes]: row ids of the names of a column; 0 is none, -1 is not known."""
        texts = reader.names(name)
        known = self._translations.get((name, subject))
        if known is None or len(known) < len(texts):
            if subject is Subject.SOURCE:
                for text in texts:
                    self._know_source(text)
            known = np.array([self._id(subject, text) for text in texts], np.int64)
            self._translations[name, subject] = known
        return known

    def _id(self, subject: Subject, text: str) -> int:
        if not text:
            return 0
        if subject is Subject.INSTRUMENT:
            try:
                return self.catalogue.find_instrument(text) or -1
            except Refused:
                return -1
        return self.catalogue.id_of(subject, text) or -1

    def _batch(self, reader: Any, batch: Any, only_orders: bool) -> None:
        """Send one batch: runs of plain rows as arrays, the others by the border, in the order of the file."""
        from pks.edges.files.scan import Name

        self._know_source(DEFAULT_SOURCE)
        sources = self._ids(reader, Name.SOURCE, Subject.SOURCE)
        instruments = self._ids(reader, Name.INSTRUMENT, Subject.INSTRUMENT)
        scales = [self.catalogue.instrument(row) if row > 0 else None for row in instruments.tolist()]
        batch.scale(
            np.array([-1 if one is None else one.price_scale for one in scales], np.int64),
            np.array([-1 if one is None else one.qty_scale for one in scales], np.int64),
        )
        records = np.zeros(batch.count, EVENT)
        records["kind"], records["group_count"] = Kind.TRADE, 1
        records["trade_id"], records["leg"], records["side"] = batch.trade_id, batch.leg, batch.side
        records["qty_raw"], records["price_raw"] = batch.qty_raw, batch.price_raw
        records["trade_time_ns"] = batch.trade_time_ns
        bad = batch.slow != 0
        for name, subject, field in (
            (Name.BOOK, Subject.BOOK, "book_id"),
            (Name.INSTRUMENT, Subject.INSTRUMENT, "instrument_id"),
            (Name.ACCOUNT, Subject.ACCOUNT, "account_id"),
        ):
            found = self._ids(reader, name, subject)[batch.codes(name)]
            bad |= found < 0
            records[field] = np.maximum(found, 0)
        source_codes = batch.codes(Name.SOURCE)
        records["source_id"] = np.where(source_codes > 0, sources[source_codes], self.catalogue.id_of(Subject.SOURCE, DEFAULT_SOURCE))
        bad |= records["book_id"] == 0
        policy = np.zeros((len(scales), 4), np.int64)
        for code, one in enumerate(scales):
            if one is not None:
                pnl_id = self.catalogue.id_of(Subject.CURRENCY, one.pnl_currency)
                policy[code] = one.price_scale, one.qty_scale, one.money_scale, pnl_id
        own = policy[batch.codes(Name.INSTRUMENT)]
        records["price_scale"], records["qty_scale"], records["money_scale"] = own[:, 0], own[:, 1], own[:, 2]
        currency_codes = batch.codes(Name.FEE_CURRENCY)
        currencies = self._ids(reader, Name.FEE_CURRENCY, Subject.CURRENCY)[currency_codes]
        bad |= batch.has_fee & (currencies < 0)
        fee_id = np.where(currency_codes > 0, np.maximum(currencies, 0), own[:, 3])
        records["fee_raw"] = np.where(batch.has_fee, batch.fee, 0)
        records["fee_scale"] = np.where(batch.has_fee, batch.fee_digits, 0)
        records["fee_currency_id"] = np.where(batch.has_fee, fee_id, 0)
        bad |= batch.has_fee & (batch.fee_digits > 18)
        flags = np.where(batch.has_fee, int(Flag.HAS_FEE), int(Flag.FEE_UNKNOWN)) | int(Flag.HAS_PRICE)
        has_date = batch.business_date != NO_DATE
        records["effective_date"] = np.where(has_date, batch.business_date, 0)
        records["settle_date"] = np.where(batch.settle_date != NO_DATE, batch.settle_date, 0)
        records["flags"] = flags | np.where(has_date, int(Flag.HAS_BUSINESS_DATE), 0)
        detailed = np.array(batch.has_detail, np.bool_)
        if not only_orders:
            bad |= detailed
        else:
            ids = batch.order_id
            bad |= detailed & ((np.char.find(ids, b'"') >= 0) | (np.char.find(ids, b"\\") >= 0)) if detailed.any() else False
        self._runs(batch, records, bad, detailed)

    def _runs(self, batch: Any, records: Any, bad: Any, detailed: Any) -> None:
        edges = np.flatnonzero(np.diff(bad.astype(np.int8))) + 1
        for first, last in zip([0, *edges.tolist()], [*edges.tolist(), len(bad)], strict=True):
            if bad[first]:
                self.rows(batch.row(i) for i in range(first, last))
                continue
            for start in range(first, last, SEND_RECORDS // 2):
                end = min(last, start + SEND_RECORDS // 2)
                self._send_plain(records[start:end], detailed[start:end], batch.order_id[start:end], batch.line[start:end])

    def _send_plain(self, records: Any, detailed: Any, order_ids: Any, lines: Any) -> None:
        places = np.arange(len(records))
        if detailed.any():
            extra = detailed.astype(np.int64)
            places = np.cumsum(1 + extra) - 1 - extra
            group = np.zeros(int((1 + extra).sum()), EVENT)
            texts = np.zeros((int(extra.sum()), DETAIL_TEXT_BYTES), np.uint8)
            lengths = np.zeros(len(texts), np.int64)
            ids = np.ascontiguousarray(order_ids[detailed]).view(np.uint8).reshape(-1, order_ids.dtype.itemsize)
            fill_details(texts, ids, PREFIX, SUFFIX, lengths)
            records = records.copy()
            records["group_count"][detailed] = 2
            records["flags"][detailed] |= np.uint16(Flag.HAS_DETAIL)
            records["detail_bytes"][detailed] = lengths
            group[places] = records
            behind = places[detailed] + 1
            details = np.zeros(len(texts), DETAIL)
            details["kind"], details["group_index"], details["group_count"], details["text"] = Kind.DETAIL, 1, 2, texts
            group[behind] = details.view(EVENT)
            sent = group
        else:
            sent = np.ascontiguousarray(records)
        while self.plain_out + len(records) > WINDOW // 2:
            self._take()
            self._breathe()
        self._send_kept(sent, places, lines, records["trade_id"])
        self._take()

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
        self.producer.intake.segment.check_live()
        if time.monotonic() - self.last_answer > seconds and (self.plain_out or self.waiting):
            raise NoAnswer(self.plain_out + len(self.waiting), seconds)
        time.sleep(0.0003)

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
        while self.sent and not self.open[(self.sent[0].ticket + self.sent[0].places) & (WINDOW - 1)].any():
            self.sent.popleft()
        if len(plain):
            self._take_plain(plain)
        return len(replies)

    def _take_plain(self, replies: Any) -> None:
        at = replies["ticket"] & (WINDOW - 1)
        if not self.accepted:
            accepted = replies["code"] == Code.ACCEPTED
            self.counts["ACCEPTED"] += int(accepted.sum())
            replies, at = replies[~accepted], at[~accepted]
        outcomes = [
            outcome_of(reply, line, trade_id.decode(errors="replace"))
            for reply, line, trade_id in zip(replies, self.lines[at].tolist(), self.ids[at].tolist(), strict=True)
        ]
        for outcome in outcomes:
            self.counts[outcome.status] += 1
        if outcomes:
            self.say(outcomes)

    def _say(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        if self.accepted or outcome.status != "ACCEPTED":
            self.say([outcome])


def outcome_of(reply: Any, line: int, trade_id: str, row: Any = None) -> Outcome:
    """A reply in the words of `pks book --json`."""
    code = Code(int(reply["code"]))
    if code in (Code.ACCEPTED, Code.DUPLICATE):
        return Outcome(line, trade_id, code.name, int(reply["sequence"]), "", "", "", "")
    name = FIELD_NAME.get(int(reply["field"]), "")
    field = FIELD_WORDS.get(name, name)
    value = getattr(row, field, "") if row is not None else ""
    reason = CODES[code]
    if code is Code.AMBIGUOUS_ORIGINAL:
        reason = f"{reason}: events {int(reply['value'])} and {int(reply['other'])}"
    elif code is Code.IDEMPOTENCY_CONFLICT and reply["sequence"]:
        reason = f"{reason} (first booked as event {int(reply['sequence'])})"
    return Outcome(line, trade_id, "REFUSED", int(reply["sequence"]), code.name, field or "trade_id", str(value or trade_id), reason)
