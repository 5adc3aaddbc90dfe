"""Small workers for the supervisor's tests: real processes that do one thing each; and the program that runs them.

As a program: `python -m tests.crash.tiny_workers DATA_DIR INSTANCE [key=value ...]`, keys: silent, stop_timeout, broken, edges, edges.*.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from pks.base.config import load_config
from pks.base.errors import Fatal, PksError
from pks.layouts.event import EVENT
from pks.segments.ring import RingReader, RingWriter
from pks.topology import WorkerPlan
from pks.workers.runtime import IDLE_NS, Context

WARM: list[int] = []


def warm() -> None:
    WARM.append(os.getpid())
    if os.environ.get("TINY_BROKEN_WARM"):
        raise ValueError("a kernel does not compile")


class Tiny:
    """Ready at once; appends what happens to it to a file in the data directory."""

    def __init__(self, context: Context) -> None:
        self.context = context
        assert len(WARM) == 1, "warmed once, in the zygote"
        assert WARM[0] not in (os.getpid(), os.getppid()), "not in this process, nor in the supervisor, who adopted it"
        self.say("made")
        context.ready()

    def say(self, what: str) -> None:
        with (self.context.paths.data_dir / "said").open("a") as file:
            file.write(f"{self.context.name} {what} {os.getpid()}\n")

    def step(self) -> int:
        return 0

    def idle(self) -> None:
        self.context.nap()

    def housekeeping(self) -> None:
        command = self.context.paths.data_dir / f"tell-{self.context.name}"
        if not command.exists():
            return
        word = command.read_text()
        command.unlink()
        if word == "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
        elif word == "raise":
            raise ValueError("told to fail")

    def drain(self) -> bool:
        self.say("drained")
        return True

    def close(self) -> None:
        self.say("closed")


class Source(Tiny):
    """Writes events, one a step, up to 200."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.writer = RingWriter(context.host.events)
        self.record = np.zeros(1, EVENT)

    def step(self) -> int:
        head = self.writer.ring.head
        if head >= 200:
            return 0
        self.record["sequence"] = head + 1
        self.context.point("before publish")
        count = self.writer.publish(self.record)
        self.context.point("after publish")
        self.context.cursor = self.writer.ring.head
        return count


class Sink(Tiny):
    """Reads events and finishes them."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.reader = RingReader(context.host.events, context.name)
        self.waiter = context.waiter([self.reader])

    def step(self) -> int:
        events = self.reader.read(16)
        if len(events):
            self.reader.finish()
            self.context.cursor = self.reader.cursor
        return len(events)

    def idle(self) -> None:
        self.waiter.wait(IDLE_NS)


def make(context: Context) -> Tiny:
    return Tiny(context)


def make_source(context: Context) -> Source:
    return Source(context)


def make_sink(context: Context) -> Sink:
    return Sink(context)


class NoHope(Fatal):
    """A worker that a restart does not mend."""


def make_hopeless(context: Context) -> Tiny:
    raise NoHope("the journal is gone")


def plans(silent: float, broken: bool) -> tuple[WorkerPlan, ...]:
    here = "tests.crash.tiny_workers"
    return (
        WorkerPlan("capture", f"{here}:make_source", hot=True, stop_phase=0, silent_seconds=silent),
        WorkerPlan("journal", f"{here}:{'make_hopeless' if broken else 'make_sink'}", hot=True, stop_phase=1, silent_seconds=silent),
        WorkerPlan("accumulator-0", f"{here}:make_sink", hot=True, stop_phase=2, silent_seconds=silent),
        WorkerPlan("shadow", f"{here}:make", hot=False, stop_phase=3, silent_seconds=silent),
    )


def run(data_dir: str, instance: str, options: dict[str, str]) -> int:
    from pks.supervisor import Supervisor

    flags = {"data_dir": data_dir, "instance": instance, "shm.sizes": "small", "stop_timeout": int(options.get("stop_timeout", 10))}
    flags |= {"edges": options.get("edges", "none"), **{name: value for name, value in options.items() if name.startswith("edges.")}}
    config = load_config(None, {}, flags).config
    chosen = plans(float(options.get("silent", 5)), "broken" in options)
    try:
        return Supervisor(config, plans=chosen, echo=lambda line: print(line, file=sys.stderr, flush=True)).run()
    except PksError as error:
        print(f"pks: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    sys.exit(run(sys.argv[1], sys.argv[2], dict(option.split("=", 1) for option in sys.argv[3:])))
