"""What the tests' processes run. A module of its own, so that a fresh process can import it."""

import os
import threading
from pathlib import Path

import torch

from llmsys.moe_train import EpochChanged
from llmsys.moe_train.train import Communicator


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
