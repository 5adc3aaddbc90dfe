"""Rows that no store takes: a bounded file of JSON lines, so that one such row never holds up the others.

Owns the file's form and size. The edge writes it and counts; people read it.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from pks.edges.questdb.store import TradeRow

ASIDE_BYTES_MAX = 16 << 20
"""Size at which the file is renamed to .1, in place of the one before."""


class AsideFile:
    """Appends rows with the reason. After a restart some may stand there twice."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, row: TradeRow, reason: str) -> None:
        """Keep one row. Raises OSError when the disk is full."""
        line = msgspec.json.encode({"reason": reason, **row._asdict()}) + b"\n"
        if self.path.exists() and self.path.stat().st_size + len(line) > ASIDE_BYTES_MAX:
            os.replace(self.path, self.path.with_name(self.path.name + ".1"))
        with self.path.open("ab") as file:
            file.write(line)
