"""Finding the running system of a data directory, for commands that talk to it or about it.

Owns the reading of the run file and its check against the kernel: a run file outlives a killed supervisor, the lock does not.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from pks.base.errors import Retryable

LOCK_FILE = "system.lock"
GATEWAY_FILE = "gateway.json"
"""Where the gateway says how it is reached, in the run directory."""


class NotRunning(Retryable):
    """No system runs in this data directory."""

    def __init__(self, data_dir: Path, reason: str) -> None:
        super().__init__(f"the system is not running (data directory {data_dir}: {reason}); start it with pks run")
        self.data_dir, self.reason = data_dir, reason


@dataclass(frozen=True, slots=True)
class Running:
    """What the run file says of a system whose supervisor lives."""

    pid: int
    instance: str
    data_dir: Path
    shards: int
    state: str
    stop_timeout: int
    edges: str
    servers: dict[str, dict[str, Any]]  # edge -> mode, state, pid, url, version, restarts, last_error
    endpoints: dict[str, str]  # of the gateway: rest, websocket, grpc, grpc_ca; empty while it does not serve


def find_running(data_dir: Path) -> Running:
    """The system that runs in `data_dir`. Raises NotRunning."""
    run_directory = data_dir / "run"
    try:
        facts = json.loads((run_directory / "pks.json").read_text())
    except FileNotFoundError:
        raise NotRunning(data_dir, "no run file") from None
    except PermissionError:
        raise NotRunning(data_dir, "the run file cannot be read by this user") from None
    except ValueError:
        raise NotRunning(data_dir, "the run file was lost in a power cut") from None
    if not _is_locked(run_directory / LOCK_FILE) or not Path("/proc", str(facts["pid"])).exists():
        raise NotRunning(data_dir, f"its last supervisor, pid {facts['pid']}, is gone")
    return Running(
        pid=facts["pid"],
        instance=facts["instance"],
        data_dir=data_dir,
        shards=facts["shards"],
        state=facts["state"],
        stop_timeout=facts["stop_timeout"],
        edges=facts["edges"],
        servers=facts["servers"],
        endpoints=_endpoints(run_directory),
    )


def _endpoints(run_directory: Path) -> dict[str, str]:
    try:
        said = json.loads((run_directory / GATEWAY_FILE).read_text())
    except (OSError, ValueError):
        return {}
    if not said.get("pid") or not Path("/proc", str(said["pid"])).exists():
        return {}
    return {name: said[name] for name in ("rest", "websocket", "grpc", "grpc_ca") if said.get(name)}


def open_process(pid: int) -> FileIO:
    """A descriptor of the process itself, readable when it has ended; a pid alone could be another's by now. Raises NotRunning."""
    try:
        return open(os.pidfd_open(pid), "rb", buffering=0)
    except ProcessLookupError:
        raise NotRunning(Path("?"), f"process {pid} has ended") from None


def _is_locked(path: Path) -> bool:
    """Whether some process holds the data directory; asked with a shared lock, which never disturbs its holder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
