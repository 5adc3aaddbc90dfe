"""What operators look at and do: workers, alerts, dead letters. Users are in `rest_users`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from litestar import Request, get
from litestar.params import QueryParameter

from pks.base.clock import format_time
from pks.bff.access import Permission
from pks.bff.guards import asks
from pks.edges.chat.keep import AlertFile
from pks.layouts.segment import WorkerState

if TYPE_CHECKING:
    from pks.bff.gateway import Gateway

ALERTS_MAX = 1000


@get("/admin/workers", opt=asks(Permission.OPERATE), summary="Workers", tags=["administration"])
async def workers(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Each worker's state, process, restarts, cursor, lag and last error, as `pks status` has them."""
    gateway: Gateway = request.app.state.gateway
    now_ns = gateway.context.clock.monotonic_ns()
    return {
        "items": [
            {
                "name": worker.name,
                "pid": worker.pid or None,
                "state": WorkerState(worker.state).name,
                "restarts": worker.restarts_count,
                "heartbeat_age_ms": (now_ns - worker.heartbeat_ns) // 1_000_000 if worker.pid and worker.heartbeat_ns else None,
                "cursor": worker.cursor,
                "lag": worker.lag,
                "last_error": worker.last_error or None,
            }
            for worker in gateway.context.host.control.workers()
        ],
        "next": None,
    }


@get("/admin/alerts", opt=asks(Permission.OPERATE), summary="Alerts", tags=["administration"])
async def alerts(
    request: Request[Any, Any, Any], limit: Annotated[int, QueryParameter(name="limit", ge=1, le=ALERTS_MAX, required=False)] = 100
) -> dict[str, Any]:
    """The latest alerts, the newest first."""
    gateway: Gateway = request.app.state.gateway
    return {
        "items": [
            {
                "class": alert.alert_class.value,
                "severity": alert.severity,
                "time": format_time(alert.window_start_ns),
                "count": alert.count,
                "text": alert.text,
                "channels": alert.channels,
                "state": alert.state.value,
                "error": alert.error or None,
            }
            for alert in AlertFile(gateway.context.paths.run).read(limit)
        ],
        "next": None,
    }


HANDLERS = [workers, alerts]
