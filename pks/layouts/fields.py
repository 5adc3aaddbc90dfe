"""The catalogue of every field in shared memory and in the journal: tier, type, unit, meaning, source, and since when.

Owns what people and other languages read about a layout: `pks shm fields` prints it, the C header's comments come from it, and screens and
segments' readers are checked against it. A test compares it with the dtypes, field by field. It also says in which segment a layout
stands; names, versions and hashes must be those of `topology`, and a test compares them. Any room may import it; it changes no layout.

Tiers: 0 first cache line of a slot, 1 the rest of slots and rings, 2 derived streams (valuation, P&L, cash), 3 stored and reported only.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pks.layouts.event import DETAIL, EVENT, EVENT_LAYOUT_VERSION, REPLY
from pks.layouts.match import MATCH, MATCH_LAYOUT_VERSION, VERDICT
from pks.layouts.refdata import REFDATA_LAYOUT_VERSION
from pks.layouts.reject import REJECT, REJECT_LAYOUT_VERSION
from pks.layouts.segment import (
    CELL_NAME,
    RING_PLACE,
    SEGMENT_HEADER,
    SEGMENT_HEADER_VERSION,
    STREAM_HEADER,
    WORKER_REPORT,
    WORKER_WATCH,
)
from pks.layouts.slots import (
    ACCOUNT_LAYOUT_VERSION,
    ACCOUNT_SLOT,
    POSITION_LAYOUT_VERSION,
    POSITION_SLOT,
    REFDATA_SLOT,
    UPDATE,
    UPDATE_LAYOUT_VERSION,
)

TIERS = {0: "first cache line of a slot", 1: "rest of slots and rings", 2: "derived streams", 3: "stored and reported only"}


@dataclass(frozen=True, slots=True)
class Layout:
    """A record, slot or row. segment: base names of where it stands ("" for files), <k> a shard's number, <n> an intake ring's."""

    name: str
    dtype: np.dtype[Any]
    version: int
    segment: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Field:
    """One field. dtype as numpy spells it, "(4)" behind it for arrays; until: the layout version that retired it, None while in use."""

    layout: str
    name: str
    tier: int
    dtype: str
    unit: str
    meaning: str
    source: str
    since: int
    until: int | None = None


@dataclass(frozen=True, slots=True)
class SegmentLayout:
    """What a segment's header must say. name: of the layout; base: of the segment, with {index} where there are several."""

    name: str
    base: str
    version: int
    dtypes: tuple[np.dtype[Any], ...]

    @property
    def hash(self) -> int:
        """64-bit hash of names, types and places of all fields, as in the header."""
        return layout_hash(*self.dtypes)


def layout_hash(*dtypes: np.dtype[Any]) -> int:
    """64-bit hash of the names, types and places of all fields of `dtypes`."""
    text = ""
    for dtype in dtypes:
        assert dtype.fields is not None, "layouts are structured"
        text += ";".join(f"{name}:{part[0].str}{part[0].shape}@{part[1]}" for name, part in dtype.fields.items()) + "\n"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


SEGMENTS = {
    "refdata": SegmentLayout("refdata", "pks-refdata-v1", REFDATA_LAYOUT_VERSION, (REFDATA_SLOT,)),
    "intake": SegmentLayout("intake", "pks-intake-{index}-v1", EVENT_LAYOUT_VERSION, (EVENT, REPLY)),
    "events": SegmentLayout("event", "pks-events-v1", EVENT_LAYOUT_VERSION, (EVENT,)),
    "matches": SegmentLayout("match", "pks-matches-v1-{index}", MATCH_LAYOUT_VERSION, (MATCH,)),
    "updates": SegmentLayout("update", "pks-updates-v1-{index}", UPDATE_LAYOUT_VERSION, (UPDATE,)),
    "positions": SegmentLayout("position", "pks-positions-v1", POSITION_LAYOUT_VERSION, (POSITION_SLOT,)),
    "accounts": SegmentLayout("account", "pks-accounts-v1", ACCOUNT_LAYOUT_VERSION, (ACCOUNT_SLOT,)),
}
"""The segments that readers outside the system's own workers open, by channel."""

