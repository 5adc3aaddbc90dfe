"""What Postgres has beside what `pks trades` and a fold say of the same journal."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np

from pks.edges.postgres.encode import LIFECYCLE_KINDS
from pks.layouts.codes import Flag, Kind
from pks.layouts.detail import group_at, text_of
from pks.layouts.match import MATCH
from pks.past.journal import Past
from pks.past.names import CatalogueNames
from pks.past.progress import unseen
from pks.past.trades import match_row, scan, trade_rows
from pks.past.wanted import Wanted
from pks.segments.journal_view import JournalView
from pks.workers.dump import dump_events
from tests.harness import Core, Fold


def folded(view: JournalView, last: int) -> Core:
    """A journal's records with a fold of them, as `compare` takes them."""
    fold = Fold(view.records)
    fold.apply(1, last)
    catalogue = fold.positions[0].catalogue
    said = SimpleNamespace(
        records=view.records[: last + 1],  # no more: a failing test prints its arguments
        sequence=last,
        fold=fold,
        verdicts=fold.verdicts,
        matches=fold.matches,
        keys=fold.keys,
        booking=SimpleNamespace(catalogue=catalogue),
    )
    return cast(Core, said)


def past_of(core: Core) -> Past:
    """The journal as `pks trades` reads it."""

    def text_at(sequence: int) -> dict[str, Any]:
        e = core.records[sequence]
        if int(e["kind"]) == Kind.REFDATA or int(e["group_index"]) or not int(e["flags"]) & Flag.HAS_DETAIL:
            return {}
        return cast(dict[str, Any], msgspec.json.decode(text_of(group_at(core.records, -1, sequence))))

    return cast(
        Past, SimpleNamespace(records=core.records, last=core.sequence, text_at=text_at, trade_id=lambda sequence: "", progress=unseen)
    )


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
        part = got["allocated_by"]
        assert bool(part) == (want["state"] == "ALLOCATED") or want["state"] == "CANCELLED", (sequence, got)
        if part:
            assert (int(core.records[part]["kind"]), int(core.records[part]["original"])) == (Kind.ALLOCATION, sequence), (sequence, got)
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
