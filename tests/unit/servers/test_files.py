"""Ports by their rule, and files that only their owner reads."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pks.servers import files

NAMED = {"client": 4222, "monitor": 8222}


def free_but(*taken: int) -> Callable[[int], bool]:
    return lambda port: port not in taken


def numbers(*ports: int) -> Callable[[], int]:
    left = iter(ports)
    return lambda: next(left)


@pytest.mark.parametrize(
    ("kept", "taken", "chosen"),
    [
        ({}, (), {"client": 4222, "monitor": 8222}),
        ({}, (4222,), {"client": 7001, "monitor": 8222}),
        ({}, (4222, 8222), {"client": 7001, "monitor": 7002}),
        ({"client": 5000}, (), {"client": 5000, "monitor": 8222}),
        ({"client": 5000}, (5000,), {"client": 4222, "monitor": 8222}),
        ({"client": 8222}, (), {"client": 8222, "monitor": 7001}),
        ({"client": 5000, "gone": 1}, (5000, 4222, 8222), {"client": 7001, "monitor": 7002}),
    ],
)
def test_the_port_it_had_then_the_named_one_then_any(kept: dict[str, int], taken: tuple[int, ...], chosen: dict[str, int]) -> None:
    assert files.choose_ports(NAMED, kept, free_but(*taken), numbers(7001, 7001, 7002)) == chosen


def test_a_port_in_use_is_not_free() -> None:
    with socket.socket() as server:
        server.bind((files.LOOPBACK, 0))
        server.listen()
        port = server.getsockname()[1]
        assert not files.is_free(port)
    assert files.is_free(port)


def test_any_port_is_free_and_not_one_of_outgoing_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = int(files.OUTGOING.read_text().split()[0])
    ports = {files.any_free() for _ in range(20)}
    assert len(ports) > 1
    assert all(files.is_free(port) for port in ports)
    assert first <= files.FREE_FIRST or all(files.FREE_FIRST <= port < first for port in ports)
    (tmp_path / "range").write_text("1024\t65535\n")
    monkeypatch.setattr(files, "OUTGOING", tmp_path / "range")
    monkeypatch.setattr(files, "FREE_TRIES", 0)
    assert files.is_free(files.any_free())


@pytest.mark.parametrize("text", [None, "", "{", "[1]", '{"client": "x"}'])
def test_a_file_of_ports_that_makes_no_sense_is_no_file(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "ports.json").write_text(text)
    assert files.kept_ports(tmp_path / "ports.json") == {}
    (tmp_path / "ports.json").write_text(json.dumps({"client": 5}))
    assert files.kept_ports(tmp_path / "ports.json") == {"client": 5}


def test_private_files_are_replaced_whole_and_read_by_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("old and longer")
    path.chmod(0o644)
    files.write_private(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "password"
    first, is_new = files.read_or_make(path, files.new_secret)
    assert is_new
    assert len(first) >= 32
    assert files.read_or_make(path, files.new_secret) == (first, False)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("\n")
    assert files.read_or_make(path, files.new_secret)[1], "an empty file holds no secret"


def test_socket_paths_have_a_bound(tmp_path: Path) -> None:
    assert files.socket_fits(Path("/" + "x" * 106))
    assert not files.socket_fits(Path("/" + "x" * 107))