LAYOUTS = (
    Layout("position", POSITION_SLOT, POSITION_LAYOUT_VERSION, "pks-positions-v1", "one position, by (book, instrument)"),
    Layout("account", ACCOUNT_SLOT, ACCOUNT_LAYOUT_VERSION, "pks-accounts-v1", "quantity of a position that one account holds"),
    Layout("refdata", REFDATA_SLOT, REFDATA_LAYOUT_VERSION, "pks-refdata-v1", "one row of reference data, by (subject, row_id)"),
    Layout("update", UPDATE, UPDATE_LAYOUT_VERSION, "pks-updates-v1-<k>", "a position slot that has changed"),
    Layout("event", EVENT, EVENT_LAYOUT_VERSION, "pks-events-v1, pks-intake-<n>-v1, the journal", "one event of the total order"),
    Layout("detail", DETAIL, EVENT_LAYOUT_VERSION, "as event", "text of the event before it in the group"),
    Layout("reply", REPLY, EVENT_LAYOUT_VERSION, "pks-intake-<n>-v1", "the answer to one intake record"),
    Layout("match", MATCH, MATCH_LAYOUT_VERSION, "pks-matches-v1-<k>, pks-transfers-v1-<k>", "what a closing event consumed of one lot"),
    Layout("verdict", VERDICT, MATCH_LAYOUT_VERSION, "pks-verdicts-v1-<k>", "the accumulator's judgement of an event"),
    Layout("reject", REJECT, REJECT_LAYOUT_VERSION, "pks-rejects-v1", "an intake record that capture refused, and why"),
    Layout(
        "segment_header", SEGMENT_HEADER, SEGMENT_HEADER_VERSION, "first page of every segment", "what the segment is, and whether it lives"
    ),
    Layout("ring_place", RING_PLACE, SEGMENT_HEADER_VERSION, "control words of every ring", "one reader's place in a ring"),
    Layout("stream_header", STREAM_HEADER, SEGMENT_HEADER_VERSION, "", "first page of the file behind a recorded stream"),
    Layout("worker_report", WORKER_REPORT, 1, "pks-control-v1", "what a worker says of itself"),
    Layout("worker_watch", WORKER_WATCH, 1, "pks-control-v1", "what the supervisor says of a worker"),
    Layout("cell_name", CELL_NAME, 1, "pks-control-v1", "directory entry of a metric"),
)
"""Every layout that has fields in the catalogue."""

