"""How likely the model finds what was written: whether a part fits its parents, and an answer its question.

A part that is likelier after its parents' texts than without them shows that forwarding carries information; how good
either is, it does not show. Knows nothing of how answers are made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmsys.sgd_decode.backends import Message
from llmsys.sgd_decode.comparison.intervals import Interval, mean_interval, ratio_interval
from llmsys.sgd_decode.comparison.trials import Trial, by_question
from llmsys.sgd_decode.plan import Node, Plan, render
from llmsys.sgd_decode.prompting import Prompts, said

__all__ = ["Fit", "Scorer", "conditional_fit", "whole_fit"]

Scorer = Callable[[Sequence[Message], str], tuple[float, int]]
"""Negative log-likelihood of a text as an answer to a conversation, in nats, and its tokens."""


@dataclass(frozen=True, slots=True)
class Fit:
    """One mode, in nats per token with 95 % intervals over questions.

    whole: of answers, after the bare question. forwarding: of parts with parents, after question, plan and parents,
    less the same without the parents; negative where forwarding carries information, None without such parts.
    """

    mode: str
    whole: Interval | None
    forwarding: Interval | None


def whole_fit(trials: Sequence[Trial], mode: str, score: Scorer, *, seed: int = 0) -> Interval | None:
    """Nats per token of a mode's answers as answers to the bare question."""
    above, below = [], []
    for group in by_question(trials, mode, list(dict.fromkeys(trial.question for trial in trials))):
        scores = [score([said("user", trial.asked)], trial.text) for trial in group if trial.text.strip()]
        above.append([nats for nats, _ in scores])
        below.append([float(tokens) for _, tokens in scores])
    return ratio_interval(above, below, seed=seed)


def conditional_fit(
    trials: Sequence[Trial], mode: str, score: Scorer, prompts: Prompts, *, seed: int = 0
) -> Interval | None:
    """Mean over parts with parents of nats per token with the parents' texts less those without; paired."""
    groups = by_question(trials, mode, list(dict.fromkeys(trial.question for trial in trials)))
    return mean_interval(
        [[gain for trial in group for gain in _gains(trial, score, prompts)] for group in groups], seed=seed
    )


def _gains(trial: Trial, score: Scorer, prompts: Prompts) -> list[float]:
    """What parents' texts change, part by part."""
    nodes = {part.id: Node(part.id, part.title, part.needs) for part in trial.parts}
    texts = {part.id: part.text for part in trial.parts}
    planned = render(Plan(tuple(nodes.values()))).removesuffix("\nend")
    planning = prompts.planning([said("user", trial.asked)], max_nodes=len(nodes))
    before = [*planning, said("assistant", planned)]
    found = []
    for node in nodes.values():
        parents = [(nodes[need], texts[need]) for need in node.needs if texts[need].strip()]
        if not parents or not texts[node.id].strip():
            continue
        seeing, tokens = score(prompts.writing(before, trial.asked, node, parents), texts[node.id])
        blind, _ = score(prompts.writing(before, trial.asked, node, []), texts[node.id])
        found.append((seeing - blind) / tokens)
    return found
