"""Who decides, before a plan is there, whether a question is answered as a graph: nobody, labels, or the model itself.

`ByPlan` lets the plan decide. `ByLabels` is a logistic regression on hashed words, learnt from labelled questions.
`ByModel` asks for A, B or C, as Skeleton-of-Thought's router does, in our words. Knows nothing of writers.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from llmsys.artifacts import read_records
from llmsys.errors import BadInput
from llmsys.sgd_decode.answers import Question
from llmsys.sgd_decode.auto_writer import Router, Verdict
from llmsys.sgd_decode.backends import Job
from llmsys.sgd_decode.prompting import Prompts
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["ByLabels", "ByModel", "ByPlan", "Label", "Quality", "WordModel", "cross_validate", "open_router"]

WORD = re.compile(r"\w+")
FEATURES = 1 << 11
PENALTY = 0.05
FOLDS = 10
PLAN_SHARE = 0.14
MOST_LOSS = 0.03


class Label(msgspec.Struct, frozen=True):
    """A question and whether its answer's points can be written independently: 1 or 0."""

    question: str
    parallel_suitable: int


class ByPlan:
    """Both forms are begun, and the plan decides; one piece alone where step times say that this could cost too much.

    While it is written, a plan in vain makes every step as long as one of two texts. It takes about PLAN_SHARE of the
    answer's tokens, and must not take more than MOST_LOSS of its time.
    """

    def __init__(self, step_time: StepTime | None = None) -> None:
        self._dear = step_time is not None and PLAN_SHARE * (step_time.of(2) / step_time.of(1) - 1) > MOST_LOSS

    def job(self, question: Question) -> Job | None:
        """None: nobody is asked."""
        return None

    def verdict(self, question: Question, said: str) -> Verdict:
        """Both, or one piece."""
        return "plain" if self._dear else "both"


class ByLabels:
    """A graph where the words of the question are those of questions labelled so."""

    def __init__(self, model: "WordModel") -> None:
        self._model = model

    def job(self, question: Question) -> Job | None:
        """None: the model that writes is not asked."""
        return None

    def verdict(self, question: Question, said: str) -> Verdict:
        """The likelier form."""
        return "graph" if self._model.likely(question.messages[-1]["content"]) else "plain"


class ByModel:
    """A graph where the model says A or B, one piece for C and for anything else."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts

    def job(self, question: Question) -> Job | None:
        """The question about the question."""
        return self.ask(question)

    def ask(self, question: Question) -> Job:
        """What `job` gives: one letter of answer is wanted."""
        messages = self._prompts.routing(question.messages)
        return Job(f"{question.number}/route", messages, 4, tenant=question.tenant)

    def verdict(self, question: Question, said: str) -> Verdict:
        """The form that the first letter names."""
        letter = next((char for char in said.upper() if char.isalpha()), "")
        return "graph" if letter in ("A", "B") else "plain"


class WordModel:
    """Logistic regression on hashed words and pairs of neighbours, of unit length, with a quadratic penalty."""

    def __init__(self, questions: Sequence[str], labels: Sequence[int]) -> None:
        from scipy.optimize import minimize

        rows = np.stack([_features(question) for question in questions])
        signs = 2.0 * np.asarray(labels) - 1.0

        def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            margins = signs * (rows @ weights)
            pull = -signs / (1.0 + np.exp(margins))
            value = np.logaddexp(0.0, -margins).mean() + PENALTY * (weights[1:] @ weights[1:]) / 2
            slope = rows.T @ pull / len(signs)
            slope[1:] += PENALTY * weights[1:]
            return float(value), slope

        self._weights: NDArray[np.float64] = minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x

    def likely(self, question: str) -> bool:
        """Whether label 1 is the likelier one."""
        return bool(_features(question) @ self._weights > 0)


@dataclass(frozen=True, slots=True)
class Quality:
    """How often a router is right: of all, of those it sends to graphs, and of those that belong there."""

    router: str
    questions: int
    accuracy: float
    precision: float
    recall: float

    @classmethod
    def of(cls, router: str, said: Sequence[bool], labels: Sequence[int]) -> "Quality":
        """Count verdicts against labels of the same questions."""
        both = sum(yes and label == 1 for yes, label in zip(said, labels, strict=True))
        right = sum(yes == (label == 1) for yes, label in zip(said, labels, strict=True))
        return cls(router, len(labels), right / len(labels), both / max(1, sum(said)), both / max(1, sum(labels)))


def cross_validate(labels: Sequence[Label], *, seed: int = 0) -> list[bool]:
    """What a model learnt from the other FOLDS - 1 folds says of each question, in the order given."""
    folds = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    said = [False] * len(labels)
    for fold in range(FOLDS):
        kept = [label for label, at in zip(labels, folds, strict=True) if at != fold]
        if len(kept) == len(labels):
            continue
        model = WordModel([label.question for label in kept], [label.parallel_suitable for label in kept])
        for at in np.flatnonzero(folds == fold).tolist():
            said[at] = model.likely(labels[at].question)
    return said


def open_router(name: str, prompts: Prompts) -> Router | None:
    """`model`, a file of labelled questions, or `plan`: None, the plan decides.

    Raises BadInput for a file without both labels.
    """
    if name == "plan":
        return None
    if name == "model":
        return ByModel(prompts)
    labels = list(read_records(Path(name), Label))
    if {label.parallel_suitable for label in labels} != {0, 1}:
        raise BadInput(name, "not both labels", 'lines {"question": …, "parallel_suitable": 0 or 1} of both kinds')
    return ByLabels(WordModel([label.question for label in labels], [label.parallel_suitable for label in labels]))


def _features(question: str) -> NDArray[np.float64]:
    """A constant, then hashed words and pairs as a vector of unit length."""
    row = np.zeros(FEATURES + 1)
    for word in _words(question):
        row[1 + xxhash.xxh3_64_intdigest(word.encode()) % FEATURES] += 1.0
    row[1:] /= max(1.0, float(np.linalg.norm(row[1:])))
    row[0] = 1.0
    return row


def _words(question: str) -> Iterator[str]:
    words = [word.lower() for word in WORD.findall(question)]
    yield from words
    yield from (f"{first} {second}" for first, second in pairwise(words))
    yield f"length {len(words) // 8}"
