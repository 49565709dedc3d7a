"""What the tests' processes run. A module of its own, so that a fresh process can import it."""

import os
import threading
from pathlib import Path

import numpy as np
import torch

from llmsys.moe_train import EpochChanged, plan_model
from llmsys.moe_train.train import Communicator, ModelShape, MoELayer, StepContext, fresh_expert, sum_segments


def opened(kind):
    """How many of this process's descriptors are of a kind, by their link's beginning."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{number}").startswith(kind)
        except OSError:
            continue
    return found


def exchange_for_ever(comm):
    """Loop over collectives until the epoch ends; the pairs of neighbours wait for each other, not for the dead."""
    while True:
        comm.all_to_all_v(torch.full((comm.size, 3), float(comm.worker)), [1] * comm.size, [1] * comm.size)
        comm.all_reduce(torch.ones(1000))


def communicate(pipe, number, meeting, timeout_s=60.0):
    """Build, interrupt and count on request; `run` collectives until they fail."""
    torch.set_num_threads(1)
    comm = Communicator(number, Path(meeting), timeout_s=timeout_s)
    while True:
        match pipe.recv():
            case ("interrupt", epoch):
                comm.interrupt(epoch)
            case ("loop", epoch, members):
                pipe.send("looping")
                watcher = threading.Thread(target=lambda: comm.interrupt(pipe.recv()[1]))
                watcher.start()
                try:
                    comm.build(epoch, members)
                    pipe.send("built")
                    exchange_for_ever(comm)
                except EpochChanged as change:
                    pipe.send(("over", change.epoch))
                watcher.join()
            case ("sum", epoch, members):
                try:
                    comm.build(epoch, members)
                    pipe.send(comm.all_reduce(torch.tensor([float(number)])).item())
                except EpochChanged as change:
                    pipe.send(("over", change.epoch))
            case ("collect", epoch, members):
                comm.build(epoch, members)
                pipe.send(collected(comm))
            case ("census",):
                pipe.send((opened("socket:"), opened(""), threading.active_count(), len(os.listdir("/proc/self/task"))))


def collected(comm):
    """One call of each kind, as plain lists."""
    rank, size = comm.rank, comm.size
    rows = torch.arange(size * 2, dtype=torch.float64).reshape(size, 2) + 100 * rank
    # rank r sends r rows to every rank above it, none to the others
    send = [rank if other > rank else 0 for other in range(size)]
    receive = [other if rank > other else 0 for other in range(size)]
    sent = torch.full((sum(send), 2), float(rank))
    return {
        "gathered": comm.all_gather(rows[:1]).tolist(),
        "exchanged": comm.all_to_all_v(rows, [1] * size, [1] * size).tolist(),
        "uneven": comm.all_to_all_v(sent, send, receive)[:, 0].tolist(),
        "nothing": comm.all_to_all_v(sent[:0], [0] * size, [0] * size).shape,
        "broadcast": comm.broadcast(torch.tensor([float(rank)]), size - 1).item(),
        "sum": comm.all_reduce(torch.tensor([rank], dtype=torch.int64)).item(),
    }


def echo(pipe, greeting):
    """Say who is there and wait for ever."""
    pipe.send((greeting, os.getpid()))
    pipe.recv()


def joined(number, count, meeting):
    torch.set_num_threads(1)
    comm = Communicator(number, Path(meeting), timeout_s=60.0)
    comm.build(0, list(range(count)))
    return comm


def gradient_case(seed, ranks):
    """Random segments: their holders, and every rank's gradients of them."""
    random = np.random.default_rng(seed)
    segments = int(random.integers(0, 6))
    holders = [
        sorted(random.choice(ranks, random.integers(1, ranks + 1), replace=False).tolist()) for _ in range(segments)
    ]
    sizes = random.integers(0, 9, segments)
    values = [
        {rank: random.standard_normal(size) for rank in group} for size, group in zip(sizes, holders, strict=True)
    ]
    return holders, values


def sum_gradients(pipe, number, meeting, *, size, cases, codec="none"):
    """The sums of every random case, as lists."""
    comm = joined(number, size, meeting)
    found = []
    for seed in range(cases):
        holders, values = gradient_case(seed, size)
        mine = [torch.from_numpy(value[number]) if number in value else None for value in values]
        found.append([total.tolist() for total in sum_segments(mine, holders, comm, codec=codec)])
    pipe.send(found)
    pipe.recv()


def mixture_case(seed, shape, rows):
    """A layer's input and the gradient of its output, for all tokens: [sum(rows), d] each."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(sum(rows), shape.d_model, generator=generator, dtype=torch.float64) for _ in range(2))


def router_of(shape):
    """Router weights [E, d]."""
    return torch.randn(shape.experts, shape.d_model, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def mix(pipe, number, meeting, *, shape, rows, slots, dtype):
    """One mixture layer on this rank's rows: output, gradients of input, router and held experts, balance loss."""
    torch.set_default_dtype(getattr(torch, dtype))
    comm = joined(number, len(rows), meeting)
    sizes = ModelShape(**shape)
    loads = [[1 + 3 * expert for expert in range(sizes.experts)]]
    plan = plan_model(loads, len(rows), slots)
    layer = MoELayer(sizes)
    layer.bank.hold(
        {
            expert: fresh_expert(sizes, 0, expert, 0, torch.get_default_dtype())
            for expert in set(plan.placements[0].columns[number].tolist())
        }
    )
    start = sum(rows[:number])
    x, weight = (
        whole[start : start + rows[number]].to(torch.get_default_dtype()) for whole in mixture_case(1, sizes, rows)
    )
    with torch.no_grad():
        layer.router.weight.copy_(router_of(sizes))
    x.requires_grad_()
    context = StepContext(comm, plan.splits, sum(rows))
    out = layer(x, context)
    ((out * weight).sum() + context.balance_loss).backward()
    route = context.routes[0]
    pipe.send(
        {
            "out": out.tolist(),
            "x": x.grad.tolist(),
            "router": layer.router.weight.grad.tolist(),
            "experts": {
                expert: {name: gradient(layer.bank, name, place) for name, *_ in sizes.matrices}
                for place, expert in enumerate(layer.bank.ids)
            },
            "balance": context.balance_loss.item(),
            "tokens": route.tokens.tolist(),
            "moved": route.moved,
        }
    )
    pipe.recv()


def gradient(bank, name, place):
    found = bank.matrix(name).grad
    return torch.zeros_like(bank.matrix(name)[place]).tolist() if found is None else found[place].tolist()
