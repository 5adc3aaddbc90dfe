"""Fills at full speed, and readers of three kinds that never see a torn position: C by the header, compiled loops, Python by name.

With the version check taken out, each kind sees torn copies: the race is real. The examples run against the same stream.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numba import njit

import pks
from pks.client import kernels
from pks.client.kernels import clock_ns, position_read_live, read_held
from pks.layouts.slots import POSITION_WORDS
from tests.race.processes import CORES, child, wait_for
from tests.race.variants import variant
from tests.unit.client.filler import CHUNK, FEE, PRICE, Filler, is_whole
from tests.unit.client.small_host import BOOKS, INSTRUMENTS, SmallHost

pytestmark = pytest.mark.timeout(120)  # real processes on shared cores

ROOT = Path(__file__).resolve().parents[2]
BOOK, INSTRUMENT = "ALPHA", "SBER.MOEX"
NO_CHECK = "-DPKS_UNCHANGED(before,now)((void)(now),(before)>=0)"
CHANGES_MIN = 100  # that a reader must have met for its answer to mean something
UNSTABLE_MAX = 100  # reads that gave up, each after many tries, against a writer that does nothing but write this slot
WARM = 3  # calls of a kernel before the writer starts


def needs_compiler() -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallHost]:
    small = SmallHost(tmp_path, f"race{os.getpid()}")
    try:
        yield small
    finally:
        small.close()


@pytest.fixture
def filler(small: SmallHost, make_segment) -> Filler:
    """The stream's writer, its kernels compiled."""
    return Filler(small, make_segment(4096).body)


@contextmanager
def streaming(filler: Filler) -> Iterator[None]:
    """The writer at full speed on a core of its own, while the block runs."""
    written = filler.small.host.positions.slots
    with child(filler.run):
        wait_for(written[filler.row], 0, 2 * CHUNK)
        try:
            yield
        finally:
            filler.stop[0] = 1


def compiled(source: Path, target: Path, *flags: str) -> Path:
    command = ["gcc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'include'}", *flags, str(source), "-o", str(target)]
    subprocess.run(command, check=True, timeout=50)
    return target


def run_reader(program: Path, small: SmallHost, reads: int) -> list[int]:
    """(good, torn, unstable, back, changes, ns) of the C reader."""
    words = [str(program), small.instance, str(BOOKS[BOOK]), str(INSTRUMENTS[INSTRUMENT]), str(reads)]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=50)
    assert ran.returncode == 0, f"{ran.returncode}: {ran.stderr}"
    return [int(word) for word in ran.stdout.split()]


# C


def test_c_reads_are_whole(filler, tmp_path) -> None:
    needs_compiler()
    program = compiled(ROOT / "tests" / "race" / "reader.c", tmp_path / "reader")
    changes, deadline = 0, time.monotonic() + 20  # on a busy machine the writer is seldom at work beside the reader
    with streaming(filler):
        while changes <= CHANGES_MIN and time.monotonic() < deadline:
            good, torn, unstable, back, more, _ = run_reader(program, filler.small, 3_000_000)
            assert (torn, back) == (0, 0)
            assert good + unstable == 3_000_000
            assert unstable < UNSTABLE_MAX
            changes += more
    assert changes > CHANGES_MIN


@pytest.mark.skipif(len(CORES) < 2, reason="two processes must run at the same moment")
def test_a_c_reader_without_the_version_check_is_caught(filler, tmp_path) -> None:
    needs_compiler()
    program = compiled(ROOT / "tests" / "race" / "reader.c", tmp_path / "reader", NO_CHECK)
    torn, deadline = 0, time.monotonic() + 20
    with streaming(filler):
        while torn == 0 and time.monotonic() < deadline:
            torn += run_reader(program, filler.small, 1_000_000)[1]
    assert torn > 0


