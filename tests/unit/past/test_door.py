"""The socket of the worker `past`: who sends garbage, too much, or reads nothing loses his own connection, and nobody else notices."""

from __future__ import annotations

import os
import random
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from pks.past import door as the_door
from pks.past.door import HEAD, SOCKET_FILE, Door, at_directory, packed
from pks.past.questions import ANSWER_BYTES_MAX, QUESTION_BYTES_MAX, WAITING_MAX, Answered, Asked, Failed, Page, PositionsAt
from tests.conftest import wait_until

SECONDS = 30.0  # a deadline, not a duration
QUESTION = PositionsAt()
PAGE = Page(rows=[{"book": "A"}], sequence=7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Longer than a socket's address may be."""
    made = tmp_path / ("a" * 120)
    made.mkdir()
    return made


@pytest.fixture
def door(folder: Path) -> Iterator[Door]:
    made = Door(folder)
    yield made
    made.close()
    assert not (folder / SOCKET_FILE).exists()


def connect(folder: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(SECONDS)
    with at_directory(folder) as near:
        made.connect(f"{near}/{SOCKET_FILE}")
    return made


def asked(number: int, patience_ms: int = 60_000) -> bytes:
    body = msgspec.msgpack.encode(Asked(id=number, patience_ms=patience_ms, question=QUESTION))
    return HEAD.pack(len(body)) + body


def read_answer(client: socket.socket) -> Answered:
    def exactly(size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = client.recv(size - len(found))
            assert part, "the connection is open"
            found += part
        return found

    return msgspec.msgpack.decode(exactly(HEAD.unpack(exactly(HEAD.size))[0]), type=Answered)


@contextmanager
def served(door: Door) -> Iterator[None]:
    """Somebody looks after the door and answers everything."""
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            door.look(0.01)
            while (one := door.next()) is not None:
                door.answer(one, PAGE)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_only_the_owner_may_ask(door: Door, folder: Path) -> None:
    assert stat.S_IMODE((folder / SOCKET_FILE).stat().st_mode) == 0o600


def test_a_dead_ones_socket_is_replaced(folder: Path) -> None:
    first = Door(folder)
    first.abandon()  # as a killed worker leaves it
    again = Door(folder)
    with served(again), connect(folder) as client:
        client.sendall(asked(1))
        assert read_answer(client) == Answered(id=1, answer=PAGE)
    again.close()


def test_questions_may_come_in_any_pieces(door: Door, folder: Path) -> None:
    with served(door), connect(folder) as client:
        message = asked(1) + asked(2) + asked(3)
        chance = random.Random(5)
        while message:
            size = chance.randint(1, 9)
            client.sendall(message[:size])
            message = message[size:]
        assert [read_answer(client).id for _ in range(3)] == [1, 2, 3]


GARBAGE = {
    "no message": HEAD.pack(7) + b"\xff" * 7,
    "another message": HEAD.pack(4) + msgspec.msgpack.encode([1, 2, 3]),
    "no such question": HEAD.pack(0)[:0] + (lambda body: HEAD.pack(len(body)) + body)(msgspec.msgpack.encode([1, 2, {"type": "nothing"}])),
    "bad text": (lambda body: HEAD.pack(len(body)) + body)(b"\x93\x01\x02\x81\xa4type\xa4\xff\xff\xff\xff"),
    "too long": HEAD.pack(QUESTION_BYTES_MAX + 1),
    "nothing": HEAD.pack(0),
    "HTTP": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
}


@pytest.mark.parametrize("what", sorted(GARBAGE))
def test_garbage_costs_its_sender_the_connection(door: Door, folder: Path, what: str) -> None:
    with served(door), connect(folder) as good, connect(folder) as bad:
        bad.sendall(asked(1))
        assert read_answer(bad).id == 1
        bad.sendall(GARBAGE[what])
        assert bad.recv(1) == b""
        good.sendall(asked(2))
        assert read_answer(good).id == 2
    assert door.garbled == 1


def test_random_garbage(door: Door, folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    with served(door), connect(folder) as good:
        for number in range(100):
            with connect(folder) as bad:
                message = bytearray(asked(number))
                for _ in range(chance.randint(1, 4)):
                    message[chance.randrange(HEAD.size, len(message))] = chance.randrange(256)
                bad.sendall(message[: chance.randint(1, len(message))])
            good.sendall(asked(number))
            assert read_answer(good).id == number


def test_half_a_question_and_an_end(door: Door, folder: Path) -> None:
    with served(door):
        with connect(folder) as bad:
            bad.sendall(asked(1)[:-3])
        with connect(folder) as good:
            good.sendall(asked(2))
            assert read_answer(good).id == 2


def test_too_many_questions_are_told_so_at_once(door: Door, folder: Path) -> None:
    with connect(folder) as client:
        client.sendall(b"".join(asked(number) for number in range(WAITING_MAX + 3)))
        wait_until(lambda: door.look(0.01) == 0 and door.waiting == WAITING_MAX, SECONDS, "all have come")
        for number in range(WAITING_MAX, WAITING_MAX + 3):
            found = read_answer(client)
            assert found.id == number
            assert isinstance(found.answer, Failed)
            assert (found.answer.code, found.answer.retry) == ("BUSY", True)
        for number in range(WAITING_MAX):
            one = door.next()
            assert one is not None
            assert one.id == number
            door.answer(one, PAGE)
        assert [read_answer(client).id for _ in range(WAITING_MAX)] == list(range(WAITING_MAX))


def test_nobody_waits_any_more(door: Door, folder: Path) -> None:
    with connect(folder) as client, connect(folder) as gone:
        client.sendall(asked(1, patience_ms=0) + asked(2))
        gone.sendall(asked(3))
        wait_until(lambda: door.look(0.01) == 0 and door.waiting == 3, SECONDS, "all have come")
        gone.close()
        wait_until(lambda: door.look(0.01) == 0, SECONDS, "the end is seen")
        one = door.next()
        assert one is not None
        assert one.id == 2
        assert door.next() is None
        client.close()
        wait_until(lambda: door.look(0.01) == 0, SECONDS, "the end is seen")
        door.answer(one, PAGE)  # is lost, and that is all


def test_who_reads_nothing_is_closed(door: Door, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(the_door, "UNREAD_BYTES_MAX", 1 << 20)
    large = Page(rows=[{"book": "A" * 100_000}], sequence=7)
    with connect(folder) as deaf, connect(folder) as good:
        deaf.sendall(b"".join(asked(number) for number in range(40)))
        wait_until(lambda: (door.look(0.01), door.waiting)[1] == 40, SECONDS, "all have come")
        while (one := door.next()) is not None:
            door.answer(one, large)
        assert door.garbled == 1, "closed, and what it asked besides is forgotten"
        with served(door):
            good.sendall(asked(1))
            assert read_answer(good).id == 1


def test_who_takes_nothing_for_long_is_closed(door: Door, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(folder) as deaf:
        deaf.sendall(asked(1))
        wait_until(lambda: (door.look(0.01), door.waiting)[1] > 0, SECONDS, "it has come")
        one = door.next()
        assert one is not None
        door.answer(one, Page(rows=[{"book": "A" * 5_000_000}], sequence=7))
        door.look()
        assert door.garbled == 0
        monkeypatch.setattr(the_door, "UNREAD_SECONDS_MAX", -1.0)
        door.look()
        assert door.garbled == 1


def test_an_answer_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(the_door, "ANSWER_BYTES_MAX", 1000)
    message = packed(3, Page(rows=[{"book": "A" * 1000}], sequence=7))
    found = msgspec.msgpack.decode(message[HEAD.size :], type=Answered)
    assert isinstance(found.answer, Failed)
    assert (found.id, found.answer.code, found.answer.field) == (3, "TOO_LARGE", "limit")
    assert ANSWER_BYTES_MAX > 1000


def test_too_many_connections(door: Door, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(the_door, "CONNECTIONS_MAX", 2)
    with served(door), connect(folder) as first, connect(folder) as second:
        for client in (first, second):
            client.sendall(asked(1))
            assert read_answer(client).id == 1
        with connect(folder) as third:
            assert third.recv(1) == b""
        first.close()
        wait_until(lambda: _is_taken(folder), SECONDS, "there is room again")


def _is_taken(folder: Path) -> bool:
    with connect(folder) as client:
        try:
            client.sendall(asked(9))
            return read_answer(client).id == 9
        except (AssertionError, OSError):
            return False


def test_a_child_lets_go_without_taking_anything_away(door: Door, folder: Path) -> None:
    with connect(folder) as client:
        client.sendall(asked(1))
        wait_until(lambda: (door.look(0.01), door.waiting)[1] > 0, SECONDS, "it has come")
        child = os.fork()
        if child == 0:
            door.abandon()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with served(door):
            assert read_answer(client).id == 1
            client.sendall(asked(2))
            assert read_answer(client).id == 2
