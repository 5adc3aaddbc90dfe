"""Claims: who may write, held by the kernel and freed by it when the holder dies.

Owns the lock files of a run directory. A claim is a flock, never a pid in a header: pids recur, locks do not outlive their process.
Forked children share their parent's claims (that is how workers keep the data directory's lock), so a writer claims after its fork. Lock
files are never removed: a removed file could be locked twice. May not decide who should be the writer; that is `topology`.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from pks.segments.errors import AlreadyClaimed


class Claim:
    """A held claim; `release` or the end of the last process that inherited it gives it back."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name, self.descriptor = name, descriptor

    def release(self) -> None:
        """Give the claim back; releasing twice is harmless."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def take_claim(run_directory: Path, name: str, *, inheritable: bool = False) -> Claim:
    """Become the only holder of claim `name` among all who use `run_directory` (made when missing).

    inheritable: an exec'd program keeps the claim too; forked children always do. Raises AlreadyClaimed with the holder's pid.
    """
    run_directory.mkdir(parents=True, exist_ok=True)
    path = run_directory / f"{name.strip('/').replace('/', '_')}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip() or "an unnamed process"
        os.close(descriptor)
        raise AlreadyClaimed(name, holder) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"pid {os.getpid()}\n".encode(), 0)
    os.set_inheritable(descriptor, inheritable)
    return Claim(name, descriptor)


def is_claimed(run_directory: Path, name: str) -> bool:
    """True while someone holds claim `name`."""
    try:
        take_claim(run_directory, name).release()
    except AlreadyClaimed:
        return True
    return False