def test_c_finds_what_python_finds(small, tmp_path) -> None:
    needs_compiler()
    program = compiled(ROOT / "examples" / "read_positions.c", tmp_path / "read_positions")
    rows = {}
    for number, (book, instrument) in enumerate([(book, instrument) for book in BOOKS for instrument in INSTRUMENTS], start=1):
        small.put(book, instrument, number * (-1) ** number, 250, qty_scale=2, realised=number * 10**18)
        rows[book, instrument] = number
    ran = subprocess.run([str(program), "-i", small.instance], capture_output=True, text=True, timeout=20)
    assert ran.returncode == 0, ran.stderr
    with pks.attach(small.instance) as host:
        lines = {tuple(line.split()[:2]): line.split()[2:] for line in ran.stdout.splitlines()}
        assert lines.keys() == rows.keys()
        for (book, instrument), (quantity, _, cost, _, realised, _, lots, _, event) in lines.items():
            position = host.positions[book, instrument]
            assert quantity == f"{position.quantity:.2f}"
            assert (float(cost), float(realised)) == pytest.approx((float(position.cost), float(position.realised_gross)))
            assert (int(lots), int(event)) == (position.open_lots, position.last_sequence)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [(["-i", "nobody"], 3, "not running"), ([BOOK, "NOTHING"], 1, "no such position"), ([BOOK], 2, "BOOK INSTRUMENT")],
)
def test_the_c_example_says_what_is_wrong(small, tmp_path, monkeypatch, arguments, code, text) -> None:
    needs_compiler()
    program = compiled(ROOT / "examples" / "read_positions.c", tmp_path / "read_positions")
    monkeypatch.setenv("PKS_INSTANCE", small.instance)
    ran = subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=20)
    assert (ran.returncode, text in ran.stderr) == (code, True)


def test_the_c_example_watches_a_stream_and_sees_its_end(filler, tmp_path) -> None:
    needs_compiler()
    program = compiled(ROOT / "examples" / "read_positions.c", tmp_path / "read_positions")
    with streaming(filler):
        for seconds in ("0.3", "1", "3", "9"):  # on a busy machine the watcher seldom gets a processor
            words = [str(program), "-i", filler.small.instance, "-w", seconds, BOOK, INSTRUMENT]
            ran = subprocess.run(words, capture_output=True, text=True, timeout=60)
            assert ran.returncode == 0, ran.stderr
            events = [int(line.split()[-1]) for line in ran.stdout.splitlines()]
            if len(events) > 10:
                break
    assert len(events) > 10
    assert events == sorted(set(events))
    for line in ran.stdout.splitlines():
        assert int(line.split()[2]) == int(line.split()[-1])  # a unit an event
    filler.small.host.segment("positions").mark_closed()
    gone = subprocess.run(words, capture_output=True, text=True, timeout=20)
    assert (gone.returncode, "not running" in gone.stderr) == (3, True)


# compiled loops


def make_reading(read):
    """A loop of `count` reads by `read`: (good, torn, unstable, trouble)."""

    @njit
    def loop(table, row, target, room, count):
        header, slots, _, _ = table
        good = torn = unstable = 0
        for _ in range(count):
            version = read(header, slots, row, target, clock_ns(room))
            if version == -1:
                unstable += 1
            elif version < 0:
                return good, torn, unstable, version
            elif is_whole(target):
                good += 1
            else:
                torn += 1
        return good, torn, unstable, 0

    return loop


read_loop = make_reading(position_read_live)


def test_compiled_reads_are_whole(filler) -> None:
    target, room = np.zeros(POSITION_WORDS, np.int64), np.zeros(2, np.int64)
    with pks.attach(filler.small.instance) as host:
        table = host.positions.arrays
        read_loop(table, filler.row, target, room, WARM)
        with streaming(filler):
            good, torn, unstable, trouble = read_loop(table, filler.row, target, room, 2_000_000)
    assert (torn, trouble) == (0, 0)
    assert good + unstable == 2_000_000
    assert unstable < UNSTABLE_MAX


# Python


