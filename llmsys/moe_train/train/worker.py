"""A worker: trains on orders and, when its group breaks, says how far it is and waits for the next epoch's.

Three threads: this one computes, one listens to the supervisor (an interruption shuts the group's sockets at once), one
says every now and then that the process runs. Knows neither the other workers' processes nor how plans are made.
"""

import os
import queue
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from llmsys.errors import LlmsysError
from llmsys.moe_train.errors import EpochChanged
from llmsys.moe_train.train.checkpoint import CheckpointNote, part_tensors, seal, write_part, writers
from llmsys.moe_train.train.coding import warm_up
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
    Stopped,
    Trouble,
    decode_order,
    encode_message,
)
from llmsys.moe_train.train.replica import Replica
from llmsys.moe_train.train.step import Stepper

__all__ = ["Worker", "work"]

BEATS = 4  # in the time after which silence means death


def work(pipe: Connection, worker: int, meeting: str, config: dict[str, Any]) -> None:
    """What a worker's process runs; returns when told to end."""
    settings = msgspec.convert(config, RunConfig)
    torch.set_num_threads(settings.threads)
    Worker(pipe, worker, Path(meeting), settings).run()


class Worker:
    """One worker's process: orders in, reports out, and a replica that they move."""

    def __init__(self, pipe: Connection, worker: int, meeting: Path, config: RunConfig) -> None:
        self.worker, self.config = worker, config
        self._pipe = pipe
        self._sending = threading.Lock()
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._pause = threading.Event()
        self._corpus = read_corpus(config.text)
        self._comm = Communicator(worker, meeting, timeout_s=config.comm_timeout_s)
        faults = FaultPoint(worker, parse_faults(config.faults), lambda *hit: self._tell(FaultHit(*hit)))
        stepper = Stepper(config, self._corpus, self._comm, faults, self._pause.is_set)
        self._replica = Replica(config, self._comm, stepper)
        self._faults = faults
        self._saved = (-1, -1)
        warm_up(config.grad_codec, config.transfer_codec)

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
        have = self._replica
        try:
            match order:
                case Interrupt():
                    self._comm.close()
                    self._tell(Stopped(order.epoch, have.decided, have.holdings(), have.report))
                case Assign():
                    self._prepare(order)
                case Go():
                    have.drop_extras()
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

    def _prepare(self, order: Assign) -> None:
        """Build the group and bring this worker's state to where the order wants it."""
        self._faults.reach("plan", order.decided + 1)
        self._pause.clear()
        started = time.monotonic()
        self._comm.build(order.epoch, order.members)
        built = time.monotonic()
        self._faults.reach("transfer", order.decided + 1)
        self._replica.prepare(order)
        self._tell(Ready(order.epoch, built - started, time.monotonic() - built))

    def _train(self) -> None:
        """Steps until the last one, a pause, or EpochChanged."""
        have, config = self._replica, self.config
        while have.decided < config.steps:
            report, pause = have.step()
            if report.skipped and config.on_nan == "stop":
                raise LlmsysError(f"the gradient of step {report.step} is not finite (--on-nan stop)")
            if self._comm.rank == 0:
                self._tell(Stepped(report))
            if config.audit_every and have.decided % config.audit_every == 0:
                have.audit()
            if have.decided % config.ckpt_every == 0:
                self._save()
            if pause:
                self._tell(Paused(self._comm.epoch))
                return
        self._save()
        self._tell(Finished(self._comm.epoch))

    def _save(self) -> None:
        """Copy this worker's part of a checkpoint and write it beside the training, once an epoch and step."""
        have, epoch = self._replica, self._comm.epoch
        if self.config.out is None or self._saved == (have.decided, epoch):
            return
        self._saved = (have.decided, epoch)
        assigned = have.assigned
        self._faults.reach("ckpt", have.decided)
        chosen = writers(assigned.columns, assigned.holders, self.config.model.experts)
        mine = [key for key, writer in chosen.items() if writer == self.worker]
        tensors = part_tensors(have.state, mine, dense=self.worker == assigned.holders[0])
        moment = (have.decided, epoch, have.state.applied)
        threading.Thread(target=self._write, args=(*moment, tensors), daemon=True).start()

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
