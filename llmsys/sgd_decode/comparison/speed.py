"""What each mode took, beside the first: seconds per answer token, because a shorter answer is no speed-up.

Knows nothing of texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from llmsys.sgd_decode.comparison.intervals import Interval, ratio_interval
from llmsys.sgd_decode.comparison.trials import Trial, by_question

__all__ = ["ModeReport", "mode_reports"]


@dataclass(frozen=True, slots=True)
class ModeReport:
    """One mode over its trials: seconds are per question, tokens are sums. graphs: answers written as a graph.

    speed_up: of the rate in answer tokens per second over the first mode's, with its interval; faults: answers with a
    part missing. prefill_saved: share of prompt tokens that were found computed.
    """

    mode: str
    trials: int
    graphs: int
    plan_s: float
    median_s: float
    mean_s: float
    answer_tokens: int
    plan_tokens: int
    billed_tokens: int
    tok_s: float
    speed_up: Interval | None
    prefill_saved: float
    faults: int


def mode_reports(trials: Sequence[Trial], modes: Sequence[str], *, seed: int = 0) -> list[ModeReport]:
    """A report per mode that has trials, each beside the first of `modes`."""
    return [_report(trials, mode, modes[0], seed) for mode in modes if any(trial.mode == mode for trial in trials)]


def _report(trials: Sequence[Trial], mode: str, base: str, seed: int) -> ModeReport:
    own = [trial for trial in trials if trial.mode == mode]
    total_s, tokens = sum(trial.total_s for trial in own), sum(trial.answer_tokens for trial in own)
    saved, computed = sum(trial.prefill_saved for trial in own), sum(trial.prefill for trial in own)
    return ModeReport(
        mode=mode,
        trials=len(own),
        graphs=sum(trial.written_as != "ar" for trial in own),
        plan_s=fmean(trial.plan_s for trial in own),
        median_s=median(trial.total_s for trial in own),
        mean_s=total_s / len(own),
        answer_tokens=tokens,
        plan_tokens=sum(trial.plan_tokens for trial in own),
        billed_tokens=sum(trial.billed_tokens for trial in own),
        tok_s=tokens / total_s if total_s else 0.0,
        speed_up=None if mode == base else _speed_up(trials, mode, base, seed),
        prefill_saved=saved / max(1, saved + computed),
        faults=sum(trial.failed for trial in own),
    )


def _speed_up(trials: Sequence[Trial], mode: str, base: str, seed: int) -> Interval | None:
    """Seconds that the base would take at its own rate for this mode's tokens, over this mode's seconds."""
    questions = list(dict.fromkeys(trial.question for trial in trials))
    above, below = [], []
    for theirs, ours in zip(by_question(trials, base, questions), by_question(trials, mode, questions), strict=True):
        base_tokens = sum(trial.answer_tokens for trial in theirs)
        if not base_tokens or not ours:
            continue
        rate_s = sum(trial.total_s for trial in theirs) / base_tokens
        above.append([rate_s * trial.answer_tokens for trial in ours])
        below.append([trial.total_s for trial in ours])
    return ratio_interval(above, below, seed=seed)
