"""QuestDB as the store: rows over ILP/HTTP from a thread of its own, everything else over its Postgres protocol.

Owns the table `bo_positions` there: WAL, partitions of a month, DEDUP UPSERT KEYS(ts, trade_id). The cursor is the highest `last_sequence`
in the table itself: rows come in the order of events, each flush is one transaction, so what the highest one stands for is there with all
before it, also after a power cut that has taken the newest. A table of that name that we did not make (the protocol makes one by itself
when rows meet none) is put aside under another name and filled again.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
from questdb import QuestDBError, QuestDBErrorCode, Sender, TimestampNanos

from pks.edges.questdb.conditions import Given, Rows, condition
from pks.edges.questdb.errors import RowsRefused, TableLost
from pks.edges.questdb.store import BAR_SECONDS, TRADES_MAX, Bar, TradeRow, Wanted
from pks.servers.endpoints import Endpoint

TABLE = "bo_positions"
REQUEST = "bo_positions_refill"
"""An empty table: somebody asked that whoever writes empties the other one and fills it again."""

DDL = f"""create table if not exists {TABLE} (ts timestamp_ns, trade_id varchar, sequence long, last_sequence long, kind symbol,
status symbol, book symbol, to_book symbol, instrument symbol capacity 4096, account symbol, source symbol, side symbol, quantity double,
price double, qty_raw long, qty_scale int, price_raw long, price_scale int)
timestamp(ts) partition by month wal dedup upsert keys(ts, trade_id)"""

COLUMNS = (
    "ts::long, trade_id, sequence, last_sequence, kind, status, book, to_book, instrument, account, source, side, "
    "qty_raw, qty_scale, price_raw, price_scale"
)
"""In the order of TradeRow."""

RETRY_MS, REQUEST_MS = 1_000, 5_000
"""How long a flush tries again, and how long it waits for an answer: an edge has its own way to wait for a server."""

CONNECT_SECONDS, ASK_SECONDS = 5.0, 10.0

BUFFER_BYTES = 1 << 22

REFUSED = (
    QuestDBErrorCode.ServerFlushError,
    QuestDBErrorCode.InvalidName,
    QuestDBErrorCode.InvalidTimestamp,
    QuestDBErrorCode.InvalidUtf8,
)


class QuestdbStore:
    """Implements store.TimeSeriesStore."""

    name = "questdb"

    def __init__(self, endpoint: Endpoint) -> None:
        self.url = urllib.parse.urlsplit(endpoint.url)
        asked = urllib.parse.parse_qs(self.url.query)
        self.sql_port = int(asked.get("sql_port", ["8812"])[0])
        self.ca_file = endpoint.ca_file
        self.put_aside = ""  # what a table was renamed to that was not ours
        self._sql: Any = None
        self._sender: Sender | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._table_id = -1
        self._has_rows = False

    async def open(self) -> None:
        """As the port says."""
        self._sql = await asyncpg.connect(
            host=self.url.hostname,
            port=self.sql_port,
            user=urllib.parse.unquote(self.url.username or "admin"),
            password=urllib.parse.unquote(self.url.password or "quest"),
            database="qdb",
            timeout=CONNECT_SECONDS,
            command_timeout=ASK_SECONDS,
        )
        found = await self._facts()
        if found is not None and not _is_ours(found):
            self.put_aside = f"{TABLE}_aside_{found['id']}"
            await self._sql.execute(f"rename table {TABLE} to {self.put_aside}")
            found = None
        if found is None:
            found = await self._make()
        elif found["table_suspended"]:
            await self._sql.execute(f"alter table {TABLE} resume wal")
        self._table_id, self._has_rows = found["id"], False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="questdb")

    async def _make(self) -> Any:
        await self._sql.execute(DDL)
        found = await self._facts()
        assert found is not None, "it was made"
        return found

    async def _facts(self, table: str = TABLE) -> Any:
        """The table's row of `tables()`, None when there is none."""
        return await self._sql.fetchrow(
            "select id, dedup, walEnabled as wal, designatedTimestamp as stamp, table_suspended from tables() where table_name = $1", table
        )

    async def ask_refill(self) -> None:
        """As the port says."""
        await self._sql.execute(f"create table if not exists {REQUEST} (asked timestamp)")

    async def is_refill_asked(self) -> bool:
        """As the port says."""
        return await self._facts(REQUEST) is not None

    async def empty_if_asked(self) -> bool:
        """As the port says."""
        if not await self.is_refill_asked():
            return False
        await self._sql.execute(f"drop table if exists {TABLE}")
        self._table_id = (await self._make())["id"]
        await self._sql.execute(f"drop table {REQUEST}")
        return True

    async def cursor(self) -> int:
        """As the port says: the highest event in the table."""
        found = int(await self._sql.fetchval(f"select max(last_sequence) from {TABLE}") or 0)
        self._has_rows = found > 0
        return found

    async def write(self, rows: Sequence[TradeRow], last: int) -> None:
        """As the port says; the rows are in the server's log when it returns, and can be read some milliseconds later."""
        assert self._thread is not None, "opened"
        await asyncio.get_running_loop().run_in_executor(self._thread, self._send, rows)

    def _send(self, rows: Sequence[TradeRow]) -> None:
        """In the thread: one flush, one transaction."""
        if self._sender is None:
            self._sender = Sender.from_conf(self._configuration())
            self._sender.establish()
        sender = self._sender
        try:
            for row in rows:
                _put(sender, row)
            sender.flush()
        except QuestDBError as error:
            self._sender = None
            sender.close(flush=False)
            if error.code in REFUSED:
                raise RowsRefused(self.name, len(rows), " ".join(str(error).split())[:300]) from error
            raise

    def _configuration(self) -> str:
        scheme = "https" if self.url.scheme == "https" else "http"
        parts = [
            f"addr={self.url.hostname}:{self.url.port or 9000}", "protocol_version=2", "auto_flush=off", f"init_buf_size={BUFFER_BYTES}",
            f"retry_timeout={RETRY_MS}", f"request_timeout={REQUEST_MS}",
        ]  # fmt: skip
        if self.url.username:
            parts += [f"{key}={_escaped(value)}" for key, value in (("username", self.url.username), ("password", self.url.password or ""))]
        if scheme == "https" and self.ca_file:
            parts.append(f"tls_roots={_escaped(self.ca_file)}")
        return f"{scheme}::{';'.join(parts)};"

    async def check(self) -> None:
        """As the port says; also whether the server applies what its log has."""
        if await self.is_refill_asked():
            raise TableLost(self.name, "is emptied and filled again: `pks refill questdb` was asked for")
        found = await self._facts()
        if found is None or found["id"] != self._table_id or not _is_ours(found):
            if found is not None and _is_ours(found):
                await self.ask_refill()  # our latest rows may be in the new one, without those in front of them
            raise TableLost(self.name, "was dropped or made anew by somebody else")
        if found["table_suspended"]:
            raise TableLost(self.name, "is suspended: the server does not apply what it has taken")
        if self._has_rows and not await self.count():
            raise TableLost(self.name, "was emptied by somebody else")
        self._has_rows = self._has_rows or await self.count() > 0

    async def trades(self, wanted: Wanted) -> list[TradeRow]:
        """As the port says."""
        where, arguments = _where(wanted, Rows.ALL)
        found = await self._sql.fetch(
            f"select {COLUMNS} from {TABLE} where {where} order by ts, trade_id limit {min(wanted.limit, TRADES_MAX)}", *arguments
        )
        return [TradeRow(*record) for record in found]

    async def bars(self, wanted: Wanted, length: str) -> list[Bar]:
        """As the port says."""
        assert length in BAR_SECONDS, "a length of a bar"
        where, arguments = _where(wanted, Rows.TRADED)
        found = await self._sql.fetch(
            "select ts::long, open, high, low, close, volume, trades, price_scale, qty_scale from (select ts, first(price) open, "
            "max(price) high, min(price) low, last(price) close, sum(quantity) volume, count() trades, max(price_scale) price_scale, "
            f"max(qty_scale) qty_scale from {TABLE} where {where} sample by {length} align to calendar) limit {TRADES_MAX}",
            *arguments,
        )
        return [Bar(*record) for record in found]

    async def latest(self, wanted: Wanted) -> list[TradeRow]:
        """As the port says."""
        where, arguments = _where(wanted, Rows.STANDING)
        found = await self._sql.fetch(
            f"select {COLUMNS} from (select * from {TABLE} where {where} latest on ts partition by book, instrument) "
            f"order by book, instrument limit {min(wanted.limit, TRADES_MAX)}",
            *arguments,
        )
        return [TradeRow(*record) for record in found]

    async def count(self) -> int:
        """As the port says."""
        return int(await self._sql.fetchval(f"select count() from {TABLE}"))

    async def close(self) -> None:
        """As the port says. A flush that is under way ends by itself, in its thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.submit(self._forget)
            thread.shutdown(wait=False)
        connection, self._sql = self._sql, None
        if connection is not None:
            connection.terminate()

    def _forget(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close(flush=False)


def _is_ours(facts: Any) -> bool:
    return bool(facts["dedup"] and facts["wal"] and facts["stamp"] == "ts")


def _escaped(value: str) -> str:
    return urllib.parse.unquote(value).replace(";", ";;")


def _put(sender: Sender, row: TradeRow) -> None:
    symbols: dict[str, str | None] = {
        "kind": row.kind,
        "status": row.status,
        "book": row.book,
        "to_book": row.to_book,
        "instrument": row.instrument,
        "account": row.account,
        "source": row.source,
        "side": row.side,
    }
    columns: dict[str, Any] = {
        "trade_id": row.trade_id,
        "sequence": row.sequence,
        "last_sequence": row.last_sequence,
        "quantity": row.quantity,
        "qty_raw": row.qty_raw,
        "qty_scale": row.qty_scale,
        "price_scale": row.price_scale,
    }
    if row.price_raw is not None:
        columns["price"], columns["price_raw"] = row.price, row.price_raw
    sender.row(TABLE, symbols=symbols, columns=columns, at=TimestampNanos(row.ts_ns))


def _where(wanted: Wanted, rows: Rows) -> tuple[str, list[object]]:
    return condition(wanted, rows, _bound, _behind)


def _bound(sign: str, time_ns: int, given: Given) -> str:
    """A time as a parameter would be cut to microseconds; as a plain number it is taken whole."""
    return f"ts {sign} {time_ns:d}"


def _behind(time_ns: int, trade_id: str, given: Given) -> str:
    return f"(ts > {time_ns:d} or (ts = {time_ns:d} and trade_id > {given(trade_id)}))"
