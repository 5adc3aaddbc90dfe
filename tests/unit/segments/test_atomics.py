"""Atomics: the right values here, the right instructions on both processors."""

from __future__ import annotations

import collections
import pathlib
import re

import numpy as np
import pytest
from llvmlite import ir
from numba import int64, njit
from numba.core.errors import NumbaError

from pks.segments import atomics
from pks.segments.atomics import (
    copy_row,
    copy_words,
    cycles,
    cycles_per_ns,
    emit_cycles,
    emit_pause,
    emit_prefetch,
    fence_acquire,
    fence_release,
    fence_seq_cst,
    fetch_add,
    load_acquire,
    load_acquire_at,
    load_relaxed,
    pause,
    prefetch,
    prefetch_write,
    read_cycles,
    read_word,
    rows_at,
    store_relaxed,
    store_release,
    store_release_at,
    words_at,
    write_word,
)
from tests.unit.segments.cross import builder_assembly, kernel_assembly

WORDS = int64[::1]
ROWS = int64[:, ::1]


def use_load_acquire(words):
    return load_acquire(words, 3)


def use_load_relaxed(words):
    return load_relaxed(words, 3)


def use_store_release(words):
    store_release(words, 3, 7)


def use_store_relaxed(words):
    store_relaxed(words, 3, 7)


def use_fence_acquire(words):
    fence_acquire()


def use_fence_release(words):
    fence_release()


def use_fence_seq_cst(words):
    fence_seq_cst()


def use_fetch_add(words):
    return fetch_add(words, 3, 7)


def use_addresses(address):
    store_release_at(address, 9)
    return load_acquire_at(address)


BARRIERS = ("ldar", "ldapr", "stlr", "dmb", "mfence", "lock", "xchg", "casal", "ldadd", "ldxr")


@pytest.mark.parametrize(
    ("function", "machine", "wanted"),
    [
        (use_load_acquire, "aarch64", ("ldar", "ldapr")),
        (use_load_acquire, "x86_64", None),
        (use_load_relaxed, "aarch64", None),
        (use_load_relaxed, "x86_64", None),
        (use_store_release, "aarch64", ("stlr",)),
        (use_store_release, "x86_64", None),
        (use_store_relaxed, "aarch64", None),
        (use_store_relaxed, "x86_64", None),
        (use_fence_acquire, "aarch64", ("dmb\tishld",)),
        (use_fence_acquire, "x86_64", None),
        (use_fence_release, "aarch64", ("dmb\tish",)),
        (use_fence_release, "x86_64", None),
        (use_fence_seq_cst, "aarch64", ("dmb\tish",)),
        (use_fence_seq_cst, "x86_64", ("mfence", "lock")),
        (use_fetch_add, "x86_64", ("lock",)),
        (use_fetch_add, "aarch64", ("ldxr", "ldadd", "__aarch64_ldadd8_relax")),
    ],
)
def test_the_instruction_of_each_order(function, machine, wanted) -> None:
    body = kernel_assembly(function, (WORDS,), machine)
    if wanted is None:
        assert not [line for line in body if line.startswith(BARRIERS)]
    else:
        assert [line for line in body if any(word in line for word in wanted)], body


def test_addresses_have_the_same_orders() -> None:
    body = kernel_assembly(use_addresses, (int64,), "aarch64")
    assert [line for line in body if line.startswith("stlr")]
    assert [line for line in body if line.startswith(("ldar", "ldapr"))]


@pytest.mark.parametrize(("machine", "wanted"), [("x86_64", "pause"), ("aarch64", "isb")])
def test_pause(machine, wanted) -> None:
    body = builder_assembly(lambda builder, pointer: emit_pause(builder, machine), machine, ir.VoidType())
    assert [line for line in body if line.startswith(wanted)]


@pytest.mark.parametrize(("machine", "wanted"), [("x86_64", "rdtsc"), ("aarch64", "CNTVCT_EL0")])
def test_cycle_counter(machine, wanted) -> None:
    body = builder_assembly(lambda builder, pointer: emit_cycles(builder, machine), machine, ir.IntType(64))
    assert [line for line in body if wanted.lower() in line.lower()]


