"""Which part is written next: of the ready parts, the one with the longest chain of work still behind it.

Pure state: parts come as their lines are written, start and end as the caller says. Knows neither time nor models.
"""

from collections.abc import Callable

from llmsys.sgd_decode.plan import Node

__all__ = ["Scheduler"]


class Scheduler:
    """Parts waiting, running and done; `estimate` gives the tokens that a part may take.

    A part is ready when all it needs is done. Ready parts start by largest remaining critical path, ties by line.
    """

    def __init__(self, estimate: Callable[[Node], float]) -> None:
        self._estimate = estimate
        self._nodes: dict[int, Node] = {}
        self._children: dict[int, list[int]] = {}
        self._held: set[int] = set()
        self.running: set[int] = set()
        self.done: set[int] = set()

    def add(self, node: Node, *, held: bool = False) -> None:
        """A part whose line is written; one that is held waits for `release`.

        Raises ValueError for a number that is known, or a need that is not.
        """
        if node.id in self._nodes or not all(need in self._nodes for need in node.needs):
            raise ValueError(f"part {node.id} needs {node.needs} among {sorted(self._nodes)}; expected earlier parts")
        self._nodes[node.id] = node
        self._children[node.id] = []
        if held:
            self._held.add(node.id)
        for need in node.needs:
            self._children[need].append(node.id)

    def release(self) -> None:
        """Let every part that is held start when it is ready."""
        self._held.clear()

    def take(self, free: int) -> list[Node]:
        """Start at most `free` ready parts; return them in the order of their importance."""
        if free <= 0:
            return []
        lengths = self._critical_paths()
        ready = sorted(self.ready(), key=lambda node: (-lengths[node.id], node.id))[:free]
        self.running.update(node.id for node in ready)
        return ready

    def ready(self) -> list[Node]:
        """Parts that could start now, in the order of lines."""
        blocked = self.running | self.done | self._held
        waiting = (node for node in self._nodes.values() if node.id not in blocked)
        return [node for node in waiting if self.done.issuperset(node.needs)]

    def finish(self, node_id: int) -> None:
        """A running part has ended. Raises ValueError for one that is not running."""
        if node_id not in self.running:
            raise ValueError(f"part {node_id} is not running; running are {sorted(self.running)}")
        self.running.remove(node_id)
        self.done.add(node_id)

    @property
    def idle(self) -> bool:
        """Whether every known part is done."""
        return len(self.done) == len(self._nodes)

    def _critical_paths(self) -> dict[int, float]:
        """Estimated tokens from the start of each part to the end of the longest chain behind it."""
        lengths: dict[int, float] = {}
        for node in reversed(self._nodes.values()):
            behind = max((lengths[child] for child in self._children[node.id]), default=0.0)
            lengths[node.id] = self._estimate(node) + behind
        return lengths
