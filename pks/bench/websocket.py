"""`pks bench websocket`: from a fill to every client of a stream, and position updates a second to all of them.

Promises, design section 9: `fill_to_client_p50_ms` and `fill_to_client_p99_ms`, from the call that sends a fill until a client has read
the frame that shows it, 50 clients, 1,000 fills a second; `broadcast_ratio`, position updates a second that 50 clients receive as such,
over those that they receive of `websockets.broadcast` of one full frame an update, from the same system, A B A B. The gateway's hub and
door with the peer, and the clients, are in processes of their own, on the same cores as the system and the producer.

Clients read raw sockets and look for `"last_sequence":` in what came: a client that decoded JSON would be what is measured.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import re
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pks.base.clock import SystemClock
from pks.bench.desk import definitions, trades
from pks.bench.report import Measured, Plan, Promise, Result, result
from pks.bench.system import System, SystemFailed
from pks.client import attach
from pks.client.producer import NO_ROOM
from pks.topology import Host as Segments

CLIENTS, CLIENTS_TINY = 50, 3
BOOKS, INSTRUMENTS = 20, 100
FILLS_PER_S, GROUP_SECONDS = 1_000, 0.001
OFFERED_PER_S = 30_000
"""Fills a second for the second promise: more than the peer can show, so that both show what they can."""

ROUNDS = 3
ANSWER_SECONDS = 120.0
RECEIVE_BYTES = 1 << 20
HAND_SHAKE = (
    b"GET /ws?token=bench HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SUBSCRIBE = b'{"subscribe":["positions"]}'
MARK = b'"last_sequence":'
MARK_MAX = len(MARK) + 21
_SEQUENCES = re.compile(MARK + rb"(\d+)")

Words = NDArray[np.int64]


@dataclass(frozen=True)
class Everyone:
    """Whose streams they are: of one who sees all books."""

    name: str = "bench"
    books: frozenset[str] | None = None
    jti: str = "bench"
    expires_at: float = 4e9

    def may(self, permission: object) -> bool:
        """Everything."""
        return True

    def sees(self, book: str) -> bool:
        """Every book."""
        return True


class Open:
    """Judges no token: what is measured is the stream."""

    async def judge(self, token: str) -> Everyone:
        return Everyone()

    async def again(self, principal: Everyone) -> Everyone:
        return principal

    def changes(self) -> asyncio.Event:
        return asyncio.Event()


class Child:
    """A process of the bench: it gets (name, arguments) and answers."""

    def __init__(self, body: Callable[[Connection, str, Path], None], instance: str, data_dir: Path) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=body, args=(theirs, instance, data_dir), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, *words: Any) -> Any:
        """Send and wait. Raises SystemFailed when it does not answer."""
        self.tell(*words)
        return self.answer()

    def tell(self, *words: Any) -> None:
        """Send; `answer` waits."""
        self.pipe.send(words)

    def answer(self) -> Any:
        """What it says to the last `tell`. Raises SystemFailed."""
        if not self.pipe.poll(ANSWER_SECONDS):
            raise SystemFailed("has a process of the bench that does not answer")
        try:
            return self.pipe.recv()
        except EOFError as error:
            raise SystemFailed("has a process of the bench that ended by itself") from error

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()  # it keeps nothing; and the handler of SIGTERM that it inherited would end in its event loop
        self.process.join()
        self.pipe.close()


# The process that serves: the hub behind uvicorn, and the peer.


def serve(pipe: Connection, instance: str, data_dir: Path) -> None:
    """Body of the serving process. Says the two ports, then answers "cpu" with the processor seconds that it has used."""
    import uvloop

    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pipe, instance, data_dir))


async def _serve(pipe: Connection, instance: str, data_dir: Path) -> None:
    import uvicorn
    from websockets.asyncio.server import serve as serve_peer

    from pks.bff.hub import Hub
    from pks.bff.live import Live
    from pks.bff.patience import PatientProtocol
    from pks.bff.websocket import MESSAGE_BYTES_MAX, Door

    live = Live(instance, Segments.open(instance, data_dir))
    hub = Hub(live, SystemClock(), lambda: Segments.open(instance, data_dir))
    door = Door(hub, Open(), read="", operate="")
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(
        door, http=PatientProtocol, ws="websockets-sansio", ws_max_size=MESSAGE_BYTES_MAX, ws_per_message_deflate=False, lifespan="off",
        log_config=None,
    )  # fmt: skip
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listener])
    peer = Peer(instance)
    theirs = await serve_peer(peer.handle, "127.0.0.1", 0, compression=None)
    tasks = [asyncio.create_task(body) for body in (hub.run(), door.run(), peer.run())]
    pipe.send((listener.getsockname()[1], next(iter(theirs.sockets)).getsockname()[1]))
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe.fileno(), asked.set)
    while True:
        await asked.wait()
        asked.clear()
        while pipe.poll():
            pipe.recv()
            pipe.send((time.process_time(), hub.figures))
        for task in tasks:
            if task.done():
                task.result()


class Peer:
    """What is usual: each update as a whole frame, to everyone, by `websockets.broadcast`."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.connections: set[Any] = set()
        self._someone = asyncio.Event()

    async def handle(self, connection: Any) -> None:
        """One client."""
        self.connections.add(connection)
        self._someone.set()
        try:
            await connection.wait_closed()
        finally:
            self.connections.discard(connection)

    async def run(self) -> None:
        """Look as often as the hub does, while somebody listens."""
        import msgspec
        from websockets.asyncio.server import broadcast

        with attach(self.instance) as host:
            updates, seq = None, 0
            while True:
                if not self.connections:
                    updates = None
                    self._someone.clear()
                    await self._someone.wait()
                updates = updates or host.updates()
                await asyncio.sleep(0.001)
                for position in updates.poll():
                    seq += 1
                    broadcast(
                        self.connections, msgspec.json.encode({"type": "positions", "seq": seq, "data": position.as_dict()}), text=True
                    )
                    if seq % 16 == 0:
                        await asyncio.sleep(0)  # else nothing is written while there is something to say


