"""The life of a worker process: adoption, pinning, the loop, heartbeats, stopping, and what is left behind when it fails.

Owns the duty cycle (step, heartbeat, housekeeping, idle), the signals and the worker's own row of the control segment. Called by the zygote
in a freshly forked process; a worker's module meets it as `Context`, given to its `make(context)`. May not know what a worker does, open
segments, or start processes.

A worker's module has `make(context: Context) -> Worker`, called in the worker's process, and `warm() -> None`, called once in the
zygote: it calls every kernel that the worker uses, with the argument types it uses, so that a fork finds them compiled. `warm` may not
start threads, keep open files, or touch the host.
"""

from __future__ import annotations

import ctypes
import enum
import faulthandler
import gc
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn, Protocol, cast

import numpy as np
import posix_ipc
import setproctitle
from numpy.typing import NDArray

from pks.base.clock import Clock, SystemClock
from pks.base.config import Config, Sizes
from pks.base.errors import Fatal
from pks.base.host import Wait
from pks.base.limits import REST_NS_MAX
from pks.layouts.segment import WorkerState
from pks.segments.atomics import read_word
from pks.segments.claims import Claim, take_claim
from pks.segments.counters import OwnerCells, Report
from pks.segments.slots import TRIES_MAX, slot_read
from pks.segments.wait import Waiter, Watched, semaphore_name
from pks.topology import NOTICE_ENDING, SYSTEM_STATE_CELL, Host, Paths, SystemState, WorkerPlan, written_by
from pks.workers.log import Log
from pks.workers.points import VARIABLE, KillPoints, own_points

Words = NDArray[np.int64]

BEAT_NS = 50_000_000
"""How often a worker's row is renewed; `Context.beat` may be called as often as one likes."""

HOUSEKEEPING_NS = 100_000_000
"""How often a worker's housekeeping is called."""

IDLE_NS = 20_000_000
"""The first sleep of an idle worker; each further one without work between is twice as long, up to what `Context.rest_ns` is asked for."""

IDLE_DOUBLINGS_MAX = 8

ALONE_NS = 100_000_000
"""How long a worker that got SIGTERM looks whether the whole system stops, before it ends alone."""

COLLECT_NS = 60_000_000_000
"""How often a hot worker looks for garbage in cycles, in its housekeeping: its loop makes none, an error's traceback may."""

EXIT_CRASHED = 1
EXIT_FATAL = 2
"""Exit codes of a worker that failed: by a mistake of ours, or by something that a restart does not mend."""

OWN_PAGES_BYTES = 4 << 20
"""Arrays from this size on are mapped by themselves and go back to the system when they are replaced by longer ones; left to itself the
allocator learns to keep such places, as much as all the shorter lives of a table together."""

KEPT_FREE_BYTES = 16 << 20
"""What the allocator may keep free at the end of its heap, so that a step's arrays do not come and go with system calls."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_PR_SET_PDEATHSIG = 1


class Worker(Protocol):
    """What runs in a worker's process. The runtime calls these from one thread, in turn."""

    def step(self) -> int:
        """Do one bounded batch, leave everything committed, return within 10 ms; how much was done, 0 when there was nothing."""

    def idle(self) -> None:
        """Wait for work after a step that found none: `context.waiter(...).wait(context.rest_ns())` or `context.nap()`."""

    def housekeeping(self) -> None:
        """Called every 100 ms: files, metrics, progress (`context.cursor`, `context.lag`)."""

    def drain(self) -> bool:
        """Called between steps once the system stops: True when nothing is left to do, and then no step follows."""

    def close(self) -> None:
        """Let go of files. Called at the end of an orderly life only."""


class WorkerModule(Protocol):
    """What a worker's module has."""

    def make(self, context: Context) -> Worker:
        """The worker, in its own process. A long recovery in here calls `context.beat()`."""

    def warm(self) -> None:
        """Compile or load every kernel."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What the supervisor knows and every worker inherits."""

    config: Config
    sizes: Sizes
    host: Host
    paths: Paths
    plans: tuple[WorkerPlan, ...]
    waits: dict[str, Wait]  # worker -> strategy, AUTO resolved
    cores: dict[str, int]  # worker -> core, for those that are pinned
    supervisor_pid: int
    epoch: int  # number of this start


class Bell:
    """Wakes another worker that may sleep on something that is no ring's head, such as a cursor."""

    def __init__(self, number: int, instance: str) -> None:
        self._semaphore = posix_ipc.Semaphore(semaphore_name(number, instance))

    def ring(self) -> None:
        """Post the worker's semaphore unless it is posted already."""
        if self._semaphore.value == 0:
            self._semaphore.release()


def rest_after(idle_count: int, most_ns: int) -> int:
    """How long a worker may sleep after so many cycles in a row that found nothing to do."""
    return min(IDLE_NS << min(idle_count, IDLE_DOUBLINGS_MAX), most_ns)


def _pass(name: str) -> None:
    """A kill point in a worker that has none armed."""


