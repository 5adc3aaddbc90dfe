"""The tree's own files agree: dependencies, lock, and the helpers of `conftest`."""

from __future__ import annotations

import re
import sys
import threading
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import wait_until

ROOT = Path(__file__).resolve().parents[3]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(name: str) -> list[str]:
    return sorted(line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#"))


def test_requirement_files_repeat_pyproject() -> None:
    assert requirements("requirements.in") == sorted(PYPROJECT["project"]["dependencies"])
    assert requirements("requirements-dev.in") == sorted(PYPROJECT["dependency-groups"]["dev"])


def test_every_dependency_has_a_reason_beside_it() -> None:
    wanted = PYPROJECT["project"]["dependencies"] + PYPROJECT["dependency-groups"]["dev"]
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for requirement in wanted:
        (line,) = [line for line in lines if line.strip().startswith(f'"{requirement}"')]
        assert re.search(r"#\s+\S.{7,}", line), f"{requirement} has no reason"


def test_lock_pins_everything_with_hashes_and_names_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    blocks = re.split(r"\n(?=[a-z])", text.strip())
    pinned = {re.match(r"[a-z0-9-]+", block)[0] for block in blocks if re.match(r"[a-z0-9-]+==\S+", block) and "--hash=sha256:" in block}  # type: ignore[index]
    assert len(pinned) == len(blocks), "one version of each, for every Python and platform"
    for requirement in PYPROJECT["project"]["dependencies"] + PYPROJECT["dependency-groups"]["dev"]:
        assert re.split(r"[><=\[]", requirement)[0].replace("_", "-") in pinned


def test_wait_until_returns_when_the_condition_holds() -> None:
    event = threading.Event()
    timer = threading.Timer(0.05, event.set)
    timer.start()
    start = time.monotonic()
    wait_until(event.is_set, 30)
    timer.join()
    assert time.monotonic() - start < 20


def test_wait_until_fails_by_name_at_its_deadline() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"not within 0\.01 s: the moon"):
        wait_until(lambda: False, 0.01, "the moon")


def test_conftest_is_one_module() -> None:
    ours = [
        module for module in sys.modules.values() if getattr(module, "__file__", None) == str(Path(__file__).parents[2] / "conftest.py")
    ]
    assert len(ours) == 1


def test_rng_repeats_for_a_seed(rng: np.random.Generator, seed: int) -> None:
    assert rng.integers(1 << 62) == np.random.default_rng(seed).integers(1 << 62)
