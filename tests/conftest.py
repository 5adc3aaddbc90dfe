"""What every test shares: the folder of compiled code, the printed seed, and waiting for a condition.

It sets the environment before any test module imports `pks`, so tests and the processes that they start share one cache inside
the tree. Time in tests comes from `ManualClock`; chance from `seed` or `rng`, which PKS_TEST_SEED repeats.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

os.environ.setdefault("PKS_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".cache" / "pks"))

import hypothesis
import numpy as np
import pytest
from hypothesis import core as hypothesis_core

import pks

SEED = int(os.environ.get("PKS_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
os.environ["PKS_TEST_SEED"] = str(SEED)  # processes that tests start use the same one

POLL_SECONDS = 0.002

# A kernel's first call compiles, and two shared cores stall for longer than any per-example deadline: pytest-timeout watches.
hypothesis.settings.register_profile("pks", deadline=None, print_blob=True)
hypothesis.settings.load_profile("pks")


def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis draws from our seed too, unless its own flag gives one."""
    if config.getoption("hypothesis_seed", None) is None:
        hypothesis_core.global_force_seed = SEED


def pytest_report_header() -> list[str]:
    return [f"seed: PKS_TEST_SEED={SEED}", f"pks: {Path(pks.__file__).parent}, compiled code in {os.environ['NUMBA_CACHE_DIR']}"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The seed again where a failing run is read from: its end."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"to repeat the random choices: PKS_TEST_SEED={SEED}")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's own seed: the run's, mixed with the test's name, so that it does not depend on which tests run."""
    return crc32(request.node.nodeid.encode(), SEED)


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def mount_small(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """mount_small("64k") is an empty file system of that size, mount_small("16m", folder) one at that folder; it may skip the test."""
    mounted: list[Path] = []

    def mount(size: str, place: Path | None = None) -> Path:
        place = place or tmp_path / "small"
        place.mkdir(parents=True, exist_ok=True)
        if os.geteuid() != 0:
            pytest.skip("only root can mount a small file system")
        said = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "pks-test", str(place)], capture_output=True, text=True)
        if said.returncode != 0:
            pytest.skip(f"a small file system cannot be mounted here: {said.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def full_disk(place: Path, left_bytes: int = 0) -> Callable[[], None]:
    """Fill the disk of a folder but for some bytes; what is given back makes room again."""
    spare, ballast = place / "spare", place / "ballast"
    spare.write_bytes(bytes(left_bytes))
    with ballast.open("wb", buffering=0) as out:
        while _fill(out):
            pass
    spare.unlink()
    return ballast.unlink


def _fill(out: Any) -> bool:
    """Write some more; False when there is no room at all."""
    for size in (1 << 20, 1 << 12):
        try:
            return bool(out.write(bytes(size)))
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
    return False


def wait_until(condition: Callable[[], object], deadline: float, what: str = "") -> None:
    """Return as soon as `condition()` is true; fail the test when it is not within `deadline` seconds. `what` names it in the text."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() >= end:
            pytest.fail(f"not within {deadline} s: {what or getattr(condition, '__name__', condition)}")
        time.sleep(POLL_SECONDS)
