"""Publishing once into a stream that others write too, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.js.errors import APIError

from pks.edges.nats.connection import Connection
from pks.edges.nats.outlog import NOTHING, OutLog, StreamChanged, window_headers
from pks.edges.nats.streams import (
    BOOKING,
    EVENTS,
    EVENTS_SUBJECT,
    HEADER_BESIDE,
    HEADER_REFUSALS,
    HEADER_WINDOW,
    LIFECYCLE_APPLIED,
    STREAMS,
    TRADE_BOOKED,
    ensure_streams,
)
from tests.crash.nats_server import NatsServer, nats_server

OURS, OTHERS = "0123456789ab", "ba9876543210"
SUBJECTS = (TRADE_BOOKED, LIFECYCLE_APPLIED)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as made:
        yield made


@pytest.fixture(autouse=True)
def empty(server: NatsServer) -> None:
    async def work(connection: Connection) -> None:
        await ensure_streams(connection.stream)
        for name in ("BOOKING", "KV_pks_edge"):
            if name in [info.config.name for info in await connection.stream.streams_info()]:
                await connection.stream.delete_stream(name)
        await ensure_streams(connection.stream)

    server.run(work)


def log_on(connection: Connection, origin: str = OURS) -> OutLog:
    return OutLog(connection.stream, BOOKING, SUBJECTS, origin)


async def put(log: OutLog, first: int, last: int, part: int = 1, parts: int = 1) -> None:
    await log.publish(TRADE_BOOKED, f"{first}".encode(), window_headers(log.origin, first, last, part, parts))


def windows(server: NatsServer, strand: str = HEADER_WINDOW) -> list[str]:
    """Of our messages in the stream."""
    ours = [message.headers for message in server.messages("BOOKING") if message.headers.get("Pks-Origin") == OURS]
    return [headers[strand] for headers in ours if strand in headers]


def test_streams_are_made_once_and_keep_what_others_added(server: NatsServer) -> None:
    async def work(connection: Connection) -> None:
        for plan in STREAMS:
            info = await connection.stream.stream_info(plan.name)
            assert info.config.subjects == list(plan.subjects)
            assert info.config.max_age == plan.age_seconds
        await connection.stream.update_stream(name="BOOKING", subjects=[TRADE_BOOKED, "others.subject"], max_age=5)
        await ensure_streams(connection.stream)
        info = await connection.stream.stream_info("BOOKING")
        assert set(info.config.subjects) == {*BOOKING.subjects, "others.subject"}
        assert info.config.max_age == BOOKING.age_seconds

    server.run(work)


def test_a_store_without_room_says_so_and_takes_the_rest_when_there_is_some(tmp_path: Path) -> None:
    with nats_server(tmp_path) as small:
        small.start_with_room(1_500_000)

        async def fill(connection: Connection) -> None:
            await ensure_streams(connection.stream)
            log = log_on(connection)
            await log.open()
            with pytest.raises(APIError, match="insufficient resources"):
                for number in range(1, 200):
                    await log.publish(TRADE_BOOKED, bytes(20_000), window_headers(OURS, number, number, 1, 1))

        async def go_on(connection: Connection) -> int:
            log = log_on(connection)
            last = (await log.open()).window_last
            await put(log, last + 1, last + 1)
            return last

        small.run(fill)
        small.start_with_room(1 << 30)
        last = small.run(go_on)
        assert last > 10
        assert windows(small) == [f"{number}-{number}" for number in range(1, last + 2)]


def test_the_cursor_is_our_last_message_behind_those_of_others(server: NatsServer) -> None:
    async def work(connection: Connection) -> None:
        log, other = log_on(connection), log_on(connection, OTHERS)
        assert await log.open() == await other.open() == NOTHING
        for number in range(1, 8):
            await put(log, number, number)
        for number in range(1, 700):  # more than one look back takes
            await connection.stream.publish_async(TRADE_BOOKED, b"", headers=window_headers(OTHERS, number, number, 1, 1))
        await connection.stream.publish_async_completed()
        assert (await log_on(connection).open()).window_last == 7
        await put(log, 8, 9, 1, 2)
        mark = await log_on(connection).open()
        assert (mark.window_first, mark.window_last, mark.part, mark.is_whole) == (8, 9, 1, False)

    server.run(work)


def test_a_publish_that_others_overtook_is_stored_once(server: NatsServer) -> None:
    async def work(connection: Connection) -> None:
        log, other = log_on(connection), log_on(connection, OTHERS)
        await log.open()
        await other.open()
        for number in range(1, 20):
            await put(other, number, number)
            await put(log, number, number)
        assert log.retries_count > 10

    server.run(work)
    assert windows(server) == [f"{number}-{number}" for number in range(1, 20)]


def test_a_publish_of_a_dead_worker_that_came_in_late_is_found(server: NatsServer) -> None:
    """What timed out, or what a killed worker had sent, comes in after we have looked: it is noticed, never doubled."""

    async def work(connection: Connection) -> None:
        log, dead = log_on(connection), log_on(connection)
        await log.open()
        await dead.open()
        await put(dead, 1, 3)
        await put(log, 1, 3)  # the same message: taken as stored
        await put(log, 4, 5)
        with pytest.raises(StreamChanged):
            await put(dead, 4, 4)  # another cut of the same events

    server.run(work)
    assert windows(server) == ["1-3", "4-5"]


def test_a_stream_that_is_made_anew_or_emptied_is_noticed(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pks.edges.nats.outlog.CHECK_SECONDS", 0.0)

    async def work(connection: Connection) -> None:
        log = log_on(connection)
        await log.open()
        for number in (1, 2):
            await put(log, number, number)
        await log.tend(quiet=True)
        await connection.stream.purge_stream("BOOKING")
        with pytest.raises(StreamChanged, match="emptied"):
            await log.tend(quiet=True)
        assert await log.open() == NOTHING
        await put(log, 1, 2)  # within the time in which the server remembers ids
        await put(log, 1, 1)
        await put(log, 2, 2)
        await connection.stream.delete_stream("BOOKING")
        await ensure_streams(connection.stream)
        with pytest.raises(StreamChanged, match="anew"):
            await put(log, 3, 3)
        assert await log.open() == NOTHING

    server.run(work)


def test_what_retention_took_is_not_told_again(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(connection: Connection) -> None:
        log = log_on(connection)
        await log.open()
        await put(log, 1, 41)
        await log.tend(quiet=True)
        await connection.stream.purge_stream("BOOKING")  # as old age would: the sequence goes on
        again: Any = log_on(connection)
        monkeypatch.setattr(again, "_aged_out", lambda at: True)
        assert (await again.open()).window_last == 41
        await put(again, 42, 42)
        fresh = log_on(connection)
        assert (await fresh.open()).window_last == 42

    server.run(work)


def test_what_retention_took_behind_the_hint_is_not_told_again(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before it left a hint: the messages of EVENTS, which are kept longer, say how far BOOKING was."""

    async def work(connection: Connection) -> None:
        log = log_on(connection)
        events = OutLog(connection.stream, EVENTS, (EVENTS_SUBJECT,), OURS)
        assert log.hint() == ""
        await log.open()
        await put(log, 1, 41)
        await log.tend(quiet=True)
        await put(log, 42, 50)
        mark = await events.open()
        headers = window_headers(OURS, mark.window_last + 1, mark.window_last + 50, 1, 1)
        await events.publish(EVENTS_SUBJECT, b"x", {**headers, HEADER_BESIDE: log.hint()})
        await connection.stream.purge_stream("BOOKING")  # as old age would
        looked = OutLog(connection.stream, EVENTS, (EVENTS_SUBJECT,), OURS)
        await looked.open()
        again: Any = log_on(connection)
        monkeypatch.setattr(again, "_aged_out", lambda at: True)
        assert (await again.open(looked.beside)).window_last == 50
        await connection.stream.delete_stream("BOOKING")
        await ensure_streams(connection.stream)
        assert await log_on(connection).open(looked.beside) == NOTHING, "of another incarnation of the stream"

    server.run(work)