class Context:
    """A worker's surroundings.

    Attributes: name, number (owner of cells, semaphore), plan, shard, config, sizes, host, paths, clock, log, epoch, wait (the strategy),
    core (or None), cells (its metrics), points (its kill points) and `point(name)`, stop (int64[1]: not 0 when the loop is to end, for
    compiled loops to look at).
    cursor, lag: set by the worker, shown by the next heartbeat.
    """

    def __init__(self, launch: Launch, number: int, log: Log, clock: Clock, points: KillPoints) -> None:
        self.plan = launch.plans[number]
        self.name, self.number, self.shard = self.plan.name, number, self.plan.shard
        self.config, self.sizes, self.host, self.paths = launch.config, launch.sizes, launch.host, launch.paths
        self.epoch, self.clock, self.log = launch.epoch, clock, log
        self.wait, self.core = launch.waits[self.name], launch.cores.get(self.name)
        self.cells: OwnerCells = self.host.control.owner(number)
        self.stop: Words = np.zeros(1, np.int64)
        self.points = points
        self.point: Callable[[str], None] = points.here if len(points.words) > 1 else _pass
        self.cursor, self.lag, self.work_count = -1, 0, 0
        self.idle_count = 0  # cycles in a row that found nothing to do
        self.claims: list[Claim] = []
        self._numbers = {plan.name: place for place, plan in enumerate(launch.plans)}
        self._report: Report = self.host.control.report(number)
        self._system = self.host.control.owner(self.host.supervisor).gauge(SYSTEM_STATE_CELL)  # made before the first fork
        self._waiters: list[Waiter] = []
        self._nap = posix_ipc.Semaphore(semaphore_name(number, launch.config.instance))
        self._next_beat_ns = 0
        self._report.write(pid=os.getpid(), started_ns=clock.monotonic_ns(), heartbeat_ns=clock.monotonic_ns())

    def beat(self) -> None:
        """Show that this worker lives, when it is time to; call it at least every 50 ms in anything long."""
        now = self.clock.monotonic_ns()
        if now >= self._next_beat_ns:
            self.show(now)

    def show(self, now_ns: int) -> None:
        """Write the row now."""
        self._next_beat_ns = now_ns + BEAT_NS
        self._report.write(heartbeat_ns=now_ns, cursor=self.cursor, lag=self.lag, work_count=self.work_count)

    def ready(self) -> None:
        """This worker has caught up and publishes; the system is READY when all have said so. Once a life."""
        self._report.write(ready=1, heartbeat_ns=self.clock.monotonic_ns(), cursor=self.cursor, lag=self.lag)

    def fail(self, text: str) -> None:
        """Leave `text` as this life's last words."""
        self._report.write(last_error=text, heartbeat_ns=self.clock.monotonic_ns())

    def tell(self, text: str) -> None:
        """Have one line said to whoever watches `pks run`."""
        line = self.paths.notices / f"{self.name}@{self.clock.monotonic_ns()}"
        line.write_text(text)
        line.replace(f"{line}{NOTICE_ENDING}")

    def waiter(self, readers: Sequence[Watched], wait: Wait | None = None) -> Waiter:
        """A wait over the rings that this worker reads, by its strategy; closed at the end of its life."""
        made = Waiter(readers, wait or self.wait, semaphore_name(self.number, self.config.instance))
        self._waiters.append(made)
        return made

    def rest_ns(self, most_ns: int = REST_NS_MAX) -> int:
        """How long an idle worker may sleep now: longer the longer nothing came, at most `most_ns`."""
        return rest_after(self.idle_count, most_ns)

    def nap(self, timeout_ns: int | None = None) -> None:
        """Sleep until this worker's bell rings, or a signal comes, or the time (`rest_ns`) is over."""
        try:
            self._nap.acquire((self.rest_ns() if timeout_ns is None else timeout_ns) / 1e9)
        except (posix_ipc.BusyError, posix_ipc.SignalError):
            return  # the caller's loop looks for itself what there is

    def wake(self) -> None:
        """End this worker's own sleep, also one that is only about to begin."""
        self._nap.release()

    def bell(self, worker: str) -> Bell:
        """The bell of another worker."""
        return Bell(self._numbers[worker], self.config.instance)

    def is_stopping(self) -> bool:
        """True when the whole system stops and it is this worker's turn to drain."""
        table = self.host.control.watches
        row = np.zeros(1, table.dtype)
        slot_read(table.slots, self.number, row.view(np.int64), TRIES_MAX)
        return int(row[0]["state"]) == WorkerState.STOPPING

    def is_system_ready(self) -> bool:
        """True when every worker of this start has caught up, and no stop has begun."""
        return int(read_word(self._system.cells, self._system.place)) == SystemState.READY

    def is_system_stopping(self) -> bool:
        """True from the beginning of an orderly stop, before it is this worker's turn."""
        return int(read_word(self._system.cells, self._system.place)) == SystemState.STOPPING

    def close(self) -> None:
        """Let go of what the runtime holds."""
        for made in self._waiters:
            made.close()
        self._nap.close()
        self.log.close()


