"""A plan as people and tools look at it: its lines, JSON, a Graphviz or a Mermaid graph.

Knows nothing of how plans are made.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict

from llmsys.errors import UsageFault
from llmsys.sgd_decode.plan import Plan, render

__all__ = ["VIEWS", "view"]


def _json(plan: Plan) -> str:
    return json.dumps(
        {"nodes": [asdict(node) for node in plan.nodes], "repairs": list(plan.repairs)}, ensure_ascii=False
    )


def _dot(plan: Plan) -> str:
    nodes = [
        f"  {node.id} [label={json.dumps(f'{node.id}. {node.title}', ensure_ascii=False)}];" for node in plan.nodes
    ]
    edges = [f"  {need} -> {node.id};" for node in plan.reduced().nodes for need in node.needs]
    return "\n".join(["digraph plan {", *nodes, *edges, "}"])


def _mermaid(plan: Plan) -> str:
    nodes = [f'  p{node.id}["{node.id}. {node.title.replace(chr(34), "&quot;")}"]' for node in plan.nodes]
    edges = [f"  p{need} --> p{node.id}" for node in plan.reduced().nodes for need in node.needs]
    return "\n".join(["graph TD", *nodes, *edges])


VIEWS: Mapping[str, Callable[[Plan], str]] = {"text": render, "json": _json, "dot": _dot, "mermaid": _mermaid}
"""The forms by the name that a user gives."""


def view(plan: Plan, form: str) -> str:
    """The plan in one of VIEWS. Raises UsageFault for another."""
    if form not in VIEWS:
        raise UsageFault(f"format {form!r}; expected one of {', '.join(VIEWS)}")
    return VIEWS[form](plan)
