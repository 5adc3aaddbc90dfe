"""`pks run`: the supervisor in the foreground."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pks.cli.group import EXIT_USAGE, fail, load, system_options

DEMO_DESK = "demo"
DEMO_RATE = 20.0
"""Fills a second of the generated trading day: enough to watch."""


@click.command()
@system_options
@click.option("--shards", type=int, help="accumulators; positions are the same whatever their number")
@click.option("--wait", type=click.Choice(["auto", "spin", "yield", "park"]), help="what idle workers do")
@click.option(
    "--desk", type=click.Path(exists=True, file_okay=False, path_type=Path), help="load this folder of reference data and opening lots"
)
@click.option("--demo", is_flag=True, help="load the packaged desk and stream a generated trading day")
@click.option("--demo-rate", type=float, help="fills a second of the generated day (default 20; 0: nothing streams)")
@click.option(
    "--edges",
    type=click.Choice(["embedded", "external", "none"]),
    help="servers beside the core: ours (the default; those with a URL are left to it), only those with a URL, none",
)
def run(
    config: Path | None,
    data_dir: Path | None,
    instance: str | None,
    shards: int | None,
    wait: str | None,
    desk: Path | None,
    demo: bool,
    demo_rate: float | None,
    edges: str | None,
) -> None:
    """Run the system until it is stopped (Ctrl-C, SIGTERM, `pks stop`)."""
    loaded = load(config, data_dir, instance, {"shards": shards, "wait": wait, "edges": edges, **_desk_flags(desk, demo, demo_rate)})
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported: the supervisor forks, so it has one thread
    from pks.supervisor import run_foreground

    run_foreground(loaded.config, loaded.notes)


def _desk_flags(desk: Path | None, demo: bool, demo_rate: float | None) -> dict[str, object]:
    """--desk, --demo and --demo-rate as settings."""
    if desk is not None and demo:
        fail("--desk and --demo exclude each other: --demo loads the packaged desk", EXIT_USAGE)
    if demo_rate is not None and not demo:
        fail("--demo-rate goes with --demo", EXIT_USAGE)
    if demo:
        return {"desk": DEMO_DESK, "demo_rate": DEMO_RATE if demo_rate is None else demo_rate}
    return {"desk": None if desk is None else str(desk.resolve())}