_ENTRIES = """
position | version | 0 | <i8 | count | this copy's version, 0: never written; copy (version & 1) is the stable one | accumulator
position | book_id | 0 | <u4 | id | refdata row of the book | accumulator
position | instrument_id | 0 | <u4 | id | refdata row of the instrument | accumulator
position | qty_raw | 0 | <i8 | 10^-qty_scale | open quantity, long > 0 | lots
position | cost_hi | 0 | <i8 | 10^-money_scale | cost of the open lots, signed as the quantity, without multiplier; upper word | lots
position | cost_lo | 0 | <u8 | 10^-money_scale | lower word of cost | lots
position | realised_hi | 0 | <i8 | 10^-money_scale | realised P&L since the opening lots, gross, without multiplier; upper word | lots
position | realised_lo | 0 | <u8 | 10^-money_scale | lower word of realised P&L | lots
position | last_sequence | 0 | <i8 | sequence | the event that this reflects | accumulator
position | event_time_ns | 1 | <i8 | ns UTC | trade time of the last trade, the venue's clock | event
position | recorded_ns | 1 | <i8 | ns UTC | when capture took the last event | capture
position | clearing_cost_hi | 1 | <i8 | 10^-money_scale | futures: cost since the last clearing; upper word | lots
position | clearing_cost_lo | 1 | <u8 | 10^-money_scale | lower word of the clearing cost | lots
position | variation_hi | 1 | <i8 | 10^-money_scale | futures: variation margin, cumulative; upper word | lots
position | variation_lo | 1 | <u8 | 10^-money_scale | lower word of the variation margin | lots
position | last_price_raw | 1 | <i8 | 10^-price_scale | price of the last trade | event
position | open_lots | 1 | <u4 | count | open lots | lots
position | price_scale | 1 | |u1 | digits | decimal places of prices | refdata
position | qty_scale | 1 | |u1 | digits | decimal places of quantities | refdata
position | money_scale | 1 | |u1 | digits | decimal places of money on the slot | refdata
position | flags | 1 | |u1 | PositionFlag | 1 forced, 2 some fee unknown, 4 inverse (cost = quantity / price) | lots
position | fee_currency_id | 1 | <u4(4) | id | currency of each fee cell, 0 is none | event
position | fees_hi | 1 | <i8(4) | 10^-18 | fees by cell, cumulative, > 0 costs; upper words | lots
position | fees_lo | 1 | <u8(4) | 10^-18 | lower words of the fees | lots
position | trades_count | 1 | <i8 | count | trades booked on the key | lots
position | _reserved | 1 | <u8(5) | - | zero; room to grow | -
account | version | 0 | <i8 | count | this copy's version | accumulator
account | book_id | 0 | <u4 | id | refdata row of the book | accumulator
account | instrument_id | 0 | <u4 | id | refdata row of the instrument | accumulator
account | account_id | 0 | <u4 | id | refdata row of the account | event
account | qty_scale | 0 | |u1 | digits | decimal places of the quantity | refdata
account | _reserved | 0 | |u1(3) | - | zero | -
account | qty_raw | 0 | <i8 | 10^-qty_scale | quantity that the account holds for the book, long > 0 | accumulator
account | last_sequence | 0 | <i8 | sequence | the event that this reflects | accumulator
account | _room | 0 | <u8(3) | - | zero | -
refdata | version | 0 | <i8 | count | this copy's version | capture
refdata | row_id | 0 | <u4 | id | given once, never reused; 0 is no row | capture
refdata | subject | 0 | <u4 | Subject | 1 currency, 2 entity, 3 book, 4 account, 5 instrument, 6 source, 7 class method, 8 route | event
refdata | last_sequence | 0 | <i8 | sequence | the REFDATA event that this row reflects | capture
refdata | code | 0 | |S48 | text | the id that people use | definition
refdata | symbol | 1 | |S48 | text | instrument: symbol; else its name | definition
refdata | isin | 1 | |S12 | text | ISO 6166 | definition
refdata | figi | 1 | |S12 | text | FIGI | definition
refdata | cusip | 1 | |S12 | text | CUSIP | definition
refdata | ric | 1 | |S28 | text | RIC | definition
refdata | asset_class | 1 | |S24 | text | instrument: its class | definition
refdata | currency | 1 | |S12 | text | instrument: of the price; book: of reports | definition
refdata | pnl_currency | 1 | |S12 | text | instrument: of cost and P&L | definition
refdata | base_currency | 1 | |S12 | text | instrument: the asset that changes hands, where it is a currency | definition
refdata | parent | 1 | |S48 | text | entity of a book or account | definition
refdata | group | 1 | |S32 | text | desk of a book, type of an account | definition
refdata | zone | 1 | |S32 | text | time zone of a book or entity | definition
refdata | underlying | 1 | |S36 | text | instrument: what it derives from | definition
refdata | contract | 1 | |u1 | Contract | 1 linear, 2 inverse | definition
refdata | price_scale | 1 | |u1 | digits | decimal places of prices | definition
refdata | qty_scale | 1 | |u1 | digits | decimal places of quantities | definition
refdata | money_scale | 1 | |u1 | digits | decimal places of money on a position; currency: its minor digits | definition
refdata | negative_price | 1 | |u1 | 0 or 1 | a price may be below zero | definition
refdata | method | 1 | |u1 | Method | lot method of a book or class: 1 FIFO, 2 LIFO, 3 HIFO, 4 average, 5 specific | definition
refdata | oversell | 1 | |u1 | Oversell | book: 1 flip, 2 reject | definition
refdata | fees_in_cost | 1 | |u1 | 0 or 1 | book: fees in P&L currency are part of cost | definition
refdata | asset_class_id | 1 | <u4 | id | instrument: its class as a number | definition
refdata | recurs | 1 | <u4 | Recurs | source: over what its trade ids recur | definition
refdata | multiplier_numerator | 1 | <i8 | - | multiplier x quote factor, exact: above the line | definition
refdata | multiplier_denominator | 1 | <i8 | - | multiplier x quote factor: below the line | definition
refdata | entity_id | 1 | <u4 | id | refdata row of the entity | definition
refdata | currency_id | 1 | <u4 | id | refdata row of `currency` | definition
refdata | pnl_currency_id | 1 | <u4 | id | refdata row of `pnl_currency` | definition
refdata | base_currency_id | 1 | <u4 | id | refdata row of `base_currency`, 0 is none | definition
refdata | cleared | 1 | |u1 | 0 or 1 | instrument: a future, keeps a cost since the last clearing | definition
refdata | zero_price | 1 | |u1 | 0 or 1 | a price may be zero | definition
refdata | _pad | 1 | |u1(6) | - | zero | -
refdata | definition_sequence | 1 | <i8 | sequence | where the whole definition stands in the journal | capture
refdata | _reserved | 1 | <u8(7) | - | zero; room to grow | -
update | sequence | 1 | <i8 | sequence | the event that changed the slot | accumulator
update | slot | 1 | <u4 | row | row of the positions table | accumulator
update | shard | 1 | <u4 | shard | whose range the row is in | accumulator
event | sequence | 3 | <i8 | sequence | place in the total order, from 1; 0 in an intake record | capture
event | recorded_ns | 3 | <i8 | ns UTC | when capture took it, never before the last one's | capture
event | kind | 3 | |u1 | Kind | what happened | producer
event | side | 3 | |i1 | Side | 1 buy, -1 sell, 0 neither | producer
event | flags | 3 | <u2 | Flag | end of batch, block, fee unknown, ... | producer, capture
event | group_index | 3 | <u2 | count | place in the group, from 0 | producer
event | group_count | 3 | <u2 | count | records of the group, 1 for an event that stands alone | producer
event | epoch | 3 | <u4 | count | start of the program that sequenced it | capture
event | intake | 3 | <u2 | ring | intake ring that it came through | capture
event | leg | 3 | <u2 | count | leg of the venue's fill; part of the key | producer
event | trade_time_ns | 3 | <i8 | ns UTC | trade time, the venue's clock | producer
event | key_hi | 3 | <u8 | hash | idempotency key of (trade id, leg), a correction's is its original's; upper word | capture
event | key_lo | 3 | <u8 | hash | idempotency key, lower word | capture
event | second_key_hi | 3 | <u8 | hash | a command's own key, 0 is none; upper word | producer
event | second_key_lo | 3 | <u8 | hash | a command's own key, lower word | producer
event | original | 3 | <i8 | sequence | trade that a correction names, block of an allocation; REFDATA: row id | capture
event | lot | 3 | <i8 | sequence | specific lot: its opening event, 0 is none | capture
event | previous | 3 | <i8 | sequence | the event before this one of (book, instrument), 0 is none | capture
event | previous_other | 3 | <i8 | sequence | the same for a transfer's receiver, else for the instrument's own chain | capture
event | qty_raw | 3 | <i8 | 10^-qty_scale | quantity, unsigned; ACTION: numerator (new) | producer
event | price_raw | 3 | <i8 | 10^-price_scale | price; ACTION: denominator (old) | producer
event | fee_raw | 3 | <i8 | 10^-fee_scale | fee, > 0 costs; ACTION: cash price | producer
event | book_id | 3 | <u4 | id | refdata row of the book | producer, routing
event | to_book_id | 3 | <u4 | id | receiver of a transfer | producer
event | instrument_id | 3 | <u4 | id | refdata row of the instrument | producer
event | account_id | 3 | <u4 | id | refdata row of the account, 0 is none | producer
event | to_account_id | 3 | <u4 | id | account that a give-up or transfer goes to | producer
event | subject | 3 | <u4 | Subject | REFDATA: kind of row; AMEND: the fields given | producer
event | source_id | 3 | <u4 | id | refdata row of the source | producer
event | fee_currency_id | 3 | <u4 | id | refdata row of the fee's currency | producer
event | effective_date | 3 | <i4 | days | date in the order of its key, since 1970-01-01 | producer, capture
event | lot_date | 3 | <i4 | days | date of the lot that it opens | producer, capture
event | settle_date | 3 | <i4 | days | settlement date, 0 is unknown | producer
event | discriminator | 3 | <u4 | hash | source, and what its ids recur over | capture
event | price_scale | 3 | |u1 | digits | scale that price_raw was made with | producer
event | qty_scale | 3 | |u1 | digits | scale that qty_raw was made with | producer
event | money_scale | 3 | |u1 | digits | the instrument's money scale then | producer
event | fee_scale | 3 | |u1 | digits | scale that fee_raw was made with | producer
event | lot_leg | 3 | <u2 | count | specific lot: leg of its opening (0, or 2 for one that a flip opened) | capture
event | detail_bytes | 3 | <u2 | bytes | length of the text in the DETAIL records that follow | producer
event | trade_id | 3 | |S40 | text | the venue's id; a longer one is # and its digest, whole in the DETAIL | producer
event | batch_first | 3 | <i8 | sequence | first event of the journal's batch | journal
event | batch_last | 3 | <i8 | sequence | last event of the journal's batch | journal
event | batch_check | 3 | <u8 | hash | checksum of the two above and the sequence | journal
event | checksum | 3 | <u8 | hash | checksum of every byte before batch_first | capture
detail | sequence | 3 | <i8 | sequence | as event | capture
detail | recorded_ns | 3 | <i8 | ns UTC | as event | capture
detail | kind | 3 | |u1 | Kind | 16 | producer
detail | side | 3 | |i1 | Side | 0 | producer
detail | flags | 3 | <u2 | Flag | as event | producer, capture
detail | group_index | 3 | <u2 | count | as event | producer
detail | group_count | 3 | <u2 | count | as event | producer
detail | epoch | 3 | <u4 | count | as event | capture
detail | intake | 3 | <u2 | ring | as event | capture
detail | leg | 3 | <u2 | count | as event | producer
detail | text | 3 | |u1(192) | bytes | part of the text, UTF-8 JSON, over the DETAILs of the group in order | producer
detail | batch_first | 3 | <i8 | sequence | as event | journal
detail | batch_last | 3 | <i8 | sequence | as event | journal
detail | batch_check | 3 | <u8 | hash | as event | journal
detail | checksum | 3 | <u8 | hash | as event | capture
reply | ticket | 1 | <i8 | cursor | intake record that this answers | capture
reply | sequence | 1 | <i8 | sequence | the event's; a duplicate's first; 0 when capture refused | capture
reply | code | 1 | <u2 | Code | reply code, see `pks codes` | capture, accumulator
reply | field | 1 | <u2 | number | offending field of event, from 1; 0 is none | capture
reply | status | 1 | |u1 | ReplyStatus | accepted, duplicate, refused | capture
reply | _reserved | 1 | |u1(3) | - | zero | -
reply | value | 1 | <i8 | - | the offending value, where a number says it | capture
reply | other | 1 | <i8 | sequence | second candidate of AMBIGUOUS_ORIGINAL, else 0 | capture
reply | _room | 1 | <u8(3) | - | zero | -
match | sequence | 3 | <i8 | sequence | the closing event; an amended trade keeps its original's | lots
match | cause | 3 | <i8 | sequence | the event that made this set: itself, or the correction | lots
match | recorded_ns | 3 | <i8 | ns UTC | when capture took the cause | capture
match | open_sequence | 3 | <i8 | sequence | the event that opened the lot | lots
match | book_id | 3 | <u4 | id | refdata row of the book | event
match | instrument_id | 3 | <u4 | id | refdata row of the instrument | event
match | qty_raw | 3 | <i8 | 10^-qty_scale | quantity taken, signed as the lot was | lots
match | open_price_raw | 3 | <i8 | 10^-price_scale | the lot's open price | lots
match | close_price_raw | 3 | <i8 | 10^-price_scale | the closing price | event
match | cost_hi | 3 | <i8 | 10^-money_scale | cost of the part, without multiplier; upper word | lots
match | cost_lo | 3 | <u8 | 10^-money_scale | lower word of cost | lots
match | realised_hi | 3 | <i8 | 10^-money_scale | realised P&L, gross, without multiplier; upper word | lots
match | realised_lo | 3 | <u8 | 10^-money_scale | lower word of realised P&L | lots
match | open_date | 3 | <i4 | days | the lot's date | lots
match | effective_date | 3 | <i4 | days | the closing event's date | event
match | index | 3 | <u4 | count | place in the set, from 0 | lots
match | count | 3 | <u4 | count | records of the set | lots
match | revision | 3 | <u4 | count | 0 the first time; a higher one replaces the set | lots
match | kind | 3 | |u1 | MatchKind | match, empty set, moved lot, refusal, flag, cash in lieu | lots
match | flags | 3 | |u1 | LotFlag | of the lot | lots
match | code | 3 | <u2 | Code | reply code of a refusal | lots
match | open_leg | 3 | <u2 | count | leg of the opening event | lots
match | price_scale | 3 | |u1 | digits | decimal places of prices | refdata
match | qty_scale | 3 | |u1 | digits | decimal places of quantities | refdata
match | money_scale | 3 | |u1 | digits | decimal places of money | refdata
match | _reserved | 3 | |u1(3) | - | zero | -
verdict | sequence | 1 | <i8 | sequence | the event judged | accumulator
verdict | code | 1 | <u4 | Code | 0 accepted, else the reply code | accumulator
verdict | _reserved | 1 | <u4 | - | zero | -
reject | number | 1 | <i8 | sequence | place in the stream, from 0 | capture
reject | recorded_ns | 1 | <i8 | ns UTC | when capture refused it | capture
reject | ticket | 1 | <i8 | sequence | the group's ticket in its intake ring | producer
reject | value | 1 | <i8 | - | the offending value, where a number says it | capture
reject | other | 1 | <i8 | sequence | the second candidate of AMBIGUOUS_ORIGINAL, else 0 | capture
reject | epoch | 1 | <u4 | count | the start of the program that refused it | capture
reject | intake | 1 | <u2 | count | the ring that it came through | capture
reject | code | 1 | <u2 | Code | why it was refused | capture
reject | field | 1 | <u2 | count | number of the offending field in EVENT, 0 is none | capture
reject | index | 1 | <u2 | count | place among the records told of the group, from 0 | capture
reject | count | 1 | <u2 | count | how many records are told of the group | capture
reject | _reserved | 1 | <u2 | - | zero | -
reject | original | 1 | |u1(256) | - | the EVENT or DETAIL as its source sent it | producer
reject | check | 1 | <u8 | - | checksum of every byte before it | capture
segment_header | magic | 1 | <u8 | - | "PKS-SEG1"; written last at creation | supervisor
segment_header | header_version | 1 | <i8 | count | version of this page | supervisor
segment_header | layout_name | 1 | |S32 | text | layout of the body | supervisor
segment_header | layout_version | 1 | <i8 | count | version of that layout | supervisor
segment_header | layout_hash | 1 | <u8 | hash | of names, types and places of its fields | supervisor
segment_header | body_bytes | 1 | <i8 | bytes | length behind this page | supervisor
segment_header | creator_pid | 1 | <i8 | pid | process that made it | supervisor
segment_header | epoch | 1 | <i8 | count | start of the program | supervisor
segment_header | created_ns | 1 | <i8 | ns monotonic | when it was made | supervisor
segment_header | _line_0 | 1 | <u8(4) | - | zero | -
segment_header | state | 1 | <i8 | SegmentState | 0 creating, 1 live, 2 closed | supervisor
segment_header | _line_1 | 1 | <u8(15) | - | zero | -
segment_header | heartbeat_ns | 1 | <i8 | ns monotonic | last sign of life; older than 1 s is stale | supervisor
segment_header | _line_2 | 1 | <u8(15) | - | zero | -
segment_header | counts | 1 | <i8(16) | count | sizes of the body's parts; slots: ranges, rows of each; rings: capacity | supervisor
segment_header | _reserved | 1 | <u8(448) | - | zero | -
ring_place | name | 1 | |S32 | text | whom the place is for | supervisor
ring_place | gating | 1 | <i8 | 0 or 1 | made to hold the writer back | supervisor
ring_place | semaphore | 1 | <i8 | number | semaphore that its reader sleeps on, plus 1; 0 is none | supervisor
ring_place | _reserved | 1 | <u8(2) | - | zero | -
stream_header | magic | 3 | <u8 | - | "PKSSSTR1" | writer
stream_header | layout_name | 3 | |S32 | text | layout of the records | writer
stream_header | layout_version | 3 | <i8 | count | version of that layout | writer
stream_header | layout_hash | 3 | <u8 | hash | of names, types and places of its fields | writer
stream_header | record_bytes | 3 | <i8 | bytes | record n lies at 4096 + n * record_bytes | writer
stream_header | _reserved | 3 | <u8(504) | - | zero | -
worker_report | version | 1 | <i8 | count | this copy's version | worker
worker_report | pid | 1 | <i8 | pid | its process | worker
worker_report | heartbeat_ns | 1 | <i8 | ns monotonic | last sign of life | worker
worker_report | started_ns | 1 | <i8 | ns monotonic | when it started | worker
worker_report | ready | 1 | <i8 | 0 or 1 | it has caught up | worker
worker_report | cursor | 1 | <i8 | sequence | last event that it finished | worker
worker_report | lag | 1 | <i8 | count | records that wait for it | worker
worker_report | work_count | 1 | <i8 | count | records since its start | worker
worker_report | last_error | 1 | |S128 | text | empty is none | worker
worker_report | _reserved | 1 | <u8(8) | - | zero | -
worker_watch | version | 1 | <i8 | count | this copy's version | supervisor
worker_watch | name | 1 | |S32 | text | the worker | supervisor
worker_watch | pid | 1 | <i8 | pid | its process | supervisor
worker_watch | state | 1 | <i8 | WorkerState | its life as the supervisor sees it | supervisor
worker_watch | restarts_count | 1 | <i8 | count | restarts | supervisor
worker_watch | core | 1 | <i8 | core | processor that it is pinned to, -1 is none | supervisor
worker_watch | since_ns | 1 | <i8 | ns monotonic | last change of state | supervisor
worker_watch | exit_code | 1 | <i8 | - | of the last end; minus the signal's number when one ended it | supervisor
worker_watch | last_error | 1 | |S128 | text | empty is none | supervisor
worker_watch | _reserved | 1 | <u8(5) | - | zero | -
cell_name | name | 1 | |S48 | text | the metric | its owner
cell_name | kind | 1 | <i8 | CellKind | counter, gauge, histogram; written last | its owner
cell_name | place | 1 | <i8 | count | word or histogram of the owner | its owner
"""
"""layout | name | tier | dtype | unit | meaning | source [| since [| until]], in a layout's order; since is 1 where left out."""


