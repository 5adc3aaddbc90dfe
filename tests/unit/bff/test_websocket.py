"""`/ws` behind a real server: hand-shake, messages, tokens, limits, and clients that do not behave."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from pks.bff import hub as hub_module
from pks.bff import websocket as door_module
from pks.bff.patience import PatientProtocol
from pks.bff.websocket import MESSAGE_BYTES_MAX, MESSAGES_A_SECOND_MAX, UvicornWire, WrongServer, _parsed, seen_of, take_token
from tests.unit.bff.served import SECONDS, Client, Site
from tests.unit.client.small_host import BOOKS, INSTRUMENTS

KEYS = [(book, instrument) for book in BOOKS for instrument in INSTRUMENTS]


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with Site(tmp_path, f"ws{os.getpid()}").served() as served:
        for key in KEYS:
            served.core.put(*key, 5)
        yield served


async def until(condition: Any, what: str) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


# what a client sees


async def test_welcome_snapshot_patches(site: Site) -> None:
    client = await site.connect("bob")
    welcome = client.messages[0]
    assert welcome["seq"] == 1 and welcome["data"]["user"] == "bob" and welcome["data"]["books"] == ["ALPHA"]
    await client.say(subscribe=["positions"])
    assert (await client.until("subscribed"))["data"] == {"topics": ["positions"], "books": ["ALPHA"]}
    await client.until("snapshot")
    assert {book for book, _ in client.positions} == {"ALPHA"}
    site.core.put("BETA", "SBER.MOEX", 7)
    site.core.put("ALPHA", "SBER.MOEX", 8)
    frame = await client.until("positions")
    assert [(item["book"], item["quantity"]) for item in frame["data"]] == [("ALPHA", "8")]
    assert frame["state"] == "live"


async def test_trades_and_heartbeats(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "HEARTBEAT_SECONDS", 0.01)
    client = await site.stream("ann", "blotter")
    site.core.trade("ALPHA", "SBER.MOEX", 5)
    site.core.settle()
    await client.until("blotter")
    assert [trade["quantity"] for trade in client.trades] == ["5"]
    await client.until("heartbeat")


async def test_a_book_that_may_not_be_seen_is_one_that_does_not_exist(site: Site) -> None:
    client = await site.connect("bob")
    answers = []
    for book in ("BETA", "GHOST"):
        await client.say(subscribe=["positions"], books=["ALPHA", book])
        answer = await client.until("error")
        answers.append(json.dumps(answer["data"]).replace(book, "*"))
    assert answers[0] == answers[1] and "UNKNOWN_BOOK" in answers[0]
    await client.say(subscribe=["positions"], books=["ALPHA"])
    await client.until("snapshot")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"subscribe": ["pnl"]}, "TOPIC_NOT_FED"),
        ({"subscribe": ["weather"]}, "UNKNOWN_TOPIC"),
        ({"subscribe": ["alerts"]}, "FORBIDDEN"),
        ({"subscribe": "positions"}, "BAD_MESSAGE"),
        ({"subscribes": ["positions"]}, "BAD_MESSAGE"),
        ({"subscribe": ["positions"], "books": ["X"] * 1001}, "TOO_MANY_BOOKS"),
        ({"resume": {"stream": "nobody", "seq": 3}}, "STREAM_UNKNOWN"),
        ([], "BAD_MESSAGE"),
    ],
)
async def test_what_is_wrong_is_said_and_the_connection_stays(site: Site, said: Any, code: str) -> None:
    client = await site.connect("bob")
    await client.connection.send(json.dumps(said))
    assert (await client.until("error"))["data"]["code"] == code
    await client.say(subscribe=["positions"])
    await client.until("snapshot")


async def test_alerts_are_for_those_who_operate(site: Site) -> None:
    client = await site.connect("ann")
    await client.say(subscribe=["alerts"])
    assert (await client.until("alerts"))["data"] == []
    site.people.change("ann", permissions=frozenset({"read"}))
    await until(lambda: not any(one.client.wants_alerts for one in site.door.connections), "the permission is gone")


async def test_unsubscribe(site: Site) -> None:
    client = await site.stream("ann", "positions", "trades")
    await client.say(unsubscribe=["positions"])
    await until(lambda: all(set(one.client.links) == {"trades"} for one in site.door.connections), "one topic is left")


# tokens


async def test_the_first_message_or_a_subprotocol_is_the_token(site: Site) -> None:
    address = f"ws://127.0.0.1:{site.port}/ws"
    async with connect(address) as connection:
        client = Client(connection)
        await client.say(token="bob")
        assert (await client.until("welcome"))["data"]["user"] == "bob"
    async with connect(address, subprotocols=["pks.v1", "bearer.bob"]) as connection:
        assert connection.subprotocol == "pks.v1"
        assert (await Client(connection).until("welcome"))["data"]["user"] == "bob"
    async with connect(address, subprotocols=["bearer.bob"]) as connection:
        assert connection.subprotocol == "bearer.bob"


@pytest.mark.parametrize("first", ['{"subscribe": ["positions"]}', "garbage", '{"token": "mallory"}', '{"token": ""}'])
async def test_nobody_else_comes_in(site: Site, first: str) -> None:
    async with connect(f"ws://127.0.0.1:{site.port}/ws") as connection:
        await connection.send(first)
        assert (await Client(connection).closed())[0] == 4401
    refused = await site.connect("mallory", first=False)
    assert (await refused.closed())[0] == 4401
    assert site.door.waiting_count == 0 and not site.hub.clients


async def test_who_may_not_read_and_whom_nobody_can_judge(site: Site) -> None:
    site.people.add("eve", permissions=frozenset({"admin"}))
    assert (await (await site.connect("eve", first=False)).closed())[0] == 4403
    site.people.away = True
    assert (await (await site.connect("bob", first=False)).closed())[0] == 1013


async def test_a_connection_that_says_nothing_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "TOKEN_SECONDS", 0.05)
    async with connect(f"ws://127.0.0.1:{site.port}/ws") as connection:
        assert await Client(connection).closed() == (4401, "no token within 0.05 s")


async def test_a_revoked_token_ends_its_streams_and_no_others(site: Site) -> None:
    bob, again, ann = await site.stream("bob"), await site.stream("bob"), await site.stream("ann")
    site.people.revoke("bob")
    assert (await bob.closed())[0] == (await again.closed())[0] == 4401
    site.core.put("ALPHA", "SBER.MOEX", 99)
    await ann.until_shows("ALPHA", "SBER.MOEX", 99)


async def test_a_token_that_expires_unless_a_fresh_one_comes(site: Site) -> None:
    site.people.add("old", name="carl", expires_at=1_000.0)
    site.people.add("new", name="carl", expires_at=2_000.0)
    site.now = lambda: 999.0
    quick, late = await site.stream("old"), await site.stream("old")
    await quick.say(token="new")
    await quick.until("welcome")
    site.now = lambda: 1_500.0
    assert (await late.closed()) == (4401, "the token has expired")
    site.core.put("ALPHA", "SBER.MOEX", 99)
    await quick.until_shows("ALPHA", "SBER.MOEX", 99)
    await quick.say(token="ann")
    assert (await quick.closed())[0] == 4401, "another user's"


async def test_a_grant_that_is_removed_in_mid_stream(site: Site) -> None:
    site.people.add("dora", frozenset({"ALPHA", "BETA"}))
    everything, chosen = await site.stream("dora"), await site.stream("dora", "positions", books=["BETA"])
    site.people.change("dora", books=frozenset({"ALPHA"}))
    await everything.until("snapshot")
    await chosen.until("snapshot")
    assert {book for book, _ in everything.positions} == {"ALPHA"} and chosen.positions == {}
    for quantity in range(6, 9):
        site.core.put("BETA", "SBER.MOEX", quantity)
        site.core.put("ALPHA", "SBER.MOEX", quantity)
        await everything.until_shows("ALPHA", "SBER.MOEX", quantity)
    assert {book for book, _ in everything.positions} == {"ALPHA"}
    site.people.change("dora", permissions=frozenset())
    assert (await everything.closed())[0] == 4403


async def test_when_nobody_can_judge_open_streams_go_on_until_their_tokens_expire(site: Site) -> None:
    site.people.add("old", name="carl", expires_at=1_000.0)
    site.now = lambda: 999.0
    client = await site.stream("old")
    site.people.away = True
    site.people.told.set()
    await until(lambda: not site.people.told.is_set(), "it was looked at")
    site.core.put("ALPHA", "SBER.MOEX", 99)
    await client.until_shows("ALPHA", "SBER.MOEX", 99)
    site.now = lambda: 1_500.0
    assert (await client.closed())[0] == 4401


async def test_no_token_in_any_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.people.add("s3cret")
    with caplog.at_level(1), caplog.filtering(door_module.WithoutTokens()):
        for name in ("uvicorn.error", "uvicorn.access", "websockets"):
            logging.getLogger(name).setLevel(1)
        client = await site.connect("s3cret")
        await client.say(subscribe=["nothing"])
        await client.until("error")
        await client.connection.close()
        async with connect(f"ws://127.0.0.1:{site.port}/ws", subprotocols=["bearer.s3cret"], logger=logging.getLogger("client")):
            pass
        server_said = [record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")]
        for name in ("uvicorn.error", "uvicorn.access", "websockets"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    assert server_said and not [text for text in server_said if "s3cret" in text]


def test_a_token_is_taken_out_of_the_scope() -> None:
    scope = {
        "query_string": b"a=1&token=abc.d%2De", "subprotocols": ["pks.v1", "bearer.xyz"],
        "headers": [(b"host", b"h"), (b"sec-websocket-protocol", b"pks.v1, bearer.xyz")],
    }  # fmt: skip
    assert take_token(scope) == ("abc.d-e", "pks.v1")
    assert scope == {"query_string": b"", "subprotocols": ["pks.v1"], "headers": [(b"host", b"h")]}


@given(st.none() | st.frozensets(st.sampled_from("ABC")), st.none() | st.frozensets(st.sampled_from("ABC")))
def test_nobody_sees_more_than_he_is_granted(wanted, granted) -> None:
    seen, everything = seen_of(wanted, granted), frozenset("ABC")
    assert (everything if seen is None else seen) == (everything if wanted is None else wanted) & (
        everything if granted is None else granted
    )
    assert granted is None or (seen is not None and seen <= granted)


# limits, and clients that do not behave


@given(st.binary(max_size=200) | st.just(b"[" * 60_000) | st.just(b'{"books":' * 7_000) | st.just(b'{"subscribe":' + b"[" * 60_000))
def test_garbage_is_a_bad_message_and_nothing_worse(text) -> None:
    try:
        _parsed(text)
    except door_module.BadMessage as error:
        assert error.code == "BAD_MESSAGE" and len(error.reason) < 300


async def test_a_message_that_is_too_long(site: Site) -> None:
    client = await site.stream()
    await client.connection.send("x" * (MESSAGE_BYTES_MAX + 1))
    assert (await client.closed())[0] == 1009
    nested = await site.stream()
    await nested.connection.send('{"books":' * 7_000)
    assert (await nested.until("error"))["data"]["code"] == "BAD_MESSAGE"


async def test_too_many_messages(site: Site) -> None:
    client = await site.stream()
    with pytest.raises(ConnectionClosed):
        for _ in range(100 * MESSAGES_A_SECOND_MAX):
            await client.say(unsubscribe=[])
            await asyncio.sleep(0)
    assert (await client.closed())[0] == 1008


async def test_no_more_streams_than_allowed(site: Site) -> None:
    site.hub.clients_max = 2
    one, _ = await site.stream(), await site.stream()
    assert (await (await site.connect(first=False)).closed())[0] == 1013
    await one.connection.close()
    await until(lambda: len(site.door.connections) == 1, "one has left")
    await site.stream()


async def never_reads(site: Site) -> socket.socket:
    """A client that subscribes and then reads nothing; its window is small."""
    made, loop = socket.socket(), asyncio.get_running_loop()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.setblocking(False)
    await loop.sock_connect(made, ("127.0.0.1", site.port))
    await loop.sock_sendall(
        made,
        b"GET /ws?token=ann HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
    assert (await loop.sock_recv(made, 12)).startswith(b"HTTP/1.1 101")
    said = b'{"subscribe":["positions"]}'
    await loop.sock_sendall(made, bytes((0x81, 0x80 | len(said))) + bytes(4) + said)  # masked with zeros
    return made


async def test_a_client_that_never_reads_is_dropped_and_the_others_do_not_notice(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "BUFFER_BYTES_MAX", 1 << 12)
    monkeypatch.setattr(hub_module, "BEHIND_SECONDS_MAX", 0.2)
    monkeypatch.setattr(door_module, "CLOSE_SECONDS", 0.5)
    reader = await site.stream()
    stuck = await never_reads(site)
    try:
        await until(lambda: sum(len(one.client.links) for one in site.door.connections) == 2, "it has subscribed")
        for one in site.door.connections:
            one.wire._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        quantity = 5
        async with asyncio.timeout(SECONDS):
            while site.hub.figures.dropped == 0:
                quantity += 1
                for key in KEYS:
                    site.core.put(*key, quantity)
                await reader.until_shows(*KEYS[-1], quantity)
        assert [one.client.owner for one in site.door.connections] == ["ann"]
        tail = b""
        async with asyncio.timeout(SECONDS):
            loop = asyncio.get_running_loop()
            while part := await loop.sock_recv(stuck, 1 << 16):
                tail = (tail + part)[-200:]
        assert b"\x03\xf5" in tail, "the close code is 1013"
    finally:
        stuck.close()


async def test_two_hundred_clients(site: Site) -> None:
    clients = await asyncio.gather(*(site.stream("ann" if number % 2 else "bob") for number in range(200)))
    for quantity in range(10, 15):
        site.core.put("ALPHA", "SBER.MOEX", quantity)
        await asyncio.gather(*(client.until_shows("ALPHA", "SBER.MOEX", quantity) for client in clients))
    assert site.hub.figures.dropped == 0
    assert len(site.hub._channels) == 2, "two views, each encoded once"
    await asyncio.gather(*(client.connection.close() for client in clients))
    await until(lambda: not site.hub.clients, "all have left")


async def test_a_client_that_comes_back_resumes(site: Site) -> None:
    client = await site.stream()
    client.connection.transport.abort()
    await until(lambda: not site.hub.clients, "it was cut off")
    for quantity in range(10, 15):
        site.core.put("ALPHA", "SBER.MOEX", quantity)
    again = await site.connect()
    client.connection = again.connection
    await client.say(resume={"stream": client.stream, "seq": client.seq})
    resumed = await client.until("resumed")
    assert resumed["data"]["resumed"] is True
    await client.until_shows("ALPHA", "SBER.MOEX", 14)
    assert client.types().count("snapshot") == 1
    stranger = await site.connect("bob")
    await stranger.say(resume={"stream": client.stream, "seq": 1}, subscribe=["positions"])
    await stranger.until("snapshot")
    assert {book for book, _ in stranger.positions} == {"ALPHA"}, "another's stream is not known"


async def test_the_host_restarts_under_open_streams(site: Site) -> None:
    client = await site.stream()
    site.core.close()
    assert (await client.until("state"))["state"] == "stale"
    site.start_core()
    site.core.put("BETA", "GAZP.MOEX", 42)
    await client.until("snapshot")
    await client.until_shows("BETA", "GAZP.MOEX", 42)
    assert len(client.positions) == 1


async def test_a_hand_shake_that_never_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "head_seconds", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
    ended = asyncio.create_task(reader.read())
    async with asyncio.timeout(SECONDS):
        while not ended.done():
            writer.write(b"X-Slow: 1\r\n")
            await asyncio.sleep(0.01)
    with pytest.raises(ConnectionResetError):
        raise ended.exception() or ConnectionResetError
    writer.close()
    assert (await site.stream()).positions


def test_another_server_is_refused() -> None:
    async def send(message: Any) -> None:
        raise AssertionError(message)

    with pytest.raises(WrongServer):
        UvicornWire(send)


@pytest.mark.long
async def test_a_thousand_connects_a_second(site: Site) -> None:
    """Some hundred at once, again and again: nobody is turned away, nothing stays behind, and those who listen are told all the while."""
    reader = await site.stream()
    site.hub.clients_max = 5_000

    async def come_and_go() -> None:
        client = await site.stream()
        await client.connection.close()

    started, done = time.monotonic(), 0
    for quantity in range(10, 20):
        arriving = asyncio.gather(*(come_and_go() for _ in range(200)))
        site.core.put("ALPHA", "SBER.MOEX", quantity)
        await reader.until_shows("ALPHA", "SBER.MOEX", quantity)
        await arriving
        done += 200
    print(f"{done / (time.monotonic() - started):.0f} connects a second, each with a snapshot, by one process for both sides")
    await until(lambda: len(site.hub.clients) == 1, "all have left")
