"""Ways to serve a closed loop of requests, timed token by token: our engine in three ways, and PEFT.

`llmsys` mixes adapters in one batch; `one adapter at a time` is the same engine as a server that cannot; `base` is the
same engine without adapters, the bound of what adapters cost. PEFT's `adapter_names` runs fixed batches in order of
arrival: padded on the left, each as long as its longest answer, only tokens that were asked for are counted. Knows
nothing of tables.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from llmsys.engine.assembly import assemble
from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.loader import read_config
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.gpu import find_model, require
from llmsys.serve_lora.adapter_check import checked_reader
from llmsys.serve_lora.adapter_shelf import AdapterShelf
from llmsys.serve_lora.bench_decoders import BASE
from llmsys.serve_lora.plan_tap import PlanTap
from llmsys.serve_lora.punica_workload import Ask
from llmsys.serve_lora.reference_model import ReferenceModel
from llmsys.serve_lora.step_cost import StepRow

__all__ = ["BatchServer", "Clock", "EngineServer", "PeftServer", "Served"]

HOST_BYTES = 4 << 30
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Served:
    """When each request's tokens came, in seconds since all requests did, in the order of the requests.

    steps: the rows of every step, empty where the server does not tell.
    """

    token_s: list[list[float]]
    steps: list[list[StepRow]]

    @property
    def wall_s(self) -> float:
        """Until the last token."""
        return max((times[-1] for times in self.token_s if times), default=0.0)

    @property
    def tokens(self) -> int:
        """All tokens that were asked for and came."""
        return sum(len(times) for times in self.token_s)

    def first_s(self) -> list[float]:
        """Each request's wait for its first token."""
        return [times[0] for times in self.token_s]

    def per_token_s(self) -> list[float]:
        """Each request's seconds per token after the first."""
        return [(times[-1] - times[0]) / (len(times) - 1) for times in self.token_s if len(times) > 1]


class BatchServer(Protocol):
    """Something that answers requests that are all there at the start."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    def serve(self, asks: Sequence[Ask]) -> Served:
        """Answer all of them, each with exactly its `output_tokens`."""


class EngineServer:
    """Our engine; `serve_base` and `serve_by_adapter` give the same requests to it in other ways.

    Adapters are read from memory, as behind a server. Prefixes are not cached, and an end token ends nothing.
    """

    name = "llmsys"

    def __init__(
        self, model: str, adapters: Mapping[str, Path], *, batch: int, dtype: str, clock: Clock = time.perf_counter
    ) -> None:
        config = EngineConfig(
            dtype=dtype, prefix_cache=False, max_sequences=batch, lora_slots=batch, lora_cpu_bytes=8 << 30
        )
        parts = assemble(model, config)
        read = checked_reader(read_config(find_model(model)), rank_max=config.lora_rank_max)
        shelf = AdapterShelf(lambda path: parts.adapters.prepare(read(path)), limit_bytes=HOST_BYTES)
        parts.adapters.read_through(shelf.get)
        for name, path in adapters.items():
            parts.adapters.register(name, path)
        self._clock = clock
        self._tap = PlanTap(parts.runner, rank_of=parts.adapters.rank)
        self._engine = Engine(self._tap, parts.tokenizer, parts.adapters, config, blocks=parts.blocks)

    def serve(self, asks: Sequence[Ask]) -> Served:
        """All adapters in one running batch."""
        return self._run([list(range(len(asks)))], asks)

    def serve_base(self, asks: Sequence[Ask]) -> Served:
        """The same requests, of the base model."""
        return self.serve([replace(ask, adapter=None) for ask in asks])

    def serve_by_adapter(self, asks: Sequence[Ask]) -> Served:
        """One adapter after the other, in order of first arrival, each with a batch of its own."""
        groups: dict[str | None, list[int]] = {}
        for at, ask in enumerate(asks):
            groups.setdefault(ask.adapter, []).append(at)
        return self._run(list(groups.values()), asks)

    def _run(self, groups: Sequence[Sequence[int]], asks: Sequence[Ask]) -> Served:
        token_s: list[list[float]] = [[] for _ in asks]
        steps = []
        self._tap.take()
        started_s = self._clock()
        for group in groups:
            numbers = {self._engine.add(_request(asks[at])): at for at in group}
            while self._engine.busy:
                events = self._engine.step()
                now_s = self._clock() - started_s
                for event in events:
                    if event.token_id >= 0:
                        token_s[numbers[event.request_id]].append(now_s)
                steps.append(self._tap.take()[0])
        _check_counts(token_s, asks)
        return Served(token_s, [rows for rows in steps if rows])


class PeftServer:
    """PEFT around transformers, `batch` requests at a time. Raises Unavailable where PEFT is not installed."""

    name = "peft"

    def __init__(
        self,
        reference: ReferenceModel,
        adapters: Mapping[str, Path],
        *,
        batch: int,
        clock: Clock = time.perf_counter,
    ) -> None:
        peft = require("peft")
        (first, path), *others = adapters.items()
        self._model = peft.PeftModel.from_pretrained(reference.model, path, adapter_name=first).eval()
        for name, other in others:
            self._model.load_adapter(other, adapter_name=name)
        self._batch = batch
        self._clock = clock

    def serve(self, asks: Sequence[Ask]) -> Served:
        """Batches in order of arrival."""
        started_s = self._clock()
        token_s: list[list[float]] = []
        for start in range(0, len(asks), self._batch):
            group = asks[start : start + self._batch]
            times = self._generate(group)
            token_s += [[now_s - started_s for now_s in times[: ask.output_tokens]] for ask in group]
        _check_counts(token_s, asks)
        return Served(token_s, [])

    @torch.inference_mode()
    def _generate(self, group: Sequence[Ask]) -> list[float]:
        """When each step of one batch was over."""
        width = max(len(ask.prompt) for ask in group)
        ids = torch.tensor([[*[0] * (width - len(ask.prompt)), *ask.prompt] for ask in group])
        mask = torch.tensor([[0] * (width - len(ask.prompt)) + [1] * len(ask.prompt) for ask in group])
        times: list[float] = []

        def note_time(ids: torch.Tensor, scores: Any, **_: object) -> torch.Tensor:  # noqa: ANN401
            times.append(self._clock())
            return torch.zeros(ids.shape[0], dtype=torch.bool)

        self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(ask.output_tokens for ask in group),
            do_sample=False,
            eos_token_id=None,
            stopping_criteria=[note_time],
            adapter_names=[ask.adapter or BASE for ask in group],
        )
        return times


def _request(ask: Ask) -> Request:
    sampling = SamplingParams(max_tokens=ask.output_tokens, temperature=0.0, ignore_eos=True)
    return Request(list(ask.prompt), sampling, adapter=ask.adapter)


def _check_counts(token_s: Sequence[Sequence[float]], asks: Sequence[Ask]) -> None:
    """What is timed must be what was asked for."""
    assert [len(times) for times in token_s] == [ask.output_tokens for ask in asks]
