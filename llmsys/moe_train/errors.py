"""What can go wrong between a plan and a step: no room for the experts, an expert without a copy, another epoch.

Knows no command: `plan` turns a PlanError into exit 65, a running trainer waits at the barrier instead.
"""

from collections.abc import Sequence

from llmsys.errors import BadInput, LlmsysError

__all__ = ["EpochChanged", "PlanError", "Unrecoverable"]

NAMED_EXPERTS = 8


class PlanError(BadInput):
    """A cluster that cannot hold every expert once: how many slots there are, how many it takes."""

    def __init__(self, experts: int, nodes: int, slots: int) -> None:
        least = -(-experts // nodes) if nodes else experts
        wrong = f"{nodes} nodes with {slots} slots each cannot hold {experts} experts"
        right = f"at least {least} slots a node" if nodes else "at least one node"
        super().__init__("--slots", wrong, right)
        self.experts = experts
        self.nodes = nodes
        self.slots = slots

    def __reduce__(self) -> tuple[type["PlanError"], tuple[int, int, int]]:  # type: ignore[override]
        return type(self), (self.experts, self.nodes, self.slots)


class Unrecoverable(LlmsysError):
    """Experts, as pairs (layer, expert), of which no living node holds a copy."""

    def __init__(self, lost: Sequence[tuple[int, int]]) -> None:
        named = ", ".join(f"layer {layer} expert {expert}" for layer, expert in lost[:NAMED_EXPERTS])
        more = f" and {len(lost) - NAMED_EXPERTS} more" if len(lost) > NAMED_EXPERTS else ""
        super().__init__(f"no living node holds {named}{more}; expected a checkpoint to go back to")
        self.lost = tuple(lost)

    def __reduce__(self) -> tuple[type["Unrecoverable"], tuple[tuple[tuple[int, int], ...]]]:
        return type(self), (self.lost,)


class EpochChanged(LlmsysError):
    """The members changed while an operation of an older epoch ran: it was interrupted and must start again."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"epoch {epoch} began")
        self.epoch = epoch

    def __reduce__(self) -> tuple[type["EpochChanged"], tuple[int]]:
        return type(self), (self.epoch,)
