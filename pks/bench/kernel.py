"""`pks bench kernel`: events to lots to slots in one core, beside a C program of ours that does the same for plain trades.

Promises: `kernel_c_ratio`, `kernel_nautilus_ratio_1k`, `kernel_nautilus_ratio_100k`, design section 9. Both sides take the same events
from the same memory, in the worker's batches, and must come to the same positions.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import ctypes
import time
from statistics import median
from typing import Any

import numpy as np
from numba import njit

from pks.bench.desk import VALUE_DIGITS, Desk, definitions, trades
from pks.bench.peers import Nautilus, PeerMissing
from pks.bench.programs import address, load_program
from pks.bench.report import Measured, Plan, Promise, result
from pks.engine.lots.run import DONE, run
from pks.engine.lots.shard import new_shard
from pks.engine.lots.state import CHANGED, KEYS_COUNT, MATCHES, new_results, new_state
from pks.layouts.slots import POSITION_SLOT, POSITION_WORDS
from pks.layouts.state import KEY_WORDS
from pks.segments.slots import VERSION_WORDS
from pks.workers.accumulator_loop import BATCH, write_positions
from pks.workers.points import no_points
from pks.workers.positions import Positions

COMPARED = (
    "qty_raw", "cost_hi", "cost_lo", "realised_hi", "realised_lo", "fees_hi", "fees_lo", "open_lots", "trades_count", "last_sequence",
)  # fmt: skip


@njit(cache=True)
def run_batches(state, out, events, mask, first, last, batch, key_words, slots, indexes, counts, written, points):
    """Events first..last in batches: matched, and every changed position into its slot; (slots, matches), -1 first if it stopped."""
    total, matches = 0, 0
    n = first
    while n <= last:
        end = min(last, n + batch - 1)
        n, reason = run(state, out, events, mask, n, end, 0, 1)
        if reason != DONE:
            return -1, reason
        count = out.counts[CHANGED]
        if write_positions(state.keys, key_words, out.changed, count, slots, indexes, counts, 0, written, points, 0) != count:
            return -1, 0
        total += count
        matches += out.counts[MATCHES]
        for cell in range(out.counts.shape[0]):
            out.counts[cell] = 0
    return total, matches


class Ours:
    """One shard's state with room for everything, and a slot table beside it."""

    def __init__(self, desk: Desk, journal: Any, keys: int, lots: int, batch: int) -> None:
        positions = Positions(journal)
        positions.shard = new_shard(journal, keys=8, lots=8)
        positions.shard.refdata = positions._reference
        positions.apply(journal, -1, 1, desk.last)
        known = positions.shard.state
        empty = new_state(keys + 4, lots, keys + 8, len(known.instruments), len(known.books))
        self.state = empty._replace(
            instruments=known.instruments, books=known.books, methods=known.methods, rules=known.rules, meta=known.meta
        )
        self.out = new_results(64 * batch, batch + 4)
        self.out = self.out._replace(changed_accounts=np.zeros((4 * batch + 4, 2), np.int32))
        entries = 1 << (2 * keys - 1).bit_length()
        self.slots = np.zeros((keys, VERSION_WORDS + 2 * POSITION_WORDS), np.int64)
        self.indexes, self.counts = np.zeros((1, entries, 2), np.int64), np.zeros((1, 16), np.int64)
        self.written = np.zeros(batch + 4, np.int64)
        self.points = no_points().words
        self.words = self.state.keys.view(np.int64).reshape(-1, KEY_WORDS)
        self.batch = batch

    def run(self, journal: Any, first: int, last: int) -> tuple[int, int]:
        """Slots written and matches said for events first..last."""
        total, matches = run_batches(
            self.state, self.out, journal, -1, first, last, self.batch, self.words, self.slots, self.indexes, self.counts, self.written,
            self.points,
        )  # fmt: skip
        assert total >= 0, f"the tables have room: {matches}"
        return int(total), int(matches)

    def positions(self) -> Any:
        """The first bytes of every key: POSITION_SLOT[n], in the order of their first event."""
        return self.state.keys[: self.state.meta[KEYS_COUNT]]


class InC:
    """The C program's book and slots."""

    def __init__(self, program: ctypes.CDLL, keys: int, batch: int) -> None:
        self.program, self.batch = program, batch
        program.book_make.restype = program.book_keys.restype = ctypes.c_void_p
        program.book_make.argtypes = (ctypes.c_int64,) * 3
        for name in ("book_free", "book_keys", "book_keys_count"):
            getattr(program, name).argtypes = (ctypes.c_void_p,)
        program.book_keys_count.restype = program.book_run.restype = program.book_key_bytes.restype = ctypes.c_int64
        program.book_run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_int64,) * 4, ctypes.c_void_p)
        self.book = program.book_make(keys, 10**VALUE_DIGITS, batch)
        self.slots = np.zeros((keys, VERSION_WORDS + 2 * POSITION_WORDS), np.int64)

    def run(self, journal: Any, first: int, last: int) -> int:
        """Slots written for events first..last."""
        written = self.program.book_run(self.book, address(journal), -1, first, last, self.batch, address(self.slots))
        assert written >= 0, "the tables have room"
        return int(written)

    def positions(self) -> Any:
        """POSITION_SLOT[n], in the order of their first event."""
        count, stride = self.program.book_keys_count(self.book), self.program.book_key_bytes()
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * (count * stride)).from_address(self.program.book_keys(self.book)))
        rows: Any = raw.reshape(count, stride)[:, : POSITION_SLOT.itemsize].copy().view(POSITION_SLOT).reshape(-1)
        return rows

    def close(self) -> None:
        """Give the memory back."""
        self.program.book_free(self.book)


