"""A comparison from its questions to its figures, and from a file of answers that were kept.

Knows nothing of options.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from llmsys.artifacts import read_records, replace_file
from llmsys.errors import BadInput, UsageFault
from llmsys.sgd_decode.answers import Question
from llmsys.sgd_decode.backends import Backend
from llmsys.sgd_decode.comparison.fit import Fit, Scorer, conditional_fit, whole_fit
from llmsys.sgd_decode.comparison.judging import Verdict, Wins, judge, tally
from llmsys.sgd_decode.comparison.speed import ModeReport, mode_reports
from llmsys.sgd_decode.comparison.structure import StructureReport, structure_reports
from llmsys.sgd_decode.comparison.trials import Trial, run_trials
from llmsys.sgd_decode.engine_backend import EngineBackend
from llmsys.sgd_decode.opening import EMBEDDED
from llmsys.sgd_decode.prompting import Prompts
from llmsys.sgd_decode.settings import DecodeSettings

__all__ = ["Comparison", "Measures", "Saved", "compare", "compare_saved", "measures_of"]


class Saved(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of a file of answers: a trial, or a verdict on two of them."""

    trial: Trial | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured besides speed. score: a model's likelihood, judge: who compares; None for neither."""

    structure: bool = True
    score: Scorer | None = None
    judge: Backend | None = None
    both_orders: bool = True
    prompts: Prompts | None = None


def measures_of(
    how: str, backend: Backend | None, open_one: Callable[[str], Backend], *, both_orders: bool = True
) -> Measures:
    """What a user asks to be measured: `none`, `metrics`, or the name of a model that judges, which adds metrics.

    backend: the model whose likelihoods count, where it tells them. Raises UsageFault for a judge of 135M parameters.
    """
    if how == "none":
        return Measures(structure=False)
    score = backend.score if isinstance(backend, EngineBackend) else None
    if how == "metrics":
        return Measures(score=score)
    if how == EMBEDDED:
        raise UsageFault("--judge embedded: a model of 135M parameters judges nothing; expected URL#model or DIR")
    return Measures(score=score, judge=open_one(how), both_orders=both_orders)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All figures. ran: which kinds of quality measures there are, in words; `modes[0]` is what others are beside."""

    modes: tuple[ModeReport, ...]
    structure: tuple[StructureReport, ...]
    fit: tuple[Fit, ...]
    wins: tuple[Wins, ...]
    ran: tuple[str, ...]


def compare(
    questions: Sequence[Question],
    backend: Backend,
    settings: Sequence[DecodeSettings],
    measures: Measures,
    *,
    repeat: int = 1,
    save: Path | None = None,
    seed: int = 0,
    on_answer: Callable[[], None] = lambda: None,
) -> Comparison:
    """Answer the questions in every mode, measure, and keep answers and verdicts in `save`.

    The file holds the answers before a judge is asked, so that a judge that fails loses none of them.
    """
    trials = run_trials(questions, backend, settings, repeat=repeat, on_answer=on_answer)
    return _measured(trials, [], measures, save, seed)


def compare_saved(source: Path, measures: Measures, *, save: Path | None = None, seed: int = 0) -> Comparison:
    """The figures of answers that were kept; a judge judges anew, without one the kept verdicts count.

    Raises BadInput for a file without answers.
    """
    records = list(read_records(source, Saved))
    trials = [record.trial for record in records if record.trial is not None]
    if not trials:
        raise BadInput(str(source), "no answers", "a file that `compare --save` wrote")
    return _measured(trials, [record.verdict for record in records if record.verdict is not None], measures, save, seed)


def _measured(
    trials: Sequence[Trial], verdicts: Sequence[Verdict], measures: Measures, save: Path | None, seed: int
) -> Comparison:
    modes = list(dict.fromkeys(trial.mode for trial in trials))
    prompts = measures.prompts or Prompts.load()
    _keep(save, trials, [])
    if measures.judge is not None:
        verdicts = judge(trials, modes[0], measures.judge, prompts, both_orders=measures.both_orders)
    _keep(save, trials, verdicts)
    structure = structure_reports(trials, modes, seed=seed) if measures.structure else []
    fits = [
        Fit(
            mode,
            whole_fit(trials, mode, measures.score, seed=seed),
            conditional_fit(trials, mode, measures.score, prompts, seed=seed),
        )
        for mode in modes
        if measures.score is not None
    ]
    wins = tally(verdicts, seed=seed)
    ran = [name for name, found in (("structure", structure), ("fit", fits), ("judge", wins)) if found]
    return Comparison(
        tuple(mode_reports(trials, modes, seed=seed)), tuple(structure), tuple(fits), tuple(wins), tuple(ran)
    )


def _keep(save: Path | None, trials: Sequence[Trial], verdicts: Sequence[Verdict]) -> None:
    if save is None:
        return
    lines = [*(Saved(trial=trial) for trial in trials), *(Saved(verdict=verdict) for verdict in verdicts)]
    with replace_file(save) as file:
        file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
