"""Measure a replica: steps of many shapes on the real engine, from which its profile is fitted.

Prompts of several lengths and batches of several sizes, of the base and of adapters, each decoded for a few steps. A
shape is run once unmeasured, so that nothing is compiled or allocated in a measured step. Knows nothing of traces.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path

import numpy as np

from llmsys.engine.assembly import EngineParts, assemble
from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.serve_lora.cluster.profile import Fit, ReplicaProfile, Sample, fit_profile
from llmsys.serve_lora.plan_tap import PlanTap

__all__ = ["calibrate"]

BATCHES = (1, 2, 4, 8, 16, 32)
PROMPTS = (16, 64, 192)
STEPS = 6


def calibrate(
    model: str,
    adapters: Mapping[str, Path],
    *,
    config: EngineConfig,
    max_batch: int,
    advance: Callable[[int], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[ReplicaProfile, Fit]:
    """Load a model, measure its steps and return a replica's profile with the fit behind it.

    `advance` is called after every batch size. Raises as `Engine.load` does.
    """
    started_s = clock()
    parts = assemble(model, config)
    for name, path in adapters.items():
        parts.adapters.register(name, path)
    tap = PlanTap(parts.runner, rank_of=parts.adapters.rank)
    bench = _Bench(_engine(parts, tap, config), tap, parts.runner.vocab_size, clock)
    bench.run(1, PROMPTS[0], [])
    cold_start_s = clock() - started_s
    names = sorted(adapters)
    samples: list[Sample] = []
    for batch in (size for size in BATCHES if size <= max_batch):
        for prompt in PROMPTS:
            for used in ([], names[:1], names) if names else ([],):
                samples += bench.measured(batch, prompt, used)
        advance(1)
    fit = fit_profile(samples)
    ranks = [parts.adapters.rank(name) for name in names] or [16]
    profile = ReplicaProfile(
        step=asdict(fit.model),
        max_batch=max_batch,
        batch_tokens=config.batch_tokens(parts.device_type),
        kv_tokens=parts.blocks * config.block_tokens,
        lora_slots=max(config.lora_slots, 1),
        adapter_rank=max(ranks),
        adapter_load_s=_load_s(parts, adapters, clock),
        cold_start_s=cold_start_s,
    )
    return profile, fit


def _engine(parts: EngineParts, tap: PlanTap, config: EngineConfig) -> Engine:
    return Engine(
        tap,
        parts.tokenizer,
        parts.adapters,
        config,
        blocks=parts.blocks,
        model=parts.digest,
        device_type=parts.device_type,
        shared_blocks=parts.shared_blocks,
    )


def _load_s(parts: EngineParts, adapters: Mapping[str, Path], clock: Callable[[], float]) -> float:
    """Seconds from an adapter's files to a slot: the median of all, read from the page cache; 0 without adapters."""
    taken = []
    for name in sorted(adapters):
        parts.adapters.register(f"{name}+again", adapters[name])
        started_s = clock()
        slot = parts.adapters.acquire(f"{name}+again")
        taken.append(clock() - started_s)
        parts.adapters.release(slot)
    return float(np.median(taken)) if taken else 0.0


class _Bench:
    """Runs batches of random prompts; no two share a prefix."""

    def __init__(self, engine: Engine, tap: PlanTap, vocab: int, clock: Callable[[], float]) -> None:
        self._engine, self._tap, self._vocab, self._clock = engine, tap, vocab, clock
        self._seeds = count()

    def measured(self, batch: int, prompt: int, adapters: list[str]) -> Iterator[Sample]:
        """The steps of one shape, the second time it is run."""
        self.run(batch, prompt, adapters)
        yield from self.run(batch, prompt, adapters)

    def run(self, batch: int, prompt: int, adapters: list[str]) -> list[Sample]:
        """Add a batch, the adapters in turn, and run it to its end; one sample per step."""
        sampling = SamplingParams(max_tokens=STEPS, temperature=0.0, ignore_eos=True)
        for at in range(batch):
            ids = np.random.default_rng(next(self._seeds)).integers(0, self._vocab, prompt).tolist()
            self._engine.add(Request(ids, sampling, adapter=adapters[at % len(adapters)] if adapters else None))
        samples = []
        while self._engine.busy:
            started_s = self._clock()
            self._engine.step()
            seconds = self._clock() - started_s
            rows, _ = self._tap.take()
            if rows:
                samples.append(Sample(tuple(rows), seconds))
        return samples
