"""`pks tui`: the terminal blotter on a running system, or on one that is yet to start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pks.cli.group import EXIT_USAGE, fail, quiet_config, system_options


@click.command()
@system_options
def tui(config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Show positions, the trade tape and the system's health in the terminal; ? explains the keys, q ends it.

    It only reads shared memory and the journal. When the system stops, the last figures stay, marked as such, and it attaches again
    by itself.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        fail("pks tui needs a terminal; `pks positions` prints the same figures", EXIT_USAGE)
    found = quiet_config(config, data_dir, instance)
    from pks.tui.app import Blotter
    from pks.tui.feed import Feed
    from pks.tui.settings import settings_path

    Blotter(Feed(found.instance, Path(found.data_dir)), None, settings_path(os.environ)).run()