def test_two_strands_of_one_origin_each_know_their_own(server: NatsServer) -> None:
    """Both publish at once and in turn, and each finds its own cursor again; a late message of a dead worker is found in either."""

    async def work(connection: Connection) -> None:
        log = log_on(connection)
        refusals = OutLog(connection.stream, BOOKING, SUBJECTS, OURS, strand=HEADER_REFUSALS, turns=log.turns)
        await log.open()
        await refusals.open()
        numbers = range(1, 30)

        async def publish(one: OutLog, base: int) -> None:
            for number in numbers:
                await one.publish(TRADE_BOOKED, b"", one.headers(base + number, base + number))

        await asyncio.gather(publish(log, 0), publish(refusals, 1 << 40))
        assert log.retries_count == refusals.retries_count == 0, "they know of each other"
        await log.tend(quiet=True)
        await refusals.tend(quiet=True)
        again = log_on(connection)
        other = OutLog(connection.stream, BOOKING, SUBJECTS, OURS, strand=HEADER_REFUSALS, turns=again.turns)
        assert (await again.open()).window_last == 29
        await put(log, 30, 31)  # of a dead worker, between the two looks
        assert (await other.open()).window_last == (1 << 40) + 29
        await other.publish(TRADE_BOOKED, b"", other.headers((1 << 40) + 30, (1 << 40) + 30))
        await put(again, 30, 31)
        await put(again, 32, 32)
        await refusals.publish(TRADE_BOOKED, b"", refusals.headers((1 << 40) + 30, (1 << 40) + 30))

    server.run(work)
    assert windows(server, HEADER_WINDOW) == [*(f"{n}-{n}" for n in range(1, 30)), "30-31", "32-32"]
    assert windows(server, HEADER_REFUSALS) == [f"{(1 << 40) + n}-{(1 << 40) + n}" for n in range(1, 31)]
