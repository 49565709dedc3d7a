"""One world group over gloo that can be torn down and built again in the same process, within a tenth of a second.

A raw `ProcessGroupGloo` on a store per epoch: its own abort and shutdown leave whoever waits for a survivor
hanging (torch 2.13), closed sockets do not. `interrupt` shuts the group's connected sockets, found in /proc/self/fd,
from any thread; the listening one stays, since losing it aborts the process. Linux, CPU tensors. Knows no plan.
"""

import os
import socket
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch._C._distributed_c10d import BroadcastOptions, ProcessGroup, ProcessGroupGloo, Work

from llmsys.moe_train.errors import EpochChanged
from llmsys.moe_train.train.board import Board

__all__ = ["Communicator"]

HOST = "127.0.0.1"
OPEN_FILES = Path("/proc/self/fd")
SWEEP_S = 0.01  # between two looks for sockets that a group under construction has opened since


class Communicator:
    """Collectives among the members of the current epoch; every call raises EpochChanged once that epoch is over.

    One thread calls the collectives; `interrupt` may come from another. The members meet in the directory
    `meeting`.
    A peer that dies ends the epoch: the error reaches whoever waits for it, their closed sockets the rest.
    """

    def __init__(self, worker: int, meeting: Path, *, timeout_s: float = 20.0) -> None:
        self.worker = worker
        self.epoch = -1
        self.members: tuple[int, ...] = ()
        self._meeting = meeting
        self._timeout = timedelta(seconds=timeout_s)
        self._group: ProcessGroup | None = None
        self._board: Board | None = None
        self._floor = 0
        self._foreign: frozenset[str] | None = None  # sockets that are not the group's; None without a group
        self._built = threading.Event()
        self._built.set()
        self._lock = threading.Lock()

    @property
    def rank(self) -> int:
        """This worker's place among the members."""
        return self.members.index(self.worker)

    @property
    def size(self) -> int:
        """How many members there are."""
        return len(self.members)

    def build(self, epoch: int, members: Sequence[int]) -> None:
        """Connect to the `members` (worker ids, ascending) of an epoch, all to all, before anything is sent.

        Raises EpochChanged where a later epoch has begun or a member does not come, ValueError for members without
        this worker.
        """
        self.close()
        if self.worker not in members or list(members) != sorted(set(members)):
            raise ValueError(f"members {list(members)}; expected ascending ids with {self.worker} among them")
        with self._lock:
            if epoch < self._floor:
                raise EpochChanged(self._floor)
            self.epoch, self.members = epoch, tuple(members)
            self._foreign = frozenset(_sockets())
            board = Board(self._meeting / f"e{epoch}", timeout_s=self._timeout.total_seconds())
            self._board = board
            self._built.clear()
        try:
            failed = not self._connect(board)
        finally:
            self._built.set()
        if failed:
            self._over()

    def interrupt(self, epoch: int) -> None:
        """End every epoch before `epoch`: a call that waits fails at once, here and at the peers."""
        with self._lock:
            self._floor = max(self._floor, epoch)
            foreign, board = self._foreign, self._board
            if foreign is None or board is None or self.epoch >= self._floor:
                return
        board.close()
        _shut_sockets_but(foreign)
        while not self._built.wait(SWEEP_S):
            _shut_sockets_but(foreign)

    def close(self) -> None:
        """Leave the group; its sockets close."""
        self._group = None
        with self._lock:
            self._foreign = self._board = None

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all members, in place; returns `values`."""
        self._wait(self._open().allreduce([values]))
        return values

    def all_gather(self, values: Tensor) -> Tensor:
        """The members' `values`, all of one shape, stacked by rank: [N, …]."""
        found = [torch.zeros_like(values) for _ in self.members]
        self._wait(self._open().allgather([found], [values.contiguous()]))
        return torch.stack(found)

    def all_to_all_v(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Send `send[j]` rows to rank j, in order, and return the rows received, by rank.

        Shapes: rows [sum(send), …]; returns [sum(receive), …]. No padding travels.
        """
        found = rows.new_zeros((sum(receive), *rows.shape[1:]))
        self._wait(self._open().alltoall_base(found, rows.contiguous(), list(receive), list(send)))
        return found

    def broadcast(self, values: Tensor, source: int) -> Tensor:
        """Copy the tensor of rank `source` to all members, in place; returns `values`."""
        options = BroadcastOptions()
        options.rootRank = source
        options.rootTensor = 0
        self._wait(self._open().broadcast([values], options))
        return values

    def _connect(self, board: Board) -> bool:
        try:
            options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # what the stubs call Options
            options._devices = [ProcessGroupGloo.create_device(hostname=HOST)]
            options._threads = 1
            options._timeout = self._timeout
            self._group = ProcessGroupGloo(  # type: ignore[assignment]  # same calls
                board, self.rank, self.size, options
            )
        except RuntimeError:
            return False
        return self.epoch >= self._floor

    def _open(self) -> ProcessGroup:
        if self._group is None or self.epoch < self._floor:
            self._over()
        assert self._group is not None
        return self._group

    def _wait(self, work: Work) -> None:
        # no traceback may keep the group alive: sockets that stay open leave the peers waiting
        try:
            work.wait()
            failed = False
        except RuntimeError:
            failed = True
        del work
        if failed:
            self._over()

    def _over(self) -> None:
        self.close()
        raise EpochChanged(max(self._floor, self.epoch + 1))


def _shut_sockets_but(foreign: frozenset[str]) -> None:
    for name, number in _sockets().items():
        if name not in foreign:
            _shut_connected(name, number)


def _sockets() -> dict[str, int]:
    """The process's sockets: their names with inode numbers, which no two share, and file descriptors."""
    found = {}
    for entry in os.listdir(OPEN_FILES):
        name = _link(int(entry))
        if name.startswith("socket:"):
            found[name] = int(entry)
    return found


def _link(number: int) -> str:
    try:
        return os.readlink(OPEN_FILES / str(number))
    except OSError:  # closed since it was listed
        return ""


def _shut_connected(name: str, number: int) -> None:
    """Shut a socket unless it listens, or its number means something else by now."""
    try:
        copy = os.dup(number)
    except OSError:
        return
    if _link(copy) != name:
        os.close(copy)
        return
    with socket.socket(fileno=copy) as held:
        if not held.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            try:
                held.shutdown(socket.SHUT_RDWR)
            except OSError:  # not connected any more
                return
