"""Which sandbox this machine can give: tried by starting one, never assumed."""

import subprocess
import sys

from llmsys.errors import Unavailable, UsageFault
from llmsys.tool_serve.sandbox.bubblewrap import Bubblewrap, find_bubblewrap
from llmsys.tool_serve.sandbox.limits import ProcessLimits, Sandbox
from llmsys.tool_serve.sandbox.rlimits import RlimitsOnly

__all__ = ["SANDBOXES", "choose_sandbox"]

SANDBOXES = ("auto", "bubblewrap", "rlimits")
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
    bwrap = find_bubblewrap()
    if bwrap is None:
        raise Unavailable(
            "no sandbox: bubblewrap is not installed", "pip install 'llmsys[tools]', or --sandbox rlimits"
        )
    sandbox = Bubblewrap(bwrap, limits)
    if (fault := _trial(sandbox)) is not None:
        raise Unavailable(f"no sandbox: {fault}", "allow user namespaces, or choose --sandbox rlimits")
    return sandbox


def _trial(sandbox: Sandbox) -> str | None:
    """What went wrong when a program was started inside; None if nothing did."""
    command = sandbox.command([sys.executable, "-I", "-S", "-c", "pass"])
    try:
        run = subprocess.run(command, env={}, capture_output=True, text=True, timeout=TRIAL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if run.returncode == 0 else (run.stderr.strip().splitlines() or [f"exit {run.returncode}"])[-1]
