"""QuestDB: Java, the jar, the configuration, and the temporary folder that it leaves things in.

Owns `<data>/servers/questdb`: `conf/`, `db/`, and `tmp/`, which is emptied at each start. A commit waits for the disk, since the edge's
cursor is the newest row: none may survive a power cut that took one in front of it. It listens on loopback alone, with a password on
HTTP and on Postgres' protocol, and sends nothing to anybody. Tables are the edge's. Where Java or the jar is missing, the edge keeps time
series in Postgres.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pks.base.config import Edges
from pks.servers import files
from pks.servers.binaries import JAR_NAME, JAR_SHA256, ask_version, jar_version, java_binary, questdb_jar, sha256_of
from pks.servers.errors import ServerRefused
from pks.servers.probe import Question, http_question
from pks.servers.server import Server

USER = "pks"

JAVA_OLDEST = 17

EXIT_TERMINATED = 143
"""What Java ends with after SIGTERM."""

JVM = (
    "-XX:+UseSerialGC", "-Xms64m", "-Xmx512m", "-XX:-UsePerfData", "-XX:ErrorFile=hs_err.log", "--enable-native-access=io.questdb",
    "--add-opens=java.base/java.lang=io.questdb", "--add-opens=java.base/java.lang.reflect=io.questdb",
    "--add-opens=java.base/java.nio=io.questdb", "--add-opens=java.base/java.time.zone=io.questdb",
    "--add-exports=java.base/jdk.internal.vm=io.questdb",
)  # fmt: skip
"""As the server's own script has them, with a small heap."""

JVM_24 = ("--sun-misc-unsafe-memory-access=allow",)
"""Known from Java 24 on, which warns without it."""


QUIET_CONF = """config.reload.enabled=false
cairo.mat.view.enabled=false
shared.worker.sleep.threshold=7500
wal.apply.worker.count=1
view.compiler.worker.count=1
view.compiler.worker.sleep.timeout=1000
export.worker.count=1
export.worker.sleep.timeout=1000
http.min.worker.sleep.timeout=100
"""
"""An idle thread looks for work a hundred times a second, and a thousand times in the first three seconds, of which half a one is enough.
One thread for each thing that we use; rare looks for what we do not, which is views and exports.
"""


def questdb_conf(ports: Mapping[str, int], secret: str) -> str:
    """`conf/server.conf`."""
    place = files.LOOPBACK
    return f"""# written at each start
http.bind.to={place}:{ports["client"]}
http.min.net.bind.to={place}:{ports["health"]}
pg.net.bind.to={place}:{ports["sql"]}
line.tcp.enabled=false
telemetry.enabled=false
metrics.enabled=true
http.health.check.authentication.required=false
http.user={USER}
http.password={secret}
pg.user={USER}
pg.password={secret}
shared.network.worker.count=1
shared.query.worker.count=1
shared.write.worker.count=1
ram.usage.limit.percent=50
cairo.o3.column.memory.size=128K
cairo.writer.data.append.page.size=256K
cairo.wal.segment.rollover.size=32M
cairo.commit.mode=sync
{QUIET_CONF}"""


LOG_CONF = """writers=stdout
w.stdout.class=io.questdb.log.LogConsoleWriter
w.stdout.level=ERROR,CRITICAL
"""
"""`conf/log.conf`: by itself it writes lines for every query."""


class Questdb(Server):
    """The jar of set-up on the wheel's Java, or `edges.questdb_jar` and `edges.java`."""

    name = "questdb"
    programs = ("java",)
    named_ports: ClassVar[Mapping[str, int]] = {"client": 9000, "health": 9003, "sql": 8812}
    stop_signal = signal.SIGTERM
    stop_codes = (0, EXIT_TERMINATED)
    oldest = (8, 2)

    def __init__(self, folder: Path, edges: Edges) -> None:
        super().__init__(folder, edges)
        self._java_major = JAVA_OLDEST

    def version(self) -> str:
        java, jar = java_binary(self.edges.java), questdb_jar(self.edges.questdb_jar)
        java_version = ask_version(self.name, java, "-version", r'version "(\d[^"]*)"')
        self._java_major = int(java_version.partition(".")[0])
        if self._java_major < JAVA_OLDEST:
            raise ServerRefused(self.name, f"Java {java_version} of {java} is older than {JAVA_OLDEST}, which is needed")
        if not self.edges.questdb_jar and sha256_of(jar) != JAR_SHA256:
            raise ServerRefused(self.name, f"{jar} is not the {JAR_NAME} that is known here (SHA-256); remove it and fetch it again")
        return jar_version(jar)

    def configure(self, version: str) -> list[str]:
        secret, _ = files.read_or_make(self.secret_file, files.new_secret)
        (self.folder / "conf").mkdir(mode=0o700, exist_ok=True)
        files.write_private(self.folder / "conf" / "server.conf", questdb_conf(self.ports, secret))
        files.write_private(self.folder / "conf" / "log.conf", LOG_CONF)
        if self._tmp.exists():
            shutil.rmtree(self._tmp)  # libraries that a killed one had unpacked
        self._tmp.mkdir(mode=0o700)
        return []

    @property
    def _tmp(self) -> Path:
        return self.folder / "tmp"

    def command(self) -> list[str]:
        flags = [*JVM, *(JVM_24 if self._java_major >= 24 else ()), f"-Djava.io.tmpdir={self._tmp}"]
        jar = str(questdb_jar(self.edges.questdb_jar))
        return [
            str(java_binary(self.edges.java)),
            *flags,
            "-p",
            jar,
            "-m",
            "io.questdb/io.questdb.ServerMain",
            "-d",
            str(self.folder),
            "-n",
        ]

    def url(self) -> str:
        return f"http://{USER}:{self.secret()}@{files.LOOPBACK}:{self.ports['client']}?sql_port={self.ports['sql']}"

    def question(self) -> Question:
        return http_question(self.ports["health"], "/status", lambda answer: b"Healthy" in answer)
