"""The supervisor's tables and small parts; what it does with processes is in tests/crash."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pks.layouts.segment import WorkerState
from pks.supervisor import FAILURES_MAX, LOCK_CLAIM, RESTARTS_NS, WORKER_MOVES, InstanceInUse, _InstanceLock
from pks.workers import log as log_module
from pks.workers.log import Log
from pks.workers.points import UNARMED, BadKillPoint, arm_points, kill_here, no_points, own_points, parse_points, points_hit

S = WorkerState
LEGAL = {
    (S.ABSENT, S.STARTING), (S.ABSENT, S.STOPPED),
    (S.STARTING, S.READY), (S.STARTING, S.STOPPING), (S.STARTING, S.DEAD), (S.STARTING, S.HUNG),
    (S.READY, S.STOPPING), (S.READY, S.DEAD), (S.READY, S.HUNG),
    (S.STOPPING, S.STOPPED), (S.STOPPING, S.DEAD), (S.STOPPING, S.HUNG),
    (S.DEAD, S.STARTING), (S.DEAD, S.STOPPED), (S.DEAD, S.HELD),
    (S.HUNG, S.DEAD),
    (S.HELD, S.STOPPED),
}  # fmt: skip


def test_all_pairs_of_worker_states() -> None:
    for old in WorkerState:
        for new in WorkerState:
            assert (new in WORKER_MOVES[old]) == ((old, new) in LEGAL), f"{old.name} -> {new.name}"


def test_restarts_begin_at_once_and_slow_down() -> None:
    assert RESTARTS_NS[0] == 0
    assert list(RESTARTS_NS) == sorted(RESTARTS_NS)
    assert FAILURES_MAX > len(RESTARTS_NS), "the longest pause is reached before a worker is given up"


def test_the_commands_look_at_the_supervisors_lock() -> None:
    from pks.running import LOCK_FILE

    assert f"{LOCK_CLAIM}.lock" == LOCK_FILE


def test_an_instances_lock_is_one_holders_and_goes_with_it() -> None:
    instance = f"lock{os.getpid()}"
    path = Path(f"/dev/shm/pks-lock.{instance}")
    with _InstanceLock(instance):
        assert path.read_text() == f"pid {os.getpid()}\n"
        with pytest.raises(InstanceInUse, match=f"by pid {os.getpid()}"), _InstanceLock(instance):
            pytest.fail("two holders")
    assert not path.exists()
    with _InstanceLock(instance):
        assert path.exists()


# --- logs -----------------------------------------------------------------------------------------------------------------------


def read_log(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_line_is_json_with_its_process(tmp_path: Path) -> None:
    heard: list[str] = []
    log = Log(tmp_path / "x.log", "capture", lambda: 1_700_000_000_123_456_789, heard.append)
    log.warning("disk\nfull", first=3, path=tmp_path)
    (line,) = read_log(tmp_path / "x.log")
    assert line["time"] == "2023-11-14T22:13:20.123456789Z"
    assert (line["level"], line["process"], line["pid"], line["event"]) == ("warning", "capture", os.getpid(), "disk\nfull")
    assert (line["first"], line["path"]) == (3, str(tmp_path))
    assert heard == [f"warning: disk\nfull first=3 path={tmp_path}"]


def test_a_log_is_turned_at_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "LOG_BYTES_MAX", 200)
    log = Log(tmp_path / "x.log", "capture", lambda: 0)
    for number in range(20):
        log.info("line", number=number)
    sizes = [path.stat().st_size for path in (tmp_path / "x.log", tmp_path / "x.log.1")]
    assert all(size < 400 for size in sizes)
    assert read_log(tmp_path / "x.log")[-1]["number"] == 19
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.log", "x.log.1"]


def test_a_full_disk_loses_lines_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(tmp_path / "x.log", "capture", lambda: 0)
    write = os.write

    def no_room(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "write", no_room)
    log.info("lost")
    log.info("lost too")
    monkeypatch.setattr(os, "write", write)
    log.info("there is room")
    (line,) = read_log(tmp_path / "x.log")
    assert (line["event"], line["lost_lines"]) == ("there is room", 2)
    log.info("again")
    assert "lost_lines" not in read_log(tmp_path / "x.log")[-1]

    def broken(descriptor: int, data: bytes) -> int:
        raise OSError(errno.EBADF, "no such descriptor")

    monkeypatch.setattr(os, "write", broken)
    with pytest.raises(OSError, match="no such descriptor"):
        log.info("our own mistake is not hidden")


# --- kill points ----------------------------------------------------------------------------------------------------------------


def test_points_are_parsed() -> None:
    found = [(one.worker, one.point, one.count) for one in parse_points("accumulator-0:after slots:3,journal:before_write,")]
    assert found == [("accumulator-0", "after slots", 3), ("journal", "before_write", 1)]
    assert parse_points("") == []


@pytest.mark.parametrize("text", ["capture", "capture:", ":x", "capture:x:0", "capture:x:-1", "capture:x:y"])
def test_a_bad_point_is_refused(text: str) -> None:
    with pytest.raises(BadKillPoint, match="PKS_KILL_AT"):
        parse_points(text)


def test_an_unarmed_point_is_passed(tmp_path: Path) -> None:
    points = no_points()
    points.here("anything")
    kill_here(points.words, points.row("anything"))
    assert points.row("anything") == UNARMED
    assert points.words.tolist() == [[0, 0]]
    text = "journal:b"
    arm_points(tmp_path, text)
    assert own_points(tmp_path, text, "capture").row("b") == UNARMED, "armed for another worker"


def test_an_armed_point_kills_at_its_count_and_never_again(tmp_path: Path) -> None:
    text = "capture:a:1000,capture:b:2"
    arm_points(tmp_path, text)
    codes = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            points = own_points(tmp_path, text, "capture")
            for _ in range(5):
                points.here("a")
                kill_here(points.words, points.row("b"))
            os._exit(7)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    assert codes == [-9, 7]
    assert points_hit(tmp_path, text) == {"capture:a": 0, "capture:b": 1}
    left = own_points(tmp_path, text, "capture").words
    assert left.tolist() == np.array([[0, 0], [1000 - 2 - 5, 0], [0, 1]]).tolist()
