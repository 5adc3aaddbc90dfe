"""`pks bench book`: a large file of public prints through `pks book`, into a running system of its own.

Promise: `book_rows_per_s`. The file has the shape of Binance's aggregate trades: runs of one side within a millisecond, in the order of
time. Whole command: start of the program, reading, booking, the last durable answer. Its memory is told, which must not grow with the file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from pks.base.errors import Fatal
from pks.bench.report import Measured, Plan, Promise, result
from pks.bench.system import System
from pks.edges.files.coins import spot_pair
from pks.engine.instruments.definitions import AnyDefinition, Book, Currency, Entity

CHUNK_ROWS = 100_000
FIRST_MS = 1_570_752_011_620  # 2019-10-11
GAP_MS_MEAN = 600
PRINTS_A_RUN_MEAN = 2.5
OPTIONS = ("--instrument", "XRPETH", "--quote-currency", "ETH", "--books", "B1,B2")


class BookingFailed(Fatal):
    """`pks book` ended with an error."""

    def __init__(self, said: str) -> None:
        super().__init__(f"pks book failed: {said}")


def prints_desk() -> list[AnyDefinition]:
    """What the file needs: two coins, their pair, two books."""
    return [
        *(Currency(code=code, minor_digits=8) for code in ("ETH", "XRP")),
        Entity(code="E", functional_currency="ETH", timezone="UTC"),
        *(Book(code=code, entity="E", method="FIFO", oversell="FLIP", report_currency="ETH", zone="UTC") for code in ("B1", "B2")),
        spot_pair("XRPETH.SPOT", "XRP", "ETH"),
    ]


def write_prints(path: Path, rows: int, first_id: int = 1, seed: int = 1) -> None:
    """A CSV of so many prints; those with higher ids than another file's are also later."""
    chance = np.random.default_rng(seed)
    at_ms, price = FIRST_MS + first_id * GAP_MS_MEAN, 141_000.0
    with path.open("w") as out:
        out.write("ts_ms,agg_trade_id,taker_side,price,qty,cost\n")
        for first in range(0, rows, CHUNK_ROWS):
            count = min(CHUNK_ROWS, rows - first)
            opens = chance.random(count) < 1 / PRINTS_A_RUN_MEAN
            times = at_ms + np.cumsum(np.where(opens, chance.exponential(GAP_MS_MEAN, count), 0).astype(np.int64))
            sides = np.where(chance.random(count) < 0.5, "buy", "sell")[np.maximum.accumulate(np.where(opens, np.arange(count), 0))]
            prices = np.abs(price + np.cumsum(chance.normal(0, 20, count))).astype(np.int64) + 1000
            quantities = chance.integers(1, 2000, count)
            at_ms, price = int(times[-1]), float(prices[-1])
            columns = zip(times.tolist(), sides.tolist(), prices.tolist(), quantities.tolist(), strict=True)
            out.writelines(
                f"{ms},{first_id + first + number},{side},0.{ticks:08d},{quantity},{ticks * quantity / 1e8}\n"
                for number, (ms, side, ticks, quantity) in enumerate(columns)
            )


def measure(plan: Plan) -> Measured:
    """Book a file, several times with other trade ids."""
    rows = plan.size(10_000_000 if plan.full else 1_000_000, 2000)
    found = Measured(runs=plan.rounds(1 if plan.full else 3), wait="auto")
    rates: list[float] = []
    peaks: list[float] = []
    file = plan.folder / "prints.csv"
    with System(plan.folder / "data") as system:
        system.start()
        system.define(prints_desk())
        for turn in range(found.runs + 1):
            count = min(rows, CHUNK_ROWS) if turn == 0 else rows  # the first run meets cold code
            write_prints(file, count, 1 + turn * rows, seed=turn + 1)
            seconds, peak = _book(system, file, count)
            if turn:
                rates.append(count / seconds)
            peaks.append(peak)
    told = [result("pks book, whole command", "rows/s", rates), result("its memory at the most", "MB", peaks[1:])]
    found.promises = [
        Promise("book_rows_per_s", ">=", 1e5, told[0].p50, told[0].p50, None, "none: rows of a file, each with a durable answer")
    ]
    found.results = [*told, result(f"its memory for {min(rows, CHUNK_ROWS):,} rows", "MB", peaks[:1])]
    found.notes = [f"{rows:,} prints a file, each an event and its detail; {found.runs} files, each of new trades"]
    return found


def _book(system: System, file: Path, rows: int) -> tuple[float, float]:
    """Run `pks book`; seconds, and the most memory it had in MB."""
    said = file.with_suffix(".said")
    with said.open("wb") as out:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", "from pks.cli import main; main()", "book", str(file), *OPTIONS, *system.options],
            env=system.environ, stdout=out, stderr=out,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    text = said.read_text(errors="replace")
    if process.returncode != 0 or f"accepted {rows:,}, duplicates 0, refused 0" not in text:
        raise BookingFailed(text[-1000:])
    return seconds, usage.ru_maxrss / 1024
