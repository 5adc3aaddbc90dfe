"""Columns of a trade file as intake records, compiled: thousands of plain trades at a time, each as `Border.group_of` makes it of its text.

Owns the kernels and the tables by which they turn codes of names into row ids, looked up once a name. Only `bulk` calls it; it may not
send, or decide what is refused: a row that is not plain is marked, and goes by the border.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pks.base.errors import Refused
from pks.base.limits import NAME_BYTES_MAX
from pks.edges.files.columns import ColumnReader
from pks.edges.files.scan import DATE_NONE, ID_BYTES, Cell, Name
from pks.engine.booking.border import DEFAULT_SOURCE
from pks.engine.instruments.catalogue import Catalogue
from pks.layouts.codes import Flag, Kind, Subject
from pks.layouts.event import DETAIL, DETAIL_TEXT_BYTES, EVENT, EVENT_BYTES, EVENT_WORDS
from pks.layouts.slots import FEE_SCALE

RECORDS_A_ROW_MAX = 2
"""A trade, and the DETAIL of its venue and order."""

VENUE_BYTES_MAX = NAME_BYTES_MAX
NO_TEXT = -1
"""In place of a venue's length: a name that JSON would write in another way."""

_OPEN = np.frombuffer(b'{"', np.uint8)
_VENUE = np.frombuffer(b'venue":"', np.uint8)
_ORDER = np.frombuffer(b'order_id":"', np.uint8)
_NEXT = np.frombuffer(b'","', np.uint8)
_CLOSE = np.frombuffer(b'"}', np.uint8)
_LONGEST = len(_OPEN) + len(_VENUE) + VENUE_BYTES_MAX + len(_NEXT) + len(_ORDER) + ID_BYTES + len(_CLOSE)
assert _LONGEST <= DETAIL_TEXT_BYTES, "one DETAIL holds what a row may say"

assert EVENT.fields is not None and DETAIL.fields is not None, "structured"
_ID_AT, _TEXT_AT = EVENT.fields["trade_id"][1], DETAIL.fields["text"][1]
_BOOK, _INSTRUMENT, _ACCOUNT = int(Name.BOOK), int(Name.INSTRUMENT), int(Name.ACCOUNT)
_SOURCE, _FEE_CURRENCY, _VENUE_NAME = int(Name.SOURCE), int(Name.FEE_CURRENCY), int(Name.VENUE)
_CELL_BOOK, _CELL_INSTRUMENT, _CELL_ACCOUNT, _CELL_FEE_CURRENCY = map(int, (Cell.BOOK, Cell.INSTRUMENT, Cell.ACCOUNT, Cell.FEE_CURRENCY))
_CELL_FEE, _CELL_DETAIL, _CELL_VENUE, _CELL_ORDER_ID = map(int, (Cell.FEE, Cell.DETAIL, Cell.VENUE, Cell.ORDER_ID))
_TRADE, _DETAIL = int(Kind.TRADE), int(Kind.DETAIL)
_HAS_PRICE, _HAS_FEE, _FEE_UNKNOWN = int(Flag.HAS_PRICE), int(Flag.HAS_FEE), int(Flag.FEE_UNKNOWN)
_HAS_DATE, _HAS_DETAIL = int(Flag.HAS_BUSINESS_DATE), int(Flag.HAS_DETAIL)
_QUOTE, _BACKSLASH = 34, 92

Words = NDArray[np.int64]


class Translations(NamedTuple):
    """By a column's code of a name: the row id, 0 for none, -1 for a name that is not known."""

    books: Words
    instruments: Words
    accounts: Words
    sources: Words  # code 0: of the source that stands for none
    currencies: Words
    price_scales: Words  # by instrument code; -1 for one that is not known
    qty_scales: Words
    money_scales: Words
    venues: NDArray[np.uint8]  # uint8[venues, VENUE_BYTES_MAX]: the text
    venue_lengths: Words  # of the text, or NO_TEXT


class Room(NamedTuple):
    """Where records are made: three views of the same bytes, and places."""

    events: Any  # EVENT[n]
    words: Words  # int64[n, 32]
    bytes: NDArray[np.uint8]  # uint8[n, 256]
    places: Words  # int64[n]: by trade, its record


