"""Emptying what one system told, on a real server that others use too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pks.edges.nats.connection import Connection
from pks.edges.nats.outlog import NOTHING, OutLog, window_headers
from pks.edges.nats.refill import Refill, ask, asked, forget
from pks.edges.nats.streams import BOOKING, EVENTS, EVENTS_SUBJECT, LIFECYCLE_APPLIED, POSITION_LATEST, TRADE_BOOKED, ensure_streams
from tests.crash.nats_server import NatsServer, nats_server

OURS, OTHERS = "0123456789ab", "ba9876543210"
SUBJECTS = (TRADE_BOOKED, LIFECYCLE_APPLIED)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as made:
        made.run(lambda connection: ensure_streams(connection.stream))
        yield made


async def told(connection: Connection, origin: str, count: int) -> None:
    """So many windows in EVENTS and BOOKING, the latest of a position, and a hint."""
    for plan, subjects in ((EVENTS, (EVENTS_SUBJECT,)), (BOOKING, SUBJECTS)):
        log = OutLog(connection.stream, plan, subjects, origin)
        mark = await log.open()
        for number in range(mark.window_last + 1, mark.window_last + 1 + count):
            await log.publish(subjects[number % len(subjects)], b"x", window_headers(origin, number, number, 1, 1))
        await log.tend(quiet=True)
    await connection.stream.publish(f"{POSITION_LATEST}.{origin}.1.1", b"x")


def of(server: NatsServer, stream: str, origin: str) -> list[int]:
    return [message.sequence for message in server.messages(stream) if message.headers.get("Pks-Origin") == origin]


def test_only_what_is_ours_goes_and_the_edge_begins_at_nothing(server: NatsServer) -> None:
    async def fill(connection: Connection) -> None:
        await told(connection, OURS, 5)
        await told(connection, OTHERS, 3)
        for _ in range(150):
            await told(connection, OURS, 1)
        await connection.stream.publish(TRADE_BOOKED, b"of a strategy")
        assert await asked(connection.stream, OURS) is None
        await ask(connection.stream, OURS)
        assert await asked(connection.stream, OURS) == Refill(False, {}, 0)

    async def empty(connection: Connection) -> Any:
        beats: list[int] = []
        removed = await forget(connection.stream, OURS, lambda: beats.append(1))
        assert beats
        done = await asked(connection.stream, OURS)
        assert done is not None and done.is_done and done.removed == removed
        for plan, subjects in ((EVENTS, (EVENTS_SUBJECT,)), (BOOKING, SUBJECTS)):
            assert await OutLog(connection.stream, plan, subjects, OURS).open() == NOTHING
            assert (await OutLog(connection.stream, plan, subjects, OTHERS).open()).window_last == 3
        return removed

    server.run(fill)
    others = {stream: of(server, stream, OTHERS) for stream in ("EVENTS", "BOOKING")}
    removed = server.run(empty)
    assert removed == {"EVENTS": 155, "BOOKING": 155, "POSITIONS": 0, "POSITIONS_LATEST": 1}
    assert {stream: of(server, stream, OTHERS) for stream in others} == others
    assert not any(of(server, stream, OURS) for stream in others)
    assert [message.data for message in server.messages("BOOKING") if not message.headers] == [b"of a strategy"]
    assert [message.subject for message in server.messages("POSITIONS_LATEST")] == [f"{POSITION_LATEST}.{OTHERS}.1.1"]
    assert set(server.run(empty).values()) == {0}, "done again it has nothing to do"


def test_broken_off_it_stays_asked_for(server: NatsServer) -> None:
    class Broken(Exception):
        """The connection went, in the test's words."""

    async def work(connection: Connection) -> None:
        await told(connection, OURS, 3)
        await ask(connection.stream, OURS)

        def break_off() -> None:
            raise Broken

        with pytest.raises(Broken):
            await forget(connection.stream, OURS, break_off)
        refill = await asked(connection.stream, OURS)
        assert refill is not None and not refill.is_done
        assert (await forget(connection.stream, OURS, lambda: None))["EVENTS"] == 3

    server.run(work)