def _read(line: str) -> Field:
    # A dtype of one byte begins with "|" in numpy's spelling, which is our separator with no blank behind it.
    parts = [part.strip() for part in line.split(" | ")]
    layout, name, tier, dtype, unit, meaning, source, *versions = parts
    since, until = (int(versions[0]) if versions else 1), (int(versions[1]) if len(versions) > 1 else None)
    return Field(layout, name, int(tier), dtype, unit, meaning, source, since, until)


FIELDS = tuple(_read(line) for line in _ENTRIES.strip().splitlines())
"""Every field, layout by layout, in the order of the bytes."""

_LAYOUT_BY_NAME = {layout.name: layout for layout in LAYOUTS}
assert len(_LAYOUT_BY_NAME) == len(LAYOUTS), "a layout's name is its own"
assert all(field.layout in _LAYOUT_BY_NAME and field.tier in TIERS for field in FIELDS), "every entry belongs to a layout and a tier"


def layout_of(name: str) -> Layout:
    """The layout of this name; KeyError when there is none."""
    return _LAYOUT_BY_NAME[name]


def fields_of(layout: str) -> tuple[Field, ...]:
    """Fields of a layout in the order of the bytes, retired ones too; KeyError when there is no such layout."""
    layout_of(layout)
    return tuple(field for field in FIELDS if field.layout == layout)


def dtype_text(dtype: np.dtype[Any]) -> str:
    """A field's dtype as the catalogue spells it: "<i8", "|S48", "<u4(4)"."""
    base, shape = dtype.base, dtype.shape
    return base.str + ("(" + ",".join(map(str, shape)) + ")" if shape else "")


def described(field: Field) -> dict[str, Any]:
    """A field as `pks shm fields --json` prints it, with its place in the layout: offset_bytes and bytes."""
    places = layout_of(field.layout).dtype.fields
    assert places is not None, "layouts are structured"
    dtype, offset = places[field.name][:2]
    return {**asdict(field), "offset_bytes": int(offset), "bytes": int(dtype.itemsize)}
