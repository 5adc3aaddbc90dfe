"""Each bound has its reason, and the asserts that relate them do their work."""

from __future__ import annotations

import ast
import subprocess
import sys
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

from pks.base import limits

SOURCE = Path(limits.__file__).read_text()


def test_every_bound_has_a_reason_beside_it() -> None:
    body = ast.parse(SOURCE).body
    for statement, following in pairwise(body):
        if isinstance(statement, ast.Assign):
            name = ast.unparse(statement.targets[0])
            assert name.isupper(), name
            assert isinstance(following, ast.Expr), f"{name} has no reason"
            assert isinstance(following.value, ast.Constant), f"{name} has no reason"
            assert len(str(following.value.value)) > 10, f"{name} has no reason"


def test_time_min_is_1990() -> None:
    assert limits.DATE_MIN == (date(1990, 1, 1) - date(1970, 1, 1)).days
    assert limits.TIME_MIN_NS == limits.DATE_MIN * 86_400 * 10**9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EVENTS_CAPACITY", "(1 << 18) + 1"),
        ("EVENTS_CAPACITY_SMALL", "4096"),
        ("GROUP_RECORDS_MAX", "8192"),
        ("DEDUP_KEYS_MIN", "2048"),
        ("PARK_NS_MAX", "10**9"),
        ("REST_NS_MAX", "200_000_000"),
        ("EDGE_REST_NS_MAX", "600_000_000"),
        ("HEARTBEAT_STALE_NS", "300_000_000"),
        ("DATE_MIN", "7306"),
    ],
)
def test_a_bound_that_breaks_a_relation_stops_the_import(name: str, value: str) -> None:
    lines = [f"{name} = {value}" if line.startswith(f"{name} = ") else line for line in SOURCE.splitlines()]
    changed = "\n".join(lines)
    assert changed != SOURCE.rstrip("\n")
    ran = subprocess.run([sys.executable, "-c", changed], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "AssertionError" in ran.stderr


@pytest.mark.parametrize(("value", "expected"), [(1, True), (2, True), (1 << 40, True), (0, False), (-4, False), (3, False), (6, False)])
def test_is_power_of_two(value: int, expected: bool) -> None:
    assert limits.is_power_of_two(value) is expected
