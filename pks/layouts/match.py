"""MATCH: one record of the matches and transfers streams: what a closing event consumed, what a transfer moved, what was refused.

A set is all records of one (sequence, cause); `index` of `count`. A re-issued set replaces the one before it whole, has a higher
revision, and names the event that caused it. Money is without multiplier, at the instrument's money_scale.
"""

from __future__ import annotations

import numpy as np

MATCH_LAYOUT_VERSION = 1
MATCH = np.dtype(
    [
        ("sequence", "<i8"),  # the closing event (an amended trade keeps its original's)
        ("cause", "<i8"),  # the event that made this set: itself, the correction, or the late trade that opened its position
        ("recorded_ns", "<i8"),  # when capture took the cause
        ("open_sequence", "<i8"),  # the event that opened the lot
        ("book_id", "<u4"),
        ("instrument_id", "<u4"),
        ("qty_raw", "<i8"),  # signed as the lot was
        ("open_price_raw", "<i8"),
        ("close_price_raw", "<i8"),
        ("cost_hi", "<i8"),
        ("cost_lo", "<u8"),
        ("realised_hi", "<i8"),
        ("realised_lo", "<u8"),
        ("open_date", "<i4"),
        ("effective_date", "<i4"),
        ("index", "<u4"),
        ("count", "<u4"),
        ("revision", "<u4"),  # 0 the first time
        ("kind", "u1"),  # codes.MatchKind
        ("flags", "u1"),  # codes.LotFlag of the lot
        ("code", "<u2"),  # base.errors.Code of a REFUSED
        ("open_leg", "<u2"),
        ("price_scale", "u1"),
        ("qty_scale", "u1"),
        ("money_scale", "u1"),
        ("_reserved", "u1", (3,)),
    ]
)
assert MATCH.itemsize == 128, "two cache lines a match"
MATCH_WORDS = MATCH.itemsize // 8

VERDICT = np.dtype([("sequence", "<i8"), ("code", "<u4"), ("_reserved", "<u4")])
assert VERDICT.itemsize == 16, "four verdicts a cache line"
