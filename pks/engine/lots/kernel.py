"""How the kernels of this room are compiled: `base.kernels`, under the name by which this room knows it."""

from __future__ import annotations

from pks.base.kernels import forced, inlined, kernel

__all__ = ["forced", "inlined", "kernel"]
