"""A small host of this test process, a hub that looks at it, and clients whose connections are lists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.bff.streams import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, f"bff{os.getpid()}")
    try:
        yield made
    finally:
        made.close()
