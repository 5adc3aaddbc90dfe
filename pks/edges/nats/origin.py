"""Who we are to others on NATS: 12 hex digits made of the journal's first event, so that they last as long as what they number.

A system whose journal is begun anew is another one; a standby that follows the same events is the same one. Pure.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from pks.layouts.event import CHECKED_WORDS

ORIGIN_BYTES = 6
_KEY_MAGIC = 0x504B  # "PK": the upper 16 bits of a key that says where a correction was booked first
_SEQUENCES = 1 << 48
_WORD = (1 << 64) - 1


def origin_of(first_event: Any) -> str:
    """The origin of a system whose event 1 this is (one EVENT)."""
    content = first_event.tobytes()[: CHECKED_WORDS * 8]
    return blake2b(content, digest_size=ORIGIN_BYTES, person=b"pks origin v1").hexdigest()


def root_key(origin: str, sequence: int) -> tuple[int, int]:
    """(hi, lo), unsigned: the own key of a correction that system `origin` booked as event `sequence`. Raises ValueError."""
    if len(origin) != 2 * ORIGIN_BYTES or not 0 < sequence < _SEQUENCES:
        raise ValueError(f"no origin and sequence: {origin!r}, {sequence}")
    return _KEY_MAGIC << 48 | int(origin, 16), sequence


def root_of(hi: int, lo: int) -> str:
    """ "origin:sequence" of a key made by `root_key`, "" for another one (any 64-bit words, signed or not)."""
    hi, lo = hi & _WORD, lo & _WORD
    if hi >> 48 != _KEY_MAGIC or not 0 < lo < _SEQUENCES:
        return ""
    return f"{hi & (_SEQUENCES - 1):012x}:{lo}"
