"""The VTC artifact's synthetic workloads by name, draw for draw (fair_bench/trace.py and exp_suite.py).

All draws come from one legacy `RandomState(seed)`, in this order, so that seed 42 repeats the artifact's arrivals bit
for bit (checked against its A10G logs for overload, on_off_less and poisson_short_long_2):

* uniform (also each phase of dist_shift), per client: prompt lengths, output lengths, one phase `rand() / rate`;
* increase, per client: prompt lengths, output lengths; no phase, the second client speeds up from 0.2/s to its rate;
* poisson kinds: one uniform per request (its client), prompt lengths, output lengths, gamma(1, 1/total rate) gaps.

`real` is a recorded trace, not a generated one. Knows no policy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import RandomState

from llmsys.artifacts import TraceRecord
from llmsys.errors import UsageFault

__all__ = ["SUITES", "Suite", "generate_suite"]

START_RATE = 0.2
Range = tuple[int, int]


@dataclass(slots=True, frozen=True)
class Suite:
    """One workload: requests/s per client, lengths drawn from [low, high), client 0 off in every other `on_off_s`."""

    kind: str
    rates: tuple[float, ...]
    duration_s: float
    inputs: Range = (256, 257)
    outputs: Range = (256, 257)
    on_off_s: float | None = None


SUITES = {
    "overload": Suite("uniform", (1.5, 3), 360),
    "proportional": Suite("uniform", (0.25, 0.5, 1.5), 600),
    "on_off_less": Suite("uniform", (0.5, 2), 600, on_off_s=60),
    "on_off_overload": Suite("uniform", (2, 3), 600, on_off_s=60),
    "poisson_short_long": Suite("short-long", (8, 1.5), 600),
    "poisson_short_long_2": Suite("short-long-2", (8, 1.5), 600, (32, 33), (512, 513)),
    "poisson_on_off_overload": Suite("poisson", (0.5, 2), 600, (16, 512), (16, 512), 60),
    "increase": Suite("increase", (0.5, 2), 600),
    "dist_shift": Suite("dist-shift", (-1, -1), 900),
    "ablation_lshare": Suite("uniform", (0.2, 0.8), 300),
    "overload-multi": Suite("uniform", (0.4, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6), 360),
    "overload-weighted": Suite("uniform", (0.8, 0.8, 1.2, 1.6), 360),
    "overload-s4": Suite("uniform", (4, 8), 600),
    "overload-s4-short": Suite("uniform", (8, 16), 600, (128, 129), (128, 129)),
    "overload-s4-long": Suite("uniform", (2, 4), 600, (512, 513), (512, 513)),
    "overload-s4-35000-128": Suite("uniform", (6, 12), 600, (128, 129), (128, 129)),
    "overload-s4-35000-256": Suite("uniform", (3, 6), 600),
    "overload-s4-35000-512": Suite("uniform", (1.5, 3), 600, (512, 513), (512, 513)),
    "overload-s4-35000-768": Suite("uniform", (1, 2), 600, (768, 769), (768, 769)),
}


@dataclass(slots=True, frozen=True)
class _Draw:
    at_s: float
    client: int
    prompt_tokens: int
    output_tokens: int


def generate_suite(name: str, *, seed: int = 42) -> list[TraceRecord]:
    """The suite's requests by arrival, tenants client-0, client-1, …. Raises UsageFault for an unknown name."""
    suite = SUITES.get(name)
    if suite is None:
        hint = "; real is a recorded trace, import it as vtc-log" if name == "real" else ""
        raise UsageFault(f"no suite is named {name!r}; known: {', '.join(SUITES)}{hint}")
    draws = sorted(_draws(suite, RandomState(seed)), key=lambda draw: draw.at_s)
    return [
        TraceRecord(f"{name}-{number:05d}", f"client-{d.client}", d.at_s, d.prompt_tokens, d.output_tokens)
        for number, d in enumerate(draws)
    ]


def _draws(suite: Suite, random: RandomState) -> Iterator[_Draw]:
    if suite.kind == "uniform":
        return _uniform(random, suite)
    if suite.kind == "increase":
        return _increase(random, suite)
    if suite.kind == "dist-shift":
        return _dist_shift(random, suite)
    return _poisson(random, suite)


def _lengths(random: RandomState, suite: Suite, count: int) -> tuple[list[int], list[int]]:
    return random.randint(*suite.inputs, count).tolist(), random.randint(*suite.outputs, count).tolist()


def _off(suite: Suite, client: int, at_s: float) -> bool:
    """Whether the client is switched off: client 0 is, in every second stretch of `on_off_s`."""
    return suite.on_off_s is not None and client == 0 and int(at_s // suite.on_off_s) % 2 == 1


def _uniform(random: RandomState, suite: Suite, from_s: float = 0.0) -> Iterator[_Draw]:
    for client, rate in enumerate(suite.rates):
        inputs, outputs = _lengths(random, suite, int(rate * suite.duration_s))
        at_s = from_s + random.rand() * 1 / rate
        for prompt_tokens, output_tokens in zip(inputs, outputs, strict=True):
            at_s += 1 / rate
            if not _off(suite, client, at_s):
                yield _Draw(at_s, client, prompt_tokens, output_tokens)


def _increase(random: RandomState, suite: Suite) -> Iterator[_Draw]:
    steady, last = suite.rates
    at_s = 0.0
    for prompt_tokens, output_tokens in zip(*_lengths(random, suite, int(steady * suite.duration_s)), strict=True):
        at_s += 1 / steady
        yield _Draw(at_s, 0, prompt_tokens, output_tokens)
    count = int(0.5 * (START_RATE + last) * suite.duration_s)
    at_s = 0.0
    for prompt_tokens, output_tokens in zip(*_lengths(random, suite, count), strict=True):
        at_s += 1 / (START_RATE + (last - START_RATE) * at_s / suite.duration_s)
        yield _Draw(at_s, 1, prompt_tokens, output_tokens)


def _dist_shift(random: RandomState, suite: Suite) -> Iterator[_Draw]:
    """Three thirds: client 0 on and off, both overloading, both proportional."""
    third_s = suite.duration_s / 3
    phases: Sequence[tuple[tuple[float, ...], float | None]] = (((0.5, 2), 60.0), ((1, 1), None), ((0.5, 1.5), None))
    for number, (rates, on_off_s) in enumerate(phases):
        phase = Suite("uniform", rates, third_s, suite.inputs, suite.outputs, on_off_s)
        yield from _uniform(random, phase, third_s * number)


def _poisson(random: RandomState, suite: Suite) -> Iterator[_Draw]:
    total = sum(suite.rates)
    count = int(total * suite.duration_s)
    clients = (random.rand(count) > suite.rates[0] / total).astype(int).tolist()
    inputs, outputs = _lengths(random, suite, count)
    arrivals = np.cumsum(random.gamma(1.0, 1.0 / total, count)).tolist()
    for at_s, client, prompt_tokens, output_tokens in zip(arrivals, clients, inputs, outputs, strict=True):
        if _off(suite, client, at_s):
            continue
        if client == 0 and suite.kind == "short-long":
            yield _Draw(at_s, client, prompt_tokens // 4, output_tokens // 4)
        elif client == 0 and suite.kind == "short-long-2":
            yield _Draw(at_s, client, output_tokens, prompt_tokens)
        else:
            yield _Draw(at_s, client, prompt_tokens, output_tokens)
