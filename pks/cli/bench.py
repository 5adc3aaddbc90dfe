"""`pks bench`: the benchmarks of the design's promises, one at a time, each beside its peer in the same run."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import click

BENCHES = {
    "hotpath": "a fill from capture to its slot, and fills a second, by the workers' own loops",
    "ring": "our ring beside a C ring, two processes",
    "slot": "reading a position: compiled beside C, by handle, by name, a snapshot",
    "kernel": "events to lots to slots, beside a C program doing the same",
    "depth": "booking on one position with 1 to 100,000 open lots, by every method",
    "replay": "journal in the page cache to the same positions",
    "correct": "a cancellation with 100,000 later fills on its position",
    "journal": "a durable answer beside a bare fdatasync; durable trades a second beside JetStream",
    "book": "a large CSV file through pks book into a running system",
    "recover": "kill -9 and pks run to ready; what the processes hold of memory",
    "postgres": "a trade to its row in Postgres beside a whole system; how a backlog drains",
    "nats": "a fill to its message on NATS; trades and events a second into its streams, beside a bare publisher",
    "timeseries": "from a booked trade to its row in QuestDB; how fast a backlog goes there",
    "rest": "snapshots, bookings and single positions of a whole gateway over HTTP",
    "edges": "a backlog drains to every edge while fills go on; what a fill's way to its slot then takes",
    "websocket": "a fill to every client of a stream; position updates a second beside websockets.broadcast of whole frames",
    "grpc": "one position asked for over TLS beside a bare service; a fill to every client of a stream",
    "startup": "pks run to ready, alone and with the embedded servers; what a system at rest takes",
}
"""Name and what it measures; `pks.bench.<name>` has `measure`."""

EXIT_TERMINATED = 128 + signal.SIGTERM


@click.command()
@click.argument("name", type=click.Choice(sorted(BENCHES)))
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@click.option("--runs", type=click.IntRange(1, 99), help="how often both sides take turns (default: the bench's own)")
@click.option("--tiny", is_flag=True, help="only see that it works: the figures mean nothing")
@click.option("--full", is_flag=True, help="at the promise's own size: book 10 million rows, recover 5 million events (minutes)")
@click.option(
    "--peer-venv", type=click.Path(exists=True, file_okay=False, path_type=Path), help="a virtual environment with the optional peers"
)
@click.option(
    "--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="where scratch files go: the disk to be measured"
)
def bench(name: str, as_json: bool, runs: int | None, tiny: bool, full: bool, peer_venv: Path | None, folder: Path | None) -> None:
    """Measure NAME on this machine, in segments and instances of its own.

    Figures hold for this machine and this hour; a busy machine makes them worse. Exit 0 whether promises are kept or not.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported: benches fork, so there is one thread
    from pks.bench.report import Plan, report_dict, report_lines

    load_before = os.getloadavg()[0]
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))  # by way of every `with`: its systems end with a bench
    try:
        with tempfile.TemporaryDirectory(prefix="pks-bench-", dir=folder) as scratch:
            found = import_module(f"pks.bench.{name}").measure(Plan(Path(scratch), tiny, full, runs, peer_venv))
    finally:
        signal.signal(signal.SIGTERM, former)
    if as_json:
        click.echo(json.dumps(report_dict(name, found)))
    else:
        for line in report_lines(name, found, load_before):
            click.echo(line)
