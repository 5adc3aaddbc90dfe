"""`pks shm dump|header|fields` on a small host."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pks.cli import main
from pks.layouts.cheader import render_header
from pks.layouts.event import EVENT
from pks.layouts.fields import FIELDS, LAYOUTS
from pks.segments.ring import RingWriter
from tests.unit.client.small_host import BOOKS, INSTRUMENTS, SIZES


def pks(*words: str) -> Result:
    return CliRunner().invoke(main, ["shm", *words])


def rows(*words: str) -> list[dict[str, object]]:
    ran = pks("dump", *words, "--json")
    assert ran.exit_code == 0, ran.output
    return [json.loads(line) for line in ran.output.splitlines()]


def test_header_is_the_rendering() -> None:
    assert pks("header").output == render_header()


def test_fields_of_all_layouts_and_of_one() -> None:
    ran = pks("fields")
    assert ran.exit_code == 0
    for layout in LAYOUTS:
        assert f"{layout.name} v{layout.version}, {layout.dtype.itemsize} bytes" in ran.output
    assert len(json.loads(pks("fields", "--json").output)) == len(FIELDS)
    some = json.loads(pks("fields", "--layout", "account", "--json").output)
    assert {
        "layout": "account",
        "name": "qty_raw",
        "offset_bytes": 24,
        "bytes": 8,
        "tier": 0,
        "dtype": "<i8",
        "unit": "10^-qty_scale",
    }.items() <= (some[6].items())
    assert "no layout 'nothing'" in pks("fields", "--layout", "nothing").stderr


@pytest.mark.parametrize("way", ["positions", "pks-positions-v1", "/pks-positions-v1"])
def test_dump_of_a_table(small, way) -> None:
    row = small.put("ALPHA", "SBER.MOEX", 5)
    small.put("BETA", "SBER.MOEX", 6)
    small.put("ALPHA", "SBER.MOEX", 7)
    found = rows(way, "--instance", small.instance)
    assert [(one["part"], one["book_id"], one["instrument_id"], one["qty_raw"]) for one in found] == [
        ("positions", BOOKS["BETA"], INSTRUMENTS["SBER.MOEX"], 6),
        ("positions", BOOKS["ALPHA"], INSTRUMENTS["SBER.MOEX"], 7),
    ]
    assert found[1]["row"] == row
    assert len(rows(f"{way}.{small.instance}", "--rows", "1")) == 1


def test_dump_of_rings_and_intake_and_control(small) -> None:
    for quantity in range(2 * SIZES.updates):
        small.put("ALPHA", "SBER.MOEX", quantity)
    shard = BOOKS["ALPHA"] % 2
    found = rows(f"updates-{shard}", "--instance", small.instance, "--rows", "3")
    assert [one["sequence"] for one in found] == [2 * SIZES.updates - 2, 2 * SIZES.updates - 1, 2 * SIZES.updates]
    event = np.zeros(1, EVENT)
    event["trade_id"] = b"T-1"
    RingWriter(small.host.intake(3).requests).publish(event)
    assert [(one["part"], one["trade_id"]) for one in rows("intake-3", "--instance", small.instance)] == [("requests", "T-1")]
    assert rows("events", "--instance", small.instance) == []
    parts = [one["part"] for one in rows("control", "--instance", small.instance)]
    assert parts.count("report") == parts.count("watch") == len(small.plans) + 1


def test_dump_for_people_says_what_the_segment_is(small) -> None:
    small.put("ALPHA", "SBER.MOEX", 5)
    small.live(-5 * 10**9)  # a system that hangs can still be looked at
    ran = pks("dump", "positions", "--instance", small.instance)
    assert ran.exit_code == 0
    head, line = ran.output.splitlines()
    assert "position v1" in head and "LIVE" in head and "last heartbeat 5." in head
    assert "qty_raw=5" in line and "clearing" not in line


def test_dump_of_what_is_not_there(small) -> None:
    ran = pks("dump", "nothing", "--instance", small.instance)
    assert ran.exit_code == 2
    assert "no segment 'nothing'" in ran.stderr and "pks-positions-v1" in ran.stderr
    assert "is the system running?" in pks("dump", "positions", "--instance", "nobody").stderr
