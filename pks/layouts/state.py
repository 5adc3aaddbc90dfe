"""The accumulator's own state: keys, lots, account quantities, moved lots. Written to checkpoints, read by no other process.

A KEY begins with the bytes of its POSITION_SLOT, so publishing a position is one copy. Lots of a key form a list in (lot date,
sequence, leg) order through `older`/`newer`; a HIFO key threads a pairing heap through the same rows.
"""

from __future__ import annotations

import numpy as np

from pks.layouts.slots import POSITION_FIELDS, POSITION_WORDS

STATE_LAYOUT_VERSION = 1

KEY = np.dtype(
    [
        *POSITION_FIELDS,
        ("oldest", "<i4"),  # lot rows, -1 is none
        ("newest", "<i4"),
        ("heap", "<i4"),  # root of the HIFO heap
        ("accounts", "<i4"),  # first row of this key's account quantities
        ("chain", "<i8"),  # last sequence of the key's own chain
        ("other_chain", "<i8"),  # last sequence of the instrument's chain seen by this key
        ("last_date", "<i4"),  # latest effective date applied
        ("dirty_date", "<i4"),  # earliest effective date that waits for a re-derivation
        ("dirty", "u1"),
        ("method", "u1"),  # the method that its open lots are ordered by
        ("pending_moves", "u1"),
        ("_pad", "u1", (5,)),
        ("cause", "<i8"),  # last correction that waits
        ("judged", "<i8"),  # every event of the key up to this sequence has its verdict
        ("slot", "<i4"),  # index of its slot in the shard's range, -1 before it is published
        ("anchor", "<i4"),  # newest anchor, -1 is none
        ("anchors_count", "<i4"),
        ("_pad2", "<i4"),
        ("changed", "<i8"),  # run in which it last changed: publishes a key once a run
        ("next_of_instrument", "<i4"),  # next key of the same instrument
        ("next_of_book", "<i4"),
        ("_private", "<u8", (4,)),
    ]
)
assert KEY.itemsize == 384, "six cache lines a key"
KEY_WORDS = KEY.itemsize // 8
assert KEY.fields is not None and KEY.fields["oldest"][1] == POSITION_WORDS * 8, "the slot's bytes come first"

LOT = np.dtype(
    [
        ("qty_raw", "<i8"),  # signed
        ("cost_hi", "<i8"),
        ("cost_lo", "<i8"),  # bit pattern
        ("price_raw", "<i8"),  # open price, for display; exact while EXACT is set
        ("open_sequence", "<i8"),  # with open_leg: the lot's id
        ("order_sequence", "<i8"),  # its place among lots of one date: the opening's, or the transfer's that moved it
        ("open_date", "<i4"),
        ("open_leg", "<u2"),
        ("flags", "u1"),  # codes.LotFlag
        ("_pad", "u1"),
        ("older", "<i4"),  # list links; `newer` is the next free row of an unused lot
        ("newer", "<i4"),
        ("child", "<i4"),  # heap links
        ("sibling", "<i4"),
        ("back", "<i4"),  # left sibling, or the parent of a first child
        ("key", "<i4"),
        ("_room", "<u8", (2,)),
    ]
)
assert LOT.itemsize == 96, "a line and a half a lot"

ACCOUNT = np.dtype(
    [
        ("qty_raw", "<i8"),
        ("last_sequence", "<i8"),
        ("account_id", "<u4"),
        ("next", "<i4"),  # next account of the key, ascending by id, -1 ends
        ("slot", "<i4"),
        ("_pad", "<i4"),
    ]
)
assert ACCOUNT.itemsize == 32, "two a line"
