"""One question in one mode, answered: what is kept of it, so that it can be measured and judged later.

Knows nothing of measures.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec

from llmsys.sgd_decode.answers import Answer, Question
from llmsys.sgd_decode.backends import Backend
from llmsys.sgd_decode.driver import answer_all, writer_for
from llmsys.sgd_decode.settings import DecodeSettings

__all__ = ["Trial", "TrialPart", "by_question", "run_trials"]


class TrialPart(msgspec.Struct, frozen=True):
    """A part as it was written."""

    id: int
    title: str
    needs: tuple[int, ...]
    text: str
    tokens: int


class Trial(msgspec.Struct, frozen=True):
    """An answer: `mode` is the one asked for, `written_as` the one that wrote it. Seconds and tokens as in `Answer`.

    billed_tokens: what a server that bills every prompt anew would bill, prompts and all that was written.
    """

    mode: str
    question: str
    repeat: int
    asked: str
    written_as: str
    text: str
    parts: tuple[TrialPart, ...]
    plan_s: float
    total_s: float
    plan_tokens: int
    answer_tokens: int
    prefill: int
    prefill_saved: int
    billed_tokens: int
    failed: bool
    category: str = ""


def run_trials(
    questions: Sequence[Question],
    backend: Backend,
    settings: Sequence[DecodeSettings],
    *,
    repeat: int = 1,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Trial]:
    """Answer every question in every mode, one at a time, `repeat` times with seeds that follow each other.

    Modes take turns question by question, so that a machine that slows down slows all of them down.
    """
    makers = [
        (chosen.mode, [writer_for(replace(chosen, seed=chosen.seed + again)) for again in range(repeat)])
        for chosen in settings
    ]
    found: list[Trial] = []
    for again in range(repeat):
        for question in questions:
            for mode, make in makers:
                named = replace(question, number=len(found))  # jobs are named by it
                (answer,) = answer_all([named], backend, make[again])
                found.append(_trial(mode, answer, again))
                on_answer()
    return found


def by_question(trials: Sequence[Trial], mode: str, questions: Sequence[str]) -> list[list[Trial]]:
    """The trials of a mode, grouped in the order of questions."""
    groups: dict[str, list[Trial]] = {question: [] for question in questions}
    for trial in trials:
        if trial.mode == mode:
            groups[trial.question].append(trial)
    return list(groups.values())


def _trial(mode: str, answer: Answer, repeat: int) -> Trial:
    tokens = answer.tokens
    return Trial(
        mode=mode,
        question=answer.question.id,
        repeat=repeat,
        asked=answer.question.messages[-1]["content"],
        written_as=answer.mode,
        text=answer.text,
        parts=tuple(TrialPart(part.id, part.title, part.needs, part.text, part.tokens) for part in answer.parts),
        plan_s=answer.plan_s,
        total_s=answer.total_s,
        plan_tokens=tokens.plan,
        answer_tokens=tokens.answer,
        prefill=tokens.prefill,
        prefill_saved=tokens.prefill_saved,
        billed_tokens=tokens.prefill + tokens.prefill_saved + tokens.plan + tokens.answer + tokens.dropped,
        failed=answer.failed,
        category=answer.question.category,
    )
