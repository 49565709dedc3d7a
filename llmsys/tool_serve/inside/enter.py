"""Started first inside a sandbox: bounds itself for good, gives up its user, then becomes the program.

Usage: enter.py JSON PROGRAM ARGS..., JSON = {"uid": N or null, "limits": {"AS": bytes, ...}, "bind": bool,
"packages": [...], "landlock": {"read": [...], "devices": [...]} or null}. With `bind` the process also dies with its
parent, which a sandbox of namespaces sees to by itself. `packages` says where pyseccomp and landlock lie: with the one
no namespaces can be made inside, with the other nothing outside be reached.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import sys
from typing import Any

__all__ = ["enter"]

PR_SET_PDEATHSIG = 1
NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag that clone takes
NAMESPACES = (
    *("unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsmount"),
)
REACH = (
    *("socket", "io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_send_signal"),
    *("setsid", "setpgid", "prlimit64"),  # all that a program starts ends with its group
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "perf_event_open", "bpf"),
    *("add_key", "request_key", "keyctl", "open_by_handle_at", "init_module", "finit_module", "delete_module"),
    *("shmget", "shmat", "msgget", "semget", "mq_open", "reboot", "swapon", "swapoff", "kexec_load", "settimeofday"),
    *("clock_settime", "adjtimex", "sethostname", "setdomainname", "setpriority", "sched_setscheduler", "quotactl"),
    "userfaultfd",
)


def enter(settings: dict[str, Any], program: list[str]) -> None:
    """Apply the settings to this process and replace it by the program."""
    if settings["bind"]:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it died meanwhile
    sys.path += settings["packages"]
    files = _Files(**settings["landlock"]) if settings["landlock"] is not None else None
    calls = _Calls() if settings["packages"] else None
    uid = settings["uid"]
    if isinstance(uid, int):
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        if settings["bind"]:  # a change of user undoes it
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    for name, value in settings["limits"].items():
        hard = value + 1 if name == "CPU" else value  # at the soft limit SIGXCPU, a second later SIGKILL
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if files is not None:
        os.chdir("/")
        files.deny()
    if calls is not None:
        calls.deny((*NAMESPACES, *REACH) if files is not None else NAMESPACES)
    os.closerange(3, 4096)
    os.execv(program[0], program)


class _Files:
    """Landlock; imported, and directories opened, while that is still allowed."""

    def __init__(self, read: list[str], devices: list[str]) -> None:
        import landlock

        access = landlock.FSAccess
        reading = access.READ_FILE | access.EXECUTE
        self._rules = landlock.Ruleset()
        for path in read:
            self._rules.allow(path, rules=reading | access.READ_DIR if os.path.isdir(path) else reading)
        self._rules.allow(*devices, rules=access.READ_FILE | access.WRITE_FILE)

    def deny(self) -> None:
        """Read and run what lies under `read`, use `devices`, and nothing else of the file system."""
        self._rules.apply()


class _Calls:
    """Seccomp; imported while that is still allowed."""

    def __init__(self) -> None:
        import pyseccomp

        self._kit = pyseccomp

    def deny(self, names: tuple[str, ...]) -> None:
        """Refuse system calls, and namespaces of its own."""
        kit = self._kit
        allowed = kit.SyscallFilter(kit.ALLOW)
        for name in names:
            if name == "prlimit64":  # of itself alone
                allowed.add_rule(kit.ERRNO(errno.EPERM), name, kit.Arg(0, kit.NE, 0))
            elif name in ("kill", "tgkill"):
                allowed.add_rule(kit.ERRNO(errno.EPERM), name, kit.Arg(0, kit.NE, os.getpid()))
            else:
                allowed.add_rule(kit.ERRNO(errno.EPERM), name)
        for bit in range(32):
            if NEW_NAMESPACES >> bit & 1:
                allowed.add_rule(kit.ERRNO(errno.EPERM), "clone", kit.Arg(0, kit.MASKED_EQ, 1 << bit, 1 << bit))
        allowed.add_rule(kit.ERRNO(errno.ENOSYS), "clone3")  # libc falls back to clone
        allowed.load()


if __name__ == "__main__":
    enter(json.loads(sys.argv[1]), sys.argv[2:])
