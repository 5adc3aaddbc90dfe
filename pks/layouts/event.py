"""EVENT: the 256-byte record of the events ring, the intake rings and the journal; and REPLY, the answer to a producer.

The journal keeps these bytes for ever: a field is never moved, a code never reused. A DETAIL shares the head and tail of an EVENT and
carries text between them. Producers fill head and body of an intake record, capture fills the rest, and the journal the batch fields.
"""

from __future__ import annotations

import numpy as np

EVENT_BYTES = 256
EVENT_WORDS = EVENT_BYTES // 8
EVENT_LAYOUT_VERSION = 1

_HEAD = [
    ("sequence", "<i8"),  # place in the total order, from 1; 0 in an intake record
    ("recorded_ns", "<i8"),  # when capture took it, UTC, never before the last one's
    ("kind", "u1"),  # codes.Kind
    ("side", "i1"),  # codes.Side
    ("flags", "<u2"),  # codes.Flag
    ("group_index", "<u2"),  # place in the group, from 0
    ("group_count", "<u2"),  # records of the group; 1 for an event that stands alone
    ("epoch", "<u4"),  # the start of the program that sequenced it
    ("intake", "<u2"),  # the ring that it came through
    ("leg", "<u2"),  # leg of the venue's fill; part of the key
]
_TAIL = [
    ("batch_first", "<i8"),  # first and last sequence of the journal's batch: written by journal
    ("batch_last", "<i8"),
    ("batch_check", "<u8"),  # checksum of the two above and the sequence
    ("checksum", "<u8"),  # of every byte before the tail
]
EVENT = np.dtype(
    [
        *_HEAD,
        ("trade_time_ns", "<i8"),  # UTC, the venue's clock
        ("key_hi", "<u8"),  # idempotency key: hash of (trade_id, leg); a correction's is its original's
        ("key_lo", "<u8"),
        ("second_key_hi", "<u8"),  # a command's own key (Idempotency-Key header, lifecycle key); 0 is none
        ("second_key_lo", "<u8"),
        ("original", "<i8"),  # sequence of the trade that a correction names, or of the block of an ALLOCATION
        ("lot", "<i8"),  # specific lot: sequence of its opening event; 0 is none
        ("previous", "<i8"),  # the event before this one of (book, instrument); 0 is none
        ("previous_other", "<i8"),  # the same for the receiver's key of a TRANSFER, else for the instrument's own chain
        ("qty_raw", "<i8"),  # unsigned, qty_scale; ACTION: numerator (new)
        ("price_raw", "<i8"),  # price_scale; ACTION: denominator (old)
        ("fee_raw", "<i8"),  # fee_scale, > 0 costs; ACTION: cash price at price_scale
        ("book_id", "<u4"),
        ("to_book_id", "<u4"),
        ("instrument_id", "<u4"),
        ("account_id", "<u4"),
        ("to_account_id", "<u4"),
        ("subject", "<u4"),  # REFDATA: codes.Subject, the row's id being in `original`
        ("source_id", "<u4"),
        ("fee_currency_id", "<u4"),
        ("effective_date", "<i4"),  # days since 1970-01-01
        ("lot_date", "<i4"),
        ("settle_date", "<i4"),  # 0 is unknown
        ("discriminator", "<u4"),  # hash of source and of what this source's ids recur over
        ("price_scale", "u1"),  # the scales that the raw values were made with
        ("qty_scale", "u1"),
        ("money_scale", "u1"),
        ("fee_scale", "u1"),
        ("lot_leg", "<u2"),  # specific lot: leg of its opening (0, or 2 for one that a flip opened)
        ("detail_bytes", "<u2"),  # length of the text in the DETAIL records that follow
        ("trade_id", "S40"),  # ASCII or UTF-8; a longer one is '#' and its digest here, whole in the DETAIL
        *_TAIL,
    ]
)
assert EVENT.itemsize == EVENT_BYTES, "four cache lines an event"

DETAIL_TEXT_BYTES = 192
DETAIL = np.dtype([*_HEAD, ("text", "u1", (DETAIL_TEXT_BYTES,)), *_TAIL])
assert DETAIL.itemsize == EVENT_BYTES, "a DETAIL fills one record"
assert DETAIL.fields is not None and EVENT.fields is not None, "structured"
assert DETAIL.fields["batch_first"][1] == EVENT.fields["batch_first"][1], "journal writes both alike"

CHECKED_WORDS = EVENT.fields["batch_first"][1] // 8  # words that `checksum` covers
BATCH_FIRST_WORD = CHECKED_WORDS
BATCH_LAST_WORD = CHECKED_WORDS + 1
BATCH_CHECK_WORD = CHECKED_WORDS + 2
CHECKSUM_WORD = CHECKED_WORDS + 3
assert CHECKSUM_WORD == EVENT_WORDS - 1, "the checksum is the last word"

REPLY = np.dtype(
    [
        ("ticket", "<i8"),  # cursor of the intake record that this answers
        ("sequence", "<i8"),  # of the event; of the first one for a duplicate; 0 when refused by capture
        ("code", "<u2"),  # base.errors.Code
        ("field", "<u2"),  # number of the offending field in EVENT, 0 is none
        ("status", "u1"),  # ReplyStatus
        ("_reserved", "u1", (3,)),
        ("value", "<i8"),  # the offending value, where a number says it
        ("other", "<i8"),  # the second candidate of AMBIGUOUS_ORIGINAL, else 0
        ("_room", "<u8", (3,)),
    ]
)
assert REPLY.itemsize == 64, "one cache line a reply"
REPLY_WORDS = REPLY.itemsize // 8

assert EVENT.names is not None, "structured"
FIELD_NUMBER = {name: number for number, name in enumerate(EVENT.names, start=1)}
FIELD_NAME = {number: name for name, number in FIELD_NUMBER.items()}

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
