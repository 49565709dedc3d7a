"""DoRA: adapters that rescale a projection as well: y = g ⊙ (W x + s B A x) + bias, g = m / ‖W + s B A‖ by row
(Liu et al. 2024, arXiv 2402.09353, equation 5).

g depends on the weights alone, so it is computed once, when an adapter gets its slot. Its part of B A is folded into B;
what is left for a step is to rescale W x, before the low-rank part is added. Knows nothing of files or slots.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llmsys.engine.factors import GROUPS, Factor, group_widths
from llmsys.engine.model import Decoder, ModelConfig

__all__ = ["Gains", "fold_magnitudes", "row_gain"]


@dataclass(slots=True)
class Gains:
    """By layer and group, what y = W x + bias of an adapter's rows is multiplied with, and what is added then.

    gains and shifts are [out] float32; a group of a layer that no magnitude rescales is in neither.
    """

    gains: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    shifts: dict[tuple[int, str], Tensor] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        return sum(tensor.nbytes for found in (self.gains, self.shifts) for tensor in found.values())

    def apply(self, y: Tensor, layer: int, group: str) -> None:
        """Rescale rows [n, out] in place; rounded once to their format."""
        gain = self.gains.get((layer, group))
        if gain is None:
            return
        scaled, shift = y.float() * gain, self.shifts.get((layer, group))
        y.copy_(scaled if shift is None else scaled + shift)


def fold_magnitudes(factors: Iterable[Factor], decoder: Decoder | None) -> tuple[list[Factor], Gains | None]:
    """Factors without magnitudes, whose part is in B and in the gains; None where there was none.

    decoder: the base model, whose weights the gains depend on. Raises ValueError where it is needed and missing.
    """
    plain: list[Factor] = []
    found = Gains()
    for factor in factors:
        if factor.magnitude is None:
            plain.append(factor)
            continue
        if decoder is None:
            raise ValueError("an adapter with magnitudes needs the base model's weights; expected a decoder")
        group = next(name for name, targets in GROUPS.items() if factor.target in targets)
        low, high = _columns(decoder.config, group, factor.target)
        linear = decoder.projection(factor.layer, group)
        update = (factor.b @ factor.a).to(decoder.device)
        own = row_gain(factor.magnitude.to(decoder.device), linear.dense()[low:high].float() + update)
        gain = found.gains.setdefault((factor.layer, group), torch.ones(linear.out_features, device=decoder.device))
        gain[low:high] = own
        if linear.bias is not None:
            found.shifts[factor.layer, group] = (1 - gain) * linear.bias.float()
        plain.append(replace(factor, b=factor.b * own[:, None].to(factor.b.device), magnitude=None))
    return plain, found if found.gains else None


def row_gain(magnitude: Tensor, weight: Tensor) -> Tensor:
    """m / ‖row‖ for every row of the adapted weight: magnitude [out], weight [out, in], float32; returns [out]."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1)
    return magnitude / norms


def _columns(config: ModelConfig, group: str, target: str) -> tuple[int, int]:
    """Where a target's outputs stand among its group's."""
    outs, index = group_widths(config)[group][1], GROUPS[group].index(target)
    return sum(outs[:index]), sum(outs[: index + 1])
