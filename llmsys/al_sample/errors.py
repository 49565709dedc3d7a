"""What can go wrong with a design that no file's format explains: too few labels, no direction, a dead labeller.

Knows no command: the messages name quantities, and `-k` where the user chose it.
"""

from llmsys.errors import BadInput, LlmsysError

__all__ = ["BudgetTooSmall", "OracleDied", "RankDeficient"]


class BudgetTooSmall(BadInput):
    """Fewer labels than the family has dimensions."""

    def __init__(self, k: int, rank: int) -> None:
        super().__init__("-k", f"{k} labels for a basis of rank {rank}", f"at least {rank} labels")
        self.k = k
        self.rank = rank

    def __reduce__(self) -> tuple[type["BudgetTooSmall"], tuple[int, int]]:  # type: ignore[override]
        return type(self), (self.k, self.rank)


class RankDeficient(BadInput):
    """Points that do not determine the fit: `where` they come from, their rank and the rank it would take."""

    def __init__(self, where: str, rank: int, needed: int) -> None:
        super().__init__(where, f"points of rank {rank}", f"rank {needed}")
        self.rank = rank
        self.needed = needed

    def __reduce__(self) -> tuple[type["RankDeficient"], tuple[str, int, int]]:  # type: ignore[override]
        return type(self), (self.where, self.rank, self.needed)


class OracleDied(LlmsysError):
    """The labeller ended, hung or answered what nobody asked; what it answered before is in the journal."""
