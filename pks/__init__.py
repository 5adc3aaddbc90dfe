"""PKS: a position-keeping system. `pks.attach()` reads a running one from shared memory, `pks.connect()` follows one at its gateway or on
NATS; the rest is behind the `pks` command.

Names numba's cache folder before any module of the package can import numba; owns nothing else. Importing it costs the standard
library alone, and `attach` brings in numpy and numba at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pks.base.host import prepare_numba_cache as _prepare_numba_cache

__all__ = ["attach", "connect"]

_prepare_numba_cache()


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("pks.client" if name == "attach" else "pks.client.remote"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
