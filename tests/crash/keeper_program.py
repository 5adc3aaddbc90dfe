"""A program that keeps servers as the supervisor does, without a core.

`python -m tests.crash.keeper_program DATA_DIR [setting=value ...]`; besides settings: `as=` how Postgres runs, `user=` a uid to become
first, `only=` names of the servers that are kept. It writes `keeper.json` at each change and ends in order at SIGTERM.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import cast

from pks.base.config import load_config
from pks.servers.alone import rounds
from pks.servers.endpoints import SERVERS
from pks.servers.keeper import Keeper
from pks.servers.postgres import Postgres
from pks.servers.process import As
from pks.servers.server import NAMES


class Printed:
    """A log on the standard output."""

    def info(self, event: str, **facts: object) -> None:
        print(event, facts, flush=True)

    warning = error = info


PR_SET_DUMPABLE = 4


def main(data_dir: str, options: dict[str, str]) -> int:
    how, user, only = (options.pop(name, "") for name in ("as", "user", "only"))
    config = load_config(None, {}, {"data_dir": data_dir, **options}).config
    if how:
        SERVERS["postgres"] = cast(type[Postgres], lambda folder, edges: Postgres(folder, edges, cast(As, how)))
    if user:
        os.setgroups([])
        os.setresgid(int(user), int(user), int(user))
        os.setresuid(int(user), int(user), int(user))
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # as after a login: its files under /proc are its own
    keeper = Keeper(config, Printed(), only.split(",") if only else NAMES)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    for facts in rounds(keeper, asked):
        part = Path(data_dir, "keeper.json.part")
        part.write_text(json.dumps(facts | {"pid": os.getpid()}))
        part.replace(Path(data_dir, "keeper.json"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], dict(option.split("=", 1) for option in sys.argv[2:])))
