"""The desk's day and the command line, as the tests of the commands have them."""

from __future__ import annotations

from tests.unit.cli.conftest import desk_day_dir, desk_dir, pks_run

__all__ = ["desk_day_dir", "desk_dir", "pks_run"]
