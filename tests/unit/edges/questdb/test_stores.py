"""Both stores of time series pass the same tests, on real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pks.base.clock import parse_time
from pks.edges.questdb.conditions import TRADED
from pks.edges.questdb.errors import RowsRefused, TableLost
from pks.edges.questdb.ilp import QuestdbStore
from pks.edges.questdb.rows import TIME_NS_LAST
from pks.edges.questdb.standin import PostgresStore
from pks.edges.questdb.store import AMENDED, BOOKED, CANCELLED, MOVED, TradeRow, Wanted
from tests.conftest import wait_until
from tests.crash.keep_servers import HERE, Kept, kept, questdb

SECONDS = 30.0
STORES = {"questdb": QuestdbStore, "postgres": PostgresStore}
NOT_WANTED = {
    "edges.nats_url": "nats://127.0.0.1:1",
    "edges.redis_url": "redis://127.0.0.1:1",
    "edges.postgres_url": "postgresql://nobody@127.0.0.1:1/none",
    "edges.questdb_url": "http://127.0.0.1:1",
}
NOON = parse_time("2026-03-14T12:00:00Z")


@pytest.fixture(scope="module", params=sorted(STORES))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Kept]]:
    name = request.param
    if name not in HERE:
        pytest.skip(f"{name} is not here")
    folder: Path = tmp_path_factory.mktemp(name)
    with kept(folder, **{key: value for key, value in NOT_WANTED.items() if name not in key}) as servers:
        servers.start(name)
        yield name, servers


@pytest.fixture
async def store(server: tuple[str, Kept]) -> AsyncIterator[Any]:
    """An opened store with an empty table."""
    name, servers = server
    made = STORES[name](servers.place(name))
    await made.open()
    await made._sql.execute("drop table bo_positions" if name == "questdb" else "drop schema time_series cascade")
    await made.close()
    await made.open()
    yield made
    await made.close()


def row(number: int, **fields: Any) -> TradeRow:
    made = TradeRow(
        NOON + number * 1_000_000_007, f"S/T{number}/0", number, number, "TRADE", BOOKED, "RU-EQ", None, "SBER", "A1", "S", "BUY",
        1_00 + number, 2, 25_025 + number, 2,
    )  # fmt: skip
    return made._replace(**fields)


async def seen(store: Any, count: int) -> None:
    """QuestDB shows a row some milliseconds after it has taken it."""
    import asyncio

    for _ in range(int(SECONDS / 0.01)):
        if await store.count() == count:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{await store.count()} rows, not {count}")


async def settled(store: Any, row: TradeRow) -> None:
    """Until a row is as it was written."""
    import asyncio

    for _ in range(int(SECONDS / 0.01)):
        if row in await store.trades(Wanted()):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{row} is not there")


async def test_a_commit_of_questdb_waits_for_the_disk(server: tuple[str, Kept], store: Any) -> None:
    if server[0] != "questdb":
        pytest.skip("Postgres has its cursor in the rows' own transaction")
    (found,) = await store._sql.fetch("(show parameters) where property_path = 'cairo.commit.mode'")
    assert found["value"] == "sync"


async def test_an_empty_store_begins_at_no_event(store: Any) -> None:
    assert await store.cursor() == 0
    assert await store.count() == 0
    assert await store.trades(Wanted()) == []


async def test_rows_come_back_as_they_were_written(store: Any) -> None:
    rows = [
        row(1),
        row(2, side="SELL", account=None, source=None, trade_id="/Ж;\"' ,=\\\n2/0", instrument="A B,C=D", kind="OPENING"),
        row(3, kind="TRANSFER", to_book="RU-ARB", side=None, price_raw=None),
        row(4, qty_raw=2**62 + 1, qty_scale=12, price_raw=-(2**61) - 1, price_scale=9),
        row(5, kind="BLOCK", book=None),
    ]
    await store.write(rows, 9)
    await seen(store, 5)
    assert await store.trades(Wanted()) == rows
    assert await store.cursor() in (5, 9)  # of the highest row, or of its own table


async def test_a_repeated_row_changes_nothing_and_a_later_one_replaces_it(store: Any) -> None:
    rows = [row(number) for number in range(1, 201)]
    for _ in range(3):
        await store.write(rows, 200)
    await store.write([row(7, qty_raw=900, status=AMENDED, last_sequence=201), row(8, status=CANCELLED, last_sequence=202)], 202)
    await store.write([row(9, last_sequence=203, status=AMENDED), row(9, last_sequence=204, status=CANCELLED)], 204)
    last = row(9, last_sequence=204, status=CANCELLED)
    await settled(store, last)
    assert await store.count() == 200
    found = {one.sequence: one for one in await store.trades(Wanted())}
    assert found[7].qty_raw == 900 and found[7].status == AMENDED
    assert found[8].status == CANCELLED
    assert found[9] == last
    assert await store.cursor() == 204


async def test_questions_are_about_books_instruments_and_times(store: Any) -> None:
    rows = [
        row(1),
        row(2, book="US-EQ"),
        row(3, instrument="GAZP"),
        row(4, kind="TRANSFER", to_book="RU-EQ", book="US-EQ", side=None, price_raw=None),
        row(5, status=MOVED),
        row(6, status=CANCELLED),
    ]
    await store.write(rows, 6)
    await seen(store, 6)

    async def numbers(**wanted: Any) -> list[int]:
        return [one.sequence for one in await store.trades(Wanted(**wanted))]

    assert await numbers() == [1, 2, 3, 4, 6]
    assert await numbers(book="RU-EQ") == [1, 3, 4, 6]
    assert await numbers(book="RU-EQ", instrument="SBER") == [1, 4, 6]
    assert await numbers(first_ns=rows[1].ts_ns, last_ns=rows[3].ts_ns) == [2, 3, 4]
    assert await numbers(first_ns=rows[1].ts_ns + 1, last_ns=rows[3].ts_ns - 1) == [3]
    assert await numbers(limit=2) == [1, 2]
    assert await numbers(limit=2, after=(rows[1].ts_ns, rows[1].trade_id)) == [3, 4]
    assert await numbers(book="'; drop table bo_positions; --") == []


async def test_pages_go_on_among_trades_of_one_nanosecond(store: Any) -> None:
    await store.write([row(number, ts_ns=NOON) for number in range(1, 6)], 5)
    await seen(store, 5)
    pages, after = [], None
    while page := await store.trades(Wanted(limit=2, after=after)):
        pages += [one.trade_id for one in page]
        after = (page[-1].ts_ns, page[-1].trade_id)
    assert pages == [f"S/T{number}/0" for number in range(1, 6)]


async def test_bars_are_made_of_what_was_dealt_and_stands(store: Any) -> None:
    minute = 60_000_000_000
    prices = [(0, 25_000, 100), (10, 25_500, 200), (20, 24_800, 300), (59, 25_100, 50), (60, 25_200, 10)]
    rows = [
        row(number, ts_ns=NOON + second * minute // 60, price_raw=price, qty_raw=qty)
        for number, (second, price, qty) in enumerate(prices, 1)
    ]
    others = [
        row(10, ts_ns=NOON + 1, price_raw=99_999, status=CANCELLED),
        row(11, ts_ns=NOON + 2, price_raw=1, status=MOVED),
        row(12, ts_ns=NOON + 3, price_raw=1, kind="OPENING"),
        row(13, ts_ns=NOON + 4, price_raw=1, kind="ALLOCATION", book="US-EQ"),
        row(14, ts_ns=NOON + 5, price_raw=None, kind="TRANSFER", side=None, to_book="US-EQ"),
        row(15, ts_ns=NOON + 6, instrument="GAZP", price_raw=7),
    ]
    await store.write([*rows, *others], 15)
    await seen(store, 11)
    bars = await store.bars(Wanted(instrument="SBER"), "1m")
    assert [bar.start_ns for bar in bars] == [NOON, NOON + minute]
    assert bars[0][1:7] == (250.0, 255.0, 248.0, 251.0, 6.5, 4)
    assert bars[1][1:7] == (252.0, 252.0, 252.0, 252.0, 0.1, 1)
    assert (bars[0].price_scale, bars[0].qty_scale) == (2, 2)
    allocated = await store.bars(Wanted(instrument="SBER", book="US-EQ"), "1d")
    assert [bar.trades for bar in allocated] == [1]  # the allocation came to that book
    assert "ALLOCATION" not in TRADED


async def test_the_latest_trade_of_each_key(store: Any) -> None:
    await store.write(
        [row(1), row(2), row(3, instrument="GAZP"), row(4, book="US-EQ"), row(5, status=CANCELLED), row(6, book=None, kind="BLOCK")], 6
    )
    await seen(store, 6)
    assert [(one.book, one.instrument, one.sequence) for one in await store.latest(Wanted())] == [
        (None, "SBER", 6), ("RU-EQ", "GAZP", 3), ("RU-EQ", "SBER", 2), ("US-EQ", "SBER", 4),
    ]  # fmt: skip
    assert [one.sequence for one in await store.latest(Wanted(book="RU-EQ", instrument="SBER", last_ns=row(1).ts_ns))] == [1]


async def test_times_reach_from_1970_to_2261(store: Any) -> None:
    rows = [row(1, ts_ns=0), row(2, ts_ns=1), row(3, ts_ns=parse_time("2026-12-31T23:59:59.999999999Z")), row(4, ts_ns=TIME_NS_LAST)]
    await store.write(rows, 4)
    await seen(store, 4)
    assert await store.trades(Wanted()) == rows


async def test_what_a_server_refuses_is_said_and_the_next_write_works(store: Any) -> None:
    spoiled = {"questdb": {"ts_ns": TIME_NS_LAST + 1}, "postgres": {"trade_id": "with \0"}}
    with pytest.raises(RowsRefused):
        await store.write([row(1), row(2, **spoiled[store.name])], 2)
    await store.write([row(3)], 3)
    await settled(store, row(3))


async def test_a_table_that_is_gone_or_empty_is_noticed_and_filled_from_the_beginning(store: Any) -> None:
    await store.write([row(1)], 1)
    await seen(store, 1)
    await store.check()
    for statement in ("truncate table {}", "drop table {}"):
        await store._sql.execute(statement.format("bo_positions" if store.name == "questdb" else "time_series.bo_positions"))
        if statement.startswith("truncate"):
            await seen(store, 0)
        with pytest.raises(TableLost):
            await store.check()
        await store.close()
        await store.open()
        assert await store.cursor() == 0
        await store.write([row(1)], 1)
        await seen(store, 1)
        await store.check()


async def test_who_writes_is_asked_to_begin_anew(server: tuple[str, Kept], store: Any) -> None:
    name, servers = server
    await store.write([row(1), row(2)], 2)
    await seen(store, 2)
    assert not await store.empty_if_asked()
    other = STORES[name](servers.place(name))
    await other.open()
    for _ in range(2):  # asked twice is asked once
        await other.ask_refill()
    assert await other.is_refill_asked()
    await store.write([row(3)], 3)
    with pytest.raises(TableLost):
        await store.check()
    await store.close()
    await store.open()
    assert await store.empty_if_asked()
    assert not await other.is_refill_asked()
    await other.close()
    assert (await store.cursor(), await store.count()) == (0, 0)
    await store.write([row(1)], 1)
    await seen(store, 1)
    await store.check()


async def test_a_table_that_another_made_anew_under_way_is_begun_anew(server: tuple[str, Kept], store: Any) -> None:
    name, servers = server
    if name != "questdb":
        pytest.skip("in Postgres the cursor goes with the table")
    await store.write([row(1)], 1)
    await seen(store, 1)
    await store._sql.execute("drop table bo_positions")
    reader = STORES[name](servers.place(name))
    await reader.open()
    await reader.close()
    await store.write([row(2)], 2)  # the server may put it into either table
    with pytest.raises(TableLost):
        await store.check()
    await store.close()
    await store.open()
    assert await store.empty_if_asked()
    assert await store.cursor() == 0


async def test_a_questdb_table_without_our_keys_is_put_aside(server: tuple[str, Kept], store: Any) -> None:
    name, servers = server
    if name != "questdb":
        pytest.skip("Postgres makes no table by itself")
    await store._sql.execute("drop table bo_positions")
    await store.write([row(5)], 5)  # the protocol makes a table by itself, without keys
    wait_until(lambda: questdb(servers.place(name), "select count() from bo_positions") == [[1]], SECONDS, "the row")
    with pytest.raises(TableLost):
        await store.check()
    await store.close()
    await store.open()
    assert store.put_aside
    assert await store.cursor() == 0
