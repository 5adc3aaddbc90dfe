"""The addresses at which the gateway listens, and where they are written for others to find.

A usual port that is taken gives way to a free one, as the embedded servers' do; one that was configured does not. A gateway that is started
again takes the ports of its last life, so that clients find it where it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Any

import msgspec

from pks.base.config import Gateway as Settings
from pks.base.errors import Fatal
from pks.running import GATEWAY_FILE

BACKLOG = 2048


class PortTaken(Fatal):
    """Another program listens at a port that was configured."""

    def __init__(self, setting: str, address: str, reason: str) -> None:
        super().__init__(f"gateway.{setting}: cannot listen at {address}: {reason}")
        self.setting, self.address = setting, address


class Endpoints(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where users reach the gateway; `pks status --json` shows it."""

    pid: int
    rest: str
    websocket: str
    grpc: str = ""
    grpc_ca: str = ""
    rest_port: int = 0
    grpc_port: int = 0


def listen(settings: Settings, setting: str, last: int) -> socket.socket:
    """A listening socket. setting: rest_port or grpc_port; last: the port of the last life, 0 for none. Raises PortTaken."""
    tries = ports_of(settings, setting, last)
    for port in tries:
        try:
            return _bound(settings.bind, port)
        except OSError as error:
            if port == tries[-1] or error.errno != errno.EADDRINUSE:
                raise PortTaken(setting, f"{settings.bind}:{port}", error.strerror or str(error)) from error
    raise AssertionError("the last attempt returned or raised")


def ports_of(settings: Settings, setting: str, last: int) -> list[int]:
    """The ports to try, in order; 0 is any free one."""
    wanted: int = getattr(settings, setting)
    usual: int = getattr(Settings(), setting)
    tries = [wanted, 0] if wanted == usual else [wanted]
    return [last, *tries] if last and wanted in (0, usual) else tries


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def shown_host(bind: str) -> str:
    """The host by which somebody on this machine reaches what is bound so."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(bind, f"[{bind}]" if ":" in bind else bind)


def read_endpoints(run: Path) -> Endpoints | None:
    """What the last gateway of this data directory wrote; None where there is nothing that can be read."""
    try:
        return msgspec.json.decode((run / GATEWAY_FILE).read_bytes(), type=Endpoints)
    except (OSError, msgspec.DecodeError):
        return None


def write_endpoints(run: Path, endpoints: Endpoints) -> None:
    """Replace the file whole."""
    path = run / f"{GATEWAY_FILE}.{os.getpid()}"
    path.write_bytes(msgspec.json.encode(endpoints))
    path.replace(run / GATEWAY_FILE)


def forget_endpoints(run: Path) -> None:
    """Nobody listens any more; the ports stay known to the next life."""
    found: Any = read_endpoints(run)
    if found is not None and found.pid == os.getpid():
        with contextlib.suppress(OSError):
            write_endpoints(run, msgspec.structs.replace(found, pid=0))
