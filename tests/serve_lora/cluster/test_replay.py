"""The simulator against the real engine: its scheduler and its batches, under a clock that the steps move."""

import msgspec
import numpy as np
import pytest
import torch

from llmsys.artifacts import TraceRecord
from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.serve_lora.cluster import ReplicaProfile, assign_adapters
from llmsys.serve_lora.cluster.replay import Comparison, RunFigures, predict, replay
from llmsys.serve_lora.plan_tap import PlanTap
from llmsys.serve_lora.step_cost import step_parts
from tests.serve_lora.stand_ins import VOCAB, ByteCodec, Clock, Marks, Speller

PROFILE = ReplicaProfile(max_batch=8, batch_tokens=64, kv_tokens=16_000, lora_slots=8, adapter_load_s=0.0)


class TimedModel(Speller):
    """Any token will do; a step takes what the profile's model says of it."""

    max_len = 4096

    def __init__(self, clock, profile):
        super().__init__()
        self._clock, self._profile = clock, profile
        self._tap = PlanTap(_Silent(), rank_of=lambda name: profile.adapter_rank)

    def execute(self, plan):
        self._tap.execute(plan)
        rows, _ = self._tap.take()
        self._clock.pass_s(sum(step_parts(rows, self._profile.model)))
        return torch.zeros(sum(chunk.samples for chunk in plan.chunks), VOCAB)


class _Silent:
    """An executor that computes nothing."""

    def execute(self, plan):
        return None


def poisson(seed, *, rate, n):
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, n))
    return [
        TraceRecord(
            id=str(at),
            tenant="t",
            arrival_s=float(arrivals[at]),
            prompt_tokens=int(random.integers(1, 90)),
            output_tokens=int(random.integers(1, 60)),
        )
        for at in range(n)
    ]


def live(trace, profile):
    clock = Clock()
    config = EngineConfig(
        max_sequences=profile.max_batch,
        max_batch_tokens=profile.batch_tokens,
        lora_slots=profile.lora_slots,
        prefix_cache=False,
    )
    names = sorted({record.adapter for record in trace if record.adapter})
    engine = Engine(TimedModel(clock, profile), ByteCodec(), Marks(names, slots=8), config, blocks=1000, clock=clock)
    return replay(trace, engine, vocab=250, adapters={name: name for name in names}, clock=clock, wait=clock.pass_s)


@pytest.mark.parametrize("popularity", ["identical", "uniform", "geometric:1.5"])
@pytest.mark.parametrize("rate", [0.5, 2.0, 6.0])
def test_the_simulator_predicts_what_the_engine_does(popularity, rate):
    """Throughput within 10 % and the median wait within 20 %, from a quarter load to an overload."""
    trace = assign_adapters(poisson(3, rate=rate, n=60), popularity, seed=1)

    found = Comparison(predict(trace, PROFILE), live(trace, PROFILE))

    assert found.predicted.requests == found.live.requests == 60
    assert abs(found.throughput_error) < 0.1
    assert abs(found.ttft_error) < 0.2


def test_a_profile_that_is_wrong_shows_in_the_comparison():
    trace = poisson(3, rate=4.0, n=40)
    slow = msgspec.structs.replace(PROFILE, step={name: 2 * value for name, value in PROFILE.step.items()})

    found = Comparison(predict(trace, slow), live(trace, PROFILE))

    assert found.ttft_error > 0.5


def test_figures_are_taken_from_the_times_of_tokens():
    clock = Clock()
    unit = msgspec.structs.replace(PROFILE, step=dict.fromkeys(PROFILE.step, 0.0) | {"fixed_s": 1.0})
    trace = [
        TraceRecord(id="0", tenant="t", arrival_s=2.0, prompt_tokens=3, output_tokens=3),
        TraceRecord(id="1", tenant="t", arrival_s=10.0, prompt_tokens=3, output_tokens=1),
    ]

    assert live(trace, unit) == RunFigures(2, pytest.approx(4 / 9), 1.0, 1.0, 1.0)
    assert clock() == 0.0