@pytest.mark.parametrize("by", ["name", "handle", "snapshot"])
def test_python_reads_are_whole(filler, by) -> None:
    with pks.attach(filler.small.instance) as host:
        handle, rows = host.positions.handle(BOOK, INSTRUMENT), np.array([filler.row])
        read = {
            "name": lambda: host.positions[BOOK, INSTRUMENT],
            "handle": handle.read,
            "snapshot": lambda: host.positions.views(host.positions.snapshot(rows))[0],
        }[by]
        read()
        with streaming(filler):
            last, changes, deadline = 0, 0, time.monotonic() + 20
            while changes < 4 * CHANGES_MIN and time.monotonic() < deadline:
                position = read()
                n = position.last_sequence
                assert n >= last
                assert (position.quantity, position.cost, position.trades_count) == (n, n * PRICE, n)
                assert int(position.record["fees_lo"][0]) == n * FEE
                changes, last = changes + (n != last), n
    assert changes > CHANGES_MIN


@pytest.mark.skipif(len(CORES) < 2, reason="two processes must run at the same moment")
def test_a_handle_without_the_version_check_is_caught(filler) -> None:
    careless = variant(read_held, kernels, "if load_acquire(whole, place) == before:", "if before >= 0:")
    segment = filler.small.host.positions.segment
    place = (filler.small.host.positions.slots.ctypes.data - segment.whole.ctypes.data) // 8
    place += filler.row * filler.small.host.positions.slots.shape[1]

    @njit
    def count_torn(whole, place, target, count):
        torn = 0
        for _ in range(count):
            if careless(whole, place, target) >= 0 and not is_whole(target):
                torn += 1
        return torn

    target = np.zeros(POSITION_WORDS + 2, np.int64)
    count_torn(segment.whole, place, target, WARM)
    torn, deadline = 0, time.monotonic() + 20
    with streaming(filler):
        while torn == 0 and time.monotonic() < deadline:
            torn += count_torn(segment.whole, place, target, 1_000_000)
    assert torn > 0


def test_updates_of_a_stream_never_go_back_and_reach_the_end(filler) -> None:
    with pks.attach(filler.small.instance) as host:
        stream = host.updates(book=BOOK, timeout=0.5)
        host.updates(timeout=0, initial=True).poll()
        seen = []
        with streaming(filler):
            for position in stream:
                assert position.cost == position.quantity * PRICE
                seen.append(position.last_sequence)
                if len(seen) == 300:
                    break
        seen += [position.last_sequence for position in stream.poll()]
        assert seen == sorted(set(seen))
        assert seen[-1] == host.positions[BOOK, INSTRUMENT].last_sequence


# the Python example


@pytest.mark.timeout(240)  # a fresh process on a fresh tree compiles first
@pytest.mark.parametrize("way", [[], ["--compiled", "--instrument", INSTRUMENT]], ids=["updates", "compiled"])
def test_the_strategy_follows_the_stream(filler, way) -> None:
    words = [
        sys.executable,
        str(ROOT / "examples" / "strategy.py"),
        "--instance",
        filler.small.instance,
        "--book",
        BOOK,
        "--seconds",
        "1.5",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with streaming(filler):
        ran = subprocess.run([*words, *way], capture_output=True, text=True, timeout=200, env=environment)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    changes = int(lines[-1].split()[0])
    assert changes > 3
    if way:
        assert f"{changes} changes met" in lines[0]
    else:
        assert len(lines) == changes + 1
        for line in lines[:-1]:
            words = line.split()
            assert int(words[1]) == int(words[5].rstrip(":"))  # quantity and event: a unit a fill
            assert words[3] == str(PRICE)
        assert "SELL" in lines[-2]


def test_the_strategy_says_that_nothing_runs() -> None:
    words = [sys.executable, str(ROOT / "examples" / "strategy.py"), "--instance", "nobody", "--book", BOOK]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=50, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (ran.returncode, "does not exist" in ran.stderr) == (3, True)
