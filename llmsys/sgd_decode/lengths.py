"""How long parts get: the limit of a level, and the running mean of what parts of a level took so far.

Knows nothing of plans' order.
"""

from dataclasses import dataclass, field

from llmsys.sgd_decode.plan import Node

__all__ = ["LIMITS", "LengthBook"]

LIMITS = {1: 96, 2: 128, 3: 192, 4: 256, 5: 320}
"""Tokens of a part by level, where no limit is given."""
FIRST_GUESS = 40


@dataclass(slots=True)
class LengthBook:
    """Estimates per level, started at FIRST_GUESS tokens per level; `limit` overrules LIMITS."""

    limit: int | None = None
    _seen: dict[int, tuple[int, int]] = field(default_factory=dict)

    def first_guess(self, node: Node) -> int:
        """Tokens that a part is expected to take, whatever was seen: the same on every run."""
        return min(FIRST_GUESS * node.level, self.most(node))

    def of(self, node: Node) -> float:
        """Tokens that a part is expected to take, by what was seen so far."""
        count, total = self._seen.get(node.level, (0, 0))
        guess = total / count if count else FIRST_GUESS * node.level
        return min(float(guess), float(self.most(node)))

    def most(self, node: Node) -> int:
        """Tokens that a part may take."""
        return self.limit if self.limit is not None else LIMITS[node.level]

    def learn(self, node: Node, tokens: int) -> None:
        """Remember what a part took."""
        count, total = self._seen.get(node.level, (0, 0))
        self._seen[node.level] = (count + 1, total + tokens)
