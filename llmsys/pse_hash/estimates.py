"""The answers to a batch of queries, as logarithms and as numbers. Knows not how they came about."""

from dataclasses import dataclass

import numpy as np

from llmsys.pse_hash.arrays import F64, I64

__all__ = ["Estimates"]


@dataclass(frozen=True, slots=True)
class Estimates:
    """Mean kernel values of q queries: natural logs [q], kernel evaluations [q], and how each was found.

    `count` is the number of points that each mean was taken over (one less with a point left out).
    """

    log_value: F64
    log_low: F64
    log_high: F64
    evals: I64
    methods: tuple[str, ...]
    intervals: tuple[str, ...]
    below_tau: "np.ndarray[tuple[int], np.dtype[np.bool_]]"
    count: I64

    @property
    def value(self) -> F64:
        """The estimates; 0 and inf where their logs leave the range of float64."""
        return self._exp(self.log_value)

    @property
    def lo(self) -> F64:
        """Lower ends of the intervals."""
        return self._exp(self.log_low)

    @property
    def hi(self) -> F64:
        """Upper ends of the intervals."""
        return self._exp(self.log_high)

    def __len__(self) -> int:
        return len(self.log_value)

    @staticmethod
    def _exp(logs: F64) -> F64:
        with np.errstate(over="ignore"):
            result: F64 = np.exp(logs)
        return result
