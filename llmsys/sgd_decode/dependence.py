"""Whether a part sees what it needs: every part finds a fact, and a part is right only if it sees its parents' facts.

Recorded texts in virtual time, so the shares are exact. Knows nothing of real models.
"""

from collections.abc import Sequence

from llmsys.sgd_decode.answers import Question
from llmsys.sgd_decode.driver import answer_all, writer_for
from llmsys.sgd_decode.plan import Node, Plan, render
from llmsys.sgd_decode.prompting import said
from llmsys.sgd_decode.script_backend import Match, Rule, ScriptBackend
from llmsys.sgd_decode.settings import DecodeSettings

__all__ = ["dependence"]

LOST = "A needed fact is missing."


def dependence(plans: Sequence[Plan], modes: Sequence[str]) -> dict[str, float]:
    """Share of parts with needs that are right, by mode; 1 where no part has needs.

    A part whose parent is wrong cannot be right: the fact is then in no text.
    """
    return {mode: _share([right for plan in plans for right in _rights(plan, mode)]) for mode in modes}


def _rights(plan: Plan, mode: str) -> list[bool]:
    """For every part with needs, whether it found all of them."""
    backend = ScriptBackend(_script(plan))
    asked = Question(0, "dependence", [said("user", "Why?")])
    (answer,) = answer_all([asked], backend, writer_for(DecodeSettings(mode=mode)))
    found = {part.id: part.text for part in answer.parts}
    return [found.get(node.id) == _fact(node) for node in plan.nodes if node.needs]


def _script(plan: Plan) -> list[Rule]:
    """The plan, a skeleton of the same titles, and parts that are lost without the facts that they need."""
    outline = "\n".join(f"{node.id}. {node.title}" for node in plan.nodes)
    rules = [Rule(Match("Write an outline"), render(plan)), Rule(Match("Give the skeleton"), outline)]
    facts = {node.id: _fact(node) for node in plan.nodes}
    for node in plan.nodes:
        for asked in (f"about part {node.id},", f"point {node.id} of"):
            rules += [Rule(Match(asked, lacks=facts[need]), LOST) for need in node.needs]
            rules.append(Rule(Match(asked), facts[node.id]))
    return rules


def _fact(node: Node) -> str:
    return f"Part {node.id} found the number {7919 * node.id}."


def _share(rights: Sequence[bool]) -> float:
    return sum(rights) / len(rights) if rights else 1.0
