"""The worker `past`: answers questions about the past over a socket in the run directory, one at a time.

Owns the order of questions, what is kept between them, and the child in which a what-if question is answered: a fork has a copy of every
fold for nothing, and takes what never happened with it when it ends. It reads the journal up to what is durable, and writes nothing.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from pathlib import Path

from pks.base.limits import EDGE_REST_NS_MAX
from pks.past.answers import answer
from pks.past.door import HEAD, Door, Waiting, packed
from pks.past.keeper import Keeper
from pks.past.questions import ANSWER_BYTES_MAX, INTERNAL, TOO_LONG, Failed, WhatIf
from pks.past.whatif import imagine
from pks.segments.claims import take_claim
from pks.workers.runtime import Context, die_with, keep_little

KEPT_SECONDS = 600.0
"""Without a question for so long, what is kept is given up: a quiet system does not hold every position twice more."""

MOMENTS_SECONDS = 60.0
"""The same for the last earlier moment that was asked for, which is kept for its next page."""

FOLLOW_EVENTS = 1 << 16
"""While questions come, the kept fold goes on by itself when it is so far behind, so that the next answer does not wait for that."""

WHATIF_SECONDS_MAX = 30.0
"""A what-if question that takes longer is given up."""

LOOK_SECONDS = 0.02
"""Between two looks at the door while a child is at work."""


class PastWorker:
    """Implements runtime.Worker."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._claim = take_claim(context.paths.run, "past")
        context.claims.append(self._claim)
        self.door = Door(context.paths.run)
        self.keeper = Keeper(Path(context.config.data_dir), lambda: context.host.durable_sequence, self._meanwhile)
        cells = context.cells
        self.questions, self.failures = cells.counter("questions"), cells.counter("question_failures")
        self.latency, self.waiting, self.garbled = cells.histogram("question"), cells.gauge("questions_waiting"), cells.gauge("garbled")
        self.asked_at = time.monotonic()
        context.ready()

    def _meanwhile(self) -> None:
        """In the midst of something long: the heart beats, and who comes too many is told so."""
        self.context.beat()
        self.door.look()

    def step(self) -> int:
        """One question, or a part of what has come since."""
        self.door.look()
        one = self.door.next()
        if one is None:
            return self._follow()
        self.asked_at = time.monotonic()
        said = self._answered(one)
        self.door.send(one, said)
        self.questions.add()
        self.latency.record(time.monotonic_ns() - one.came_ns)
        return 1

    def _answered(self, one: Waiting) -> bytes:
        try:
            if isinstance(one.question, WhatIf):
                return self._in_child(one.id, one.question)
            found = answer(self.keeper, one.question)
        except Exception as error:  # a mistake of ours: one question has no answer, and the others get theirs from folds made anew
            self.context.log.crash(error)
            self.context.fail(f"{type(error).__name__}: {error}")
            self.keeper.forget()
            found = Failed(code=INTERNAL, reason="this question fails by a mistake of ours; the log of the worker past has it")
        if isinstance(found, Failed):
            self.failures.add()
        return packed(one.id, found)

    def _follow(self) -> int:
        idle = time.monotonic() - self.asked_at
        if idle > KEPT_SECONDS:
            if self.keeper.sequence:
                self.keeper.forget()
                keep_little()
            return 0
        if idle > MOMENTS_SECONDS and self.keeper.forget_moments():
            keep_little()
        if self.keeper.behind() < FOLLOW_EVENTS or self.context.stop[0]:
            return 0
        before = self.keeper.sequence
        self.keeper.now()
        return self.keeper.sequence - before

    def idle(self) -> None:
        """Wait for a question."""
        self.door.look(self.context.rest_ns(EDGE_REST_NS_MAX) / 1e9)

    def housekeeping(self) -> None:
        """Show how far the fold is and who waits."""
        self.context.cursor = self.keeper.sequence or -1
        self.waiting.set(self.door.waiting)
        self.garbled.set(self.door.garbled)

    def drain(self) -> bool:
        """Nobody is owed an answer: who asks is told by the closed connection."""
        return True

    def close(self) -> None:
        """Remove the socket."""
        self.door.close()

    # what-if

    def _in_child(self, number: int, question: WhatIf) -> bytes:
        """The packed answer of a child, which has this process's folds as they are now."""
        self.keeper.now()  # here, where the next question finds it
        reading, writing = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            self._imagine(parent, writing, number, question)
        os.close(writing)
        try:
            said = self._read_of_child(reading)
        finally:
            os.close(reading)
            os.kill(child, signal.SIGKILL)  # it has ended, or shall
            os.waitpid(child, 0)
        whole = len(said) >= HEAD.size and HEAD.unpack_from(said)[0] == len(said) - HEAD.size
        if whole:
            return bytes(said)
        self.failures.add()
        reason = f"no answer within {WHATIF_SECONDS_MAX:.0f} seconds: ask about fewer rows"
        return packed(number, Failed(code=TOO_LONG, reason=reason, retry=True))

    def _read_of_child(self, reading: int) -> bytearray:
        """What the child writes until its end, or until its time is over. Stops early when this worker is to end."""
        os.set_blocking(reading, False)
        said, until = bytearray(), time.monotonic() + WHATIF_SECONDS_MAX
        with selectors.DefaultSelector() as selector:
            selector.register(reading, selectors.EVENT_READ)
            while time.monotonic() < until and not self.context.stop[0]:
                if selector.select(LOOK_SECONDS):
                    part = os.read(reading, 1 << 20)
                    if not part:
                        break
                    said += part
                self._meanwhile()
        return said

    def _imagine(self, parent: int, writing: int, number: int, question: WhatIf) -> None:
        """All of the child's life."""
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            die_with(parent)
            self._claim.release()
            self.door.abandon()
            self.keeper.beat = _alone
            said = memoryview(packed(number, imagine(self.keeper, question)))
            while said:
                said = said[os.write(writing, said) :]
            code = 0
        except BaseException as error:  # the parent says that there is no answer; why is said here
            self.context.log.crash(error)
        finally:
            os._exit(code)


def _alone() -> None:
    """A child's heart beats for nobody."""


def make(context: Context) -> PastWorker:
    """The worker."""
    return PastWorker(context)


def warm() -> None:
    """Compile the kernels of this worker."""
    from pks.past.warm import warm_past

    warm_past()


assert ANSWER_BYTES_MAX < 1 << 32, "a message's length has 32 bits"
