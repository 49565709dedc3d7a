"""From tokens to the ranks that hold their experts and back, without padding, by the planner's exact table.

`Route` is one layer's traffic in one step: the same integers on every rank from one all-gather of E counts. Knows no
router and no expert; `ExpertBank` computes in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmsys.moe_train.dispatch import capacities, schedule
from llmsys.moe_train.train.communicator import Communicator

__all__ = ["Route", "exchange", "plan_route"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Route:
    """Who computes what. `send` and `receive`: rows per rank; `order` [n*k]: the copy (token*k + choice) in every sent
    row; `grouping` [received]: received rows by expert; `counts`: rows per held expert; `table` D [E, N, N].
    """

    send: list[int]
    receive: list[int]
    order: Tensor
    grouping: Tensor
    counts: list[int]
    table: Ints

    @property
    def tokens(self) -> Ints:
        """[E]: copies of every expert, of all ranks."""
        found: Ints = self.table.sum(axis=(1, 2))
        return found

    @property
    def moved(self) -> int:
        """Copies that are computed on another rank than their own."""
        return int(self.table.sum() - np.einsum("eii->", self.table))

    @property
    def computed(self) -> Ints:
        """[N]: copies that every rank computes."""
        found: Ints = self.table.sum(axis=(0, 1))
        return found


def plan_route(chosen: Tensor, split: NDArray[np.float64], held: Sequence[int], comm: Communicator) -> Route:
    """The route of this rank's copies: chosen [n*k] int64 experts, split [E, N] shares by rank, `held` ascending."""
    experts = split.shape[0]
    mine = torch.bincount(chosen, minlength=experts)
    tokens = comm.all_gather(mine).numpy().T
    table = schedule(np.ascontiguousarray(tokens), capacities(tokens.sum(axis=1), split))
    return cut_route(chosen, table, held, comm.rank)


def cut_route(chosen: Tensor, table: Ints, held: Sequence[int], rank: int) -> Route:
    """One rank's part of a table D [E, N, N]."""
    experts, ranks, _ = table.shape
    outgoing, incoming = table[:, rank, :], table[:, :, rank]
    by_expert = torch.argsort(chosen, stable=True)
    target = torch.from_numpy(np.repeat(np.tile(np.arange(ranks), experts), outgoing.ravel()))
    order = by_expert[torch.argsort(target, stable=True)]
    arrived = torch.from_numpy(np.repeat(np.tile(np.arange(experts), ranks), incoming.T.ravel()))
    return Route(
        send=outgoing.sum(axis=0).tolist(),
        receive=incoming.sum(axis=0).tolist(),
        order=order,
        grouping=torch.argsort(arrived, stable=True),
        counts=incoming.sum(axis=1)[list(held)].tolist(),
        table=table,
    )


class _Exchange(torch.autograd.Function):
    """Rows to the ranks they are for; gradients back the same way."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, comm: Communicator, send: list[int], receive: list[int]) -> Tensor:  # noqa: ANN401
        ctx.comm, ctx.send, ctx.receive = comm, send, receive
        return comm.all_to_all_v(rows, send, receive)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        return ctx.comm.all_to_all_v(gradients[0], ctx.receive, ctx.send), None, None, None


def exchange(rows: Tensor, comm: Communicator, send: list[int], receive: list[int]) -> Tensor:
    """`comm.all_to_all_v` with a gradient, which is the exchange the other way round."""
    found: Tensor = _Exchange.apply(rows, comm, send, receive)  # type: ignore[no-untyped-call]
    return found
