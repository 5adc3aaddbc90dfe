"""Dead letters: their class, their headers, and messages that were delivered too often."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from pks.base.errors import MEANINGS, Code
from pks.edges.nats.connection import Connection
from pks.edges.nats.dead import TRANSIENT, VALUE_CHARACTERS_MAX, Class, Fault, Where, class_of, dead_headers
from pks.edges.nats.origin import origin_of, root_key, root_of
from pks.edges.nats.streams import BOOKING, TRADE_BOOKED, ensure_streams
from pks.workers.edges.bus_in import Reaper
from tests.crash.nats_server import NatsServer, nats_server


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as made:
        yield made


def test_every_code_has_a_class_and_what_passes_may_be_sent_again() -> None:
    assert {class_of(code) for code in Code} == {Class.MALFORMED, Class.UNKNOWN_REF, Class.CONFLICT, Class.TRANSIENT}
    assert all(MEANINGS[code].retry for code in TRANSIENT)
    assert class_of(Code.NOT_A_NUMBER) is Class.MALFORMED
    assert class_of(Code.UNKNOWN_BOOK) is Class.UNKNOWN_REF
    assert class_of(Code.OVERSELL) is class_of(Code.IDEMPOTENCY_CONFLICT) is Class.CONFLICT


def test_headers_are_one_line_of_ascii_and_bounded() -> None:
    where = Where("a.subject", "BOOKING", 7, "pks-1", 1)
    fault = Fault(Class.MALFORMED, "BAD_TEXT", "trade_id", "\u2603\r\nInjected: yes" + "x" * 10_000, "why", 3)
    headers = dead_headers(where, fault, {"Their-Header": "v\n", "Nats-Msg-Id": "theirs", "Nats-TTL": "1"})
    assert headers["Nats-Msg-Id"] == "BOOKING:7:pks-1:3"
    assert headers["Pks-Dlq-Value"].startswith("\\u2603\\x0d\\x0aInjected")
    assert all(value.isascii() and value.isprintable() and len(value) <= VALUE_CHARACTERS_MAX + 3 for value in headers.values())
    assert headers["Their-Header"] == "v\\x0a" and headers["Pks-Dlq-Message-Id"] == "theirs" and "Nats-TTL" not in headers


def test_the_root_of_a_correction_can_be_read_from_its_key() -> None:
    import numpy as np

    from pks.layouts.event import EVENT

    event = np.zeros(1, EVENT)[0]
    event["recorded_ns"] = 17
    origin = origin_of(event)
    event["batch_check"] = 5  # the journal's part: may be written again at a recovery
    assert origin_of(event) == origin
    assert root_of(*root_key(origin, 42)) == f"{origin}:42"
    assert root_of(-(2**63) + 1, 42) == root_of(0, 0) == ""
    for bad in (("short", 1), (origin, 0), (origin, 2**48)):
        with pytest.raises(ValueError):
            root_key(*bad)


def test_a_message_that_is_delivered_too_often_becomes_a_dead_letter(server: NatsServer) -> None:
    async def work(connection: Connection) -> None:
        stream = connection.stream
        await ensure_streams(stream)
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_deliver=2, ack_wait=30)
        reader = await stream.pull_subscribe(TRADE_BOOKED, durable="pks-x", stream=BOOKING.name, config=config)
        await stream.publish(TRADE_BOOKED, b"poison", headers={"Theirs": "1"})
        reaper = asyncio.create_task(Reaper(connection, "pks-x").run())
        for _ in range(2):
            (message,) = await reader.fetch(1, timeout=10)
            await message.nak()
        with contextlib.suppress(TimeoutError):
            await reader.fetch(1, timeout=1)  # the server says it when it would deliver once more
        while not (await stream.stream_info("DLQ")).state.messages:
            assert not reaper.done()
            await asyncio.sleep(0.01)
        reaper.cancel()

    server.run(work)
    (letter,) = server.messages("DLQ")
    assert letter.data == b"poison"
    assert letter.headers["Pks-Dlq-Class"] == "POISON" and letter.headers["Theirs"] == "1"
    assert letter.headers["Nats-Msg-Id"] == "BOOKING:1:pks-x"
