"""What the health screen says of the edges' servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pks.topology import Paths
from pks.tui.health import read_edges


def written(folder: Path, text: str) -> Path:
    paths = Paths(folder)
    paths.make()
    paths.run_file.write_text(text)
    return folder


def test_states_of_the_servers(tmp_path: Path) -> None:
    servers = {"nats": {"mode": "embedded", "state": "READY"}, "postgres": {"mode": "external", "state": "EXTERNAL"}}
    assert read_edges(written(tmp_path, json.dumps({"servers": servers}))) == "nats READY  postgres EXTERNAL"
    off = {name: {"mode": "none", "state": "OFF"} for name in servers}
    assert read_edges(written(tmp_path, json.dumps({"servers": off}))) == "none"


@pytest.mark.parametrize("text", ["", "{", "{}"])
def test_a_run_file_that_says_nothing(tmp_path: Path, text: str) -> None:
    assert read_edges(written(tmp_path, text)) == "unknown"


def test_no_run_file(tmp_path: Path) -> None:
    assert read_edges(tmp_path) == read_edges(None) == "unknown"
