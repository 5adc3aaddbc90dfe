"""Where each edge's server is: by URL if one is configured, else the embedded one's, from the files that its start has left.

The one thing that edges and workers ask this room. Ports are known when the server has started once; until then `endpoint` has no answer,
which is one of the states that an edge lives with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pks.base.config import Config
from pks.base.urls import without_secret
from pks.servers.nats import Nats
from pks.servers.postgres import Postgres
from pks.servers.questdb import Questdb
from pks.servers.server import NAMES, Server
from pks.servers.valkey import Valkey

Mode = Literal["embedded", "external", "none"]

SERVERS: dict[str, type[Server]] = {"postgres": Postgres, "nats": Nats, "questdb": Questdb, "redis": Valkey}
assert tuple(SERVERS) == NAMES, "every edge has its server"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a client needs to connect. `url` may hold a password and is kept out of every text; `shown` is for people."""

    name: str
    mode: Mode
    url: str = field(repr=False)
    shown: str
    nkey_file: str = ""  # NATS: the file with the seed of the user that we are
    ca_file: str = ""  # certificates by which an external server's is judged; "": the system's


def mode_of(config: Config, name: str) -> Mode:
    """Who runs the server of edge `name`: with `edges = "none"` nobody, else whoever a URL names, else we do, unless all are external."""
    if config.edges.mode == "none":
        return "none"
    if url_of(config, name):
        return "external"
    return "embedded" if config.edges.mode == "embedded" else "none"


def url_of(config: Config, name: str) -> str:
    """The configured URL, "" for none."""
    url: str = getattr(config.edges, f"{name}_url")
    return url


def servers_folder(config: Config) -> Path:
    """Where the embedded servers live."""
    return Path(config.data_dir) / "servers"


def server_of(config: Config, name: str) -> Server:
    """The embedded server of an edge, on its folder."""
    return SERVERS[name](servers_folder(config) / name, config.edges)


def endpoint(config: Config, name: str) -> Endpoint | None:
    """Where to connect; None where the edge is off, or its server has never started."""
    mode = mode_of(config, name)
    if mode == "none":
        return None
    if mode == "external":
        url = url_of(config, name)
        return Endpoint(name, mode, url, without_secret(url), config.edges.nats_nkey if name == "nats" else "", config.edges.tls_ca)
    server = server_of(config, name)
    if not server.ports:
        return None
    url = server.url()
    return Endpoint(name, mode, url, without_secret(url), str(server.seed_file("pks")) if isinstance(server, Nats) else "")
