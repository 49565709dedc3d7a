"""A data-parallel training run of `world` forked processes under gloo, told what to do by JSON; prints what came of it.

Run as `python ddp_program.py '{"world": 2, "bits": 1.5, …}'`; rank 0 prints one JSON line.
"""

import json
import os
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from llmsys.compress.gradients import GradientState, ddp_hook


class Net(nn.Module):
    """Two layers, and a third that is used only where asked."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 256), nn.Linear(256, 8)
        self.spare = nn.Linear(32, 8)

    def forward(self, x: torch.Tensor, *, spare: bool) -> torch.Tensor:
        y = self.second(torch.tanh(self.first(x)))
        return y + self.spare(x) if spare else y


def data_of(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + step)
    x = torch.randn(64, 32, generator=generator)
    teacher = torch.randn(32, 8, generator=torch.Generator().manual_seed(7))
    return x, torch.sin(x @ teacher / 4)


def run(rank: int, place: str, asked: dict) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=asked["world"])
    torch.manual_seed(0)
    net = Net()
    parallel = DistributedDataParallel(net, find_unused_parameters=True, bucket_cap_mb=asked.get("bucket_mb", 25))
    state = None
    if asked["bits"] is not None:
        state = GradientState(net.named_parameters(), bits=asked["bits"], residual=asked.get("residual", False))
        parallel.register_comm_hook(state, ddp_hook)
    optimiser = torch.optim.SGD(net.parameters(), lr=asked.get("lr", 0.05))
    applied = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    given = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for step in range(asked["steps"]):
        if asked.get("checkpoint_at") == step:
            saved = state.state_dict()
            state.errors = {}
            state.load_state_dict(saved)
        x, y = data_of(rank, step)
        silent = asked.get("zero_rank") == rank
        loss = ((parallel(x, spare=asked.get("spare", False)) - y) ** 2).mean() * (0.0 if silent else 1.0)
        optimiser.zero_grad(set_to_none=False)
        if asked.get("measure"):
            alone = torch.autograd.grad(
                ((net(x, spare=asked.get("spare", False)) - y) ** 2).mean() * (0.0 if silent else 1.0),
                list(net.parameters()),
                allow_unused=True,
            )
            for (name, _), gradient in zip(net.named_parameters(), alone, strict=True):
                given[name] += gradient if gradient is not None else 0
        loss.backward()
        for name, p in net.named_parameters():
            applied[name] += p.grad if p.grad is not None else 0
        optimiser.step()
    with torch.no_grad():
        x, y = data_of(99, 0)
        final = float(((net(x, spare=asked.get("spare", False)) - y) ** 2).mean())
    told = {"loss": final, "weights": float(sum(p.double().sum() for p in net.parameters()))}
    if state is not None:
        told |= {"bytes": state.bytes_sent, "values": state.values}
        told["worst"] = telescoped(net, state, applied, given, asked["world"]) if asked.get("measure") else 0.0
    every = [None] * asked["world"]
    dist.all_gather_object(every, told)
    if rank == 0:
        print(json.dumps(every))
    dist.destroy_process_group()


def telescoped(net: nn.Module, state: GradientState, applied: dict, given: dict, world: int) -> float:
    """The largest gap between applied sums + errors and given sums, over the size of what was given."""
    worst = 0.0
    for name, _ in net.named_parameters():
        total, left = given[name].reshape(-1).clone(), state.errors[name].clone()
        dist.all_reduce(total)
        dist.all_reduce(left)
        gap = world * applied[name].reshape(-1) + left - total
        worst = max(worst, float(gap.abs().max() / (total.abs().max() + 1e-9)))
    return worst


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        mp.start_processes(
            run, args=(os.path.join(directory, "meet"), options), nprocs=options["world"], start_method="fork"
        )