def check_same(ours: Any, theirs: Any) -> None:
    """Both sides hold the same positions, to the digit."""
    assert len(ours) == len(theirs), f"{len(ours)} positions of ours, {len(theirs)} of the C program"
    for name in COMPARED:
        differ = np.flatnonzero((ours[name] != theirs[name]).reshape(len(ours), -1).any(axis=1))
        assert len(differ) == 0, f"{name} differs on {len(differ)} positions, first {differ[:1]}: {ours[differ[:1]]} {theirs[differ[:1]]}"


def measure(plan: Plan) -> Measured:
    """Fills a second of both sides for few and many keys."""
    found = Measured(runs=plan.rounds(7), wait="none")
    program = load_program("kernel")
    rates: dict[str, float] = {}
    peer_rates: dict[str, float] = {}
    reason = ""
    peer: Nautilus | None = None
    try:
        peer = Nautilus(plan.peer_venv)
    except PeerMissing as missing:
        reason = str(missing)
    try:
        for label, books, instruments in (("1k", 10, plan.size(100, 3)), ("100k", 100, plan.size(1000, 5))):
            rates[label], peer_rates[label] = _one(plan, program, found, label, books, instruments, peer)
    finally:
        if peer is not None:
            peer.close()
    for label, bound in (("1k", 60.0), ("100k", 15.0)):
        named = f"kernel_nautilus_ratio_{label}"
        if peer is None:
            found.promises.append(Promise(named, ">=", bound, None, rates[label], None, "nautilus_trader Position.apply", reason))
        else:
            ratio = rates[label] * 1e6 / peer_rates[label]
            said = f"nautilus_trader {peer.version} pyo3 Position.apply, fills/s"
            found.promises.append(Promise(named, ">=", bound, ratio, rates[label] * 1e6, peer_rates[label], said))
    found.notes.append(
        f"batches of {BATCH} events, a changed position goes to its slot once a batch; both sides booked the same fills with fees and came "
        "to the same positions; the C program knows one method and no policy, and checks no overflow"
    )
    return found


def _one(
    plan: Plan, program: ctypes.CDLL, found: Measured, label: str, books: int, instruments: int, peer: Nautilus | None
) -> tuple[float, float]:
    """Our rate in millions a second, and the peer's in fills a second (0 without it)."""
    desk = Desk(plan.folder / label, definitions(books, instruments))
    count = plan.size(1_000_000, 2000)
    journal = desk.journal(trades(count, desk.last + 1, books, instruments))
    first = desk.last + 1
    measured_from = first + count // 4
    last = first + count - 1
    batch = BATCH
    keys = books * instruments
    rates: dict[str, list[float]] = {"ours": [], "C": []}
    peers: list[float] = []
    said = (0, 0)
    for turn in range(found.runs):
        ours, theirs = Ours(desk, journal, keys, plan.size(1 << 20, 1 << 12), batch), InC(program, keys, batch)
        try:
            sides: list[tuple[str, Ours | InC]] = [("ours", ours), ("C", theirs)]
            for name, side in sides if turn % 2 == 0 else sides[::-1]:
                side.run(journal, first, measured_from - 1)  # keys are made, pages taken
                start = time.perf_counter_ns()
                told = side.run(journal, measured_from, last)
                rates[name].append((last - measured_from + 1) * 1000 / (time.perf_counter_ns() - start))
                if isinstance(told, tuple):
                    said = told
            check_same(ours.positions(), theirs.positions())
        finally:
            theirs.close()
        if peer is not None and turn < 3:
            peers.append(peer.fills_per_s(keys, max(20_000, keys)))
    for name, samples in rates.items():
        found.results.append(result(f"{label} keys: {name}", "million fills/s", samples))
    if peers:
        found.results.append(result(f"{label} keys: nautilus_trader", "fills/s", peers))
    our_rate, their_rate = median(rates["ours"]), median(rates["C"])
    name = "kernel_c_ratio" if label == "1k" else f"kernel_c_ratio_{label}"
    found.promises.append(Promise(name, ">=", 0.7, our_rate / their_rate, our_rate, their_rate, f"C program of this package, {label} keys"))
    found.notes.append(
        f"{label} keys: {last - measured_from + 1:,} fills a run behind {measured_from - first:,} that warm it, {found.runs} runs, sides "
        f"in turns; a run gave {said[1]:,} matches and {said[0]:,} slot writes"
    )
    return our_rate, median(peers) if peers else 0.0
