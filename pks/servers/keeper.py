"""The keeper: starts the servers once the core is ready, asks them how they are, starts again what ended, and ends them all last.

Owned and called by the supervisor, in its rounds and in its one thread: nothing here waits. It forks each server's child, hears from it
through a pipe and of its end from the supervisor's reaping. Times are the supervisor's running time, which stands still while it is paused.
The core never waits for a server: a server that cannot be started is said, shown and tried again.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from pks.base.config import Config
from pks.base.urls import without_secret
from pks.servers.child import WORDS_BYTES_MAX, give_birth
from pks.servers.endpoints import Mode, mode_of, server_of, url_of
from pks.servers.probe import Answer, Probe, Question
from pks.servers.server import NAMES, Server
from pks.servers.states import NO_PROCESS, SERVER_MOVES, ServerState

RESTARTS_NS = (0, 200_000_000, 500_000_000, 1_000_000_000, 2_000_000_000, 5_000_000_000, 10_000_000_000)
"""Pause before a restart, by failed lives in a row; the last one for all further. A server is never given up."""

MISSING_NS = 60_000_000_000
"""Pause before it is looked again whether a server is installed by now."""

GOOD_LIFE_NS = 5_000_000_000
"""A life that was ready for so long was no failure: the next start is at once."""

ASK_NS_MIN, ASK_NS_MAX = 20_000_000, 1_000_000_000
ASK_READY_NS = 5_000_000_000
"""Pauses between two questions, each of which costs Postgres a process; of one that is not ready, an eighth of how long that is so."""

SILENT_NS_MAX = 30_000_000_000
"""A server that answers nothing for so long is killed: it hangs, and a new one recovers."""

STARTING_NS_MAX = 600_000_000_000
"""The same for a start that does not even listen: recovery of a large store listens late."""

STOP_NS_MIN = 3_000_000_000
"""What servers get for their end even when the workers have used up the time for the stop."""

OUTPUT_BYTES_MAX = 16 << 20
OUTPUT_LOOK_NS = 60_000_000_000
"""Size at which a server's output file is emptied, and how often it is looked at."""


_MOVING = frozenset((ServerState.PREPARING, ServerState.STARTING, ServerState.SILENT, ServerState.STOPPING))


class Notebook(Protocol):
    """The part of the supervisor's log that is used here."""

    def info(self, event: str, **facts: object) -> None:
        """Something that is expected happened."""

    def warning(self, event: str, **facts: object) -> None:
        """Something that should be looked at."""

    def error(self, event: str, **facts: object) -> None:
        """Something failed."""


@dataclass(slots=True)
class _Kept:
    """A server as the keeper knows it."""

    name: str
    mode: Mode
    state: ServerState
    url: str | None = None  # as it may be shown
    server: Server | None = None  # embedded ones only
    pid: int = 0
    pipe: int = -1
    heard: bytes = b""
    version: str = ""
    last_error: str = ""
    restarts: int = 0
    failures: int = 0  # in a row
    due_ns: int = 0  # when to start it
    born_ns: int = 0
    ready_ns: int = 0
    answered_ns: int = 0
    probe: Probe | None = None
    ask_ns: int = 0  # when to ask it again
    question: Question | None = None
    has_lived: bool = False  # the server itself ran since it was last counted
    missing: bool = False
    told: bool = False  # to end
    killed: bool = False  # because it did not


