"""Every live point against the rest: densities, near-duplicates, and which points a pruned corpus keeps.

Knows no files. A score is the mean kernel value at a point over all other points.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmsys.pse_hash.arrays import F64
from llmsys.pse_hash.coins import coins
from llmsys.pse_hash.sketch import PairwiseSum

__all__ = ["KEEPS", "Score", "kept", "score_records", "scores"]

BATCH = 1024
KEEPS = ("low", "high", "stratified")
STRATA = 10


@dataclass(frozen=True, slots=True)
class Score:
    """One point's mean kernel value over the others, and the id of a point of at least the similarity asked for."""

    id: str
    value: float
    lo: float
    hi: float
    log_value: float
    duplicate: str | None


def scores(sketch: PairwiseSum, *, ci: str = "rigorous", similarity: float | None = None) -> Iterator[Score]:
    """Score the live points in the order of their slots; `similarity` (a kernel value) adds each one's nearest twin."""
    slots = sketch.points.live_slots()
    for start in range(0, len(slots), BATCH):
        part = slots[start : start + BATCH]
        names = [sketch.points.ids[slot] for slot in part.tolist()]
        values = sketch.points.values[part].astype(np.float64)
        found = sketch.query(values + sketch.points.centre, ci=ci, leave_out=names)
        twins = [None] * len(part) if similarity is None else _twins(sketch, values, names, similarity)
        columns = zip(names, found.value, found.lo, found.hi, found.log_value, twins, strict=True)
        for one, value, low, high, log_value, twin in columns:
            yield Score(one, float(value), float(low), float(high), float(log_value), twin)


def score_records(
    sketch: PairwiseSum,
    *,
    ci: str,
    quantile: float | None,
    prune: float | None,
    keep: str,
    similarity: float | None,
    seed: int,
) -> Iterator[dict[str, str | float | None]]:
    """Score records as they come; with `quantile` the low end alone, with `prune` only `{"id"}` of what is kept."""
    found = scores(sketch, ci=ci, similarity=similarity)
    if prune is not None:
        yield from (dict[str, str | float | None](id=one) for one in kept(list(found), prune, keep, seed=seed))
        return
    limit = np.inf
    if quantile is not None:
        held = list(found)
        limit = float(np.quantile([one.log_value for one in held], quantile, method="inverted_cdf")) if held else limit
        found = iter(held)
    for one in found:
        if one.log_value <= limit:
            twin = {} if similarity is None else {"duplicate": one.duplicate}
            yield {"id": one.id, "value": one.value, "lo": one.lo, "hi": one.hi, **twin}


def kept(scored: Sequence[Score], fraction: float, keep: str, *, seed: int) -> list[str]:
    """The ids left when `fraction` of the points are pruned: the lowest or highest scores stay, or some of each decile.

    stratified draws the same share of every tenth of the scores. In the order of the input.
    """
    wanted = len(scored) - round(fraction * len(scored))
    order = np.argsort([one.log_value for one in scored], kind="stable")
    if keep == "stratified":
        rng = coins(seed, 0)
        mixed = [rng.permutation(stratum) for stratum in np.array_split(order, STRATA)]
        depth = np.concatenate([np.arange(len(stratum)) / max(len(stratum), 1) for stratum in mixed])
        order = np.concatenate(mixed)[np.argsort(depth, kind="stable")]
    staying = order[len(order) - wanted :] if keep == "high" else order[:wanted]
    return [scored[at].id for at in np.sort(staying).tolist()]


def _twins(sketch: PairwiseSum, values: F64, names: Sequence[str], similarity: float) -> list[str | None]:
    """For each point the id of its most similar other point, where that reaches `similarity`."""
    others = sketch.points.live_slots()
    best, twin = np.full(len(values), -np.inf), np.full(len(values), -1)
    own = np.array([sketch.points.slot_of[name] for name in names])
    for start in range(0, len(others), BATCH):
        part = others[start : start + BATCH]
        logs = sketch.kernel.log_pairs(values, sketch.points.values[part])
        logs[own[:, None] == part[None]] = -np.inf
        nearest = logs.argmax(axis=1)
        found = logs[np.arange(len(values)), nearest]
        better = found > best
        best, twin = np.where(better, found, best), np.where(better, part[nearest], twin)
    reached = best >= np.log(similarity)
    return [sketch.points.ids[slot] if ok else None for slot, ok in zip(twin.tolist(), reached, strict=True)]
