"""How the kernels of this room are compiled.

`kernel` is for those that allocate nothing: they are compiled without numba's reference counts. A State is passed as a tuple of a dozen
arrays, and with the counts each call would add to and take from every one of them, atomically: measured, 1,450 ns a fill instead of 200.
A function that makes an array must use `njit` itself; it may call kernels, and no kernel may call it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that allocates nothing."""
    return njit(cache=True, _nrt=False)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """The same for a few lines that are copied into their callers."""
    return njit(cache=True, _nrt=False, inline="always")(function)
