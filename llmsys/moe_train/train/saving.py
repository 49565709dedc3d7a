"""Which checkpoints are under way: parts that workers have written, and who puts them together. Knows no files."""

from dataclasses import dataclass, field

from llmsys.moe_train.train.messages import Saved, Seal

__all__ = ["SavingLog"]

Moment = tuple[int, int]


@dataclass(slots=True)
class SavingLog:
    """Parts told so far, by step and epoch. `members[epoch]`: whose parts make a checkpoint;
    `settled`: the last step whose checkpoint is in place or given up."""

    members: dict[int, tuple[int, ...]] = field(default_factory=dict)
    parts: dict[Moment, set[int]] = field(default_factory=dict)
    settled: int = -1

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
        return min(needed & living), Seal(part.step, part.epoch, part.applied)

    def settle(self, step: int) -> None:
        """A checkpoint is in place, or will not be."""
        self.settled = max(self.settled, step)
        self.parts = {moment: have for moment, have in self.parts.items() if moment[0] > step}
