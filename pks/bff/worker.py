"""The worker `bff`: the gateway's process. Its event loop runs in slices, between which the runtime has its turn.

Its module is what the supervisor and the zygote know: libraries of the web and of servers are imported in the worker's own process alone. A
gateway that cannot begin (a certificate that does not fit, a port that is taken) says so in `pks status` and tries again; the core goes on.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

from pks.workers.edges.edge import SLICE_SECONDS, until_rest_ends
from pks.workers.runtime import Context

if TYPE_CHECKING:
    from pks.bff.gateway import Gateway

PAUSE_SECONDS = 2.0
"""Before the next attempt of a gateway that could not begin."""

CLOSE_NS_MAX = 5_000_000_000
"""How long an orderly stop waits for clients."""

CANCELS_MAX, CANCEL_SECONDS = 6, 0.5


class GatewayWorker:
    """Implements runtime.Worker."""

    def __init__(self, context: Context) -> None:
        import uvloop

        self.context = context
        self.loop = uvloop.new_event_loop()
        self.gateway: Gateway | None = None
        self.life = self.loop.create_task(self._live())
        self._drain_until_ns = 0
        context.ready()

    async def _live(self) -> None:
        from pks.bff.gateway import Gateway

        while True:
            gateway = Gateway(self.context)
            try:
                await gateway.start()
                self.gateway = gateway
                gc.collect()
                gc.freeze()  # what serves stays: a collection looks at what comes and goes
                await gateway.run()
            except Exception as error:  # whatever kept it from serving is said; the core lives on without it
                self.context.log.error("the gateway does not serve", error=f"{type(error).__name__}: {error}")
                self.context.fail(f"{type(error).__name__}: {error}")
            finally:
                self.gateway = None
                await gateway.close()
            await asyncio.sleep(PAUSE_SECONDS)

    def step(self) -> int:
        """Let the event loop run for a while; what it serves does not wait for the slice's end."""
        before = self.gateway.requests_count if self.gateway is not None else 0
        self.loop.run_until_complete(asyncio.sleep(SLICE_SECONDS if self.context.stop[0] else until_rest_ends()))
        if self.life.done() and not self._drain_until_ns:
            self.life.result()  # only a mistake of ours ends it: the worker dies of it and is restarted
        return max(0, self.gateway.requests_count - before) if self.gateway is not None else 0

    def idle(self) -> None:
        """The event loop has waited."""

    def housekeeping(self) -> None:
        """Show how far what users see is."""
        if self.gateway is not None:
            self.gateway.show()

    def drain(self) -> bool:
        """Clients are told that the system ends, requests under way are answered, then nobody is left."""
        if not self._drain_until_ns:
            self._drain_until_ns = self.context.clock.monotonic_ns() + CLOSE_NS_MAX
            self.life.cancel()
        return self.life.done() or self.context.clock.monotonic_ns() > self._drain_until_ns

    def close(self) -> None:
        """End the event loop. A library that is cancelled while it waits may lose the cancellation, so it is told again."""
        for _ in range(CANCELS_MAX):
            if self.life.done():
                break
            self.life.cancel()
            self.loop.run_until_complete(asyncio.wait({self.life}, timeout=CANCEL_SECONDS))
        self.loop.close()


def make(context: Context) -> GatewayWorker:
    """The gateway."""
    return GatewayWorker(context)


def warm() -> None:
    """What a worker with an intake ring calls, and what a reader of the host does."""
    from pks.client.warm import warm_reader
    from pks.workers.edges.warm import warm_feed

    warm_feed()
    warm_reader()
