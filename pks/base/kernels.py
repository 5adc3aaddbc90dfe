"""How kernels of hot loops are compiled, and the one clock that they may look at.

`kernel` is for those that allocate nothing: they are compiled without numba's reference counts. A State is passed as a tuple of a dozen
arrays, and with the counts each call would add to and take from every one of them, atomically: measured, 1,450 ns a fill instead of 200.
A function that makes an array must use `njit` itself; it may call kernels, and no kernel may call it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_CLOCK_MONOTONIC = 1
_clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that allocates nothing."""
    return njit(cache=True, _nrt=False)(function)


def forced(function: Callable[..., Any]) -> Any:
    """The same for functions on the way of a fill: LLVM puts them into their callers, who need not hand a State over, a hundred words."""
    return njit(cache=True, _nrt=False, forceinline=True)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """The same for a few lines that are copied into their callers."""
    return njit(cache=True, _nrt=False, inline="always")(function)


def clock_room() -> NDArray[np.int64]:
    """Room for `monotonic_ns`: int64[3], the third word being the address of the first. Not to be copied."""
    room = np.zeros(3, np.int64)
    room[2] = room.ctypes.data
    return room


@kernel
def monotonic_ns(room: Any) -> Any:
    """CLOCK_MONOTONIC in nanoseconds, as `Clock.monotonic_ns` of the machine gives it; some 30 ns. room: made by `clock_room`."""
    _clock_gettime(_CLOCK_MONOTONIC, room[2])
    return room[0] * 1_000_000_000 + room[1]
