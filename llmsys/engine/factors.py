"""What an adapter changes: its low-rank factors, by layer and projection, and which projections are fused.

Knows nothing of memory, devices or files.
"""

from dataclasses import dataclass

from torch import Tensor

from llmsys.engine.model import ModelConfig

__all__ = ["GROUPS", "Factor", "group_widths"]

GROUPS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
"""The targets of each fused projection, in the order of its columns."""


def group_widths(config: ModelConfig) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Input width and the output widths of each target, by fused group."""
    return {
        "qkv": (config.hidden, (config.q_width, config.kv_width, config.kv_width)),
        "o": (config.q_width, (config.hidden,)),
        "gate_up": (config.hidden, (config.mlp, config.mlp)),
        "down": (config.mlp, (config.hidden,)),
    }


@dataclass(frozen=True, slots=True)
class Factor:
    """One adapted projection: a [r, in] and b [out, r], the scale folded into b; magnitude [out] with DoRA."""

    layer: int
    target: str
    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None
