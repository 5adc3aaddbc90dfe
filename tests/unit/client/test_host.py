"""Attaching, what the host says of itself, and readers of a system that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

import pks
from pks.client import NotInThisBuild, SegmentMissing, SegmentNotReady, StaleHost
from pks.client import host as host_module
from pks.layouts.fields import SEGMENTS
from pks.segments.errors import LayoutUnknown
from pks.segments.ring import RingReader
from pks.segments.shm import Segment, retire, segment_name
from tests.unit.client.small_host import HOUR_NS, SmallHost

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"posix_ipc", "msgspec", "click", "textual", "uvloop", "structlog", "psutil", "pyarrow"}:
            raise ImportError(f"{name} is not for readers")
sys.meta_path.insert(0, Block())
import pks
host = pks.attach(sys.argv[1])
position = host.positions["ALPHA", "SBER.MOEX"]
changed = [one.book for one in host.updates(timeout=0, initial=True)]
print(position.quantity, position.average_price, host.accepted_sequence, len(host.accounts), changed)
"""


@pytest.mark.timeout(240)  # a fresh process on a fresh tree compiles first
def test_a_reader_needs_numpy_and_numba_alone(small: SmallHost) -> None:
    small.put("ALPHA", "SBER.MOEX", 5, 31640)
    small.put_account("NSD-RU-01", "ALPHA", "SBER.MOEX", 5)
    ran = subprocess.run([sys.executable, "-c", BLOCKED, small.instance], capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "5 316.4 0 1 ['ALPHA']"


def test_nothing_runs(monkeypatch) -> None:
    with pytest.raises(SegmentMissing, match=r"pks-refdata-v1\.nobody"):
        pks.attach("nobody")
    monkeypatch.setenv("PKS_INSTANCE", "elsewhere")
    with pytest.raises(SegmentMissing, match="elsewhere"):
        pks.attach()


def test_attach_waits_for_a_system_that_starts(tmp_path, instance) -> None:
    made: list[SmallHost] = []
    starter = threading.Timer(0.1, lambda: made.append(SmallHost(tmp_path, instance)))
    starter.start()
    try:
        with pks.attach(instance, timeout=20) as host:
            assert host.instance == instance
    finally:
        starter.join()
        made[0].close()


@pytest.fixture
def instance() -> str:
    return f"test{os.getpid()}b"


def test_cursors_are_those_of_the_events_ring(small, host) -> None:
    events = small.host.events
    events.control[0] = 40  # the head
    for name, cursor in (("journal", 30), ("accumulator-0", 25), ("accumulator-1", 20)):
        reader = RingReader(events, name)
        reader.cursor = cursor
        reader.finish()
    assert (host.accepted_sequence, host.durable_sequence, host.applied_sequence) == (40, 30, 20)
    assert host.shards == 2


def test_the_heartbeat_has_an_age(small, host) -> None:
    small.live(-HOUR_NS // 3_600 // 2)  # half a second ago
    assert 0.5 <= host.heartbeat_age < 1


EVERY_CALL = {
    "durable_sequence": lambda host: host.durable_sequence,
    "accepted_sequence": lambda host: host.accepted_sequence,
    "applied_sequence": lambda host: host.applied_sequence,
    "heartbeat_age": lambda host: host.heartbeat_age,
    "position": lambda host: host.positions["ALPHA", "SBER.MOEX"],
    "another position": lambda host: host.positions["ALPHA", "GAZP.MOEX"],
    "contains": lambda host: ("ALPHA", "SBER.MOEX") in host.positions,
    "get": lambda host: host.positions.get("ALPHA", "SBER.MOEX"),
    "len": lambda host: len(host.positions),
    "iter": lambda host: list(host.positions),
    "find": lambda host: host.positions.find("ALPHA"),
    "snapshot": lambda host: host.positions.snapshot(),
    "to_numpy": lambda host: host.positions.to_numpy(),
    "to_arrow": lambda host: host.positions.to_arrow(),
    "to_dicts": lambda host: host.positions.to_dicts(),
    "accounts": lambda host: host.accounts,
    "names": lambda host: host.names,
    "updates": lambda host: host.updates(),
    "update_rings": lambda host: host.update_rings,
}


@pytest.mark.parametrize("reason", ["closed", "silent"])
def test_every_call_says_that_the_system_is_gone(small, host, reason) -> None:
    small.put("ALPHA", "SBER.MOEX", 5)
    small.put("ALPHA", "GAZP.MOEX", 5)
    for call in EVERY_CALL.values():
        call(host)
    handle, stream, accounts = host.positions.handle("ALPHA", "SBER.MOEX"), host.updates(), host.accounts
    if reason == "closed":
        small.host.segment("positions").mark_closed()
        small.host.segment("accounts").mark_closed()
    else:
        small.live(-2 * 10**9)
    calls = {
        **EVERY_CALL, "handle": lambda host: handle.read(), "stream": lambda host: next(stream), "poll": lambda host: stream.poll(),
        "accounts kept": lambda host: list(accounts),
    }  # fmt: skip
    for name, call in calls.items():
        with pytest.raises(StaleHost):
            pytest.fail(f"{name} answered {call(host)!r}")


def test_a_host_that_was_let_go_says_so(small) -> None:
    with pks.attach(small.instance) as host:
        small.put("ALPHA", "SBER.MOEX", 5)
        handle = host.positions.handle("ALPHA", "SBER.MOEX")
    with pytest.raises(StaleHost, match="let go of by this program"):
        _ = host.durable_sequence
    with pytest.raises(StaleHost, match="let go of by this program"):
        _ = host.positions
    assert handle.read().quantity == 5
    assert "closed" in repr(host)


def test_a_restarted_system_is_attached_anew(tmp_path, small, host) -> None:
    small.put("ALPHA", "SBER.MOEX", 5)
    assert host.positions["ALPHA", "SBER.MOEX"].quantity == 5
    again = SmallHost(tmp_path, small.instance)  # retires the segments of the first
    try:
        again.put("ALPHA", "SBER.MOEX", 6)
        with pytest.raises(StaleHost):
            _ = host.positions["ALPHA", "SBER.MOEX"]
        assert pks.attach(small.instance).positions["ALPHA", "SBER.MOEX"].quantity == 6
    finally:
        again.close()


def test_a_system_of_another_version_is_refused(small, monkeypatch) -> None:
    later = replace(SEGMENTS["positions"], version=SEGMENTS["positions"].version + 1)
    monkeypatch.setattr(host_module, "SEGMENTS", {**SEGMENTS, "positions": later})
    with pytest.raises(LayoutUnknown, match="layout version"):
        pks.attach(small.instance)


def test_a_system_that_starts_is_not_ready(small) -> None:
    name, layout = segment_name("pks-positions-v1", small.instance), SEGMENTS["positions"]
    retire(name)
    made = Segment.create(name, layout_name=layout.name, layout_version=layout.version, layout_hash=layout.hash, body_bytes=8)
    with pytest.raises(SegmentNotReady):
        pks.attach(small.instance)
    made.mark_closed()


def test_what_is_not_in_this_build_says_so(host) -> None:
    with pytest.raises(NotInThisBuild, match="md-marks-v1"):
        _ = host.marks["SBER"]
    with pytest.raises(NotInThisBuild, match="pks-greeks-v1"):
        _ = host.greeks["ALPHA", "SBER"]
