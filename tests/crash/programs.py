"""The programs that the crash tests run: the supervisor with what a test changes in it, and the watcher of slots.

`python -m tests.crash.programs run DATA_DIR INSTANCE [key=value ...]`: the keys of the configuration, and silent=SECONDS (for every worker)
clock=FILE (a file with nanoseconds by which every worker's wall clock is off), park=SECONDS (for a correction that waits for its trade) and
without=WORKER,... (leaves these workers out), late=FILE (gets the names of kernels that a worker had to compile or load itself).
`python -m tests.crash.programs watch INSTANCE FILE`: until SIGTERM.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from numba.core.dispatcher import Dispatcher
from setproctitle import getproctitle

from pks.base.clock import SystemClock
from pks.base.config import load_config
from pks.base.errors import PksError
from pks.segments.errors import SegmentMissing, SegmentNotReady, StaleHost, UnstableSlot
from pks.servers.endpoints import mode_of
from pks.servers.server import NAMES
from pks.supervisor import Supervisor
from pks.topology import Host, workers_of
from pks.workers import capture, runtime

NOT_THERE = (StaleHost, SegmentMissing, SegmentNotReady)
"""What a reader meets while the system is dead or starts."""


def watch(instance: str, file: Path) -> None:
    """Until SIGTERM: sample last_sequence and version of every slot; write what was seen to `file`."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    seen: dict[str, Any] = {"samples": 0, "lives": 0, "went_back": [], "changes": 0}
    file.write_text(json.dumps(seen))  # it has begun
    while not ended:
        try:
            table = Host.open(instance).positions
        except NOT_THERE:
            time.sleep(0.01)
            continue
        last: dict[int, tuple[int, int]] = {}
        before_samples = seen["samples"]
        while not ended:
            try:
                rows = table.rows()
                records = table.snapshot(rows)
            except StaleHost:
                time.sleep(0.01)
                break
            except UnstableSlot as error:
                seen["went_back"].append(f"unstable: {error}")
                break
            for row, sequence, version in zip(rows.tolist(), records["last_sequence"].tolist(), records["version"].tolist(), strict=True):
                before = last.get(row, (0, 0))
                if sequence < before[0] or version < before[1]:
                    seen["went_back"].append(f"slot {row}: event {before[0]} -> {sequence}, version {before[1]} -> {version}")
                seen["changes"] += sequence != before[0]
                last[row] = sequence, version
            seen["samples"] += 1
            time.sleep(0.002)
        seen["lives"] += seen["samples"] > before_samples
    file.write_text(json.dumps(seen))


class WrongClock(SystemClock):
    """A wall clock that is off by the nanoseconds in a file, which a test may change at any time."""

    file = Path()

    def wall_ns(self) -> int:
        try:
            return super().wall_ns() + int(self.file.read_text())
        except (FileNotFoundError, ValueError):  # not set, or being written
            return super().wall_ns()


def note_late_kernels(file: Path) -> None:
    """Write down every kernel that a worker compiles or loads itself: its zygote should have called it."""
    compile_as_ever = Dispatcher.compile

    def compile_and_note(self: Any, signature: Any) -> Any:
        made = compile_as_ever(self, signature)
        title = getproctitle()
        if not title.startswith(("pks zygote", "pks supervisor")):
            with file.open("a") as out:
                out.write(f"{title.split()[1]}: {self.py_func.__module__}.{self.py_func.__name__} {signature}\n")
        return made

    Dispatcher.compile = compile_and_note


def run(data_dir: str, instance: str, options: dict[str, str]) -> int:
    """The supervisor, in this process. What is changed here is inherited by every worker."""
    silent, clock, park, late, without = (options.pop(name, "") for name in ("silent", "clock", "park", "late", "without"))
    tables = {key: json.loads(value) for key, value in options.items() if value.startswith("{")}
    config = load_config(None, {}, {"data_dir": data_dir, "instance": instance, **options, **tables}).config
    note_late_kernels(Path(late))
    if clock:
        WrongClock.file = Path(clock)
        runtime.SystemClock = WrongClock  # type: ignore[misc]
    if park:
        capture.PARK_SECONDS = int(park)
    edges = [name for name in NAMES if mode_of(config, name) != "none"]
    plans = tuple(plan for plan in workers_of(config.shards, bool(config.desk), edges) if plan.name not in without.split(","))
    if silent:
        plans = tuple(dataclasses.replace(plan, silent_seconds=float(silent)) for plan in plans)
    try:
        return Supervisor(config, plans=plans, echo=lambda line: print(line, flush=True)).run()
    except PksError as error:
        print(f"pks: {error}", file=sys.stderr, flush=True)
        return 1


def main(words: list[str]) -> int:
    if words[0] == "watch":
        watch(words[1], Path(words[2]))
        return 0
    return run(words[1], words[2], dict(word.split("=", 1) for word in words[3:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
