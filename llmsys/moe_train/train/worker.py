"""A worker: trains on orders and, when its group breaks, says how far it is and waits for the next epoch's.

Three threads: this one computes, one listens to the supervisor (an interruption shuts the group's sockets at once), one
says every now and then that the process runs. Knows neither the other workers' processes nor how plans are made.
"""

import os
import queue
import threading
import time
from functools import partial
from hashlib import blake2b
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from llmsys.errors import LlmsysError
from llmsys.moe_train.errors import EpochChanged
from llmsys.moe_train.train.checkpoint import Checkpoint, CheckpointNote, part_tensors, seal, write_part, writers
from llmsys.moe_train.train.communicator import Communicator
from llmsys.moe_train.train.config import RunConfig
from llmsys.moe_train.train.corpus import read_corpus
from llmsys.moe_train.train.faults import FaultPoint, parse_faults
from llmsys.moe_train.train.messages import (
    Assign,
    Beat,
    End,
    Failed,
    FaultHit,
    Finished,
    Go,
    Hello,
    Interrupt,
    Order,
    Pause,
    Paused,
    Ready,
    Report,
    Saved,
    Seal,
    Sealed,
    Stepped,
    StepReport,
    Stopped,
    Trouble,
    decode_order,
    encode_message,
)
from llmsys.moe_train.train.state import TrainingState, expert_numbers, fresh_expert_state
from llmsys.moe_train.train.step import Assignment, Stepper
from llmsys.moe_train.train.transfer import fetch_experts

__all__ = ["Worker", "work"]

BEATS = 4  # in the time after which silence means death

Key = tuple[int, int]


def work(pipe: Connection, worker: int, meeting: str, config: dict[str, Any]) -> None:
    """What a worker's process runs; returns when told to end."""
    settings = msgspec.convert(config, RunConfig)
    torch.set_num_threads(settings.threads)
    Worker(pipe, worker, Path(meeting), settings).run()


