"""Which checkpoints are under way: parts that workers have written, and who puts them together. Knows no files."""

from dataclasses import dataclass, field

from llmsys.moe_train.train.messages import Saved, Seal

__all__ = ["SavingLog"]

Moment = tuple[int, int]


@dataclass(slots=True)
class SavingLog:
    """Parts told so far, by step and epoch. `members[epoch]`: whose parts make a checkpoint."""

    members: dict[int, tuple[int, ...]] = field(default_factory=dict)
    parts: dict[Moment, set[int]] = field(default_factory=dict)
    sealing: set[int] = field(default_factory=set)
    sealed: int = -1

    def begin(self, epoch: int, members: tuple[int, ...]) -> None:
        """An epoch trains with these members."""
        self.members[epoch] = members

    def add(self, worker: int, part: Saved, living: set[int]) -> tuple[int, Seal] | None:
        """Count a part; when it was the last one: which living worker is to seal, and the order."""
        moment = (part.step, part.epoch)
        have = self.parts.setdefault(moment, set())
        have.add(worker)
        needed = set(self.members.get(part.epoch, ()))
        if not needed or have != needed or not needed & living:
            return None
        del self.parts[moment]
        self.sealing.add(part.step)
        return min(needed & living), Seal(part.step, part.epoch, part.applied)

    def pending(self, step: int) -> bool:
        """Whether a checkpoint of this step is under way."""
        return step in self.sealing or any(moment[0] == step for moment in self.parts)

    def done(self, step: int) -> None:
        """A checkpoint is in place, or given up."""
        self.sealing.discard(step)
        self.sealed = max(self.sealed, step)
        self.parts = {moment: have for moment, have in self.parts.items() if moment[0] > step}

    def forget(self, moment: Moment) -> None:
        """A part could not be written: the checkpoint will not be."""
        self.parts.pop(moment, None)
