"""Local search over placements: exchange two replicas while that raises the chance that all layers recover.

The chance is exact over every set of at most five failures, 64 sets to a machine word: an expert's losing sets are the
AND of its nodes' rows, so a whole neighbourhood of swaps is scored with a few operations on words. All sets of one size
count alike here, whatever the hazards. Knows no load.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from llmsys.moe_train.failures import FailureModel
from llmsys.moe_train.placement import Placement

__all__ = ["improve", "repair"]

MOST_SETS = 20_000
MOST_WORDS = 6_000_000
GAIN = 1e-12
EVERY = np.uint64(2**64 - 1)

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _FailureSets:
    """Sets of failures as bits: `failed` [N, W] says in which sets node j fails, `weight` [W] what a set counts;
    `most_nodes` is the most that fail in any.
    """

    failed: Words
    weight: NDArray[np.float64]
    most_nodes: int


def repair(placement: Placement, least: int) -> Placement:
    """The placement with every expert on at least min(least, its replicas, N) nodes, where exchanges can reach that.

    An expert's second copy on a node changes places with a replica that its node lacks, so no other expert loses one.
    """
    counts = placement.counts()
    wanted = np.minimum(np.minimum(counts.sum(axis=1), least), placement.nodes)
    if bool(((counts > 0).sum(axis=1) >= wanted).all()):
        return placement
    columns = placement.columns.copy()
    for expert in np.nonzero((counts > 0).sum(axis=1) < wanted)[0].tolist():
        while int((counts[expert] > 0).sum()) < wanted[expert]:
            crowded = int(np.argmax(counts[expert]))
            fits = (counts[:, crowded] == 0)[columns] & (counts[expert] == 0)[:, None]
            if not fits.any():
                break
            node, slot = (int(place) for place in np.argwhere(fits)[0])
            _exchange(columns, counts, (expert, crowded), (int(columns[node, slot]), node))
    return Placement(columns, placement.experts)


def _exchange(columns: Ints, counts: Ints, one: tuple[int, int], other: tuple[int, int]) -> None:
    """Let (expert, node) and (expert, node) change places, in both tables."""
    for (expert, node), (coming, _) in ((one, other), (other, one)):
        columns[node, int(np.argmax(columns[node] == expert))] = coming
        counts[expert, node] -= 1
        counts[coming, node] += 1


def improve(
    placements: Sequence[Placement], world: FailureModel, weights: Mapping[int, float] | None = None
) -> list[Placement]:
    """Placements with a joint objective Σ_k w_k P(k) that no single swap within a layer raises (Lazarus, corrected).

    `weights` default to the world's. Layers take turns; each is scored with what all others lose. Instances whose
    neighbourhood passes MOST_WORDS machine words come back as they are.
    """
    sets = _failure_sets(world, weights or world.weights)
    if sets is None:
        return list(placements)
    layers = [_Layer(placement, sets) for placement in placements]
    lost = [layer.lost() for layer in layers]
    changed = True
    while changed:
        changed = False
        for number, layer in enumerate(layers):
            others = lost[:number] + lost[number + 1 :]
            outside = np.bitwise_or.reduce(others) if others else np.zeros_like(lost[number])
            while layer.swap_best(outside):
                changed = True
            lost[number] = layer.lost()
    return [layer.placement(before) for layer, before in zip(layers, placements, strict=True)]


def _failure_sets(world: FailureModel, weights: Mapping[int, float]) -> _FailureSets | None:
    """The sets of the sizes that count, smallest first, while there are at most MOST_SETS."""
    rows, weight, total, sizes = list[Words](), list[float](), 0, 0
    for k in sorted(k for k, w in weights.items() if w > 0 and k < world.domains):
        size = math.comb(world.domains, k)
        total += size
        if total > MOST_SETS:
            break
        sizes = k
        padded = -(-size // 64) * 64
        failed = np.zeros((world.domains, padded), np.bool_)
        chosen = np.fromiter(combinations(range(world.domains), k), dtype=(np.int64, k), count=size)
        failed[chosen.T, np.arange(size)] = True
        rows.append(np.packbits(failed, axis=1).view(np.uint64))
        weight += [weights[k] / size] * (padded // 64)
    if not rows:
        return None
    by_domain = np.concatenate(rows, axis=1)
    largest = sorted(np.bincount(world.domain_of).tolist(), reverse=True)
    by_node = np.ascontiguousarray(by_domain[list(world.domain_of)])
    return _FailureSets(by_node, np.asarray(weight), sum(largest[:sizes]))


class _Layer:
    """One layer under search: its columns, and what every expert loses."""

    def __init__(self, placement: Placement, sets: _FailureSets) -> None:
        self._columns = placement.columns.copy()
        self._counts = placement.counts()
        self._sets = sets
        self._touched = False

    def placement(self, before: Placement) -> Placement:
        """The layer as it stands; `before` itself where no swap helped."""
        return Placement(self._columns, before.experts) if self._touched else before

    def lost(self) -> Words:
        """[W]: the sets of failures that lose some expert."""
        found: Words = np.bitwise_or.reduce(self._losses())
        return found

    def _losses(self) -> Words:
        """[E, W]: the sets of failures that take every node of expert e."""
        held = self._counts > 0
        found = np.zeros((len(held), self._sets.failed.shape[1]), np.uint64)
        # an expert on more nodes than fail at once is in no danger, whatever their domains
        for expert in np.nonzero(held.sum(axis=1) <= self._sets.most_nodes)[0]:
            np.bitwise_and.reduce(self._sets.failed[held[expert]], axis=0, out=found[expert])
        return found

    def swap_best(self, outside: Words) -> bool:
        """Make the exchange of two replicas that loses least; False where none beats what stands."""
        losses = self._losses()
        lost = np.bitwise_or.reduce(losses) | outside
        experts, nodes = np.nonzero(self._counts)
        harmful: NDArray[np.bool_] = (losses & ~outside != 0).any(axis=1)
        guilty = np.nonzero(harmful[experts])[0]
        if not guilty.size or guilty.size * experts.size * lost.size > MOST_WORDS:
            return False
        scores = self._scores(losses, outside, experts, nodes, guilty)
        best = int(np.argmin(scores))
        if scores.flat[best] >= self._score(lost) - GAIN:
            return False
        row, column = divmod(best, experts.size)
        one, other = int(guilty[row]), column
        _exchange(
            self._columns,
            self._counts,
            (int(experts[one]), int(nodes[one])),
            (int(experts[other]), int(nodes[other])),
        )
        self._touched = True
        return True

    def _score(self, lost: Words) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.bitwise_count(lost) @ self._sets.weight
        return found

    def _scores(self, losses: Words, outside: Words, experts: Ints, nodes: Ints, guilty: Ints) -> NDArray[np.float64]:
        """[guilty, replicas]: what is lost after replica p of a guilty expert and any other q change places."""
        failed = self._sets.failed
        without = self._losses_without()[experts, nodes]
        once, twice, thrice = _at_least(losses)
        a, b = losses[experts[guilty]][:, None], losses[experts][None]
        rest = thrice | outside | (twice & ~(a & b)) | (once & ~(a | b))
        moved = (without[guilty][:, None] & failed[nodes][None]) | (without[None] & failed[nodes[guilty]][:, None])
        scores = self._score(rest | moved)
        same = (experts[guilty][:, None] == experts[None]) | (nodes[guilty][:, None] == nodes[None])
        return np.where(same, np.inf, scores)

    def _losses_without(self) -> Words:
        """[E, N, W]: the sets of failures that take every node of expert e but for one copy on node j."""
        held = (self._counts > 0)[:, :, None]
        rows = np.where(held, self._sets.failed[None], EVERY)
        before, after = np.full_like(rows, EVERY), np.full_like(rows, EVERY)
        np.bitwise_and.accumulate(rows[:, :-1], axis=1, out=before[:, 1:])
        np.bitwise_and.accumulate(rows[:, :0:-1], axis=1, out=after[:, -2::-1])
        alone = before & after
        return np.where((self._counts > 1)[:, :, None], alone & rows, alone)


def _at_least(losses: Words) -> tuple[Words, Words, Words]:
    """The sets of failures that lose one, two and three experts or more."""
    once, twice, thrice = (np.zeros(losses.shape[1], np.uint64) for _ in range(3))
    for row in losses:
        thrice |= twice & row
        twice |= once & row
        once |= row
    return once, twice, thrice
