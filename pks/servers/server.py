"""What every server has in common: its folder, its ports, its password, the check of versions, and the words for the keeper.

Owns the life of the folder `<data>/servers/<name>`. `prepare` and what it calls run in the child that becomes the server, so they may take
their time; the keeper calls the rest. A server's own module adds its configuration and its program.
"""

from __future__ import annotations

import json
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pks.base.config import Edges
from pks.servers import files
from pks.servers.binaries import numbers_of, plain_environment
from pks.servers.errors import ServerRefused
from pks.servers.probe import Question
from pks.servers.process import As, end_orphans, take_rights

NAMES = ("postgres", "nats", "questdb", "redis")
"""The edges that have a server, in the order of `pks status`."""

LAST_WORDS_BYTES = 4096
LAST_WORDS_CHARACTERS_MAX = 300
"""How much of a dead server's output is looked at, and how much of its last line is shown."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the child says before it becomes the server."""

    version: str
    ports: Mapping[str, int]
    notes: tuple[str, ...] = ()  # for the log


class Server(ABC):
    """One server on one folder."""

    name: ClassVar[str]
    programs: ClassVar[tuple[str, ...]]  # as the kernel names its processes
    named_ports: ClassVar[Mapping[str, int]]  # "client" is the one that edges use
    stop_signal: ClassVar[signal.Signals]
    stop_codes: ClassVar[tuple[int, ...]] = (0,)  # exit codes that are no failure after the stop signal
    oldest: ClassVar[tuple[int, ...]]  # version below which it is not used

    def __init__(self, folder: Path, edges: Edges) -> None:
        """folder: `<data>/servers/<name>`; need not be there yet."""
        self.folder, self.edges = folder, edges
        self.ports: dict[str, int] = files.kept_ports(folder / "ports.json")

    # What a server's own module says.

    @abstractmethod
    def version(self) -> str:
        """The program's version, asked of itself. Raises ServerMissing, ServerRefused."""

    @abstractmethod
    def configure(self, version: str) -> list[str]:
        """Write configuration and what the first start needs; notes for the log. Ports and folder are there."""

    @abstractmethod
    def command(self) -> list[str]:
        """Program and arguments."""

    @abstractmethod
    def url(self) -> str:
        """Where clients find it, with user and password; the ports must be known."""

    @abstractmethod
    def question(self) -> Question:
        """What to ask it, and which answer means that it is ready."""

    def environment(self) -> dict[str, str]:
        """All of its environment."""
        return plain_environment()

    @property
    def how(self) -> As:
        """As whom it runs."""
        return "self"

    def take_rights(self) -> None:
        """Give up what it must not have; called last before it starts."""
        take_rights(self.how)

    def check_folder(self, used: str, version: str) -> None:
        """Whether this version may work on a folder that version `used` has worked on. Raises ServerRefused."""
        if numbers_of(version)[:2] < numbers_of(used)[:2]:
            raise ServerRefused(
                self.name, f"{self.folder} was last used by version {used}, which is newer than {version}; {self._way_out()}"
            )

    # What all do.

    def prepare(self) -> Prepared:
        """Everything up to the start: versions, orphans, folder, ports, configuration. Raises ServerMissing, ServerRefused, OSError."""
        version = self.version()
        if numbers_of(version) < self.oldest:
            raise ServerRefused(self.name, f"version {version} is older than {'.'.join(map(str, self.oldest))}, which is needed")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = self.folder / "version"
        if kept.exists():
            self.check_folder(kept.read_text().strip(), version)
        notes = []
        if ended := end_orphans(self.folder, self.programs, self.stop_signal):
            notes.append(f"ended {self.name} of an earlier run, pid {', '.join(map(str, ended))}")
        self.ports = files.choose_ports(self.named_ports, self.ports, files.is_free, files.any_free)
        files.write_private(self.folder / "ports.json", json.dumps(self.ports) + "\n")
        notes += self.configure(version)
        files.write_private(kept, version + "\n")
        return Prepared(version, self.ports, tuple(notes))

    def learn(self) -> None:
        """Take the ports that another process, which prepared it, has written."""
        self.ports = files.kept_ports(self.folder / "ports.json")

    @property
    def output(self) -> Path:
        """What the server says of itself."""
        return self.folder / "output.log"

    @property
    def secret_file(self) -> Path:
        """The password, alone in a file that only its owner reads."""
        return self.folder / "password"

    def secret(self) -> str:
        """The password that is kept. Raises FileNotFoundError before the first start."""
        return self.secret_file.read_text().strip()

    def last_words(self) -> str:
        """The end of what it said, in one line."""
        try:
            with self.output.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_WORDS_BYTES))
                said = file.read().decode(errors="replace")
        except OSError:
            return ""  # it had said nothing, or the file was taken away
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        return lines[-1][-LAST_WORDS_CHARACTERS_MAX:] if lines else ""

    def _way_out(self) -> str:
        return f"use that version, or move the folder away (PKS fills a new one), or give a URL (edges.{self.name}_url)"
