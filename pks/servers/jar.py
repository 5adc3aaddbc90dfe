"""QuestDB's jar, resolved once at set-up into the cache: `python -m pks.servers.jar`.

Owns the fetch and its check: the SHA-256 of the one version that was tried is pinned, so whatever a repository sends is that file or
nothing. Never called by a running system. The repository is that of the resolver's own settings.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from pks.base.host import cache_folders
from pks.servers.binaries import JAR_NAME, JAR_SHA256, JAR_VERSION, sha256_of
from pks.servers.errors import ServerRefused


def fetch_jar(folder: Path) -> Path:
    """The jar in `folder`, fetched if need be. Raises ServerRefused for any other than the pinned file, and what the resolver raises."""
    target = folder / JAR_NAME
    if target.is_file() and sha256_of(target) == JAR_SHA256:
        return target
    from jgo.maven import MavenContext

    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as room:
        context = MavenContext(repo_cache=Path(room))
        came = Path(context.project("org.questdb", "questdb").at_version(JAR_VERSION).artifact().resolve())
        digest = sha256_of(came)
        if digest != JAR_SHA256:
            raise ServerRefused(
                "questdb", f"the jar of version {JAR_VERSION} that came has SHA-256 {digest}, not {JAR_SHA256}; it was not kept"
            )
        os.replace(came, target)
    return target


def main() -> int:
    """Fetch it; 1 and one line when it cannot be had."""
    try:
        print(fetch_jar(cache_folders()[0] / "jars"))
    except Exception as error:  # the network, the resolver, the disk: each has its own classes, and all mean the same here
        reason = " ".join(str(error).split()) or type(error).__name__
        print(
            f"pks: no QuestDB jar: {reason[:300]}. Everything else works; time series are kept in Postgres until `make jar` finds it",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
