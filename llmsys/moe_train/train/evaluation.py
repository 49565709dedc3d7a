"""Bits per byte of a checkpoint on a text, in one process that holds every expert. Knows no training."""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from llmsys.errors import BadInput
from llmsys.moe_train.train.checkpoint import Checkpoint, newest_checkpoint
from llmsys.moe_train.train.communicator import Communicator
from llmsys.moe_train.train.corpus import Bytes
from llmsys.moe_train.train.mixture import StepContext
from llmsys.moe_train.train.state import TrainingState

__all__ = ["Evaluation", "evaluate", "open_run", "whole_state"]

WINDOWS = 16  # at once

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`bits_per_byte` over `bytes` predicted ones, after `step` steps."""

    step: int
    bytes: int
    bits_per_byte: float


def open_run(directory: Path) -> tuple[Checkpoint, list[str]]:
    """The newest whole checkpoint of a run's directory, or the checkpoint that the directory is; and what was wrong
    with newer ones. Raises BadInput where there is none.
    """
    if (directory / "manifest.json").exists():
        return Checkpoint(directory), []
    found, faults = newest_checkpoint(directory)
    if found is None:
        right = "the --out directory of `moe-train run`, or one of its checkpoints"
        raise BadInput(str(directory), faults[0] if faults else "no checkpoint", right)
    return found, faults


def whole_state(checkpoint: Checkpoint) -> TrainingState:
    """The state of a checkpoint with every expert in one place."""
    identity = checkpoint.note.identity
    shape = identity.model
    state = TrainingState(shape, seed=identity.seed, dtype=getattr(torch, identity.dtype), lr=identity.lr)
    checkpoint.load_dense(state)
    mixtures = range(len(shape.mixtures))
    state.hold([{one: checkpoint.expert(mixture, one) for one in range(shape.experts)} for mixture in mixtures])
    return state


def evaluate(checkpoint: Checkpoint, text: Bytes) -> Evaluation:
    """Predict every byte but the first from those before it in its window; windows have the run's length.

    Raises BadInput for a text of fewer than two bytes.
    """
    if len(text) < 2:
        raise BadInput("--text", f"{len(text)} bytes", "two bytes at least")
    identity = checkpoint.note.identity
    model = whole_state(checkpoint).model
    split = [np.ones((identity.model.experts, 1)) for _ in identity.model.mixtures]
    nats = 0.0
    with tempfile.TemporaryDirectory(prefix="llmsys-moe-") as meeting, torch.no_grad():
        comm = Communicator(0, Path(meeting))
        comm.build(0, [0])
        for windows in _windows(text.astype(np.int64), identity.seq):
            tokens = torch.from_numpy(windows)
            context = StepContext(comm, tuple(split), tokens[:, 1:].numel())
            logits = model(tokens[:, :-1], context).double()
            targets = tokens[:, 1:].reshape(-1)
            nats += float(F.cross_entropy(logits.reshape(len(targets), -1), targets, reduction="sum"))
        comm.close()
    count = len(text) - 1
    return Evaluation(checkpoint.note.step, count, nats / count / math.log(2))


def _windows(tokens: Ints, seq: int) -> list[Ints]:
    """Windows of seq + 1 tokens, each beginning with the last one's end, in batches; the rest comes last, alone."""
    whole = (len(tokens) - 1) // seq
    found = [
        np.stack(
            [tokens[number * seq : (number + 1) * seq + 1] for number in range(start, min(start + WINDOWS, whole))]
        )
        for start in range(0, whole, WINDOWS)
    ]
    rest = tokens[whole * seq :]
    return [*found, rest[None]] if len(rest) > 1 else found
