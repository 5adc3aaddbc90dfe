"""The desk's day as a journal, made once a run; and the command line called in this process."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pks.cli.group import main
from tests.unit.cli.journals import write_desk_journal

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def desk_day_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the desk's day; not to be changed."""
    folder = tmp_path_factory.mktemp("desk")
    write_desk_journal(folder)
    return folder


@pytest.fixture
def desk_dir(desk_day_dir: Path, tmp_path: Path) -> Path:
    """The same, a test's own."""
    folder = tmp_path / "desk"
    shutil.copytree(desk_day_dir, folder)
    return folder


@pytest.fixture
def pks_run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command line: pks_run(data_dir, "positions", "--json", stdin="")."""
    for name in [name for name in os.environ if name.startswith("PKS_") and name not in ("PKS_CACHE_DIR", "PKS_TEST_SEED")]:
        monkeypatch.delenv(name)

    def run(data_dir: Path | None, *arguments: str, stdin: str | bytes = b"") -> Result:
        environ = {} if data_dir is None else {"PKS_DATA_DIR": str(data_dir)}
        result = CliRunner().invoke(main, arguments, input=stdin, env=environ)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@contextmanager
def running_here(data_dir: Path, instance: str, shards: int) -> Iterator[None]:
    """Make the commands believe that this process is the supervisor of `data_dir`: a run file and its lock."""
    run = data_dir / "run"
    run.mkdir(exist_ok=True)
    facts: dict[str, Any] = {"pid": os.getpid(), "instance": instance, "shards": shards, "state": "READY", "stop_timeout": 10}
    (run / "pks.json").write_text(json.dumps(facts | {"edges": "none", "servers": {}, "endpoints": {}}))
    with (run / "system.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def json_of(result: Result) -> Any:
    """The JSON that a command printed, which went well."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
