"""The kernels that a reader of the host's read-only mappings calls, compiled or loaded once in the zygote, so that a fork finds them.

They are named with the types of their arguments and not called: most want a segment of a running system.
"""

from __future__ import annotations

from typing import Any

from numba import types

from pks.client import kernels
from pks.segments import atomics, ring, shm, slots

WORD = types.int64
WORDS, TABLE = types.Array(WORD, 1, "C"), types.Array(WORD, 2, "C")
SHOWN, SHOWN_TABLE, SHOWN_TABLES = (types.Array(WORD, dimensions, "C", readonly=True) for dimensions in (1, 2, 3))
"""Arrays of our own; and arrays over a mapping that we may not write."""

READERS: tuple[tuple[Any, tuple[Any, ...]], ...] = (
    (atomics.read_word, (SHOWN, WORD)),
    (kernels.clock_ns, (WORDS,)),
    (kernels.read_held, (SHOWN, WORD, WORDS)),
    (kernels.rows_between, (SHOWN_TABLE, WORD, WORDS, WORDS)),
    (kernels.updates_changed, (SHOWN, SHOWN_TABLE, SHOWN_TABLE, WORDS, WORDS, WORDS, WORD)),
    (ring.ring_cursor, (SHOWN, WORD)),
    (ring.ring_head, (SHOWN,)),
    (ring.ring_kept, (SHOWN, WORD)),
    (ring.ring_oldest, (SHOWN,)),
    (shm.host_state, (SHOWN, WORD)),
    (slots.rows_used, (SHOWN_TABLE, SHOWN_TABLE, WORDS)),
    (slots.slot_find, (SHOWN_TABLE, WORD)),
    (slots.slot_find_any, (SHOWN_TABLES, WORD)),
    (slots.slot_version, (SHOWN_TABLE, WORD)),
    (slots.slots_snapshot_live, (SHOWN, SHOWN_TABLE, WORDS, TABLE, WORDS, WORD, WORD)),
)


def warm_reader() -> None:
    """Have them all."""
    for kernel, arguments in READERS:
        kernel.compile(arguments)
