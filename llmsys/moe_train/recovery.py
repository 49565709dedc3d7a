"""The chance that the survivors of k failures still hold every expert of every layer.

A set of experts is lost iff all domains that hold it fail; so only the smallest holder sets of all layers count. They
are scored in closed form where they are disjoint (MRO's segments), over all sets of failures where those are few, over
the losing sets where only these are few, and by sampling with a Clopper–Pearson interval otherwise. Knows no load.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from llmsys.moe_train.failures import FailureModel
from llmsys.moe_train.placement import Placement
from llmsys.moe_train.sampling import failed_sets, interval

__all__ = ["MOST_SUBSETS", "Chance", "chances", "mro_recovery", "recovery"]

MOST_SUBSETS = 2_000_000
TABLE_DOMAINS = 20
SAMPLES = 40_000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Chance:
    """A probability, with the 95 % interval of its estimate; `exact` means no sampling: low = value = high."""

    value: float
    low: float
    high: float
    exact: bool

    @classmethod
    def known(cls, value: float) -> "Chance":
        """One that was computed, not sampled."""
        return cls(value, value, value, exact=True)


def recovery(placement: Placement | Sequence[Placement], k: int, failures: FailureModel | None = None) -> float:
    """P(every layer of the placement or placements survives k failures); all layers share the failed nodes.

    >>> from llmsys.moe_train import mro
    >>> round(recovery(mro([2, 2, 2], nodes=3, slots=2), k=1), 4)
    0.6667
    """
    layers = [placement] if isinstance(placement, Placement) else list(placement)
    return chances(layers, [k], failures)[k].value


def mro_recovery(sizes: Sequence[int], nodes: int, failed: int) -> float:
    """P(survivors meet every one of disjoint segments): Σ_X (−1)^|X| C(N − Σ_{i∈X} |S_i|, R) / C(N, R), R = N − k.

    By polynomial rather than by 2^G terms: the coefficient of z^s counts signed choices of segments of s nodes.
    """
    signed = [1] + [0] * nodes
    for size in sizes:
        signed = [signed[s] - (signed[s - size] if s >= size else 0) for s in range(nodes + 1)]
    left = nodes - failed
    ways = sum(sign * math.comb(nodes - s, left) for s, sign in enumerate(signed) if sign)
    return ways / math.comb(nodes, left)


def chances(
    placements: Sequence[Placement],
    counts: Sequence[int],
    failures: FailureModel | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[int, Chance]:
    """P(k) of all placements together for every k in `counts`.

    Raises ValueError for k outside 0 … D or placements of unlike sizes.
    """
    world = failures or FailureModel.of_nodes(placements[0].nodes)
    if any(placement.nodes != len(world.domain_of) for placement in placements):
        raise ValueError(f"placements of {[p.nodes for p in placements]} nodes; expected {len(world.domain_of)}")
    if any(not 0 <= k <= world.domains for k in counts):
        raise ValueError(f"k in {list(counts)}; expected 0 to {world.domains} failures")
    sets = smallest_sets(placements, world, max(counts, default=0))
    if world.is_uniform and _disjoint(sets):
        sizes = [mask.bit_count() for mask in sets]
        return {k: Chance.known(mro_recovery(sizes, world.domains, k)) for k in counts}
    if world.domains <= TABLE_DOMAINS and 2**world.domains <= MOST_SUBSETS:
        return _from_table(sets, counts, world)
    return {k: _one_chance(sets, k, world, samples, seed) for k in counts}


def smallest_sets(placements: Sequence[Placement], world: FailureModel, most: int) -> list[int]:
    """The domain sets of at most `most` members that hold all copies of some expert, none within another: bit masks."""
    held = np.concatenate([placement.holders() for placement in placements])
    if world.domains < len(world.domain_of):
        # counts of nodes per domain: NumPy multiplies floats fast, Booleans slowly
        held = held.astype(np.float32) @ world.membership() > 0
    held = held[held.sum(axis=1) <= most]
    packed = np.unique(np.packbits(held, axis=1, bitorder="little"), axis=0)
    masks = sorted((int.from_bytes(row.tobytes(), "little") for row in packed), key=int.bit_count)
    kept: list[int] = []
    for mask in masks:
        if not any(smaller & mask == smaller for smaller in kept):
            kept.append(mask)
    return kept


def _disjoint(sets: Sequence[int]) -> bool:
    joined = 0
    for mask in sets:
        if joined & mask:
            return False
        joined |= mask
    return True


def _from_table(sets: Sequence[int], counts: Sequence[int], world: FailureModel) -> dict[int, Chance]:
    """Every set of failures, as its bit mask; a set that contains a losing one loses."""
    domains = world.domains
    lost = np.zeros(2**domains, np.bool_)
    lost[list(sets)] = True
    weight, size = np.ones(1), np.zeros(1, np.int64)
    for domain, hazard in enumerate(world.hazards):
        halves = lost.reshape(-1, 2, 2**domain)
        halves[:, 1] |= halves[:, 0]
        weight, size = np.concatenate([weight, weight * hazard]), np.concatenate([size, size + 1])
    everything = np.bincount(size, weight, domains + 1)
    losing = np.bincount(size[lost], weight[lost], domains + 1)
    return {k: Chance.known(float(1 - losing[k] / everything[k])) for k in counts}


def _one_chance(sets: Sequence[int], k: int, world: FailureModel, samples: int, seed: int) -> Chance:
    small = [mask for mask in sets if mask.bit_count() <= k]
    losing = sum(math.comb(world.domains - mask.bit_count(), k - mask.bit_count()) for mask in small)
    if losing <= MOST_SUBSETS // 10:
        return Chance.known(1 - _share_of(_supersets(small, k, world.domains), k, world))
    survived = _survivors(small, failed_sets(world, k, samples, np.random.default_rng([seed, k])))
    low, high = interval(survived, samples, CONFIDENCE)
    return Chance(survived / samples, low, high, exact=False)


def _supersets(sets: Sequence[int], k: int, domains: int) -> set[int]:
    """All sets of k domains that contain one of the sets."""
    found: set[int] = set()
    for mask in sets:
        free = [1 << d for d in range(domains) if not mask >> d & 1]
        found.update(mask | sum(more) for more in combinations(free, k - mask.bit_count()))
    return found


def _share_of(masks: set[int], k: int, world: FailureModel) -> float:
    """The chance that the k failed domains are one of these sets."""
    if world.is_uniform:
        return len(masks) / math.comb(world.domains, k)
    of_size = [1.0] + [0.0] * k
    for hazard in world.hazards:
        for size in range(k, 0, -1):
            of_size[size] += hazard * of_size[size - 1]
    products = (math.prod(h for d, h in enumerate(world.hazards) if mask >> d & 1) for mask in masks)
    return math.fsum(products) / of_size[k]


def _survivors(sets: Sequence[int], failed: NDArray[np.bool_]) -> int:
    """How many of the failed sets [M, D] contain none of the sets."""
    alive = np.ones(len(failed), np.bool_)
    for mask in sets:
        members = [d for d in range(failed.shape[1]) if mask >> d & 1]
        alive &= ~failed[:, members].all(axis=1)
    return int(alive.sum())
