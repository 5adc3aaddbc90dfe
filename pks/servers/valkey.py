"""Valkey, which speaks Redis' protocol: marks, curves, sessions and the blocklist of tokens, for a time to live each.

Owns `<data>/servers/redis`: `valkey.conf` with the password, and the append-only file. A power cut may lose its last second; nothing is
kept here that is not known elsewhere too. Under memory pressure it drops what would expire first, never a key without a time to live.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pks.servers import files
from pks.servers.binaries import ask_version, valkey_binary
from pks.servers.probe import Answer, Question
from pks.servers.server import Server

MEMORY = "256mb"


def valkey_conf(folder: Path, ports: Mapping[str, int], secret: str) -> str:
    """The configuration file."""
    socket = folder / "redis.sock"
    unix = f'unixsocket "{socket}"\nunixsocketperm 700\n' if files.socket_fits(socket) else ""
    return f"""# written at each start
bind {files.LOOPBACK}
port {ports["client"]}
{unix}protected-mode yes
requirepass {secret}
dir "{folder}"
appendonly yes
appendfsync everysec
save ""
maxmemory {MEMORY}
maxmemory-policy volatile-ttl
daemonize no
loglevel notice
"""


def judge(answer: bytes) -> Answer | None:
    """Two lines come back, for AUTH and PING."""
    if answer.startswith(b"-LOADING"):
        return Answer.ALIVE
    if answer.endswith(b"+PONG\r\n"):
        return Answer.READY
    return Answer.ALIVE if answer.startswith(b"-") and answer.count(b"\r\n") >= 2 else None


class Valkey(Server):
    """valkey-server of the wheel, or of `edges.valkey_bin`."""

    name = "redis"
    programs = ("valkey-server", "redis-server")
    named_ports: ClassVar[Mapping[str, int]] = {"client": 6379}
    stop_signal = signal.SIGTERM
    oldest = (7,)

    def version(self) -> str:
        return ask_version(self.name, valkey_binary(self.edges.valkey_bin), "--version", r"(?:Valkey|Redis) server v=(\d\S*)")

    def configure(self, version: str) -> list[str]:
        secret, _ = files.read_or_make(self.secret_file, files.new_secret)
        files.write_private(self.folder / "valkey.conf", valkey_conf(self.folder, self.ports, secret))
        return []

    def command(self) -> list[str]:
        return [str(valkey_binary(self.edges.valkey_bin)), str(self.folder / "valkey.conf")]

    def url(self) -> str:
        return f"redis://:{self.secret()}@{files.LOOPBACK}:{self.ports['client']}/0"

    def question(self) -> Question:
        return Question(self.ports["client"], f"AUTH {self.secret()}\r\nPING\r\n".encode(), judge)
