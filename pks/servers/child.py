"""The child that prepares a server and then becomes it: one process, so its pid is the server's.

Owns the fork, what the child inherits (nothing but its output file), and the words that it sends before it is no longer ours: one JSON
line through a pipe, which closes by itself when the server takes over; a second line, if that failed. Called by the keeper, in the
supervisor, which has one thread.
"""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Collection
from typing import NamedTuple, NoReturn

import setproctitle

from pks.servers.errors import ServerMissing
from pks.servers.process import NICE, die_with
from pks.servers.server import Server

WORDS_BYTES_MAX = 4096
"""What fits into a pipe at once, so that the child never waits for the supervisor."""

EXIT_NOT_PREPARED = 70


class Born(NamedTuple):
    """A child, and the end of the pipe that it speaks through."""

    pid: int
    pipe: int


def give_birth(server: Server, cores: Collection[int]) -> Born:
    """Fork the child. cores: those that it may use; empty: as we may."""
    parent = os.getpid()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    pid = os.fork()
    if pid == 0:
        try:
            _live(server, parent, writing, cores)
        finally:
            os._exit(EXIT_NOT_PREPARED)  # whatever happens, the child never runs its parent's way out
    os.close(writing)
    return Born(pid, reading)


def _live(server: Server, parent: int, pipe: int, cores: Collection[int]) -> NoReturn:
    try:
        _separate(server, parent, pipe, cores)
        prepared = server.prepare()
        command, environment = server.command(), server.environment()
        _open_output(server)
        os.chdir(server.folder)
        server.take_rights()
        die_with(parent, server.stop_signal)
        _say(pipe, {"version": prepared.version, "notes": prepared.notes})
        os.execve(command[0], command, environment)
    except ServerMissing as error:
        _say(pipe, {"missing": error.reason})
    except Exception as error:  # this process ends here; the keeper tells what it was, and tries again
        _say(pipe, {"failed": getattr(error, "reason", "") or _described(error)})
    os._exit(EXIT_NOT_PREPARED)


def _separate(server: Server, parent: int, pipe: int, cores: Collection[int]) -> None:
    """Nothing of the supervisor's: no signal handler, no descriptor, no terminal."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    die_with(parent)
    os.setsid()
    setproctitle.setproctitle(f"pks-server {server.name}")
    for descriptor in [int(name) for name in os.listdir("/proc/self/fd")]:
        if descriptor > 2 and descriptor != pipe:
            os.closerange(descriptor, descriptor + 1)  # one of them was the listing's own, and is closed already
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.nice(NICE)
    if cores:
        os.sched_setaffinity(0, cores)
    os.umask(0o077)


def _open_output(server: Server) -> None:
    """From here on what it says goes to its own file."""
    output = os.open(server.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(output, output + 1)


def _described(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}" + (f": {error.filename}" if error.filename else "")
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(last.filename)}, line {last.lineno})"


def _say(pipe: int, words: dict[str, object]) -> None:
    text = json.dumps(words)
    if len(text) >= WORDS_BYTES_MAX:
        text = json.dumps({key: str(value)[:1000] for key, value in words.items()})
    os.write(pipe, text.encode() + b"\n")
