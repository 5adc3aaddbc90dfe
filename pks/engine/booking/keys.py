"""Idempotency keys: 128 bits of (trade id, leg), and a discriminator of the source and what its ids recur over.

A correction finds its trade by id alone, so the source is in the discriminator and not in the key. Source: design.md section 2.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import hashlib
from base64 import b32encode

import numpy as np

from pks.base.kernels import kernel
from pks.base.units import mix_64
from pks.layouts.codes import Recurs
from pks.layouts.event import EVENT

ID_FIELD = EVENT["trade_id"]
ID_BYTES = ID_FIELD.itemsize
ID_WORDS = ID_BYTES // 8
assert EVENT.fields is not None, "structured"
ID_WORD = EVENT.fields["trade_id"][1] // 8  # first word of the id in a record
assert EVENT.fields["trade_id"][1] % 8 == 0, "ids are hashed by words"
LONG_ID_MARK = b"#"
NO_LOT = 2**62  # `lot` of an event that names a lot which capture does not know: no opening has that sequence
ACCOUNT, INSTRUMENT, SIDE, DATE = int(Recurs.ACCOUNT), int(Recurs.INSTRUMENT), int(Recurs.SIDE), int(Recurs.DATE)


@kernel
def trade_key(words, row, leg):
    """(hi, lo) of the record at `words[row]` (int64[n, 32]); never (0, 0)."""
    hi, lo = mix_64(np.int64(0x5F17) + leg), mix_64(np.int64(0x2E09) ^ leg)
    for i in range(ID_WORDS):
        word = words[row, ID_WORD + i]
        hi = mix_64(hi ^ word)
        lo = mix_64((lo << 1) ^ word ^ hi)
    return hi, lo | 1


@kernel
def discriminator(source_id, recurs, account_id, instrument_id, side, date):
    """32 bits, > 0: equal for two records only if one source gave them and they agree in what its ids recur over."""
    value = mix_64(np.int64(source_id) + 1)
    if recurs & ACCOUNT:
        value = mix_64(value ^ (np.int64(account_id) + (1 << 40)))
    if recurs & INSTRUMENT:
        value = mix_64(value ^ (np.int64(instrument_id) + (2 << 40)))
    if recurs & SIDE:
        value = mix_64(value ^ (np.int64(side) + (3 << 40)))
    if recurs & DATE:
        value = mix_64(value ^ (np.int64(date) + (4 << 40)))
    return (value & 0x7FFFFFFF) | 1


def inline_id(trade_id: str) -> bytes:
    """The id as it stands in a record: itself when it fits, else '#' and the base32 of its 160-bit digest (whole in the DETAIL)."""
    raw = trade_id.encode()
    if len(raw) <= ID_BYTES and not raw.startswith(LONG_ID_MARK):
        return raw
    return LONG_ID_MARK + b32encode(hashlib.blake2b(raw, digest_size=20).digest())
