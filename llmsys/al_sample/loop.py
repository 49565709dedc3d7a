"""Choose, ask, fit, look at the estimated excess, choose again: labels in rounds until they are enough.

Every round draws from the whole pool by pivotal sampling with leverage marginals; labels that are there already cost
nothing. All rounds are used together by the balance heuristic: a point's weight is (rounds that chose it)/(Σ of its
marginals over rounds), which is unbiased. Points that the labeller refuses leave the pool, so that the fit is one for
the points that it answers. Rounds depend on the seed and the answers alone: a journal replays them. Knows no process.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llmsys.al_sample.design import Design
from llmsys.al_sample.errors import BudgetTooSmall
from llmsys.al_sample.frames import Frame, Scores, frame_of, score_points
from llmsys.al_sample.model import Fit, fit_labels
from llmsys.al_sample.oracle import Answer
from llmsys.al_sample.pivotal import marginals, pivotal
from llmsys.al_sample.records import Labels
from llmsys.errors import BadInput, LlmsysError, UsageFault

__all__ = ["ActiveLoop", "Goal", "Progress", "parse_until"]

FIRST_PER_RANK = 4
FRUITLESS_ROUNDS = 50

Floats = NDArray[np.float64]
Ask = Callable[[Sequence[int]], Iterable[Answer]]


@dataclass(frozen=True, slots=True)
class Goal:
    """Stop at `labels` labels, or sooner once the estimated excess (upper end of its interval) is at most `excess`."""

    labels: int
    excess: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How a run stands after a round. `reached` is whether the excess asked for was reached, None without one."""

    rounds: int
    labels: int
    refused: int
    excess: float
    excess_high: float
    reached: bool | None


def parse_until(text: str) -> float:
    """The number of `excess:X`. Raises UsageFault for anything else.

    >>> parse_until("excess:0.1")
    0.1
    """
    name, _, number = text.partition(":")
    try:
        value = float(number) if name == "excess" else -1.0
    except ValueError:
        value = -1.0
    if not 0 < value < np.inf:
        raise UsageFault(f"--until {text!r}; expected excess:X with X above 0, such as excess:0.1")
    return value


@dataclass(eq=False)
class ActiveLoop:
    """A run over a design: `batch` labels per round (0: 4 per dimension for a goal of excess, else all at once)."""

    design: Design
    goal: Goal
    batch: int = 0
    seed: int = 0
    frame: Frame = field(init=False)
    answers: dict[int, Answer] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.frame = frame_of(self.design)
        if self.goal.labels < self.frame.rank:
            raise BudgetTooSmall(self.goal.labels, self.frame.rank)
        self._scores: Scores = score_points(self.design, self.frame, coordinates=True, seed=self.seed)
        self._times = np.zeros(len(self.design))
        self._chances = np.zeros(len(self.design))
        self._missed = np.ones(len(self.design))

    def run(
        self, ask: Ask, known: dict[int, Answer], on_round: Callable[[Progress], None] | None = None
    ) -> tuple[Fit, Progress]:
        """Ask until the goal is reached; what is `known` is not asked for.

        Raises LlmsysError if the labeller answers too little to fit, and what `ask` raises.
        """
        fruitless, rounds = 0, 0
        while True:
            before = len(self._labelled())
            rounds += 1
            for answer in self._round(rounds, ask, known):
                self.answers[answer.index] = answer
            labels = len(self._labelled())
            fruitless = fruitless + 1 if labels == before else 0
            exhausted = len(self.answers) >= np.count_nonzero(self._scores.leverage) or fruitless >= FRUITLESS_ROUNDS
            if labels < self.frame.rank and not exhausted:
                continue
            if labels < self.frame.rank:
                raise LlmsysError(
                    f"{labels} labels and {len(self.answers) - labels} refusals for rank {self.frame.rank}"
                )
            fit = fit_labels(self.design, self.frame, self.labels())
            progress = self._progress(rounds, fit)
            if on_round is not None:
                on_round(progress)
            if progress.reached or labels >= self.goal.labels or exhausted:
                return fit, progress

    def labels(self) -> Labels:
        """All labels so far, with the weights of the balance heuristic."""
        index = np.array(sorted(self._labelled()), np.int64)
        y = [self.answers[row].y for row in index.tolist()]
        sizes = {len(one) if isinstance(one, list) else 1 for one in y}
        if len(sizes) > 1:
            raise BadInput("oracle", f"labels of {sorted(sizes)} numbers", "one number of outputs")
        weight = self.design.density(index) * self._times[index] / self._chances[index]
        values = np.array(y, np.float64).reshape(len(index), -1)
        ones = np.ones(len(index), np.int64)
        return Labels(index, weight, 1 - self._missed[index], values, ones, len(self.answers) - len(index))

    def _labelled(self) -> list[int]:
        return [row for row, answer in self.answers.items() if answer.y is not None]

    def _round(self, number: int, ask: Ask, known: dict[int, Answer]) -> Iterable[Answer]:
        """Draw one round and give the answers that it lacks, known ones first."""
        open_scores = self._scores.leverage.copy()
        open_scores[[row for row, answer in self.answers.items() if answer.y is None]] = 0.0
        default = FIRST_PER_RANK * self.frame.rank if self.goal.excess is not None else self.goal.labels
        size = min(self.batch or default, self.goal.labels - len(self._labelled()))
        chance = marginals(open_scores, size)
        chosen = pivotal(chance, self._scores.coordinates, np.random.default_rng([self.seed, 3, number]))
        self._times[chosen] += 1
        self._chances += chance
        self._missed *= 1 - chance
        fresh = [row for row in chosen.tolist() if row not in self.answers]
        yield from (known[row] for row in fresh if row in known)
        missing = [row for row in fresh if row not in known]
        if missing:
            yield from ask(missing)

    def _progress(self, rounds: int, fit: Fit) -> Progress:
        assert fit.excess is not None
        wanted = self.goal.excess
        reached = None if wanted is None else fit.excess.high <= wanted
        refused = len(self.answers) - fit.labels
        return Progress(rounds, fit.labels, refused, fit.excess.excess, fit.excess.high, reached)
