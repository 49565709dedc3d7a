"""A trace on a live engine, in real time: what the simulator predicts, measured.

Requests are added when the trace says so, steps run as long as there is work, and every token's time is kept. With a
clock that the engine's executor moves, the same code is a test of the simulator without a stopwatch. Knows nothing of
prices or placement: one replica, ready from the start.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from llmsys.artifacts import TraceRecord
from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.loader import read_config
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.gpu import find_model
from llmsys.serve_lora.cluster.calibration import calibrate
from llmsys.serve_lora.cluster.profile import Fit, ReplicaProfile
from llmsys.serve_lora.cluster.report import report_cluster
from llmsys.serve_lora.cluster.routing import make_router
from llmsys.serve_lora.cluster.simulation import ClusterSettings, simulate
from llmsys.serve_lora.prices import PriceList

__all__ = ["Comparison", "ReplayBench", "RunFigures", "predict", "replay"]


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One run of a trace: output tokens per second from the first arrival to the last token, waits in seconds."""

    requests: int
    output_tok_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float

    def as_row(self, name: str) -> dict[str, str | int | float | None]:
        """Cells of a table, times of tokens in milliseconds."""
        return {
            "run": name,
            "requests": self.requests,
            "tok/s": self.output_tok_s,
            "ttft p50 s": self.ttft_p50_s,
            "ttft p99 s": self.ttft_p99_s,
            "tpot p50 ms": 1e3 * self.tpot_p50_s,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was predicted of a run and what it was."""

    predicted: RunFigures
    live: RunFigures

    @property
    def throughput_error(self) -> float:
        """Relative error of the predicted throughput."""
        return self.predicted.output_tok_s / self.live.output_tok_s - 1

    @property
    def ttft_error(self) -> float:
        """Relative error of the predicted median wait for the first token."""
        return self.predicted.ttft_p50_s / self.live.ttft_p50_s - 1

    def as_record(self) -> dict[str, object]:
        """Both runs and the errors as JSON values."""
        return {
            "predicted": asdict(self.predicted),
            "live": asdict(self.live),
            "throughput_error": self.throughput_error,
            "ttft_p50_error": self.ttft_error,
        }


class ReplayBench:
    """Calibrates on this machine, predicts a trace and runs it; `fit` is there after `compare`."""

    def __init__(self, trace: Sequence[TraceRecord], *, model: str, adapters: Mapping[str, Path], batch: int) -> None:
        self._model = model
        self._adapters = adapters
        self._config = EngineConfig(max_sequences=batch, prefix_cache=False)
        own = sorted({record.adapter for record in trace if record.adapter})
        names = sorted(adapters)
        self._names = {name: names[at % len(names)] for at, name in enumerate(own)} if names else {}
        # the simulator must see the adapters that the engine will
        self._trace = [
            msgspec.structs.replace(record, adapter=self._names.get(record.adapter or "")) for record in trace
        ]
        self.fit: Fit | None = None

    def compare(self, on_run: Callable[[RunFigures], None]) -> Comparison:
        """Calibrate, predict, run. Raises as `Engine.load` does."""
        profile, self.fit = calibrate(
            self._model, self._adapters, config=self._config, max_batch=self._config.max_sequences
        )
        on_run(predicted := predict(self._trace, profile))
        engine = Engine.load(self._model, config=self._config)
        for name, path in self._adapters.items():
            engine.adapters.register(name, path)
        vocab = read_config(find_model(self._model)).vocab
        names = {name: name for name in self._adapters}
        warm = [msgspec.structs.replace(record, arrival_s=0.0) for record in self._trace[:8]]
        for trace in (warm, self._trace):
            live = replay(trace, engine, vocab=vocab, adapters=names, clock=time.perf_counter, wait=time.sleep)
        on_run(live)
        return Comparison(predicted, live)


def predict(trace: Sequence[TraceRecord], profile: ReplicaProfile) -> RunFigures:
    """What the simulator says of a trace on one replica that is there from the start."""
    warm = msgspec.structs.replace(profile, cold_start_s=0.0)
    outcome = simulate(trace, warm, make_router("punica"), ClusterSettings(1, math.inf, math.inf))
    report = report_cluster(outcome, warm, policy="punica", gpus=1, slo_ttft_s=1.0, idle="owner", prices=PriceList())
    return RunFigures(
        requests=report.requests,
        output_tok_s=report.output_tok_s,
        ttft_p50_s=report.ttft_p50_s or 0.0,
        ttft_p99_s=report.ttft_p99_s or 0.0,
        tpot_p50_s=report.tpot_p50_s or 0.0,
    )


def replay(
    trace: Sequence[TraceRecord],
    engine: Engine,
    *,
    vocab: int,
    adapters: Mapping[str, str],
    clock: Callable[[], float],
    wait: Callable[[float], None],
) -> RunFigures:
    """Run a trace on an idle engine, requests added when they are due, and say what came of it.

    Prompts are random token ids, and an end token ends nothing. adapters: the engine's name for each of the trace's;
    others are of the base. clock in seconds; wait(seconds) lets that much of it pass. Raises as `Engine.add` does.
    """
    random, start_s = np.random.default_rng(0), clock()
    token_s: dict[int, list[float]] = {}
    due_s: dict[int, float] = {}
    at = 0
    while at < len(trace) or engine.busy:
        now_s = clock() - start_s
        while at < len(trace) and trace[at].arrival_s <= now_s:
            number = engine.add(_request(trace[at], random, vocab, adapters))
            due_s[number], token_s[number] = trace[at].arrival_s, []
            at += 1
        if not engine.busy:
            wait(trace[at].arrival_s - now_s)
            continue
        events = engine.step()
        now_s = clock() - start_s
        for event in events:
            if event.token_id >= 0:
                token_s[event.request_id].append(now_s)
    waits = [times[0] - due_s[number] for number, times in token_s.items()]
    paces = [(times[-1] - times[0]) / (len(times) - 1) for times in token_s.values() if len(times) > 1]
    spent_s = max(times[-1] for times in token_s.values()) - trace[0].arrival_s
    return RunFigures(
        requests=len(token_s),
        output_tok_s=sum(map(len, token_s.values())) / spent_s,
        ttft_p50_s=float(np.quantile(waits, 0.5)),
        ttft_p99_s=float(np.quantile(waits, 0.99)),
        tpot_p50_s=float(np.quantile(paces or [0.0], 0.5)),
    )


def _request(record: TraceRecord, random: np.random.Generator, vocab: int, adapters: Mapping[str, str]) -> Request:
    sampling = SamplingParams(max_tokens=max(record.output_tokens, 1), temperature=0.0, ignore_eos=True)
    ids = random.integers(0, vocab, max(record.prompt_tokens, 1)).tolist()
    return Request(ids, sampling, adapter=adapters.get(record.adapter or ""), tenant=record.tenant)
