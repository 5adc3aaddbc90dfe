"""Positions into Postgres and back: the same state, in steps, after a wipe, and never from two at once."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from pks.edges.postgres.connection import connect
from pks.edges.postgres.positions import PositionsUnfit, PositionsWriter, packed, read_positions, unpacked
from pks.edges.postgres.writer import CursorMoved
from pks.engine.lots.extract import extract, plain_keys
from pks.engine.lots.snapshot import export_rest, import_state
from pks.engine.lots.state import KEYS_COUNT
from pks.engine.positions.view import PositionTerms, PositionView
from pks.layouts.codes import Subject
from pks.servers.endpoints import Endpoint
from pks.workers.checkpoint import moved_arrays, positions_arrays
from pks.workers.edges.snapshot import Package
from pks.workers.positions import Positions
from tests.engine_script import RandomDay


def terms_of(positions: Positions, key: Any) -> PositionTerms | None:
    """The reference data of a key."""
    catalogue = positions.catalogue
    if not key["last_sequence"]:
        return None
    book, instrument = catalogue.book(int(key["book_id"])), catalogue.instrument(int(key["instrument_id"]))
    currencies = {row_id: one.code for row_id, one in catalogue.rows(Subject.CURRENCY)}
    return PositionTerms(
        book.code, instrument.code, instrument.pnl_currency, catalogue.id_of(Subject.CURRENCY, instrument.pnl_currency),
        instrument.money_factor.numerator, instrument.money_factor.denominator, book.fees_in_cost, currencies,
    )  # fmt: skip


def package(positions: Positions, before: int, sequence: int, there: Any) -> tuple[Package, Any]:
    """What differs from KEY[n] `there`; and what is there then."""
    state = positions.shard.state
    keys = plain_keys(state, int(state.meta[KEYS_COUNT]))
    differs = [k for k in range(len(keys)) if k >= len(there) or keys[k] != there[k]]
    places = np.array(differs, np.int64)
    chosen = keys[places]
    made = Package(
        1, before, sequence, sequence * 7, "test", places, chosen, extract(state, places), export_rest(state) | moved_arrays(positions),
        [terms_of(positions, key) for key in chosen],
    )  # fmt: skip
    return made, keys


async def test_a_day_in_steps_and_back(database: Endpoint, tmp_path: Path, seed: int) -> None:
    day = RandomDay(seed, tmp_path)
    positions = day.core.positions[0]
    writer = PositionsWriter(await connect(database))
    cursor, checksum, there = await writer.begin()
    assert (cursor, checksum, len(there)) == (0, 0, 0)
    for _ in range(6):
        for _ in range(60):
            day.step()
        day.core.flush()
        made, there = package(positions, cursor, day.core.sequence, there)
        await writer.write(made)
        cursor = day.core.sequence
        await judge(positions, writer.connection, cursor)
    again = PositionsWriter(await connect(database))
    cursor, checksum, keys = await again.begin()
    assert (cursor, checksum) == (day.core.sequence, day.core.sequence * 7)
    assert sorted(key.tobytes() for key in keys) == sorted(key.tobytes() for key in there)
    with pytest.raises(CursorMoved):
        await again.write(package(positions, cursor - 1, cursor, there)[0])
    await writer.connection.execute(
        "delete from back_office.position_snapshot where ctid = (select min(ctid) from back_office.position_snapshot)"
    )
    with pytest.raises(PositionsUnfit, match="missing"):
        await read_positions(writer.connection)
    for one in (writer, again):
        await one.connection.close()


async def judge(positions: Positions, connection: Any, sequence: int) -> None:
    """The rows say what the keys say, and give the state back."""
    state = positions.shard.state
    rows = {(row["book_id"], row["instrument_id"]): row for row in await connection.fetch("select * from back_office.position_snapshot")}
    keys = state.keys[: state.meta[KEYS_COUNT]]
    assert rows.keys() == {(int(key["book_id"]), int(key["instrument_id"])) for key in keys}
    for key in keys:
        row, terms = rows[int(key["book_id"]), int(key["instrument_id"])], terms_of(positions, key)
        if terms is None:
            assert (row["book"], row["last_sequence"], row["quantity"]) == ("", 0, 0)
            continue
        want = PositionView.from_record(key, terms).as_dict()
        for name in ("quantity", "average_price", "cost", "realised_gross", "realised_net"):
            assert row[name] == (None if want[name] is None else Decimal(want[name])), (name, row, want)
        assert msgspec.json.decode(row["fees"]) == want["fees"]
        for name in ("book", "instrument", "open_lots", "currency", "last_sequence"):
            assert row[name] == want[name], (name, row, want)
        assert row["last_trade_time_ns"] == key["event_time_ns"]
    read, arrays = await read_positions(connection)
    assert read == sequence
    want_arrays = positions_arrays(positions)
    assert arrays.keys() == want_arrays.keys()
    loaded = import_state({name.removeprefix("state_"): value for name, value in arrays.items() if name.startswith("state_")})
    ours = import_state({name.removeprefix("state_"): value for name, value in want_arrays.items() if name.startswith("state_")})
    for name in ours._fields:
        assert np.array_equal(getattr(loaded, name), getattr(ours, name)), name
    for name in ("set_heads", "set_moves", "reentries"):
        assert np.array_equal(arrays[name], want_arrays[name]), name


def test_packed_arrays_come_back() -> None:
    arrays = {"b": np.arange(5), "a": np.zeros((0, 3), np.int8), "c": np.array([(1, 2.5)], [("x", "<i4"), ("y", "<f8")])}
    blob = packed(arrays)
    assert blob == packed(dict(reversed(arrays.items())))
    again = unpacked(blob)
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(again[name], array) and again[name].dtype == array.dtype
