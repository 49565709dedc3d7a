"""A weight matrix in the 4-bit codes of its file, for steps of a few rows, where reading the weights is all the work.

GGUF's Q4_0 and Q4_1 give 32 neighbours one scale d and one offset: w = q d + m = (q - 8) d + z with z = m + 8 d, which
is 0 in Q4_0. That is torch's own form of a 4-bit matmul, so the file's codes are used as they are. Other weights are
quantised only where `quant="int4"` asks for it, by `Codes.nearest`. d and z are bfloat16. Knows nothing of files.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GROUP", "Codes", "FourBit"]

GROUP = 32
"""Neighbours in a row that share a scale."""
TINY = 1e-30
"""In place of a step of 0, where all weights of a group are equal."""
OUT_MULTIPLE = 16
"""What torch's kernel asks of the number of rows."""


@dataclass(frozen=True, slots=True)
class Codes:
    """A matrix [out, in] as its file has it.

    nibbles: [out, in / 2] uint8, 16 bytes to a group: its first half below, its second half above; scales: [in / GROUP,
    out, 2] bfloat16, d and z; packed: the nibbles as torch's kernel on this CPU reads them, if
    somebody has laid them out already.
    """

    nibbles: Tensor
    scales: Tensor
    packed: Tensor | None = None

    @classmethod
    def nearest(cls, weight: Tensor) -> "Codes":
        """The codes nearest to a matrix [out, in], a group's least and greatest weight being codes 0 and 15.

        in is a multiple of GROUP. A weight moves by at most half a step of its group, and the rounding of d and z.
        """
        groups = weight.float().view(weight.shape[0], -1, GROUP)
        low, high = groups.amin(dim=-1), groups.amax(dim=-1)
        scale = ((high - low) / 15).bfloat16()
        zero = (low + 8 * scale.float()).bfloat16()
        steps = (groups - zero.float()[..., None]) / scale.float().clamp_min(TINY)[..., None]
        codes = steps.round().add_(8).clamp_(0, 15).to(torch.uint8)
        nibbles = (codes[..., : GROUP // 2] | codes[..., GROUP // 2 :] << 4).view(weight.shape[0], -1)
        return cls(nibbles, torch.stack((scale, zero), dim=-1).transpose(0, 1).contiguous())

    @classmethod
    def fused(cls, parts: list["Codes"]) -> "Codes":
        """Matrices of one width, one below the other."""
        if len(parts) == 1:
            return parts[0]
        nibbles = torch.cat([part.nibbles for part in parts])
        return cls(nibbles, torch.cat([part.scales for part in parts], dim=1))

    def laid_out(self) -> Tensor:
        """The nibbles as torch's kernel on this CPU reads them, [out, in / 2] uint8."""
        return self.packed if self.packed is not None else torch._convert_weight_to_int4pack_for_cpu(self.quants(), 1)

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
        self._packed = codes.laid_out()
        self._scales = codes.scales.contiguous()

    @staticmethod
    def takes(weight: Tensor) -> bool:
        """Whether torch has a kernel for a matrix of this shape, device and format, which the activations have too."""
        return (
            weight.device.type == "cpu"
            and weight.dtype == torch.bfloat16
            and weight.shape[0] % OUT_MULTIPLE == 0
            and weight.shape[1] % GROUP == 0
            and hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply rows: x [n, in] bfloat16 to [n, out] bfloat16."""
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._packed, GROUP, self._scales)
        return y
