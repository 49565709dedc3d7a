"""The door to a run: checks it, finds what it resumes from, and lets a supervisor do it."""

from collections.abc import Iterator
from pathlib import Path

from llmsys.errors import BadInput, UsageFault
from llmsys.moe_train.allocation import usable_threshold
from llmsys.moe_train.train.checkpoint import newest_checkpoint
from llmsys.moe_train.train.coding import check_grad_codec
from llmsys.moe_train.train.config import RunConfig, RunIdentity
from llmsys.moe_train.train.corpus import read_corpus
from llmsys.moe_train.train.faults import parse_faults
from llmsys.moe_train.train.nursery import Nursery
from llmsys.moe_train.train.supervisor import Event, Supervisor

__all__ = ["Trainer"]


class Trainer:
    """A run that is known to fit: `warnings` says what was lowered."""

    def __init__(self, config: RunConfig) -> None:
        """Raises PlanError for too few slots, UsageFault for a fault list, a codec or a checkpoint of another run,
        BadInput for a corpus too short or nothing to resume.
        """
        self.config = config
        parse_faults(config.faults)
        check_grad_codec(config.grad_codec)
        threshold = usable_threshold(config.model.experts, config.workers, config.slots, config.min_replicas)
        self.warnings = []
        if threshold < config.min_replicas:
            self.warnings.append(f"{config.slots} slots a worker allow {threshold} replicas, not {config.min_replicas}")
        self._corpus = read_corpus(config.text)
        self._corpus.windows(config.seq)
        self._restore, self._step = ("", 0) if config.resume is None else self._resumed(Path(config.resume))

    def run(self, nursery: Nursery | None = None) -> Iterator[Event]:
        """Train; the events of the run. `nursery` and errors as `Supervisor.run`."""
        return Supervisor(self.config, restore=self._restore, step=self._step).run(nursery)

    def _resumed(self, directory: Path) -> tuple[str, int]:
        found, faults = newest_checkpoint(directory)
        self.warnings += [f"not resumed from: {fault}" for fault in faults]
        if found is None:
            raise BadInput(str(directory), "no whole checkpoint", "the --out directory of an earlier run")
        wanted = self.config.identity(self._corpus.digest)
        for name in RunIdentity.__struct_fields__:
            was, now = getattr(found.note.identity, name), getattr(wanted, name)
            if was != now:
                raise UsageFault(f"--resume: {name} is {now}, and was {was} in {found.path}; expected the same run")
        return str(found.path), found.note.step
