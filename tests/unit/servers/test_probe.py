"""Questions to real sockets: an answer, half an answer, none at all, nobody there; and what each server's answers mean."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pks.base.config import Edges
from pks.servers.files import LOOPBACK, any_free
from pks.servers.nats import Nats
from pks.servers.postgres import judge as judge_postgres
from pks.servers.probe import ANSWER_NS_MAX, Answer, Probe, Question, http_question
from pks.servers.valkey import judge as judge_valkey
from tests.conftest import wait_until


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        server.settimeout(20)
        yield server


def ended(probe: Probe) -> Answer:
    found: list[Answer] = []

    def has_answered() -> bool:
        answer = probe.step(time.monotonic_ns())
        if answer is not None:
            found.append(answer)
        return bool(found)

    wait_until(has_answered, 20, "an answer")
    return found[0]


def answer_to(*chunks: bytes) -> Answer:
    """What comes of a question for "+PONG" when the other side sends these, and closes."""
    with listening() as server:
        probe = Probe(Question(server.getsockname()[1], b"hello", judge_valkey), time.monotonic_ns())
        probe.step(0)
        other, _ = server.accept()
        with other:
            other.settimeout(20)
            probe.step(0)
            assert other.recv(100) == b"hello"
            for chunk in chunks[:-1]:
                other.sendall(chunk)
                assert probe.step(0) is None, "not yet"
            if chunks:
                other.sendall(chunks[-1])
        return ended(probe)


def test_an_answer_in_pieces() -> None:
    assert answer_to(b"+OK\r\n", b"+PO", b"NG\r\n") is Answer.READY
    assert answer_to(b"+OK\r\n", b"+PO") is Answer.ALIVE, "closed in the middle"


def test_no_answer_and_nobody() -> None:
    assert answer_to() is Answer.CLOSED
    probe = Probe(Question(any_free(), b"hello", judge_valkey), time.monotonic_ns())
    assert ended(probe) is Answer.CLOSED


def test_who_listens_and_says_nothing_is_silent_after_its_time() -> None:
    with listening() as server:
        probe = Probe(Question(server.getsockname()[1], b"hello", judge_valkey), 1000)
        assert probe.step(1000) is None
        assert probe.step(1000 + ANSWER_NS_MAX - 1) is None
        assert probe.step(1000 + ANSWER_NS_MAX) is Answer.SILENT


def test_a_probe_never_waits() -> None:
    with listening() as server:
        server.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        before = time.monotonic()
        probe = Probe(Question(server.getsockname()[1], b"hello", judge_valkey), 0)
        for _ in range(100):
            assert probe.step(0) is None, "the connection is not even taken"
        assert time.monotonic() - before < 10
        probe.close()
        for one in crowd:
            one.close()


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"", None),
        (b"R\x00\x00\x00\x17", Answer.READY),
        (b"E\x00\x00\x00\x53SFATAL\0C57P03\0Mthe database system is starting up\0\0", Answer.ALIVE),
        (b"E\x00\x00\x00\x53SFATAL\0C53300\0Msorry, too many clients already\0\0", Answer.READY),
        (b"?", None),
    ],
)
def test_what_postgres_means(said: bytes, answer: Answer | None) -> None:
    assert judge_postgres(said) is answer


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"+OK\r\n", None),
        (b"+OK\r\n+PONG\r\n", Answer.READY),
        (b"-LOADING Valkey is loading the dataset in memory\r\n", Answer.ALIVE),
        (b"-WRONGPASS invalid\r\n-NOAUTH Authentication required.\r\n", Answer.ALIVE),
        (b"-ERR no password is set\r\n+PONG\r\n", Answer.READY),
    ],
)
def test_what_valkey_means(said: bytes, answer: Answer | None) -> None:
    assert judge_valkey(said) is answer


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"HTTP/1.1 200", None),
        (b"HTTP/1.1 200 OK\r\n", None),
        (b'HTTP/1.1 200 OK\r\n\r\n{"status":"ok"}', Answer.READY),
        (b"HTTP/1.1 503 Service Unavailable\r\n", Answer.ALIVE),
    ],
)
def test_what_http_means(said: bytes, answer: Answer | None) -> None:
    question = http_question(1, "/x", lambda text: b"ok" in text)
    assert question.judge(said) is answer
    assert question.request.startswith(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n")


@pytest.mark.parametrize(
    ("said", "has_room", "answer"),
    [
        (b'HTTP/1.1 200 OK\r\n\r\n{"status":"ok"}', True, Answer.READY),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", True, None),
        (b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"status":"unavailable","error":"recovering"}', True, Answer.ALIVE),
        (b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"error":"stream write error: no space left on device"}', False, Answer.ALIVE),
        (b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"error":"stream write error: no space left on device"}', True, Answer.SILENT),
    ],
)
def test_a_jetstream_that_met_a_full_disk_hangs_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes, has_room: bool, answer: Answer | None
) -> None:
    server = Nats(tmp_path, Edges())
    server.ports = {"client": 1, "monitor": 2}
    (tmp_path / "jetstream").mkdir()
    monkeypatch.setattr("pks.servers.nats.ROOM_BYTES", 1 if has_room else 1 << 62)
    assert server.question().judge(said) is answer
