"""The compiled clock is the machine's monotonic one."""

from __future__ import annotations

import time

from pks.base.kernels import clock_room, monotonic_ns


def test_monotonic_ns_lies_between_two_readings() -> None:
    room = clock_room()
    before = time.monotonic_ns()
    read = int(monotonic_ns(room))
    assert before <= read <= time.monotonic_ns()
