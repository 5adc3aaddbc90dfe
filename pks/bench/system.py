"""A whole running system for a bench: an instance and a data directory of its own, started by `pks run`, stopped and removed afterwards.

Owns the process. Books through `Producer` as any program of a user does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pks.base.errors import Code, Fatal
from pks.client.producer import NO_ROOM, DoorClosed, NoAnswer, NoFreeIntake, Producer
from pks.engine.instruments.definitions import AnyDefinition
from pks.engine.instruments.events import definition_event
from pks.layouts.event import EVENT
from pks.segments.errors import SegmentMissing, SegmentNotReady, StaleHost
from pks.segments.shm import SHM_DIRECTORY, list_segments, retire
from pks.segments.wait import remove_semaphores

START_SECONDS = 600.0
"""The first start of a version compiles every kernel, on a busy machine for minutes."""

STOP_SECONDS = 60.0
LOOK_SECONDS = 0.002
ANSWER_SECONDS = 120.0
SEMAPHORES = 64
NOT_READY = (SegmentMissing, SegmentNotReady, StaleHost, DoorClosed, NoFreeIntake)


class SystemFailed(Fatal):
    """The system of a bench did not start or ended by itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the system to be measured {reason}")


class System:
    """`pks run` in a process of its own, and a producer on it."""

    def __init__(self, folder: Path, wait: str = "auto", edges: str = "none", **settings: str) -> None:
        self.data_dir, self.instance = folder, f"bench{os.getpid()}"
        self.log = folder.with_suffix(".log")
        self.options = ("--data-dir", str(folder), "--instance", self.instance)
        self.command = [sys.executable, "-c", "from pks.cli import main; main()", "run", "--edges", edges, "--wait", wait, *self.options]
        self.environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **settings}
        self.process: subprocess.Popen[bytes] | None = None
        self.producer: Producer | None = None

    def start(self) -> float:
        """Until a producer may book; seconds that it took. Raises SystemFailed."""
        start = time.perf_counter()
        with self.log.open("ab") as said:
            self.process = subprocess.Popen(self.command, env=self.environ, stdout=said, stderr=said)
        while True:
            if self.process.poll() is not None:
                raise SystemFailed(f"ended at its start: {self.log.read_text(errors='replace')[-1000:]}")
            try:
                producer = Producer.open(self.instance, self.data_dir)
                if producer.intake.is_open:
                    self.producer = producer
                    return time.perf_counter() - start
                producer.close()
            except NOT_READY:
                pass  # it starts
            time.sleep(LOOK_SECONDS)
            if time.perf_counter() - start > START_SECONDS:
                raise SystemFailed("was not ready in time")

    @property
    def running(self) -> Producer:
        """The producer on the system, which was started."""
        assert self.producer is not None, "started"
        return self.producer

    def pids(self) -> dict[str, int]:
        """Its processes by name: supervisor, zygote and workers, as their command lines say."""
        assert self.process is not None, "started"
        found = {"supervisor": self.process.pid}
        ending = f" [{self.instance}]"
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    said = (entry / "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it has ended meanwhile
                if said.startswith("pks ") and said.endswith(ending):
                    found[said.removeprefix("pks ").removesuffix(ending)] = int(entry.name)
        return found

    def segments_mb(self) -> float:
        """What its segments take of /dev/shm, whether a process has mapped it or not."""
        return sum((SHM_DIRECTORY / facts.name[1:]).stat().st_blocks * 512 for facts in list_segments(self.instance)) / 2**20

    def kill(self) -> None:
        """kill -9 of the supervisor, with which every worker dies; returns when all are gone. Raises SystemFailed."""
        assert self.process is not None, "started"
        pids = self.pids()
        if self.producer is not None:
            self.producer.close()
            self.producer = None
        self.process.kill()
        self.process.wait()
        self.process = None
        deadline = time.monotonic() + STOP_SECONDS
        while alive := [name for name, pid in pids.items() if Path(f"/proc/{pid}").exists()]:
            if time.monotonic() > deadline:
                raise SystemFailed(f"was killed, and {', '.join(alive)} did not end")
            time.sleep(0.001)

    def define(self, definitions: Iterable[AnyDefinition]) -> None:
        """Book reference data."""
        for reply in self.running.book([definition_event(definition) for definition in definitions], ANSWER_SECONDS):
            assert int(reply["code"]) == Code.ACCEPTED, Code(int(reply["code"])).name

    def answered(self, count: int, seconds: float = ANSWER_SECONDS) -> Any:
        """REPLY[n >= count]: wait, giving the core away between looks, until so many answers are there. Raises NoAnswer."""
        producer = self.running
        parts, have = [], 0
        deadline = time.monotonic() + seconds
        while have < count:
            replies = producer.answers()
            if len(replies):
                parts.append(replies)
                have += len(replies)
                continue
            if time.monotonic() > deadline:
                raise NoAnswer(count - have, seconds)
            os.sched_yield()
        return np.concatenate(parts)

    def send_all(self, records: Any, group: int) -> None:
        """Send EVENT[n], plain trades, in calls of `group` records, taking answers meanwhile; returns when all are accepted."""
        assert records.dtype == EVENT, "trades"
        producer = self.running
        at, back = 0, 0
        while back < len(records):
            part = records[at : at + group]
            sent = len(part) and producer.send(part) != NO_ROOM
            at += len(part) if sent else 0
            replies = producer.answers()
            if len(replies):
                assert (replies["code"] == Code.ACCEPTED).all(), "every trade is accepted"
                back += len(replies)
            elif not sent:
                os.sched_yield()

    def stop(self) -> None:
        """Stop in order; the data directory stays, so that it can be started again."""
        if self.producer is not None:
            self.producer.close()
            self.producer = None
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def close(self) -> None:
        """Stop, and remove what lies in shared memory."""
        self.stop()
        for facts in list_segments(self.instance):
            retire(facts.name)
        remove_semaphores(SEMAPHORES, self.instance)
        Path(f"/dev/shm/pks-lock.{self.instance}").unlink(missing_ok=True)

    def __enter__(self) -> System:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
