"""Listen in on the runner: which requests had how many tokens in the step just done.

An executor that hands every plan on unchanged and keeps the rows of it. Knows nothing of cost.
"""

from collections.abc import Callable

from torch import Tensor

from llmsys.engine.parts import Executor
from llmsys.engine.sequence import Chunk, Plan
from llmsys.serve_lora.step_cost import StepRow

__all__ = ["PlanTap"]


class PlanTap:
    """An engine's executor with an ear: `take` gives the rows since the last call, and their new tokens."""

    def __init__(self, executor: Executor, *, rank_of: Callable[[str], int]) -> None:
        self._executor = executor
        self._rank_of = rank_of
        self._rows: list[StepRow] = []
        self._sampled: list[int] = []

    @property
    def vocab_size(self) -> int:
        """Width of a row of logits."""
        return self._executor.vocab_size

    @property
    def max_len(self) -> int:
        """Longest sequence, prompt and output together."""
        return self._executor.max_len

    def execute(self, plan: Plan) -> Tensor:
        """Run the plan and note its rows once it has run."""
        logits = self._executor.execute(plan)
        self._rows += [self._row(chunk) for chunk in plan.chunks]
        self._sampled += [int(chunk.samples) for chunk in plan.chunks]
        return logits

    def release(self, sequence_id: int) -> None:
        """Forget the keys and values of a sequence."""
        self._executor.release(sequence_id)

    def copy_prefix(self, source_id: int, target_id: int, tokens: int) -> None:
        """Give `target_id` the keys and values of the first `tokens` tokens of `source_id`."""
        self._executor.copy_prefix(source_id, target_id, tokens)

    def take(self) -> tuple[list[StepRow], list[int]]:
        """Rows of the plans since the last call, and how many tokens each sampled."""
        rows, sampled = self._rows, self._sampled
        self._rows, self._sampled = [], []
        return rows, sampled

    def _row(self, chunk: Chunk) -> StepRow:
        sequence = chunk.sequence
        decodes = chunk.start >= sequence.prompt_tokens
        adapter = sequence.request.adapter or ""
        return StepRow(
            request=sequence.request.request_id,
            tenant=sequence.request.tenant,
            adapter=adapter,
            rank=self._rank_of(adapter) if adapter else 0,
            prefill_tokens=0 if decodes else chunk.count,
            decode_tokens=chunk.count if decodes else 0,
            context_tokens=chunk.start + chunk.count,
        )
