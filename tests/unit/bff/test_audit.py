"""The audit's spool: each note in the store once, whatever breaks and whoever dies."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pks.bff import audit as audit_module
from pks.bff.audit import FILE, AuditFull, AuditLog, Note, read_spool

SECONDS = 20.0


class Kept:
    """A store that can be away, and that can fail behind its commit."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.is_away = False
        self.fails_behind = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Kept]:
        if self.is_away:
            raise OSError("away")
        yield self

    async def known(self, names: list[str]) -> set[str]:
        return {note.name for note in self.notes} & set(names)

    async def write(self, notes: list[Note]) -> None:
        self.notes += notes
        if self.fails_behind:
            self.fails_behind -= 1
            raise OSError("the connection broke behind the commit")


def log_in(folder: Path, life: str, failures: list[str]) -> AuditLog:
    return AuditLog(folder, life, lambda: 7, failures.append)


async def settle(log: AuditLog, kept: Kept) -> None:
    running = asyncio.create_task(log.run(kept.open))
    async with asyncio.timeout(SECONDS):
        while log.waiting_count:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_notes_come_in_their_order_and_leave_the_spool_empty(tmp_path: Path) -> None:
    kept, failures = Kept(), list[str]()
    log = log_in(tmp_path, "a", failures)
    for number in range(3):
        log.note("ann", "BOOK", f"T-{number}", code="OVERSELL" if number == 1 else "", sequence=number)
    await settle(log, kept)
    assert [(note.subject, note.outcome, note.detail["sequence"]) for note in kept.notes] == [
        ("T-0", "OK", 0), ("T-1", "REFUSED", 1), ("T-2", "OK", 2),
    ]  # fmt: skip
    assert (tmp_path / FILE).stat().st_size == 0
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert not failures


async def test_a_store_that_fails_behind_its_commit_has_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "PAUSE_SECONDS_MIN", 0.01)
    kept, failures = Kept(), list[str]()
    kept.fails_behind = 1
    log = log_in(tmp_path, "a", failures)
    for number in range(5):
        log.note("ann", "BOOK", f"T-{number}")
    await settle(log, kept)
    assert [note.subject for note in kept.notes] == [f"T-{number}" for number in range(5)]
    assert len(failures) == 1


async def test_the_next_life_brings_what_the_last_one_left(tmp_path: Path) -> None:
    kept, failures = Kept(), list[str]()
    first = log_in(tmp_path, "a", failures)
    first.note("ann", "BOOK", "T-0")
    first.note("ann", "BOOK", "T-1")
    kept.notes = read_spool(tmp_path / FILE)[:1]  # it got there, and the process died before it knew
    first.close()
    with (tmp_path / FILE).open("ab") as torn:
        torn.write(b'{"name": "a-3", "at_')
    second = log_in(tmp_path, "b", failures)
    second.note("bob", "BOOK", "T-2")
    await settle(second, kept)
    assert [note.subject for note in kept.notes] == ["T-0", "T-1", "T-2"]
    assert len({note.name for note in kept.notes}) == 3


async def test_a_full_disk_loses_no_note_and_fails_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    kept, failures = Kept(), list[str]()
    log = log_in(tmp_path, "a", failures)
    with monkeypatch.context() as patch:
        patch.setattr(audit_module.os, "write", full)
        log.note("ann", "BOOK", "T-0")
    assert failures == ["the spool cannot be written: No space left on device"]
    await settle(log, kept)
    assert [note.subject for note in kept.notes] == ["T-0"]


def test_commands_wait_when_too_much_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "NOTES_MAX", 2)
    log = log_in(tmp_path, "a", [])
    log.note("ann", "BOOK", "T-0")
    log.check_room()
    log.note("ann", "BOOK", "T-1")
    with pytest.raises(AuditFull, match="2 notes"):
        log.check_room()
