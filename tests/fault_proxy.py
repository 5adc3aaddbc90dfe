"""A TCP proxy that fails on demand: what stands between an edge and its server in tests of a network that is cut, hangs or drips.

Runs in a thread with an event loop of its own, so that the test and the servers need not know of it.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from enum import Enum

CHUNK_BYTES = 1 << 16
STALLED_LOOK_SECONDS = 0.02


class Fault(Enum):
    """What the proxy does with bytes."""

    NONE = "passes them on"
    CUT = "resets every connection and refuses new ones"
    STALL = "takes connections and passes nothing on, in either direction: a cable that was pulled"


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and passes to `port`. Use as a context; `fault` may be set at any time, from any thread."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.target = host, port
        self.port = 0
        self._fault = Fault.NONE
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        assert self._ready.wait(10), "the proxy listens"
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        if fault is Fault.CUT:
            self._loop.call_soon_threadsafe(self._reset_all)

    def _reset_all(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._reset_all()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            if self._fault is Fault.CUT:
                return
            back, there = await asyncio.open_connection(*self.target)
            self._open.add(there)
            await asyncio.wait(
                [asyncio.ensure_future(self._pass(reader, there)), asyncio.ensure_future(self._pass(back, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except OSError:
            pass  # the server is not there: so is our connection
        finally:
            for end in (writer, there):
                if end is not None:
                    self._open.discard(end)
                    end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                while self._fault is Fault.STALL:
                    await asyncio.sleep(STALLED_LOOK_SECONDS)
                writer.write(data)
                await writer.drain()
