"""The C peers: built with the host's compiler into the cache folder, loaded into the measuring processes.

Owns the building. A program is built once for each text, compiler and set of flags; places of fields come from our layouts, as macros, so
that a changed layout changes the C program too.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pks.base.errors import Retryable
from pks.base.host import prepare_numba_cache
from pks.layouts.event import EVENT
from pks.layouts.match import MATCH
from pks.layouts.slots import POSITION_SLOT
from pks.layouts.state import ACCOUNT

SOURCES = Path(__file__).parent / "c"
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fPIC", "-shared", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Werror")
LAYOUTS = {"EVENT": EVENT, "SLOT": POSITION_SLOT, "MATCH": MATCH, "ACCOUNT": ACCOUNT}


class NoCompiler(Retryable):
    """The C peer cannot be built here."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the C program to compare with cannot be built: {reason}")
        self.reason = reason


def load_program(name: str) -> ctypes.CDLL:
    """The functions of c/<name>.c. Raises NoCompiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NoCompiler("neither gcc nor cc is installed")
    text = _layout_macros() + (SOURCES / f"{name}.c").read_text()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    digest = blake2b("\0".join((text, version, *FLAGS)).encode(), digest_size=12, usedforsecurity=False).hexdigest()
    folder = prepare_numba_cache().parent.parent / "bench"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    built = folder / f"{name}-{digest}.so"
    if not built.exists():
        making = built.with_suffix(f".{os.getpid()}.so")
        done = subprocess.run([compiler, *FLAGS, "-x", "c", "-", "-o", str(making)], input=text, capture_output=True, text=True)
        if done.returncode:
            raise NoCompiler(done.stderr.strip()[-2000:])
        making.rename(built)
    return ctypes.CDLL(str(built))


def _layout_macros() -> str:
    """EVENT_BYTES, EVENT_qty_raw (place in bytes) and the like."""
    lines = []
    for layout, dtype in LAYOUTS.items():
        assert dtype.fields is not None, "layouts are structured"
        lines.append(f"#define {layout}_BYTES {dtype.itemsize}")
        lines += [f"#define {layout}_{field} {place[1]}" for field, place in dtype.fields.items()]
    return "\n".join(lines) + "\n#line 1\n"


def address(array: NDArray[np.generic]) -> ctypes.c_void_p:
    """Where an array begins, for a C function; the caller keeps the array."""
    return ctypes.c_void_p(array.ctypes.data)
