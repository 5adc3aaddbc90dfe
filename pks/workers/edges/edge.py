"""The life of an edge's worker: a server that comes and goes, an event loop in slices, and what `pks status` says of it.

Owns the event loop, the reconnecting with growing pauses, and the edge's cells. What is carried where is the `Edge`'s. A server that is
down, slow or full is a state and not a failure: the worker lives on, says it once, and goes on from the server's own cursor. No library of
a server may be imported before the fork, so workers' modules import theirs in `make`.
"""

from __future__ import annotations

import asyncio
import enum
import random
import time
from collections.abc import Callable
from typing import ClassVar, Protocol

from pks.base.limits import EDGE_REST_NS_MAX
from pks.servers.endpoints import Endpoint, endpoint
from pks.workers.runtime import Context

SLICE_SECONDS = 0.05
"""The longest that the event loop runs before the runtime has its turn: heartbeat, signals."""

POLL_SECONDS = 0.02
"""Between two looks for work while there is none, in the first seconds without."""

RESTS_AFTER_SECONDS = 5.0
"""Without work for so long an edge rests: it looks only every REST_SECONDS, which is what its next event then may wait."""

REST_SECONDS = EDGE_REST_NS_MAX / 1e9

PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX, PAUSE_GROWTH = 0.2, 10.0, 2.0
"""Before the next attempt at a server that failed."""

FLUSH_NS_MAX = 5_000_000_000
"""How long an orderly stop waits for an edge that makes no progress."""

CLOSE_SECONDS_MAX = 2.0
CANCELS_MAX, CANCEL_SECONDS = 12, 0.5

CELL_CURSOR, CELL_LAG, CELL_LAG_MS, CELL_STATE = "edge_cursor", "edge_lag", "edge_lag_ms", "edge_state"


class EdgeState(enum.IntEnum):
    """Whether an edge's server takes what it is given; gauge `edge_state` of its worker."""

    WAITING = 1  # for the core, or for a server that has never started
    DOWN = 2  # the server does not take what it is given; tried again
    UP = 3


def until_rest_ends(now: float | None = None) -> float:
    """Seconds to the next whole REST_SECONDS of the monotonic clock, so that all that rests in a process wakes it at once."""
    return REST_SECONDS - (time.monotonic() if now is None else now) % REST_SECONDS


class Pace:
    """How long to sleep between two looks: by steps of (seconds since there was something, pause), and at rest after the last of them."""

    def __init__(self, *steps: tuple[float, float], now: Callable[[], float] = time.monotonic) -> None:
        assert steps, "there is a first pause"
        assert steps[-1][0] == RESTS_AFTER_SECONDS, "all rest at the same time"
        self._steps, self._now = steps, now
        self._worked_at = now()

    def worked(self) -> None:
        """There was something."""
        self._worked_at = self._now()

    def pause(self) -> float:
        """Seconds to the next look."""
        now = self._now()
        return next((pause for upto, pause in self._steps if now - self._worked_at < upto), 0.0) or until_rest_ends(now)

    @property
    def rests(self) -> bool:
        """Whether there was nothing for so long that looks are rare."""
        return self._now() - self._worked_at >= RESTS_AFTER_SECONDS

    async def rest(self) -> None:
        """Sleep until the next look."""
        await asyncio.sleep(self.pause())


class Edge(Protocol):
    """One way to one server. All methods run in the worker's event loop, in turn; any exception but CancelledError means that the
    connection is lost: `close` is called, and later `connect` again.
    """

    name: ClassVar[str]  # as the servers are named: postgres, nats, questdb, redis
    cursor: int  # last event that the server has

    async def connect(self, endpoint: Endpoint) -> bool:
        """Make the connection and read the cursor from the server; False while the core is not so far. Raises what the library raises."""

    async def turn(self) -> int:
        """Carry some; how much was done, 0 when there was nothing. Returns within some seconds, with everything carried in `cursor`."""

    def lag(self) -> tuple[int, int]:
        """(events that the server lacks, recorded_ns of the first of them or 0)."""

    async def close(self) -> None:
        """Let go of the connection, whatever its state."""


