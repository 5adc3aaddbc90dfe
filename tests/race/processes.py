"""Real processes for the race tests: forked, on a core of their own, never outliving the test."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

CORES = sorted(os.sched_getaffinity(0))


@contextmanager
def child(body: Callable[[], None], core: int = 1) -> Iterator[int]:
    """Run `body` in a forked process on the n-th core while the block runs; at its end the child must have ended well within 20 s.

    The parent runs on the first core meanwhile. A child is killed when the block fails. Yields its pid.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.sched_setaffinity(0, {CORES[core % len(CORES)]})
            body()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.sched_setaffinity(0, {CORES[0]})
    status = None
    try:
        yield pid
        status = _join(pid, 20.0)
    finally:
        os.sched_setaffinity(0, set(CORES))
        if status is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), f"the child ended with {status}"


def _join(pid: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else os.WTERMSIG(status)
        time.sleep(0.001)
    raise TimeoutError(f"child {pid} still runs after {seconds} s")


def wait_for(words: np.ndarray, index: int, value: int, seconds: float = 20.0) -> None:
    """Wait until words[index] has reached `value`."""
    deadline = time.monotonic() + seconds
    while words[index] < value:
        if time.monotonic() > deadline:
            raise TimeoutError(f"word {index} is {words[index]}, {value} was awaited")
        time.sleep(0.0005)
