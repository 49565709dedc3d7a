"""A plan read while it is still being written: each canonical line becomes a part as soon as its line ends.

The first line that is not the next part in canonical form ends that; the whole text is then read, with repairs, once it
is there. Knows nothing of jobs.
"""

from dataclasses import replace

from llmsys.sgd_decode.plan import Node, Plan
from llmsys.sgd_decode.repair import parse_plan

__all__ = ["PlanStream"]


class PlanStream:
    """Text in pieces; parts out, in order."""

    def __init__(self, *, max_nodes: int) -> None:
        self._max_nodes = max_nodes
        self._text = ""
        self._read = 0
        self._canonical = True
        self._nodes: list[Node] = []

    @property
    def text(self) -> str:
        """All that was written so far."""
        return self._text

    def add(self, piece: str) -> list[Node]:
        """Append text; return the parts whose lines it completed."""
        self._text += piece
        found: list[Node] = []
        while self._canonical and (end := self._text.find("\n", self._read)) >= 0:
            line, self._read = self._text[self._read : end], end + 1
            node = self._next_node(line) if line.strip() else None
            if node is not None:
                self._nodes.append(node)
                found.append(node)
            elif line.strip():
                self._canonical = False
        return found

    def close(self) -> tuple[Plan, list[Node]]:
        """The plan of the whole text, and those of its parts that `add` has not returned.

        Parts that were returned stand; a whole text that reads otherwise ends the plan with them.
        """
        plan = parse_plan(self._text, max_nodes=self._max_nodes)
        known = len(self._nodes)
        if tuple(self._nodes) != plan.nodes[:known]:
            plan = Plan(tuple(self._nodes), ("R1:what follows the first lines is no part of the plan",))
        return plan, list(plan.nodes[known:])

    def prefix(self, node: Node) -> str:
        """The plan's text up to the end of a part's own line, in the words of the planner; all of it after repairs."""
        if node not in self._nodes:
            return self._text
        lines = [line for line in self._text.split("\n") if line.strip()]
        return "".join(f"{line}\n" for line in lines[: node.id])

    def _next_node(self, line: str) -> Node | None:
        """The part of a line that is canonical and fits behind those before it, else None."""
        number = len(self._nodes) + 1
        body = line.strip()
        start, _, rest = body.partition(".")
        title, bar, _ = rest.partition("|")
        if start != str(number) or number > self._max_nodes or not (title.strip() and bar):
            return None
        plan = parse_plan("1." + rest, max_nodes=1)
        needs = [part.strip()[5:].strip() for part in body.split("|") if part.strip().startswith("needs")]
        wanted = needs[0].split(",") if needs and needs[0] != "-" else []
        if not plan.nodes or not all(need.strip().isdecimal() and 0 < int(need) < number for need in wanted):
            return None
        unique = tuple(sorted({int(need) for need in wanted}))
        return replace(plan.nodes[0], id=number, needs=unique)
