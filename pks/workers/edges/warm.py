"""The kernels that an edge's worker calls, called once in the zygote so that a fork finds them compiled."""

from __future__ import annotations

import numpy as np

from pks.layouts.segment import SEGMENT_HEADER_BYTES
from pks.layouts.slots import POSITION_WORDS
from pks.segments.slots import (
    TRIES_PYTHON,
    VERSION_WORDS,
    pack_key,
    rows_used,
    slot_find_any,
    slot_read_live,
    slots_snapshot_live,
)
from pks.workers.warm import warm_fold, warm_rings


def warm_feed() -> None:
    """What `Feed` calls: folds, rings and streams, and the slots of reference data and of workers; positions too."""
    warm_fold()
    warm_rings()
    slots = np.zeros((4, VERSION_WORDS + 2 * POSITION_WORDS), np.int64)
    rows = np.empty(4, np.int64)
    used = int(rows_used(slots, np.zeros((1, 16), np.int64), rows))
    assert used == 0, "an empty table has no rows"
    header, wanted = np.zeros(SEGMENT_HEADER_BYTES // 8, np.int64), np.zeros(1, np.int64)
    slots_snapshot_live(header, slots, wanted, np.zeros((1, POSITION_WORDS), np.int64), np.zeros(1, np.int64), 0, TRIES_PYTHON)
    slot_find_any(np.zeros((1, 8, 2), np.int64), pack_key(1, 1))
    slot_read_live(header, slots, 0, np.zeros(POSITION_WORDS, np.int64), 0, TRIES_PYTHON)
