"""Orphans are found by their folder and name, and by nothing else; and a child goes with its parent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pks.servers import process
from tests.conftest import wait_until

SLEEP = ("sleep",)


def test_orphans_are_found_by_working_directory_or_command_line(tmp_path: Path) -> None:
    folder, other = tmp_path / "it", tmp_path / "item"
    for made in (folder, folder / "below", other):
        made.mkdir()
    script = folder / "conf"
    script.write_text("600")
    started = [
        subprocess.Popen(["sleep", "600"], cwd=folder),
        subprocess.Popen(["sleep", "600"], cwd=folder / "below"),
        subprocess.Popen(["tail", "-f", str(script)], stdout=subprocess.DEVNULL),
        subprocess.Popen(["sleep", "600"], cwd=other),
    ]
    try:
        pids = [one.pid for one in started]
        wait_until(lambda: process.still_running(other, SLEEP) == pids[3:], 20, "exec")
        assert process.still_running(folder, SLEEP) == sorted(pids[:2])
        assert process.still_running(folder, ("tail",)) == [pids[2]]
        (tmp_path / "link").symlink_to(folder)
        assert process.still_running(tmp_path / "link", SLEEP) == sorted(pids[:2])
        assert process.end_orphans(folder, SLEEP, signal.SIGTERM) == sorted(pids[:2])
        assert [started[0].wait(20), started[1].wait(20)] == [-signal.SIGTERM] * 2
        assert [started[2].poll(), started[3].poll()] == [None, None]
        assert process.end_orphans(folder, SLEEP, signal.SIGTERM) == []
    finally:
        for one in started:
            one.kill()
            one.wait()


def test_an_orphan_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "END_SECONDS", 0.05)
    shell = shutil.which("sh")
    assert shell is not None
    deaf = subprocess.Popen([shell, "-c", "trap '' TERM; echo; read line"], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert deaf.stdout is not None
    assert deaf.stdin is not None
    with deaf.stdout, deaf.stdin:
        deaf.stdout.readline()
        name = Path(os.path.realpath(shell)).name
        assert process.end_orphans(tmp_path, (name, "sh"), signal.SIGTERM) == [deaf.pid]
        assert deaf.wait(20) == -signal.SIGKILL


def test_a_child_goes_with_its_parent_by_the_signal_that_it_chose(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pks.servers.process import die_with; parent = os.getpid(); pid = os.fork()\n"
        "if pid == 0: die_with(parent, 15); os.execvp('sleep', ['sleep', '600'])\n"
        "print(pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
        wait_until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n", 20, "exec")
        parent.kill()
        parent.wait()

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_until(is_gone, 20, "the child's end")


def test_who_has_a_name_and_is_not_root_runs_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    assert process.how_to_run() == "self"
    monkeypatch.setattr(os, "geteuid", lambda: 123_456_789)
    assert process.how_to_run() in ("userns", "self")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert process.how_to_run() in ("userns", "nobody")
