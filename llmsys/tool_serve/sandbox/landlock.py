"""Landlock and seccomp: for machines where bubblewrap may make no namespaces.

The file system is readable where programs live and writable nowhere; no sockets, no signals to others, no tracing, no
namespaces. Weaker than bubblewrap in this: nothing hides the machine's process ids, and children of a program outlive a
toolkit that is killed. Where this process is root, the program runs as another user, who must be able to reach this
Python: one below /root cannot be used.
"""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from llmsys.tool_serve.sandbox.limits import INSIDE, ProcessLimits, entry, fresh_uid, places_of

__all__ = ["LandlockSeccomp", "missing_package"]

READABLE = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
PACKAGES = ("landlock", "pyseccomp")
READABLE_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def missing_package() -> str | None:
    """Which of the two packages that this needs is not installed."""
    return next((name for name in PACKAGES if find_spec(name) is None), None)


class LandlockSeccomp:
    """The program runs in the machine's namespaces under a Landlock domain and a system call filter."""

    name = "landlock"

    def __init__(self, limits: ProcessLimits) -> None:
        self._limits = limits
        self._started = 0

    def command(self, program: Sequence[str]) -> list[str]:
        """The command that starts the program inside. Each has a user of its own where this one is root."""
        self._started += 1
        uid = fresh_uid(self._started) if os.geteuid() == 0 else None
        places = dict.fromkeys([*READABLE, sys.base_prefix, sys.prefix, str(INSIDE)])
        landlock = {
            "read": [place for place in places if os.path.exists(place)],
            "devices": [place for place in READABLE_DEVICES if os.path.exists(place)],
        }
        return entry(program, self._limits, uid=uid, bind=True, packages=places_of(*PACKAGES), landlock=landlock)
