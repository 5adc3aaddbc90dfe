"""Migrations: each once, whole, and never another one under the same name."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from pks.edges.postgres.connection import connect
from pks.edges.postgres.encode import FEE_COLUMNS, LIFECYCLE_COLUMNS, MATCH_COLUMNS, TRADE_COLUMNS
from pks.edges.postgres.migrations import Migration, MigrationEdited, migrate, migrations
from pks.edges.postgres.writer import REFERENCE_COLUMNS, REFERENCE_TABLES
from pks.servers.endpoints import Endpoint

ONE = Migration(1, "0001_one.sql", "create table one (a integer)")
TWO = Migration(2, "0002_two.sql", "create table two (a integer)")


async def test_each_is_applied_once_by_whoever_comes_first(database: Endpoint) -> None:
    connections = [await asyncpg.connect(database.url) for _ in range(3)]
    done = await asyncio.gather(*(migrate(connection, [ONE, TWO]) for connection in connections))
    assert sorted(done, key=len) == [[], [], [ONE.name, TWO.name]]
    assert await connections[0].fetch("select * from two") == []
    for connection in connections:
        await connection.close()


async def test_an_edited_file_is_refused_by_name(database: Endpoint) -> None:
    connection = await asyncpg.connect(database.url)
    await migrate(connection, [ONE])
    with pytest.raises(MigrationEdited, match=r"0001_one\.sql was edited"):
        await migrate(connection, [Migration(1, ONE.name, ONE.text + " "), TWO])
    assert await connection.fetchval("select to_regclass('two')") is None
    with pytest.raises(MigrationEdited, match="another version"):
        await migrate(connection, [])
    assert await migrate(connection, [ONE, TWO]) == [TWO.name], "the lock was given back"
    await connection.close()


async def test_one_that_fails_leaves_nothing(database: Endpoint) -> None:
    connection = await asyncpg.connect(database.url)
    wrong = Migration(2, "0002_wrong.sql", "create table half (a integer); select 1 / 0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(connection, [ONE, wrong])
    assert await connection.fetchval("select to_regclass('half')") is None
    assert await migrate(connection, [ONE, TWO]) == [TWO.name]
    await connection.close()


async def test_ours_have_the_columns_that_are_written(database: Endpoint) -> None:
    connection = await connect(database, role="")
    rows = await connection.fetch("select table_schema || '.' || table_name as t, column_name as c from information_schema.columns")
    columns: dict[str, set[str]] = {}
    for row in rows:
        columns.setdefault(row["t"], set()).add(row["c"])
    for table, written in (("trade.fee", FEE_COLUMNS), ("trade.lifecycle_event", LIFECYCLE_COLUMNS), ("position.lot_match", MATCH_COLUMNS)):
        assert columns[table] == set(written), table
    assert columns["trade.trade"] == {*TRADE_COLUMNS, "cancelled_by", "replaced_by", "allocated_by"}
    for subject, table in REFERENCE_TABLES.items():
        assert columns[table] == {"id", "code", *REFERENCE_COLUMNS[subject], "sequence", "definition"}, table
    assert [one.name for one in migrations()] == [row["name"] for row in await connection.fetch("select name from pks_migration")]
    await connection.close()


async def test_roles_have_their_rights_and_no_more(database: Endpoint) -> None:
    writer, reader = await connect(database), await connect(database, role="pks_reader")
    await writer.execute("insert into back_office.alert (class, severity, window_start, text) values ('a', 'INFO', now(), 'x')")
    assert await reader.fetchval("select count(*) from back_office.alert") == 1
    for connection, statement in (
        (writer, "drop table trade.trade"),
        (writer, "delete from trade.trade"),
        (writer, "truncate position.lot_match"),
        (writer, "update back_office.journal_copy set last = 1"),
        (writer, "create table trade.other (a integer)"),
        (reader, "insert into back_office.alert (class, severity, window_start, text) values ('b', 'INFO', now(), 'x')"),
        (reader, "select * from back_office.journal_copy"),
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await writer.close()
    await reader.close()
