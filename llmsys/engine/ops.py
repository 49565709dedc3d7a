"""The operations of a block that are not matrix products: norm, gate, and attention of decoding rows.

`TorchOps` is the definition, on any device; `CompiledOps` is its fast twin on a CPU, where a torch call per small
operation would cost more than the operation. Both round where transformers rounds. Knows nothing of requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from llmsys.engine.kv_store import LayerCache
from llmsys.engine.rope import RotaryTable

__all__ = ["CompiledOps", "DecodeRows", "Ops", "TorchOps", "choose_ops"]


@dataclass(frozen=True, slots=True)
class DecodeRows:
    """Rows of the store that decode one token each: `places` is [3, n] int64, token in the batch, row, and length.

    Lengths count the new token.
    """

    places: Tensor

    @classmethod
    def of(cls, tokens: Sequence[int], rows: Sequence[int], lengths: Sequence[int]) -> "DecodeRows":
        """From three lists of n numbers."""
        return cls(torch.tensor([tokens, rows, lengths], dtype=torch.int64))

    def __len__(self) -> int:
        return self.places.shape[1]


class Ops(Protocol):
    """What a block needs beside its matrices."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Divide rows by their root mean square and scale: x [T, width] contiguous, weight [width]."""
        ...

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up for gate_up [T, 2 * width] contiguous: [T, width]."""
        ...

    def decode(
        self, rows: DecodeRows, qk: Tensor, v: Tensor, table: RotaryTable, cache: LayerCache, out: Tensor
    ) -> None:
        """Write the rows' new keys and values, and their attention to `out`.

        Shapes: qk [T, heads + kv_heads, D] not yet rotated, v [T, kv_heads, D], out [T, heads * D]; tokens that are not
        the rows' are left alone.
        """
        ...


class TorchOps:
    """The definition in torch operations."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """As the protocol says."""
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """As the protocol says."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    def decode(
        self, rows: DecodeRows, qk: Tensor, v: Tensor, table: RotaryTable, cache: LayerCache, out: Tensor
    ) -> None:
        """As the protocol says."""
        keys, values = cache
        kv_heads, dim = keys.shape[1], keys.shape[3]
        heads = qk.shape[1] - kv_heads
        for token, row, length in rows.places.T.tolist():
            cos, sin = table.at(torch.tensor([length - 1], device=qk.device))
            rotated = table.rotate(qk[token].float(), cos[0].float(), sin[0].float())
            keys[row, :, length - 1] = rotated[heads:].to(keys.dtype)
            values[row, :, length - 1] = v[token]
            queries = rotated[:heads].view(kv_heads, heads // kv_heads, dim) * dim**-0.5
            weights = torch.softmax(queries @ keys[row, :, :length].float().mT, dim=-1)
            out[token] = (weights @ values[row, :, :length].float()).reshape(-1).to(out.dtype)


class CompiledOps:
    """The same in compiled loops over float32 or bfloat16 tensors of a CPU."""

    def __init__(self, dtype: torch.dtype) -> None:
        import numpy as np

        from llmsys.engine.loop_entries import loop_entries

        self._loops = loop_entries({torch.float32: np.float32, torch.bfloat16: np.uint16}[dtype])

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """As the protocol says."""
        out = torch.empty_like(x)
        self._loops.norm(*x.shape, x.data_ptr(), weight.data_ptr(), out.data_ptr(), eps)
        return out

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """As the protocol says."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        self._loops.silu(rows, width, gate_up.data_ptr(), out.data_ptr())
        return out

    def decode(
        self, rows: DecodeRows, qk: Tensor, v: Tensor, table: RotaryTable, cache: LayerCache, out: Tensor
    ) -> None:
        """As the protocol says."""
        arena_rows, kv_heads, max_len, head_dim = cache.keys.shape
        self._loops.attend(
            qk.shape[0],
            qk.shape[1] - kv_heads,
            kv_heads,
            head_dim,
            arena_rows,
            max_len,
            table.cos.shape[0],
            len(rows),
            qk.data_ptr(),
            qk.stride(0),
            v.data_ptr(),
            v.stride(0),
            table.cos.data_ptr(),
            table.sin.data_ptr(),
            cache.keys.data_ptr(),
            cache.values.data_ptr(),
            rows.places.data_ptr(),
            out.data_ptr(),
        )


def choose_ops(device: torch.device, dtype: torch.dtype) -> Ops:
    """Compiled loops on a CPU for the formats they know, where numba is installed; else torch."""
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return TorchOps()
    try:
        return CompiledOps(dtype)
    except ImportError:  # a bare machine with torch alone
        return TorchOps()
