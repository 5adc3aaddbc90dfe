"""Careless variants of the kernels: the room's own source with one line changed. A race test that cannot tell them apart proves nothing."""

from __future__ import annotations

import inspect
import textwrap
from types import ModuleType
from typing import Any

from numba import njit


def variant(kernel: Any, module: ModuleType, old: str, new: str) -> Any:
    """Compile `kernel` (a dispatcher of `module`) with `old` replaced by `new` in its source."""
    source = textwrap.dedent(inspect.getsource(kernel.py_func)).replace("@njit(cache=True)\n", "")
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {kernel}"
    scope = dict(vars(module))
    exec(compile(source.replace(old, new), "<variant>", "exec"), scope)
    return njit(scope[kernel.py_func.__name__])
