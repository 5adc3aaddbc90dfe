"""The supervisor with real processes: whatever is killed, hung or told to stop, the system is whole again or gone, and says so."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pks.cli.status import status_of
from pks.layouts.segment import SegmentState
from pks.running import find_running
from pks.segments.errors import StaleHost
from pks.segments.shm import list_segments, retire
from pks.segments.wait import remove_semaphores
from pks.topology import Host, Paths
from pks.workers.points import points_hit
from tests.conftest import wait_until
from tests.crash.keep_servers import is_running, why_missing

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20.0  # a deadline for a loaded machine, not a duration


class System:
    """One data directory and the supervisor that runs on it."""

    def __init__(self, data_dir: Path, instance: str) -> None:
        self.data_dir, self.instance = data_dir, instance
        self.process: subprocess.Popen[str] | None = None
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *options: str, ready: bool = True, **environ: str) -> subprocess.Popen[str]:
        self.data_dir.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.crash.tiny_workers", str(self.data_dir), self.instance, *options]
        variables = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environ}
        errors = (self.data_dir / "stderr").open("a")
        self.process = subprocess.Popen(command, cwd=ROOT, env=variables, stderr=errors, text=True)
        errors.close()
        self.started.append(self.process)
        if ready:
            wait_until(lambda: self.state() == "READY", SECONDS, "READY")
        return self.process

    def state(self) -> str:
        assert self.process is not None
        assert self.process.poll() is None, f"the supervisor ended: {self.output()}"
        facts = self.run_file()
        return facts["state"] if facts and facts["pid"] == self.process.pid else ""

    def run_file(self) -> dict[str, Any]:
        path = Paths(self.data_dir).run_file
        return json.loads(path.read_text()) if path.exists() else {}

    def output(self) -> str:
        return (self.data_dir / "stderr").read_text()

    def said(self) -> list[str]:
        """What the workers wrote of themselves, without pids."""
        return [line.rpartition(" ")[0] for line in (self.data_dir / "said").read_text().splitlines()]

    def workers(self) -> dict[str, dict[str, Any]]:
        return {worker["name"]: worker for worker in status_of(find_running(self.data_dir))["workers"]}

    def pid(self, worker: str) -> int:
        found = self.workers()[worker]["pid"]
        assert found, f"{worker} lives"
        return int(found)

    def wait_restarted(self, worker: str, old_pid: int) -> dict[str, Any]:
        def again() -> bool:
            facts = self.workers()[worker]
            return facts["state"] == "READY" and facts["pid"] not in (None, old_pid)

        wait_until(again, SECONDS, f"{worker} ready again")
        return self.workers()[worker]

    def wait_end(self) -> int:
        assert self.process is not None
        return self.process.wait(SECONDS)

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait_end()


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    made = System(tmp_path / "data", f"sup{os.getpid()}")
    yield made
    for process in made.started:
        if process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            psutil.wait_procs(children, SECONDS)
    shutil.rmtree(made.data_dir / "servers", ignore_errors=True)
    for facts in list_segments(made.instance):
        retire(facts.name)
    remove_semaphores(32, made.instance)
    Path(f"/dev/shm/pks-lock.{made.instance}").unlink(missing_ok=True)


def kill_and_wait(pid: int) -> None:
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(process), SECONDS, f"the end of {pid}")


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids)


def test_workers_are_the_supervisors_own_children(system: System) -> None:
    process = system.start()
    facts = system.run_file()
    children = {child.pid for child in psutil.Process(process.pid).children()}
    assert children == {facts["zygote_pid"], *(int(worker["pid"]) for worker in system.workers().values())}
    zygote = psutil.Process(facts["zygote_pid"])
    assert zygote.num_threads() == 1
    assert zygote.children() == []
    assert psutil.Process(system.pid("journal")).cmdline()[0] == f"pks journal [{system.instance}]"


def test_status_has_the_promised_form(system: System) -> None:
    system.start()
    wait_until(lambda: status_of(find_running(system.data_dir))["sequence"]["applied"] == 200, SECONDS, "all events applied")
    facts = status_of(find_running(system.data_dir))
    assert list(facts) == [
        "state",
        "pid",
        "instance",
        "data_dir",
        "shards",
        "sequence",
        "workers",
        "edges",
        "endpoints",
        "shadow",
        "alerts",
    ]
    assert facts["sequence"] == {"accepted": 200, "durable": 200, "applied": 200}
    assert [worker["name"] for worker in facts["workers"]] == ["capture", "journal", "accumulator-0", "shadow"]
    assert {"name", "pid", "state", "restarts", "heartbeat_age_ms", "cursor", "lag"} <= set(facts["workers"][0])
    assert all(0 <= worker["heartbeat_age_ms"] < 5000 for worker in facts["workers"])
    assert list(facts["edges"]) == ["postgres", "nats", "questdb", "redis"]
    for edge in facts["edges"].values():
        assert {"mode", "state", "pid", "url", "cursor", "lag", "last_error"} <= set(edge)
        assert (edge["mode"], edge["state"], edge["pid"]) == ("none", "OFF", None)


def test_each_killed_worker_is_restarted(system: System) -> None:
    process = system.start()
    for worker in ("capture", "journal", "accumulator-0", "shadow"):
        old = system.pid(worker)
        os.kill(old, signal.SIGKILL)
        facts = system.wait_restarted(worker, old)
        assert facts["restarts"] == 1
        assert facts["last_error"] == "SIGKILL"
        assert psutil.Process(facts["pid"]).ppid() == process.pid
    assert all(worker["restarts"] == 1 for worker in system.workers().values())
    assert system.stop() == 0


def test_a_killed_zygote_is_made_again_and_serves(system: System) -> None:
    system.start()
    zygote, shadow, journal = system.run_file()["zygote_pid"], system.pid("shadow"), system.pid("journal")
    kill_and_wait(zygote)
    kill_and_wait(shadow)
    wait_until(lambda: system.run_file()["zygote_pid"] not in (0, zygote), SECONDS, "another zygote")
    system.wait_restarted("shadow", shadow)
    assert system.pid("journal") == journal, "who was not killed lives on"


def test_a_stopped_zygote_is_replaced_when_it_is_needed(system: System) -> None:
    system.start()
    zygote, shadow = system.run_file()["zygote_pid"], system.pid("shadow")
    os.kill(zygote, signal.SIGSTOP)
    os.kill(shadow, signal.SIGKILL)
    system.wait_restarted("shadow", shadow)
    assert system.run_file()["zygote_pid"] != zygote
    assert "the zygote does not answer" in system.output()


def test_a_killed_supervisor_takes_all_with_it_and_the_next_start_recovers(system: System) -> None:
    process = system.start()
    wait_until(lambda: Host.open(system.instance).events.head == 200, SECONDS, "all events")
    pids = [child.pid for child in psutil.Process(process.pid).children()]
    reader = Host.open(system.instance)
    events = reader.segment("events")
    events.check_live()
    process.kill()
    process.wait()
    wait_until(lambda: gone(pids), SECONDS, "the workers' end")

    def is_stale() -> bool:
        try:
            events.check_live()
        except StaleHost:
            return True
        return False

    wait_until(is_stale, 2.0, "a reader sees that the host is gone")
    assert events.state == SegmentState.LIVE, "nobody was there to close it"
    system.start()
    assert events.state == SegmentState.CLOSED, "the next start put it aside"
    assert re.search(r"put aside the segments of a dead run count=\d\d", system.output())
    assert system.run_file()["epoch"] == 2
    assert system.stop() == 0


def test_everything_killed_at_once(system: System) -> None:
    process = system.start()
    for pid in [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    system.start()
    assert system.stop() == 0


@pytest.mark.parametrize("how", ["hang", "stop"])
def test_a_silent_worker_is_killed_and_restarted(system: System, how: str) -> None:
    system.start("silent=0.6")
    old = system.pid("shadow")
    if how == "hang":
        (system.data_dir / "tell-shadow").write_text("hang")
    else:
        os.kill(old, signal.SIGSTOP)
    assert system.wait_restarted("shadow", old)["restarts"] == 1
    assert re.search(r"error: no heartbeat; it is killed worker=shadow worker_pid=\d+ silent_ms=\d+", system.output())


def test_a_failing_worker_leaves_its_last_words(system: System) -> None:
    system.start()
    old = system.pid("shadow")
    (system.data_dir / "tell-shadow").write_text("raise")
    facts = system.wait_restarted("shadow", old)
    assert facts["last_error"] == "ValueError: told to fail"
    lines = [json.loads(line) for line in (system.data_dir / "log" / "shadow.log").read_text().splitlines()]
    crash = next(line for line in lines if line["level"] == "error")
    assert crash["pid"] == old
    assert 'raise ValueError("told to fail")' in crash["traceback"]


def test_sigterm_to_one_worker_ends_its_batch_and_restarts_it(system: System) -> None:
    system.start()
    old = system.pid("accumulator-0")
    os.kill(old, signal.SIGTERM)
    system.wait_restarted("accumulator-0", old)
    said = [line for line in system.said() if line.startswith("accumulator-0")]
    assert said == ["accumulator-0 made", "accumulator-0 closed", "accumulator-0 made"]
    assert "worker died worker=accumulator-0 ending=exit code 0" in system.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_stop_drains_in_order_and_leaves_nothing(system: System, number: signal.Signals) -> None:
    process = system.start()
    reader = Host.open(system.instance)
    positions = reader.segment("positions")
    process.send_signal(number)
    assert system.wait_end() == 0
    ends = [line for line in system.said() if not line.endswith("made")]
    order = ("capture", "journal", "accumulator-0", "shadow")
    assert ends == [f"{worker} {what}" for worker in order for what in ("drained", "closed")]
    assert list_segments(system.instance) == []
    assert not list(Path("/dev/shm").glob(f"*{system.instance}*")), "no lock, no semaphore"
    assert system.run_file() == {}
    with pytest.raises(StaleHost):
        positions.check_live()


def test_sigterm_to_all_processes_is_an_orderly_stop(system: System) -> None:
    """What a service manager does, or `timeout`: everyone is told at once, and the order is kept all the same."""
    process = system.start()
    for pid in [*(child.pid for child in psutil.Process(process.pid).children()), process.pid]:
        os.kill(pid, signal.SIGTERM)
    assert system.wait_end() == 0
    ends = [line for line in system.said() if not line.endswith("made")]
    order = ("capture", "journal", "accumulator-0", "shadow")
    assert ends == [f"{worker} {what}" for worker in order for what in ("drained", "closed")]
    assert "died" not in system.output()


def test_a_worker_killed_during_the_stop_is_restarted_to_drain(system: System) -> None:
    process = system.start("silent=0.6")
    (system.data_dir / "tell-journal").write_text("hang")
    wait_until(lambda: not (system.data_dir / "tell-journal").exists(), SECONDS, "journal hangs")
    process.send_signal(signal.SIGTERM)
    assert system.wait_end() == 0
    assert "no heartbeat; it is killed worker=journal" in system.output()
    ends = [line for line in system.said() if line.endswith("drained")]
    assert ends == ["capture drained", "journal drained", "accumulator-0 drained", "shadow drained"]


def test_a_stop_that_takes_too_long_kills_and_says_so(system: System) -> None:
    system.start("stop_timeout=1")
    (system.data_dir / "tell-journal").write_text("hang")
    wait_until(lambda: not (system.data_dir / "tell-journal").exists(), SECONDS, "journal hangs")
    assert system.stop() == 1
    assert "error: not stopped in time; it is killed worker=journal seconds=1" in system.output()
    assert list_segments(system.instance) == []


def test_a_stop_before_ready(system: System) -> None:
    process = system.start(ready=False)
    wait_until(lambda: system.run_file(), SECONDS, "the run file")
    process.send_signal(signal.SIGTERM)
    assert system.wait_end() == 0
    assert list_segments(system.instance) == []


def test_a_second_supervisor_is_refused(system: System, tmp_path: Path) -> None:
    process = system.start()
    second = System(system.data_dir, system.instance + "b")
    third = System(tmp_path / "other", system.instance)
    assert second.start(ready=False).wait(SECONDS) == 1
    assert f"data directory {system.data_dir} is in use by pid {process.pid}" in second.output()
    assert third.start(ready=False).wait(SECONDS) == 1
    assert f"instance '{system.instance}' runs on this host already, by pid {process.pid}" in third.output()
    assert system.state() == "READY"
    assert Host.open(system.instance).segment("events").state == SegmentState.LIVE
    assert system.stop() == 0


def test_a_kill_point_kills_once_and_proves_it(system: System) -> None:
    text = "capture:before publish:3,capture:after publish:50,journal:never passed"
    system.start(ready=False, PKS_KILL_AT=text)

    def is_through() -> bool:
        return system.state() == "READY" and Host.open(system.instance).events.head == 200 and system.workers()["capture"]["restarts"] == 2

    wait_until(is_through, SECONDS, "two deaths and all events")
    hits = points_hit(Paths(system.data_dir).run, text)
    assert hits == {"capture:before publish": 1, "capture:after publish": 1, "journal:never passed": 0}
    assert system.workers()["journal"]["restarts"] == 0
    ring = Host.open(system.instance).events
    assert [int(sequence) for sequence in ring.records[1:201, 0]] == list(range(1, 201)), "nothing twice, nothing left out"


def test_a_start_that_cannot_be_ends_with_the_reason(system: System) -> None:
    assert system.start("broken=1", ready=False).wait(SECONDS) == 1
    assert "pks: journal cannot start: NoHope: the journal is gone" in system.output()
    assert list_segments(system.instance) == []
    assert system.run_file() == {}


def test_a_kernel_that_does_not_compile_ends_the_start(system: System) -> None:
    assert system.start(ready=False, TINY_BROKEN_WARM="1").wait(SECONDS) == 1
    assert "pks: zygote cannot start: ValueError: a kernel does not compile" in system.output()
    assert list_segments(system.instance) == []


def test_after_a_pause_of_the_host_the_workers_get_their_time(system: System) -> None:
    process = system.start("silent=0.8")
    before = {name: worker["pid"] for name, worker in system.workers().items()}
    watched = Host.open(system.instance).segment("control")
    process.send_signal(signal.SIGSTOP)
    for pid in before.values():
        os.kill(pid, signal.SIGSTOP)

    def is_stale() -> bool:
        try:
            watched.check_live()
        except StaleHost:
            return True
        return False

    wait_until(is_stale, SECONDS, "readers see the pause")
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: not is_stale(), SECONDS, "readers see the host again")
    for pid in before.values():
        os.kill(pid, signal.SIGCONT)

    def all_beat() -> bool:
        return all(worker["heartbeat_age_ms"] < 500 for worker in system.workers().values() if worker["pid"])

    wait_until(all_beat, SECONDS, "all workers beat")
    assert {name: worker["pid"] for name, worker in system.workers().items()} == before
    assert system.stop() == 0


# --- servers of the edges; by themselves they are in test_servers.py ------------------------------------------------------------

QUICK = {"edges": "embedded", "edges.questdb_jar": "/nowhere/questdb.jar"}
"""What starts within a second; the first start of Postgres takes a few."""

needs_servers = pytest.mark.skipif(
    bool(why_missing("nats") or why_missing("redis") or why_missing("postgres")), reason="not all servers are installed"
)


def edges_of(system: System) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = status_of(find_running(system.data_dir))["edges"]
    return found


def wait_edges(system: System) -> dict[str, dict[str, Any]]:
    def all_ready() -> bool:
        return all(edges_of(system)[name]["state"] == "READY" for name in ("nats", "redis", "postgres"))

    wait_until(all_ready, 3 * SECONDS, "the servers are ready")
    return edges_of(system)


def place_of(output: str, text: str) -> int:
    assert text in output, f"{text} in {output}"
    return output.index(text)


@needs_servers
def test_servers_start_after_the_core_and_end_after_the_workers(system: System) -> None:
    process = system.start(*(f"{key}={value}" for key, value in QUICK.items()))
    edges = wait_edges(system)
    assert edges["questdb"]["state"] == "MISSING"
    assert edges["questdb"]["last_error"] == "edges.questdb_jar: there is no file /nowhere/questdb.jar"
    pids = [int(edges[name]["pid"]) for name in ("nats", "redis", "postgres")]
    assert set(pids) <= {child.pid for child in psutil.Process(process.pid).children()}
    assert edges["postgres"]["url"].startswith("postgresql://pks:***@127.0.0.1:")
    killed = edges["nats"]["pid"]
    os.kill(killed, signal.SIGKILL)
    os.kill(system.run_file()["zygote_pid"], signal.SIGKILL)
    wait_until(lambda: edges_of(system)["nats"]["pid"] not in (None, killed), SECONDS, "another nats")
    again = wait_edges(system)
    assert (again["nats"]["restarts"], again["nats"]["last_error"]) == (1, "SIGKILL")
    assert [again[name]["pid"] for name in ("redis", "postgres")] == pids[1:], "a new zygote is no reason to end a server"
    assert all(worker["restarts"] == 0 for worker in system.workers().values())
    assert system.stop() == 0
    assert gone([*pids, int(again["nats"]["pid"])])
    output = system.output()
    assert place_of(output, "ready seconds=") < place_of(output, "server ready edge=")
    assert output.rindex("worker ended") < place_of(output, "\nserver ended edge=") < place_of(output, "stopped exit_code=0")
    assert output.count("\nserver ended edge=") == 3


@needs_servers
def test_a_killed_supervisor_takes_the_servers_with_it(system: System) -> None:
    options = [f"{key}={value}" for key, value in QUICK.items()]
    process = system.start(*options)
    wait_edges(system)
    pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    process.wait()
    wait_until(lambda: not any(is_running(pid) for pid in pids), SECONDS, "the end of all")
    system.start(*options)
    assert all(edge["restarts"] == 0 for edge in wait_edges(system).values())
    assert system.stop() == 0


@needs_servers
def test_a_server_that_does_not_end_is_killed_in_the_stop(system: System) -> None:
    system.start("stop_timeout=1", *(f"{key}={value}" for key, value in QUICK.items()))
    stopped = int(wait_edges(system)["redis"]["pid"])
    os.kill(stopped, signal.SIGSTOP)
    assert system.stop() == 0
    assert gone([stopped])
    assert "a server has not ended in time; it is killed edge=redis" in system.output()