class EdgeWorker:
    """Implements runtime.Worker for one Edge."""

    def __init__(self, context: Context, edge: Edge) -> None:
        import uvloop

        self.context, self.edge = context, edge
        self.loop = uvloop.new_event_loop()
        cells = context.cells
        self.cursor_gauge, self.lag_gauge = cells.gauge(CELL_CURSOR), cells.gauge(CELL_LAG)
        self.lag_ms_gauge, self.state_gauge = cells.gauge(CELL_LAG_MS), cells.gauge(CELL_STATE)
        self.reconnects = cells.counter("edge_reconnects")
        self.state = EdgeState.WAITING
        self.state_gauge.set(int(self.state))
        self.done = 0
        self.pace = Pace((RESTS_AFTER_SECONDS, POLL_SECONDS))
        self.moved_ns = context.clock.monotonic_ns()
        self.shown, self.shown_ns = -1, self.moved_ns  # the cursor that was last shown while something waited, and since when it is that
        self.life = self.loop.create_task(self._live())
        context.ready()

    async def _live(self) -> None:
        pause = PAUSE_SECONDS_MIN
        while True:
            try:
                if await self._connected():
                    self._enter(EdgeState.UP)
                    self.pace.worked()
                    pause = PAUSE_SECONDS_MIN
                    await self._carry()
                else:
                    await asyncio.sleep(POLL_SECONDS)
                    continue
            except Exception as error:  # a server may fail in any way that its library knows
                self._fell(error)
            finally:
                await self._close()
            await asyncio.sleep(pause * (1 + random.random() / 4))
            pause = min(pause * PAUSE_GROWTH, PAUSE_SECONDS_MAX)

    async def _connected(self) -> bool:
        found = endpoint(self.context.config, self.edge.name)
        return found is not None and await self.edge.connect(found)

    async def _carry(self) -> None:
        while True:
            done = await self.edge.turn()
            if done:
                self.done += done
                self.moved_ns = self.context.clock.monotonic_ns()
                self.pace.worked()
                await asyncio.sleep(0)
            else:
                await self.pace.rest()

    async def _close(self) -> None:
        try:
            await asyncio.wait_for(self.edge.close(), CLOSE_SECONDS_MAX)
        except Exception as error:  # the connection is given up in any case
            self.context.log.info("a connection did not close", edge=self.edge.name, error=_said(error))

    def _fell(self, error: Exception) -> None:
        said = _said(error)
        if self.state is not EdgeState.DOWN:
            self.context.log.warning("edge down", edge=self.edge.name, error=said, cursor=self.edge.cursor)
        self._enter(EdgeState.DOWN)
        self.context.fail(said)
        self.reconnects.add()

    def _enter(self, state: EdgeState) -> None:
        if state is EdgeState.UP and self.state is not EdgeState.UP:
            self.context.log.info("edge up", edge=self.edge.name, cursor=self.edge.cursor)
            self.context.fail("")
        self.state = state
        self.state_gauge.set(int(state))

    def step(self) -> int:
        """Let the event loop run for a while."""
        before = self.done
        rests = self.pace.rests and self.state is EdgeState.UP and not self.context.stop[0]
        self.loop.run_until_complete(asyncio.sleep(until_rest_ends() if rests else SLICE_SECONDS))
        if self.life.done():
            self.life.result()  # only a mistake of ours ends it: the worker dies of it and is restarted
        self._show()
        return self.done - before

    def idle(self) -> None:
        """The event loop has waited."""

    def housekeeping(self) -> None:
        """The cells are written at each step."""

    def _show(self) -> None:
        lag, since_ns = self.edge.lag()
        self.context.cursor, self.context.lag = self.edge.cursor, lag
        self.cursor_gauge.set(self.edge.cursor)
        self.lag_gauge.set(lag)
        now_ns = self.context.clock.monotonic_ns()
        if not lag or self.edge.cursor != self.shown:
            self.shown, self.shown_ns = self.edge.cursor if lag else -1, now_ns
        waits_ns = (
            max(self.context.clock.wall_ns() - since_ns, now_ns - self.shown_ns) if since_ns else 0
        )  # the wall clock may have stepped
        self.lag_ms_gauge.set(waits_ns // 1_000_000)

    def drain(self) -> bool:
        """The server has everything, or takes nothing: then the next start brings it the rest."""
        lag, _ = self.edge.lag()
        if lag and self.context.clock.monotonic_ns() - self.moved_ns > FLUSH_NS_MAX:
            self.context.log.warning("the stop goes on without this edge; the next start brings it the rest", edge=self.edge.name, lag=lag)
            return True
        return not lag or self.state is not EdgeState.UP

    def close(self) -> None:
        """End the event loop. A library that is cancelled while it connects may lose the cancellation, so it is told again."""
        for _ in range(CANCELS_MAX):
            self.life.cancel()
            self.loop.run_until_complete(asyncio.wait({self.life}, timeout=CANCEL_SECONDS))
            if self.life.done():
                self.loop.close()
                return
        self.context.log.warning("the connection does not let go; the process ends without it", edge=self.edge.name)


def _said(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