def new_room(rows_max: int) -> Room:
    """Room for the records of `rows_max` rows."""
    events = np.empty(RECORDS_A_ROW_MAX * rows_max, EVENT)
    words, data = events.view(np.int64).reshape(-1, EVENT_WORDS), events.view(np.uint8).reshape(-1, EVENT_BYTES)
    return Room(events, words, data, np.zeros(rows_max, np.int64))


@njit(cache=True)
def mark_rows(arrays, known):
    """Mark in arrays.slow (scan.Arrays) every row that cannot go as it is, by the cell that is the cause. known: Translations."""
    for row in range(arrays.slow.size):
        if arrays.slow[row] == 0:
            arrays.slow[row] = cause_of(arrays, known, row)


@njit(cache=True)
def cause_of(arrays, known, row):
    """The Cell for which `row` goes by the border, 0 for none."""
    names = arrays.names[row]
    if known.books[names[_BOOK]] <= 0:
        return _CELL_BOOK
    if known.instruments[names[_INSTRUMENT]] <= 0:
        return _CELL_INSTRUMENT
    if known.accounts[names[_ACCOUNT]] < 0:
        return _CELL_ACCOUNT
    if arrays.has_fee[row] and known.currencies[names[_FEE_CURRENCY]] <= 0:
        return _CELL_FEE_CURRENCY
    if arrays.has_fee[row] and arrays.fee_digits[row] > FEE_SCALE:
        return _CELL_FEE
    if arrays.has_detail[row]:
        return _CELL_DETAIL
    if known.venue_lengths[names[_VENUE_NAME]] < 0:
        return _CELL_VENUE
    for place in range(ID_BYTES):
        character = arrays.order_id[row, place]
        if character == _QUOTE or character == _BACKSLASH:
            return _CELL_ORDER_ID
    return 0


@njit(cache=True)
def make_records(arrays, qty_raw, price_raw, known, first, last, room):
    """Write the records of rows first..last-1, none of them marked, into `room` (Room) from its start; how many records.

    arrays: scan.Arrays; qty_raw, price_raw: int64[rows] at the instruments' scales; known: Translations. room.places is written for each.
    """
    count = 0
    for row in range(first, last):
        room.places[row - first] = count
        room.words[count] = 0
        fill_trade(arrays, qty_raw[row], price_raw[row], known, row, room.events[count])
        for place in range(ID_BYTES):
            room.bytes[count, _ID_AT + place] = arrays.trade_id[row, place]
        venue = arrays.names[row, _VENUE_NAME]
        if venue == 0 and arrays.order_id[row, 0] == 0:
            count += 1
            continue
        room.words[count + 1] = 0
        e, detail = room.events[count], room.events[count + 1]
        length = write_detail(room.bytes[count + 1], known.venues[venue], known.venue_lengths[venue], arrays.order_id[row])
        e.group_count, e.detail_bytes = RECORDS_A_ROW_MAX, length
        e.flags |= _HAS_DETAIL
        detail.kind, detail.group_index, detail.group_count = _DETAIL, 1, RECORDS_A_ROW_MAX
        count += 2
    return count


@njit(cache=True)
def fill_trade(arrays, qty_raw, price_raw, known, row, e):
    """Write the numbers of a trade into the zeroed record `e`."""
    names = arrays.names[row]
    instrument = names[_INSTRUMENT]
    flags = _HAS_PRICE
    e.kind, e.group_count = _TRADE, 1
    e.side, e.leg = arrays.side[row], arrays.leg[row]
    e.qty_raw, e.price_raw, e.trade_time_ns = qty_raw, price_raw, arrays.trade_time_ns[row]
    e.price_scale, e.qty_scale = known.price_scales[instrument], known.qty_scales[instrument]
    e.money_scale = known.money_scales[instrument]
    e.book_id, e.instrument_id = known.books[names[_BOOK]], known.instruments[instrument]
    e.account_id, e.source_id = known.accounts[names[_ACCOUNT]], known.sources[names[_SOURCE]]
    if arrays.has_fee[row]:
        e.fee_raw, e.fee_scale, e.fee_currency_id = arrays.fee[row], arrays.fee_digits[row], known.currencies[names[_FEE_CURRENCY]]
        flags |= _HAS_FEE
    else:
        flags |= _FEE_UNKNOWN
    if arrays.business_date[row] != DATE_NONE:
        e.effective_date = arrays.business_date[row]
        flags |= _HAS_DATE
    if arrays.settle_date[row] != DATE_NONE:
        e.settle_date = arrays.settle_date[row]
    e.flags = flags


