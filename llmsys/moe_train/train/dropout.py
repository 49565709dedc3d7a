"""Dropout whose mask is a function of seed, step, sample and place, so that no division of the batch changes it.

A retry of a step, on other workers, drops the same numbers. Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

__all__ = ["SampleDropout"]


@dataclass(frozen=True, slots=True)
class SampleDropout:
    """The masks of one step: `samples` are the windows that this rank computes, `rate` the share that is dropped."""

    rate: float
    seed: int
    step: int
    samples: Sequence[int]

    def __call__(self, x: Tensor, place: int) -> Tensor:
        """x [samples, length, width] with its share set to 0 and the rest scaled up; `place` numbers the call."""
        if not self.rate or not len(x):
            return x
        kept = torch.stack([self._kept(sample, place, x[0].shape) for sample in self.samples])
        return x * kept.to(x.dtype) / (1.0 - self.rate)

    def _kept(self, sample: int, place: int, size: torch.Size) -> Tensor:
        digest = blake2b(f"{self.seed}/{self.step}/{sample}/{place}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        return torch.rand(size, generator=generator) >= self.rate
