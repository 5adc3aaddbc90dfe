"""Bus: what is booked and refused here goes out on NATS, what others want booked comes in, positions are told. The worker of edge `nats`.

Its module is what the supervisor and the zygote know; the library of NATS is imported in the worker's own process alone.
"""

from __future__ import annotations

from pks.workers.edges.edge import EdgeWorker
from pks.workers.edges.warm import warm_feed
from pks.workers.rejects import warm_reading
from pks.workers.runtime import Context


def make(context: Context) -> EdgeWorker:
    """The bus."""
    from pks.workers.edges.nats_edge import NatsEdge

    return EdgeWorker(context, NatsEdge(context))


def warm() -> None:
    """What the feed and the reader of refusals call."""
    warm_feed()
    warm_reading()
