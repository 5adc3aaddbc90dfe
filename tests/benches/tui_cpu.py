"""What the blotter costs: processor share at 10,000 positions and 10 redraws a second, in a terminal of its own.

    python tests/benches/tui_cpu.py [--rows 10000] [--changes 100] [--seconds 10] [--size 140x45]

This process makes a host in shared memory and writes `changes` positions a tick, 20 of them on the screen, ten ticks a second. The blotter
runs in a process of its own on a pseudo-terminal, with the real driver; its bytes are read and thrown away. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import pty
import random
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.screens.blotter_host import BlotterHost

TICKS_A_SECOND = 10
ON_SCREEN = 20
BOUND = 0.15


def make_host(folder: Path, rows: int) -> tuple[BlotterHost, list[tuple[int, str, str]]]:
    """A host with `rows` positions over 20 books; (row, book, instrument) of each, in the order of the first screen."""
    books = {f"BOOK-{number:02}": (100 + number, f"ENT-{number % 3}", f"Desk {number % 7}") for number in range(20)}
    instruments = {f"INS{number:05}": (1000 + number, f"I{number}", "USD", 2, 0, (1, 1)) for number in range(-(-rows // 20))}
    host = BlotterHost(folder, f"tuicpu{os.getpid()}", positions=1 << rows.bit_length(), instruments=len(instruments) + 64, books=64)
    host.books.update(books)
    host.instruments.update(instruments)
    for code in books:
        host.define_book(code)
    for code in instruments:
        host.define_instrument(code)
    placed = []
    for number in range(rows):
        book, instrument = f"BOOK-{number % 20:02}", f"INS{number // 20:05}"
        placed.append(
            (host.put(book, instrument, number % 2_000 - 1_000, 10_000 + number % 977, realised=number * 7 - 30_000), book, instrument)
        )
    return host, sorted(placed, key=lambda one: one[1:])


def write_ticks(host: BlotterHost, placed: list[tuple[int, str, str]], changes: int, stop: threading.Event, chance: random.Random) -> None:
    """Change positions ten times a second until `stop`."""
    begin, tick = time.monotonic(), 0
    while not stop.wait(max(0.0, begin + tick / TICKS_A_SECOND - time.monotonic())):
        tick += 1
        chosen = placed[:ON_SCREEN] + chance.sample(placed[ON_SCREEN:], changes - ON_SCREEN)
        for number, (_, book, instrument) in enumerate(chosen):
            host.put(book, instrument, (tick * 31 + number * 17) % 5_000 - 2_500, 10_000 + tick, realised=tick * 1_001 - number)
        host.live(10**9 // 2)


def drain(terminal: int, counted: list[int]) -> None:
    """Read what the blotter draws until it closes its terminal."""
    while True:
        try:
            counted[0] += len(os.read(terminal, 1 << 16))
        except OSError:
            return


def main() -> None:
    """Measure, print one JSON line; exit 1 above the bound."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--size", default="140x45")
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead (cProfile, which itself costs)")
    a = parser.parse_args()
    columns, lines = (int(part) for part in a.size.split("x"))
    folder = Path(tempfile.mkdtemp(prefix="pks-tui-cpu-"))
    host, placed = make_host(folder, a.rows)
    stop = threading.Event()
    writer = threading.Thread(target=write_ticks, args=(host, placed, a.changes, stop, random.Random(7)), daemon=True)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    program = f"from pks.tui.app import Blotter; from pks.tui.feed import Feed; Blotter(Feed({host.instance!r}, None)).run()"
    if a.profile:
        program = f"import cProfile; cProfile.run({program!r}, {str(folder / 'profile')!r})"
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    counted = [0]
    try:
        writer.start()
        blotter = subprocess.Popen(
            [sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        threading.Thread(target=drain, args=(ours, counted), daemon=True).start()
        time.sleep(6.0)
        process = psutil.Process(blotter.pid)
        before, bytes_before, began = process.cpu_times(), counted[0], time.perf_counter()
        time.sleep(a.seconds)
        after, elapsed = process.cpu_times(), time.perf_counter() - began
        memory = process.memory_full_info()
        os.write(ours, b"q")
        blotter.wait(20)
    finally:
        stop.set()
        writer.join(5)
        host.close()
    share = (after.user + after.system - before.user - before.system) / elapsed
    if a.profile:
        import pstats

        pstats.Stats(str(folder / "profile")).sort_stats("cumtime").print_stats(70)
    print(
        json.dumps(
            {
                "bench": "tui", "machine": platform.machine(), "cores": os.cpu_count(), "rows": a.rows, "changes_per_tick": a.changes,
                "redraws_per_s": TICKS_A_SECOND, "size": a.size, "cpu_share": round(share, 3), "bound": BOUND,
                "load": round(os.getloadavg()[0], 1), "terminal_kb_per_s": round((counted[0] - bytes_before) / elapsed / 1024, 1),
                "pss_mb": round(memory.pss / 2**20),
            }
        )
    )  # fmt: skip
    sys.exit(not a.profile and share > BOUND)


if __name__ == "__main__":
    main()
