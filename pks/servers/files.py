"""Small files of a server's folder: private, written whole, and the ports that it had.

Owns how they are written (mode 0600, replaced at once, flushed) and the choice of ports, whose rule is a pure function. May not start
anything.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

LOOPBACK = "127.0.0.1"

OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
FREE_FIRST = 20_000
FREE_TRIES = 100
"""Ports from here up to those of outgoing connections are tried, by chance, so often; after that the kernel chooses."""

SECRET_BYTES = 24

SOCKET_PATH_BYTES_MAX = 107
"""What the kernel allows for the path of a Unix socket."""


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace `path` whole by `text`; nobody but its owner reads it."""
    part = path.with_name(path.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        data = text.encode()
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(part, path)


def read_or_make(path: Path, make: Callable[[], str]) -> tuple[str, bool]:
    """The text that is kept in `path`, made and kept if there is none; and whether it was made now."""
    if path.exists() and (kept := path.read_text().strip()):
        return kept, False
    made = make()
    write_private(path, made + "\n")
    return made, True


def new_secret() -> str:
    """A password without characters that a URL or a configuration file would quote."""
    return secrets.token_urlsafe(SECRET_BYTES)


def choose_ports(
    named: Mapping[str, int], kept: Mapping[str, int], is_free: Callable[[int], bool], any_free: Callable[[], int]
) -> dict[str, int]:
    """A port for each name of `named`: the one it had (`kept`) if that is free, else the one it is known by, else any; no two the same."""
    chosen: dict[str, int] = {}
    for name, usual in named.items():
        wanted = (port for port in (kept.get(name), usual) if port)
        chosen[name] = next((port for port in wanted if port not in chosen.values() and is_free(port)), 0)
        while not chosen[name]:
            port = any_free()
            if port not in chosen.values():
                chosen[name] = port
    return chosen


def kept_ports(path: Path) -> dict[str, int]:
    """The ports written in `path`, {} when there are none or the file is not ours to understand."""
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # the child that prepares the server will say what is wrong with the folder
    return {name: port for name, port in kept.items() if isinstance(port, int)} if isinstance(kept, dict) else {}


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False  # taken, or not ours to take: in both cases another one is chosen
    return True


def any_free() -> int:
    """A port that is free now, if possible one that no outgoing connection is given, so that it can be kept over a restart."""
    first_outgoing = int(OUTGOING.read_text().split()[0])
    for _ in range(FREE_TRIES):
        port = FREE_FIRST + secrets.randbelow(max(first_outgoing - FREE_FIRST, 1))
        if is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def socket_fits(path: Path) -> bool:
    """Whether the kernel takes `path` as the name of a Unix socket."""
    return len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX
