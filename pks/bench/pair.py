"""Two pinned processes that do rounds together: the parent leads, a forked child follows, over words of shared memory.

Owns forking, pinning and the words of the rounds. Both sides of a comparison are run in turns by the same two processes on the same two
cores, so that both meet the same placement of virtual cores.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import mmap
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pks.base.errors import Fatal
from pks.segments.atomics import LINE_WORDS, load_acquire, pause, read_word, write_word

Words = NDArray[np.int64]

_GO, _HERE, _DONE, _JOB = 0, LINE_WORDS, 2 * LINE_WORDS, 3 * LINE_WORDS
_ANSWER = 4 * LINE_WORDS
WORDS = 5 * LINE_WORDS

IDLE_MAX = 1 << 35
"""Fruitless looks after which a loop gives up: its partner is gone. Half a minute or less."""

SECONDS_MAX = 120.0


class PartnerLost(Fatal):
    """The other process of a bench has ended or hangs."""

    def __init__(self, what: str) -> None:
        super().__init__(f"bench: the other process does not answer ({what})")


@njit(cache=True)
def await_word(words, index, value, looks):
    """Spin until words[index] >= value; False after so many looks."""
    for _ in range(looks):
        if load_acquire(words, index) >= value:
            return True
        pause()
    return False


def shared(words: int) -> Words:
    """Zeroed memory that a forked child shares, int64[words], every page taken."""
    mapping = mmap.mmap(-1, max(8 * words, mmap.PAGESIZE), flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    return np.frombuffer(mapping, np.int64)[:words]


class Pair:
    """The child serves `jobs` by number, on the second core; the parent stays on the first while the pair lives.

    A job returns an int, which `lead` hands to the leader's side.
    """

    def __init__(self, jobs: Sequence[Callable[[], int]]) -> None:
        self.jobs = tuple(jobs)
        self.words = shared(WORDS)
        self.round = 0
        await_word(self.words, _GO, 0, 1)
        write_word(self.words, _JOB, 0)
        read_word(self.words, _JOB)
        self.cores = sorted(os.sched_getaffinity(0))
        self.pid = os.fork()
        if self.pid == 0:
            self._serve()
        os.sched_setaffinity(0, {self.cores[0]})

    def lead(self, job: int, work: Callable[[], Any]) -> tuple[Any, int]:
        """Let the child begin job number `job`, and do `work` as soon as it is there; what both returned."""
        self.round += 1
        write_word(self.words, _JOB, job)
        write_word(self.words, _GO, self.round)
        self._await(_HERE, "to begin")
        mine = work()
        self._await(_DONE, "to end")
        answer = read_word(self.words, _ANSWER)
        if answer < 0:
            raise PartnerLost(f"job {job} gave up")
        return mine, int(answer)

    def _await(self, index: int, what: str) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while not await_word(self.words, index, self.round, 1 << 20):
            ended, _ = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.pid = 0
            if ended or time.monotonic() > deadline:
                raise PartnerLost(what)

    def _serve(self) -> None:
        """The child's life: ends with its parent, or when told to."""
        code = 1
        try:
            os.sched_setaffinity(0, {self.cores[-1]})
            parent = os.getppid()
            done = 0
            while os.getppid() == parent:
                if not await_word(self.words, _GO, done + 1, 1 << 20):
                    continue
                done += 1
                job = int(read_word(self.words, _JOB))
                write_word(self.words, _HERE, done)
                if job < 0:
                    break
                write_word(self.words, _ANSWER, self.jobs[job]())
                write_word(self.words, _DONE, done)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def close(self) -> None:
        """End the child and give the cores back."""
        os.sched_setaffinity(0, set(self.cores))
        if self.pid:
            write_word(self.words, _JOB, -1)
            write_word(self.words, _GO, self.round + 1)
            deadline = time.monotonic() + 5.0
            while time.monotonic() < deadline:
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    break
                time.sleep(0.001)
            else:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            self.pid = 0

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def enough_cores() -> bool:
    """Can two processes run at once?"""
    return len(os.sched_getaffinity(0)) >= 2
