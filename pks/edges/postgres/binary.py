"""Rows of a table as the bytes of `COPY ... (FORMAT BINARY)`, made by whole columns.

Owns Postgres' binary forms of the types that our tables have. A column is a matrix of bytes, one line a row, with a mask of those that
count; the rows of a table are the lines' bytes that count, in order. Nothing here looks at one row after another, but `tail`. It knows no
table and no connection.

Source: PostgreSQL documentation, COPY, "Binary Format"; src/backend/utils/adt/numeric.c, numeric_recv (groups of four decimal digits).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
POSTGRES_EPOCH_DATE = 10_957  # 2000-01-01, in days since 1970-01-01
POSTGRES_EPOCH_US = POSTGRES_EPOCH_DATE * 86_400_000_000
NUMERIC_NEGATIVE = 0x4000

LIMB_BITS = 32
LIMB_MASK = np.uint64(2**LIMB_BITS - 1)
GROUP_DIGITS = 4
STEP = np.uint64(10 ** (2 * GROUP_DIGITS))
"""Digits are taken eight at a time: a remainder below it and a limb behind it fit 64 bits."""

FACTOR_MAX = 2**31
"""Factors of a numeric column are below it: with the padding by up to 1000 a limb's product and carry fit 64 bits."""


class Column(NamedTuple):
    """data: uint8[rows, width] with the length in front; counts: bool[rows, width] of the bytes that are there, None for all."""

    data: Any
    counts: Any


def _fixed(values: Any, form: str, null: Any = None) -> Column:
    width = np.dtype(form).itemsize
    data = np.empty((len(values), 4 + width), np.uint8)
    data[:, :4] = (0, 0, 0, width)
    data[:, 4:] = np.ascontiguousarray(values, form).view(np.uint8).reshape(len(values), width)
    return _with_nulls(Column(data, None), null)


def _with_nulls(column: Column, null: Any) -> Column:
    """Where `null` (bool[rows], None for nowhere) is true there is a length of -1 and no more."""
    if null is None or not null.any():
        return column
    counts = np.ones(column.data.shape, np.bool_) if column.counts is None else column.counts
    column.data[null, :4] = 255
    counts[null, 4:] = False
    return Column(column.data, counts)


def bigints(values: Any, null: Any = None) -> Column:
    """int64[rows] as bigint."""
    return _fixed(values, ">i8", null)


def integers(values: Any, null: Any = None) -> Column:
    """int32[rows] as integer."""
    return _fixed(values, ">i4", null)


def booleans(values: Any) -> Column:
    """bool[rows] as boolean."""
    return _fixed(values, "u1")


def dates(values: Any, null: Any = None) -> Column:
    """Days since 1970-01-01 as date."""
    return _fixed(np.asarray(values, np.int64) - POSTGRES_EPOCH_DATE, ">i4", null)


