"""What users had done, on its way into `auth.audit`: noted on this host at once, in Postgres when that takes it.

Owns the spool, a file of JSON lines in the run directory that outlives the process: a note that Postgres did not get goes there from the
next life. A note has a name of its own, by which one that did arrive is not written twice. Losing Postgres stops no booking until
NOTES_MAX notes wait.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pks.base.clock import format_time
from pks.base.errors import Retryable
from pks.edges.postgres.users import Audit, audit

FILE = "audit.spool"
NOTES_MAX = 100_000
BATCH = 500
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.2, 10.0


class Note(msgspec.Struct, frozen=True):
    """One row to be. outcome: OK or REFUSED, with its code."""

    name: str
    at_ns: int
    actor: str
    action: str
    subject: str
    outcome: str
    code: str
    address: str
    session: str
    detail: dict[str, Any]


class AuditFull(Retryable):
    """Too much that was done is not in the audit yet."""

    def __init__(self, notes: int) -> None:
        super().__init__(f"{notes} notes of the audit wait for Postgres; commands go on when it has taken them")


class Store(Protocol):
    """Where notes are kept for good."""

    async def known(self, names: list[str]) -> set[str]:
        """Which of these notes it has."""

    async def write(self, notes: list[Note]) -> None:
        """Take these, all or none."""


Open = Callable[[], AbstractAsyncContextManager[Store]]
"""A connection to the store; entering raises whatever its library raises."""


class AuditLog:
    """`note` takes; `run`, beside it, brings what was noted to the store."""

    def __init__(self, run: Path, life: str, now_ns: Callable[[], int], failed: Callable[[str], None]) -> None:
        """life: names this process among all that ever wrote here. failed: told, once, why the store does not take notes."""
        self._path, self._life, self._now_ns, self._failed = run / FILE, life, now_ns, failed
        self._count = 0
        self._waiting: deque[Note] = deque(read_spool(self._path))
        self._doubtful = {note.name for note in self._waiting}  # of an earlier life: the store may have them
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._wakes = asyncio.Event()

    @property
    def waiting_count(self) -> int:
        """Notes that the store does not have."""
        return len(self._waiting)

    def check_room(self) -> None:
        """Called before a command is carried out. Raises AuditFull."""
        if len(self._waiting) >= NOTES_MAX:
            raise AuditFull(len(self._waiting))

    def note(self, actor: str, action: str, subject: str, *, code: str = "", address: str = "", session: str = "", **detail: Any) -> None:
        """Keep that it was done, or, with a code, that it was refused."""
        self._count += 1
        outcome = "REFUSED" if code else "OK"
        made = Note(f"{self._life}-{self._count}", self._now_ns(), actor, action, subject, outcome, code, address, session, detail)
        try:
            os.write(self._file, msgspec.json.encode(made) + b"\n")
        except OSError as error:  # what was done is done, and is answered so: the note waits in memory alone
            self._failed(f"the spool cannot be written: {error.strerror or error}")
        self._waiting.append(made)
        self._wakes.set()

    async def run(self, open_store: Open) -> None:
        """Until it is cancelled."""
        pause, said = PAUSE_SECONDS_MIN, False
        while True:
            await self._wakes.wait() if not self._waiting else None
            self._wakes.clear()
            try:
                async with open_store() as store:
                    async for _ in self._bring(store):
                        pause, said = PAUSE_SECONDS_MIN, False
            except Exception as error:  # a server may fail in any way that its library knows
                self._doubtful |= {
                    self._waiting[at].name for at in range(min(BATCH, len(self._waiting)))
                }  # it may have failed behind the commit
                if not said:
                    self._failed(f"{type(error).__name__}: {error}")
                    said = True
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSE_SECONDS_MAX)

    async def _bring(self, store: Store) -> AsyncIterator[int]:
        """One batch after another, as they come."""
        while True:
            while self._waiting:
                batch = [self._waiting[at] for at in range(min(BATCH, len(self._waiting)))]
                doubtful = [note.name for note in batch if note.name in self._doubtful]
                known = await store.known(doubtful) if doubtful else set()
                await store.write([note for note in batch if note.name not in known])
                for note in batch:
                    self._waiting.popleft()
                    self._doubtful.discard(note.name)
                if not self._waiting:
                    os.ftruncate(self._file, 0)
                yield len(batch)
            self._wakes.clear()
            await self._wakes.wait()

    def close(self) -> None:
        """Let go of the file; what waits stays in it."""
        os.close(self._file)


class AuditRows:
    """The store that `auth.audit` is, over one connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def known(self, names: list[str]) -> set[str]:
        """Which notes stand there: looked for among those of the last days, since a spool is brought as soon as Postgres is there."""
        rows = await self._connection.fetch(
            "select detail->>'note' as name from auth.audit where at > now() - interval '7 days' and detail->>'note' = any($1)", names
        )
        return {row["name"] for row in rows}

    async def write(self, notes: list[Note]) -> None:
        """One transaction."""
        rows = [
            Audit(one.actor, one.action, one.subject, one.outcome, one.code, one.address, one.session, {
                **one.detail, "note": one.name, "noted_at": format_time(one.at_ns),
            })
            for one in notes
        ]  # fmt: skip
        async with self._connection.transaction():
            await audit(self._connection, *rows)


def read_spool(path: Path) -> list[Note]:
    """Whole lines of the spool; one that a crash cut short was never answered for."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=Note))
        except msgspec.DecodeError:
            continue
    return found
