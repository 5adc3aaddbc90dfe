"""A small host of this test process, and a reader attached to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pks
from pks.client import Host
from tests.unit.client.small_host import SmallHost


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallHost]:
    small = SmallHost(tmp_path, f"test{os.getpid()}")
    try:
        yield small
    finally:
        small.close()


@pytest.fixture
def host(small: SmallHost) -> Iterator[Host]:
    with pks.attach(small.instance) as host:
        yield host
