"""How many CPU threads the process may use, and setting that number for torch.

Knows affinity and control groups; OpenMP and BLAS pools of other libraries follow their own environment variables.
"""

import math
import os

import torch

from llmsys.errors import UsageFault
from llmsys.gpu.cgroup import CgroupLimits, read_limits

__all__ = ["set_threads", "usable_cpus"]


def usable_cpus(limits: CgroupLimits | None = None) -> int:
    """CPUs that the process may use at once: its affinity, cut to the control groups' quota, and at least 1.

    A quota of 1.5 CPUs counts as 2: a second thread still gains. Without `limits` they are read from this process.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = (read_limits() if limits is None else limits).cpus
    return max(1, min(allowed, allowed if quota is None else math.ceil(quota)))


def set_threads(threads: int) -> int:
    """Let torch compute with this many threads; return the number set.

    0 takes what OMP_NUM_THREADS allows, else all that the process may use: more threads than CPUs wait for each other
    at every operation. Raises UsageFault for a negative number.
    """
    if threads < 0:
        raise UsageFault(f"threads {threads} is negative; expected 0 (all that the process may use) or more")
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    chosen = threads or min(usable_cpus(), int(allowed) if allowed.isdigit() and int(allowed) else usable_cpus())
    torch.set_num_threads(chosen)
    return chosen
