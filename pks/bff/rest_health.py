"""`/health` and `/metrics`: for those who watch, without a user. They name no book and no figure of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from litestar import MediaType, Request, Response, get
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from pks.bff.live import NotLive
from pks.layouts.segment import CellKind, WorkerState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from pks.bff.gateway import Gateway


class Health(msgspec.Struct, frozen=True):
    """Whether figures can be had. state: live, stale or away."""

    state: str
    accepted: int
    applied: int
    durable: int
    reason: str = ""


@get("/health", summary="Whether the system serves", tags=["system"])
async def health(request: Request[Any, Any, Any]) -> Response[Health]:
    """200 while the core gives figures (`live`, or `stale` while a worker is away), 503 while it does not."""
    gateway: Gateway = request.app.state.gateway
    try:
        freshness = gateway.live.freshness()
        accepted = gateway.live.host.accepted_sequence
    except NotLive as error:
        return Response(Health("away", 0, 0, 0, error.reason), status_code=503, headers={"Retry-After": "1"})
    return Response(Health(freshness.state.value, accepted, freshness.applied, freshness.durable))


@get("/metrics", media_type=MediaType.TEXT, summary="Figures for Prometheus", tags=["system"])
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Every worker's state, cursor, lag, restarts, counters and gauges, in Prometheus' text form."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Cells(request.app.state.gateway))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class Cells(Collector):
    """The control segment as metrics."""

    def __init__(self, gateway: Gateway) -> None:
        self._control = gateway.context.host.control

    def collect(self) -> Iterable[Metric]:
        """Families by name."""
        workers = self._control.workers()
        names = {worker.owner: worker.name for worker in workers}
        up = GaugeMetricFamily("pks_worker_ready", "1 while the worker has caught up and works", labels=["worker"])
        cursor = GaugeMetricFamily("pks_worker_cursor", "last event that the worker has dealt with", labels=["worker"])
        lag = GaugeMetricFamily("pks_worker_lag", "events that the worker lacks", labels=["worker"])
        restarts = CounterMetricFamily("pks_worker_restarts", "lives that ended before their time", labels=["worker"])
        for worker in workers:
            up.add_metric([worker.name], float(worker.state == WorkerState.READY))
            cursor.add_metric([worker.name], worker.cursor)
            lag.add_metric([worker.name], worker.lag)
            restarts.add_metric([worker.name], worker.restarts_count)
        yield from (up, cursor, lag, restarts)
        families: dict[str, Metric] = {}
        for cell in self._control.read_cells():
            if not isinstance(cell.value, int):
                continue
            is_counter = cell.kind is CellKind.COUNTER
            name = f"pks_{cell.name}"
            if name not in families:
                kind = CounterMetricFamily if is_counter else GaugeMetricFamily
                families[name] = kind(name, f"{cell.name} of each worker", labels=["worker"])
            families[name].add_metric([names.get(cell.owner, "supervisor")], cell.value)  # type: ignore[attr-defined]
        yield from families.values()


HANDLERS = [health, metrics]
