"""One model on one engine, mode by mode: each answer beside an answer in one piece of just as many tokens.

A shorter answer is not a speed-up, so the plain answer is made to take as many tokens, right after, on the same engine.
Peers of transformers write fewer tokens and are compared by rate. Knows nothing of quality.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from llmsys.sgd_decode.answers import Answer, Question
from llmsys.sgd_decode.backends import Backend, Job
from llmsys.sgd_decode.driver import answer_all, writer_for
from llmsys.sgd_decode.peers import Peer
from llmsys.sgd_decode.prompting import said
from llmsys.sgd_decode.settings import DecodeSettings
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["EngineRow", "ModeSpeed", "PeerSpeed", "bench_modes", "bench_peer", "plain_seconds", "speeds"]

WARM_UP = Question(-1, "warm-up", [said("user", "Why is the sky blue?")])
"""Answered first on every engine: tables of the grammar and compiled loops are made once."""


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One question in one mode; ar_s: the plain answer of as many tokens. bound: share of the least possible time."""

    mode: str
    question: str
    category: str
    parts: int
    plan_tokens: int
    answer_tokens: int
    total_s: float
    ar_s: float
    bound: float | None
    prefill: int
    prefill_saved: int

    @property
    def speed_up(self) -> float:
        """How many times faster than the plain answer of as many tokens."""
        return self.ar_s / self.total_s


@dataclass(frozen=True, slots=True)
class ModeSpeed:
    """One mode over its questions, or over those of a category ("" for all); seconds and rates are of answers.

    split: questions whose answers became several parts. of_bound: share of the least possible time.
    """

    mode: str
    category: str
    questions: int
    split: int
    median_s: float
    mean_s: float
    tok_s: float
    ar_tok_s: float
    speed_up: float
    split_speed_up: float | None
    plan_share: float
    prefill_saved: float
    of_bound: float | None


@dataclass(frozen=True, slots=True)
class PeerSpeed:
    """How fast a peer writes a plain answer; ours_ratio: our plain rate over its rate."""

    peer: str
    tokens: int
    tok_s: float
    ours_ratio: float


def plain_seconds(backend: Backend, question: Question, tokens: int) -> float:
    """Seconds of an answer in one piece of exactly so many tokens, its prompt computed anew."""
    job = Job(f"{question.number}/plain", question.messages, tokens, min_tokens=tokens, share_prefix=False)
    started_s, ended_s, written = backend.now_s(), 0.0, 0
    backend.start(job)
    while deltas := backend.wait():
        ended_s, written = deltas[-1].t_s, written + sum(delta.tokens for delta in deltas)
    if written < tokens:
        raise RuntimeError(f"the plain answer ended after {written} tokens; expected {tokens}")
    return ended_s - started_s


def bench_modes(
    open_one: Callable[[], Backend],
    questions: Sequence[Question],
    modes: Sequence[str],
    settings: Callable[[str, StepTime | None], DecodeSettings],
    *,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[EngineRow]:
    """Answer questions in every mode, each mode on an engine of its own, so that none finds another's prefixes."""
    rows = []
    for mode in modes:
        backend = open_one()
        chosen = settings(mode, backend.step_time())
        short = replace(chosen, node_tokens=2, answer_tokens=2, min_gain=0.0)
        list(answer_all([WARM_UP], backend, writer_for(short)))
        for question in questions:
            (answer,) = answer_all([question], backend, writer_for(chosen))
            rows.append(_row(mode, answer, plain_seconds(backend, question, answer.tokens.answer)))
            on_done(1)
        backend.close()
    return rows


def bench_peer(name: str, peer: Peer, questions: Sequence[Question], tokens: int, ours_tok_s: float) -> PeerSpeed:
    """Let a peer write `tokens` tokens for every question; its rate, prompts included."""
    started_s, written = time.perf_counter(), 0
    for question in questions:
        written += peer(question.messages, tokens)
    rate = written / (time.perf_counter() - started_s)
    return PeerSpeed(name, written, rate, ours_tok_s / rate)


def speeds(rows: Sequence[EngineRow]) -> list[ModeSpeed]:
    """Add up the rows of each mode, then of each of its categories where there are several."""
    categories = list(dict.fromkeys(row.category for row in rows))
    groups = ["", *(categories if len(categories) > 1 else [])]
    return [
        _speed(mode, group, chosen)
        for group in groups
        for mode in dict.fromkeys(row.mode for row in rows)
        if (chosen := [row for row in rows if row.mode == mode and group in ("", row.category)])
    ]


def _row(mode: str, answer: Answer, ar_s: float) -> EngineRow:
    tokens, forecast = answer.tokens, answer.forecast
    return EngineRow(
        mode=mode,
        question=answer.question.id,
        category=answer.question.category,
        parts=len(answer.parts),
        plan_tokens=tokens.plan,
        answer_tokens=tokens.answer,
        total_s=answer.total_s,
        ar_s=ar_s,
        bound=forecast.lower_bound_s / answer.total_s if forecast is not None else None,
        prefill=tokens.prefill,
        prefill_saved=tokens.prefill_saved,
    )


def _speed(mode: str, category: str, rows: list[EngineRow]) -> ModeSpeed:
    total_s, written = sum(row.total_s for row in rows), sum(row.answer_tokens for row in rows)
    split = [row for row in rows if row.parts > 1]
    split_s, bounds = sum(row.total_s for row in split), [row.bound for row in rows if row.bound is not None]
    prompts = sum(row.prefill + row.prefill_saved for row in rows)
    plan_tokens = sum(row.plan_tokens for row in rows)
    return ModeSpeed(
        mode=mode,
        category=category,
        questions=len(rows),
        split=len(split),
        median_s=median(row.total_s for row in rows),
        mean_s=total_s / len(rows),
        tok_s=written / total_s,
        ar_tok_s=written / sum(row.ar_s for row in rows),
        speed_up=sum(row.ar_s for row in rows) / total_s,
        split_speed_up=sum(row.ar_s for row in split) / split_s if split_s else None,
        plan_share=plan_tokens / max(1, plan_tokens + written),
        prefill_saved=sum(row.prefill_saved for row in rows) / max(1, prompts),
        of_bound=fmean(bounds) if bounds else None,
    )
