"""The kernel's side of a server: whose child it is, with which rights it runs, and what an earlier run has left of it.

Owns prctl, user namespaces and capabilities, and the search for orphans. Every function acts on the process that calls it or on processes
of the folder that it is given; none may be called in the supervisor.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

As = Literal["self", "userns", "nobody"]
"""How a program that refuses root is run: as we are; as nobody of a user namespace, in which our files are nobody's; as the real nobody."""

NOBODY = 65534

END_SECONDS = 10.0
"""How long an orphan may take to end in its own way before it is killed."""

KILLED_SECONDS_MAX = 10.0
"""How long the kernel may take to remove a killed one, which may be writing."""

NICE = 5
"""Servers yield to the workers of the core where both want the same processor."""

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_CLONE_NEWUSER = 0x10000000
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent_pid: int, number: int = signal.SIGKILL) -> None:
    """Ask the kernel for signal `number` when the parent ends, and end now if it has already. A change of rights undoes it."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(1)


def how_to_run() -> As:
    """How this user can run Postgres, which refuses root, and also whoever has no name on this host, as in some containers."""
    if os.geteuid() != 0 and _has_name(os.geteuid()):
        return "self"
    if _has_namespaces():
        return "userns"
    return "nobody" if os.geteuid() == 0 else "self"


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _has_namespaces() -> bool:
    """Whether the kernel gives us a user namespace: a trial in a child tells."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _enter_namespace()
            code = 0
        except OSError:
            code = 1  # a container's filter, or a kernel without them: the answer is no
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def take_rights(how: As) -> None:
    """Become whoever `how` says, for good. Raises OSError."""
    if how == "userns":
        _enter_namespace()
    elif how == "nobody":
        _become_nobody()


def _enter_namespace() -> None:
    """Be nobody in a namespace of our own: no right is gained or lost outside, and files stay the caller's."""
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWUSER), "unshare(CLONE_NEWUSER)")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{NOBODY} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{NOBODY} {gid} 1")


def _become_nobody() -> None:
    """Be the real nobody, who may still pass the folders above its own, which are often root's alone (mode 0700).

    The right to do so is one capability, kept over exec as an ambient one. Without the secure bit, access(2), by which Postgres looks at
    its own programs, would not count it.
    """
    _check(_libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "prctl(PR_SET_SECUREBITS)")
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    kept = 1 << _CAP_DAC_OVERRIDE
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)  # effective, permitted, inheritable; then the same for capabilities over 31
    _check(_libc.capset(header, sets), "capset")
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0), "prctl(PR_CAP_AMBIENT)")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


# What an earlier run left.


def still_running(folder: Path, programs: Collection[str]) -> list[int]:
    """Pids of processes of one of these programs that work in `folder` or were started for it, oldest first; never our own."""
    names = {str(folder), os.path.realpath(folder)}
    found = [pid for pid in _pids() if pid != os.getpid() and _name(pid) in programs and any(_is_of(pid, name) for name in names)]
    return sorted(found)


def end_orphans(folder: Path, programs: Collection[str], number: int) -> list[int]:
    """End what `still_running` finds: by signal `number`, and by SIGKILL what is there after END_SECONDS. Returns the pids.

    Raises TimeoutError when one cannot be ended: then nothing may be started on this folder.
    """
    found = still_running(folder, programs)
    for told, seconds in ((number, END_SECONDS), (signal.SIGKILL, KILLED_SECONDS_MAX)):
        for pid in still_running(folder, programs):
            try:
                os.kill(pid, told)
            except ProcessLookupError:
                continue  # it has just ended
        deadline = time.monotonic() + seconds
        while (left := still_running(folder, programs)) and time.monotonic() < deadline:
            time.sleep(0.01)
        if not left:
            return found
    raise TimeoutError(f"processes {left} work in {folder} and do not end")


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())


def _name(pid: int) -> str:
    """What the kernel calls the process: the first 15 bytes of its program's name; "" when it is gone or only waits to be reaped."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return "" if rest.split()[0] in "ZX" else name


def _is_of(pid: int, folder: str) -> bool:
    """Whether it works in the folder, or below, or has it in its command line, which is what we may see of another user's process."""
    try:
        at = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        at = ""  # not ours to see, or gone
    if at == folder or at.startswith(folder + "/"):
        return True
    try:
        words = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False  # it is gone
    return any(word == folder or word.startswith(folder + "/") for word in map(os.fsdecode, words))