@pytest.mark.parametrize(
    ("machine", "write", "wanted"), [("x86_64", False, "prefetcht0"), ("aarch64", False, "pldl1keep"), ("aarch64", True, "pstl1keep")]
)
def test_prefetch(machine, write, wanted) -> None:
    def fill(builder, pointer):
        emit_prefetch(builder, builder.bitcast(pointer, ir.IntType(8).as_pointer()), write)

    assert [line for line in builder_assembly(fill, machine, ir.VoidType()) if wanted in line]


@njit
def everything(words, copy):
    store_release(words, 1, 5)
    fence_acquire()
    fence_release()
    fence_seq_cst()
    store_relaxed(words, 2, fetch_add(words, 1, 3))
    pause()
    prefetch(words, 0)
    prefetch_write(words, 0)
    copy_words(copy, 1, words, 0, 19)
    return load_acquire(words, 1), load_relaxed(words, 2), cycles()


def test_values() -> None:
    words, copy = np.arange(32), np.zeros(32, np.int64)
    first, second, ticks = everything(words, copy)
    assert (first, second) == (8, 5)
    assert ticks > 0
    expected = np.zeros(32, np.int64)
    expected[1:20] = [0, 8, 5, *range(3, 19)]
    assert copy.tolist() == expected.tolist()


@pytest.mark.parametrize("words", [0, 1, 7, 8, 9, 16, 31, 64])
def test_copies_of_every_length(words) -> None:
    source = np.arange(3 * words, dtype=np.int64).reshape(3, words)
    target = np.full((2, words), -1, np.int64)
    copy_row(target, 1, source, 2)
    assert target.tolist() == [[-1] * words, source[2].tolist()]


def test_copying_calls_nothing() -> None:
    body = kernel_assembly(copy_row.py_func, (ROWS, int64, ROWS, int64), "x86_64")
    assert not [line for line in body if line.startswith("call")]


def test_read_only_arrays_are_read_and_not_written() -> None:
    words = np.arange(4)
    words.flags.writeable = False
    assert read_word(words, 3) == 3
    with pytest.raises((TypeError, NumbaError), match="read-only"):
        write_word(words, 3, 1)


@pytest.mark.parametrize("array", [np.zeros(4, np.int32), np.zeros(4), np.zeros((4, 4), np.int64)[:, ::2]])
def test_other_arrays_are_refused(array) -> None:
    with pytest.raises((TypeError, NumbaError), match="int64 array"):
        read_word(array, 0)


def test_cycles_are_calibrated_against_the_clock_that_is_given() -> None:
    clock = iter(range(0, 10**9, 1000))
    ticks = iter(range(0, 10**9, 1250))  # two readings a bracket: 2500 ticks per 1000 ns
    assert cycles_per_ns(100_000, lambda: next(clock), lambda: next(ticks)) == pytest.approx(2.5, rel=1e-3)
    assert 0.001 < cycles_per_ns(5_000_000) < 10
    assert read_cycles() < read_cycles()


def test_every_order_has_its_label_and_no_other_module_emits_atomics() -> None:
    """Each ORDER label in the room stands at least twice: with its partner."""
    room = pathlib.Path(atomics.__file__).parent
    labels: collections.Counter[str] = collections.Counter()
    for path in room.glob("*.py"):
        text = path.read_text()
        labels.update(re.findall(r"# ORDER ([a-z-]+):", text))
        if path.name != "atomics.py":
            assert "load_atomic" not in text
            assert "builder.fence" not in text
    assert {label for label, times in labels.items() if times < 2} == set()


def test_arrays_over_an_address_are_the_memory_itself() -> None:
    memory = np.arange(12, dtype=np.int64)

    @njit
    def double(address: int) -> int:
        words, rows = words_at(address, 12), rows_at(address, 3, 4)
        for n in range(12):
            words[n] *= 2
        return rows[2, 1] + rows.shape[0] * 100 + rows.shape[1] * 1000

    assert double(memory.ctypes.data) == 2 * 9 + 300 + 4000
    assert memory.tolist() == list(range(0, 24, 2))
