"""A process's log: JSON lines in a file of its own, bounded, and never a reason to stop.

Owns the file's form and size. Workers and the supervisor write it, each its own file; hot paths do not write at all. A full disk loses
lines, which are counted and told in the next line that fits; nothing else depends on a log.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from pks.base.clock import format_time

LOG_BYTES_MAX = 16 << 20
"""Size at which a log is renamed to .1, in place of the one before: 32 MB a process."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Log:
    """One process's log. `echo` (optional) is also given each line's text, for a person who watches."""

    def __init__(self, path: Path, name: str, wall_ns: Callable[[], int], echo: Callable[[str], None] | None = None) -> None:
        self.path, self.name, self._wall_ns, self._echo = path, name, wall_ns, echo
        self.lost_count = 0
        self._open()

    def _open(self) -> None:
        self.descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._bytes = os.fstat(self.descriptor).st_size

    def info(self, event: str, **facts: object) -> None:
        """Something that is expected happened."""
        self._write("info", event, facts)

    def warning(self, event: str, **facts: object) -> None:
        """Something that should be looked at."""
        self._write("warning", event, facts)

    def error(self, event: str, **facts: object) -> None:
        """Something failed."""
        self._write("error", event, facts)

    def crash(self, error: BaseException) -> None:
        """An error that ends this process, with its traceback."""
        self._write("error", f"{type(error).__name__}: {error}", {"traceback": "".join(traceback.format_exception(error))})

    def _write(self, level: str, event: str, facts: dict[str, object]) -> None:
        if self._echo is not None:
            shown = "".join(f" {name}={value}" for name, value in facts.items() if name != "traceback")
            self._echo(f"{level}: {event}{shown}" if level != "info" else f"{event}{shown}")
        if self._bytes >= LOG_BYTES_MAX:
            self._turn()
        head = {"time": format_time(self._wall_ns()), "level": level, "process": self.name, "pid": os.getpid(), "event": event}
        if self.lost_count:
            head["lost_lines"] = self.lost_count
        line = msgspec.json.encode(head | facts, enc_hook=str) + b"\n"
        try:
            self._bytes += os.write(self.descriptor, line)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self.lost_count += 1
            return
        self.lost_count = 0

    def _turn(self) -> None:
        """Keep this file as .1 and go on in a new one."""
        os.close(self.descriptor)
        os.replace(self.path, self.path.with_name(self.path.name + ".1"))
        self._open()

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
