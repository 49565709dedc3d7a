"""One step's plan made into tensors, run through the decoder, and turned into logits.

Orders rows so that each adapter's rows are one segment and gives attention its rows. Knows nothing of
policies, sampling or text.
"""

import torch
from torch import Tensor

from llmsys.engine.adapter_pool import AdapterPool
from llmsys.engine.attention import AttentionPlan, PromptChunk, StepAttention
from llmsys.engine.kv_store import RowKV
from llmsys.engine.model import Decoder
from llmsys.engine.ops import DecodeRows
from llmsys.engine.sequence import Chunk, Plan

__all__ = ["Runner"]


class Runner:
    """The model, its caches and its adapters behind `execute`: plan in, logits out.

    token_by_token: prompts attend as decoding does, one token after the other, so that a token's result does not depend
    on how its prompt was cut.
    """

    def __init__(
        self, decoder: Decoder, adapters: AdapterPool, *, rows: int, max_len: int, token_by_token: bool = False
    ) -> None:
        config = decoder.config
        self._decoder = decoder
        self._adapters = adapters
        self._token_by_token = token_by_token
        self.max_len = min(max_len, config.max_len)
        self.vocab_size = config.vocab
        self._store = RowKV(
            layers=config.layers,
            rows=rows,
            kv_heads=config.kv_heads,
            max_len=self.max_len,
            head_dim=config.head_dim,
            dtype=decoder.dtype,
        )

    def execute(self, plan: Plan) -> Tensor:
        """Compute the plan's tokens; returns float32 [sampling chunks, vocab], rows in the plan's order."""
        hidden = self._hidden(plan)
        with torch.no_grad():  # the caller may change logits in place, which inference mode's tensors refuse
            return self._decoder.logits(hidden)

    @torch.inference_mode()
    def _hidden(self, plan: Plan) -> Tensor:
        """The last layer's output [sampling chunks, hidden] of the tokens whose logits are wanted."""
        ordered = sorted(plan.chunks, key=self._order)
        slots = [chunk.sequence.adapter_slot for chunk in ordered for _ in range(chunk.count)]
        lora = self._adapters.step(slots) if max(slots, default=-1) >= 0 else None
        ids = [token for chunk in ordered for token in _tokens(chunk)]
        attend = StepAttention(self._attention(ordered), self._store, self._decoder.rotary, self._decoder.ops)
        hidden = self._decoder.hidden_states(torch.tensor(ids), attend, lora)
        return hidden[self._last_tokens(ordered, plan)]

    def release(self, sequence_id: int) -> None:
        """Forget a sequence's keys and values."""
        self._store.release(sequence_id)

    def copy_prefix(self, source_id: int, target_id: int, tokens: int) -> None:
        """Give the target sequence a copy of the source's first tokens."""
        self._store.copy_prefix(source_id, target_id, tokens)

    def _order(self, chunk: Chunk) -> tuple[int, int]:
        """Rows of an adapter together, and among those by their place in the store."""
        return self._adapters.row_order(chunk.sequence.adapter_slot), self._store.row(chunk.sequence.id)

    def _attention(self, ordered: list[Chunk]) -> AttentionPlan:
        chunks, waves, first = [], dict[int, list[tuple[int, int, int]]](), 0
        for chunk in ordered:
            row = self._store.row(chunk.sequence.id)
            self._store.filled(chunk.sequence.id, chunk.start + chunk.count)
            if self._token_by_token or (chunk.count == 1 and chunk.start > 0):
                for i in range(chunk.count):
                    waves.setdefault(i, []).append((first + i, row, chunk.start + i + 1))
            else:
                chunks.append(PromptChunk(row, first, chunk.start, chunk.count))
            first += chunk.count
        decodes = tuple(DecodeRows.of(*zip(*wave, strict=True)) for wave in waves.values())
        return AttentionPlan(tuple(chunks), decodes)

    def _last_tokens(self, ordered: list[Chunk], plan: Plan) -> Tensor:
        """Places in the flat batch of the tokens whose logits are wanted, in the plan's order."""
        ends, end = {}, 0
        for chunk in ordered:
            end += chunk.count
            ends[chunk.sequence.id] = end - 1
        return torch.tensor([ends[chunk.sequence.id] for chunk in plan.chunks if chunk.samples], dtype=torch.int64)


def _tokens(chunk: Chunk) -> list[int]:
    return chunk.sequence.token_ids[chunk.start : chunk.start + chunk.count]
