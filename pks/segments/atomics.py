"""Memory order for compiled code: loads, stores and fences that numba has no words for.

Owns every acquire, release and fence of the program, the relaxed counter, pause, prefetch, the copy of a run of words and the processor's
cycle counter. Other rooms use these from their own `@njit` code; nothing else may emit atomics. Everything works on C-contiguous int64
arrays by *flat word index* (unchecked: an index outside the array is a wild access), or, in the `_at` forms, on a byte address. Knows
nothing of rings, slots or segments. Source of the orders: C11 7.17.3, LLVM Language Reference "Atomic Memory Ordering".
"""

# mypy: allow-untyped-defs, allow-untyped-calls

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic as _numba_intrinsic
from numba.np.arrayobj import populate_array

WORD_BYTES = 8
LINE_WORDS = 16
"""Words that two writers keep between their cursors: 128 bytes, since the prefetcher of x86 fetches lines in pairs."""

intrinsic: Any = _numba_intrinsic  # its own annotation counts the typing context as an argument of the caller

MACHINE = platform.machine()

_I8P = ir.IntType(8).as_pointer()
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_BLOCK = ir.VectorType(_I64, 8)


# What is emitted. Plain functions over an LLVM builder, so that a test can render them for another processor.


def _call_plain(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Call an LLVM intrinsic without overloads by its name."""
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def emit_pause(builder: Any, machine: str) -> None:
    """Tell the core that this is a spin loop: `pause` on x86-64, `isb` on aarch64 (its `yield` is a no-op on most cores)."""
    if machine in ("x86_64", "AMD64"):
        _call_plain(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
    elif machine in ("aarch64", "arm64"):
        _call_plain(builder, "llvm.aarch64.isb", ir.VoidType(), [ir.Constant(_I32, 15)])


def emit_cycles(builder: Any, machine: str) -> Any:
    """The free-running counter: `rdtsc` on x86-64, the virtual counter on aarch64 (its cycle counter traps outside the kernel)."""
    if machine not in ("aarch64", "arm64"):
        return _call_plain(builder, "llvm.readcyclecounter", _I64, [])
    register = builder.module.add_metadata([ir.MetaDataString(builder.module, "cntvct_el0")])
    return _call_plain(builder, "llvm.read_volatile_register.i64", _I64, [register])


def emit_prefetch(builder: Any, pointer: Any, write: bool) -> None:
    """Ask for the line of `pointer` (i8*) into all cache levels; never faults."""
    options = [ir.Constant(_I32, int(write)), ir.Constant(_I32, 3), ir.Constant(_I32, 1)]
    _call_plain(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, *options])


def emit_copy(builder: Any, target: Any, source: Any, words: Any) -> None:
    """Copy `words` (i64) words between i64 pointers that may not overlap: blocks of 64 bytes, then single words. No call is made."""
    blocks = builder.lshr(words, ir.Constant(_I64, 3))
    with cgutils.for_range(builder, blocks) as block:
        offset = builder.shl(block.index, ir.Constant(_I64, 3))
        held = builder.load(builder.bitcast(builder.gep(source, [offset]), _BLOCK.as_pointer()), align=WORD_BYTES, typ=_BLOCK)
        builder.store(held, builder.bitcast(builder.gep(target, [offset]), _BLOCK.as_pointer()), align=WORD_BYTES)
    done = builder.and_(words, ir.Constant(_I64, -8))
    with cgutils.for_range(builder, builder.sub(words, done)) as word:
        offset = builder.add(done, word.index)
        builder.store(builder.load(builder.gep(source, [offset]), align=WORD_BYTES), builder.gep(target, [offset]), align=WORD_BYTES)


# How arrays are taken.


def _check_words(array: Any, writable: bool) -> None:
    """Refuse at compile time what these functions cannot serve: anything but a C-contiguous int64 array, and read-only ones for stores."""
    if not (isinstance(array, types.Array) and array.dtype == types.int64 and array.layout == "C"):
        raise TypeError(f"atomics take a C-contiguous int64 array, not {array}")
    if writable and not array.mutable:
        raise TypeError("atomics cannot store into a read-only array")


def _word_pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def _address_pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _I64.as_pointer())


def _define_load(order: str, note: str) -> tuple[Any, Any]:
    @intrinsic
    def of_array(typing_context: Any, array: Any, index: Any) -> Any:
        _check_words(array, writable=False)

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load_atomic(_word_pointer(context, builder, signature.args[0], args[0], args[1]), order, WORD_BYTES)

        return types.int64(array, types.int64), emit

    @intrinsic
    def of_address(typing_context: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load_atomic(_address_pointer(builder, args[0]), order, WORD_BYTES)

        return types.int64(types.int64), emit

    of_array.__doc__, of_address.__doc__ = note, note
    return of_array, of_address


def _define_store(order: str, note: str) -> tuple[Any, Any]:
    @intrinsic
    def of_array(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
        _check_words(array, writable=True)

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store_atomic(args[2], _word_pointer(context, builder, signature.args[0], args[0], args[1]), order, WORD_BYTES)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64), emit

    @intrinsic
    def of_address(typing_context: Any, address: Any, value: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store_atomic(args[1], _address_pointer(builder, args[0]), order, WORD_BYTES)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), emit

    of_array.__doc__, of_address.__doc__ = note, note
    return of_array, of_address


def _define_fence(order: str, note: str) -> Any:
    @intrinsic
    def fence(typing_context: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.fence(order)
            return context.get_dummy_value()

        return types.void(), emit

    fence.__doc__ = note
    return fence


load_acquire, load_acquire_at = _define_load("acquire", "Word `index` (or at an address); no later access moves before it.")
load_relaxed, load_relaxed_at = _define_load("monotonic", "Word `index` (or at an address), whole and really read, without order.")
store_release, store_release_at = _define_store("release", "Write the word; no earlier access moves behind it.")
store_relaxed, store_relaxed_at = _define_store("monotonic", "Write the word, whole and really written, without order.")
fence_acquire = _define_fence("acquire", "No later access moves before any earlier load.")
fence_release = _define_fence("release", "No earlier access moves behind any later store.")
fence_seq_cst = _define_fence("seq_cst", "Earlier stores are visible before any later load is made; one total order over all such fences.")


@intrinsic
def fetch_add(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Add to the word in one step, without order; the word's value before. For counters with more than one writer."""
    _check_words(array, writable=True)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _word_pointer(context, builder, signature.args[0], args[0], args[1])
        return builder.atomic_rmw("add", pointer, args[2], "monotonic")

    return types.int64(array, types.int64, types.int64), emit


@intrinsic
def pause(typing_context: Any) -> Any:
    """One breath of a spin loop; gives way to the other thread of the core and saves power."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit_pause(builder, MACHINE)
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def cycles(typing_context: Any) -> Any:
    """The processor's free-running counter, int64; its rate is found by `cycles_per_ns`. Not a clock: for durations on one host only."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit_cycles(builder, MACHINE)

    return types.int64(), emit


def _define_prefetch(write: bool, note: str) -> Any:
    @intrinsic
    def prefetch_word(typing_context: Any, array: Any, index: Any) -> Any:
        if not (isinstance(array, types.Array) and array.layout == "C"):
            raise TypeError(f"prefetch takes a C-contiguous array, not {array}")

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
            words = builder.bitcast(data, _I64.as_pointer())
            emit_prefetch(builder, builder.bitcast(builder.gep(words, [args[1]]), _I8P), write)
            return context.get_dummy_value()

        return types.void(array, types.int64), emit

    prefetch_word.__doc__ = note
    return prefetch_word


prefetch = _define_prefetch(False, "Fetch the line of 8-byte word `index` (flat, any C-contiguous array) for reading; never faults.")
prefetch_write = _define_prefetch(True, "Fetch the line of 8-byte word `index` (flat, any C-contiguous array) for writing; never faults.")


@intrinsic
def copy_words(typing_context: Any, target: Any, target_index: Any, source: Any, source_index: Any, words: Any) -> Any:
    """Copy `words` words from flat index to flat index between int64 arrays that do not overlap; inlined, 64 bytes at a time."""
    _check_words(target, writable=True)
    _check_words(source, writable=False)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        into = _word_pointer(context, builder, signature.args[0], args[0], args[1])
        out_of = _word_pointer(context, builder, signature.args[2], args[2], args[3])
        emit_copy(builder, into, out_of, args[4])
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, types.int64), emit


