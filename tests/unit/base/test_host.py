"""The machine's facts are read right, compiled code never outlives its sources, and the cache folder is nobody else's."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import pks
from pks.base.host import ROOMS_WITHOUT_KERNELS, HostFacts, Wait, choose_wait, code_hash, findings, host_facts, prepare_numba_cache
from pks.base.limits import CACHE_FOLDERS_MAX

PACKAGE = Path(pks.__file__).parent

FACTS = HostFacts(
    cores=(0, 1, 2, 3, 4, 5, 6, 7),
    cpu_quota=None,
    memory_bytes=16 << 30,
    memory_available_bytes=8 << 30,
    shm_bytes=8 << 30,
    shm_free_bytes=8 << 30,
    huge_page_bytes=2 << 20,
    huge_pages_total=0,
    huge_pages_free=0,
    shm_huge_pages="advise",
    nofile=1 << 20,
    nofile_hard=1 << 20,
    memlock_bytes=-1,
    memlock_hard_bytes=-1,
    clocksource="tsc",
)


def changed(**values: object) -> HostFacts:
    return dataclasses.replace(FACTS, **values)


def levels(facts: HostFacts, hot_workers: int = 3) -> dict[str, str]:
    return {finding.topic: finding.level for finding in findings(facts, hot_workers)}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_facts_of_this_machine_agree_with_other_readings() -> None:
    facts = host_facts()
    assert set(facts.cores) == os.sched_getaffinity(0)
    assert 1 <= facts.usable_cores <= len(facts.cores)
    assert facts.memory_bytes == pytest.approx(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01)
    assert facts.shm_bytes == os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize
    assert 0 <= facts.shm_free_bytes <= facts.shm_bytes


def test_facts_of_a_machine_described_by_files(tmp_path: Path) -> None:
    (tmp_path / "dev/shm").mkdir(parents=True)
    write(
        tmp_path / "proc/meminfo",
        "MemTotal:  2048 kB\nMemAvailable:  1024 kB\nHugePages_Total:  7\nHugePages_Free:  5\nHugepagesize:  2048 kB\n",
    )
    write(tmp_path / "sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size [advise] never deny force\n")
    write(tmp_path / "sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n")
    facts = host_facts(tmp_path)
    assert (facts.memory_bytes, facts.memory_available_bytes) == (2 << 20, 1 << 20)
    assert (facts.huge_pages_total, facts.huge_pages_free, facts.huge_page_bytes) == (7, 5, 2 << 20)
    assert (facts.shm_huge_pages, facts.clocksource, facts.cpu_quota) == ("advise", "hpet", None)


def test_what_the_kernel_does_not_say_is_empty(tmp_path: Path) -> None:
    (tmp_path / "dev/shm").mkdir(parents=True)
    facts = host_facts(tmp_path)
    assert (facts.memory_bytes, facts.shm_huge_pages, facts.clocksource, facts.cpu_quota) == (0, "", "", None)


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n", "cpu.max": "400000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/gone\n", {}, None),
        ("4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "300000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 3.0),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("3:cpuset:/a\n", {"cpu/a/cpu.cfs_quota_us": "300000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_cpu_quota_is_the_tightest_of_the_groups_around_us(
    tmp_path: Path, cgroup: str, files: dict[str, str], expected: float | None
) -> None:
    (tmp_path / "dev/shm").mkdir(parents=True)
    write(tmp_path / "proc/self/cgroup", cgroup)
    for name, text in files.items():
        write(tmp_path / "sys/fs/cgroup" / name, text)
    assert host_facts(tmp_path).cpu_quota == expected


@pytest.mark.parametrize(
    ("cores", "quota", "usable"),
    [(8, None, 8), (8, 2.5, 2), (8, 3.9, 3), (1, 0.5, 1)],
)
def test_usable_cores_are_whole_ones(cores: int, quota: float | None, usable: int) -> None:
    assert changed(cores=tuple(range(cores)), cpu_quota=quota).usable_cores == usable


@pytest.mark.parametrize(
    ("wanted", "cores", "hot", "chosen"),
    [
        (Wait.AUTO, 8, 4, Wait.SPIN),
        (Wait.AUTO, 4, 4, Wait.PARK),
        (Wait.AUTO, 2, 5, Wait.PARK),
        (Wait.SPIN, 4, 4, Wait.SPIN),
        (Wait.SPIN, 2, 3, Wait.PARK),
        (Wait.YIELD, 1, 9, Wait.YIELD),
        (Wait.PARK, 64, 1, Wait.PARK),
    ],
)
def test_auto_wait_never_spins_with_more_hot_workers_than_cores(wanted: Wait, cores: int, hot: int, chosen: Wait) -> None:
    assert choose_wait(wanted, cores, hot) is chosen


def test_a_good_machine_has_nothing_to_say_against_it() -> None:
    assert set(levels(FACTS).values()) == {"ok"}


@pytest.mark.parametrize(
    ("values", "topic", "level"),
    [
        ({"cores": (0, 1)}, "cores", "note"),
        ({"shm_free_bytes": 100 << 20}, "shm", "note"),
        ({"shm_free_bytes": 10 << 20}, "shm", "lack"),
        ({"shm_huge_pages": "never"}, "hugepages", "note"),
        ({"shm_huge_pages": ""}, "hugepages", "note"),
        ({"nofile": 1024}, "open files", "note"),
        ({"nofile": 1024, "nofile_hard": 2048}, "open files", "lack"),
        ({"nofile": 1024, "nofile_hard": -1}, "open files", "note"),
        ({"nofile": -1}, "open files", "ok"),
        ({"memlock_bytes": 65536}, "locked memory", "note"),
        ({"clocksource": "hpet"}, "clock", "note"),
        ({"clocksource": ""}, "clock", "note"),
    ],
)
def test_each_lack_is_found_by_itself(values: dict[str, object], topic: str, level: str) -> None:
    found = levels(changed(**values))
    assert found.pop(topic) == level
    assert set(found.values()) == {"ok"}


# --- numba's cache ---------------------------------------------------------------------------------------------------------

CALLEE = """
from numba import njit
@njit(cache=True)
def tick(value):
    return value + {step}
