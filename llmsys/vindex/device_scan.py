"""Searches on a GPU: the lists of all queries, whoever asks, are compared in full by one launch.

The device keeps a copy of the vectors until they change. What it finds in float32 is ranked once more in float64, so
answers are those of the exact scan unless more vectors than it keeps tie within float32's rounding. Knows no names.
"""

import numpy as np

from llmsys.errors import UsageFault
from llmsys.vindex.arrays import F32, F64, I32, I64
from llmsys.vindex.scan import Found, Task
from llmsys.vindex.search_space import SearchSpace

__all__ = ["DeviceScan"]

SPARE = 16


class DeviceScan:
    """Answers tasks on one device. Raises Unavailable for a device that is not there."""

    def __init__(self, device: str) -> None:
        from llmsys.gpu import choose_device

        self.device = choose_device(device)
        self._space: SearchSpace | None = None

    def answer(self, space: SearchSpace, task: Task, k: int) -> Found:
        """The k nearest slots for every query, whatever effort was asked for. Raises UsageFault for a k too large."""
        import torch

        from llmsys.gpu.kernels.run_scan import MOST_KEPT, scan_runs

        if k + SPARE > MOST_KEPT:
            raise UsageFault(f"k is {k}; expected at most {MOST_KEPT - SPARE} on a GPU")
        if self._space is not space:
            self._vectors = torch.from_numpy(np.array(space.vectors, np.float32)).to(self.device)
            self._space = space
        sizes = np.array([len(run) for run in task.runs], np.int64)
        parts = [part for run in task.runs for part in (run.slots, run.tail)]
        starts = (np.cumsum(sizes) - sizes)[task.whose]
        lists = (np.concatenate([*parts, np.zeros(0, np.int32)]), starts, sizes[task.whose])
        queries, *inputs = (torch.from_numpy(np.array(one)).to(self.device) for one in (task.queries, *lists))
        rows, _ = scan_runs(queries, self._vectors, *inputs, kept=k + SPARE, l2=space.metric == "l2")
        return _ranked(space, task, rows.cpu().numpy(), k, sizes)


def _ranked(space: SearchSpace, task: Task, rows: I32, k: int, sizes: I64) -> Found:
    """The nearest k of each query's rows [m, kept] by exact score, ties by order."""
    found = Found.nothing(len(rows), k)
    near = _exact(space, task.queries, rows)
    order = np.where(rows < 0, np.iinfo(np.int64).max, space.order[rows])
    best = np.lexsort((order, near), axis=-1)[:, :k]
    width = best.shape[1]
    found.slots[:, :width] = np.take_along_axis(rows, best, axis=1)
    found.scores[:, :width] = np.take_along_axis(near, best, axis=1)
    found.scanned[:] = sizes[task.whose]
    return found


def _exact(space: SearchSpace, queries: F32, rows: I32) -> F64:
    """The score of each row in float64, infinite for -1."""
    wide = space.vectors[rows].astype(np.float64)
    asked = queries.astype(np.float64)[:, None, :]
    near = ((wide - asked) ** 2).sum(axis=2) if space.metric == "l2" else -(wide * asked).sum(axis=2)
    near[rows < 0] = np.inf
    return np.asarray(near, np.float64)
