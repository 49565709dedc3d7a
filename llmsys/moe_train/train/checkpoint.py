"""Checkpoints that any number of workers can load: logical keys, every expert exactly once, checksums, no pickle.

Each worker writes its part beside the place (`staging`); one of them moves the parts into a directory with a manifest,
which appears whole or not at all. Keys are `mixtures.M.experts.E.MATRIX` and the names of what all hold, each with its
moments `.exp_avg` and `.exp_avg_sq`. Knows no plan beyond who holds what.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from llmsys.artifacts import TensorFile, open_directory, open_tensors, write_directory, write_tensors
from llmsys.errors import BadInput
from llmsys.moe_train.train.config import RunIdentity
from llmsys.moe_train.train.model import expert_name
from llmsys.moe_train.train.state import TrainingState

__all__ = ["Checkpoint", "CheckpointNote", "newest_checkpoint", "part_tensors", "seal", "write_part", "writers"]

KIND, VERSION = "llmsys-moe-train", 1
NOTE = "training.json"
MOMENTS = ("", ".exp_avg", ".exp_avg_sq")
KEPT = 2

Key = tuple[int, int]


class CheckpointNote(msgspec.Struct, frozen=True):
    """How far a checkpoint is: decided steps and applied ones, and of which trajectory."""

    step: int
    applied: int
    identity: RunIdentity


class Checkpoint:
    """An open checkpoint whose files fit their checksums and which holds every tensor exactly once."""

    def __init__(self, path: Path) -> None:
        """Raises BadInput that names the file at fault."""
        manifest = open_directory(path, kind=KIND, version=VERSION)
        self.path = path
        if NOTE not in manifest.files:
            raise BadInput(str(path), f"no {NOTE}", "a checkpoint of moe-train")
        try:
            self.note = msgspec.json.decode((path / NOTE).read_bytes(), type=CheckpointNote)
        except msgspec.DecodeError as error:
            raise BadInput(str(path / NOTE), str(error), "what moe-train wrote") from error
        self._where: dict[str, TensorFile] = {}
        for name in sorted(manifest.files.keys() - {NOTE}):
            part = open_tensors(path / name)
            for twice in sorted(part.tensors.keys() & self._where.keys()):
                raise BadInput(str(path / name), f"{twice} is in another part too", "every tensor once")
            self._where |= dict.fromkeys(part.tensors, part)
        self._check_experts()

    def expert(self, mixture: int, expert: int) -> Tensor:
        """The state vector of one expert."""
        shape = self.note.identity.model
        names = [expert_name(mixture, expert, matrix) for matrix, *_ in shape.matrices]
        return torch.cat([self.tensor(name + kind).reshape(-1) for kind in MOMENTS for name in names])

    def tensor(self, name: str) -> Tensor:
        """A tensor by its logical key. Raises BadInput where there is none."""
        if name not in self._where:
            raise BadInput(str(self.path), f"no tensor {name}", "a tensor of this model in one of the parts")
        return self._where[name].tensor(name)

    def load_dense(self, state: TrainingState) -> None:
        """Copy what all hold into a state."""
        with torch.no_grad():
            for name, target in state.dense_tensors().items():
                target.copy_(self.tensor(name))
        state.applied = self.note.applied

    def _check_experts(self) -> None:
        shape = self.note.identity.model
        for mixture in range(len(shape.mixtures)):
            for expert in range(shape.experts):
                for matrix, *_ in shape.matrices:
                    for kind in MOMENTS:
                        name = expert_name(mixture, expert, matrix) + kind
                        if name not in self._where:
                            raise BadInput(str(self.path), f"no tensor {name}", "every expert in one of the parts")


def writers(columns: Sequence[Sequence[Sequence[int]]], holders: Sequence[int], experts: int) -> dict[Key, int]:
    """Who writes which expert: of its holders the one with fewest so far, among equals the first."""
    busy = dict.fromkeys(holders, 0)
    found = {}
    for mixture, layer in enumerate(columns):
        for expert in range(experts):
            able = [worker for worker, column in zip(holders, layer, strict=True) if expert in column]
            chosen = min(able, key=lambda worker: busy[worker])
            busy[chosen] += 1
            found[mixture, expert] = chosen
    return found


def part_tensors(state: TrainingState, experts: Sequence[Key], *, dense: bool) -> dict[str, Tensor]:
    """A copy of what one worker writes, by logical key."""
    found = {name: one.clone() for name, one in state.dense_tensors().items()} if dense else {}
    sizes = [(name, rows, columns) for name, rows, columns in state.shape.matrices]
    for mixture, expert in experts:
        flat = state.expert(mixture, expert)
        parts = iter(torch.split(flat, [rows * columns for _, rows, columns in sizes] * len(MOMENTS)))
        for kind in MOMENTS:
            for name, rows, columns in sizes:
                found[expert_name(mixture, expert, name) + kind] = next(parts).view(rows, columns).clone()
    return found


def write_part(out: Path, step: int, epoch: int, worker: int, tensors: Mapping[str, Tensor]) -> None:
    """Leave one worker's tensors in the staging directory of a step and epoch."""
    staging = _staging(out, step, epoch)
    staging.mkdir(parents=True, exist_ok=True)
    if tensors:
        write_tensors(staging / f"part-{worker:05d}.safetensors", dict(tensors))


def seal(out: Path, step: int, epoch: int, note: CheckpointNote) -> Path:
    """Put a checkpoint of all parts in place and remove all but the newest two. Returns where it is."""
    staging, target = _staging(out, step, epoch), out / "checkpoints" / f"step-{step:09d}"
    target.parent.mkdir(exist_ok=True)
    with write_directory(target, kind=KIND, version=VERSION, overwrite=True) as fresh:
        for part in sorted(staging.iterdir()):
            part.rename(fresh / part.name)
        (fresh / NOTE).write_bytes(msgspec.json.encode(note))
    for old in _places(out)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    for left in (out / "staging").iterdir():
        if int(left.name.split("-")[1]) <= step:
            shutil.rmtree(left, ignore_errors=True)
    return target


def newest_checkpoint(out: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint below `out` that is whole, and what is wrong with newer ones."""
    faults: list[str] = []
    for path in _places(out):
        try:
            return Checkpoint(path), faults
        except (BadInput, OSError) as error:
            faults.append(str(error))
    return None, faults


def _places(out: Path) -> list[Path]:
    """Checkpoints, newest first."""
    return sorted((out / "checkpoints").glob("step-?????????"), reverse=True)


def _staging(out: Path, step: int, epoch: int) -> Path:
    return out / "staging" / f"step-{step:09d}-e{epoch}"
