"""`pks doctor`: what this host lacks, in plain words."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pks.base.host import Finding, findings, host_facts
from pks.cli.group import quiet_config, system_options
from pks.servers.findings import server_findings

FREE_BYTES_MIN = 1 << 30
"""Room for some four million events; with less, the disk is full before anyone has looked."""

MARKS = {"ok": "ok  ", "note": "note", "lack": "LACK"}


@click.command()
@system_options
def doctor(config: Path | None, data_dir: Path | None, instance: str | None) -> None:
    """Look at cores, shared memory, huge pages, limits, clock, data directory and the edges' servers; exit 1 if something will fail."""
    settings = quiet_config(config, data_dir, instance)
    hot_workers = settings.shards + 2  # capture, journal, and an accumulator a shard
    found = [*findings(host_facts(), hot_workers), _data_finding(Path(settings.data_dir)), *server_findings(settings)]
    for finding in found:
        click.echo(f"{MARKS[finding.level]}  {finding.topic:14} {finding.text}")
    sys.exit(1 if any(finding.level == "lack" for finding in found) else 0)


def _data_finding(folder: Path) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding("lack", "data directory", f"{existing} cannot be written, so {folder} cannot be used")
    disk = os.statvfs(existing)
    free_bytes = disk.f_bavail * disk.f_frsize
    text = f"{folder}, {free_bytes >> 20} MB free"
    if free_bytes >= FREE_BYTES_MIN:
        return Finding("ok", "data directory", text)
    return Finding("note", "data directory", f"{text}; a journal file of a quarter of a million events is 64 MB")
