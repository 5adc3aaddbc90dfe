"""The slots that any process on the host reads: one position per (book, instrument), one quantity per account of it.

A slot's copy begins with its version; tier 0 of the field catalogue is its first cache line. Money is without multiplier and quote
factor, at money_scale; fees are at FEE_SCALE.
"""

from __future__ import annotations

import numpy as np

from pks.layouts.refdata import ROW

POSITION_LAYOUT_VERSION = 1
FEE_SCALE = 18
POSITION_FIELDS = [
    ("version", "<i8"),  # this copy's version; copy (version & 1) is the stable one
    ("book_id", "<u4"),
    ("instrument_id", "<u4"),
    ("qty_raw", "<i8"),  # signed, qty_scale
    ("cost_hi", "<i8"),  # of the open lots, signed as the quantity
    ("cost_lo", "<u8"),
    ("realised_hi", "<i8"),  # gross, cumulative
    ("realised_lo", "<u8"),
    ("last_sequence", "<i8"),  # the event that this reflects
    # second cache line
    ("event_time_ns", "<i8"),  # trade_time of the last trade
    ("recorded_ns", "<i8"),  # when capture took the last event
    ("clearing_cost_hi", "<i8"),  # futures: cost since the last clearing
    ("clearing_cost_lo", "<u8"),
    ("variation_hi", "<i8"),  # futures: variation margin, cumulative
    ("variation_lo", "<u8"),
    ("last_price_raw", "<i8"),  # of the last trade
    ("open_lots", "<u4"),
    ("price_scale", "u1"),
    ("qty_scale", "u1"),
    ("money_scale", "u1"),
    ("flags", "u1"),  # codes.PositionFlag
    # third and fourth: fees by currency
    ("fee_currency_id", "<u4", (4,)),  # 0 is none
    ("fees_hi", "<i8", (4,)),
    ("fees_lo", "<u8", (4,)),
    ("trades_count", "<i8"),
    ("_reserved", "<u8", (5,)),
]
POSITION_SLOT = np.dtype(POSITION_FIELDS)
assert POSITION_SLOT.itemsize == 256, "four cache lines a copy"
POSITION_WORDS = POSITION_SLOT.itemsize // 8
assert POSITION_SLOT.fields is not None and POSITION_SLOT.fields["event_time_ns"][1] == 64, "tier 0 is the first line"

ACCOUNT_LAYOUT_VERSION = 1
ACCOUNT_SLOT = np.dtype(
    [
        ("version", "<i8"),
        ("book_id", "<u4"),
        ("instrument_id", "<u4"),
        ("account_id", "<u4"),
        ("qty_scale", "u1"),
        ("_reserved", "u1", (3,)),
        ("qty_raw", "<i8"),
        ("last_sequence", "<i8"),
        ("_room", "<u8", (3,)),
    ]
)
assert ACCOUNT_SLOT.itemsize == 64, "one cache line a copy"
ACCOUNT_WORDS = ACCOUNT_SLOT.itemsize // 8

UPDATE_LAYOUT_VERSION = 1
UPDATE = np.dtype([("sequence", "<i8"), ("slot", "<u4"), ("shard", "<u4")])
"""One record of an updates ring: row `slot` of the positions table changed by event `sequence`. A late reader re-reads slots."""
assert UPDATE.itemsize == 16, "four updates a cache line"
UPDATE_WORDS = UPDATE.itemsize // 8

assert ROW.names is not None and ROW.names[-1] == "_reserved", "the slot takes one word of the row's reserve"
REFDATA_SLOT = np.dtype([("version", "<i8"), *ROW.descr[:-1], ("_reserved", "<u8", (7,))])
"""A refdata.ROW behind its version: same fields, eight bytes further on. Index key: (subject, row_id)."""
assert REFDATA_SLOT.itemsize == ROW.itemsize, "eight cache lines a copy"
REFDATA_WORDS = REFDATA_SLOT.itemsize // 8
