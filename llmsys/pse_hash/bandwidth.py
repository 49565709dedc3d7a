"""A bandwidth from the data: the median distance, Scott's rule, or the one that gives a wanted median estimate.

Knows no sketch. Deterministic: the rows looked at are spread evenly over the data.
"""

import math

import numpy as np

from llmsys.errors import UsageFault
from llmsys.pse_hash.arrays import F64, Numbers
from llmsys.pse_hash.kernel import Kernel

__all__ = ["bandwidth_of"]

ROWS, QUERIES = 4096, 64
HALVINGS = 40
SHAPE = "a number, median, scott or target:MU"


def bandwidth_of(rule: str, values: Numbers, kernel: str) -> float:
    """The bandwidth that a rule (a number, median, scott, target:MU) gives for points [n, d].

    target:MU makes MU the median over points of the mean kernel value at the others. Raises UsageFault.
    """
    try:
        return float(rule)
    except ValueError:
        pass
    rows = np.asarray(values[:: max(1, len(values) // ROWS)][:ROWS], np.float64)
    if kernel == "dot":
        raise UsageFault("--bandwidth is for kernels of distances; expected --scale for dot")
    if len(rows) < 2:
        raise UsageFault(f"--bandwidth {rule} of {len(rows)} points; expected a number, or two points and more")
    if rule == "scott":
        return max(float(rows.std(axis=0, ddof=1).mean()) * math.pow(len(values), -1 / (rows.shape[1] + 4)), 1e-12)
    if rule == "median":
        return max(float(np.median(_distances(rows, kernel))), 1e-12)
    if rule.startswith("target:"):
        return _for_target(rule.removeprefix("target:"), rows, kernel)
    raise UsageFault(f"--bandwidth {rule!r}; expected {SHAPE}")


def _distances(rows: F64, kernel: str) -> F64:
    """Distances [q, n-1] of a few rows from all others, in the norm of the kernel."""
    name = "laplacian" if kernel == "laplacian" else "exponential"
    every = max(1, len(rows) // QUERIES)
    asked = rows[::every][:QUERIES]
    gaps = -Kernel(name, 1.0).log_pairs(asked, rows)
    gaps[np.arange(len(asked)), np.arange(len(asked)) * every] = np.nan
    return gaps[~np.isnan(gaps)].reshape(len(asked), -1)


def _for_target(text: str, rows: F64, kernel: str) -> float:
    """The h at which the median mean is the target, by bisection of log h."""
    try:
        target = float(text)
    except ValueError:
        target = math.nan
    if not 0 < target < 1:
        raise UsageFault(f"--bandwidth target:{text}; expected target:MU with MU between 0 and 1")
    gaps = _distances(rows, kernel)
    positive = gaps[gaps > 0]
    if not len(positive):
        raise UsageFault("--bandwidth target of points that are all equal; expected a number")
    low, high = math.log(float(positive.min()) / 100), math.log(float(positive.max()) * 1000)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        form = Kernel(kernel, math.exp(middle))
        means = np.exp(form.log_of(gaps * gaps if kernel in ("gaussian", "cauchy") else gaps)).mean(axis=1)
        low, high = (middle, high) if np.median(means) < target else (low, middle)
    return math.exp((low + high) / 2)