class Keeper:
    """All servers of one run."""

    def __init__(self, config: Config, log: Notebook, names: Collection[str] = NAMES) -> None:
        """names: the edges whose servers are kept, in this order."""
        self._log = log
        self._kept = {name: _first(config, name) for name in names}
        self._cores: Collection[int] = ()
        self._started = self._stopping = False
        self._stop_deadline_ns = 0
        self._output_ns = 0
        self.changed = True  # what `facts` gives is not what it gave; set to False by who has written it down

    # What the supervisor calls.

    def start(self, cores: Collection[int]) -> None:
        """The core is ready: from now on `turn` starts what is due. cores: for servers alone; empty: any."""
        self._cores, self._started = cores, True
        for kept in self._kept.values():
            if kept.mode == "external":
                self._log.info("an edge is external", edge=kept.name, url=kept.url)

    def turn(self, now: int) -> None:
        """One round: start what is due, hear children, ask servers, end what hangs."""
        for kept in self._kept.values():
            if kept.pipe >= 0:
                self._hear(kept, now)
            if self._stopping:
                self._go_on_stopping(kept, now)
            elif self._started and kept.state in (ServerState.WAITING, ServerState.DOWN, ServerState.MISSING) and now >= kept.due_ns:
                self._give_birth(kept, now)
            if kept.pid and not kept.told and kept.pipe < 0:
                self._ask(kept, now)
        if now >= self._output_ns:
            self._output_ns = now + OUTPUT_LOOK_NS
            self._cut_outputs()

    def reaped(self, pid: int, code: int, now: int) -> bool:
        """Take the end of a child, if it was one of these. code: minus the signal's number for a signal."""
        kept = next((kept for kept in self._kept.values() if kept.pid == pid), None)
        if kept is None:
            return False
        for _ in range(2):  # its last words, and then the pipe's end, unless a child of its own still holds it
            if kept.pipe >= 0:
                self._hear(kept, now)
        self._ended(kept, code, now)
        return True

    def stop(self, now: int, deadline_ns: int) -> None:
        """Begin to end all servers: whoever used them has ended. deadline_ns: when those that are left are killed."""
        self._stopping = True
        self._stop_deadline_ns = max(deadline_ns, now + STOP_NS_MIN)

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    @property
    def is_over(self) -> bool:
        """No server runs, and none will be started."""
        return self._stopping and all(kept.state in NO_PROCESS for kept in self._kept.values())

    @property
    def is_calm(self) -> bool:
        """Whether no server is on its way up or down, and no question is out."""
        return not any(kept.pipe >= 0 or kept.probe is not None or kept.state in _MOVING for kept in self._kept.values())

    def kill(self) -> None:
        """SIGKILL for all, on the way out of an unexpected error."""
        self._stopping = True
        for kept in self._kept.values():
            self._let_go(kept)
            if kept.pid:
                _signal(kept.pid, signal.SIGKILL)
                kept.pid = 0

    def pids(self) -> set[int]:
        """Children that are servers, or about to be."""
        return {kept.pid for kept in self._kept.values() if kept.pid}

    def facts(self) -> dict[str, dict[str, Any]]:
        """For the run file: edge -> mode, state and what people ask; nothing secret."""
        return {
            kept.name: {
                "mode": kept.mode,
                "state": kept.state.name,
                "pid": kept.pid or None,
                "url": kept.url,
                "version": kept.version or None,
                "restarts": kept.restarts,
                "last_error": kept.last_error or None,
            }
            for kept in self._kept.values()
        }

    # A server's life.

    def _move(self, kept: _Kept, state: ServerState) -> None:
        assert state in SERVER_MOVES[kept.state], f"{kept.name}: {kept.state.name} -> {state.name}"
        kept.state, self.changed = state, True

    def _give_birth(self, kept: _Kept, now: int) -> None:
        assert kept.server is not None, "embedded servers are started"
        kept.restarts += kept.has_lived
        kept.heard, kept.has_lived, kept.question = b"", False, None
        kept.born_ns = kept.answered_ns = now
        kept.ready_ns = kept.ask_ns = 0
        self._move(kept, ServerState.PREPARING)
        try:
            kept.pid, kept.pipe = give_birth(kept.server, self._cores)
        except OSError as error:  # no process or descriptor left: the core lives on, and this is tried again
            self._failed(kept, f"{error.strerror} on the way to a new process")
            self._ended(kept, 1, now)

    def _hear(self, kept: _Kept, now: int) -> None:
        """Read what the child says; the pipe's end means that the server has taken over, or that the child is gone."""
        assert kept.server is not None
        try:
            chunk = os.read(kept.pipe, WORDS_BYTES_MAX)
        except BlockingIOError:
            return
        kept.heard += chunk
        if chunk:
            return
        self._let_go(kept)
        lines = kept.heard.splitlines()
        words = json.loads(lines[-1]) if lines else {}  # a second line tells that its program did not start after all
        for note in words.get("notes", ()):
            self._log.info(note)
        kept.missing = "missing" in words
        if "version" not in words:
            self._failed(kept, words.get("missing") or words.get("failed") or "it ended without a word")
            return
        try:
            kept.server.learn()
            kept.url, kept.question = without_secret(kept.server.url()), kept.server.question()
        except (OSError, KeyError) as error:  # somebody has taken its files away
            self._failed(kept, f"its files are gone: {error}")
            _signal(kept.pid, signal.SIGKILL)
            return
        kept.version, kept.has_lived, kept.answered_ns = words["version"], True, now
        if kept.state is ServerState.PREPARING:
            self._move(kept, ServerState.STARTING)

    def _failed(self, kept: _Kept, reason: str) -> None:
        """Keep and say why it cannot be started; the same reason again is not said again."""
        if reason != kept.last_error and kept.state is ServerState.PREPARING:
            say = self._log.warning if kept.missing else self._log.error
            say(f"no {kept.name}", reason=reason)
            kept.last_error = reason

    def _ended(self, kept: _Kept, code: int, now: int) -> None:
        assert kept.server is not None
        self._let_go(kept)
        kept.pid = 0
        ending = _ending(code)
        if kept.state is ServerState.STOPPING:
            if code not in kept.server.stop_codes and code != -kept.server.stop_signal:
                self._log.warning("a server did not end well", edge=kept.name, ending=ending)
            self._move(kept, ServerState.STOPPED)
            self._log.info("server ended", edge=kept.name)
            return
        lived_ns = now - kept.ready_ns if kept.ready_ns else 0
        kept.failures = 0 if lived_ns >= GOOD_LIFE_NS else kept.failures + 1
        if kept.missing:
            kept.missing = False
            kept.due_ns = now + MISSING_NS
            self._move(kept, ServerState.MISSING)
            return
        kept.due_ns = now + RESTARTS_NS[min(kept.failures, len(RESTARTS_NS) - 1)]
        if kept.has_lived:
            words = kept.server.last_words() if code >= 0 else ""
            kept.last_error = f"{ending}: {words}" if words else ending
            self._log.warning("a server ended", edge=kept.name, ending=kept.last_error, failures=kept.failures)
        self._move(kept, ServerState.DOWN)

    def _let_go(self, kept: _Kept) -> None:
        """Close what belongs to one life."""
        if kept.pipe >= 0:
            os.close(kept.pipe)
            kept.pipe = -1
        if kept.probe is not None:
            kept.probe.close()
            kept.probe = None

    # Questions.

    def _ask(self, kept: _Kept, now: int) -> None:
        if kept.question is None or (kept.probe is None and now < kept.ask_ns):
            return
        if kept.probe is None:
            kept.probe = Probe(kept.question, now)
        answer = kept.probe.step(now)
        if answer is None:
            return
        kept.probe = None
        if answer in (Answer.READY, Answer.ALIVE):
            kept.answered_ns = now
        if answer is Answer.READY:
            self._is_ready(kept, now)
        elif kept.state is ServerState.READY:
            self._log.warning("a server does not answer", edge=kept.name, answer=answer.value)
            self._move(kept, ServerState.SILENT)
        silent_ns = now - kept.answered_ns
        waited_ns = silent_ns if kept.state is ServerState.SILENT else now - kept.born_ns
        kept.ask_ns = now + (ASK_READY_NS if kept.state is ServerState.READY else min(max(waited_ns // 8, ASK_NS_MIN), ASK_NS_MAX))
        if silent_ns > (SILENT_NS_MAX if kept.state is ServerState.SILENT else STARTING_NS_MAX):
            self._log.error("a server hangs; it is killed", edge=kept.name, server_pid=kept.pid, silent_ms=silent_ns // 1_000_000)
            kept.answered_ns = now
            _signal(kept.pid, signal.SIGKILL)

    def _is_ready(self, kept: _Kept, now: int) -> None:
        if kept.state is ServerState.READY:
            return
        first = kept.state is ServerState.STARTING
        self._move(kept, ServerState.READY)
        if first:
            kept.ready_ns = now
            facts = {"edge": kept.name, "version": kept.version, "url": kept.url, "server_pid": kept.pid}
            self._log.info("server ready", **facts, milliseconds=(now - kept.born_ns) // 1_000_000)
        else:
            self._log.info("a server answers again", edge=kept.name)

    # The end.

    def _go_on_stopping(self, kept: _Kept, now: int) -> None:
        if kept.pid and not kept.told:
            assert kept.server is not None
            kept.told = True
            prepares = kept.state is ServerState.PREPARING
            self._move(kept, ServerState.STOPPING)
            _signal(kept.pid, signal.SIGKILL if prepares else kept.server.stop_signal)
        elif kept.state in (ServerState.WAITING, ServerState.DOWN, ServerState.MISSING):
            self._move(kept, ServerState.STOPPED)
        elif kept.pid and not kept.killed and now >= self._stop_deadline_ns:
            self._log.error("a server has not ended in time; it is killed", edge=kept.name)
            kept.killed = True
            _signal(kept.pid, signal.SIGKILL)

    def _cut_outputs(self) -> None:
        """Empty an output file that has grown too large; the server writes on at its end."""
        for kept in self._kept.values():
            if kept.server is None:
                continue
            try:
                size = kept.server.output.stat().st_size
                if size > OUTPUT_BYTES_MAX:
                    os.truncate(kept.server.output, 0)
            except OSError:
                continue  # it has not started yet, or somebody has taken the file away: there is nothing to cut
            if size > OUTPUT_BYTES_MAX:
                self._log.warning("the output of a server was emptied", edge=kept.name, bytes=size)


def _first(config: Config, name: str) -> _Kept:
    mode = mode_of(config, name)
    if mode == "none":
        return _Kept(name, mode, ServerState.OFF)
    if mode == "external":
        return _Kept(name, mode, ServerState.EXTERNAL, url=without_secret(url_of(config, name)))
    return _Kept(name, mode, ServerState.WAITING, server=server_of(config, name))


def _signal(pid: int, number: int) -> None:
    """To a child of ours that is not reaped, or was reaped just now."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended; reaping tells how


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
