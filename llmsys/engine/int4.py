"""A weight matrix in the 4-bit codes of its file, for steps of a few rows, where reading the weights is all the work.

GGUF's Q4_0 and Q4_1 give 32 neighbours one scale d and one offset: w = q d + m = (q - 8) d + z with z = m + 8 d, which
is 0 in Q4_0. That is torch's own form of a 4-bit matmul, so the file's codes are used as they are: nothing is quantised
here. d and z are rounded to bfloat16. Knows nothing of files.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GROUP", "Codes", "FourBit"]

GROUP = 32
"""Neighbours in a row that share a scale."""
OUT_MULTIPLE = 16
"""What torch's kernel asks of the number of rows."""


@dataclass(frozen=True, slots=True)
class Codes:
    """A matrix [out, in] as its file has it.

    nibbles: [out, in / 2] uint8, 16 bytes to a group: its first half below, its second half above; scales: [in / GROUP,
    out, 2] bfloat16, d and z.
    """

    nibbles: Tensor
    scales: Tensor

    @classmethod
    def fused(cls, parts: list["Codes"]) -> "Codes":
        """Matrices of one width, one below the other."""
        nibbles = torch.cat([part.nibbles for part in parts])
        return cls(nibbles, torch.cat([part.scales for part in parts], dim=1))

    def quants(self) -> Tensor:
        """The codes, 0 to 15: [out, in] int32."""
        bytes_ = self.nibbles.view(self.nibbles.shape[0], -1, GROUP // 2)
        return torch.cat((bytes_ & 15, bytes_ >> 4), dim=-1).view(self.nibbles.shape[0], -1).int()

    def dense(self) -> Tensor:
        """The matrix that the codes mean, [out, in] float32."""
        scale, zero = (part.t().float().repeat_interleave(GROUP, dim=1) for part in self.scales.unbind(-1))
        return (self.quants() - 8) * scale + zero


class FourBit:
    """y = x W^T for W in 4-bit codes; x bfloat16 on a CPU."""

    def __init__(self, codes: Codes) -> None:
        self._packed = torch._convert_weight_to_int4pack_for_cpu(codes.quants(), 1)
        self._scales = codes.scales.contiguous()

    @staticmethod
    def takes(codes: Codes, weight: Tensor) -> bool:
        """Whether torch has a kernel for this matrix, which `weight` holds in the format of the activations."""
        return (
            weight.device.type == "cpu"
            and weight.dtype == torch.bfloat16
            and codes.nibbles.shape[0] % OUT_MULTIPLE == 0
            and hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply rows: x [n, in] bfloat16 to [n, out] bfloat16."""
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._packed, GROUP, self._scales)
        return y
