"""Embedded servers without a core, for a command that needs what they hold while no system runs.

The keeper forks, so it lives in a child of its own; the command meets the servers by `endpoint`, as edges do. The caller holds the data
directory's lock, and has started no thread yet.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pks.base.config import Config
from pks.base.errors import Retryable
from pks.servers.endpoints import mode_of, servers_folder
from pks.servers.keeper import Keeper
from pks.servers.process import die_with
from pks.servers.states import ServerState

READY_SECONDS_MAX = 120.0
STOP_NS_MAX = 20_000_000_000
ROUND_SECONDS = 0.01
LOOK_SECONDS = 0.02


class ServersNotReady(Retryable):
    """A server that is needed did not become ready."""

    def __init__(self, facts: str) -> None:
        super().__init__(f"the servers that are needed are not ready: {facts}")


class _Said:
    """A log of warnings on the standard error."""

    def info(self, event: str, **facts: object) -> None:
        """Not worth a line."""

    def warning(self, event: str, **facts: object) -> None:
        """Say it."""
        print(f"pks: {event} {facts}", file=sys.stderr)

    error = warning


@contextmanager
def alone(config: Config, names: Collection[str]) -> Iterator[None]:
    """Run the embedded ones of these servers; inside they are ready. Raises ServersNotReady."""
    wanted = [name for name in names if mode_of(config, name) == "embedded" and (servers_folder(config) / name).exists()]
    if not wanted:
        yield
        return
    state = Path(config.data_dir) / "run" / "servers.json"
    state.unlink(missing_ok=True)
    own = os.getpid()
    child = os.fork()
    if child == 0:
        _keep(config, wanted, state, own)
    try:
        _await(state, wanted, child)
        yield
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        state.unlink(missing_ok=True)


def _await(state: Path, wanted: Collection[str], child: int) -> None:
    deadline, facts = time.monotonic() + READY_SECONDS_MAX, "they have said nothing"
    while time.monotonic() < deadline:
        if state.exists():
            said = json.loads(state.read_text())
            if all(said[name]["state"] == ServerState.READY.name for name in wanted):
                return
            facts = ", ".join(f"{name} {said[name]['state']} {said[name]['last_error'] or ''}".strip() for name in wanted)
        if os.waitpid(child, os.WNOHANG)[0]:
            raise ServersNotReady("their keeper ended")
        time.sleep(LOOK_SECONDS)
    raise ServersNotReady(facts)


def _keep(config: Config, names: Collection[str], state: Path, parent: int) -> None:
    """The child's life: until SIGTERM, or its parent's end."""
    code = 1
    try:
        die_with(parent, signal.SIGTERM)
        asked: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        keeper = Keeper(config, _Said(), names)
        for facts in rounds(keeper, asked):
            part = state.with_suffix(".part")
            part.write_text(json.dumps(facts))
            part.replace(state)
        code = 0
    finally:
        os._exit(code)


def rounds(keeper: Keeper, asked: list[int]) -> Iterator[dict[str, dict[str, Any]]]:
    """Keep servers until `asked` holds a signal and all have ended; what the keeper says of them, at each change."""
    keeper.start(())
    while not keeper.is_over:
        now = time.monotonic_ns()
        for pid in keeper.pids():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                keeper.reaped(pid, os.waitstatus_to_exitcode(status), now)
        if asked and not keeper.is_stopping:
            keeper.stop(now, now + STOP_NS_MAX)
        keeper.turn(now)
        if keeper.changed:
            keeper.changed = False
            yield keeper.facts()
        time.sleep(ROUND_SECONDS)