@njit(cache=True)
def write_detail(record, venue, venue_length, order_id):
    """Write {"venue":"...","order_id":"..."} of what is there behind the head of a DETAIL (uint8[256], zeros); its length."""
    at = put(record, _TEXT_AT, _OPEN, _OPEN.size)
    if venue_length > 0:
        at = put(record, at, _VENUE, _VENUE.size)
        at = put(record, at, venue, venue_length)
    if order_id[0] != 0:
        if venue_length > 0:
            at = put(record, at, _NEXT, _NEXT.size)
        at = put(record, at, _ORDER, _ORDER.size)
        at = put(record, at, order_id, ID_BYTES)
        while record[at - 1] == 0:
            at -= 1
    return put(record, at, _CLOSE, _CLOSE.size) - _TEXT_AT


@njit(cache=True)
def put(record, at, text, length):
    """Copy `length` bytes; the place behind them."""
    for place in range(length):
        record[at + place] = text[place]
    return at + length


class Translator:
    """Looks the names of a reader's columns up in a catalogue, each once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._ids: dict[Name, Words] = {}
        self._policies = np.zeros((3, 0), np.int64)

    @property
    def sources_count(self) -> int:
        """How many names of sources were looked up."""
        return len(self._ids.get(Name.SOURCE, ()))

    def tables(self, reader: ColumnReader) -> Translations:
        """For every name that the reader has met."""
        sources = self._row_ids(reader, Name.SOURCE, Subject.SOURCE).copy()
        sources[0] = self.catalogue.id_of(Subject.SOURCE, DEFAULT_SOURCE)
        instruments = self._row_ids(reader, Name.INSTRUMENT, Subject.INSTRUMENT)
        made = [self._policy(row_id) for row_id in instruments[self._policies.shape[1] :].tolist()]
        self._policies = np.concatenate([self._policies, np.array(made, np.int64).reshape(-1, 3).T], axis=1)
        price_scales, qty_scales, money_scales = self._policies
        venues, venue_lengths = _texts(reader.names(Name.VENUE))
        return Translations(
            books=self._row_ids(reader, Name.BOOK, Subject.BOOK),
            instruments=instruments,
            accounts=self._row_ids(reader, Name.ACCOUNT, Subject.ACCOUNT),
            sources=sources,
            currencies=self._row_ids(reader, Name.FEE_CURRENCY, Subject.CURRENCY),
            price_scales=price_scales,
            qty_scales=qty_scales,
            money_scales=money_scales,
            venues=venues,
            venue_lengths=venue_lengths,
        )

    def _row_ids(self, reader: ColumnReader, name: Name, subject: Subject) -> Words:
        texts, known = reader.names(name), self._ids.get(name, np.zeros(0, np.int64))
        if len(known) < len(texts):
            known = np.concatenate([known, np.array([self._id(subject, text) for text in texts[len(known) :]], np.int64)])
            self._ids[name] = known
        return known

    def _id(self, subject: Subject, text: str) -> int:
        if not text:
            return 0
        if subject is Subject.INSTRUMENT:
            try:
                return self.catalogue.find_instrument(text) or -1
            except Refused:  # several fit: the border chooses by the row's venue
                return -1
        return self.catalogue.id_of(subject, text) or -1

    def _policy(self, instrument_id: int) -> tuple[int, int, int]:
        if instrument_id <= 0:
            return -1, -1, 0
        one = self.catalogue.instrument(instrument_id)
        return one.price_scale, one.qty_scale, one.money_scale


def _texts(names: Sequence[str]) -> tuple[NDArray[np.uint8], Words]:
    """(venues, venue_lengths) as Translations has them."""
    texts, lengths = np.zeros((len(names), VENUE_BYTES_MAX), np.uint8), np.zeros(len(names), np.int64)
    for code, name in enumerate(names):
        raw = name.encode()
        plain = b'"' not in raw and b"\\" not in raw
        lengths[code] = len(raw) if plain else NO_TEXT
        if plain:
            texts[code, : len(raw)] = np.frombuffer(raw, np.uint8)
    return texts, lengths
