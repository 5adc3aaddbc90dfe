"""The hand-over of one cache line between the two cores of a pair: the unit in which anything that crosses cores is to be read."""

from __future__ import annotations

import ctypes
import time

from pks.bench.pair import IDLE_MAX, Pair, shared
from pks.bench.programs import address

LINE_WORDS_SHARED = 32


class Handover:
    """Measures the hand-over within a pair: `follow` is the child's job, `lead` the leader's."""

    def __init__(self, program: ctypes.CDLL, rounds: int) -> None:
        for function in (program.line_lead, program.line_follow):
            function.restype = ctypes.c_int64
            function.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self.program, self.rounds = program, rounds
        self.words = shared(LINE_WORDS_SHARED + 16)

    def follow(self) -> int:
        """The child's half."""
        return int(self.program.line_follow(address(self.words), self.rounds, IDLE_MAX))

    def lead_ns(self, pair: Pair, job: int) -> float:
        """One way, in nanoseconds, the mean of all rounds. `job`: the number of `follow` among the pair's jobs."""
        self.words[:] = 0

        def work() -> int:
            start = time.perf_counter_ns()
            code = self.program.line_lead(address(self.words), self.rounds, IDLE_MAX)
            took = time.perf_counter_ns() - start
            return took if code == 0 else -1

        took, _ = pair.lead(job, work)
        return float(took) / self.rounds / 2
