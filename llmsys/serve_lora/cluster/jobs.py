"""A request of a trace on its way through a simulated cluster. Knows nothing of replicas."""

from dataclasses import dataclass

from llmsys.artifacts import TraceRecord
from llmsys.serve_lora.step_cost import StepRow

__all__ = ["Job"]


@dataclass(slots=True, eq=False)
class Job:
    """One request: `computed` tokens have keys and values on its replica, `produced` tokens are out.

    order: place in the trace, which is its place in the queue. moves: how often it was taken from a replica.
    """

    record: TraceRecord
    order: int
    adapter: str
    computed: int = 0
    produced: int = 0
    moves: int = 0
    first_s: float | None = None
    finish_s: float | None = None

    @property
    def tenant(self) -> str:
        """Who pays."""
        return self.record.tenant

    @property
    def known(self) -> int:
        """Tokens that are there: the prompt and what was produced."""
        return max(self.record.prompt_tokens, 1) + self.produced

    @property
    def pending(self) -> int:
        """Tokens without keys and values: one while it decodes, more before."""
        return self.known - self.computed

    @property
    def remaining(self) -> int:
        """Tokens still to be produced."""
        return max(self.record.output_tokens, 1) - self.produced

    def row(self, tokens: int, *, rank: int, merged: bool) -> StepRow:
        """Its part of a step in which `tokens` of it are computed; `merged` weights need no adapter."""
        decodes = self.pending == 1 and self.produced > 0
        adapter = "" if merged else self.adapter
        return StepRow(
            request=self.order,
            tenant=self.tenant,
            adapter=adapter,
            rank=rank if adapter else 0,
            prefill_tokens=0 if decodes else tokens,
            decode_tokens=tokens if decodes else 0,
            context_tokens=self.computed + tokens,
        )