def times(values_ns: Any, null: Any = None) -> Column:
    """Nanoseconds UTC as timestamptz, cut to microseconds."""
    return _fixed(np.asarray(values_ns, np.int64) // 1000 - POSTGRES_EPOCH_US, ">i8", null)


def texts(values: Any, null: Any = None) -> Column:
    """Byte strings (dtype S, UTF-8 without NUL) as text."""
    values = np.ascontiguousarray(values)
    lengths = np.char.str_len(values)
    width = int(lengths.max(initial=0))  # codes have room for much more than most need
    data = np.empty((len(values), 4 + width), np.uint8)
    data[:, :4] = lengths.astype(">i4").view(np.uint8).reshape(-1, 4)
    data[:, 4:] = values.view(np.uint8).reshape(len(values), -1)[:, :width]
    if width and int(lengths.min()) == width:
        return _with_nulls(Column(data, None), null)
    counts = np.ones(data.shape, np.bool_)
    counts[:, 4:] = np.arange(width) < lengths[:, None]
    return _with_nulls(Column(data, counts), null)


def nulls(count: int) -> Column:
    """Null in every row, of any type."""
    return Column(np.full((count, 4), 255, np.uint8), None)


def texts_or_null(values: Any) -> Column:
    """As `texts`; an empty one is null."""
    return texts(values, np.char.str_len(values) == 0)


def numerics(raw: Any, scale: Any, null: Any = None) -> Column:
    """int64[rows] at decimal scales (uint8[rows]) as numeric, with that many places."""
    limbs = limbs_of(np.asarray(raw, np.int64) >> 63, np.asarray(raw, np.int64).view(np.uint64))
    return _with_nulls(_numeric(limbs[0], limbs[1][:2], np.asarray(scale, np.int64), None), null)


def big_numerics(hi: Any, lo: Any, scale: Any, factor: Any) -> Column:
    """128-bit integers (hi int64[rows], lo uint64[rows]) times factor (uint64[rows], 0 < factor < FACTOR_MAX) at `scale` as numeric."""
    negative, limbs = limbs_of(np.asarray(hi, np.int64), np.asarray(lo, np.uint64))
    return _numeric(negative, limbs, np.asarray(scale, np.int64), factor)


def exact_numerics(values: Sequence[int], scale: Any) -> Column:
    """Integers of any size at `scale` as numeric, one after another."""
    most = max((abs(value).bit_length() for value in values), default=0)
    limbs = [np.array([abs(value) >> at & int(LIMB_MASK) for value in values], np.uint64) for at in range(0, most + 1, LIMB_BITS)]
    return _numeric(np.array([value < 0 for value in values], np.bool_), limbs, np.asarray(scale, np.int64), None)


def limbs_of(hi: Any, lo: Any) -> tuple[Any, list[Any]]:
    """(which are negative, the magnitudes in four 32-bit limbs, least first) of two's complement integers of 128 bits."""
    negative = hi < 0
    low = np.where(negative, ~lo + np.uint64(1), lo)
    high = np.where(negative, ~hi.view(np.uint64) + (low == 0), hi.view(np.uint64))
    shift = np.uint64(LIMB_BITS)
    return negative, [low & LIMB_MASK, low >> shift, high & LIMB_MASK, high >> shift]


def _numeric(negative: Any, limbs: list[Any], scale: Any, factor: Any) -> Column:
    """The magnitudes times factor (None: 1) with `scale` decimal places; groups of four digits begin at the point."""
    pad = -scale % GROUP_DIGITS
    bits = LIMB_BITS * len(limbs) + 10 + (0 if factor is None else 31)
    multiplier = 10 ** pad.astype(np.uint64) * (np.uint64(1) if factor is None else np.asarray(factor, np.uint64))
    limbs = _times(limbs, multiplier, -(-bits // LIMB_BITS))
    steps = int(-(-bits * 0.302 // (2 * GROUP_DIGITS)))
    groups = 2 * steps
    data = np.empty((len(scale), 4 + 8 + 2 * groups), np.uint8)
    head = np.empty((len(scale), 4), ">i2")
    head[:, 0], head[:, 1] = groups, groups - 1 - (scale + pad) // GROUP_DIGITS
    head[:, 2], head[:, 3] = np.where(negative, NUMERIC_NEGATIVE, 0), scale
    digits = np.empty((len(scale), groups), ">i2")
    for step in range(steps):
        limbs, rest = _divided(limbs)
        digits[:, groups - 1 - 2 * step] = rest % np.uint64(10**GROUP_DIGITS)
        digits[:, groups - 2 - 2 * step] = rest // np.uint64(10**GROUP_DIGITS)
    assert not any(limb.any() for limb in limbs), "all digits were taken"
    data[:, :4] = (0, 0, 0, 8 + 2 * groups)
    data[:, 4:12] = head.view(np.uint8)
    data[:, 12:] = digits.view(np.uint8)
    return Column(data, None)


def _times(limbs: list[Any], multiplier: Any, count: int) -> list[Any]:
    """The product in `count` limbs; multiplier < 2**42, so it goes in two parts of less than 2**31."""
    low, high = multiplier & np.uint64(2**21 - 1), multiplier >> np.uint64(21)
    made, carry, before = [], np.zeros(len(multiplier), np.uint64), np.zeros(len(multiplier), np.uint64)
    shift = np.uint64(LIMB_BITS)
    for at in range(count):
        limb = limbs[at] if at < len(limbs) else np.zeros(len(multiplier), np.uint64)
        # high << 21 of this limb: its low 11 bits of the limb stay in place, the rest belongs to the next one
        total = limb * low + ((limb * high & np.uint64(2**11 - 1)) << np.uint64(21)) + before + carry
        before = limb * high >> np.uint64(11)
        made.append(total & LIMB_MASK)
        carry = total >> shift
    return made


def _divided(limbs: list[Any]) -> tuple[list[Any], Any]:
    """(quotient, remainder) of a division by STEP."""
    rest = np.zeros(len(limbs[0]), np.uint64)
    quotient = list(limbs)
    while len(quotient) > 1 and not quotient[-1].any():
        quotient.pop()
    for at in range(len(quotient) - 1, -1, -1):
        value = rest << np.uint64(LIMB_BITS) | quotient[at]
        quotient[at] = value // STEP
        rest = value - quotient[at] * STEP
    return quotient, rest


def rows(columns: Sequence[Column], tail: Mapping[int, bytes] | None = None) -> bytes:
    """The whole of a COPY. tail: a last column of type jsonb, its text by row, null elsewhere. None: there is no such column."""
    count = len(columns[0].data)
    width = 2 + sum(column.data.shape[1] for column in columns) + (0 if tail is None else 4)
    data = np.empty((count, width), np.uint8)
    counts = np.ones((count, width), np.bool_)
    data[:, :2] = (0, len(columns) + (tail is not None))
    at = 2
    for column in columns:
        end = at + column.data.shape[1]
        data[:, at:end] = column.data
        if column.counts is not None:
            counts[:, at:end] = column.counts
        at = end
    if tail is not None:
        data[:, at:] = 255  # null
        counts[list(tail), at:] = False
    flat = data[counts].tobytes()
    if not tail:
        return SIGNATURE + flat + TRAILER
    ends = np.cumsum(counts.sum(axis=1))
    parts, done = [SIGNATURE], 0
    for row in sorted(tail):
        end = int(ends[row])
        parts += [flat[done:end], (len(tail[row]) + 1).to_bytes(4, "big"), b"\x01", tail[row]]
        done = end
    return b"".join((*parts, flat[done:], TRAILER))
