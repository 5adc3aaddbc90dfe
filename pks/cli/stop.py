"""`pks stop`: an orderly stop, and the wait for its end."""

from __future__ import annotations

import select
import signal
import sys
from pathlib import Path

import click

from pks.cli.group import fail, quiet_config, system_options
from pks.running import find_running, open_process

GRACE_SECONDS = 10
"""What the supervisor may need beyond its stop_timeout, to kill and to clean up."""


@click.command()
@system_options
@click.option("--no-wait", is_flag=True, help="do not wait for the end")
def stop(config: Path | None, data_dir: Path | None, instance: str | None, no_wait: bool) -> None:
    """Stop the running system: input closed, everything drained, durable and checkpointed, segments removed."""
    running = find_running(Path(quiet_config(config, data_dir, instance).data_dir))
    with open_process(running.pid) as process:
        signal.pidfd_send_signal(process.fileno(), signal.SIGTERM)
        if no_wait:
            return
        ended, _, _ = select.select([process], [], [], running.stop_timeout + GRACE_SECONDS)
    if not ended:
        fail(f"the supervisor, pid {running.pid}, still runs after {running.stop_timeout + GRACE_SECONDS} s")
    click.echo("stopped")
    sys.exit(0)
