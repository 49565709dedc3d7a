"""A weight matrix laid out once for the matmul that will read it in every step.

On a CPU that multiplies bfloat16 natively, oneDNN's own blocked layout is made at load: without it the library
reorders the whole matrix inside every call, which costs a third to a half of a decode step (`bench` prints it).
Knows nothing of layers or adapters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from llmsys.engine.int4 import Codes, FourBit

__all__ = ["FEW_ROWS", "Linear"]

TYPICAL_ROWS = 32
TILE_ROWS = 16
FEW_ROWS = 6
"""Rows up to which 4-bit weights are faster than packed bfloat16: a constant, so that no measurement picks the bits."""


class Linear:
    """y = x W^T + b for W [out, in]; packed where the device has a packed form, plain elsewhere.

    codes: the same matrix as its file has it, in 4 bits: steps of at most FEW_ROWS rows, which only wait for weights,
    then read a quarter of the memory. The two differ in the last bits. tiled: multiply TILE_ROWS rows at a time, always
    by the same kernel and the same one of the two, so that no row's result depends on how many others there are.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        pack: bool = True,
        codes: Codes | None = None,
        tiled: bool = False,
    ) -> None:
        self.out_features, self.in_features = weight.shape
        self.dtype = weight.dtype
        self.bias = bias
        self.packed = pack and _packs(weight)
        self._weight = (
            torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), TYPICAL_ROWS)
            if self.packed
            else weight.contiguous()
        )

        self._tiled = tiled
        self._few = FourBit(codes) if codes is not None and FourBit.takes(weight) else None

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply rows: x [n, in] to [n, out], in the weight's dtype."""
        if self._tiled:
            return self._by_tiles(x)
        return self._multiply_few(self._few, x) if self._few and x.shape[0] <= FEW_ROWS else self._multiply(x)

    def dense(self) -> Tensor:
        """The matrix as it was given, [out, in]."""
        return self._weight.to_dense() if self.packed else self._weight

    def _by_tiles(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        padded = F.pad(x, (0, 0, 0, -rows % TILE_ROWS))
        few = self._few
        tiles = torch.split(padded, TILE_ROWS)
        return torch.cat([self._multiply_few(few, tile) if few else self._multiply(tile) for tile in tiles])[:rows]

    def _multiply_few(self, few: FourBit, x: Tensor) -> Tensor:
        return few(x) if self.bias is None else few(x).add_(self.bias)

    def _multiply(self, x: Tensor) -> Tensor:
        if self.packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")
            return y
        return F.linear(x, self._weight, self.bias)


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN has a packed bfloat16 matmul for this weight on this machine."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
