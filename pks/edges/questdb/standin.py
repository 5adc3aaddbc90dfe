"""Postgres as the store, where QuestDB has no Java or no jar: the same rows, the same answers, the cursor in the rows' own transaction.

Owns the schema `time_series` of the database: `bo_positions`, a partition a month made when a row first needs it, primary key
(ts, trade_id), BRIN over ts, and `cursor`. Postgres knows microseconds, so `ts` is cut and `ts_ns` is the time itself.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from typing import Any

import asyncpg

from pks.base.clock import NS_PER_DAY, format_date, format_time
from pks.edges.questdb.conditions import Given, Rows, condition
from pks.edges.questdb.errors import RowsRefused, TableLost
from pks.edges.questdb.rows import newest
from pks.edges.questdb.store import BAR_SECONDS, TRADES_MAX, Bar, TradeRow, Wanted
from pks.servers.endpoints import Endpoint

TABLE = "time_series.bo_positions"

DDL = f"""
create schema if not exists time_series;
create table if not exists {TABLE} (
    ts timestamptz not null, ts_ns bigint not null, trade_id text collate "C" not null,
    sequence bigint not null, last_sequence bigint not null,
    kind text not null, status text not null, book text collate "C", to_book text, instrument text collate "C" not null,
    account text, source text, side text, quantity double precision not null, price double precision,
    qty_raw bigint not null, qty_scale smallint not null, price_raw bigint, price_scale smallint not null,
    primary key (ts, trade_id)
) partition by range (ts);
create index if not exists bo_positions_ts on {TABLE} using brin (ts);
create index if not exists bo_positions_key on {TABLE} (instrument, book, ts);
create table if not exists time_series.cursor (name text primary key, sequence bigint not null);
"""

REQUEST = "time_series.refill"
"""An empty table: somebody asked that whoever writes empties the other one and fills it again."""

INSERT = f"""
insert into {TABLE} (ts, ts_ns, trade_id, sequence, last_sequence, kind, status, book, to_book, instrument, account, source, side,
    qty_raw, qty_scale, price_raw, price_scale, quantity, price)
select timestamptz 'epoch' + (ts_ns / 1000000000) * interval '1 second' + (ts_ns % 1000000000 / 1000) * interval '1 microsecond', given.*
from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
    $11::text[], $12::text[], $13::bigint[], $14::smallint[], $15::bigint[], $16::smallint[], $17::float8[], $18::float8[])
    as given(ts_ns, trade_id, sequence, last_sequence, kind, status, book, to_book, instrument, account, source, side,
        qty_raw, qty_scale, price_raw, price_scale, quantity, price)
on conflict (ts, trade_id) do update set ts_ns = excluded.ts_ns, sequence = excluded.sequence, last_sequence = excluded.last_sequence,
    kind = excluded.kind, status = excluded.status, book = excluded.book, to_book = excluded.to_book, instrument = excluded.instrument,
    account = excluded.account, source = excluded.source, side = excluded.side, quantity = excluded.quantity, price = excluded.price,
    qty_raw = excluded.qty_raw, qty_scale = excluded.qty_scale, price_raw = excluded.price_raw, price_scale = excluded.price_scale
