"""Kill points: named places in the code where a test makes the process end by SIGKILL, once, and can prove that it did.

PKS_KILL_AT = "worker:point[:count]", several separated by commas; the worker dies at the count-th passing (default the first). Owns the
small file a worker in the run directory that survives the kill. A point that is not armed costs a load of one word in compiled code and an
empty call in Python. Any worker's code may have points; what happens between them is not this module's business.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from pks.base.errors import Fatal, shown

Words = NDArray[np.int64]

VARIABLE = "PKS_KILL_AT"

UNARMED = 0
"""Row of every point that is not armed; its words stay 0."""

_REMAINING, _HITS = 0, 1
_SIGKILL = 9
_raise_signal = types.ExternalFunction("raise", types.int32(types.int32))


class BadKillPoint(Fatal):
    """PKS_KILL_AT is not of its form."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{VARIABLE}: {shown(text)} is not worker:point or worker:point:count")
        self.text = text


@dataclass(frozen=True, slots=True)
class Armed:
    """One armed point."""

    worker: str
    point: str
    count: int


def parse_points(text: str) -> list[Armed]:
    """The points that PKS_KILL_AT names. Raises BadKillPoint."""
    found = []
    for part in filter(None, text.split(",")):
        worker, _, rest = part.partition(":")
        point, _, count = rest.partition(":")
        if not worker or not point or not (count or "1").isdecimal() or int(count or 1) < 1:
            raise BadKillPoint(part)
        found.append(Armed(worker, point, int(count or 1)))
    return found


@njit(cache=True)
def kill_here(words, row):
    """Die here when the point of `row` is armed and its count is reached. words: int64[points, 2], remaining passings and hits."""
    if words[row, _REMAINING] > 0:
        words[row, _REMAINING] -= 1
        if words[row, _REMAINING] == 0:
            words[row, _HITS] += 1
            _raise_signal(types.int32(_SIGKILL))


class KillPoints:
    """The points of one worker: `words` and `row(name)` for compiled code, `here(name)` for Python."""

    def __init__(self, words: Words, names: Sequence[str]) -> None:
        self.words = words
        self._rows = {name: number + 1 for number, name in enumerate(names)}

    def row(self, name: str) -> int:
        """Row of point `name` for kill_here; UNARMED when it is not armed."""
        return self._rows.get(name, UNARMED)

    def here(self, name: str) -> None:
        """Die here if point `name` is armed and its count is reached."""
        kill_here(self.words, self.row(name))


def no_points() -> KillPoints:
    """What a worker has when none of its points is armed."""
    return KillPoints(np.zeros((1, 2), np.int64), ())


def _file(run_directory: Path, worker: str) -> Path:
    return run_directory / "kill_points" / worker


def arm_points(run_directory: Path, text: str) -> None:
    """Prepare the files, all counts full and no hits; the supervisor does this once a start, so that each point kills once."""
    points = parse_points(text)
    for worker in sorted({point.worker for point in points}):
        rows = [(0, 0), *((point.count, 0) for point in points if point.worker == worker)]
        path = _file(run_directory, worker)
        path.parent.mkdir(mode=0o750, exist_ok=True)
        path.write_bytes(np.array(rows, np.int64).tobytes())


def own_points(run_directory: Path, text: str, worker: str) -> KillPoints:
    """The armed points of `worker`, shared with the file that `points_hit` reads."""
    names = [point.point for point in parse_points(text) if point.worker == worker]
    if not names:
        return no_points()
    descriptor = os.open(_file(run_directory, worker), os.O_RDWR | os.O_CLOEXEC)
    try:
        mapping = mmap.mmap(descriptor, 16 * (len(names) + 1))
    finally:
        os.close(descriptor)
    return KillPoints(np.frombuffer(mapping, np.int64).reshape(-1, 2), names)


def points_hit(run_directory: Path, text: str) -> dict[str, int]:
    """How often each armed point has killed: "worker:point" -> 0 or 1. For tests, with the text that the system was started with."""
    points = parse_points(text)
    hits: dict[str, int] = {}
    for worker in {point.worker for point in points}:
        words = np.frombuffer(_file(run_directory, worker).read_bytes(), np.int64).reshape(-1, 2)
        own = [point for point in points if point.worker == worker]
        for row, point in enumerate(own, start=1):
            hits[f"{worker}:{point.point}"] = hits.get(f"{worker}:{point.point}", 0) + int(words[row, _HITS])
    return hits
