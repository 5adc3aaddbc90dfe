"""What `pks doctor` says of the servers: which are here, in which version, on which port, and what is missing and what that means.

Asks programs for their version and looks at ports; starts nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from pks.base.config import Config
from pks.base.host import Finding
from pks.base.urls import without_secret
from pks.servers.endpoints import mode_of, server_of, url_of
from pks.servers.errors import ServerMissing, ServerRefused
from pks.servers.files import is_free
from pks.servers.postgres import Postgres
from pks.servers.process import still_running
from pks.servers.server import NAMES, Server

WITHOUT = {
    "postgres": "nothing is kept in tables: no snapshots, no dead letters, no users",
    "nats": "nothing is published, and nothing comes in from other hosts",
    "questdb": "time series are kept in Postgres",
    "redis": "marks and sessions are not shared with other programs",
}
"""What is not there without each server; the core does without all of them."""


def server_findings(config: Config) -> list[Finding]:
    """One finding an edge."""
    return [_finding(config, name) for name in NAMES]


def _finding(config: Config, name: str) -> Finding:
    mode = mode_of(config, name)
    if mode == "external":
        return Finding("ok", name, f"external, {without_secret(url_of(config, name))}")
    if mode == "none":
        return Finding("ok", name, "not wanted")
    server = server_of(config, name)
    try:
        version = server.version()
    except ServerMissing as error:
        return Finding("note", name, f"{error.reason}; without it {WITHOUT[name]}")
    except ServerRefused as error:
        return Finding("lack", name, error.reason)
    return Finding("ok", name, "; ".join((f"version {version}", *_ports(server), *_rights(server))))


def _ports(server: Server) -> Iterator[str]:
    ours = bool(still_running(server.folder, server.programs))
    for label, usual in server.named_ports.items():
        port = server.ports.get(label, usual)
        named = "" if label == "client" else f" ({label})"
        if ours:
            yield f"runs on port {port}{named}"
        elif is_free(port):
            yield f"port {port}{named} is free"
        else:
            yield f"port {port}{named} is taken, so another one will be"


def _rights(server: Server) -> Iterator[str]:
    if isinstance(server, Postgres) and server.how != "self":
        yield "as root it runs as nobody" + (" of a user namespace" if server.how == "userns" else "")
