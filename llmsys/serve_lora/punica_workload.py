"""Punica's closed-loop workload: who asks for which adapter, with how long a prompt and how long an answer.

Lengths [source: punica-ai/punica, benchmarks/bench_textgen.py]: prompt = lognormal(σ 0.8, loc −1, scale 18), clipped
to 1 … limit − 2; total uniform in 0 … limit − 1; answer = max(prompt + 2, total) − prompt. Adapters by popularity, see
`cluster.adapters`. Knows no engine: prompts are random token ids, so that nothing is shared between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmsys.serve_lora.cluster.adapters import popularity_counts

__all__ = ["Ask", "adapter_names", "punica_asks"]

SIGMA, LOCATION, SCALE = 0.8, -1.0, 18.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: its prompt as token ids, the tokens to be generated, and its adapter, None for the base."""

    prompt: tuple[int, ...]
    output_tokens: int
    adapter: str | None


def punica_asks(popularity: str, n: int, *, limit: int, vocab: int, seed: int) -> list[Ask]:
    """The n requests of one popularity, in the order in which they come; limit: tokens of prompt and answer together.

    Raises UsageFault for an unknown popularity, ValueError for a limit below 4.
    """
    if limit < 4:
        raise ValueError(f"limit {limit}; expected 4 tokens or more")
    random = np.random.default_rng(seed)
    drawn = LOCATION + SCALE * random.lognormal(0.0, SIGMA, n)
    prompts = np.clip(drawn, 1, limit - 2).astype(int)
    totals = random.integers(0, limit, n)
    numbers = np.repeat(np.arange(len(counts := popularity_counts(popularity, n))), counts)
    random.shuffle(numbers)
    return [
        Ask(
            prompt=tuple(random.integers(0, vocab, prompt).tolist()),
            output_tokens=max(prompt + 2, total) - prompt,
            adapter=f"adapter-{number:04d}",
        )
        for prompt, total, number in zip(prompts.tolist(), totals.tolist(), numbers.tolist(), strict=True)
    ]


def adapter_names(asks: Sequence[Ask]) -> list[str]:
    """Every adapter that is asked for, sorted."""
    return sorted({ask.adapter for ask in asks if ask.adapter is not None})
