"""Writes the rows of a slice and the cursor in one transaction.

Owns the SQL that changes the tables of records, and the cursor `records`. One writer at a time: the cursor is moved from where this one
left it, and a transaction that finds it elsewhere is not committed. Called by the worker `records` alone.
"""

from __future__ import annotations

import io
from typing import Any

import msgspec

from pks.base.errors import Retryable
from pks.edges.postgres.encode import FEE_COLUMNS, LIFECYCLE_COLUMNS, MATCH_COLUMNS, TRADE_COLUMNS, Rows
from pks.engine.instruments.definitions import AnyDefinition
from pks.layouts.codes import Subject

EDGE = "records"

REFERENCE_COLUMNS: dict[Subject, tuple[str, ...]] = {
    Subject.CURRENCY: ("name", "minor_digits"),
    Subject.ENTITY: ("name", "lei", "country", "functional_currency", "timezone"),
    Subject.BOOK: ("name", "entity", "desk", "method", "oversell", "fees_in_cost", "report_currency", "zone"),
    Subject.ACCOUNT: ("entity", "account_type", "currency", "custodian", "bic", "purpose"),
    Subject.INSTRUMENT: (
        "asset_class", "symbol", "name", "isin", "figi", "ric", "cusip", "mic", "currency", "settle_ccy", "base_currency", "contract_type",
        "multiplier", "quote_factor", "price_scale", "qty_scale", "money_scale", "expiry", "underlying",
    ),
    Subject.SOURCE: ("name", "recurs"),
    Subject.CLASS_METHOD: ("book", "asset_class", "method"),
    Subject.ROUTE: ("venue", "account", "source", "book", "priority"),
}  # fmt: skip
REFERENCE_TABLES = {subject: f"back_office.{subject.name.lower()}" for subject in Subject} | {Subject.ROUTE: "back_office.routing_rule"}
assert REFERENCE_COLUMNS.keys() == set(Subject), "every subject has its table"

AMENDED_TERMS = (
    "book_id", "to_book_id", "instrument_id", "account_id", "trade_time_ns", "trade_time", "business_date", "settle_date", "fee_unknown",
    "quantity", "price", "fee", "book", "to_book", "instrument", "side", "account", "to_account", "fee_currency",
)  # fmt: skip
KEPT_TEXTS = ("venue", "order_id", "counterparty", "lot_id")

MAKE_AMENDED = "create temp table amended (like trade.trade) on commit delete rows"
AMEND = f"""
update trade.trade t set {", ".join(f"{name} = a.{name}" for name in AMENDED_TERMS)},
    {", ".join(f"{name} = coalesce(a.{name}, t.{name})" for name in KEPT_TEXTS)},
    open_date = case when t.kind = 'OPENING' then a.open_date end,
    details = coalesce(t.details || a.details, a.details, t.details),
    last_sequence = greatest(t.last_sequence, a.last_sequence), revision = t.revision + a.revision,
    status = case when t.status = 'BOOKED' then 'AMENDED' else t.status end
from amended a where t.sequence = a.sequence
"""
CHANGE = """
update trade.trade t set last_sequence = greatest(t.last_sequence, x.last_sequence),
    status = case when x.cancelled_by > 0 then 'CANCELLED' when x.allocated_by > 0 and t.status <> 'CANCELLED' then 'ALLOCATED'
        else t.status end,
    cancelled_by = coalesce(nullif(x.cancelled_by, 0), t.cancelled_by), replaced_by = coalesce(nullif(x.replaced_by, 0), t.replaced_by),
    allocated_by = coalesce(t.allocated_by, nullif(x.allocated_by, 0))
from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
    as x(sequence, last_sequence, cancelled_by, replaced_by, allocated_by)
where t.sequence = x.sequence
"""
MOVE = f"""
update trade.trade t set revision = t.revision + o.revision, details = coalesce(o.details || t.details, o.details, t.details),
    trade_id = case when left(t.trade_id, 1) = '#' then o.trade_id else t.trade_id end,
    {", ".join(f"{name} = coalesce(t.{name}, o.{name})" for name in KEPT_TEXTS)}
from trade.trade o where t.sequence = $1 and o.sequence = $2
"""
REPLACE = """
update position.lot_match m set is_current = false
from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) as x(sequence, book_id, instrument_id, revision)
where m.sequence = x.sequence and m.book_id = x.book_id and m.instrument_id = x.instrument_id and m.revision < x.revision and m.is_current
"""
MOVE_CURSOR = """
update back_office.edge_cursor set sequence = $3, checksum = $4, updated_at = now() where edge = $1 and sequence = $2
"""


