"""The experts that one worker holds of one layer, computed together on rows sorted by expert.

float32 and bfloat16 go through `grouped_mm` (empty groups included); torch has none for float64, where each expert has
its own products. Knows no peers and no routing.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmsys.moe_train.train.shape import ModelShape

__all__ = ["ExpertBank", "expert_products"]

GROUPED = (torch.float32, torch.bfloat16)


class ExpertBank(nn.Module):
    """Matrices of the experts `ids` (ascending), stacked: w1 and w3 [held, d_model, d_ff], w2 [held, d_ff, d_model]."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.ids: tuple[int, ...] = ()

    def hold(self, experts: Mapping[int, Mapping[str, Tensor]], dtype: torch.dtype = torch.float32) -> None:
        """Replace everything held: expert -> name -> matrix; `dtype` where there is none."""
        self.ids = tuple(sorted(experts))
        for name, rows, columns in self.shape.matrices:
            none = torch.zeros(0, rows, columns, dtype=dtype)
            stacked = torch.stack([experts[one][name] for one in self.ids]) if self.ids else none
            self.register_parameter(name, nn.Parameter(stacked))

    def matrix(self, name: str) -> nn.Parameter:
        """The stacked matrices of one name."""
        found = getattr(self, name)
        assert isinstance(found, nn.Parameter)
        return found

    def forward(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """y[i] = the expert of row i applied to it; rows [n, d_model], the first counts[0] of them for ids[0], …"""
        if not len(rows):
            return rows  # stays in the graph: its gradient crosses the network too
        up = expert_products(rows, self.matrix("w1"), counts)
        if self.shape.act == "swiglu":
            hidden = F.silu(up) * expert_products(rows, self.matrix("w3"), counts)
        else:
            hidden = F.gelu(up)
        return expert_products(hidden, self.matrix("w2"), counts)


def expert_products(rows: Tensor, matrices: Tensor, counts: Sequence[int]) -> Tensor:
    """rows [n, d] in groups of `counts` rows, each times its matrix [groups, d, f]; returns [n, f]."""
    if rows.dtype not in GROUPED:
        parts = torch.split(rows, list(counts))
        return torch.cat([part @ matrix for part, matrix in zip(parts, matrices, strict=True)])
    ends = torch.tensor(counts, dtype=torch.int32).cumsum(0, dtype=torch.int32)
    product = F.grouped_mm(rows, matrices, offs=ends)
    if product.requires_grad:
        product.register_hook(torch.Tensor.contiguous)  # type: ignore[no-untyped-call]  # its backward refuses a broadcast gradient
    return product
