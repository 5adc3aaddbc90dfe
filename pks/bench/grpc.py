"""`pks bench grpc`: one position asked for over TLS, and from a fill to every client of a stream. No promise of the design is about it.

The gateway's gRPC server and the clients are in processes of their own, on the same cores as the system and the producer; a token is not
judged, since what is measured is the way of an answer. Peer of the call: a service of the library's own in the same server process, which
answers the same bytes and reads nothing.
"""

from __future__ import annotations

import asyncio
import gc
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from pks.base.config import Gateway
from pks.bench.desk import definitions, trades
from pks.bench.report import Measured, Plan, result
from pks.bench.system import System
from pks.bench.websocket import Child, Open, paced_trades
from pks.topology import Host as Segments

CLIENTS, CLIENTS_TINY = 20, 2
BOOKS, INSTRUMENTS = 10, 10
CHANGES_PER_S = 100
"""Fills a second, which every client is told of."""

CALLS, CALLS_TINY = 2_000, 20
PEER_PATH = "/bench.Peer/Get"
HOST = "localhost"


# The process that serves.


def serve(pipe: Connection, instance: str, data_dir: Path) -> None:
    """Body of the serving process. Says port and CA, then answers anything with the processor seconds that it has used."""
    import uvloop

    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pipe, instance, data_dir))


class Nothing:
    """Neither books nor knows of a past: the bench asks for neither."""


async def _serve(pipe: Connection, instance: str, data_dir: Path) -> None:
    from pks.bff.grpc_server import start_grpc
    from pks.bff.limits import RateLimit
    from pks.bff.live import Live

    live = Live(instance, Segments.open(instance, data_dir))
    nothing: Any = Nothing()
    settings = Gateway(grpc_port=0)
    limit = RateLimit(0, time.monotonic)
    server = await start_grpc(settings, data_dir, live, Open(), nothing, nothing, traceback.print_exception, limit)
    peer_port = await _serve_peer(data_dir, live)
    pipe.send((server.port, peer_port))
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe.fileno(), asked.set)
    while True:
        await asked.wait()
        asked.clear()
        while pipe.poll():
            pipe.recv()
            pipe.send(time.process_time())


async def _serve_peer(data_dir: Path, live: Any) -> int:
    """The least that the library can do: the bytes of one position, made beforehand."""
    import grpc

    from pks.bff.grpc_messages import Told, fresh_of
    from pks.bff.tls import server_certificate

    answer = Told(next(iter(live.host.positions))).whole + fresh_of(live.freshness())

    async def get(_request: bytes, _context: Any) -> bytes:
        return answer

    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    service, method = PEER_PATH[1:].split("/")
    handler = grpc.unary_unary_rpc_method_handler(get)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    shown = server_certificate(Gateway(), data_dir)
    port = server.add_secure_port(f"{HOST}:0", grpc.ssl_server_credentials([(shown.key, shown.chain)]))
    await server.start()
    _PEERS.append(server)  # it ends with its last reference
    return int(port)


_PEERS: list[Any] = []


# The process that calls.


def call(pipe: Connection, instance: str, data_dir: Path) -> None:
    """Body of the calling process: ("get", ports, book, instrument, calls), ("hear", port, clients, seconds)."""
    import uvloop

    while True:
        try:
            what, *words = pipe.recv()
        except EOFError:
            return
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            work = _get if what == "get" else _hear
            pipe.send(runner.run(work(pipe, data_dir, *words)))


def _channel(data_dir: Path, port: int) -> Any:
    import grpc

    from pks.bff.tls import PUBLIC_CA_FILE
    from pks.topology import Paths

    ca = (Paths(data_dir).run / PUBLIC_CA_FILE).read_bytes()
    return grpc.aio.secure_channel(f"{HOST}:{port}", grpc.ssl_channel_credentials(ca), (("grpc.use_local_subchannel_pool", 1),))


def _stub(channel: Any) -> Any:
    from pks.proto.pks.v1 import positions_service_pb2 as pb
    from pks.proto.service import Stub

    return Stub(channel, pb.DESCRIPTOR.services_by_name["PositionsSimulatorService"])


_METADATA = (("authorization", "Bearer bench"),)


