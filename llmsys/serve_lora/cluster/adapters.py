"""Which adapter each request of a trace uses, where the trace does not say (Punica, benchmarks/benchmark_utils.py).

    trace          as the trace says; tenants without an adapter use one of their own name
    distinct       one adapter per request
    uniform        ⌈√n⌉ adapters with equal shares
    geometric:X    segment sizes ⌊X^i⌋, growing, the remainder last: Punica's `skewed` at 1.5
    zipf:X         adapter k with a share in proportion to k^-X, over ⌈√n⌉ adapters
    identical      one adapter

Knows nothing of adapters' contents.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from llmsys.artifacts import TraceRecord
from llmsys.errors import UsageFault

__all__ = ["assign_adapters", "popularity_counts"]

EXPONENT_MAX = 10.0


def assign_adapters(
    trace: Sequence[TraceRecord], popularity: str, *, seed: int, per_tenant: int = 1
) -> list[TraceRecord]:
    """The trace with an adapter for every request, spread over it in random order. Raises UsageFault.

    per_tenant: adapters of each tenant where the trace does not say, each request's drawn from its tenant's.
    """
    if per_tenant > 1:
        if popularity != "trace":
            raise UsageFault(
                f"--adapters-per-tenant {per_tenant} with --popularity {popularity}; expected one of the two"
            )
        drawn = np.random.default_rng(seed).integers(0, per_tenant, len(trace)).tolist()
        return [
            msgspec.structs.replace(record, adapter=record.adapter or f"{record.tenant}-{number}")
            for record, number in zip(trace, drawn, strict=True)
        ]
    if popularity == "trace":
        return [msgspec.structs.replace(record, adapter=record.adapter or record.tenant) for record in trace]
    counts = popularity_counts(popularity, len(trace))
    numbers = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(seed).shuffle(numbers)
    return [
        msgspec.structs.replace(record, adapter=f"adapter-{number:04d}")
        for record, number in zip(trace, numbers.tolist(), strict=True)
    ]


def popularity_counts(popularity: str, n: int) -> list[int]:
    """Requests per adapter, n in all. Raises UsageFault for anything else.

    >>> popularity_counts("geometric:1.5", 20)
    [1, 1, 2, 3, 5, 7, 1]
    >>> popularity_counts("uniform", 10)
    [3, 3, 2, 2]
    """
    name, _, given = popularity.partition(":")
    adapters = math.ceil(math.sqrt(n))
    if name == "distinct":
        return [1] * n
    if name == "identical":
        return [n] if n else []
    if name == "uniform":
        return [n // adapters + (at < n % adapters) for at in range(adapters)]
    exponent = _exponent(given)
    if name == "geometric" and exponent > 1:
        return _geometric(n, exponent)
    if name == "zipf" and exponent > 0:
        return _largest_remainder(n, [at**-exponent for at in range(1, adapters + 1)])
    raise UsageFault(
        f"--popularity {popularity!r}; expected trace, distinct, uniform, identical, geometric:X with X above 1, "
        f"or zipf:X with X above 0, at most {EXPONENT_MAX:g}"
    )


def _exponent(given: str) -> float:
    """A number in range, else 0."""
    try:
        value = float(given)
    except ValueError:
        return 0.0
    return value if 0 < value <= EXPONENT_MAX else 0.0


def _geometric(n: int, growth: float) -> list[int]:
    counts, left, size = [], n, 1.0
    while left > 0:
        counts.append(min(int(size), left))
        left -= counts[-1]
        size *= growth
    return counts


def _largest_remainder(n: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to the weights that sum to n; none is left out while there are enough."""
    total = math.fsum(weights)
    exact = [n * weight / total for weight in weights]
    counts = [int(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda at: counts[at] - exact[at])
    for at in order[: n - sum(counts)]:
        counts[at] += 1
    return [count for count in counts if count]
