"""A data-parallel trainer of the usual kind for `bench --what recover`: torchrun restarts all of it after a death.

The same model, text and optimizer as `run`, every expert on every rank, one all-reduce a step, a checkpoint every few
steps. Run as `torchrun … -m llmsys.moe_train.train.torchrun_peer DIR STEPS SEQ BATCH`; prints a JSON line for every
step of rank 0 and one with its process id for every rank.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from llmsys.artifacts import open_tensors, write_tensors
from llmsys.moe_train.train.communicator import Communicator
from llmsys.moe_train.train.corpus import Corpus, read_corpus, share, step_windows
from llmsys.moe_train.train.mixture import StepContext
from llmsys.moe_train.train.shape import ModelShape
from llmsys.moe_train.train.state import Gradients, TrainingState, fresh_expert_state

__all__ = ["SAVE_EVERY", "main"]

SAVE_EVERY = 5


def main(directory: Path, steps: int, seq: int, batch: int) -> None:
    """Train to the last step, from the last checkpoint in `directory` if there is one."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    _say({"rank": rank, "pid": os.getpid()})
    alone = Communicator(rank, directory / f"alone-{os.getpid()}")
    alone.build(0, [rank])
    corpus, shape, saved = read_corpus(), ModelShape(), directory / "checkpoint.safetensors"
    state, done = _state(shape), 0
    if saved.exists():
        done = _load(state, saved)
    for step in range(done + 1, steps + 1):
        windows = share(step_windows(step, batch, corpus.windows(seq), 0), rank, size)
        _step(state, alone, corpus, windows, seq, batch * seq)
        if rank == 0:
            if step % SAVE_EVERY == 0:
                _save(state, saved, step)
            _say({"step": step})
    alone.close()
    dist.destroy_process_group()


def _step(
    state: TrainingState, alone: Communicator, corpus: Corpus, windows: Sequence[int], seq: int, tokens: int
) -> None:
    text = torch.from_numpy(np.stack([corpus.window(one, seq) for one in windows]).astype(np.int64))
    splits = tuple(np.ones((state.shape.experts, 1)) for _ in state.shape.mixtures)
    state.model.zero_grad()
    logits = state.model(text[:, :-1], StepContext(alone, splits, tokens))
    targets = text[:, 1:].reshape(-1)
    loss = F.cross_entropy(logits.reshape(len(targets), -1), targets, reduction="sum") / tokens
    loss.backward()  # type: ignore[no-untyped-call]
    dense, experts = state.gradients()
    flat = torch.cat([dense, *experts.values()])
    dist.all_reduce(flat)
    parts = flat.split([len(dense), *map(len, experts.values())])  # type: ignore[no-untyped-call]
    state.apply(Gradients(parts[0], dict(zip(experts, parts[1:], strict=True))))


def _state(shape: ModelShape) -> TrainingState:
    state = TrainingState(shape, seed=0, dtype=torch.float32, lr=1e-3)
    fresh = [
        {one: fresh_expert_state(shape, mixture, one, seed=0, dtype=torch.float32) for one in range(shape.experts)}
        for mixture in range(len(shape.mixtures))
    ]
    state.hold(fresh)
    return state


def _save(state: TrainingState, path: Path, step: int) -> None:
    experts = {f"{m}.{e}": state.expert(m, e) for m, row in enumerate(state.held()) for e in row}
    write_tensors(path, {"dense": state.dense_state().float(), **experts}, document={"step": step})


def _load(state: TrainingState, path: Path) -> int:
    found = open_tensors(path)
    state.load_dense_state(found.tensor("dense").double())
    state.hold([{e: found.tensor(f"{m}.{e}") for e in row} for m, row in enumerate(state.held())])
    return found.document(dict[str, int])["step"]


def _say(record: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:5]))
