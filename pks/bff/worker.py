"""The worker `bff`: the gateway's process. Its event loop runs in slices, between which the runtime has its turn.

Its module is what the supervisor and the zygote know: libraries of the web and of servers are imported in the worker's own process alone. A
gateway that cannot begin (a certificate that does not fit, a port that is taken) says so in `pks status` and tries again; the core goes on.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

from pks.workers.edges.edge import until_rest_ends
from pks.workers.runtime import Context

if TYPE_CHECKING:
    from pks.bff.gateway import Gateway

PAUSE_SECONDS = 2.0
"""Before the next attempt of a gateway that could not begin."""

CLOSE_SECONDS_MAX = 5.0


class GatewayWorker:
    """Implements runtime.Worker."""

    def __init__(self, context: Context) -> None:
        import uvloop

        self.context = context
        self.loop = uvloop.new_event_loop()
        self.gateway: Gateway | None = None
        self.life = self.loop.create_task(self._live())
        self._closing: asyncio.Task[None] | None = None
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
        self.loop.run_until_complete(asyncio.sleep(until_rest_ends()))
        if self.life.done():
            self.life.result()  # only a mistake of ours ends it: the worker dies of it and is restarted
        return max(0, self.gateway.requests_count - before) if self.gateway is not None else 0

    def idle(self) -> None:
        """The event loop has waited."""

    def housekeeping(self) -> None:
        """Show how far what users see is."""
        if self.gateway is not None:
            self.gateway.show()

    def drain(self) -> bool:
        """Clients are told that the system ends, then nobody is left."""
        if self._closing is None:
            self._closing = self.loop.create_task(self._end())
        return self._closing.done()

    async def _end(self) -> None:
        if self.gateway is not None:
            await asyncio.wait_for(self.gateway.close(), CLOSE_SECONDS_MAX)

    def close(self) -> None:
        """End the event loop."""
        self.life.cancel()
        self.loop.run_until_complete(asyncio.wait({self.life}, timeout=CLOSE_SECONDS_MAX))
        self.loop.close()


def make(context: Context) -> GatewayWorker:
    """The gateway."""
    return GatewayWorker(context)


def warm() -> None:
    """What a reader of slots calls."""
    from pks.workers.edges.warm import warm_feed

    warm_feed()
