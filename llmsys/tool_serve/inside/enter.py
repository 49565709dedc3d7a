"""Started first inside a sandbox: bounds itself for good, gives up its user, then becomes the program.

Usage: enter.py JSON PROGRAM ARGS..., JSON = {"uid": N or null, "limits": {"AS": bytes, ...}, "bind": bool}. With `bind`
the process also dies with its parent, which a sandbox of namespaces sees to by itself.
"""

import ctypes
import json
import os
import resource
import signal
import sys

__all__ = ["enter"]

PR_SET_PDEATHSIG = 1


def enter(settings: dict[str, object], program: list[str]) -> None:
    """Apply the settings to this process and replace it by the program."""
    limits = settings["limits"]
    assert isinstance(limits, dict)
    for name, value in limits.items():
        hard = value + 1 if name == "CPU" else value  # at the soft limit SIGXCPU, a second later SIGKILL
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    uid = settings["uid"]
    if isinstance(uid, int):
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    if settings["bind"]:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    os.closerange(3, 4096)
    os.execv(program[0], program)


if __name__ == "__main__":
    enter(json.loads(sys.argv[1]), sys.argv[2:])
