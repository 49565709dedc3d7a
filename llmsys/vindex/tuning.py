"""How far a search must go to reach a recall, measured on the index itself with exact ground truth.

For every class of tenant sizes a sample of its queries is answered by each effort of a grid, cheapest first. The first
whose lower confidence limit reaches the recall is kept; where none does, the exact scan is. The limit is the normal one
of the mean (see `lower_limit`), at a level of 95 % for the whole grid together (Bonferroni). Half of the queries are
vectors that the tenant sees, half any others: each is left out of its own answer. What it promises holds for queries
like these. Reads no clock: the same seed keeps the same plans.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from llmsys.errors import UsageFault
from llmsys.vindex.arrays import F32, F64, I32
from llmsys.vindex.index_files import PlanRecord
from llmsys.vindex.scan import Effort, Task, answer
from llmsys.vindex.search import MAX_K
from llmsys.vindex.state import State

__all__ = ["SMALLEST", "lower_limit", "tune"]

SMALLEST = 64
CLASS_FACTOR = 8
WIDTHS = (2, 4, 10)
LEAST_WIDTHS = (20, 40, 100)
PATIENCES = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512, 1024)
LEVEL = 0.95


def tune(state: State, *, recall: float, k: int, sample: int, seed: int) -> list[PlanRecord]:
    """A plan for every class of tenant sizes from SMALLEST vectors up that has tenants, `sample` queries for each."""
    if not 0 < recall < 1 or not 1 <= k < MAX_K or sample < 1:
        right = f"0 < recall < 1, 1 <= k < {MAX_K}, sample > 0"
        raise UsageFault(f"recall {recall}, k {k}, sample {sample}; expected {right}")
    generator = np.random.default_rng(seed)
    classes: dict[int, list[str]] = {}
    for name in state.tenants():
        size = len(state.lists[name])
        if size >= SMALLEST:
            step = int(math.log(size / SMALLEST, CLASS_FACTOR) + 1e-9)
            classes.setdefault(SMALLEST * CLASS_FACTOR**step, []).append(name)
    return [
        _plan(state, from_size, _questions(state, classes[from_size], sample, generator), recall, k)
        for from_size in sorted(classes)
    ]


def lower_limit(recalls: F64, level: float) -> float:
    """The lower limit of the mean of queries' recalls [n], at a one-sided confidence level.

    The normal limit of the sample with one more query in it, of recall 0: a sample without a miss promises less than 1.

    >>> round(lower_limit(np.ones(999), 0.95), 4)
    0.9974
    """
    sample = np.append(recalls, 0.0)
    z = NormalDist().inv_cdf(level)
    return float(sample.mean() - z * sample.std(ddof=1) / math.sqrt(len(sample))) if len(recalls) else 0.0


Questions = dict[str, I32]


def _questions(state: State, names: Sequence[str], sample: int, generator: np.random.Generator) -> Questions:
    """Slots whose vectors are asked for, by tenant; tenants drawn by size."""
    sizes = np.array([len(state.lists[name]) for name in names], float)
    drawn = generator.choice(len(names), sample, p=sizes / sizes.sum())
    live = state.store.live_slots()
    questions = {}
    for number in np.unique(drawn).tolist():
        count = int((drawn == number).sum())
        own = generator.choice(state.lists[names[number]].members(), (count + 1) // 2)
        questions[names[number]] = np.concatenate([own, generator.choice(live, count // 2)])
    return questions


def _plan(state: State, from_size: int, questions: Questions, recall: float, k: int) -> PlanRecord:
    truth = {name: _answers(state, name, slots, k, None) for name, slots in questions.items()}
    widths = [max(least, times * k) for times, least in zip(WIDTHS, LEAST_WIDTHS, strict=True)]
    grid = [(width, patience) for width in widths for patience in PATIENCES]
    count = sum(len(slots) for slots in questions.values())
    level = 1 - (1 - LEVEL) / len(grid)
    for width, patience in sorted(grid, key=lambda one: (one[1] * one[0], one)):
        found = {name: _answers(state, name, slots, k, Effort(width, patience)) for name, slots in questions.items()}
        recalls = np.concatenate([_recalls(found[name], truth[name]) for name in questions])
        measured, limit = float(recalls.mean()), lower_limit(recalls, level)
        if limit >= recall:
            return PlanRecord(recall, k, from_size, width, patience, measured, limit, count)
    return PlanRecord(recall, k, from_size, 0, 0, 1.0, 1.0, count)


def _answers(state: State, name: str, asked: I32, k: int, effort: Effort | None) -> I32:
    """The k nearest slots [m, k] of the vectors asked for, each without itself."""
    queries: F32 = state.store.rows(asked)
    run = state.run(name)
    assert run is not None, "a tenant that is asked for sees vectors"
    task = Task(queries, [run], [effort], np.zeros(len(queries), np.int64))
    found = answer(state.space(), task, k + 1, compiling=True).slots
    kept = [[slot for slot in row if slot != own][:k] for row, own in zip(found.tolist(), asked.tolist(), strict=True)]
    return np.array(kept, np.int32)


def _recalls(found: I32, truth: I32) -> F64:
    """The share of each row's true answers that were found."""
    pairs = [(set(a) - {-1}, set(b) - {-1}) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    return np.array([len(mine & right) / max(1, len(right)) for mine, right in pairs])
