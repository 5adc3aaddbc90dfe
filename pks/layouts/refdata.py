"""Reference data as kernels see it (POLICY rows) and as every process reads it (`/pks-refdata-v1` rows).

A POLICY row is derived from a definition by `engine.instruments`; an accumulator keeps its own copy, because it must see a change at
the change's place in the order and not when it reaches the segment.
"""

from __future__ import annotations

import numpy as np

REFDATA_LAYOUT_VERSION = 1

INSTRUMENT_POLICY = np.dtype(
    [
        ("known", "u1"),
        ("contract", "u1"),  # codes.Contract
        ("price_scale", "u1"),
        ("qty_scale", "u1"),
        ("money_scale", "u1"),
        ("negative_price", "u1"),
        ("zero_price", "u1"),
        ("cleared", "u1"),  # a future: keeps a cost since the last clearing
        ("asset_class_id", "<u4"),
        ("pnl_currency_id", "<u4"),  # currency of cost and realised P&L
        ("base_currency_id", "<u4"),  # the traded asset, 0 when it is no currency
        ("_pad", "<u4"),
        ("value_digits", "<i8"),  # value = qty x price x 10**value_digits (linear); qty x 10**value_digits / price (inverse)
        ("multiplier_numerator", "<i8"),  # multiplier x quote factor, exact
        ("multiplier_denominator", "<i8"),
        ("chain", "<i8"),  # last event of the instrument's own chain
        ("last_action_date", "<i4"),
        ("first_key", "<i4"),  # first key row of the instrument, -1 is none
    ]
)
assert INSTRUMENT_POLICY.itemsize == 64, "one cache line an instrument"

BOOK_POLICY = np.dtype(
    [
        ("known", "u1"),
        ("oversell", "u1"),  # codes.Oversell
        ("fees_in_cost", "u1"),
        ("_pad", "u1"),
        ("zone_id", "<u4"),
        ("entity_id", "<u4"),
        ("first_key", "<i4"),
    ]
)
assert BOOK_POLICY.itemsize == 16, "four books a cache line"

METHOD_CHANGE = np.dtype(
    [
        ("book_id", "<u4"),
        ("asset_class_id", "<u4"),  # 0 is the book's own
        ("effective_date", "<i4"),
        ("method", "<i4"),  # codes.Method
        ("sequence", "<i8"),
    ]
)
assert METHOD_CHANGE.itemsize == 24, "a change of lot method"

CODE_BYTES = 48
ROW = np.dtype(
    [
        ("row_id", "<u4"),  # given once, never reused; 0 is no row
        ("subject", "<u4"),  # codes.Subject
        ("last_sequence", "<i8"),  # the REFDATA event that this row reflects
        ("code", f"S{CODE_BYTES}"),  # the id that people use: RU-EQ, SBER.MOEX, NSD-RU-01, RUB
        ("symbol", "S48"),
        ("isin", "S12"),
        ("figi", "S12"),
        ("cusip", "S12"),
        ("ric", "S28"),
        ("asset_class", "S24"),
        ("currency", "S12"),  # instruments: of the price; books: of reports
        ("pnl_currency", "S12"),
        ("base_currency", "S12"),
        ("parent", "S48"),  # entity of a book or account
        ("group", "S32"),  # desk of a book
        ("zone", "S32"),
        ("underlying", "S36"),
        ("contract", "u1"),
        ("price_scale", "u1"),
        ("qty_scale", "u1"),
        ("money_scale", "u1"),
        ("negative_price", "u1"),
        ("method", "u1"),
        ("oversell", "u1"),
        ("fees_in_cost", "u1"),
        ("asset_class_id", "<u4"),
        ("recurs", "<u4"),  # a source: over what its ids recur (bits of codes.Recurs)
        ("multiplier_numerator", "<i8"),
        ("multiplier_denominator", "<i8"),
        ("entity_id", "<u4"),
        ("currency_id", "<u4"),
        ("pnl_currency_id", "<u4"),
        ("base_currency_id", "<u4"),
        ("cleared", "u1"),
        ("zero_price", "u1"),
        ("_pad", "u1", (6,)),
        ("definition_sequence", "<i8"),  # where the whole definition stands in the journal
        ("_reserved", "<u8", (8,)),
    ]
)
assert ROW.itemsize == 512, "eight cache lines a row"