async def _get(_pipe: Connection, data_dir: Path, port: int, peer_port: int, book: str, instrument: str, calls: int) -> Any:
    """(ours, the peer's): milliseconds of each call, one after another, both sides in turn."""
    from pks.proto.pks.v1 import positions_service_pb2 as pb

    request = pb.GetPositionRequest(book=book, instrument=instrument)
    ours, theirs = [], []
    async with _channel(data_dir, port) as channel, _channel(data_dir, peer_port) as peer_channel:
        stub, peer = _stub(channel), peer_channel.unary_unary(PEER_PATH)
        for number in range(calls + calls // 10):
            began = time.perf_counter()
            await stub.GetPosition(request, metadata=_METADATA)
            between = time.perf_counter()
            await peer(b"")
            ended = time.perf_counter()
            if number >= calls // 10:  # all is warm
                ours.append((between - began) * 1e3)
                theirs.append((ended - between) * 1e3)
    return ours, theirs


async def _hear(pipe: Connection, data_dir: Path, port: int, clients: int, seconds: float) -> Any:
    """Of all clients together: last_sequence of each change, monotonic ns when it was read. Says when all have their snapshots."""
    from pks.proto.pks.v1 import positions_service_pb2 as pb

    gc.disable()
    sequences: list[int] = []
    times: list[int] = []
    begun = 0

    async def one() -> None:
        nonlocal begun
        async with _channel(data_dir, port) as channel:
            stream = _stub(channel).WatchInstrumentUpdates(pb.WatchInstrumentUpdatesRequest(), metadata=_METADATA)
            async for update in stream:
                now_ns = time.monotonic_ns()
                begun += update.last
                for patch in update.patches:
                    sequences.append(patch.last_sequence)
                    times.append(now_ns)

    tasks = [asyncio.create_task(one()) for _ in range(clients)]
    while begun < clients:
        await asyncio.sleep(0.01)
        for task in tasks:
            if task.done():
                task.result()
    pipe.send(begun)
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    gc.enable()
    return np.array(sequences, np.int64), np.array(times, np.int64)


# The measurement.


def measure(plan: Plan) -> Measured:
    """One system: calls one after another, then streams of 20 clients while fills come."""
    clients, seconds = plan.size(CLIENTS, CLIENTS_TINY), plan.size(10, 1)
    found = Measured(runs=1, wait="auto")
    with System(plan.folder / "system") as system:
        system.start()
        system.define(definitions(BOOKS, INSTRUMENTS))
        system.send_all(trades(BOOKS * INSTRUMENTS * 3, 0, BOOKS, INSTRUMENTS, seed=1, known=False), 256)
        with Child(serve, system.instance, system.data_dir) as server, Child(call, system.instance, system.data_dir) as caller:
            port, peer_port = server.answer()
            ours, theirs = caller.ask("get", port, peer_port, "B1", "I1", plan.size(CALLS, CALLS_TINY))
            caller.ask("hear", port, clients, seconds + 1.0)
            before = server.ask("cpu")
            made = trades(CHANGES_PER_S * seconds, 0, BOOKS, INSTRUMENTS, seed=2, known=False)
            sequences, sent_ns = paced_trades(system, made, CHANGES_PER_S, seconds)
            spent = server.ask("cpu") - before
            seen, seen_ns = caller.answer()
    at = np.searchsorted(sequences, seen)
    at[at == len(sequences)] = 0
    matched = sequences[at] == seen
    delays = (seen_ns[matched] - sent_ns[at[matched]]) / 1e6
    assert len(delays), "some fills were seen"
    found.results = [
        result("GetPosition over TLS", "ms", ours),
        result("peer: the same bytes by the library alone", "ms", theirs),
        result(f"fill to client, {clients} streams, {CHANGES_PER_S} fills a second", "ms", delays),
    ]
    found.notes = [
        f"calls one after another, ours and the peer's in turn; streams: {len(delays) / (clients * len(sequences)):.1%} of the fills were "
        f"told by a patch of their own, {spent / seconds:.2f} of a core for the gateway",
        "system, producer, gateway and clients share the cores; every client is Python and reads its messages whole",
    ]
    return found
