"""Three ways to decode the same batch greedily: our engine, transformers' `generate`, PEFT's mixed `adapter_names`.

Each takes token ids of equal length and gives token ids; what is timed and compared is `engine_bench`'s. A peer's own
best settings are used: static shapes, no padding, its cache.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from llmsys.engine.assembly import assemble
from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.errors import EngineError
from llmsys.engine.parts import Executor
from llmsys.engine.sequence import Plan, Request, SamplingParams
from llmsys.gpu import require
from llmsys.serve_lora.reference_model import ReferenceModel

__all__ = ["EngineDecoder", "ForwardClock", "GreedyDecoder", "PeftDecoder", "TransformersDecoder"]

Rows = Sequence[list[int]]
BASE = "__base__"


class GreedyDecoder(Protocol):
    """Something that continues a batch. `mixes` says whether rows may carry different adapters."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    @property
    def mixes(self) -> bool:
        """Whether `adapters` may name any."""

    def decode(self, prompts: Rows, new_tokens: int, adapters: Sequence[str | None]) -> list[list[int]]:
        """Exactly `new_tokens` greedy tokens per row; an end token does not end it. adapters: one per row."""


class EngineDecoder:
    """Our engine, prefix cache off so that no run profits from the one before."""

    name = "llmsys"
    mixes = True

    def __init__(
        self,
        model: str,
        adapters: Mapping[str, Path],
        *,
        device: str,
        dtype: str,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        config = EngineConfig(device=device, dtype=dtype, prefix_cache=False, max_batch_tokens=2048)
        parts = assemble(model, config)
        self._forward = ForwardClock(parts.runner, clock)
        self._clock, self._spent_s = clock, 0.0
        self._engine = Engine(
            self._forward,
            parts.tokenizer,
            parts.adapters,
            config,
            blocks=parts.blocks,
            model=parts.digest,
            device_type=parts.device_type,
            shared_blocks=parts.shared_blocks,
        )
        for name, path in adapters.items():
            self._engine.adapters.register(name, path)

    def decode(self, prompts: Rows, new_tokens: int, adapters: Sequence[str | None]) -> list[list[int]]:
        """As the protocol says. Raises EngineError for a row that ends early."""
        sampling = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        rows = [Request(ids, sampling, adapter=name) for ids, name in zip(prompts, adapters, strict=True)]
        started_s = self._clock()
        answers = [list(answer.token_ids) for answer in self._engine.generate(rows)]
        self._spent_s += self._clock() - started_s
        if {len(answer) for answer in answers} != {new_tokens}:
            raise EngineError(f"a row ended before its {new_tokens} tokens")
        return answers

    def overhead_ms(self) -> float:
        """Milliseconds of a step outside its forward pass: plan, sampling, text. A mean of all since the last call."""
        spent_s, self._spent_s = self._spent_s, 0.0
        forward_s, steps = self._forward.take()
        return 1e3 * (spent_s - forward_s) / max(steps, 1)


class ForwardClock:
    """An engine's executor that adds up how long its plans take."""

    def __init__(self, executor: Executor, clock: Callable[[], float]) -> None:
        self._executor = executor
        self._clock = clock
        self._spent_s, self._steps = 0.0, 0
        self.vocab_size, self.max_len = executor.vocab_size, executor.max_len
        self.release, self.copy_prefix = executor.release, executor.copy_prefix

    def execute(self, plan: Plan) -> torch.Tensor:
        """Run the plan."""
        started_s = self._clock()
        logits = self._executor.execute(plan)
        self._spent_s += self._clock() - started_s
        self._steps += 1
        return logits

    def take(self) -> tuple[float, int]:
        """Seconds and number of the plans since the last call."""
        found = self._spent_s, self._steps
        self._spent_s, self._steps = 0.0, 0
        return found


class TransformersDecoder:
    """transformers' `generate`; base rows only."""

    name = "transformers generate"
    mixes = False

    def __init__(self, reference: ReferenceModel) -> None:
        self._model = reference.model

    def decode(self, prompts: Rows, new_tokens: int, adapters: Sequence[str | None]) -> list[list[int]]:
        """As the protocol says; `adapters` are all None."""
        return _generate(self._model, prompts, new_tokens)


class PeftDecoder:
    """PEFT around transformers, a name per row. Raises Unavailable where PEFT is not installed."""

    name = "peft adapter_names"
    mixes = True

    def __init__(self, reference: ReferenceModel, adapters: Mapping[str, Path]) -> None:
        peft = require("peft")
        (first, path), *others = adapters.items()
        self.model = peft.PeftModel.from_pretrained(reference.model, path, adapter_name=first).eval()
        for name, other in others:
            self.model.load_adapter(other, adapter_name=name)

    def decode(self, prompts: Rows, new_tokens: int, adapters: Sequence[str | None]) -> list[list[int]]:
        """As the protocol says."""
        return _generate(self.model, prompts, new_tokens, adapter_names=[name or BASE for name in adapters])


@torch.inference_mode()
def _generate(model: Any, prompts: Rows, new_tokens: int, **given: object) -> list[list[int]]:  # noqa: ANN401
    ids = torch.tensor([list(row) for row in prompts])
    # no end token, as in our engine: min_new_tokens would forbid it, and so change the answers that are compared
    limits = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None}
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **limits, **given)
    return [[int(token) for token in row] for row in out[:, ids.shape[1] :]]