def run_worker(launch: Launch, number: int) -> NoReturn:
    """All of a worker's life, in its own process, whose SIGTERM is blocked on entry; ends by os._exit."""
    plan = launch.plans[number]
    code = EXIT_CRASHED
    try:
        _become(plan, launch)
        context = _surroundings(launch, number)
        code = _live(context)
    except BaseException:  # there is no log yet: the supervisor's own output is the only place to say it
        traceback.print_exc()
    finally:
        os._exit(code)


def die_with(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends, and end now if it has already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(EXIT_CRASHED)


def keep_little() -> None:
    """Have the C library's allocator give memory back, now and later, here and in forks; one without such settings stays as it is.

    Source: mallopt(3), malloc_trim(3).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
        libc.mallopt(_M_MMAP_THRESHOLD, OWN_PAGES_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT_FREE_BYTES)
        libc.malloc_trim(0)


def _become(plan: WorkerPlan, launch: Launch) -> None:
    """A name, a parent, a core."""
    instance = launch.config.instance
    setproctitle.setproctitle(f"pks {plan.name}" + (f" [{instance}]" if instance else ""))
    die_with(launch.supervisor_pid)
    core = launch.cores.get(plan.name)
    if core is not None:
        os.sched_setaffinity(0, {core})
    if plan.hot:
        gc.disable()


def _surroundings(launch: Launch, number: int) -> Context:
    name, clock = launch.plans[number].name, SystemClock()
    log = Log(launch.paths.log / f"{name}.log", name, clock.wall_ns)
    faulthandler.enable(log.descriptor)
    return Context(launch, number, log, clock, own_points(launch.paths.run, os.environ.get(VARIABLE, ""), name))


def _live(context: Context) -> int:
    """From birth to exit code."""
    try:
        _take_signals(context)
        for label in written_by(context.name, context.host.shards):
            context.claims.append(take_claim(context.paths.run, f"writer-{label}"))
        module_name, _, function = context.plan.make.partition(":")
        worker = cast(Worker, getattr(import_module(module_name), function)(context))
        context.log.info("started", core=context.core, wait=context.wait.value)
        _loop(worker, context)
        worker.close()
        context.show(context.clock.monotonic_ns())
        context.log.info("ended", cursor=context.cursor, work=context.work_count)
        return 0
    except Fatal as error:
        return _failed(context, error, EXIT_FATAL)
    except BaseException as error:  # the process ends here, whatever it was; the traceback is kept
        return _failed(context, error, EXIT_CRASHED)


def _failed(context: Context, error: BaseException, code: int) -> int:
    context.fail(f"{type(error).__name__}: {error}")
    context.log.crash(error)
    return code


def _take_signals(context: Context) -> None:
    """SIGTERM ends the loop after its batch; the terminal's signals are the supervisor's business."""

    def asked(signum: int, frame: object) -> None:
        context.stop[0] = 1
        context.wake()

    signal.signal(signal.SIGTERM, asked)
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _loop(worker: Worker, context: Context) -> None:
    """The duty cycle until it is asked to end, and how it then ends."""
    times = _Times(context)
    while True:
        while not context.stop[0]:
            _cycle(worker, context, times)
        ending = _ending(worker, context, times)
        if ending is _Ending.DRAINED:
            while not worker.drain():
                context.idle_count = 0
                _cycle(worker, context, times)
        if ending is not _Ending.NOT_YET:
            return
        context.stop[0] = 0


class _Ending(enum.Enum):
    """What a SIGTERM meant."""

    ALONE = "this worker is to end, and to be restarted"
    DRAINED = "the system stops, and it is this worker's turn"
    NOT_YET = "the system stops, and it is the turn of others; another SIGTERM follows"


def _ending(worker: Worker, context: Context, times: _Times) -> _Ending:
    """Find out, at work meanwhile: the supervisor may have been told together with us and needs a moment to say so."""
    deadline_ns = context.clock.monotonic_ns() + ALONE_NS
    while True:
        if context.is_stopping():
            return _Ending.DRAINED
        if context.is_system_stopping():
            return _Ending.NOT_YET
        if context.clock.monotonic_ns() >= deadline_ns:
            return _Ending.ALONE
        context.idle_count = 0
        _cycle(worker, context, times)


class _Times:
    """When the next housekeeping and the next collection are due."""

    def __init__(self, context: Context) -> None:
        now = context.clock.monotonic_ns()
        self.housekeeping_ns, self.collect_ns = now, now + COLLECT_NS


def _cycle(worker: Worker, context: Context, times: _Times) -> None:
    work = worker.step()
    context.work_count += work
    context.beat()
    now = context.clock.monotonic_ns()
    if now >= times.housekeeping_ns:
        times.housekeeping_ns = now + HOUSEKEEPING_NS
        worker.housekeeping()
        if now >= times.collect_ns:
            times.collect_ns = now + COLLECT_NS
            gc.collect()
    if work:
        context.idle_count = 0
        return
    worker.idle()
    context.idle_count += 1