class CursorMoved(Retryable):
    """The cursor in the database is not where this writer left it: another one is at work, or it was wiped. Nothing was written."""

    def __init__(self, edge: str, expected: int) -> None:
        super().__init__(f"postgres: the cursor {edge} is no longer at event {expected}")
        self.edge, self.expected = edge, expected


class Writer:
    """One connection's way of writing slices."""

    def __init__(self, connection: Any, instance: str) -> None:
        self.connection, self.instance = connection, instance

    async def begin(self) -> tuple[int, int]:
        """(cursor, checksum of its event), (0, 0) where there is none yet. Call it once, first."""
        await self.connection.execute(MAKE_AMENDED)
        await self.connection.execute(
            "insert into back_office.edge_cursor (edge, sequence, checksum, instance) values ($1, 0, 0, $2) on conflict do nothing",
            EDGE, self.instance,
        )  # fmt: skip
        row = await self.connection.fetchrow("select sequence, checksum from back_office.edge_cursor where edge = $1", EDGE)
        return int(row["sequence"]), int(row["checksum"])

    async def write(self, rows: Rows) -> None:
        """All of a slice or nothing. Raises CursorMoved and what asyncpg raises."""
        connection = self.connection
        async with connection.transaction():
            moved = await connection.execute(MOVE_CURSOR, EDGE, rows.first - 1, rows.last, rows.checksum)
            if moved != "UPDATE 1":
                raise CursorMoved(EDGE, rows.first - 1)
            if rows.definitions:
                await self._define(rows.definitions)
            await self._copy("trade.trade", TRADE_COLUMNS, rows.trades)
            await self._correct(rows)
            await self._copy("trade.fee", FEE_COLUMNS, rows.fees)
            await self._copy("trade.lifecycle_event", LIFECYCLE_COLUMNS, rows.lifecycle)
            if rows.reissued:
                await connection.execute(REPLACE, *map(list, zip(*rows.reissued, strict=True)))
            await self._copy("position.lot_match", MATCH_COLUMNS, rows.matches)
            await connection.execute(
                "insert into back_office.journal_copy (first, last, records) values ($1, $2, $3)", rows.first, rows.last, rows.journal
            )

    async def _copy(self, table: str, columns: tuple[str, ...], data: bytes) -> None:
        if data:
            schema, _, name = table.rpartition(".")
            await self.connection.copy_to_table(name, schema_name=schema or None, columns=columns, source=io.BytesIO(data), format="binary")

    async def _correct(self, rows: Rows) -> None:
        if rows.amended:
            await self._copy("amended", TRADE_COLUMNS, rows.amended)
            await self.connection.execute(AMEND)
        if rows.changes:
            changes = rows.changes.values()
            parts = [[getattr(one, name) for one in changes] for name in ("last_sequence", "cancelled_by", "replaced_by", "allocated_by")]
            await self.connection.execute(CHANGE, list(rows.changes), *parts)
        for new, old in rows.moved:
            await self.connection.execute(MOVE, new, old)

    async def _define(self, definitions: list[tuple[Subject, int, int, AnyDefinition]]) -> None:
        for subject in Subject:
            chosen = [one for one in definitions if one[0] is subject]
            if chosen:
                names = REFERENCE_COLUMNS[subject]
                values = [
                    (row_id, one.code, *(getattr(one, name) for name in names), sequence, msgspec.json.encode(one).decode())
                    for _, row_id, sequence, one in chosen
                ]
                await self.connection.executemany(define_statement(subject), values)


def define_statement(subject: Subject) -> str:
    """Insert or replace one row of a table of reference data."""
    columns = ("id", "code", *REFERENCE_COLUMNS[subject], "sequence", "definition")
    places = ", ".join(f"${place}" for place in range(1, len(columns) + 1))
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns[1:])
    table = REFERENCE_TABLES[subject]
    return f"insert into {table} ({', '.join(columns)}) values ({places}) on conflict (id) do update set {changed}"
