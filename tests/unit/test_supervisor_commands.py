"""The commands around the supervisor, without a running system: what they cost, what they print, how they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pks.base.errors import MEANINGS
from pks.cli import main
from pks.cli.group import COMMANDS
from pks.running import NotRunning, find_running


def pks(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_there_and_helps(name: str) -> None:
    result = pks(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")


def test_the_list_of_commands_costs_no_numerics() -> None:
    code = "import sys, pks.cli; pks.cli.main(['--help'], standalone_mode=False); print({'numpy', 'numba'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "set()"
    assert all(f"  {name} " in output for name in COMMANDS)


def test_shells_complete_commands_without_importing_them() -> None:
    result = CliRunner().invoke(
        main, [], env={"_PKS_COMPLETE": "bash_complete", "COMP_WORDS": "pks st", "COMP_CWORD": "1"}, prog_name="pks"
    )
    assert [line.split(",")[1] for line in result.output.split()] == ["status", "stop"]
    assert "_PKS_COMPLETE=bash_complete" in pks("completion", "bash").output


def test_codes_are_all_printed() -> None:
    lines = pks("codes").output.splitlines()
    assert len(lines) == len(MEANINGS)
    rows = json.loads(pks("codes", "--json").output)
    assert {row["name"]: row["code"] for row in rows} == {code.name: int(code) for code in MEANINGS}


@pytest.mark.parametrize("command", [("status",), ("status", "--json"), ("stop",)])
def test_without_a_system_one_line_and_exit_1(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = pks(*command, "--data-dir", str(tmp_path))
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line == f"pks: the system is not running (data directory {tmp_path}: no run file); start it with pks run"


def test_a_run_file_without_its_supervisor_is_not_a_system(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "pks.json").write_text(json.dumps({"pid": 1}))
    with pytest.raises(NotRunning, match="its last supervisor, pid 1, is gone"):
        find_running(tmp_path)
    assert pks("status", "--data-dir", str(tmp_path)).exit_code == 1
    (tmp_path / "run" / "pks.json").write_text("")
    with pytest.raises(NotRunning, match="lost in a power cut"):
        find_running(tmp_path)


def test_edges_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    assert pks("run", "--data-dir", str(tmp_path), "--edges", "all").exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_of_the_servers_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PKS_PG_URL", "postgresql://me:s3cret@host/db")
    monkeypatch.setenv("PKS_NATS_BIN", str(tmp_path / "absent"))
    monkeypatch.setenv("PKS_VALKEY_BIN", "/bin/true")
    monkeypatch.setenv("PKS_JAVA", str(tmp_path / "absent"))
    result = pks("doctor", "--data-dir", str(tmp_path / "new"))
    lines = {line.split()[1]: line for line in result.output.splitlines()}
    assert lines["postgres"] == "ok    postgres       external, postgresql://me:***@host/db"
    assert lines["nats"].startswith("note  nats           edges.nats_bin: there is no file")
    assert lines["questdb"].endswith("without it time series are kept in Postgres")
    assert lines["redis"].startswith("LACK  redis          /bin/true is another program")
    assert result.exit_code == 1
    assert not (tmp_path / "new").exists(), "it only looks"
    monkeypatch.setenv("PKS_EDGES", "none")
    quiet = pks("doctor", "--data-dir", str(tmp_path / "new")).output
    assert len([line for line in quiet.splitlines() if line.endswith("not wanted")]) == 4


def test_a_bad_setting_is_one_line_and_exit_1(tmp_path: Path) -> None:
    result = pks("run", "--data-dir", str(tmp_path), "--shards", "0")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "shards" in result.stderr


def test_an_instance_without_segments(tmp_path: Path) -> None:
    named = ("--instance", "nobody-here", "--data-dir", str(tmp_path))
    assert json.loads(pks("shm", "ls", "--json", *named).output) == []
    listed = pks("shm", "ls", *named)
    assert (listed.exit_code, listed.stderr) == (1, "pks: no segments of instance 'nobody-here' on this host\n")
    dumped = pks("shm", "dump", "positions", *named)
    assert (dumped.exit_code, dumped.stdout) == (1, "")
    assert "does not exist; is the system running?" in dumped.stderr
    assert pks("shm", "dump", "nothing", *named).exit_code == 2


def test_doctor_says_what_it_finds(tmp_path: Path) -> None:
    result = pks("doctor", "--data-dir", str(tmp_path / "new"))
    assert f"{tmp_path / 'new'}, " in result.output
    assert "cores" in result.output
    (tmp_path / "file").write_text("")
    refused = pks("doctor", "--data-dir", str(tmp_path / "file" / "below"))
    assert refused.exit_code == 1
    assert "LACK  data directory" in refused.output
