"""Why a server cannot be started: it is not there, or what is there cannot be used.

Neither stops the core: the keeper says it, shows it and looks again later.
"""

from __future__ import annotations

from pks.base.errors import PksError


class ServerMissing(PksError):
    """The server's program is not installed."""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"{server}: {reason}")
        self.server, self.reason = server, reason


class ServerRefused(PksError):
    """The program or the folder is one that must not be used, or preparing it failed; nothing was changed that matters."""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"{server}: {reason}")
        self.server, self.reason = server, reason
