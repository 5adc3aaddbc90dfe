"""`pks top`: a frame is a pure function of two looks; the screen comes back as it was."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pks.cli.top import RingFact, aligned, clip, duration, rate, ring_fact, since
from pks.layouts.event import EVENT
from pks.segments.counters import BUCKETS, Histogram, bucket_of
from pks.segments.ring import RingWriter
from tests.unit.cli.conftest import Run, running_here
from tests.unit.client.small_host import SmallHost


def histogram(*values: int) -> Histogram:
    buckets = np.zeros(BUCKETS, np.int64)
    for value in values:
        buckets[bucket_of(value)] += 1
    return Histogram(buckets, sum(values), max(values, default=0))


@pytest.fixture
def live(tmp_path: Path) -> Iterator[SmallHost]:
    small = SmallHost(tmp_path, f"testtop{os.getpid()}")
    try:
        with running_here(tmp_path, small.instance, small.shards):
            yield small
    finally:
        small.close()


def test_percentiles_are_of_the_time_between() -> None:
    before, now = histogram(10, 10, 10), histogram(10, 10, 10, 5000)
    assert since(before, now).count == 1
    assert since(before, now).percentiles([50])[0] >= 5000
    assert since(None, now).count == 4
    assert since(now, before).count == 3, "a new start counts from nothing"


@pytest.mark.parametrize(
    ("value_ns", "shown"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1500, "1.5 us"),
        (999_999, "1000 us"),
        (2_500_000, "2.5 ms"),
        (61_000_000_000, "61 s"),
        (10**13, "10000 s"),
    ],
)
def test_durations(value_ns: int, shown: str) -> None:
    assert duration(value_ns) == shown


def test_rates() -> None:
    assert rate(1000, 3000, 2.0) == "1,000"
    assert rate(None, 3000, 2.0) == "-"
    assert rate(4000, 3000, 2.0) == "-", "another life"


def test_columns_and_clipping() -> None:
    assert aligned([("a", "1"), ("日本", "23")], left=(0,)) == ["a      1", "日本  23"]
    assert clip("日本語", 5) == "日本"


def test_one_frame(pks_run: Run, live: SmallHost, tmp_path: Path) -> None:
    cells = live.host.control.owner(0)
    live.host.control.watch(0, name="capture", pid=os.getpid(), state=1)
    live.host.control.report(0).write(pid=os.getpid(), heartbeat_ns=time.monotonic_ns(), cursor=17, lag=3, last_error="so it goes")
    cells.counter("events_accepted").add(41)
    cells.histogram("reply_ns").record(1500, 10)
    live.put("ALPHA", "SBER.MOEX", 10)
    result = pks_run(tmp_path, "top", "--once", "--interval", "0.1")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"pks {live.instance}  STARTING  pid {os.getpid()}  2 shard(s)")
    (worker,) = [line for line in lines if line.startswith("capture") and "so it goes" in line]
    assert worker.split()[:3] == ["capture", "STARTING", str(os.getpid())]
    (reply,) = [line for line in lines if line.startswith("capture reply_ns")]
    assert reply.split()[2] == "10"
    assert "[1.54 us]" in reply or "[1.5 us]" in reply
    assert any(line.split()[:3] == ["capture", "events_accepted", "41"] for line in lines)


def test_ring_is_as_full_as_its_slowest_reader_says(live: SmallHost) -> None:
    ring = live.host.events
    RingWriter(ring).publish(np.zeros(5, EVENT))
    fact = ring_fact("events", ring)
    assert fact == RingFact("events", ring.capacity, 5, 5, fact.slowest)
    assert fact.slowest in ("journal", "accumulator-0", "accumulator-1")
    assert ring_fact("updates", live.host.updates(0)).waiting == 0, "nobody holds it back"


def test_not_running_is_one_line(pks_run: Run, tmp_path: Path) -> None:
    result = pks_run(tmp_path, "top", "--once")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("pks: the system is not running")
    assert result.stderr.count("\n") == 1


def test_pipe_is_no_terminal(pks_run: Run, live: SmallHost, tmp_path: Path) -> None:
    result = pks_run(tmp_path, "top")
    assert (result.exit_code, result.stderr) == (2, "pks: a terminal is needed; use --once for one frame\n")


@pytest.mark.parametrize("end", ["q", "SIGINT", "SIGTERM"])
def test_screen_is_given_back(live: SmallHost, tmp_path: Path, end: str) -> None:
    controller, terminal = pty.openpty()
    environ = os.environ | {"PKS_DATA_DIR": str(tmp_path), "TERM": "xterm"}
    program = [sys.executable, "-c", "from pks.cli import main; main()", "top", "--interval", "0.1"]
    with subprocess.Popen(program, stdin=terminal, stdout=terminal, stderr=terminal, env=environ, start_new_session=True) as process:
        os.close(terminal)
        try:
            _watch_and_end(controller, process, end)
        finally:
            process.kill()
    os.close(controller)


def _watch_and_end(controller: int, process: subprocess.Popen[bytes], end: str) -> None:
    said = _read_until(controller, b"worker")
    assert said.startswith(b"\x1b[?1049h")
    if end == "q":
        os.write(controller, b"xq")
    else:
        process.send_signal(signal.Signals[end])
    rest = _read_until(controller, b"\x1b[?1049l")
    assert rest.endswith(b"\x1b[?1049l")
    assert process.wait(10) == 0


def _read_until(descriptor: int, wanted: bytes, deadline: float = 30.0) -> bytes:
    found = b""
    end = time.monotonic() + deadline
    while wanted not in found:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"{wanted!r} did not come; {found[-500:]!r} did"
        found += os.read(descriptor, 4096)
    return found
