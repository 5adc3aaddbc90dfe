"""The socket of the worker `past`: connections, whole messages, the queue of questions, answers on their way out.

Owns the bytes: a message is its length (4 bytes, little-endian) and that many of MessagePack. It is looked after in the midst of long
answers too, and waits for nobody. Who sends what is no message loses his own connection, and who does not read his answers too; the others
do not notice. It knows no question's meaning.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

import msgspec

from pks.past.questions import ANSWER_BYTES_MAX, QUESTION_BYTES_MAX, TOO_LARGE, WAITING_MAX, Answered, AnyAnswer, AnyQuestion, Asked, Failed

SOCKET_FILE = "past.sock"
HEAD = struct.Struct("<I")
READ_BYTES = 1 << 18
CONNECTIONS_MAX = 64
"""Gateways are few; more connections than this are a mistake and are closed at once."""

UNREAD_BYTES_MAX = 2 * ANSWER_BYTES_MAX
"""Answers that a client has not taken; with more it is closed."""

UNREAD_SECONDS_MAX = 30.0
"""A client that takes nothing of its answers for so long is closed."""

BUSY = Failed(code="BUSY", reason=f"{WAITING_MAX} questions wait already", retry=True)

_decoder = msgspec.msgpack.Decoder(Asked)
_encoder = msgspec.msgpack.Encoder()


class Waiting(NamedTuple):
    """A question whose turn has not come."""

    client: Client
    id: int
    question: AnyQuestion
    came_ns: int
    until_ns: int  # nobody waits for the answer any more after that; monotonic


class Client:
    """One connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.came, self.leaving = bytearray(), bytearray()
        self.moved_at = time.monotonic()
        self.is_gone = False


class Door:
    """Listens at `<run directory>/past.sock`, mode 0600; the caller holds the claim, so that a file that is there is a dead one's."""

    def __init__(self, run_directory: Path) -> None:
        self._path = run_directory / SOCKET_FILE
        self._path.unlink(missing_ok=True)
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            with at_directory(run_directory) as near:
                self._listener.bind(f"{near}/{SOCKET_FILE}")
        finally:
            os.umask(before)
        self._listener.listen(CONNECTIONS_MAX)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._clients: set[Client] = set()
        self._waiting: deque[Waiting] = deque()
        self.garbled = 0  # connections closed for what they sent or did not read

    @property
    def waiting(self) -> int:
        """Questions whose turn has not come."""
        return len(self._waiting)

    def look(self, seconds: float = 0.0) -> int:
        """Take what came and send what can be sent; waits for that up to `seconds`. How many sockets had something."""
        found = self._selector.select(seconds)
        for key, events in found:
            if key.fileobj is self._listener:
                self._accept()
                continue
            client = key.data
            if events & selectors.EVENT_READ:
                self._read(client)
            if events & selectors.EVENT_WRITE and not client.is_gone:
                self._write(client)
        self._close_stuck()
        return len(found)

    def next(self) -> Waiting | None:
        """The next question that somebody still waits for."""
        while self._waiting:
            one = self._waiting.popleft()
            if not one.client.is_gone and time.monotonic_ns() < one.until_ns:
                return one
        return None

    def answer(self, one: Waiting, answer: AnyAnswer) -> None:
        """Send an answer, or that it is too large."""
        self.send(one, packed(one.id, answer))

    def send(self, one: Waiting, message: bytes) -> None:
        """Send an answer that is packed already."""
        self._send(one.client, message)

    def close(self) -> None:
        """Let go of everything, and of the file."""
        self._path.unlink(missing_ok=True)
        self.abandon()

    def abandon(self) -> None:
        """Close this process's descriptors only: in a child, whose parent goes on with them."""
        for client in self._clients:
            client.socket.close()
        self._listener.close()
        self._selector.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                    return
                raise
            if len(self._clients) >= CONNECTIONS_MAX:
                connection.close()
                continue
            connection.setblocking(False)
            client = Client(connection)
            self._clients.add(client)
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _read(self, client: Client) -> None:
        try:
            came = client.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            came = b""
        if not came:
            self._drop(client)
            return
        client.came += came
        at = 0
        while len(client.came) - at >= HEAD.size:
            (length,) = HEAD.unpack_from(client.came, at)
            if length > QUESTION_BYTES_MAX:
                self._refuse(client)
                return
            if len(client.came) - at - HEAD.size < length:
                break
            try:
                asked = _decoder.decode(memoryview(client.came)[at + HEAD.size : at + HEAD.size + length])
            except (msgspec.DecodeError, UnicodeDecodeError):
                self._refuse(client)
                return
            at += HEAD.size + length
            self._take(client, asked)
            if client.is_gone:
                return
        del client.came[:at]

    def _take(self, client: Client, asked: Asked) -> None:
        if len(self._waiting) >= WAITING_MAX:
            self._send(client, packed(asked.id, BUSY))
            return
        now_ns = time.monotonic_ns()
        self._waiting.append(Waiting(client, asked.id, asked.question, now_ns, now_ns + max(0, asked.patience_ms) * 1_000_000))

    def _send(self, client: Client, message: bytes) -> None:
        if client.is_gone:
            return
        if not client.leaving:
            client.moved_at = time.monotonic()
        client.leaving += message
        self._write(client)
        if len(client.leaving) > UNREAD_BYTES_MAX:
            self._refuse(client)

    def _write(self, client: Client) -> None:
        try:
            sent = client.socket.send(client.leaving) if client.leaving else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(client)
            return
        if sent:
            client.moved_at = time.monotonic()
            del client.leaving[:sent]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.leaving else 0)
        self._selector.modify(client.socket, events, client)

    def _close_stuck(self) -> None:
        limit = time.monotonic() - UNREAD_SECONDS_MAX
        for client in [one for one in self._clients if one.leaving and one.moved_at < limit]:
            self._refuse(client)

    def _refuse(self, client: Client) -> None:
        self.garbled += 1
        self._drop(client)

    def _drop(self, client: Client) -> None:
        client.is_gone = True
        self._clients.discard(client)
        self._selector.unregister(client.socket)
        client.socket.close()


def packed(number: int, answer: AnyAnswer) -> bytes:
    """An answer as a message; one that is too large says so instead."""
    body = _encoder.encode(Answered(id=number, answer=answer))
    if len(body) > ANSWER_BYTES_MAX:
        reason = f"the answer has {len(body)} bytes, {ANSWER_BYTES_MAX} are sent at once: ask for smaller pages"
        body = _encoder.encode(Answered(id=number, answer=Failed(code=TOO_LARGE, field="limit", reason=reason)))
    return HEAD.pack(len(body)) + body


class at_directory:
    """A short path of a directory, whose own may be longer than a socket's address (107 bytes). Source: unix(7), proc(5)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> str:
        self._descriptor = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._descriptor}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
