"""What a server is doing, as `pks status` shows it, and which states may follow which.

Owns the names. Kept apart so that commands can speak of them without the code that starts servers.
"""

from __future__ import annotations

from enum import IntEnum


class ServerState(IntEnum):
    """States of an edge's server; values are never reused."""

    OFF = 0  # not wanted
    EXTERNAL = 1  # somebody else runs it; an edge says what it thinks of it
    WAITING = 2  # for the core, which starts first
    PREPARING = 3  # files, first database, ports
    STARTING = 4  # the server runs and does not answer yet
    READY = 5
    SILENT = 6  # it runs and has stopped answering
    DOWN = 7  # it ended, or could not be prepared; the next start is due soon
    MISSING = 8  # it is not installed; looked for again now and then
    STOPPING = 9
    STOPPED = 10


_S = ServerState
SERVER_MOVES = {
    _S.OFF: set[ServerState](),
    _S.EXTERNAL: set[ServerState](),
    _S.WAITING: {_S.PREPARING, _S.STOPPED},
    _S.PREPARING: {_S.STARTING, _S.DOWN, _S.MISSING, _S.STOPPING},
    _S.STARTING: {_S.READY, _S.DOWN, _S.STOPPING},
    _S.READY: {_S.SILENT, _S.DOWN, _S.STOPPING},
    _S.SILENT: {_S.READY, _S.DOWN, _S.STOPPING},
    _S.DOWN: {_S.PREPARING, _S.STOPPED},
    _S.MISSING: {_S.PREPARING, _S.STOPPED},
    _S.STOPPING: {_S.STOPPED},
    _S.STOPPED: set[ServerState](),
}
assert SERVER_MOVES.keys() == set(ServerState), "every state has its moves"

NO_PROCESS = frozenset({_S.OFF, _S.EXTERNAL, _S.WAITING, _S.DOWN, _S.MISSING, _S.STOPPED})
"""States in which there is no process of ours."""
