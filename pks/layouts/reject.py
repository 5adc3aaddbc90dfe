"""REJECT: one record of the rejects stream: an intake record that capture refused, as it came, and why.

A refused group is as many records as it had, at most GROUP_RECORDS_TOLD_MAX, one behind the other; `index` of `count`. The file behind the
stream is not flushed to the disk: each record carries its own number and a check over its bytes, so that what a power cut left can be told
from what was written. (epoch, number) is never used for two contents.
"""

from __future__ import annotations

import numpy as np

from pks.layouts.event import EVENT, EVENT_BYTES

REJECT_LAYOUT_VERSION = 1
REJECT = np.dtype(
    [
        ("number", "<i8"),  # place in the stream, from 0
        ("recorded_ns", "<i8"),  # when capture refused it, UTC
        ("ticket", "<i8"),  # of the group: as in its REPLY
        ("value", "<i8"),  # as in its REPLY
        ("other", "<i8"),  # as in its REPLY
        ("epoch", "<u4"),  # the start of the program that refused it
        ("intake", "<u2"),  # the ring that it came through
        ("code", "<u2"),  # base.errors.Code
        ("field", "<u2"),  # number of the offending field in EVENT, 0 is none
        ("index", "<u2"),  # place among the records that are told of the group, from 0
        ("count", "<u2"),  # how many these are
        ("_reserved", "<u2"),
        ("original", "u1", (EVENT_BYTES,)),  # the EVENT or DETAIL as its source sent it
        ("check", "<u8"),  # of every byte before it
    ]
)
assert REJECT.itemsize == 320, "five cache lines a refused record"
REJECT_WORDS = REJECT.itemsize // 8

assert REJECT.fields is not None and EVENT.fields is not None, "structured"
ORIGINAL_WORD = REJECT.fields["original"][1] // 8
CHECK_WORD = REJECT.fields["check"][1] // 8
assert REJECT.fields["original"][1] % 8 == 0, "an EVENT is copied by words"
assert CHECK_WORD == REJECT_WORDS - 1, "the check is the last word"

DATES_WORD = EVENT.fields["effective_date"][1] // 8
assert EVENT.fields["lot_date"][1] // 8 == DATES_WORD, "both dates that capture fills in lie in one word of an EVENT"