# The process that listens.


def listen(pipe: Connection, instance: str, data_dir: Path) -> None:
    """Body of the listening process: ("open", port, count, subscribes), ("hear", seconds, with times), ("close",)."""
    gc.disable()
    sockets: list[socket.socket] = []
    while True:
        try:
            what, *words = pipe.recv()
        except EOFError:
            return
        if what == "open":
            port, count, subscribes = words
            sockets = [_open(port, subscribes) for _ in range(count)]
            pipe.send(len(sockets))
        elif what == "hear":
            pipe.send(_hear(sockets, *words))
        else:
            for one in sockets:
                one.close()
            sockets = []
            pipe.send(0)


def _open(port: int, subscribes: bool) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.sendall(HAND_SHAKE)
    head = b""
    while b"\r\n\r\n" not in head:
        head += made.recv(1)
    if subscribes:
        made.sendall(bytes((0x81, 0x80 | len(SUBSCRIBE))) + bytes(4) + SUBSCRIBE)  # masked with zeros
    made.setblocking(False)
    return made


def _hear(sockets: list[socket.socket], seconds: float, with_times: bool) -> tuple[list[int], Any, Any]:
    """(updates of each client, and if wanted of all clients together: last_sequence of each update, monotonic ns when it was read)."""
    poll, of_descriptor = select.epoll(), {}
    for place, one in enumerate(sockets):
        poll.register(one.fileno(), select.EPOLLIN)
        of_descriptor[one.fileno()] = place, one
    counts, rests = [0] * len(sockets), [b""] * len(sockets)
    sequences: list[bytes] = []
    times: list[int] = []
    room = bytearray(RECEIVE_BYTES)
    view, end = memoryview(room), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left):
            place, one = of_descriptor[descriptor]
            length = one.recv_into(room)
            if not length:
                raise SystemFailed("closed a client's connection")
            now_ns = time.monotonic_ns()
            text = rests[place] + view[:length]
            if with_times:
                found = _SEQUENCES.findall(text[: (keep := text.rfind(b"}")) + 1])
                rests[place] = text[keep + 1 :]
                sequences += found
                times += [now_ns] * len(found)
                counts[place] += len(found)
            else:  # the mark may be cut by the end of what was read
                counts[place] += text.count(MARK)
                rests[place] = b"" if (at := text.rfind(MARK[:1], -len(MARK) + 1)) < 0 else text[at:]
    poll.close()
    if not with_times:
        return counts, None, None
    return counts, np.array(sequences, np.int64) if sequences else np.zeros(0, np.int64), np.array(times, np.int64)


# The measurement.


def measure(plan: Plan) -> Measured:
    """One system; the flow, then both sides in turn, then what it takes while nothing happens."""
    clients, rounds = plan.size(CLIENTS, CLIENTS_TINY), plan.rounds(ROUNDS)
    found = Measured(runs=rounds, wait="auto")
    with System(plan.folder / "system") as system:
        system.start()
        system.define(definitions(BOOKS, INSTRUMENTS))
        system.send_all(trades(BOOKS * INSTRUMENTS * 3, 0, BOOKS, INSTRUMENTS, seed=1, known=False), 512)
        with Child(serve, system.instance, system.data_dir) as server, Child(listen, system.instance, system.data_dir) as listener:
            ours, theirs = server.answer()
            delays = _flow(system, server, listener, ours, clients, plan.size(10, 1), found)
            rates = _rates(system, listener, {"ours": (ours, True), "broadcast": (theirs, False)}, clients, rounds, plan.size(5, 1))
            _rest(server, listener, ours, clients, plan.size(10, 1), found)
    way = result("fill to client", "ms", delays)
    ratio = median(rates["ours"]) / max(median(rates["broadcast"]), 1)
    found.results = [
        way, result("updates to each client", "1/s", rates["ours"]), result("by websockets.broadcast", "1/s", rates["broadcast"]),
        *found.results,
    ]  # fmt: skip
    peer = f"{clients} clients, {FILLS_PER_S:,} fills a second"
    found.promises = [
        Promise("fill_to_client_p50_ms", "<=", 2, way.p50, way.p50, peer=peer),
        Promise("fill_to_client_p99_ms", "<=", 5, way.p99, way.p99, peer=peer),
        Promise(
            "broadcast_ratio", ">=", 5, ratio, median(rates["ours"]), median(rates["broadcast"]),
            f"websockets.broadcast of whole frames, {clients} clients, {OFFERED_PER_S:,} fills a second offered to both",
        ),
    ]  # fmt: skip
    found.notes.append("system, producer, gateway and clients share the cores; the slowest client counts")
    return found


