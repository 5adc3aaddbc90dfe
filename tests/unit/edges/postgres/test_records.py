"""Random days through the encoder and the writer into a real Postgres: the rows say what `pks trades` says of the same journal."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import numpy as np
import pytest

from pks.edges.postgres.connection import connect
from pks.edges.postgres.encode import Rows, encode, lifecycle_places
from pks.edges.postgres.journal_copy import read_copy
from pks.edges.postgres.names import Names
from pks.edges.postgres.writer import CursorMoved, Writer
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import Instrument
from pks.layouts.codes import Flag, Kind, MatchKind, Subject
from pks.layouts.detail import group_at, text_of, with_text
from pks.layouts.event import EVENT
from pks.layouts.match import MATCH
from pks.servers.endpoints import Endpoint
from pks.workers.dump import dump_event
from tests.conftest import full_disk
from tests.crash.keep_servers import kept
from tests.engine_script import RandomDay
from tests.harness import Core
from tests.postgres_rows import compare

EVENTS = 700


def slices(core: Core, chance: random.Random, names: Names, most: int) -> list[Rows]:
    """The whole journal in slices of random lengths, each ending with a batch."""
    said = np.concatenate([np.zeros(0, MATCH), *core.fold.said])
    made, first = [], 1
    while first <= core.sequence:
        last = min(core.sequence, first + chance.randint(0, most))
        while not int(core.records[last]["flags"]) & Flag.END_OF_BATCH:
            last += 1
        events = core.records[first : last + 1]
        refused = {sequence: code for sequence, code in core.verdicts.items() if first <= sequence <= last}
        matches = said[(said["cause"] >= first) & (said["cause"] <= last)]
        words = {}
        for at in lifecycle_places(events, refused):
            head = int(events[at]["group_index"]) == 0
            text = text_of(group_at(core.records, -1, first + at)) if head and int(events[at]["flags"]) & Flag.HAS_DETAIL else b""
            words[first + at] = msgspec.json.encode(dump_event(events[at], core.booking.catalogue, text))
        made.append(encode(events, refused, matches, words, names))
        first = last + 1
    return made


def day(seed: int, folder: Path, batch: int = 1) -> Core:
    script = RandomDay(seed, folder, batch=batch)
    while script.core.sequence < EVENTS:
        script.step()
    script.core.flush()
    return script.core


@pytest.mark.parametrize("batch", [1, 7])
async def test_a_random_day(database: Endpoint, tmp_path: Path, seed: int, batch: int) -> None:
    core = day(seed, tmp_path, batch)
    assert any(int(record["kind"]) == MatchKind.NO_MATCH for part in core.fold.said for record in part), "some set became empty"
    writer = Writer(await connect(database), "test")
    assert await writer.begin() == (0, 0)
    for rows in slices(core, random.Random(seed), Names(Catalogue()), 60):
        await writer.write(rows)
    await compare(core, writer.connection)
    owner = await connect(database, role="")
    copied = [(first, raw) async for first, raw in read_copy(owner)]
    await owner.close()
    assert b"".join(raw for _, raw in copied) == core.records[1 : core.sequence + 1].tobytes()
    for subject, table in ((Subject.BOOK, "book"), (Subject.INSTRUMENT, "instrument"), (Subject.ACCOUNT, "account")):
        got = await writer.connection.fetch(f"select id, code, sequence, definition from back_office.{table}")
        catalogue = core.booking.catalogue
        assert {(row["id"], row["code"], row["sequence"]) for row in got} == {
            (row_id, one.code, catalogue.sequence_of(subject, row_id)) for row_id, one in catalogue.rows(subject)
        }
    await writer.connection.close()


def test_a_block_is_allocated_even_where_positions_refused_its_parts(tmp_path: Path, seed: int) -> None:
    script, group = RandomDay(seed, tmp_path), []
    while len(group) < 2:
        script._block()
        script._allocate()
        core = script.core
        last = core.sequence
        while int(core.records[last]["kind"]) not in (Kind.ALLOCATION, Kind.TRADE):
            last -= 1
        block = int(core.records[last]["original"])
        group = [
            part for part in range(1, last + 1) if core.records[part]["kind"] == Kind.ALLOCATION and core.records[part]["original"] == block
        ]
    events = core.records[group[0] : group[-1] + 1]
    names = Names(core.booking.catalogue)
    for refused, first in (({}, group[0]), ({group[0]: 1}, group[1]), (dict.fromkeys(group, 1), group[0])):
        words = dict.fromkeys(group, b"{}")
        assert encode(events, refused, np.zeros(0, MATCH), words, names).changes[block].allocated_by == first


async def test_a_full_disk_takes_no_half_of_a_slice(mount_small: Callable[..., Path], tmp_path: Path, seed: int) -> None:
    """The write-ahead log or a table finds no room, the server may end of it; with room again the rest goes where it belongs."""
    disk = mount_small("128m", tmp_path / "postgres" / "servers" / "postgres")
    with kept(tmp_path / "postgres", only="postgres") as server:
        server.start("postgres")
        core = day(seed, tmp_path)
        made = slices(core, random.Random(seed), Names(Catalogue()), 60)
        writer = Writer(await connect(server.place("postgres")), "test")
        await writer.begin()
        written = len(made) // 3
        for rows in made[:written]:
            await writer.write(rows)
        make_room = full_disk(disk)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)) as caught:
            for rows in made[written:]:
                await writer.write(rows)
                written += 1
        assert re.search("No space left on device|connection was closed|terminat", str(caught.value)), caught.value
        make_room()
        writer.connection.terminate()
        server.wait("postgres")
        writer = Writer(await connect(server.place("postgres")), "test")
        cursor, _ = await writer.begin()
        assert cursor in (made[written - 1].last, made[written].last), "the last one whole, or nothing of it"
        for rows in made:
            if rows.first > cursor:
                await writer.write(rows)
        await compare(core, writer.connection)
        writer.connection.terminate()


async def test_a_slice_is_written_once(database: Endpoint, tmp_path: Path, seed: int) -> None:
    core = day(seed, tmp_path)
    parts = slices(core, random.Random(seed), Names(Catalogue()), 60)
    first, second = Writer(await connect(database), "test"), Writer(await connect(database), "test")
    await first.begin()
    await second.begin()
    await first.write(parts[0])
    with pytest.raises(CursorMoved):
        await second.write(parts[0])
    await second.write(parts[1])
    with pytest.raises(CursorMoved):
        await first.write(parts[1])
    for rows in parts[2:]:
        await second.write(rows)
    await compare(core, second.connection)
    assert (await first.connection.fetchval("select sequence from back_office.edge_cursor")) == core.sequence
    for writer in (first, second):
        await writer.connection.close()


async def test_money_of_an_odd_multiplier(database: Endpoint) -> None:
    catalogue = Catalogue()
    names = Names(catalogue)
    matches = np.zeros(3, MATCH)
    matches["sequence"], matches["instrument_id"], matches["count"], matches["kind"] = (1, 2, 3), (1, 1, 2), 1, MatchKind.MATCH
    matches["money_scale"], matches["cost_lo"], matches["realised_lo"] = 2, (100, 200, 300), (5, 7, 9)
    fields: dict[str, Any] = {
        "asset_class": "FUTURE", "currency": "USD", "settle_ccy": "USD", "quote_factor": "1", "price_scale": 2, "qty_scale": 0,
        "money_scale": 2, "negative_price": False, "zero_price": False, "cleared": False, "traded_asset": False,
    }  # fmt: skip
    names.learn(Subject.INSTRUMENT, 1, Instrument(code="THIRD", multiplier="1/3", **fields))
    names.learn(Subject.INSTRUMENT, 2, Instrument(code="HUNDREDTH", multiplier="1/100", **fields))
    event = np.zeros(3, EVENT)
    event["sequence"], event["kind"] = (1, 2, 3), Kind.TICK
    writer = Writer(await connect(database), "test")
    await writer.begin()
    await writer.write(encode(event, {}, matches, {}, names))
    got = [tuple(row) for row in await writer.connection.fetch("select cost, realised_gross from position.lot_match order by sequence")]
    assert got == [
        (Decimal("0.33333333333333"), Decimal("0.01666666666667")),
        (Decimal("0.66666666666667"), Decimal("0.02333333333333")),
        (Decimal("0.03"), Decimal("0.0009")),
    ]
    await writer.connection.close()


async def test_bytes_that_are_no_text_do_not_stop_the_edge(database: Endpoint) -> None:
    names = Names(Catalogue())
    group = with_text(np.zeros(1, EVENT)[0], rb'{"note": "a\u0000b", "venue": "x\u0000"}')
    events = np.zeros(len(group) + 2, EVENT)
    events[: len(group)] = group
    events["sequence"] = np.arange(1, 1 + len(events))
    events["group_count"][len(group) :] = 1
    events["kind"][[0, -2, -1]] = Kind.TRADE, Kind.TRADE, Kind.FEE
    events["trade_id"][[0, -2, -1]] = b"plain", b"caf\xc3\xa9 \xff", b"nul\0inside"
    events["original"][-1] = 1
    writer = Writer(await connect(database), "test")
    await writer.begin()
    await writer.write(encode(events, {}, np.zeros(0, MATCH), {int(events[-1]["sequence"]): b'{"id": "nul\\u0000inside"}'}, names))
    rows = await writer.connection.fetch("select trade_id, venue, details from trade.trade order by sequence")
    assert [(row["trade_id"], row["venue"]) for row in rows] == [("plain", "x\ufffd"), ("café ?", None)]
    assert msgspec.json.decode(rows[0]["details"])["note"] == "a\ufffdb"
    assert await writer.connection.fetchval("select trade_id from trade.lifecycle_event") == "nul?inside"
    await writer.connection.close()
