"""Random days through the encoder and the writer into a real Postgres: the rows say what `pks trades` says of the same journal."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from pks.cli.past import CatalogueNames, Past
from pks.cli.trades import Wanted, match_row, scan, trade_rows
from pks.edges.postgres.connection import connect
from pks.edges.postgres.encode import LIFECYCLE_KINDS, Rows, encode, lifecycle_places
from pks.edges.postgres.names import Names
from pks.edges.postgres.recovery import read_records
from pks.edges.postgres.writer import CursorMoved, Writer
from pks.engine.instruments.catalogue import Catalogue
from pks.engine.instruments.definitions import Instrument
from pks.layouts.codes import Flag, Kind, MatchKind, Subject
from pks.layouts.detail import group_at, text_of
from pks.layouts.event import EVENT
from pks.layouts.match import MATCH
from pks.servers.endpoints import Endpoint
from pks.workers.dump import dump_event, dump_events
from tests.engine_script import RandomDay
from tests.harness import Core

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


def past_of(core: Core) -> Past:
    """The journal as `pks trades` reads it."""

    def text_at(sequence: int) -> dict[str, Any]:
        e = core.records[sequence]
        if int(e["kind"]) == Kind.REFDATA or int(e["group_index"]) or not int(e["flags"]) & Flag.HAS_DETAIL:
            return {}
        return cast(dict[str, Any], msgspec.json.decode(text_of(group_at(core.records, -1, sequence))))

    return cast(Past, SimpleNamespace(records=core.records, last=core.sequence, text_at=text_at, trade_id=lambda sequence: ""))


def day(seed: int, folder: Path, batch: int = 1) -> Core:
    script = RandomDay(seed, folder, batch=batch)
    while script.core.sequence < EVENTS:
        script.step()
    script.core.flush()
    return script.core


async def compare(core: Core, connection: Any) -> None:
    """Every table against the journal."""
    names = CatalogueNames(core.booking.catalogue)
    past = past_of(core)
    history, chosen = scan(past, Wanted(kinds=(1, 5, 6, 7)), core.verdicts, None)
    expected = {row["sequence"]: row for row in trade_rows(past, names, history, chosen) if row["state"] != "REFUSED"}
    table = {row["sequence"]: dict(row) for row in await connection.fetch("select * from trade.trade")}
    assert table.keys() == expected.keys()
    totals: dict[int, dict[str, Decimal]] = {}
    for row in await connection.fetch("select * from trade.fee_total where amount <> 0"):
        totals.setdefault(row["trade"], {})[row["currency"]] = row["amount"]
    for sequence, want in expected.items():
        got = table[sequence]
        assert got["status"] == want["state"], (sequence, got, want)
        assert got["revision"] == want["version"], (sequence, got, want)
        for name in ("trade_id", "leg", "source", "kind", "book", "to_book", "instrument", "side", "account", "last_sequence", "parent"):
            assert got[name] == want[name], (sequence, name, got, want)
        for name in ("lot_id", "venue", "order_id", "counterparty", "replaced_by"):
            assert got[name] == want[name] or (got["parent"] and want[name] is None), (sequence, name, got, want)
        for name in ("quantity", "price"):
            assert (None if want[name] is None else Decimal(want[name])) == got[name], (sequence, name, got, want)
        for name in ("business_date", "settle_date", "open_date"):
            assert (None if want[name] is None else want[name]) == (None if got[name] is None else str(got[name])), (sequence, name)
        fees = {currency: Decimal(fee) for currency, fee in (want["fees"] or {}).items() if Decimal(fee)}
        assert totals.get(sequence, {}) == fees, (sequence, totals.get(sequence), want)
    await compare_matches(core, connection, names, past)
    living = {
        event["sequence"]: event
        for event in dump_events(core.records, -1, 1, core.sequence, core.booking.catalogue)
        if Kind[event["kind"]] in LIFECYCLE_KINDS and event["sequence"] not in core.verdicts
    }
    got_words = {
        row["sequence"]: msgspec.json.decode(row["event"]) for row in await connection.fetch("select * from trade.lifecycle_event")
    }
    assert got_words == living


async def compare_matches(core: Core, connection: Any, names: CatalogueNames, past: Past) -> None:
    every = np.concatenate([np.zeros(0, MATCH), *core.fold.said])
    assert await connection.fetchval("select count(*) from position.lot_match") == len(every)
    current = {name: records for name, records in core.matches.items()}
    got: dict[tuple[int, int, int], list[Any]] = {}
    for row in await connection.fetch("select * from position.current_match order by index"):
        got.setdefault((row["sequence"], row["book_id"], row["instrument_id"]), []).append(row)
    assert got.keys() == current.keys()
    for name, records in current.items():
        assert len(got[name]) == len(records), name
        for row, record in zip(got[name], records, strict=True):
            want = match_row(past, names, record)
            for column in ("quantity", "open_price", "close_price", "realised_gross", "cost"):
                assert row[column] == Decimal(want[column]), (name, column, row, want)
            for column in ("kind", "book", "instrument", "revision", "cause"):
                assert row[column] == want[column], (name, column, row, want)


@pytest.mark.parametrize("batch", [1, 7])
async def test_a_random_day(database: Endpoint, tmp_path: Path, seed: int, batch: int) -> None:
    core = day(seed, tmp_path, batch)
    assert any(int(record["kind"]) == MatchKind.NO_MATCH for part in core.fold.said for record in part), "some set became empty"
    writer = Writer(await connect(database), "test")
    assert await writer.begin() == (0, 0)
    for rows in slices(core, random.Random(seed), Names(Catalogue()), 60):
        await writer.write(rows)
    await compare(core, writer.connection)
    copied = [(first, raw) async for first, raw in read_records(writer.connection)]
    assert b"".join(raw for _, raw in copied) == core.records[1 : core.sequence + 1].tobytes()
    for subject, table in ((Subject.BOOK, "book"), (Subject.INSTRUMENT, "instrument"), (Subject.ACCOUNT, "account")):
        got = await writer.connection.fetch(f"select id, code, sequence, definition from back_office.{table}")
        catalogue = core.booking.catalogue
        assert {(row["id"], row["code"], row["sequence"]) for row in got} == {
            (row_id, one.code, catalogue.sequence_of(subject, row_id)) for row_id, one in catalogue.rows(subject)
        }
    await writer.connection.close()


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
