"""What a bench found, and how it is shown: promises with their bounds, results with percentiles, the machine they were made on.

Owns the JSON of `pks bench X --json` and the table for people. Measures nothing itself.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise: `measured` is to be `op` `bound`. measured None: it was not measured, `reason` says why."""

    promise: str
    op: str  # ">=" or "<="
    bound: float
    measured: float | None = None
    ours: float | None = None
    theirs: float | None = None
    peer: str = ""
    reason: str = ""

    @property
    def verdict(self) -> str:
        """kept, missed, or not measured."""
        if self.measured is None:
            return "not measured"
        return "kept" if (self.measured >= self.bound if self.op == ">=" else self.measured <= self.bound) else "missed"

    def as_dict(self) -> dict[str, Any]:
        """The promise as JSON has it; `reason` only where nothing was measured."""
        figures = {name: _short(getattr(self, name)) for name in ("measured", "bound", "ours", "theirs")}
        told = {
            "promise": self.promise, "measured": figures["measured"], "op": self.op, "bound": figures["bound"],
            "ours": figures["ours"], "theirs": figures["theirs"], "peer": self.peer,
        }  # fmt: skip
        return told | ({"reason": self.reason} if self.measured is None else {})


@dataclass(frozen=True, slots=True)
class Result:
    """One figure: percentiles of `n` samples."""

    name: str
    unit: str
    p50: float
    p99: float
    n: int

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {"name": self.name, "unit": self.unit, "p50": _short(self.p50), "p99": _short(self.p99), "n": self.n}


def result(name: str, unit: str, samples: Any) -> Result:
    """Percentiles of samples (any float sequence, at least one): nearest rank."""
    ordered = np.sort(np.asarray(samples, np.float64))
    assert len(ordered), f"{name}: a result has samples"
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.99)]
    return Result(name, unit, float(at[0]), float(at[1]), len(ordered))


@dataclass(slots=True)
class Measured:
    """What one bench found. wait: what idle processes did in it. notes: what was measured and how, in plain words."""

    promises: list[Promise] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wait: str = "spin"
    runs: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a bench is to be run. folder: scratch, removed afterwards.

    tiny: only to see that it works, its figures mean nothing. full: at the promise's own size, where the usual one is smaller.
    """

    folder: Path
    tiny: bool = False
    full: bool = False
    runs: int | None = None
    peer_venv: Path | None = None

    def size(self, full: int, tiny: int) -> int:
        """`full`, or `tiny` in a tiny run."""
        return tiny if self.tiny else full

    def rounds(self, full: int) -> int:
        """How often both sides take turns."""
        return self.runs or self.size(full, 1)


def report_dict(bench: str, found: Measured) -> dict[str, Any]:
    """The JSON answer of `pks bench X --json`."""
    return {
        "bench": bench,
        "machine": machine(),
        "cores": len(os.sched_getaffinity(0)),
        "wait": found.wait,
        "runs": found.runs,
        "commit": commit(),
        "load": round(os.getloadavg()[0], 2),
        "promises": [promise.as_dict() for promise in found.promises],
        "results": [one.as_dict() for one in found.results],
        "notes": found.notes,
    }


def report_lines(bench: str, found: Measured, load_before: float) -> list[str]:
    """The same for people."""
    lines = [
        f"bench {bench}: {machine()}, {len(os.sched_getaffinity(0))} cores, wait {found.wait}, {found.runs} runs, commit {commit()}",
        f"load average {load_before:.2f} before, {os.getloadavg()[0]:.2f} after"
        + ("; other work shares the cores, so figures are worse than they would be" if load_before > 0.5 else ""),
        *(f"  {note}" for note in found.notes),
    ]
    if found.promises:
        lines += ["", *_table([_promise_cells(promise) for promise in found.promises], _PROMISE_HEAD)]
    if found.results:
        rows = [(one.name, _figure(one.p50), _figure(one.p99), one.unit, str(one.n)) for one in found.results]
        lines += ["", *_table(rows, ("result", "p50", "p99", "unit", "n"))]
    return lines


_PROMISE_HEAD = ("promise", "measured", "bound", "", "ours", "theirs", "peer")


def _promise_cells(promise: Promise) -> tuple[str, ...]:
    return (
        promise.promise,
        _figure(promise.measured),
        f"{promise.op} {_figure(promise.bound)}",
        promise.verdict,
        _figure(promise.ours),
        _figure(promise.theirs),
        promise.peer if promise.measured is not None else promise.reason,
    )


def _table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> list[str]:
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    short = _short(value)
    assert short is not None, "a figure stays one"
    return f"{short:,.0f}" if abs(short) >= 1000 else f"{short:g}"


def _short(value: float | None) -> float | None:
    """Five digits: more is noise."""
    return None if value is None else float(f"{value:.5g}")


def machine() -> str:
    """The processor's name and the architecture."""
    named = ""
    with open("/proc/cpuinfo") as facts:
        for line in facts:
            if line.startswith("model name"):
                named = line.partition(":")[2].strip()
                break
    return f"{named or 'unnamed processor'} ({platform.machine()})"


def commit() -> str:
    """The commit of the tree that this package lies in, "unknown" where it lies in none; "+" behind it says that files were changed."""
    tree = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(["git", "-C", str(tree), "describe", "--always", "--dirty=+", "--abbrev=12"], capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"  # no git on this host
    return done.stdout.strip() if done.returncode == 0 else "unknown"
