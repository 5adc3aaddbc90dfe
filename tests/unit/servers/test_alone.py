"""Servers for a command, while no system runs: there inside, gone behind."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pks.base.config import load_config
from pks.servers.alone import alone
from pks.servers.endpoints import endpoint
from tests.crash.keep_servers import why_missing

NAMES = ("postgres", "nats")


def answers(data_dir: Path, name: str) -> bool:
    """Does anybody listen where the server was last?"""
    found = endpoint(load_config(None, {}, {"data_dir": str(data_dir)}).config, name)
    assert found is not None, f"{name} has started once"
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", urlsplit(found.url).port)) == 0


@pytest.mark.skipif(any(map(why_missing, NAMES)), reason=" ".join(map(why_missing, NAMES)) or "the servers are here")
def test_servers_run_inside_and_have_ended_behind(tmp_path: Path) -> None:
    for folder in ("run", *(f"servers/{name}" for name in NAMES)):
        (tmp_path / folder).mkdir(parents=True)
    config = load_config(None, {}, {"data_dir": str(tmp_path)}).config
    for _ in range(2):  # the second time on what the first has left
        with alone(config, NAMES):
            assert all(answers(tmp_path, name) for name in NAMES)
        assert not any(answers(tmp_path, name) for name in NAMES)


def test_a_server_that_never_started_here_is_not_made(tmp_path: Path) -> None:
    with alone(load_config(None, {}, {"data_dir": str(tmp_path)}).config, NAMES):
        assert not (tmp_path / "servers").exists()
