"""The supervisor: makes the segments, keeps every worker alive, and ends everything in order.

Owns the data directory's lock, the instance's lock, the run file, the children and the watch rows of the control segment. Run in the
foreground by `pks run`; reached from outside by signals alone. It books nothing and reads no ring. No edge, event loop or thread may be
here: it forks. Its heartbeat is the host's: every 100 ms it renews all segments' headers, except those whose writer is held down, so
readers see StaleHost within a second of its death (its workers die with it) and after it has given a worker up.

Children: the zygote is forked from here, workers from the zygote, twice, so that the kernel gives them to us (we are a subreaper). A new
life of a worker begins after the old one was reaped, so its claims are free. Order of an orderly stop: doors of the intake rings closed,
then the workers by `stop_phase` (capture, journal, accumulators, shadow), each drained and gone before the next is told, then the servers
of the edges, then the segments closed and removed. Servers are kept by `pks.servers.Keeper`: started when the core is READY, which never
waits for one, and reaped here.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import posix_ipc
import setproctitle

from pks.base.clock import SystemClock, format_time
from pks.base.config import Config
from pks.base.errors import Fatal
from pks.base.host import HostFacts, Wait, choose_wait, host_facts
from pks.base.limits import HEARTBEAT_EVERY_NS, PARK_NS_MAX, REST_NS_MAX, STEP_LOOK_NS
from pks.layouts.segment import WORKER_REPORT, WORKER_WATCH, WorkerState
from pks.segments.claims import Claim, take_claim
from pks.segments.counters import clip_text
from pks.segments.errors import AlreadyClaimed
from pks.segments.journal_recovery import recover
from pks.segments.shm import SHM_DIRECTORY
from pks.segments.slots import TRIES_MAX, slot_read
from pks.segments.wait import semaphore_name
from pks.servers.endpoints import mode_of
from pks.servers.keeper import Keeper
from pks.servers.server import NAMES
from pks.topology import (
    NOTICE_ENDING,
    SYSTEM_MOVES,
    SYSTEM_STATE_CELL,
    Host,
    Paths,
    Starts,
    SystemState,
    WorkerPlan,
    channel,
    choose_sizes,
    place_cores,
    retire_all,
    semaphores_of,
    stream_layout,
    workers_of,
)
from pks.workers.checkpoint import checkpoints
from pks.workers.log import Log
from pks.workers.points import VARIABLE, arm_points
from pks.workers.rejects import last_kept
from pks.workers.runtime import EXIT_FATAL, Launch
from pks.workers.zygote import MESSAGE_BYTES_MAX, check_single_threaded, run_zygote

TICK_NS = PARK_NS_MAX
"""How long a round waits for news while anything starts, ends or has failed."""

STEP_NS = 5_000_000
"""A step of the wall clock from which on sleepers are woken: it may have lengthened their sleep, whose end is a time of that clock."""

WATCH_NS = 50_000_000
"""How often heartbeats are looked at."""

SPAWN_NS_MAX = 2_000_000_000
"""How long the zygote may take to fork a worker before it is replaced."""

RESTARTS_NS = (0, 50_000_000, 100_000_000, 200_000_000, 500_000_000, 1_000_000_000)
"""Pause before a restart, by failed lives in a row; the last one for all further."""

GOOD_LIFE_NS = 1_000_000_000
"""A life that was ready for so long was no failure: the next restart is at once."""

FAILURES_MAX = 20
"""Failed lives in a row after which a worker is left down."""

COMPILING_NS = 10_000_000_000
"""A zygote that is not warm after so long does not load its kernels but compile them: a person who watches is told, now and then."""

ORPHANS_NS_MAX = 2_000_000_000
"""How long the search for children of a dead zygote may take."""

GAP_NS_MAX = 250_000_000
"""The most that one round counts for in the time by which silence is measured: while we do not run, perhaps nobody does."""

LOCK_NS_MAX = 2_000_000_000
"""How long a start waits for the orphans of a dead supervisor, which the kernel is killing."""

LOCK_CLAIM = "system"

_PR_SET_CHILD_SUBREAPER = 36

_S = WorkerState
WORKER_MOVES = {
    _S.ABSENT: {_S.STARTING, _S.STOPPED},
    _S.STARTING: {_S.READY, _S.STOPPING, _S.DEAD, _S.HUNG},
    _S.READY: {_S.STOPPING, _S.DEAD, _S.HUNG},
    _S.STOPPING: {_S.STOPPED, _S.DEAD, _S.HUNG},
    _S.STOPPED: set[WorkerState](),
    _S.DEAD: {_S.STARTING, _S.STOPPED, _S.HELD},
    _S.HUNG: {_S.DEAD},
    _S.HELD: {_S.STOPPED},
}
assert WORKER_MOVES.keys() == set(WorkerState), "every state has its moves"


class AlreadyRunning(Fatal):
    """Another supervisor, or a process that it started, holds the data directory."""

    def __init__(self, data_dir: Path, holder: str) -> None:
        super().__init__(f"data directory {data_dir} is in use by {holder}, or by a process that it started and that still ends")
        self.data_dir, self.holder = data_dir, holder


class InstanceInUse(Fatal):
    """Another system on this host has the same name, and so the same segments."""

    def __init__(self, instance: str, holder: str) -> None:
        named = f"instance {instance!r}" if instance else "the instance without a name"
        super().__init__(f"{named} runs on this host already, by {holder}, with another data directory; choose another --instance")
        self.instance, self.holder = instance, holder


class StartFailed(Fatal):
    """A worker or the zygote cannot start."""

    def __init__(self, who: str, reason: str) -> None:
        super().__init__(f"{who} cannot start: {reason}")
        self.who, self.reason = who, reason


@dataclass(slots=True)
class _Life:
    """A worker as the supervisor knows it."""

    plan: WorkerPlan
    number: int
    state: WorkerState = WorkerState.ABSENT
    pid: int = 0  # 0 while there is no process
    asked_ns: int = 0  # when the zygote was asked for it, 0 when it was not
    due_ns: int = 0  # when to ask for the next one
    ready_ns: int = 0
    beat_ns: int = 0  # the last heartbeat that we saw
    heard_ns: int = 0  # when we saw it, by the supervisor's own running time
    restarts: int = 0
    failures: int = 0  # in a row
    exit_code: int = 0
    told: bool = False  # this life was told to drain
    row: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(1, WORKER_WATCH))  # what we show of it

    @property
    def is_over(self) -> bool:
        """Nothing more will come of it in a stop."""
        return self.state in (WorkerState.STOPPED, WorkerState.HELD)


def start_points(config: Config, paths: Paths, log: Log) -> Starts:
    """Where a start begins: the journal's end, recovered from the newest checkpoint on, since that reflects durable events only.

    Streams are derived again from the checkpoint's event; that of refusals, which no event tells of, goes on. Raises what
    `journal_recovery.recover` raises: then nothing was changed and the start must not go on.
    """
    known = next((int(path.stem) for path in checkpoints(paths.checkpoints)), 0)
    found = recover(paths.journal, known, instance=config.instance, records=config.journal.segment_records)
    if found.cut is not None:
        cut = found.cut
        log.warning("the journal's last batch was never acknowledged and is cut", first=cut.first, last=cut.last, why=cut.reason)
    kept = last_kept(paths.stream_file("rejects"), stream_layout(channel("rejects")))
    return Starts(events=found.last, streams={"rejects": kept})


class Supervisor:
    """One run of the system. `run` returns the exit code: 0 after an orderly stop, 1 otherwise; errors of the start are raised."""

    def __init__(
        self,
        config: Config,
        *,
        plans: Sequence[WorkerPlan] | None = None,
        starts: Callable[[Config, Paths, Log], Starts] = start_points,
        echo: Callable[[str], None] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """plans: other workers than topology's. starts: finds where rings begin. echo: gets each line of the log. notes: to log."""
        self.config, self.paths = config, Paths(Path(config.data_dir))
        edges = [name for name in NAMES if mode_of(config, name) != "none"]
        self._plans = tuple(workers_of(config.shards, bool(config.desk), edges) if plans is None else plans)
        self._starts, self._echo, self._notes = starts, echo, tuple(notes)
        self._lives = [_Life(plan, number) for number, plan in enumerate(self._plans)]
        self._state = SystemState.STARTING
        self._exit_code = 0
        self._failure: StartFailed | None = None
        self._stop_signal = 0
        self._stop_deadline_ns = 0
        self._zygote_pid, self._zygote_warm = 0, False
        self._zygote_failures = self._zygote_born_ns = self._zygote_due_ns = 0
        self._channel: socket.socket | None = None
        self._reaped_early: dict[int, int] = {}  # pid -> exit code of workers whose birth was not told yet
        self._semaphores: list[posix_ipc.Semaphore] = []
        self._next_beat_ns = self._next_watch_ns = self._next_post_ns = 0
        self._clocks_ns = 0  # the wall clock minus the monotonic one
        self._started_ns = self._turned_ns = 0
        self._lived_ns = 0  # a clock that stands still while we are paused

    # --- the whole run ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Start, keep, stop. Raises AlreadyRunning, InstanceInUse, StartFailed, NotSingleThreaded, and what segments and journal raise."""
        check_single_threaded()
        setproctitle.setproctitle("pks supervisor" + (f" [{self.config.instance}]" if self.config.instance else ""))
        self._started_ns = self._turned_ns = time.monotonic_ns()
        self.paths.make()
        with self._data_lock(), _InstanceLock(self.config.instance):
            self.log = Log(self.paths.log / "supervisor.log", "supervisor", SystemClock().wall_ns, self._echo)
            try:
                self._run_locked()
            finally:
                self.log.close()
        if self._failure is not None:
            raise self._failure
        return self._exit_code

    def _data_lock(self) -> Claim:
        deadline_ns = time.monotonic_ns() + LOCK_NS_MAX
        while True:
            try:
                return take_claim(self.paths.run, LOCK_CLAIM)
            except AlreadyClaimed as error:
                if _is_alive(error.holder) or time.monotonic_ns() >= deadline_ns:
                    raise AlreadyRunning(self.paths.data_dir, error.holder) from None
            time.sleep(0.005)

    def _run_locked(self) -> None:
        for note in self._notes:
            self.log.warning(note)
        stale = retire_all(self.config.instance)
        if stale:
            self.log.info("put aside the segments of a dead run", count=len(stale))
        for left in self.paths.notices.iterdir():
            left.unlink()  # said of another run
        arm_points(self.paths.run, os.environ.get(VARIABLE, ""))
        self._import_workers()
        self.host, self.launch = self._make_host()
        self._keeper = Keeper(self.config, self.log)
        try:
            self._prepare()
            self._write_run_file()
            self._fork_zygote()
            while not (self._state is SystemState.STOPPING and all(life.is_over for life in self._lives) and self._keeper.is_over):
                self._turn()
        except BaseException as error:
            self.log.crash(error)
            raise
        finally:
            self._end()

    def _import_workers(self) -> None:
        """Load the workers' code once: a zygote that is made again hours later runs what the first one ran, whatever lies on the disk."""
        for name in sorted({plan.make.partition(":")[0] for plan in self._plans}):
            try:
                import_module(name)
            except ImportError as error:
                raise StartFailed(name, f"{type(error).__name__}: {error}") from error

    def _make_host(self) -> tuple[Host, Launch]:
        facts = host_facts()
        sizes = choose_sizes(self.config, facts.shm_free_bytes, len(self._plans))
        self.log.info(sizes.said)
        starts = self._starts(self.config, self.paths, self.log)
        epoch = self._next_epoch()
        host = Host.create(self.config, sizes, self._plans, starts, epoch)
        cores = place_cores(self._plans, facts.cores, self.config.cores)
        waits = self._waits(facts)
        return host, Launch(self.config, sizes, host, self.paths, self._plans, waits, cores, os.getpid(), epoch)

    def _waits(self, facts: HostFacts) -> dict[str, Wait]:
        hot = sum(plan.hot for plan in self._plans)
        waits = {}
        for plan in self._plans:
            wanted = Wait(self.config.wait_of.get(plan.name, self.config.wait if plan.hot else "park"))
            waits[plan.name] = choose_wait(wanted, facts.usable_cores, hot)
        return waits

    def _next_epoch(self) -> int:
        """Number of this start, one more than the last one's."""
        path = self.paths.run / "epoch"
        epoch = int(path.read_text()) + 1 if path.exists() else 1
        _replace_file(path, str(epoch))
        return epoch

    def _prepare(self) -> None:
        """Signals, the subreaper, semaphores, and the control segment's first words."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
        self._selector = selectors.DefaultSelector()
        self._bell, waking = socket.socketpair()
        for end in (self._bell, waking):
            end.setblocking(False)
        self._waking = waking
        signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        for asked in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if asked is not signal.SIGHUP or signal.getsignal(asked) is not signal.SIG_IGN:  # nohup
                signal.signal(asked, self._asked_to_stop)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # only to wake the selector
        for number in range(semaphores_of(len(self._plans), self.host.sources)):
            self._semaphores.append(posix_ipc.Semaphore(semaphore_name(number, self.config.instance)))
        self._gauge = self.host.control.owner(self.host.supervisor).gauge(SYSTEM_STATE_CELL)
        self._gauge.set(int(self._state))
        for life in self._lives:
            self._show(life)

    def _asked_to_stop(self, number: int, frame: object) -> None:
        self._stop_signal = number

    def _turn(self) -> None:
        """One round: wait for news, take them, do what is due."""
        for key, _ in self._selector.select((REST_NS_MAX if self._is_calm() else TICK_NS) / 1e9):
            if key.fileobj is self._bell:
                _empty(self._bell)
        if self._stop_signal and self._state is not SystemState.STOPPING:
            self._begin_stop(signal.Signals(self._stop_signal).name)
        self._hear_zygote()
        self._reap()
        now = time.monotonic_ns()
        self._lived_ns += min(now - self._turned_ns, GAP_NS_MAX)
        self._turned_ns = now
        self._beat(now)
        self._post(now)
        if now >= self._next_watch_ns:
            self._next_watch_ns = now + WATCH_NS
            self._watch(now)
            self._say_notices()
        self._care_for_zygote(now)
        self._ask_for_births(now)
        if self._state is SystemState.STOPPING:
            self._go_on_stopping(now)
        self._keeper.turn(self._lived_ns)
        if self._keeper.changed:
            self._write_run_file(flushed=False)  # servers that start keep the disk busy, and the heartbeat must not wait for it

    def _is_calm(self) -> bool:
        """Whether nothing is under way but waiting: signals, deaths and the zygote's words end a wait by themselves."""
        settled = all(life.state in (WorkerState.READY, WorkerState.HELD) for life in self._lives)
        return settled and self._state is SystemState.READY and self._zygote_warm and self._keeper.is_calm

    # --- heartbeats -------------------------------------------------------------------------------------------------------

    def _beat(self, now: int) -> None:
        if now >= self._next_beat_ns:
            self._next_beat_ns = now + HEARTBEAT_EVERY_NS
            held = frozenset(life.plan.name for life in self._lives if life.state is WorkerState.HELD)
            self.host.beat(now, held)

    def _post(self, now: int) -> None:
        """Wake all sleepers when the wall clock was stepped, now and then, and in a stop, which waits for each of them in turn."""
        clocks_ns = time.time_ns() - now
        stepped = abs(clocks_ns - self._clocks_ns) > STEP_NS
        if not (stepped or now >= self._next_post_ns or self._state is SystemState.STOPPING):
            return
        self._clocks_ns, self._next_post_ns = clocks_ns, now + STEP_LOOK_NS
        for semaphore in self._semaphores:
            if semaphore.value == 0:
                semaphore.release()

    def _watch(self, now: int) -> None:
        """Compare what the workers say of themselves with what we think of them."""
        for life in self._lives:
            if not life.pid or life.state is WorkerState.HUNG:
                continue
            report = self._report(life.number)
            own = int(report["pid"]) == life.pid
            if own and report["ready"] and life.state is WorkerState.STARTING:
                life.ready_ns = now
                self._move(life, WorkerState.READY)
            if own and report["heartbeat_ns"] != life.beat_ns:
                life.beat_ns, life.heard_ns = int(report["heartbeat_ns"]), self._lived_ns
            silent_ns = self._lived_ns - life.heard_ns
            if silent_ns > life.plan.silent_seconds * 1e9:
                self.log.error("no heartbeat; it is killed", worker=life.plan.name, worker_pid=life.pid, silent_ms=silent_ns // 1_000_000)
                self._move(life, WorkerState.HUNG)
                os.kill(life.pid, signal.SIGKILL)
        if self._state is SystemState.STARTING and all(life.state is WorkerState.READY for life in self._lives):
            self.host.go_live()
            self._keeper.start(self._server_cores())
            self._enter(SystemState.READY)
            self.log.info("ready", seconds=round((time.monotonic_ns() - self._started_ns) / 1e9, 2), pid=os.getpid())

    def _say_notices(self) -> None:
        """What workers want said here."""
        for name in sorted(os.listdir(self.paths.notices)):
            if name.endswith(NOTICE_ENDING):
                path = self.paths.notices / name
                self.log.info(path.read_text(errors="replace"), worker=name.partition("@")[0])
                path.unlink()

    def _server_cores(self) -> set[int]:
        """Cores that no worker is pinned to, for the servers; none where workers have all, and then servers only yield to them."""
        return os.sched_getaffinity(0) - set(self.launch.cores.values()) if self.launch.cores else set()

    def _report(self, number: int) -> np.void:
        row = np.zeros(1, WORKER_REPORT)
        slot_read(self.host.control.reports.slots, number, row.view(np.int64), TRIES_MAX)
        report: np.void = row[0]
        return report

    # --- births and deaths ------------------------------------------------------------------------------------------------

    def _move(self, life: _Life, state: WorkerState) -> None:
        assert state in WORKER_MOVES[life.state], f"{life.plan.name}: {life.state.name} -> {state.name}"
        life.state = state
        self._show(life)

    def _show(self, life: _Life) -> None:
        """Write the worker's watch row. Neither this nor `_report` asks whether the host lives: we are it, and may have been paused."""
        row = life.row[0]
        row["name"], row["core"] = life.plan.name.encode("ascii"), self.launch.cores.get(life.plan.name, -1)
        row["pid"], row["state"], row["restarts_count"], row["exit_code"] = life.pid, life.state, life.restarts, life.exit_code
        row["since_ns"] = time.monotonic_ns()
        self.host.control.watches.write(life.number, row)

    def _ask_for_births(self, now: int) -> None:
        if not self._zygote_warm or self._channel is None:
            return
        for life in self._lives:
            unborn = life.state in (WorkerState.ABSENT, WorkerState.DEAD) and not life.asked_ns
            if unborn and now >= life.due_ns and not self._is_needless(life):
                try:
                    self._channel.send(b"spawn %d" % life.number)
                except (BrokenPipeError, ConnectionResetError, BlockingIOError):
                    return  # it is dead, which reaping will show, or stuck, which _care_for_zygote looks for
                life.asked_ns = now

    def _is_needless(self, life: _Life) -> bool:
        """In a stop, a worker that never lived has nothing to drain."""
        return self._state is SystemState.STOPPING and life.state is WorkerState.ABSENT

    def _born(self, number: int, pid: int) -> None:
        life = self._lives[number]
        assert not life.is_over, f"{life.plan.name} was asked for and given up"
        if life.state is WorkerState.DEAD:
            life.restarts += 1
        life.pid, life.asked_ns, life.heard_ns, life.ready_ns, life.told = pid, 0, self._lived_ns, 0, False
        self._move(life, WorkerState.STARTING)
        self.log.info("worker started", worker=life.plan.name, worker_pid=pid, restarts=life.restarts)
        if pid in self._reaped_early:
            self._died(life, self._reaped_early.pop(pid))
        if not any(other.asked_ns for other in self._lives):
            self._reaped_early.clear()

    def _reap(self) -> None:
        """Take the exit codes of all children that ended."""
        by_pid = {life.pid: life for life in self._lives if life.pid}
        for pid, code in _ended_children():
            if pid == self._zygote_pid:
                self._zygote_died(code)
            elif pid in by_pid:
                self._died(by_pid[pid], code)
            elif not self._keeper.reaped(pid, code, self._lived_ns) and any(life.asked_ns for life in self._lives):
                self._reaped_early[pid] = code  # or it was the child of a server that was killed, which came to us

    def _died(self, life: _Life, code: int) -> None:
        now = time.monotonic_ns()
        drained = life.told and code == 0
        lived_ns = now - life.ready_ns if life.ready_ns else 0
        life.pid, life.exit_code = 0, code
        if life.state is WorkerState.STOPPING and drained:
            self.log.info("worker ended", worker=life.plan.name)
            self._move(life, WorkerState.STOPPED)
            return
        self._move(life, WorkerState.DEAD)
        if code == 0 or lived_ns >= GOOD_LIFE_NS:
            life.failures = 0
        else:
            life.failures += 1
        life.due_ns = now + RESTARTS_NS[min(life.failures, len(RESTARTS_NS) - 1)]
        reason = _ending(code)
        last_error = bytes(self._report(life.number)["last_error"]).decode("utf-8", "replace")
        life.row[0]["last_error"] = clip_text(last_error or reason)
        self._show(life)
        self.log.warning("worker died", worker=life.plan.name, ending=reason, error=last_error, failures=life.failures)
        is_start = self._state is SystemState.STARTING
        if life.failures >= FAILURES_MAX or (is_start and code == EXIT_FATAL):
            self._move(life, WorkerState.HELD)
            self.log.error("worker is left down", worker=life.plan.name)
            if is_start:
                self._fail_start(life.plan.name, last_error or reason)

    # --- the zygote -------------------------------------------------------------------------------------------------------

    def _fork_zygote(self) -> None:
        check_single_threaded()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                for end in (ours, self._bell, self._waking, self._selector):
                    end.close()
                run_zygote(theirs, self.launch)
            finally:
                os._exit(1)  # whatever happens, the child never runs its parent's way out
        theirs.close()
        ours.setblocking(False)
        self._channel, self._zygote_pid, self._zygote_warm, self._zygote_born_ns = ours, pid, False, time.monotonic_ns()
        self._selector.register(ours, selectors.EVENT_READ)
        self._write_run_file()

    def _hear_zygote(self) -> None:
        while self._channel is not None:
            try:
                message = self._channel.recv(MESSAGE_BYTES_MAX).decode()
            except BlockingIOError:
                return
            except ConnectionResetError:
                message = ""
            verb, _, rest = message.partition(" ")
            if verb == "warm":
                self._zygote_warm, self._zygote_failures = True, 0
                self.log.info("kernels are ready", milliseconds=int(rest))
            elif verb == "spawned":
                number, pid = rest.split()
                self._born(int(number), int(pid))
            elif verb == "failed":
                self.log.error("the zygote failed", error=rest)
                if self._state is SystemState.STARTING:
                    self._fail_start("zygote", rest)
            else:
                assert message == "", f"the zygote says {message!r}"
                self._drop_channel()

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._selector.unregister(self._channel)
            self._channel.close()
            self._channel = None

    def _zygote_died(self, code: int) -> None:
        self._hear_zygote()  # births that it told of before it died
        self._drop_channel()
        self._zygote_pid, self._zygote_warm = 0, False
        self._zygote_failures += 1
        self._zygote_due_ns = time.monotonic_ns() + RESTARTS_NS[min(self._zygote_failures - 1, len(RESTARTS_NS) - 1)]
        self.log.warning("the zygote died", ending=_ending(code))
        self._kill_strangers()
        for life in self._lives:
            life.asked_ns = 0
        if self._state is SystemState.STARTING and self._zygote_failures >= FAILURES_MAX:
            self._fail_start("zygote", _ending(code))

    def _kill_strangers(self) -> None:
        """End the children that a dying zygote left without telling us of them: half-made workers."""
        deadline_ns = time.monotonic_ns() + ORPHANS_NS_MAX
        while time.monotonic_ns() < deadline_ns:
            self._reap()
            self._beat(time.monotonic_ns())
            strangers = set(_children()) - {life.pid for life in self._lives} - {self._zygote_pid} - self._keeper.pids()
            if not strangers:
                break
            for pid in strangers:
                _kill(pid)
            time.sleep(0.001)
        self._reaped_early.clear()

    def _care_for_zygote(self, now: int) -> None:
        stuck = [life for life in self._lives if life.asked_ns and now - life.asked_ns > SPAWN_NS_MAX]
        if stuck and self._zygote_pid:
            self.log.error("the zygote does not answer; it is killed", waiting=[life.plan.name for life in stuck])
            for life in stuck:
                life.asked_ns = now
            _kill(self._zygote_pid)
        if not self._zygote_pid and now >= self._zygote_due_ns:
            self._fork_zygote()
        if not self._zygote_warm and self._zygote_pid and now - self._zygote_born_ns > COMPILING_NS:
            self._zygote_born_ns = now
            self.log.info("compiling the kernels, which every new version does once")

    # --- states and the run file ------------------------------------------------------------------------------------------

    def _enter(self, state: SystemState) -> None:
        assert state in SYSTEM_MOVES[self._state], f"system: {self._state.name} -> {state.name}"
        self._state = state
        self._gauge.set(int(state))
        self._write_run_file()

    def _write_run_file(self, flushed: bool = True) -> None:
        facts = {
            "pid": os.getpid(),
            "zygote_pid": self._zygote_pid,
            "instance": self.config.instance,
            "data_dir": str(self.paths.data_dir),
            "shards": self.config.shards,
            "state": self._state.name,
            "epoch": self.launch.epoch,
            "sizes": self.launch.sizes.said,
            "stop_timeout": self.config.stop_timeout,
            "edges": self.config.edges.mode,
            "servers": self._keeper.facts(),
            "written": format_time(time.time_ns()),
        }
        _replace_file(self.paths.run_file, json.dumps(facts, indent=1) + "\n", flushed)
        self._keeper.changed = False

    # --- the end ----------------------------------------------------------------------------------------------------------

    def _fail_start(self, who: str, reason: str) -> None:
        if self._failure is None:
            self._failure, self._exit_code = StartFailed(who, reason), 1
            self._begin_stop(f"{who} cannot start")

    def _begin_stop(self, why: str) -> None:
        if self._state is SystemState.STOPPING:
            return
        self._stop_deadline_ns = time.monotonic_ns() + self.config.stop_timeout * 1_000_000_000
        self._enter(SystemState.STOPPING)
        self.host.set_doors(False)
        self.log.info("stopping", why=why)

    def _go_on_stopping(self, now: int) -> None:
        for life in self._lives:
            if self._is_needless(life) and not life.asked_ns:
                self._move(life, WorkerState.STOPPED)
            elif self._failure is not None and life.state is WorkerState.DEAD and not life.asked_ns:
                self._move(life, WorkerState.STOPPED)
        left = [life for life in self._lives if not life.is_over]
        if not left:
            if not self._keeper.is_stopping:
                self._keeper.stop(self._lived_ns, self._lived_ns + self._stop_deadline_ns - now)
            return
        if now >= self._stop_deadline_ns:
            self._give_up(left)
            return
        phase = min(life.plan.stop_phase for life in left)
        for life in left:
            if life.plan.stop_phase == phase and life.pid and not life.told and life.state is not WorkerState.HUNG:
                life.told = True
                self._move(life, WorkerState.STOPPING)
                _kill(life.pid, signal.SIGTERM)

    def _give_up(self, left: list[_Life]) -> None:
        """The stop took too long: SIGKILL for whoever is left."""
        self._exit_code = 1
        for life in left:
            self.log.error("not stopped in time; it is killed", worker=life.plan.name, seconds=self.config.stop_timeout)
            if life.pid:
                _kill(life.pid)
                if life.state is not WorkerState.HUNG:
                    self._move(life, WorkerState.HUNG)
                self._move(life, WorkerState.DEAD)
                life.pid, life.exit_code = 0, -signal.SIGKILL
            elif life.state is WorkerState.HUNG:
                self._move(life, WorkerState.DEAD)
            self._move(life, WorkerState.STOPPED)

    def _end(self) -> None:
        """Nothing of this run stays: no process, no segment, no run file. Also the way out of an unexpected error."""
        signal.set_wakeup_fd(-1)
        self._drop_channel()
        for pid in (self._zygote_pid, *(life.pid for life in self._lives)):
            if pid:
                _kill(pid)
        self._zygote_pid = 0
        for life in self._lives:
            life.pid = 0
        self._keeper.kill()
        self._kill_strangers()
        for semaphore in self._semaphores:
            semaphore.close()
        self.host.close_all()
        self.paths.run_file.unlink(missing_ok=True)
        self.log.info("stopped", exit_code=self._exit_code)


# --- the kernel's side ----------------------------------------------------------------------------------------------------------


def _ended_children() -> Iterator[tuple[int, int]]:
    """(pid, exit code; minus the signal's number) of children that ended and were not reaped."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)


def _children() -> list[int]:
    """Pids of our children, zombies included."""
    found, own = [], os.getpid()
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended since the listing
            if int(stat.rpartition(")")[2].split()[1]) == own:
                found.append(int(entry))
    return found


def _kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a child of ours that is not reaped, or was reaped just now."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended; reaping tells how


def _is_alive(holder: str) -> bool:
    """Whether the process that a lock file names ("pid 12") still runs."""
    return Path("/proc", holder.rpartition(" ")[2]).exists()


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _empty(bell: socket.socket) -> None:
    while True:
        try:
            bell.recv(4096)
        except BlockingIOError:
            return


def _replace_file(path: Path, text: str, flushed: bool = True) -> None:
    """Write a small file whole: readers, and if it is flushed a start after a power cut, see the old one or the new one."""
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        if flushed:
            os.fsync(file.fileno())
    os.replace(part, path)


class _InstanceLock:
    """The right to an instance's names on this host: a flock on a file that goes with its last holder.

    Removing it is safe because who gets the lock looks whether the file is still the one by that name.
    """

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self._path = SHM_DIRECTORY / (f"pks-lock.{instance}" if instance else "pks-lock")
        self._descriptor = -1

    def __enter__(self) -> None:
        deadline_ns = time.monotonic_ns() + LOCK_NS_MAX
        while not self._try():
            if time.monotonic_ns() >= deadline_ns:
                raise InstanceInUse(self.instance, "an unnamed process")
            time.sleep(0.005)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"pid {os.getpid()}\n".encode(), 0)

    def _try(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._path.exists() and os.path.samestat(os.fstat(descriptor), self._path.stat()):
                self._descriptor = descriptor
                return True
        except BlockingIOError:
            holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
            if holder and _is_alive(holder):
                os.close(descriptor)
                raise InstanceInUse(self.instance, holder) from None
        os.close(descriptor)
        return False

    def __exit__(self, *error: object) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def run_foreground(config: Config, notes: Sequence[str] = ()) -> NoReturn:
    """`pks run`: the supervisor on this terminal, its lines on stderr; ends the process with its exit code."""
    code = Supervisor(config, echo=lambda line: print(line, file=sys.stderr, flush=True), notes=notes).run()
    sys.exit(code)
