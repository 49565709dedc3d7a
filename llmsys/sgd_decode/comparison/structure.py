"""What the form of an answer says without a judge: repetition, coverage of titles, numbers that contradict each other.

None of these says that an answer is good. Knows nothing of models.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from llmsys.sgd_decode.comparison.intervals import Interval, mean_interval
from llmsys.sgd_decode.comparison.trials import Trial, by_question

__all__ = ["Structure", "StructureReport", "rouge_l", "structure_of", "structure_reports"]

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
COUNTED = re.compile(r"(?<![\d.,])(\d+(?:[.,]\d+)*)\s*([^\W\d_]+)")
GRAM = 4
SHORT_WORD = 4
"""Letters of the shortest word that a title is about; shorter ones are mostly the grammar's."""


@dataclass(frozen=True, slots=True)
class Structure:
    """One answer. redundancy: mean ROUGE-L (F1) between its parts, or paragraphs where it has none. distinct: share of
    its 4-grams that stand once. coverage: share of its titles' words found in their parts. contradictions: numbers of a
    part that differ from what the part it needs says of the same noun."""

    redundancy: float | None
    distinct: float | None
    coverage: float | None
    contradictions: int


@dataclass(frozen=True, slots=True)
class StructureReport:
    """Means over a mode's answers, with 95 % intervals over questions; contradictions are per answer."""

    mode: str
    redundancy: Interval | None
    distinct: Interval | None
    coverage: Interval | None
    contradictions: Interval | None


def structure_of(trial: Trial) -> Structure:
    """Measure one answer."""
    pieces = [part.text for part in trial.parts] or [piece for piece in trial.text.split("\n\n") if piece.strip()]
    words = [_words(piece) for piece in pieces]
    overlaps = [rouge_l(first, second) for first, second in combinations(words, 2)]
    flat = [word for piece in words for word in piece]
    grams = [tuple(flat[at : at + GRAM]) for at in range(len(flat) - GRAM + 1)]
    titled = [(_content(part.title), set(_words(part.text))) for part in trial.parts]
    covered = [len(title & text) / len(title) for title, text in titled if title]
    return Structure(
        redundancy=fmean(overlaps) if overlaps else None,
        distinct=len(set(grams)) / len(grams) if grams else None,
        coverage=fmean(covered) if covered else None,
        contradictions=_contradictions(trial),
    )


def structure_reports(trials: Sequence[Trial], modes: Sequence[str], *, seed: int = 0) -> list[StructureReport]:
    """A report per mode."""
    questions = list(dict.fromkeys(trial.question for trial in trials))
    found = []
    for mode in modes:
        groups = [[structure_of(trial) for trial in group] for group in by_question(trials, mode, questions)]

        def over(name: str, groups: Sequence[Sequence[Structure]] = groups) -> Interval | None:
            values = [[value for one in group if (value := getattr(one, name)) is not None] for group in groups]
            return mean_interval(values, seed=seed)

        found.append(
            StructureReport(mode, over("redundancy"), over("distinct"), over("coverage"), over("contradictions"))
        )
    return found


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """F1 of the longest common subsequence of two lists of words (Lin 2004); 0 where one is empty.

    >>> rouge_l("the cat sat".split(), "the cat ran".split())
    0.6666666666666666
    """
    if not first or not second:
        return 0.0
    row = [0] * (len(second) + 1)
    for word in first:
        before, row = row, [0]
        for at, other in enumerate(second):
            row.append(before[at] + 1 if word == other else max(before[at + 1], row[at]))
    return 2 * row[-1] / (len(first) + len(second))


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def _content(title: str) -> set[str]:
    return {word for word in _words(title) if len(word) >= SHORT_WORD}


def _contradictions(trial: Trial) -> int:
    """Nouns to which a part gives numbers, and the part that it needs only others."""
    counted = {part.id: _numbers(part.text) for part in trial.parts}
    return sum(
        not counted[part.id][noun] & counted[need][noun]
        for part in trial.parts
        for need in part.needs
        for noun in counted[part.id].keys() & counted[need].keys()
    )


def _numbers(text: str) -> dict[str, set[str]]:
    """The numbers that stand before each noun."""
    found: dict[str, set[str]] = {}
    pairs: Iterable[tuple[str, str]] = COUNTED.findall(text)
    for number, noun in pairs:
        found.setdefault(noun.lower(), set()).add(number.replace(",", ""))
    return found