where excluded.last_sequence > bo_positions.last_sequence
"""

CURSOR = """
insert into time_series.cursor (name, sequence) values ('bo_positions', $1)
on conflict (name) do update set sequence = excluded.sequence
"""

COLUMNS = (
    "ts_ns, trade_id, sequence, last_sequence, kind, status, book, to_book, instrument, account, source, side, "
    "qty_raw, qty_scale, price_raw, price_scale"
)
"""In the order of TradeRow."""

LOCK = 0x706B7374
"""Of the advisory lock under which tables are made: two that make one at once would fail."""

CONNECT_SECONDS, ASK_SECONDS = 5.0, 10.0


class PostgresStore:
    """Implements store.TimeSeriesStore."""

    name = "postgres"

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._sql: Any = None
        self._months: set[str] = set()
        self._has_rows = False

    async def open(self) -> None:
        """As the port says."""
        self._sql = await asyncpg.connect(self.endpoint.url, timeout=CONNECT_SECONDS, command_timeout=ASK_SECONDS, **_trust(self.endpoint))
        async with self._sql.transaction():
            await self._sql.execute("select pg_advisory_xact_lock($1)", LOCK)
            await self._sql.execute(DDL)
        self._months.clear()
        self._has_rows = await self._sql.fetchval(f"select exists(select from {TABLE})")

    async def cursor(self) -> int:
        """As the port says; 0 where rows are gone that a cursor speaks of."""
        if not self._has_rows:
            return 0
        return int(await self._sql.fetchval("select sequence from time_series.cursor where name = 'bo_positions'") or 0)

    async def write(self, rows: Sequence[TradeRow], last: int) -> None:
        """As the port says; rows and cursor in one transaction."""
        try:
            await self._make_months(rows)
            async with self._sql.transaction():
                if rows:
                    last_of_key = newest(rows)
                    columns = [list(column) for column in zip(*last_of_key, strict=True)]
                    doubles = [[row.quantity for row in last_of_key], [row.price for row in last_of_key]]
                    await self._sql.execute(INSERT, *columns, *doubles)
                await self._sql.execute(CURSOR, last)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            raise RowsRefused(self.name, len(rows), " ".join(str(error).split())[:300]) from error
        self._has_rows = self._has_rows or bool(rows)

    async def _make_months(self, rows: Sequence[TradeRow]) -> None:
        """Partitions that rows need and that are not there."""
        days = {row.ts_ns // NS_PER_DAY for row in rows}
        for month in sorted({format_date(day)[:7] for day in days} - self._months):
            year, number = int(month[:4]), int(month[5:])
            following = f"{year + number // 12:04}-{number % 12 + 1:02}"
            assert re.fullmatch(r"\d{4}-\d\d", month) and re.fullmatch(r"\d{4}-\d\d", following), "months of the calendar"
            async with self._sql.transaction():
                await self._sql.execute("select pg_advisory_xact_lock($1)", LOCK)
                await self._sql.execute(
                    f"create table if not exists {TABLE}_{month.replace('-', '_')} partition of {TABLE} "
                    f"for values from ('{month}-01 00:00:00+00') to ('{following}-01 00:00:00+00')"
                )
            self._months.add(month)

    async def ask_refill(self) -> None:
        """As the port says."""
        await self._sql.execute(f"create schema if not exists time_series; create table if not exists {REQUEST} ()")

    async def is_refill_asked(self) -> bool:
        """As the port says."""
        return await self._sql.fetchval("select to_regclass($1)", REQUEST) is not None

    async def empty_if_asked(self) -> bool:
        """As the port says; in one transaction."""
        if not await self.is_refill_asked():
            return False
        async with self._sql.transaction():
            await self._sql.execute("select pg_advisory_xact_lock($1)", LOCK)
            await self._sql.execute(f"truncate {TABLE}, time_series.cursor; drop table if exists {REQUEST}")
        self._has_rows = False
        return True

    async def check(self) -> None:
        """As the port says."""
        if await self.is_refill_asked():
            raise TableLost(self.name, "is emptied and filled again: `pks refill questdb` was asked for")
        if await self._sql.fetchval("select to_regclass($1)", TABLE) is None:
            raise TableLost(self.name, "was dropped by somebody else")
        if self._has_rows and not await self._sql.fetchval(f"select exists(select from {TABLE})"):
            raise TableLost(self.name, "was emptied by somebody else")

    async def trades(self, wanted: Wanted) -> list[TradeRow]:
        """As the port says."""
        where, arguments = _where(wanted, Rows.ALL)
        found = await self._sql.fetch(
            f"select {COLUMNS} from {TABLE} where {where} order by ts_ns, trade_id limit {min(wanted.limit, TRADES_MAX)}", *arguments
        )
        return [TradeRow(*record) for record in found]

    async def bars(self, wanted: Wanted, length: str) -> list[Bar]:
        """As the port says."""
        width_ns = BAR_SECONDS[length] * 1_000_000_000
        where, arguments = _where(wanted, Rows.TRADED)
        found = await self._sql.fetch(
            f"select ts_ns / {width_ns} * {width_ns}, (array_agg(price order by ts_ns, trade_id))[1], max(price), min(price), "
            "(array_agg(price order by ts_ns desc, trade_id desc))[1], sum(quantity), count(*), max(price_scale), max(qty_scale) "
            f"from {TABLE} where {where} group by 1 order by 1 limit {TRADES_MAX}",
            *arguments,
        )
        return [Bar(*record) for record in found]

    async def latest(self, wanted: Wanted) -> list[TradeRow]:
        """As the port says."""
        where, arguments = _where(wanted, Rows.STANDING)
        found = await self._sql.fetch(
            f"select distinct on (book, instrument) {COLUMNS} from {TABLE} where {where} "
            f"order by book nulls first, instrument, ts_ns desc, trade_id desc limit {min(wanted.limit, TRADES_MAX)}",
            *arguments,
        )
        return [TradeRow(*record) for record in found]

    async def count(self) -> int:
        """As the port says."""
        return int(await self._sql.fetchval(f"select count(*) from {TABLE}"))

    async def close(self) -> None:
        """As the port says."""
        connection, self._sql = self._sql, None
        if connection is not None:
            connection.terminate()


def _trust(endpoint: Endpoint) -> dict[str, ssl.SSLContext]:
    """The authorities by which an external server is judged, where its URL asks for that and the configuration names some."""
    if not endpoint.ca_file or "sslmode=verify" not in endpoint.url:
        return {}
    context = ssl.create_default_context(cafile=endpoint.ca_file)
    context.check_hostname = "sslmode=verify-full" in endpoint.url
    return {"ssl": context}


def _where(wanted: Wanted, rows: Rows) -> tuple[str, list[object]]:
    return condition(wanted, rows, _bound, _behind)


def _bound(sign: str, time_ns: int, given: Given) -> str:
    """`ts` chooses partitions, `ts_ns` is the time to the nanosecond."""
    return f"ts {sign} '{_stamp(time_ns)}' and ts_ns {sign} {given(time_ns)}"


def _behind(time_ns: int, trade_id: str, given: Given) -> str:
    return f"ts >= '{_stamp(time_ns)}' and (ts_ns, trade_id) > ({given(time_ns)}, {given(trade_id)})"


def _stamp(time_ns: int) -> str:
    """As Postgres keeps it in `ts`: cut to microseconds."""
    return format_time(time_ns // 1000 * 1000)
