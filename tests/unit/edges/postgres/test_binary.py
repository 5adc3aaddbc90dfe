"""Columns of COPY's binary form against what Postgres reads from them."""

from __future__ import annotations

import datetime
import io
import random
from decimal import Context, Decimal
from typing import Any

import asyncpg
import numpy as np

from pks.edges.postgres import binary
from pks.edges.postgres.binary import Column
from pks.servers.endpoints import Endpoint

CONTEXT = Context(prec=120)
INT64 = (0, 1, -1, 9, -10, 9999, 10_000, -10_001, 2**63 - 1, -(2**63), 10**18, -(10**18) + 1)


async def read_back(database: Endpoint, types: list[str], columns: list[Column], tail: dict[int, bytes] | None = None) -> list[Any]:
    """Rows that Postgres has after a COPY."""
    connection = await asyncpg.connect(database.url, server_settings={"timezone": "UTC"})
    try:
        kinds = [*types, *(["jsonb"] if tail is not None else [])]
        await connection.execute(f"create temp table t (row serial, {', '.join(f'c{n} {kind}' for n, kind in enumerate(kinds))})")
        names = [f"c{n}" for n in range(len(kinds))]
        await connection.copy_to_table("t", columns=names, source=io.BytesIO(binary.rows(columns, tail)), format="binary")
        return [tuple(row) for row in await connection.fetch(f"select {', '.join(names)} from t order by row")]
    finally:
        await connection.close()


async def test_numbers_of_64_bits_at_every_scale(database: Endpoint, seed: int) -> None:
    chance = random.Random(seed)
    raws = [raw for raw in INT64 for _ in range(19)] + [chance.randrange(-(2 ** chance.randint(1, 63)), 2**62) for _ in range(500)]
    scales = [n % 19 for n in range(len(raws))]
    got = await read_back(database, ["numeric"], [binary.numerics(np.array(raws, np.int64), np.array(scales, np.uint8))])
    for raw, scale, (value,) in zip(raws, scales, got, strict=True):
        assert value == Decimal(raw).scaleb(-scale), (raw, scale)


async def test_numbers_of_128_bits_times_a_factor(database: Endpoint, seed: int) -> None:
    chance = random.Random(seed)
    edges = (0, 1, -1, 2**127 - 1, -(2**127), 2**64, -(2**64), 2**64 - 1, 10**36)
    raws = [raw for raw in edges for _ in range(37)] + [chance.randrange(-(2 ** chance.randint(1, 127)), 2**126) for _ in range(500)]
    scales = [n % 37 for n in range(len(raws))]
    factors = [chance.choice((1, 10, 100, 3, 2**31 - 1, chance.randrange(1, 2**31))) for _ in raws]
    hi, lo = np.array([raw >> 64 for raw in raws], np.int64), np.array([raw & (2**64 - 1) for raw in raws], np.uint64)
    scaled = np.array(scales, np.int64)
    columns = [binary.big_numerics(hi, lo, scaled, np.array(factors, np.uint64)), binary.exact_numerics(raws, scaled)]
    got = await read_back(database, ["numeric", "numeric"], columns)
    for raw, scale, factor, (value, plain) in zip(raws, scales, factors, got, strict=True):
        assert value.scaleb(scale, CONTEXT) == raw * factor, (raw, scale, factor)
        assert plain.scaleb(scale, CONTEXT) == raw, (raw, scale)


async def test_other_types_with_nulls_and_a_tail(database: Endpoint) -> None:
    null = np.array([False, True, False])
    words = np.array([b"a", b"", "тест".encode()], "S12")
    columns = [
        binary.bigints(np.array([1, 2, -3]), null),
        binary.integers(np.array([7, 8, 9])),
        binary.booleans(np.array([True, False, True])),
        binary.dates(np.array([0, 10_957, 20_000]), null),
        binary.times(np.array([1_999, -1, 1_742_000_000_123_456_789])),
        binary.texts(words, null),
        binary.texts_or_null(words),
    ]
    types = ["bigint", "integer", "boolean", "date", "timestamptz", "text", "text"]
    got = await read_back(database, types, columns, {0: b'{"x": 1}', 2: b"[2]"})
    utc, day = datetime.UTC, datetime.date
    second = datetime.timedelta(microseconds=-1)
    start = datetime.datetime(1970, 1, 1, tzinfo=utc)
    assert got == [
        (1, 7, True, day(1970, 1, 1), start + datetime.timedelta(microseconds=1), "a", "a", '{"x": 1}'),
        (None, 8, False, None, start + second, None, None, None),
        (-3, 9, True, day(2024, 10, 4), datetime.datetime(2025, 3, 15, 0, 53, 20, 123456, utc), "тест", "тест", "[2]"),
    ]


async def test_many_rows_with_tails_keep_their_order(database: Endpoint) -> None:
    tail = {n: b'"%d"' % n for n in range(0, 1000, 3)}
    got = await read_back(database, ["bigint"], [binary.bigints(np.arange(1000))], tail)
    assert got == [(n, f'"{n}"' if n % 3 == 0 else None) for n in range(1000)]
