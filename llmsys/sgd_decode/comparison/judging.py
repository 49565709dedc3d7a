"""Which of two answers a judge finds better, criterion by criterion, in both orders of showing them.

Orders that disagree are a tie. The judge's words are kept with each verdict. Knows nothing of how answers are made.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from llmsys.errors import LlmsysError
from llmsys.sgd_decode.backends import Backend, Job, Message
from llmsys.sgd_decode.comparison.intervals import Interval, mean_interval, wilson
from llmsys.sgd_decode.comparison.trials import Trial
from llmsys.sgd_decode.prompting import Prompts

__all__ = ["CRITERIA", "Outcome", "Verdict", "Wins", "judge", "tally"]

CRITERIA = ("general", "relevance", "coherence", "diversity", "immersion", "integrity")
"""FastChat's overall verdict and LLMZoo's five criteria, as the paper takes them."""
JUDGE_TOKENS = 120
SAID = re.compile(rf"^\W*({'|'.join(CRITERIA)})\W*?[:=\-–]\W*(A|B|tie)\b", re.IGNORECASE | re.MULTILINE)
Outcome = Literal["win", "tie", "loss"]
FLIPPED: dict[Outcome, Outcome] = {"win": "loss", "tie": "tie", "loss": "win"}


class Verdict(msgspec.Struct, frozen=True):
    """One pair of answers to a question: what `mode` did against `base` by criterion, and the judge's words.

    unclear: criteria of which the judge said nothing that can be read, in one order or both; they are ties.
    """

    question: str
    repeat: int
    mode: str
    base: str
    outcomes: dict[str, Outcome]
    said: tuple[str, ...]
    unclear: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wins:
    """One mode against the base under one criterion. net: (wins - losses) / n with its interval over questions.

    win_low, win_high: Wilson's interval of wins among pairs that were no tie.
    """

    mode: str
    base: str
    criterion: str
    n: int
    wins: int
    losses: int
    net: Interval
    win_low: float
    win_high: float
    unclear: int


def judge(
    trials: Sequence[Trial],
    base: str,
    backend: Backend,
    prompts: Prompts,
    *,
    both_orders: bool = True,
    on_verdict: Callable[[], None] = lambda: None,
) -> list[Verdict]:
    """Judge every other mode's answers beside the base's to the same question.

    Raises LlmsysError where the judge fails.
    """
    bases = {(trial.question, trial.repeat): trial for trial in trials if trial.mode == base}
    found = []
    for trial in trials:
        other = bases.get((trial.question, trial.repeat))
        if trial.mode == base or other is None:
            continue
        shown = prompts.judging(trial.asked, trial.text, other.text)
        words = [_asked(backend, shown)]
        if both_orders:
            words.append(_asked(backend, prompts.judging(trial.asked, other.text, trial.text)))
        found.append(_verdict(trial, base, words))
        on_verdict()
    return found


def tally(verdicts: Sequence[Verdict], *, seed: int = 0) -> list[Wins]:
    """Wins by mode and criterion, in the order in which modes were judged."""
    pairs = dict.fromkeys((verdict.mode, verdict.base) for verdict in verdicts)
    return [
        _wins([verdict for verdict in verdicts if (verdict.mode, verdict.base) == pair], criterion, seed)
        for pair in pairs
        for criterion in CRITERIA
    ]


def _asked(backend: Backend, messages: list[Message]) -> str:
    backend.start(Job("judge", messages, JUDGE_TOKENS, share_prefix=False))
    words = ""
    while deltas := backend.wait():
        for delta in deltas:
            if delta.end == "error":
                raise LlmsysError(f"the judge: {delta.error}")
            words += delta.text
    return words


def _verdict(trial: Trial, base: str, words: list[str]) -> Verdict:
    """Read both orders: in the first the mode's answer is A, in the second it is B."""
    read = [_read(text) for text in words]
    outcomes: dict[str, Outcome] = {}
    for criterion in CRITERIA:
        seen = [one.get(criterion, "tie") for one in read]
        if len(seen) > 1:
            seen[1] = FLIPPED[seen[1]]
        outcomes[criterion] = seen[0] if len(set(seen)) == 1 else "tie"
    unclear = tuple(criterion for criterion in CRITERIA if not all(criterion in one for one in read))
    return Verdict(trial.question, trial.repeat, trial.mode, base, outcomes, tuple(words), unclear)


def _read(words: str) -> dict[str, Outcome]:
    """What a judge says of A by criterion; the first word on each counts."""
    found: dict[str, Outcome] = {}
    for criterion, better in SAID.findall(words):
        outcome: Outcome = "win" if better.upper() == "A" else "loss" if better.upper() == "B" else "tie"
        found.setdefault(criterion.lower(), outcome)
    return found


def _wins(verdicts: Sequence[Verdict], criterion: str, seed: int) -> Wins:
    outcomes = [(verdict.question, verdict.outcomes[criterion]) for verdict in verdicts]
    wins = sum(outcome == "win" for _, outcome in outcomes)
    losses = sum(outcome == "loss" for _, outcome in outcomes)
    by_question: dict[str, list[float]] = {}
    for question, outcome in outcomes:
        by_question.setdefault(question, []).append({"win": 1.0, "tie": 0.0, "loss": -1.0}[outcome])
    net = mean_interval(list(by_question.values()), seed=seed)
    assert net is not None
    low, high = wilson(wins, wins + losses)
    return Wins(
        mode=verdicts[0].mode,
        base=verdicts[0].base,
        criterion=criterion,
        n=len(outcomes),
        wins=wins,
        losses=losses,
        net=net,
        win_low=low,
        win_high=high,
        unclear=sum(criterion in verdict.unclear for verdict in verdicts),
    )
