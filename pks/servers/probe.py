"""Asking a server whether it is there, without ever waiting for it: one question over TCP, looked after in short steps.

Owns the sockets of the questions. The supervisor calls `step` in its rounds; nothing here blocks, resolves a name or imports a client.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pks.servers.files import LOOPBACK

ANSWER_BYTES_MAX = 4096

ANSWER_NS_MAX = 2_000_000_000
"""How long a server that works may take over an answer; its processor may be busy with us."""


class Answer(Enum):
    """What came of a question."""

    READY = "it does its work"
    ALIVE = "it answers, and is not ready yet"
    SILENT = "no answer in time"
    CLOSED = "nobody listens, or the connection was closed"


@dataclass(frozen=True, slots=True)
class Question:
    """Bytes for a port of loopback, and what the bytes that come back mean: None while there are too few."""

    port: int
    request: bytes
    judge: Callable[[bytes], Answer | None]


def http_question(port: int, path: str, is_good: Callable[[bytes], bool]) -> Question:
    """GET `path`; ready when the status is 200 and `is_good` of all that came."""

    def judge(answer: bytes) -> Answer | None:
        head, end, _ = answer.partition(b"\r\n")
        if not end:
            return None
        if b" 200 " in head + b" " and is_good(answer):
            return Answer.READY
        return None if b" 200 " in head + b" " else Answer.ALIVE

    request = f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n\r\n".encode()
    return Question(port, request, judge)


class Probe:
    """One question on its way."""

    def __init__(self, question: Question, now_ns: int) -> None:
        self._question, self._deadline_ns = question, now_ns + ANSWER_NS_MAX
        self._heard, self._sent = b"", False
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.socket()
            self._socket.setblocking(False)
            self._failure = self._socket.connect_ex((LOOPBACK, question.port))
        except OSError as error:  # no descriptor left: no question can be asked, which counts as no answer
            self._failure = error.errno or errno.EMFILE

    def step(self, now_ns: int) -> Answer | None:
        """Go on with it; the answer, or None while there is none. After an answer the probe is closed."""
        answer = self._answer()
        if answer is None and now_ns >= self._deadline_ns:
            answer = Answer.SILENT
        if answer is not None:
            self.close()
        return answer

    def _answer(self) -> Answer | None:
        if self._socket is None or self._failure not in (0, errno.EINPROGRESS):
            return Answer.CLOSED
        try:
            if not self._sent:
                self._socket.sendall(self._question.request)
                self._sent = True
            while chunk := self._socket.recv(ANSWER_BYTES_MAX):
                self._heard += chunk
                judged = self._question.judge(self._heard)
                if judged is not None:
                    return judged
                if len(self._heard) > ANSWER_BYTES_MAX:
                    return Answer.ALIVE
            return Answer.ALIVE if self._heard else Answer.CLOSED
        except BlockingIOError:
            return None
        except OSError:
            return Answer.CLOSED  # refused, reset, or not connected yet by a kernel that is slow: asked again

    def close(self) -> None:
        """Let go of the connection; closing twice is harmless."""
        if self._socket is not None:
            self._socket.close()
