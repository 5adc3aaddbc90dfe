"""The jar of set-up: kept when it is the pinned file, refused when it is not, and one line when it cannot be had."""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pks.servers import jar
from pks.servers.errors import ServerRefused


class Repository:
    """In place of the resolver's: gives a file of this content, or fails."""

    def __init__(self, content: bytes | None) -> None:
        self.content, self.asked = content, 0

    def context(self, repo_cache: Path) -> Any:
        self.asked += 1
        if self.content is None:
            raise ConnectionError("no route\nto host")
        came = repo_cache / "came.jar"
        came.write_bytes(self.content)
        artifact = SimpleNamespace(resolve=lambda: came)
        component = SimpleNamespace(artifact=lambda: artifact)
        return SimpleNamespace(project=lambda group, name: SimpleNamespace(at_version=lambda version: component))


def serve(monkeypatch: pytest.MonkeyPatch, folder: Path, content: bytes | None) -> Repository:
    made = Repository(content)
    monkeypatch.setitem(sys.modules, "jgo.maven", SimpleNamespace(MavenContext=made.context))  # type: ignore[misc]
    monkeypatch.setattr(jar, "JAR_SHA256", sha256(b"the jar").hexdigest())
    monkeypatch.setattr(jar, "cache_folders", lambda: (folder,))
    return made


def test_the_pinned_file_is_fetched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    repository = serve(monkeypatch, tmp_path, b"the jar")
    for _ in range(2):
        assert jar.fetch_jar(tmp_path / "jars").read_bytes() == b"the jar"
    assert repository.asked == 1
    assert [path.name for path in (tmp_path / "jars").iterdir()] == [jar.JAR_NAME]
    (tmp_path / "jars" / jar.JAR_NAME).write_bytes(b"damaged")
    assert jar.fetch_jar(tmp_path / "jars").read_bytes() == b"the jar"
    assert repository.asked == 2


def test_another_file_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    serve(monkeypatch, tmp_path, b"another jar")
    with pytest.raises(ServerRefused, match="it was not kept"):
        jar.fetch_jar(tmp_path / "jars")
    assert list((tmp_path / "jars").iterdir()) == []


def test_without_a_network_one_line_and_exit_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serve(monkeypatch, tmp_path, None)
    assert jar.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pks: no QuestDB jar: no route to host. Everything else works")