class Worker:
    """State and behaviour of one worker. `decided`: steps whose vote it knows, -1 before it has a model."""

    def __init__(self, pipe: Connection, worker: int, meeting: Path, config: RunConfig) -> None:
        self.worker, self.config = worker, config
        self._pipe = pipe
        self._sending = threading.Lock()
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._pause = threading.Event()
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._corpus = read_corpus(config.text)
        self._comm = Communicator(worker, meeting, timeout_s=config.comm_timeout_s)
        faults = FaultPoint(worker, parse_faults(config.faults), lambda *hit: self._tell(FaultHit(*hit)))
        self._stepper = Stepper(config, self._corpus, self._comm, faults, self._pause.is_set)
        self._faults = faults
        self._state: TrainingState | None = None
        self._assigned: Assignment | None = None
        self._extras: dict[Key, Tensor] = {}
        self._report: StepReport | None = None
        self._saved = (-1, -1)
        self.decided = -1

    def run(self) -> None:
        """Serve orders until End. An error that is the user's to know of is told, and ends the run."""
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()
        self._tell(Hello())
        try:
            while self._obey(self._orders.get()):
                pass
        except LlmsysError as error:
            self._tell(Failed(str(error)))

    def _listen(self) -> None:
        """Take orders as they come; the supervisor's death is the end."""
        while True:
            try:
                order = decode_order(self._pipe.recv_bytes())
            except (EOFError, OSError):
                os._exit(1)
            if isinstance(order, Pause):
                self._pause.set()
            elif isinstance(order, Seal):
                threading.Thread(target=self._seal, args=(order,), daemon=True).start()
            else:
                if isinstance(order, Interrupt):
                    self._comm.interrupt(order.epoch)
                self._orders.put(order)

    def _beat(self) -> None:
        while True:
            self._tell(Beat())
            time.sleep(self.config.heartbeat_s / BEATS)

    def _tell(self, message: Report) -> None:
        with self._sending:
            self._pipe.send_bytes(encode_message(message))

    def _obey(self, order: Order) -> bool:
        """Follow one order; False when it was the last."""
        try:
            match order:
                case Interrupt():
                    self._comm.close()
                    self._tell(Stopped(order.epoch, self.decided, self._holdings(), self._report))
                case Assign():
                    self._prepare(order)
                case Go():
                    self._extras = {}
                    self._train()
                case _:
                    assert isinstance(order, End)
                    return False
        except EpochChanged:
            lost = True
        else:
            lost = False
        if lost:  # outside the handler, whose traceback would keep the group's objects alive
            self._tell(Trouble(self._comm.epoch))
        return True

    def _holdings(self) -> list[list[int]]:
        """The experts whose state is whole here, per mixture."""
        if self._state is None:
            return [[] for _ in self.config.model.mixtures]
        found = [set(layer) for layer in self._state.held()]
        for mixture, expert in self._extras:
            found[mixture].add(expert)
        return [sorted(layer) for layer in found]

    def _prepare(self, order: Assign) -> None:
        """Build the group and bring this worker's state to where the order wants it."""
        self._faults.reach("plan", order.decided + 1)
        self._pause.clear()
        started = time.monotonic()
        self._comm.build(order.epoch, order.members)
        built = time.monotonic()
        self._faults.reach("transfer", order.decided + 1)
        splits = [np.asarray(split, dtype=np.float64) for split in order.splits]
        assigned = Assignment(tuple(order.members), tuple(order.holders), order.columns, splits)
        if order.restore is not None:
            self._restore(order, assigned)
        else:
            self._follow(order)
            self._welcome(order)
            state = self._known_state()
            empty = torch.zeros(0, expert_numbers(state.shape), dtype=self._dtype)
            fetch_experts(order.moves, self._expert, empty, self._comm, self._extras)
            self._install(assigned)
        self._assigned = assigned
        self._tell(Ready(order.epoch, built - started, time.monotonic() - built))

    def _follow(self, order: Assign) -> None:
        """Apply the step that passed its vote elsewhere, if this worker missed it."""
        if self.decided in (-1, order.decided):
            return
        synced = self._stepper.synced
        assert synced is not None
        assert synced.step == order.decided == self.decided + 1
        self._stepper.settle(self._known_state(), skipped=order.skipped)
        self.decided = order.decided

    def _welcome(self, order: Assign) -> None:
        """Give newcomers what all hold."""
        if not order.newcomers:
            return
        state = self._state or self._new_state()
        shared = self._comm.broadcast(state.dense_state(), order.members.index(order.source))
        if self.worker in order.newcomers:
            state.load_dense_state(shared)
            self._state, self.decided = state, order.decided

    def _restore(self, order: Assign, assigned: Assignment) -> None:
        """Start from a checkpoint, or from scratch."""
        state = self._new_state()
        wanted = assigned.experts_of(self.worker)
        if order.restore:
            checkpoint = Checkpoint(Path(order.restore))
            checkpoint.load_dense(state)
            state.hold([{one: checkpoint.expert(mixture, one) for one in row} for mixture, row in enumerate(wanted)])
        else:
            fresh = partial(fresh_expert_state, self.config.model, seed=self.config.seed, dtype=self._dtype)
            state.hold([{one: fresh(mixture, one) for one in row} for mixture, row in enumerate(wanted)])
        self._state, self._extras = state, {}
        self._report, self.decided = None, order.decided

    def _install(self, assigned: Assignment) -> None:
        """Hold what is assigned; keep the rest aside until all others are ready too."""
        state = self._known_state()
        wanted = assigned.experts_of(self.worker)
        if [set(layer) for layer in state.held()] == wanted:
            return
        held = [(mixture, expert) for mixture, row in enumerate(state.held()) for expert in row]
        pool = self._extras | {key: state.expert(*key) for key in held}
        state.hold([{expert: pool[mixture, expert] for expert in row} for mixture, row in enumerate(wanted)])
        self._extras = {key: vector for key, vector in pool.items() if key[1] not in wanted[key[0]]}

    def _expert(self, mixture: int, expert: int) -> Tensor:
        found = self._extras.get((mixture, expert))
        return self._known_state().expert(mixture, expert) if found is None else found

    def _train(self) -> None:
        """Steps until the last one, a pause, or EpochChanged."""
        assert self._assigned is not None
        state = self._known_state()
        while self.decided < self.config.steps:
            report, pause = self._stepper.take(self.decided + 1, state, self._assigned)
            self.decided, self._report = report.step, report
            if report.skipped and self.config.on_nan == "stop":
                raise LlmsysError(f"the gradient of step {report.step} is not finite (--on-nan stop)")
            if self._comm.rank == 0:
                self._tell(Stepped(report))
            if self.config.audit_every and self.decided % self.config.audit_every == 0:
                self._audit()
            if self.decided % self.config.ckpt_every == 0:
                self._save()
            if pause:
                self._tell(Paused(self._comm.epoch))
                return
        self._save()
        self._tell(Finished(self._comm.epoch))

    def _audit(self) -> None:
        """Compare what several workers hold. Raises LlmsysError that names what differs and where."""
        state = self._known_state()
        keys = [(m, e) for m in range(len(self.config.model.mixtures)) for e in range(self.config.model.experts)]
        mine = torch.zeros(len(keys) + 1, dtype=torch.int64)
        mine[0] = _digest(state.dense_state())
        for mixture, row in enumerate(state.held()):
            for expert in row:
                mine[1 + keys.index((mixture, expert))] = _digest(state.expert(mixture, expert))
        table = self._comm.all_gather(mine)
        for place, name in enumerate(["what all hold", *(f"expert {e} of mixture {m}" for m, e in keys)]):
            column = {int(value) for value in table[:, place]} - {0}
            if len(column) > 1:
                values = table[:, place].tolist()
                odd = min((value for value in values if value), key=values.count)
                who = self._comm.members[values.index(odd)]
                raise LlmsysError(f"after step {self.decided} worker {who} differs in {name}; expected equal copies")

    def _save(self) -> None:
        """Copy this worker's part of a checkpoint and write it beside the training, once an epoch and step."""
        assert self._assigned is not None
        if self.config.out is None or self._saved == (self.decided, self._comm.epoch):
            return
        self._saved = (self.decided, self._comm.epoch)
        assigned = self._assigned
        self._faults.reach("ckpt", self.decided)
        chosen = writers(assigned.columns, assigned.holders, self.config.model.experts)
        mine = [key for key, writer in chosen.items() if writer == self.worker]
        tensors = part_tensors(self._known_state(), mine, dense=self.worker == assigned.holders[0])
        where = (self.decided, self._comm.epoch, self._known_state().applied)
        threading.Thread(target=self._write, args=(*where, tensors), daemon=True).start()

    def _write(self, step: int, epoch: int, applied: int, tensors: dict[str, Tensor]) -> None:
        try:
            write_part(Path(self.config.out or ""), step, epoch, self.worker, tensors)
            fault = None
        except OSError as error:
            fault = str(error)
        self._tell(Saved(step, epoch, applied, fault))

    def _seal(self, order: Seal) -> None:
        started = time.monotonic()
        config = self.config
        identity = config.identity(self._corpus.digest)
        try:
            seal(Path(config.out or ""), order.step, order.epoch, CheckpointNote(order.step, order.applied, identity))
            fault = None
        except OSError as error:
            fault = str(error)
        self._tell(Sealed(order.step, time.monotonic() - started, fault))

    def _new_state(self) -> TrainingState:
        config = self.config
        return TrainingState(config.model, seed=config.seed, dtype=self._dtype, lr=config.lr)

    def _known_state(self) -> TrainingState:
        assert self._state is not None
        return self._state


def _digest(values: Tensor) -> int:
    """A number other than 0 that tells contents apart."""
    digest = blake2b(values.contiguous().view(torch.uint8).numpy().tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) | 1
