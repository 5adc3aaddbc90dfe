"""The machine under us: what it has, what that means for waiting, and where compiled code is kept.

Owns the reading of processor, memory and limit facts, the choice behind `wait = "auto"`, the findings of `pks doctor`, and
numba's cache folder. `pks/__init__` calls `prepare_numba_cache` before anything can import numba, so this module needs the
standard library alone. It may not write anything but that folder and its environment variables.
"""

from __future__ import annotations

import os
import resource
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from pks.base.limits import CACHE_FOLDERS_MAX, SHM_SMALL_BYTES

NOFILE_MIN = 4096
"""Open files that a system with its edges and a few hundred sockets needs."""

SHM_PATH = "dev/shm"

ROOMS_WITHOUT_KERNELS = (
    "bff",
    "cli",
    "edges/chat",
    "edges/nats",
    "edges/postgres",
    "edges/questdb",
    "edges/redis",
    "past",
    "proto",
    "servers",
    "tui",
    "workers/edges",
)
"""Folders whose code is never compiled and that nothing compiled imports: a change there leaves the compiled code as it is."""


class Wait(StrEnum):
    """What a reader does on an empty ring; AUTO is resolved by `choose_wait` before anyone waits."""

    AUTO = "auto"
    SPIN = "spin"
    YIELD = "yield"
    PARK = "park"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One reading of the machine. Sizes in bytes; -1 is "no limit" for the two limits."""

    cores: tuple[int, ...]  # that this process may run on
    cpu_quota: float | None  # cores' worth of time that the container allows, None: all of them
    memory_bytes: int
    memory_available_bytes: int
    shm_bytes: int
    shm_free_bytes: int
    huge_page_bytes: int
    huge_pages_total: int
    huge_pages_free: int
    shm_huge_pages: str  # policy of /dev/shm: "never", "advise", ...; "" where the kernel does not say
    nofile: int  # soft limit of open files
    nofile_hard: int
    memlock_bytes: int  # soft limit of locked memory
    memlock_hard_bytes: int
    clocksource: str  # "tsc" on bare metal; "" where the kernel does not say

    @property
    def usable_cores(self) -> int:
        """Cores that can be kept busy without being throttled: whole ones, at least 1."""
        allowed = len(self.cores)
        return max(1, allowed if self.cpu_quota is None else min(allowed, int(self.cpu_quota)))


class Finding(NamedTuple):
    """One thing that `pks doctor` says: level "ok", "note" (works, but slower or smaller) or "lack" (something will fail)."""

    level: Literal["ok", "note", "lack"]
    topic: str
    text: str


def host_facts(root: Path = Path("/")) -> HostFacts:
    """Read the machine now. `root`: the folder that holds proc/, sys/ and dev/; limits and cores are this process's own."""
    memory = _memory_info(root)
    shm = os.statvfs(root / SHM_PATH)
    nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
    memlock = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return HostFacts(
        cores=tuple(sorted(os.sched_getaffinity(0))),
        cpu_quota=_cpu_quota(root),
        memory_bytes=memory.get("MemTotal", 0),
        memory_available_bytes=memory.get("MemAvailable", 0),
        shm_bytes=shm.f_blocks * shm.f_frsize,
        shm_free_bytes=shm.f_bavail * shm.f_frsize,
        huge_page_bytes=memory.get("Hugepagesize", 0),
        huge_pages_total=memory.get("HugePages_Total", 0),
        huge_pages_free=memory.get("HugePages_Free", 0),
        shm_huge_pages=_chosen(_text_of(root / "sys/kernel/mm/transparent_hugepage/shmem_enabled")),
        nofile=nofile[0],
        nofile_hard=nofile[1],
        memlock_bytes=memlock[0],
        memlock_hard_bytes=memlock[1],
        clocksource=_text_of(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
    )


def choose_wait(wanted: Wait, cores: int, hot_workers: int) -> Wait:
    """The strategy to use (design section 5). AUTO spins when each hot worker has a core and one is left for everything else, else parks.

    SPIN with more hot workers than cores becomes PARK: a spinning reader would hold the core that its writer needs.
    """
    assert cores > 0 and hot_workers >= 0, "a host has cores"
    if wanted is Wait.AUTO:
        return Wait.SPIN if hot_workers < cores else Wait.PARK
    if wanted is Wait.SPIN and hot_workers > cores:
        return Wait.PARK
    return wanted


def findings(facts: HostFacts, hot_workers: int) -> list[Finding]:
    """What `facts` mean for a system of `hot_workers` compiled workers, in plain words, one finding a topic."""
    return [
        _cores_finding(facts, hot_workers),
        _shm_finding(facts),
        _huge_pages_finding(facts),
        _files_finding(facts),
        _memlock_finding(facts),
        _clock_finding(facts),
    ]


def prepare_numba_cache(package: Path | None = None, environ: MutableMapping[str, str] = os.environ) -> Path:
    """Point numba at a cache folder that belongs to exactly these sources; returns the folder, which exists and can be written.

    numba's own check sees a change in the file of a kernel, not in a function that it calls from another file, so an edited callee
    would keep its old code inside its callers. The folder is <cache>/numba/<hash of the sources and of what else shapes code>.
    <cache> is PKS_CACHE_DIR, else pks under XDG_CACHE_HOME or ~/.cache, else, where that cannot be written, a folder of this
    user's own in the temporary directory. Call it before numba is imported; if it was imported already, it is told as well.
    """
    package = package or Path(__file__).resolve().parent.parent
    folder = _cache_root(environ) / "numba" / code_hash(package, environ)
    if folder.is_dir():
        os.utime(folder)  # the time of last use, by which the oldest folders go
    else:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _forget_oldest(folder.parent, keep=folder)
    environ["NUMBA_CACHE_DIR"] = str(folder)
    config = sys.modules.get("numba.core.config")
    if config is not None and environ is os.environ:
        # numba reads the variable at its import; decorators that run after this call look at the attribute.
        config.__dict__["CACHE_DIR"] = str(folder)
    return folder


def code_hash(package: Path, environ: MutableMapping[str, str] = os.environ) -> str:
    """Name of everything that shapes compiled code: every .py under `package` outside ROOMS_WITHOUT_KERNELS, Python, numba, llvmlite,
    and numba's settings.

    The settings count because numba does not put them into its own key: code made with NUMBA_BOUNDSCHECK=1 would serve a run without.
    """
    digest = blake2b(digest_size=16, usedforsecurity=False)
    versions = (sys.version, metadata.version("numba"), metadata.version("llvmlite"))
    settings = sorted(f"{key}={value}" for key, value in environ.items() if key.startswith("NUMBA_") and key != "NUMBA_CACHE_DIR")
    digest.update("\0".join((*versions, *settings)).encode(errors="surrogateescape"))
    for path, content in _sources(package):
        digest.update(f"\0{path}\0{len(content)}\0".encode(errors="surrogateescape"))
        digest.update(content)
    return digest.hexdigest()


def _sources(package: Path) -> Iterator[tuple[str, bytes]]:
    """Relative path and content of every .py that may hold or feed a kernel, in one order on every machine."""
    prefix = len(str(package)) + 1
    for folder, folders, files in os.walk(package):
        inside = folder[prefix:] + "/" if len(folder) > prefix else ""
        folders[:] = sorted(name for name in folders if name != "__pycache__" and inside + name not in ROOMS_WITHOUT_KERNELS)
        for name in sorted(files):
            if name.endswith(".py"):
                path = f"{folder}/{name}"
                with open(path, "rb") as file:
                    yield path[prefix:], file.read()


def _cache_root(environ: MutableMapping[str, str]) -> Path:
    if environ.get("PKS_CACHE_DIR"):
        wanted = Path(environ["PKS_CACHE_DIR"]).expanduser().absolute()
    elif environ.get("XDG_CACHE_HOME"):
        wanted = Path(environ["XDG_CACHE_HOME"]).absolute() / "pks"
    else:
        wanted = Path(os.path.expanduser("~")).absolute() / ".cache" / "pks"
    return wanted if _can_write(wanted) else _temporary_root(environ)


def _can_write(folder: Path) -> bool:
    """Whether `folder` is, or can be made, a folder that we may write."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False  # read-only disk, no right, or a file in the way: in each case the answer is no
    return os.access(folder, os.W_OK | os.X_OK)


def cache_folders(environ: MutableMapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Where files that set-up has fetched are looked for: the cache folder, which is also where they are put, then the user's usual one."""
    usual = {name: value for name, value in environ.items() if name != "PKS_CACHE_DIR"}
    return tuple(dict.fromkeys((_cache_root(environ), _cache_root(usual))))


def _temporary_root(environ: MutableMapping[str, str]) -> Path:
    """A cache folder under the temporary directory that no other user can write: numba loads what it finds there as code."""
    folder = Path(tempfile.gettempdir()) / f"pks-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o022:
        return folder
    made = Path(tempfile.mkdtemp(prefix="pks-cache-"))
    environ["PKS_CACHE_DIR"] = str(made)  # child processes share it
    return made


def _forget_oldest(parent: Path, keep: Path) -> None:
    """Delete the folders longest unused beyond CACHE_FOLDERS_MAX; other processes may be doing the same."""
    found: list[tuple[float, Path]] = []
    for folder in parent.iterdir():
        try:
            found.append((folder.stat().st_mtime, folder))
        except FileNotFoundError:
            continue  # another process forgot it between our listing and our look
    found.sort(reverse=True)
    for _, folder in found[CACHE_FOLDERS_MAX:]:
        if folder == keep:
            continue
        doomed = folder.with_name(f"{folder.name}.{os.getpid()}.{time.monotonic_ns()}")
        try:
            folder.rename(doomed)
        except FileNotFoundError:
            continue  # the process that renamed it first deletes it
        shutil.rmtree(doomed)


def _cores_finding(facts: HostFacts, hot_workers: int) -> Finding:
    wait = choose_wait(Wait.AUTO, facts.usable_cores, hot_workers)
    have = f"{facts.usable_cores} usable core(s) for {hot_workers} hot workers: they {wait.value}"
    if wait is Wait.SPIN:
        return Finding("ok", "cores", have)
    return Finding("note", "cores", f"{have}; with {hot_workers + 1} cores or more they would spin, and answer sooner")


def _shm_finding(facts: HostFacts) -> Finding:
    free = f"{facts.shm_free_bytes >> 20} MB of {facts.shm_bytes >> 20} MB free in /dev/shm"
    if facts.shm_free_bytes >= SHM_SMALL_BYTES:
        return Finding("ok", "shm", free)
    hint = f"{free}: the small set of sizes is taken; the normal one wants {SHM_SMALL_BYTES >> 20} MB (in a container: --shm-size=1g)"
    return Finding("note" if facts.shm_free_bytes >= SHM_SMALL_BYTES >> 3 else "lack", "shm", hint)


def _huge_pages_finding(facts: HostFacts) -> Finding:
    if facts.shm_huge_pages in ("advise", "within_size", "always", "force"):
        return Finding("ok", "hugepages", f"shared memory may use huge pages ({facts.shm_huge_pages})")
    policy = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
    return Finding("note", "hugepages", f"shared memory has small pages only; `advise` in {policy} saves TLB misses on large segments")


def _files_finding(facts: HostFacts) -> Finding:
    if facts.nofile == -1 or facts.nofile >= NOFILE_MIN:
        return Finding("ok", "open files", f"limit {'none' if facts.nofile == -1 else facts.nofile}")
    if facts.nofile_hard == -1 or facts.nofile_hard >= NOFILE_MIN:
        return Finding("note", "open files", f"limit {facts.nofile}; `ulimit -n {NOFILE_MIN}` is allowed and enough")
    return Finding("lack", "open files", f"limit {facts.nofile}, at most {facts.nofile_hard} can be asked for; {NOFILE_MIN} are needed")


def _memlock_finding(facts: HostFacts) -> Finding:
    if facts.memlock_bytes == -1 or facts.memlock_bytes >= SHM_SMALL_BYTES:
        return Finding("ok", "locked memory", "segments can be kept from being swapped out")
    return Finding("note", "locked memory", f"limit {facts.memlock_bytes >> 10} kB: segments may be swapped out when memory is short")


def _clock_finding(facts: HostFacts) -> Finding:
    if facts.clocksource in ("tsc", "arch_sys_counter", "kvm-clock"):
        return Finding("ok", "clock", f"clocksource {facts.clocksource} is read without a system call")
    named = facts.clocksource or "not named by the kernel"
    return Finding("note", "clock", f"clocksource {named}: reading the time may be a system call of up to a microsecond")


def _text_of(path: Path) -> str:
    """Content of a kernel file without the line end, "" where this kernel or container does not have it."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""  # an absent fact is a fact: HostFacts says what "" means


def _chosen(policy: str) -> str:
    """The word in brackets of a kernel policy file: "always [never] advise" gives "never"."""
    return policy.partition("[")[2].partition("]")[0]


def _memory_info(root: Path) -> dict[str, int]:
    """/proc/meminfo: sizes in bytes, counts as they are."""
    values: dict[str, int] = {}
    for line in _text_of(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        number, *unit = rest.split()
        values[name] = int(number) << 10 if unit == ["kB"] else int(number)
    return values


def _cpu_quota(root: Path) -> float | None:
    """The tightest limit, in cores, over our control group and the groups around it, of version 2 or 1."""
    quotas: list[float] = []
    for line in _text_of(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            quotas += (quota for group in _around(root / "sys/fs/cgroup", path) if (quota := _quota_v2(group)) is not None)
        elif "cpu" in controllers.split(","):
            quotas += (quota for group in _around(root / "sys/fs/cgroup/cpu", path) if (quota := _quota_v1(group)) is not None)
    return min(quotas, default=None)


def _around(mount: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it up to the mount; in a container some are not there, and then say nothing."""
    inside = Path(path.strip("/"))
    yield mount / inside
    yield from (mount / parent for parent in inside.parents)


def _quota_v2(group: Path) -> float | None:
    quota, _, period = _text_of(group / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _quota_v1(group: Path) -> float | None:
    quota, period = _text_of(group / "cpu.cfs_quota_us"), _text_of(group / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None
