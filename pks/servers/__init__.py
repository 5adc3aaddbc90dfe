"""The servers that `pks run` keeps beside the core: NATS, Postgres, Valkey, QuestDB, as children on loopback under the data directory.

A server's module owns its configuration, its files and what its answer to a probe means; `keeper` owns starting, watching and ending them
for the supervisor; `endpoints` tells edges where each one is, embedded or by URL. The supervisor forks, so nothing here may import an event
loop or a client library (what makes keys is imported in the child that becomes the server). May not look at segments or events.
"""

from __future__ import annotations

from pks.servers.endpoints import Endpoint, endpoint, mode_of
from pks.servers.errors import ServerMissing, ServerRefused
from pks.servers.keeper import Keeper
from pks.servers.server import NAMES, Server
from pks.servers.states import SERVER_MOVES, ServerState

__all__ = [
    "NAMES",
    "SERVER_MOVES",
    "Endpoint",
    "Keeper",
    "Server",
    "ServerMissing",
    "ServerRefused",
    "ServerState",
    "endpoint",
    "mode_of",
]
