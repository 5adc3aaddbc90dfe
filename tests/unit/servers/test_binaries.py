"""Which programs are found, which are refused, and what is said."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pks.base.config import Edges
from pks.servers import binaries
from pks.servers.errors import ServerMissing, ServerRefused
from pks.servers.nats import Nats
from pks.servers.postgres import Postgres
from pks.servers.questdb import Questdb
from pks.servers.valkey import Valkey


def program(path: Path, said: str) -> str:
    path.write_text(f"#!/bin/sh\necho '{said}'\n")
    path.chmod(0o755)
    return str(path)


def jar(path: Path, version: str) -> str:
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("META-INF/maven/org.questdb/questdb/pom.properties", f"groupId=org.questdb\nversion={version}\n")
    return str(path)


def test_versions_are_read_of_what_programs_say(tmp_path: Path) -> None:
    nats = program(tmp_path / "nats-server", "nats-server: v2.12.3-RC.1")
    assert Nats(tmp_path / "it", Edges(nats_bin=nats)).version() == "2.12.3-RC.1"
    redis = program(tmp_path / "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64")
    assert Valkey(tmp_path / "it", Edges(valkey_bin=redis)).version() == "7.0.15"
    program(tmp_path / "postgres", "postgres (PostgreSQL) 17.2 (Debian 17.2-1.pgdg120+1)")
    program(tmp_path / "initdb", "")
    assert Postgres(tmp_path / "it", Edges(postgres_bin=str(tmp_path))).version() == "17.2", "the folder will do"
    java = program(tmp_path / "java", 'openjdk version "21.0.1" 2023-10-17')
    assert Questdb(tmp_path / "it", Edges(java=java, questdb_jar=jar(tmp_path / "q.jar", "9.9.9"))).version() == "9.9.9"


def test_numbers_of_versions() -> None:
    assert binaries.numbers_of("18.6") == (18, 6)
    assert binaries.numbers_of("2.12.3-RC.1") == (2, 12, 3)
    assert binaries.numbers_of("17") == (17,)


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    for server in (
        Nats(tmp_path, Edges(nats_bin=absent)),
        Postgres(tmp_path, Edges(postgres_bin=absent)),
        Valkey(tmp_path, Edges(valkey_bin=absent)),
        Questdb(tmp_path, Edges(java=absent)),
    ):
        with pytest.raises(ServerMissing, match=f"there is no file {absent}"):
            server.version()
    with pytest.raises(ServerMissing, match=r"edges\.questdb_jar"):
        binaries.questdb_jar(absent)


def test_what_pip_has_not_installed_is_missing_with_a_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(binaries.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(binaries.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(binaries, "cache_folders", lambda: (tmp_path,))
    monkeypatch.setenv("PATH", str(tmp_path))
    for find, hint in (
        (binaries.nats_binary, "PKS_NATS_BIN"),
        (binaries.postgres_binary, "PKS_PG_BIN"),
        (binaries.valkey_binary, "PKS_VALKEY_BIN"),
        (binaries.java_binary, "PKS_JAVA"),
        (binaries.questdb_jar, "python -m pks.servers.jar"),
    ):
        with pytest.raises(ServerMissing, match=hint):
            find("")


def test_another_program_is_refused(tmp_path: Path) -> None:
    for said in ("hello", "nats-server: vX"):
        with pytest.raises(ServerRefused, match=f"is another program: `--version` says '{said}'"):
            Nats(tmp_path, Edges(nats_bin=program(tmp_path / "nats", said))).version()
    text = tmp_path / "text"
    text.write_text("not a program")
    with pytest.raises(ServerRefused, match="cannot be executed"):
        Nats(tmp_path, Edges(nats_bin=str(text))).version()
    text.chmod(0o755)
    with pytest.raises(ServerRefused, match="does not run: "):
        Nats(tmp_path, Edges(nats_bin=str(text))).version()
    java = program(tmp_path / "java", 'openjdk version "11.0.1" 2018-10-16')
    with pytest.raises(ServerRefused, match=r"Java 11\.0\.1 .* is older than 17"):
        Questdb(tmp_path, Edges(java=java, questdb_jar=jar(tmp_path / "q.jar", "9.9.9"))).version()


def test_a_jar_that_is_not_the_pinned_one_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java = program(tmp_path / "java", 'openjdk version "25.0.2" 2026-01-20 LTS')
    (tmp_path / "jars").mkdir()
    jar(tmp_path / "jars" / binaries.JAR_NAME, "9.3.4")
    monkeypatch.setattr(binaries, "cache_folders", lambda: (tmp_path,))
    with pytest.raises(ServerRefused, match=r"is not the questdb-9\.3\.4\.jar that is known here"):
        Questdb(tmp_path, Edges(java=java)).version()
    for content in (b"", b"PK\x05\x06" + b"\0" * 18):
        (tmp_path / "other.jar").write_bytes(content)
        with pytest.raises(ServerRefused, match="is not a jar of QuestDB"):
            Questdb(tmp_path, Edges(java=java, questdb_jar=str(tmp_path / "other.jar"))).version()


def test_a_version_that_is_too_old_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    server = Nats(tmp_path / "it", Edges(nats_bin=program(tmp_path / "nats", "nats-server: v2.9.10")))
    with pytest.raises(ServerRefused, match=r"version 2\.9\.10 is older than 2\.11"):
        server.prepare()
    assert not (tmp_path / "it").exists()


def test_servers_get_no_variable_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKS_PG_URL", "postgresql://me:s3cret@host/db")
    monkeypatch.setenv("HOME", "/home/me")
    assert not {"PKS_PG_URL", "HOME"} & binaries.plain_environment().keys()
