"""NATS with JetStream: the configuration, the users and their rights, the health question.

Owns `<data>/servers/nats`: `nats.conf`, the store under `jetstream/`, and a seed file a user under `users/`. A message is acknowledged when
it is on the disk (`sync_interval: always`), because BOOKING and EVENTS carry what must not be lost; a stream that may lose seconds is
made with `persist_mode` ASYNC by its edge. Streams themselves are the edge's. A stream that could not be written once, because the disk was
full, takes nothing more in this life of the server, so with room again it counts as hanging, and its keeper gives it another.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pks.servers import files
from pks.servers.binaries import ask_version, nats_binary
from pks.servers.probe import Answer, Question, http_question
from pks.servers.server import Server

STORE_BYTES_MAX = 8 << 30
"""The most that JetStream keeps: 30 days of EVENTS of a busy desk; a full store is an error to publishers, not to the core."""

WRITE_FAILED = b" write error: "
"""In what it says of its health; source: nats-server 2.15, a full file system."""

ROOM_BYTES = 8 << 20
"""Free on the disk, so that another life is worth while."""

MEMORY = "256MiB"
PROCESSORS = "2"
"""Bounds of the Go runtime, which takes what it sees otherwise."""


@dataclass(frozen=True, slots=True)
class User:
    """Who may connect, by NKey: subjects that it may publish to and listen on."""

    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    system: bool = False  # of the account in which the server speaks of itself


def _reader_of(streams: tuple[str, ...]) -> tuple[str, ...]:
    """What a reader of these streams publishes: consumers of its own, and acknowledgements."""
    verbs = (
        "STREAM.INFO.{}",
        "CONSUMER.CREATE.{}.>",
        "CONSUMER.INFO.{}.>",
        "CONSUMER.MSG.NEXT.{}.>",
        "STREAM.MSG.GET.{}",
        "DIRECT.GET.{}.>",
    )
    subjects = [f"$JS.API.{verb.format(stream)}" for stream in streams for verb in verbs]
    return ("$JS.API.INFO", "$JS.API.STREAM.NAMES", *subjects, *(f"$JS.ACK.{stream}.>" for stream in streams), "$JS.FC.>")


USERS = (
    User("pks", (">",), (">",)),  # our own edges
    User(
        "algo", _reader_of(("POSITIONS", "POSITIONS_LATEST", "MARKS")), ("_INBOX_algo.>", "bo.position.>", "bo.pnl.>", "bo.mark.>", "md.>")
    ),
    User(
        "booker",
        ("backoffice.booking.v1.TradeBooked", "backoffice.booking.v1.LifecycleEventApplied", "pd.canonical"),
        ("_INBOX_booker.>",),
    ),
    User("system", (">",), (">",), system=True),
)
"""Users of the embedded server. A user with rights of its own has an inbox of its own (`inbox_prefix`), so that no one hears another's."""


def nats_conf(folder: Path, ports: Mapping[str, int], keys: Mapping[str, str]) -> str:
    """The configuration file. keys: user -> public NKey."""
    return f"""# written at each start
server_name: pks
host: {files.LOOPBACK}
port: {ports["client"]}
http: "{files.LOOPBACK}:{ports["monitor"]}"
max_payload: 1MB
max_connections: 1024
ping_interval: "20s"
write_deadline: "10s"
logtime_utc: true
jetstream {{
  store_dir: {json.dumps(str(folder / "jetstream"))}
  max_memory_store: 64MB
  max_file_store: {STORE_BYTES_MAX}
  sync_interval: always
}}
accounts {{
  PKS {{
    jetstream: enabled
    users: [
{_users(keys, system=False)}
    ]
  }}
  SYS {{
    users: [
{_users(keys, system=True)}
    ]
  }}
}}
system_account: SYS
"""


def _users(keys: Mapping[str, str], system: bool) -> str:
    lines = []
    for user in USERS:
        if user.system == system:
            rights = f"publish: {json.dumps(user.publish)}, subscribe: {json.dumps(user.subscribe)}"
            lines.append(f"      {{ nkey: {keys[user.name]}, permissions: {{ {rights} }} }}")
    return "\n".join(lines)


def new_seed() -> str:
    """The secret half of a user's NKey."""
    import nkeys

    seed: bytes = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return seed.decode()


def public_key(seed: str) -> str:
    """The public half. Raises ValueError for what is no seed."""
    import nkeys

    try:
        key: bytes = nkeys.from_seed(bytearray(seed, "ascii")).public_key
    except Exception as error:  # the library has a dozen ways of saying it
        raise ValueError(f"not the seed of an NKey: {type(error).__name__}") from None
    return key.decode()


class Nats(Server):
    """nats-server of the wheel, or of `edges.nats_bin`."""

    name = "nats"
    programs = ("nats-server",)
    named_ports: ClassVar[Mapping[str, int]] = {"client": 4222, "monitor": 8222}
    stop_signal = signal.SIGTERM
    stop_codes = (0, 1)  # after a signal it says 1
    oldest = (2, 11)

    def version(self) -> str:
        return ask_version(self.name, nats_binary(self.edges.nats_bin), "--version", r"nats-server: v(\d\S*)")

    def configure(self, version: str) -> list[str]:
        users = self.folder / "users"
        users.mkdir(mode=0o700, exist_ok=True)
        keys = {user.name: public_key(files.read_or_make(self.seed_file(user.name), new_seed)[0]) for user in USERS}
        files.write_private(self.folder / "nats.conf", nats_conf(self.folder, self.ports, keys))
        return []

    def seed_file(self, user: str) -> Path:
        """The file with a user's seed."""
        return self.folder / "users" / f"{user}.nk"

    def command(self) -> list[str]:
        return [str(nats_binary(self.edges.nats_bin)), "-c", str(self.folder / "nats.conf")]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "GOMEMLIMIT": MEMORY, "GOMAXPROCS": PROCESSORS}

    def url(self) -> str:
        return f"nats://{files.LOOPBACK}:{self.ports['client']}"

    def question(self) -> Question:
        plain = http_question(self.ports["monitor"], "/healthz", lambda answer: b'"status":"ok"' in answer)

        def judge(answer: bytes) -> Answer | None:
            judged = plain.judge(answer)
            if judged is not Answer.ALIVE:
                return judged
            if not answer.rstrip().endswith(b"}"):
                return None  # why it is not ready is still on its way
            return Answer.SILENT if WRITE_FAILED in answer and self._has_room() else judged

        return Question(plain.port, plain.request, judge)

    def _has_room(self) -> bool:
        return shutil.disk_usage(self.folder).free >= ROOM_BYTES and shutil.disk_usage(self.folder / "jetstream").free >= ROOM_BYTES
