"""`pks bench rest`: snapshots, bookings and single positions of a whole gateway over HTTP.

Promises: `snapshot_requests_per_s`, all 1,000 positions of a user as JSON, 16 connections, out of bytes that are encoded once, beside the
same list built for each request (its `sort` says so) in the same run, A B A B; `booking_durable_p50_ms`, one trade at a time until its
201; `position_get_p99_ms`, one position at a time while 100 clients stream 1,000 fills a second. A system with Postgres, its gateway and
the clients share the cores. The client of the first is a program in C: one in Python would be what is measured.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import select
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pks.bench.desk import definitions, trades
from pks.bench.postgres import server
from pks.bench.programs import address, load_program
from pks.bench.report import Measured, Plan, Promise, result
from pks.bench.system import System, SystemFailed
from pks.bench.websocket import Child, paced_trades
from pks.running import find_running

BOOKS, INSTRUMENTS = 20, 50
CONNECTIONS = 16
ROUNDS, ROUND_MS, ROUND_MS_TINY = 3, 3_000, 200
BOOKINGS, BOOKINGS_TINY = 500, 5
READ_MS, READ_MS_TINY = 10_000, 200
FLOW_FILLS = 20_000
STREAMING, STREAMING_TINY = 100, 3
FILLS_PER_S = 1_000
LAGS_MAX = 200_000
FIND_SECONDS = 30.0
RECEIVE_BYTES = 1 << 20
NAME, PASSWORD = "bench", "the bench logs in by itself"


def load(pipe: Connection, instance: str, data_dir: Path) -> None:
    """Body of the asking process: (port, request, connections, seconds) -> (answers a second, float64[n] seconds of each)."""
    program = load_program("http_load")
    program.http_load.restype = ctypes.c_int64
    while True:
        port, request, connections, seconds = pipe.recv()
        lags = np.zeros(LAGS_MAX)
        count = program.http_load(
            port, request, ctypes.c_int64(len(request)), connections, ctypes.c_double(seconds), address(lags), ctypes.c_int64(LAGS_MAX)
        )
        pipe.send((count / seconds, lags[: max(0, min(count, LAGS_MAX))]))


def stream(pipe: Connection, instance: str, data_dir: Path) -> None:
    """Body of the streaming process: (port, token, clients) -> reads all of them until it is ended."""
    port, token, clients = pipe.recv()
    sockets = [_streaming(port, token) for _ in range(clients)]
    pipe.send(len(sockets))
    while True:
        for one in select.select(sockets, (), ())[0]:
            if not one.recv(RECEIVE_BYTES):
                return


def _streaming(port: int, token: str) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port))
    made.sendall(
        f"GET /ws?token={token} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert made.recv(4096).startswith(b"HTTP/1.1 101"), "the gateway streams"
    said = b'{"subscribe":["positions"]}'
    made.sendall(bytes([0x81, 0x80 | len(said)]) + bytes(4) + said)  # a masked frame whose mask is 0
    return made


class Caller:
    """One connection of a client in Python, which asks again when it is answered."""

    def __init__(self, port: int, token: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """(status, body)."""
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self._socket.sendall(f"{method} {path} HTTP/1.1\r\n{self._head}{length}\r\n".encode() + body)
        came = b""
        while b"\r\n\r\n" not in came:
            came += self._more()
        head, _, content = came.partition(b"\r\n\r\n")
        wanted = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(content) < wanted:
            content += self._more()
        return int(head.split(b" ")[1]), content

    def _more(self) -> bytes:
        came = self._socket.recv(RECEIVE_BYTES)
        if not came:
            raise SystemFailed("has a gateway that ended the connection")
        return came


def measure(plan: Plan) -> Measured:
    """The three promises on one system."""
    found = Measured(runs=ROUNDS, wait="auto")
    seconds = plan.size(ROUND_MS, ROUND_MS_TINY) / 1000
    streaming = plan.size(STREAMING, STREAMING_TINY)
    settings = {"PKS_REST_PORT": "0", "PKS_GRPC_PORT": "0", "PKS_RATE_LIMIT": "0"}
    with server(plan.folder / "server") as url, System(plan.folder / "data", edges="external", PKS_PG_URL=url, **settings) as system:
        with Child(load, system.instance, system.data_dir) as loader, Child(stream, system.instance, system.data_dir) as streams:
            system.start()
            system.define(definitions(BOOKS, INSTRUMENTS))
            made: Any = trades(BOOKS * INSTRUMENTS, 1, BOOKS, INSTRUMENTS, seed=1, known=True)
            system.send_all(made, 64)
            port, token = _log_in(system, url)
            fast, built = _snapshots(loader, port, token, seconds)
            caller = Caller(port, token)
            booked = _bookings(caller, plan.size(BOOKINGS, BOOKINGS_TINY))
            streams.ask(port, token, streaming)
            read = _gets(system, loader, port, token, plan.size(READ_MS, READ_MS_TINY) / 1000)
    snapshot, each = result("snapshots, encoded once", "requests/s", fast), result("the same, built for each", "requests/s", built)
    booking, one = result("a booking until its 201", "ms", booked), result("one position, clients streaming", "ms", read)
    found.promises = [
        Promise("snapshot_requests_per_s", ">=", 6_000, snapshot.p50, snapshot.p50, each.p50, "the list built for each request"),
        Promise("booking_durable_p50_ms", "<=", 2, booking.p50, booking.p50),
        Promise("position_get_p99_ms", "<=", 3, one.p99, one.p99),
    ]
    found.results = [snapshot, each, booking, one]
    found.notes = [
        f"{BOOKS * INSTRUMENTS:,} positions, {CONNECTIONS} connections, rounds of {seconds:g} s; {streaming} clients "
        f"stream {FILLS_PER_S:,} fills a second; core, gateway, Postgres and clients share {len(os.sched_getaffinity(0))} cores"
    ]
    return found


def _log_in(system: System, url: str) -> tuple[int, str]:
    """(port of REST, a token of somebody who may do everything)."""
    import httpx

    asyncio.run(_add_user(url))
    deadline = time.monotonic() + FIND_SECONDS
    while not (where := find_running(system.data_dir).endpoints):
        if time.monotonic() > deadline:
            raise SystemFailed("has no gateway")
        time.sleep(0.05)
    answer = httpx.post(f"{where['rest']}/auth/login", json={"username": NAME, "password": PASSWORD}, timeout=30)
    answer.raise_for_status()
    return int(urlsplit(where["rest"]).port or 0), str(answer.json()["access_token"])


async def _add_user(url: str) -> None:
    import asyncpg
    from argon2 import PasswordHasher

    from pks.edges.postgres import users
    from pks.edges.postgres.migrations import migrate

    connection = await asyncpg.connect(url)
    try:
        await migrate(connection)
        await users.add(connection, NAME, password_hash=PasswordHasher().hash(PASSWORD), roles=["admin"], books=None)
    finally:
        await connection.close()


def _snapshots(loader: Child, port: int, token: str, seconds: float) -> tuple[list[float], list[float]]:
    """Requests a second of both ways, in turn."""
    rates: dict[str, list[float]] = {"": [], "?sort=book": []}
    for _ in range(ROUNDS):
        for query, found in rates.items():
            request = f"GET /api/v1/positions{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            rate, lags = loader.ask(port, request, CONNECTIONS, seconds)
            if rate <= 0 or not len(lags):
                raise SystemFailed(f"does not answer /positions{query}: {rate * seconds:g}")
            found.append(rate)
    return rates[""], rates["?sort=book"]


def _bookings(caller: Caller, count: int) -> Any:
    """float64[count]: milliseconds from a request to its 201."""
    lags = np.zeros(count)
    for n in range(count):
        trade = {
            "trade_id": f"R-{n}", "book": "B1", "instrument": "I1", "side": "BUY", "quantity": "1", "price": "100",
            "trade_time": "2026-01-05T10:00:00Z",
        }  # fmt: skip
        body = json.dumps(trade).encode()
        began = time.perf_counter()
        status, said = caller.ask("POST", "/api/v1/trades/book", body)
        lags[n] = (time.perf_counter() - began) * 1e3
        if status != 201:
            raise SystemFailed(f"does not book: {status} {said.decode()}")
    return lags


def _gets(system: System, loader: Child, port: int, token: str, seconds: float) -> Any:
    """float64[n]: milliseconds of single positions, one connection, while fills go on."""
    request = f"GET /api/v1/positions/B1/I1 HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    made: Any = trades(FLOW_FILLS, 1, BOOKS, INSTRUMENTS, seed=9, known=True)
    loader.tell(port, request, 1, seconds)
    paced_trades(system, made, FILLS_PER_S, seconds)
    _, lags = loader.answer()
    if not len(lags):
        raise SystemFailed("does not tell a position")
    return lags * 1e3