"""
CALLER = """
from numba import njit
from {package}.callee import tick
@njit(cache=True)
def twice(value):
    return tick(tick(value))
"""
RUN = "from {package}.caller import twice; print(twice(0), sum(twice.stats.cache_hits.values()))"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of this package under another roof, with two kernels in two files, and nothing compiled."""
    package = tmp_path / "tree" / "pks"
    package.mkdir(parents=True)
    shutil.copy(PACKAGE / "__init__.py", package)
    (package / "base").mkdir()
    for path in (PACKAGE / "base").glob("*.py"):
        shutil.copy(path, package / "base")
    (package / "callee.py").write_text(CALLEE.format(step=1))
    (package / "caller.py").write_text(CALLER.format(package="pks"))
    return package


def python(code: str, tree: Path, **environ: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PKS_", "NUMBA_", "XDG_"))}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, env={**clean, "PYTHONPATH": str(tree), **environ}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_an_edited_callee_in_another_file_is_seen(copied: Path, tmp_path: Path) -> None:
    tree, cache = copied.parent, str(tmp_path / "cache")
    run = RUN.format(package="pks")
    assert python(run, tree, PKS_CACHE_DIR=cache) == "2 0"
    assert python(run, tree, PKS_CACHE_DIR=cache) == "2 1", "the second start takes the compiled code from the cache"
    (copied / "callee.py").write_text(CALLEE.format(step=100))
    assert python(run, tree, PKS_CACHE_DIR=cache) == "200 0"


def test_without_our_folder_numba_keeps_the_old_callee(copied: Path, tmp_path: Path) -> None:
    # The reason for all this. If numba ever sees the edit by itself, this fails and the folder by hash can go.
    tree, cache = copied.parent, str(tmp_path / "cache")
    (copied / "__init__.py").write_text("")
    run = RUN.format(package="pks")
    assert python(run, tree, NUMBA_CACHE_DIR=cache) == "2 0"
    (copied / "callee.py").write_text(CALLEE.format(step=100))
    assert python(run, tree, NUMBA_CACHE_DIR=cache) == "2 1"


def test_numba_imported_before_us_is_told_too(copied: Path, tmp_path: Path) -> None:
    run = "import numba, numba.core.config as c; import pks, os; assert c.CACHE_DIR == os.environ['NUMBA_CACHE_DIR']; " + RUN.format(
        package="pks"
    )
    for hits in "01":
        assert python(run, copied.parent, PKS_CACHE_DIR=str(tmp_path / "cache")) == f"2 {hits}"
    assert not list(copied.rglob("*.nbi"))
    assert list((tmp_path / "cache").rglob("*.nbi"))


def test_code_made_with_bounds_checks_is_kept_apart(copied: Path) -> None:
    assert code_hash(copied, {}) == code_hash(copied, {"NUMBA_CACHE_DIR": "/anywhere", "HOME": "/x"})
    assert code_hash(copied, {}) != code_hash(copied, {"NUMBA_BOUNDSCHECK": "1"})


def test_every_source_counts_and_only_sources(copied: Path) -> None:
    first = code_hash(copied, {})
    (copied / "data.json").write_text("{}")
    (copied / "__pycache__").mkdir(exist_ok=True)
    (copied / "__pycache__" / "callee.py").write_text("stray")
    os.utime(copied / "callee.py", (1, 1))
    assert code_hash(copied, {}) == first
    (copied / "base" / "new.py").write_text("")
    second = code_hash(copied, {})
    assert second != first
    (copied / "base" / "new.py").rename(copied / "base" / "other.py")
    assert code_hash(copied, {}) not in (first, second)


def test_equal_trees_in_two_places_have_one_hash(copied: Path, tmp_path: Path) -> None:
    shutil.copytree(copied, tmp_path / "elsewhere" / "pks")
    assert code_hash(tmp_path / "elsewhere" / "pks", {}) == code_hash(copied, {})


def test_rooms_without_kernels_do_not_count_and_have_none(copied: Path) -> None:
    first = code_hash(copied, {})
    for room in ROOMS_WITHOUT_KERNELS:
        write(copied / room / "command.py", "x = 1")
        write(copied / "base" / room / "other.py", "")  # a folder of that name elsewhere does
        assert code_hash(copied, {}) != first
        shutil.rmtree(copied / "base" / room)
        assert code_hash(copied, {}) == first
        for source in (PACKAGE / room).rglob("*.py"):
            assert not re.search(r"^\s*(@|from|import)\W*(numba|n?jit|kernel|inlined)\b", source.read_text(), re.MULTILINE), source


def test_the_cache_is_where_the_environment_says(copied: Path, tmp_path: Path) -> None:
    for environ, root in (
        ({"PKS_CACHE_DIR": str(tmp_path / "own"), "XDG_CACHE_HOME": str(tmp_path / "xdg")}, tmp_path / "own"),
        ({"XDG_CACHE_HOME": str(tmp_path / "xdg")}, tmp_path / "xdg" / "pks"),
    ):
        folder = prepare_numba_cache(copied, environ)
        assert folder == root / "numba" / code_hash(copied, {})
        assert folder.is_dir()
        assert environ["NUMBA_CACHE_DIR"] == str(folder)


def test_a_cache_that_cannot_be_made_falls_to_our_own_temporary_folder(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_text("in the way")  # also stops root, whom a mode would not
    environ = {"PKS_CACHE_DIR": str(tmp_path / "file" / "cache")}
    folder = prepare_numba_cache(copied, environ)
    assert folder.parent.parent == tmp_path / f"pks-cache-{os.getuid()}"
    assert folder.parent.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("trap", ["symlink", "writable by others"])
def test_a_temporary_folder_that_others_control_is_not_used(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    expected = tmp_path / f"pks-cache-{os.getuid()}"
    (tmp_path / "theirs").mkdir()
    if trap == "symlink":
        expected.symlink_to(tmp_path / "theirs")
    else:
        expected.mkdir()
        expected.chmod(0o777)
    (tmp_path / "file").write_text("in the way")
    environ = {"PKS_CACHE_DIR": str(tmp_path / "file" / "cache")}
    folder = prepare_numba_cache(copied, environ)
    assert not folder.is_relative_to(expected)
    assert not list((tmp_path / "theirs").iterdir())
    assert prepare_numba_cache(copied, environ) == folder, "child processes find the same one through the environment"


def test_the_folders_longest_unused_are_forgotten(copied: Path, tmp_path: Path) -> None:
    parent = tmp_path / "numba"
    for number in range(CACHE_FOLDERS_MAX + 5):
        write(parent / f"old{number:02}" / "kernel.nbc", "x")
        os.utime(parent / f"old{number:02}", (1000 + number, 1000 + number))
    used = prepare_numba_cache(copied, {"PKS_CACHE_DIR": str(tmp_path)})
    left = sorted(folder.name for folder in parent.iterdir())
    assert left == sorted([used.name, *(f"old{number:02}" for number in range(6, CACHE_FOLDERS_MAX + 5))])


def test_use_makes_a_folder_young_again(copied: Path, tmp_path: Path) -> None:
    environ = {"PKS_CACHE_DIR": str(tmp_path)}
    folder = prepare_numba_cache(copied, environ)
    os.utime(folder, (1000, 1000))
    prepare_numba_cache(copied, environ)
    assert folder.stat().st_mtime > 1000


def test_import_pks_is_light(tmp_path: Path) -> None:
    heavy = "{'numpy', 'numba', 'msgspec', 'click', 'textual', 'pyarrow', 'structlog', 'psutil', 'uvloop', 'asyncio'}"
    code = f"import sys, pks; print(sorted({heavy} & sys.modules.keys()), pks.__all__)"
    assert python(code, PACKAGE.parent, PKS_CACHE_DIR=str(tmp_path)) == "[] ['attach', 'connect']"


def test_a_name_that_pks_does_not_have_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'atach'"):
        pks.atach  # noqa: B018


def test_import_pks_sets_the_folder_of_its_own_sources(copied: Path, tmp_path: Path) -> None:
    code = "import os, pks; print(os.environ['NUMBA_CACHE_DIR'])"
    folder = Path(python(code, copied.parent, PKS_CACHE_DIR=str(tmp_path)))
    assert folder == tmp_path / "numba" / code_hash(copied, {})
    assert folder.is_dir()
