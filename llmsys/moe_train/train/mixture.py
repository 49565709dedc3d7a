"""One mixture layer: a router picks k experts per token, which compute wherever the plan keeps them.

The balance loss uses the counts of all ranks, so that no division of the batch changes it. Knows no plan's making.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llmsys.moe_train.train.communicator import Communicator
from llmsys.moe_train.train.experts import ExpertBank
from llmsys.moe_train.train.routing import Route, exchange, plan_route
from llmsys.moe_train.train.shape import ModelShape

__all__ = ["MoELayer", "StepContext"]


@dataclass(slots=True)
class StepContext:
    """What every layer of one forward pass shares: the group, the splits [E, N] per mixture (columns by rank), the
    tokens of all ranks, what to call between routing and sending, the dropout. What the layers leave: this
    rank's part of the balance loss, and the routes.
    """

    comm: Communicator
    splits: tuple[NDArray[np.float64], ...]
    tokens: int
    on_dispatch: Callable[[], None] = field(default=lambda: None)
    drop: Callable[[Tensor, int], Tensor] = field(default=lambda x, _: x)
    balance_loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    routes: list[Route] = field(default_factory=list)


class MoELayer(nn.Module):
    """y = Σ_k gate_k · expert_k(x) over the k experts with the highest router probability."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.router = nn.Linear(shape.d_model, shape.experts, bias=False)
        self.bank = ExpertBank(shape)
        if shape.balance == "bias":
            self.register_buffer("bias", torch.zeros(shape.experts))

    def forward(self, x: Tensor, context: StepContext) -> Tensor:
        """x [n, d_model] of this rank; returns the same shape. Raises EpochChanged where a peer is lost."""
        shape = self.shape
        chances = torch.softmax(self.router(x), dim=-1)
        chosen = torch.topk(self._appeal(chances.detach()), shape.top_k, dim=-1).indices
        gates = chances.gather(-1, chosen)
        if shape.norm_topk:
            gates = gates / gates.sum(dim=-1, keepdim=True)
        split = context.splits[len(context.routes)]
        route = plan_route(chosen.reshape(-1), split, self.bank.ids, context.comm)
        context.routes.append(route)
        context.balance_loss = context.balance_loss + self._balance(chances, route, context.tokens)
        context.on_dispatch()
        sent = exchange(x[route.order // shape.top_k], context.comm, route.send, route.receive)
        computed = self.bank(sent[route.grouping], route.counts)[torch.argsort(route.grouping)]
        back = exchange(computed, context.comm, route.receive, route.send)
        copies = back[torch.argsort(route.order)].view(len(x), shape.top_k, shape.d_model)
        return (copies * gates[..., None]).sum(dim=1)

    def _appeal(self, chances: Tensor) -> Tensor:
        """What experts are chosen by: their probabilities, and the bias where there is one."""
        bias = self.get_buffer("bias") if self.shape.balance == "bias" else None
        return chances if bias is None else chances + bias

    def _balance(self, chances: Tensor, route: Route, tokens: int) -> Tensor:
        """This rank's part of E · Σ_e f_e · P_e (Switch Transformer, eq. 4): f_e of all ranks, P_e summed over ours."""
        shares = torch.from_numpy(route.tokens / (tokens * self.shape.top_k)).to(chances.dtype)
        return self.shape.experts * (chances.sum(dim=0) * shares).sum() / tokens
