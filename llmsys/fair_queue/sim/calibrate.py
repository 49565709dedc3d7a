"""Fit the numbers of the step model to measured runs, through the simulator itself.

Least squares over relative errors of makespan, mean TTFT and mean latency of every run, so host overhead is in the fit.
Knows no file.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple

import numpy as np
from numpy.typing import NDArray

from llmsys.fair_queue.sim.hardware import HARDWARE, Hardware
from llmsys.fair_queue.sim.machine import Machine
from llmsys.fair_queue.sim.measured import MeasuredRun, compare_run

__all__ = ["fit_hardware"]

STEP = 0.02
MOST_EVALUATIONS = 30
# its place among the numbers of Hardware
FLOOR = 5


def fit_hardware(
    runs: Sequence[MeasuredRun],
    machine: Machine,
    *,
    start: Hardware = HARDWARE["a10g-llama2-7b"],
    on_evaluation: Callable[[int], None] | None = None,
) -> Hardware:
    """The step model under which the simulated runs come closest to the measured ones.

    Parameters are fitted as factors on `start`, in logarithms, so none gets negative; a number that is 0 stays 0.
    Raises ValueError without runs.
    """
    from scipy.optimize import least_squares

    if not runs:
        raise ValueError("no runs to fit to; expected at least one")

    def model(logs: NDArray[np.float64]) -> Hardware:
        return Hardware(*(float(x) for x in np.array(astuple(start)) * np.exp(logs)))

    # where the floor is above every step, nothing else of a step can be seen: one of two starts has it low
    low_floor = np.zeros(len(astuple(start)))
    low_floor[FLOOR] = -2.0

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        errors = [compare_run(measured, model(logs), machine) for measured in runs]
        if on_evaluation is not None:
            on_evaluation(1)
        # makespan matters most: it is what the model must carry over to another load
        return np.array([(2.0 * one.makespan, one.ttft / 4.0, one.latency / 2.0) for one in errors]).ravel()

    starts = [np.zeros_like(low_floor), low_floor] if start.floor else [np.zeros_like(low_floor)]
    found = [least_squares(residuals, logs, diff_step=STEP, max_nfev=MOST_EVALUATIONS) for logs in starts]
    far = min(found, key=lambda one: float(one.cost))
    # the second pass lets a run that no step model explains pull less
    near = least_squares(residuals, far.x, diff_step=STEP, max_nfev=MOST_EVALUATIONS, loss="soft_l1", f_scale=0.02)
    return model(near.x)