def _emit_view(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """A C-contiguous int64 array over memory that numba does not count."""
    shape = args[1:]
    view = context.make_array(signature.return_type)(context, builder)
    strides = [ir.Constant(_I64, WORD_BYTES)]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    populate_array(
        view, builder.inttoptr(args[0], view.data.type), shape=list(shape), strides=strides, itemsize=ir.Constant(_I64, WORD_BYTES),
        meminfo=None,
    )  # fmt: skip
    return view._getvalue()


@intrinsic
def words_at(typing_context: Any, address: Any, words: Any) -> Any:
    """int64[words] over the memory at a byte address, which the caller keeps mapped: many mappings in one table of addresses."""
    return types.Array(types.int64, 1, "C")(types.int64, types.int64), _emit_view


@intrinsic
def rows_at(typing_context: Any, address: Any, rows: Any, words: Any) -> Any:
    """int64[rows, words] over the memory at a byte address, as `words_at`."""
    return types.Array(types.int64, 2, "C")(types.int64, types.int64, types.int64), _emit_view


@njit(cache=True)
def copy_row(target, target_row, source, source_row):
    """Copy one row between int64[rows, words] arrays of one width."""
    words = source.shape[1]
    copy_words(target, target_row * words, source, source_row * words, words)


# The same from Python, for cold paths: one call costs some 150 ns.


@njit(cache=True)
def read_word(array, index):
    """Load-acquire of word `index`."""
    return load_acquire(array, index)


@njit(cache=True)
def write_word(array, index, value):
    """Store-release of word `index`."""
    store_release(array, index, value)


@njit(cache=True)
def read_cycles():
    """`cycles` from Python."""
    return cycles()


def cycles_per_ns(
    window_ns: int = 20_000_000,
    nanoseconds: Callable[[], int] = time.monotonic_ns,
    counter: Callable[[], int] = read_cycles,
) -> float:
    """Rate of `cycles` against CLOCK_MONOTONIC, measured over `window_ns` (a busy wait; ask once at start and keep it).

    Each end is the tightest of a few brackets of the clock by the counter, so that a preemption between the two reads does not count.
    """

    def reading() -> tuple[int, int]:
        best_width, best = None, (0, 0)
        for _ in range(16):
            before, now, after = counter(), nanoseconds(), counter()
            if best_width is None or after - before < best_width:
                best_width, best = after - before, ((before + after) // 2, now)
        return best

    counter()
    first_cycles, first_ns = reading()
    last_cycles, last_ns = reading()
    while last_ns - first_ns < window_ns:
        last_cycles, last_ns = reading()
    return (last_cycles - first_cycles) / (last_ns - first_ns)
