"""The zygote: one single-threaded process that has called every kernel, from which workers are forked within milliseconds.

Owns the double fork and the few messages with the supervisor: "warm", "failed TEXT" and "spawned NUMBER PID" up, "spawn NUMBER" down, a
packet each. Started by the supervisor in a forked child. It holds no state that could be lost: when it dies the supervisor makes another.
May not look at rings or judge workers.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import NoReturn, cast
from zlib import crc32

import setproctitle

from pks.base.errors import Fatal
from pks.workers.points import kill_here, no_points
from pks.workers.runtime import EXIT_CRASHED, Launch, WorkerModule, die_with, keep_little, run_worker

MESSAGE_BYTES_MAX = 4096
COMPILED = "compiled"
"""File in the kernel cache's folder, with a hash of the workers' modules: a zygote has called all their kernels, so they are there."""

_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class NotSingleThreaded(Fatal):
    """A fork would leave locks held by threads that are not there."""

    def __init__(self, threads: int) -> None:
        super().__init__(f"the process that forks has {threads} threads; set OPENBLAS_NUM_THREADS=1, and start no thread in warm()")
        self.threads = threads


def check_single_threaded() -> None:
    """Raises NotSingleThreaded."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise NotSingleThreaded(threads)


def run_zygote(channel: socket.socket, launch: Launch) -> NoReturn:
    """All of the zygote's life; ends by os._exit, with 0 when the supervisor closes the channel, and by no signal but SIGKILL."""
    code = EXIT_CRASHED
    try:
        instance = launch.config.instance
        setproctitle.setproctitle("pks zygote" + (f" [{instance}]" if instance else ""))
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        die_with(launch.supervisor_pid)
        if _warm(channel, launch):
            _serve(channel, launch)
            code = 0
    except BaseException:  # the supervisor makes another; this is the only place to say why
        traceback.print_exc()
    finally:
        os._exit(code)


def _warm(channel: socket.socket, launch: Launch) -> bool:
    started_ns = time.monotonic_ns()
    try:
        points = no_points()
        kill_here(points.words, points.row(""))
        names = sorted({plan.make.partition(":")[0] for plan in launch.plans})
        compiled = Path(os.environ["NUMBA_CACHE_DIR"], f"{COMPILED}-{crc32(' '.join(names).encode()):08x}")
        if not compiled.exists():
            hot = {plan.make.partition(":")[0] for plan in launch.plans if plan.hot}
            _compile_apart(sorted(hot))
            _compile_apart([name for name in names if name not in hot])  # they fold too: at the same time they would compile all that again
        for name in names:
            cast(WorkerModule, import_module(name)).warm()
        check_single_threaded()
        compiled.touch()
    except Exception as error:  # told to the supervisor, who decides; this process has nothing to go on with
        channel.send(f"failed {type(error).__name__}: {error}".encode()[:MESSAGE_BYTES_MAX])
        return False
    gc.collect()
    keep_little()
    gc.freeze()
    channel.send(f"warm {(time.monotonic_ns() - started_ns) // 1_000_000}".encode())
    return True


def _compile_apart(names: list[str]) -> None:
    """A child a module compiles into the kernel cache, as many at a time as there are cores, so that this process, which every worker
    begins as, does not keep what compiling takes: a gigabyte. What fails there fails again here.
    """
    parent, running = os.getpid(), 0
    for name in names:
        if running == len(os.sched_getaffinity(0)):
            os.wait()
            running -= 1
        pid = os.fork()
        if pid == 0:
            code = EXIT_CRASHED
            try:
                die_with(parent)
                cast(WorkerModule, import_module(name)).warm()
                code = 0
            finally:
                os._exit(code)
        running += 1
    for _ in range(running):
        os.wait()


def _serve(channel: socket.socket, launch: Launch) -> None:
    while message := channel.recv(MESSAGE_BYTES_MAX):
        verb, number = message.split()
        assert verb == b"spawn", f"the supervisor says {message!r}"
        pid = _fork_twice(channel, launch, int(number))
        channel.send(b"spawned %d %d" % (int(number), pid))


def _fork_twice(channel: socket.socket, launch: Launch, number: int) -> int:
    """A worker whose parent is gone, so that the kernel gives it to the supervisor, its subreaper; the worker's pid."""
    reading, writing = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # the worker takes it when its handler is there
    middle = os.fork()
    if middle == 0:
        middle_pid = os.getpid()
        worker = os.fork()
        if worker != 0:
            os.write(writing, b"%d" % worker)
            os._exit(0)
        channel.close()
        os.close(reading)
        os.close(writing)
        while os.getppid() == middle_pid:
            time.sleep(0.0001)
        run_worker(launch, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.close(writing)
    os.waitpid(middle, 0)
    pid = int(os.read(reading, 32))
    os.close(reading)
    return pid
