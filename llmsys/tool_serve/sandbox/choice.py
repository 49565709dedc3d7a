"""Which sandbox this machine can give: tried by starting one, never assumed."""

import subprocess
import sys

from llmsys.errors import Unavailable, UsageFault
from llmsys.tool_serve.sandbox.bubblewrap import Bubblewrap, find_bubblewrap
from llmsys.tool_serve.sandbox.landlock import LandlockSeccomp, missing_package
from llmsys.tool_serve.sandbox.limits import ProcessLimits, Sandbox
from llmsys.tool_serve.sandbox.rlimits import RlimitsOnly

__all__ = ["SANDBOXES", "choose_sandbox"]

SANDBOXES = ("auto", "bubblewrap", "landlock", "rlimits")
TRIAL_S = 30.0


def choose_sandbox(kind: str = "auto", limits: ProcessLimits | None = None) -> Sandbox:
    """The sandbox of that name; auto is the strongest there is, never resource limits alone.

    Raises Unavailable, with the reason, where none works; UsageFault for a name that is none.
    """
    limits = limits or ProcessLimits()
    if kind not in SANDBOXES:
        raise UsageFault(f"sandbox {kind!r}; expected one of {', '.join(SANDBOXES)}")
    if kind == "rlimits":
        return RlimitsOnly(limits)
    faults = []
    for name in ("bubblewrap", "landlock") if kind == "auto" else (kind,):
        found = _bubblewrap(limits) if name == "bubblewrap" else _landlock(limits)
        if not isinstance(found, str):
            return found
        faults.append(f"{name}: {found}")
    remedy = "pip install 'llmsys[tools]', allow user namespaces, or choose --sandbox rlimits"
    raise Unavailable(f"no sandbox: {'; '.join(faults)}", remedy)


def _bubblewrap(limits: ProcessLimits) -> Sandbox | str:
    """The sandbox, or why there is none; so with the other kind."""
    bwrap = find_bubblewrap()
    return "not installed" if bwrap is None else _tried(Bubblewrap(bwrap, limits))


def _landlock(limits: ProcessLimits) -> Sandbox | str:
    missing = missing_package()
    return f"{missing} is not installed" if missing is not None else _tried(LandlockSeccomp(limits))


def _tried(sandbox: Sandbox) -> Sandbox | str:
    """Start a program inside."""
    command = sandbox.command([sys.executable, "-I", "-S", "-c", "pass"])
    try:
        run = subprocess.run(command, env={}, capture_output=True, text=True, timeout=TRIAL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return sandbox if run.returncode == 0 else (run.stderr.strip().splitlines() or [f"exit {run.returncode}"])[-1]
