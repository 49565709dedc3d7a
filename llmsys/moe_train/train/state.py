"""One worker's share of the training state: what all hold, the experts it holds, and the optimizer's moments of both.

An expert's state is one vector, weights then first and second moments; so it travels. Knows no peers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from llmsys.moe_train.train.model import MoEModel, fresh_expert
from llmsys.moe_train.train.shape import ModelShape

__all__ = ["OPTIMIZERS", "Gradients", "TrainingState", "expert_numbers", "fresh_expert_state"]

BETAS = (0.9, 0.999)
EPSILON = 1e-8
WEIGHT_DECAY = 0.01
MOMENTUM = 0.9
BIAS_STEP = 1e-3
OPTIMIZERS = ("adamw", "sgd")

Key = tuple[int, int]
Moments = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Gradients:
    """Summed over all ranks: of what all hold, and of every expert held, as (mixture, expert); one vector each."""

    dense: Tensor
    experts: Mapping[Key, Tensor]

    def finite(self) -> bool:
        """Whether no number is infinite or NaN."""
        return all(bool(torch.isfinite(part).all()) for part in (self.dense, *self.experts.values()))


class TrainingState:
    """A model, its experts as `hold` last gave them, and the optimizer's moments: `adamw`, or `sgd` with momentum 0.9,
    whose second moments stay 0. They are torch's functions: the classes would load its compiler, seconds long, in every
    worker. `applied`: optimizer steps so far."""

    def __init__(
        self, shape: ModelShape, *, seed: int, dtype: torch.dtype, lr: float, optimizer: str = "adamw"
    ) -> None:
        self.shape, self.seed, self.dtype, self.lr, self.optimizer = shape, seed, dtype, lr, optimizer
        self.model = MoEModel(shape, seed, dtype)
        self.applied = 0
        self._dense = self.model.dense()
        self._dense_moments = {name: _zeros(one) for name, one in self._dense.items()}
        self._biases = dict(self.model.named_buffers())
        self._bank_moments: list[dict[str, Moments]] = []
        self.hold([{} for _ in shape.mixtures])

    def held(self) -> list[list[int]]:
        """The experts held, per mixture."""
        return [list(bank.ids) for bank in self.model.banks()]

    def hold(self, experts: Sequence[Mapping[int, Tensor]]) -> None:
        """Replace all experts: one mapping from expert to its state vector per mixture."""
        self._bank_moments = []
        for bank, wanted in zip(self.model.banks(), experts, strict=True):
            parts = {expert: _cut(self.shape, state) for expert, state in wanted.items()}
            bank.hold({expert: weights for expert, (weights, _, _) in parts.items()}, self.dtype)
            stacked = {}
            for name, rows, columns in self.shape.matrices:
                either = (
                    torch.stack([parts[one][kind][name] for one in bank.ids])
                    if parts
                    else torch.zeros(0, rows, columns, dtype=self.dtype)
                    for kind in (1, 2)
                )
                stacked[name] = (next(either), next(either))
            self._bank_moments.append(stacked)

    def expert(self, mixture: int, expert: int) -> Tensor:
        """The state vector of one expert held, [expert_numbers(shape)]."""
        bank = self.model.banks()[mixture]
        place = bank.ids.index(expert)
        weights = [bank.matrix(name).detach() for name, *_ in self.shape.matrices]
        moments = [self._bank_moments[mixture][name] for name, *_ in self.shape.matrices]
        stacks = [*weights, *(first for first, _ in moments), *(second for _, second in moments)]
        return torch.cat([stack[place].reshape(-1) for stack in stacks])

    def dense_state(self) -> Tensor:
        """Weights, first and second moments of what all hold, one vector; the last number is `applied`."""
        kinds = [
            [one.detach() for one in self._dense.values()],
            [first for first, _ in self._dense_moments.values()],
            [second for _, second in self._dense_moments.values()],
            list(self._biases.values()),
        ]
        flat = [one.reshape(-1).double() for kind in kinds for one in kind]
        return torch.cat([*flat, torch.tensor([float(self.applied)], dtype=torch.float64)])

    def load_dense_state(self, state: Tensor) -> None:
        """Take over another worker's `dense_state`."""
        place = 0
        with torch.no_grad():
            for target in self._dense_tensors():
                target.copy_(state[place : place + target.numel()].view_as(target))
                place += target.numel()
        self.applied = int(state[place])

    def dense_tensors(self) -> dict[str, Tensor]:
        """What all hold by name, moments as NAME.exp_avg and NAME.exp_avg_sq: the live tensors."""
        found: dict[str, Tensor] = dict(self._biases)
        for name, one in self._dense.items():
            first, second = self._dense_moments[name]
            found |= {name: one.detach(), f"{name}.exp_avg": first, f"{name}.exp_avg_sq": second}
        return found

    def gradients(self) -> tuple[Tensor, dict[Key, Tensor]]:
        """This rank's own gradients, to be summed: of what all hold, and of every expert held."""
        dense = torch.cat([_gradient(one).reshape(-1) for one in self._dense.values()])
        experts = {}
        for mixture, bank in enumerate(self.model.banks()):
            stacks = [_gradient(bank.matrix(name)) for name, *_ in self.shape.matrices]
            for place, expert in enumerate(bank.ids):
                experts[mixture, expert] = torch.cat([stack[place].reshape(-1) for stack in stacks])
        return dense, experts

    def apply(self, gradients: Gradients) -> None:
        """One step of the optimizer."""
        weights, moments = list(self._dense.values()), list(self._dense_moments.values())
        parts = iter(torch.split(gradients.dense, [one.numel() for one in weights]))
        sums = [next(parts).view_as(one) for one in weights]
        for mixture, bank in enumerate(self.model.banks()):
            rows = [gradients.experts[mixture, expert] for expert in bank.ids]
            for name, stack in _stacked(self.shape, rows).items():
                weights.append(bank.matrix(name))
                sums.append(stack)
                moments.append(self._bank_moments[mixture][name])
        with torch.no_grad():
            self._update([one.detach() for one in weights], sums, moments)
        self.applied += 1

    def nudge(self, counts: Sequence[Sequence[int]]) -> None:
        """After a step with `counts` copies per mixture and expert: experts with fewer than the mean become likelier,
        others less so (DeepSeek-V3, §2.1.2). Does nothing where the balance is a loss's.
        """
        for bias, row in zip(self._biases.values(), counts, strict=False):
            copies = torch.tensor(row, dtype=torch.float64)
            bias.add_(torch.sign(copies.mean() - copies).to(bias.dtype), alpha=BIAS_STEP)

    def _update(self, weights: list[Tensor], sums: list[Tensor], moments: list[Moments]) -> None:
        firsts, seconds = [first for first, _ in moments], [second for _, second in moments]
        if self.optimizer == "sgd":
            buffers: list[Tensor | None] = list(firsts)
            sgd(
                weights,
                sums,
                buffers,
                weight_decay=0.0,
                momentum=MOMENTUM,
                lr=self.lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
            return
        adamw(
            weights,
            sums,
            firsts,
            seconds,
            [],
            [torch.tensor(float(self.applied)) for _ in weights],
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.lr,
            weight_decay=WEIGHT_DECAY,
            eps=EPSILON,
            maximize=False,
        )

    def _dense_tensors(self) -> Iterator[Tensor]:
        yield from self._dense.values()
        yield from (first for first, _ in self._dense_moments.values())
        yield from (second for _, second in self._dense_moments.values())
        yield from self._biases.values()


def expert_numbers(shape: ModelShape) -> int:
    """Numbers in an expert's state vector."""
    return 3 * sum(rows * columns for _, rows, columns in shape.matrices)


def fresh_expert_state(shape: ModelShape, mixture: int, expert: int, *, seed: int, dtype: torch.dtype) -> Tensor:
    """The state vector of an expert before its first step."""
    weights = torch.cat([one.reshape(-1) for one in fresh_expert(shape, mixture, expert, seed, dtype).values()])
    return torch.cat([weights, torch.zeros(2 * len(weights), dtype=dtype)])


def _stacked(shape: ModelShape, rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Matrices [experts, rows, columns] by name, out of one vector per expert."""
    if not rows:
        return {}
    sizes = [height * width for _, height, width in shape.matrices]
    parts = iter(torch.split(torch.stack(list(rows)), sizes, dim=1))
    return {name: next(parts).view(len(rows), height, width) for name, height, width in shape.matrices}


def _cut(shape: ModelShape, state: Tensor) -> list[dict[str, Tensor]]:
    """Weights, first and second moments by matrix name, out of a state vector."""
    sizes = [rows * columns for _, rows, columns in shape.matrices]
    parts = iter(torch.split(state, sizes * 3))
    return [{name: next(parts).view(rows, columns) for name, rows, columns in shape.matrices} for _ in range(3)]


def _zeros(one: Tensor) -> Moments:
    return torch.zeros_like(one.detach()), torch.zeros_like(one.detach())


def _gradient(one: Tensor) -> Tensor:
    return torch.zeros_like(one) if one.grad is None else one.grad