def paced_trades(system: System, made: Any, per_s: int, seconds: float, stop: Callable[[], bool] = lambda: False) -> tuple[Words, Words]:
    """Book at an even rate; (event, monotonic ns of the call that sent it) of each fill."""
    group = max(1, round(per_s * GROUP_SECONDS))
    sent: list[int] = []
    first = 0
    replies: list[Any] = []
    start = time.monotonic()
    producer = system.running
    for number in range(min(len(made) // group, int(seconds * per_s / group))):
        due = start + number * group / per_s
        while (now := time.monotonic()) < due:
            time.sleep(max(0.0, due - now))
        part = made[number * group : (number + 1) * group]
        sent.append(time.monotonic_ns())
        while producer.send(part) == NO_ROOM:
            os.sched_yield()
        if len(answers := producer.answers()):
            replies.append(answers)
        first += len(part)
        if stop():
            break
    while sum(map(len, replies)) < first:
        replies.append(system.answered(1))
    answers = np.sort(np.concatenate(replies), order="ticket")
    return answers["sequence"].copy(), np.repeat(np.array(sent, np.int64), group)[: len(answers)]


def _flow(system: System, server: Child, listener: Child, port: int, clients: int, seconds: int, found: Measured) -> Any:
    """Milliseconds from sending to reading, of every fill and client."""
    listener.ask("open", port, clients, True)
    paced_trades(
        system, trades(FILLS_PER_S, 0, BOOKS, INSTRUMENTS, seed=2, known=False), FILLS_PER_S, 1.0
    )  # all is warm, and has its snapshot
    before = server.ask("cpu")[0]
    listener.tell("hear", seconds + 1.0, True)
    time.sleep(0.2)
    sequences, sent_ns = paced_trades(
        system, trades(FILLS_PER_S * seconds, 0, BOOKS, INSTRUMENTS, seed=3, known=False), FILLS_PER_S, seconds
    )
    _, seen, seen_ns = listener.answer()
    spent, figures = server.ask("cpu")
    listener.ask("close")
    at = np.searchsorted(sequences, seen)
    at[at == len(sequences)] = 0
    matched = sequences[at] == seen
    delays = (seen_ns[matched] - sent_ns[at[matched]]) / 1e6
    shown = len(delays) / (clients * len(sequences))
    found.notes.append(
        f"flow: {shown:.1%} of the fills were shown by frames of their own, the others by a later fill of the same position; "
        f"{(spent - before) / (seconds + 1.2):.2f} of a core for the gateway, {figures.conflated} times a client was behind"
    )
    assert len(delays), "some fills were seen"
    return delays


def _rates(
    system: System, listener: Child, sides: dict[str, tuple[int, bool]], clients: int, rounds: int, seconds: int
) -> dict[str, list[float]]:
    """Updates a second that the slowest client got, by side and round."""
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds):
        for place, (side, (port, subscribes)) in enumerate(sides.items()):
            listener.ask("open", port, clients, subscribes)
            made = trades(OFFERED_PER_S * (seconds + 2), 0, BOOKS, INSTRUMENTS, seed=10 + 2 * number + place, known=False)
            listener.ask("hear", 0.5, False)  # the snapshot
            start = time.monotonic()
            told: list[Any] = []

            def stop(start: float = start, told: list[Any] = told) -> bool:
                if not told and time.monotonic() - start > 0.5:  # the flow is even by now
                    listener.tell("hear", float(seconds), False)
                    told.append(None)
                return bool(told) and listener.pipe.poll()

            paced_trades(system, made, OFFERED_PER_S, seconds + 2, stop)
            counts, _, _ = listener.answer()
            rates[side].append(min(counts) / seconds)
            listener.ask("close")
            time.sleep(0.5)
    return rates


def _rest(server: Child, listener: Child, port: int, clients: int, seconds: int, found: Measured) -> None:
    """What the gateway takes of a core while nothing happens."""
    for named, count in (("at rest, no client", 0), (f"at rest, {clients} clients", clients)):
        if count:
            listener.ask("open", port, count, True)
            listener.ask("hear", 0.5, False)
        time.sleep(min(6, seconds))
        before = server.ask("cpu")[0]
        time.sleep(seconds)
        part = 100 * (server.ask("cpu")[0] - before) / seconds
        found.results.append(Result(named, "% of a core", part, part, 1))
    listener.ask("close")
