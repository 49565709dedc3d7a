"""A plan: the parts of an answer, what each needs, and how hard each is; and its canonical text.

A plan whose needs name earlier lines only is acyclic by construction. Knows nothing of how a plan was written or of
models.
"""

import re
import unicodedata
from dataclasses import dataclass, field, replace

__all__ = ["MAX_LEVEL", "TITLE_CHARS", "Node", "Plan", "clean_title", "render"]

MAX_LEVEL = 5
TITLE_CHARS = 120
DRESSING = " \t*_`#~\"'“”‘’:;,.–—-/"
SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Node:
    """One part: its number, from 1 in the order of lines; the parts whose text it must see; 1 (easy) to 5 (hard)."""

    id: int
    title: str
    needs: tuple[int, ...] = ()
    level: int = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """Parts in topological line order, and the rules that were applied to get there; no parts: answer in one piece."""

    nodes: tuple[Node, ...] = ()
    repairs: tuple[str, ...] = field(default=(), compare=False)

    @property
    def single(self) -> bool:
        """Whether the answer is better written in one piece: fewer than two parts."""
        return len(self.nodes) < 2

    @property
    def depth(self) -> int:
        """Parts on the longest chain of needs."""
        depths: dict[int, int] = {}
        for node in self.nodes:
            depths[node.id] = 1 + max((depths[need] for need in node.needs), default=0)
        return max(depths.values(), default=0)

    @property
    def width(self) -> int:
        """The most parts that stand at one depth of the graph, a lower bound on how many can be written at once."""
        depths: dict[int, int] = {}
        for node in self.nodes:
            depths[node.id] = 1 + max((depths[need] for need in node.needs), default=0)
        counts = list(depths.values())
        return max((counts.count(depth) for depth in set(counts)), default=0)

    def reduced(self) -> "Plan":
        """The same order of work with fewer edges: needs that follow from other needs are left out (rule R11)."""
        reach: dict[int, frozenset[int]] = {}
        nodes = []
        for node in self.nodes:
            implied = frozenset().union(*(reach[need] for need in node.needs))
            reach[node.id] = implied | frozenset(node.needs)
            nodes.append(replace(node, needs=tuple(need for need in node.needs if need not in implied)))
        return replace(self, nodes=tuple(nodes))


def clean_title(text: str) -> str:
    """A title as plans carry it: one line, no control or direction marks, no dressing, TITLE_CHARS at most.

    >>> clean_title("**Compare | the costs**: ")
    'Compare / the costs'
    """
    visible = "".join(" " if char.isspace() else char for char in text[: 4 * TITLE_CHARS] if _shown(char))
    return SPACES.sub(" ", visible.replace("|", "/")).strip(DRESSING)[:TITLE_CHARS].strip(DRESSING)


def _shown(char: str) -> bool:
    return char.isspace() or unicodedata.category(char)[0] != "C"


def render(plan: Plan) -> str:
    """The canonical text, one line per part and `end`; `single` for a plan without parts.

    >>> print(render(Plan((Node(1, "Causes", (), 2), Node(2, "Effects", (1,), 4)))))
    1. Causes | needs - | level 2
    2. Effects | needs 1 | level 4
    end
    """
    if not plan.nodes:
        return "single"
    lines = [
        f"{node.id}. {node.title} | needs {','.join(map(str, node.needs)) or '-'} | level {node.level}"
        for node in plan.nodes
    ]
    return "\n".join([*lines, "end"])
