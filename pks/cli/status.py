"""`pks status`: workers, cursors and lags of the running system."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from pks.cli.group import quiet_config, system_options
from pks.running import Running, find_running

ALERTS_SHOWN = 20

CARRIED = {1: "WAITING", 2: "DOWN", 3: "UP"}
"""workers.edges.edge.EdgeState, which no command may import for its event loop."""


@click.command()
@system_options
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def status(config: Path | None, data_dir: Path | None, instance: str | None, as_json: bool) -> None:
    """Show the state of the running system; exit 1 when none runs."""
    running = find_running(Path(quiet_config(config, data_dir, instance).data_dir))
    facts = status_of(running)
    click.echo(json.dumps(facts, indent=1) if as_json else _as_table(facts))


def status_of(running: Running) -> dict[str, Any]:
    """The answer of `pks status --json`. Raises StaleHost, SegmentMissing when the system ends meanwhile."""
    from pks.layouts.segment import WorkerState
    from pks.topology import Host

    host = Host.open(running.instance, running.data_dir)
    workers, shadow, applied = [], {"compared": 0, "differences": 0}, []
    owners = {}
    facts, now_ns = host.control.workers(), time.monotonic_ns()
    for worker in facts:
        owners[worker.owner] = worker.name
        alive = worker.pid != 0
        if worker.name.startswith("accumulator-"):
            applied.append(worker.cursor)
        workers.append(
            {
                "name": worker.name,
                "pid": worker.pid or None,
                "state": WorkerState(worker.state).name,
                "restarts": worker.restarts_count,
                "heartbeat_age_ms": (now_ns - worker.heartbeat_ns) // 1_000_000 if alive and worker.heartbeat_ns else None,
                "cursor": worker.cursor,
                "lag": worker.lag,
                "last_error": worker.last_error or None,
            }
        )
    cells = host.control.read_cells()
    for cell in cells:
        if owners.get(cell.owner) == "shadow" and cell.name in shadow and isinstance(cell.value, int):
            shadow[cell.name] = cell.value
    state = host.system_state.name
    return {
        "state": state,
        "pid": running.pid,
        "instance": running.instance,
        "data_dir": str(running.data_dir),
        "shards": host.shards,
        "sequence": _sequences(host, state, applied),
        "workers": workers,
        "edges": edges_of(running.servers, facts, cells),
        "endpoints": running.endpoints,
        "shadow": shadow,
        "alerts": alerts_of(running.data_dir),
    }


def alerts_of(data_dir: Path) -> list[dict[str, Any]]:
    """The latest alerts, the newest first."""
    from pks.base.clock import format_time
    from pks.edges.chat.keep import AlertFile

    return [
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
        for alert in AlertFile(data_dir / "run").read(ALERTS_SHOWN)
    ]


def edges_of(servers: dict[str, dict[str, Any]], workers: list[Any], cells: list[Any]) -> dict[str, dict[str, Any]]:
    """Each edge's server, and what its worker says: does the server take what it is given (carried), last event that it has, events and
    seconds that it lacks. servers: of the run file; workers: WorkerFacts; cells: of the control segment.
    """
    from pks.topology import EDGE_WORKERS

    owners = {worker.name: worker for worker in workers}
    values = {(cell.owner, cell.name): cell.value for cell in cells}
    said = {}
    for edge, server in servers.items():
        worker = owners.get(EDGE_WORKERS.get(edge, ""))
        one: dict[str, Any] = {"carried": None, "cursor": None, "lag": None, "lag_seconds": None}
        if worker is not None:
            one["carried"] = CARRIED.get(values.get((worker.owner, "edge_state"), 0), "WAITING")
            one["cursor"], one["lag"] = values.get((worker.owner, "edge_cursor")), values.get((worker.owner, "edge_lag"))
            one["lag_seconds"] = round(values.get((worker.owner, "edge_lag_ms"), 0) / 1000, 3)
            one["last_error"] = server["last_error"] or worker.last_error or None
        said[edge] = server | one
    return said


def _sequences(host: Any, state: str, applied: list[int]) -> dict[str, int | None]:
    """Where capture, journal and the slowest accumulator are; unknown while the system starts."""
    if state == "STARTING":
        return {"accepted": None, "durable": None, "applied": None}
    durable = host.durable_sequence  # looked at first: what is accepted is never behind it
    return {"accepted": host.events.head, "durable": durable, "applied": min(applied, default=None)}


def _as_table(facts: dict[str, Any]) -> str:
    sequence = facts["sequence"]
    named = f" {facts['instance']}" if facts["instance"] else ""
    lines = [
        f"system{named} {facts['state']}, pid {facts['pid']}, {facts['shards']} shard(s), {facts['data_dir']}",
        f"sequence: accepted {_shown(sequence['accepted'])}, durable {_shown(sequence['durable'])}, applied {_shown(sequence['applied'])}",
        f"shadow: {facts['shadow']['compared']} compared, {facts['shadow']['differences']} different",
        *([f"gateway: {', '.join(facts['endpoints'].values())}"] if facts["endpoints"] else []),
        "",
        f"{'worker':18} {'state':9} {'pid':>8} {'restarts':>8} {'beat ms':>8} {'cursor':>12} {'lag':>8}  last error",
    ]
    for worker in facts["workers"]:
        lines.append(
            f"{worker['name']:18} {worker['state']:9} {_shown(worker['pid']):>8} {worker['restarts']:>8} "
            f"{_shown(worker['heartbeat_age_ms']):>8} {worker['cursor']:>12} {worker['lag']:>8}  {worker['last_error'] or ''}".rstrip()
        )
    lines += ["", *edge_lines(facts["edges"])]
    if facts["alerts"]:
        lines += ["", f"{'alert':19} {'severity':8} {'since':30} {'count':>7}  what"]
        lines += [f"{one['class']:19} {one['severity']:8} {one['time']:30} {one['count']:>7}  {one['text']}" for one in facts["alerts"][:5]]
    return "\n".join(lines)


def edge_lines(edges: dict[str, dict[str, Any]]) -> list[str]:
    """The edges' servers as a table, also for `pks top`."""
    if all(edge["mode"] == "none" for edge in edges.values()):
        return ["edges: none"]
    lines = [
        f"{'edge':9} {'mode':9} {'state':9} {'pid':>8} {'restarts':>8} {'version':9} "
        f"{'carried':8} {'cursor':>10} {'lag':>8} {'lag s':>7}  url  last error"
    ]
    for name, edge in edges.items():
        known = f"{edge['url'] or '-'}  {edge['last_error'] or ''}".rstrip()
        version = edge["version"] or "-"
        carried = (
            f"{edge['carried'] or '-':8} {_shown(edge['cursor']):>10} {_shown(edge['lag']):>8} "
            f"{'-' if edge['lag_seconds'] is None else format(edge['lag_seconds'], '.1f'):>7}"
        )
        server = f"{name:9} {edge['mode']:9} {edge['state']:9} {_shown(edge['pid']):>8} {edge['restarts']:>8} {version:9}"
        lines.append(f"{server} {carried}  {known}")
    return lines


def _shown(value: int | None) -> str:
    return "-" if value is None else str(value)
