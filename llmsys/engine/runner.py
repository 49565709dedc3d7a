"""One step's plan made into tensors, run through the decoder, and turned into logits.

Orders rows so that each adapter's rows are one segment and tells the cache which tokens are whose. Knows nothing of
policies, sampling or text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from llmsys.engine.adapter_pool import AdapterPool
from llmsys.engine.attention import RowCache
from llmsys.engine.kv_store import RowKV, Span
from llmsys.engine.model import Attend, Decoder
from llmsys.engine.ops import Ops
from llmsys.engine.rope import RotaryTable
from llmsys.engine.sequence import Chunk, Plan

if TYPE_CHECKING:
    from llmsys.engine.decode_graphs import DecodeGraphs

__all__ = ["KVStore", "Runner"]


class KVStore(Protocol):
    """Keys and values by sequence and position, and attention to them: by rows (CPU) or by pages (GPU)."""

    def order(self, sequence_id: int) -> int:
        """Sort key of a sequence's rows in a step; a place is taken for the sequence now if it has none."""

    def release(self, sequence_id: int) -> None:
        """Forget a sequence; unknown ones are ignored."""

    def copy_prefix(self, source_id: int, target_id: int, tokens: int) -> None:
        """Give the target the source's first tokens."""

    def attend(self, spans: Sequence[Span], table: RotaryTable, ops: Ops) -> Attend:
        """The attention of a step over these tokens, which together are its flat batch."""


class Runner:
    """The model, its caches and its adapters behind `execute`: plan in, logits out."""

    def __init__(
        self,
        decoder: Decoder,
        adapters: AdapterPool,
        cache: KVStore,
        *,
        max_len: int,
        graphs: "DecodeGraphs | None" = None,
    ) -> None:
        """graphs: what runs steps of decoding base rows, over the same pages as `cache`."""
        self._decoder = decoder
        self._adapters = adapters
        self._cache = cache
        self._graphs = graphs
        self.max_len = min(max_len, decoder.config.max_len)
        self.vocab_size = decoder.config.vocab

    @classmethod
    def on_rows(
        cls, decoder: Decoder, adapters: AdapterPool, *, rows: int, max_len: int, token_by_token: bool = False
    ) -> "Runner":
        """A runner with a row of a CPU's memory for each sequence; token_by_token: as `RowCache` says."""
        config = decoder.config
        store = RowKV(
            layers=config.layers,
            rows=rows,
            kv_heads=config.kv_heads,
            max_len=min(max_len, config.max_len),
            head_dim=config.head_dim,
            dtype=decoder.dtype,
        )
        return cls(decoder, adapters, RowCache(store, token_by_token=token_by_token), max_len=max_len)

    def execute(self, plan: Plan) -> Tensor:
        """Compute the plan's tokens; returns float32 [sum of chunk.rows, vocab], in the plan's order."""
        hidden = self._hidden(plan)
        with torch.no_grad():  # the caller may change logits in place, which inference mode's tensors refuse
            return self._decoder.logits(hidden)

    @torch.inference_mode()
    def _hidden(self, plan: Plan) -> Tensor:
        """The last layer's output [sum of chunk.rows, hidden] of the tokens whose logits are wanted."""
        ordered = sorted(plan.chunks, key=self._order)
        slots = [chunk.sequence.adapter_slot for chunk in ordered for _ in range(chunk.count)]
        lora = self._adapters.step(slots) if max(slots, default=-1) >= 0 else None
        tokens, spans = [token for chunk in ordered for token in _tokens(chunk)], _spans(ordered)
        hidden = None
        if self._graphs is not None and lora is None and len(tokens) == len(spans):
            hidden = self._graphs.hidden_states(tokens, spans)
        if hidden is None:
            ids = torch.tensor(tokens, device=self._decoder.device)
            attend = self._cache.attend(spans, self._decoder.rotary, self._decoder.ops)
            hidden = self._decoder.hidden_states(ids, attend, lora)
        return hidden[_wanted_tokens(spans, plan).to(hidden.device)]

    def release(self, sequence_id: int) -> None:
        """Forget a sequence's keys and values."""
        self._cache.release(sequence_id)

    def copy_prefix(self, source_id: int, target_id: int, tokens: int) -> None:
        """Give the target sequence the source's first tokens."""
        self._cache.copy_prefix(source_id, target_id, tokens)

    def _order(self, chunk: Chunk) -> tuple[int, int]:
        """Rows of an adapter together, and among those by their place in the cache."""
        return self._adapters.row_order(chunk.sequence.adapter_slot), self._cache.order(chunk.sequence.id)


def _spans(ordered: list[Chunk]) -> list[Span]:
    spans, first = [], 0
    for chunk in ordered:
        spans.append(Span(chunk.sequence.id, first, chunk.start, chunk.count))
        first += chunk.count
    return spans


def _wanted_tokens(spans: list[Span], plan: Plan) -> Tensor:
    """Places in the flat batch of the tokens whose logits are wanted, in the plan's order."""
    ends = {span.sequence_id: span.first + span.count for span in spans}
    places = [range(ends[c.sequence.id] - c.rows, ends[c.sequence.id]) for c in plan.chunks]
    return torch.tensor([place for own in places for place in own], dtype=torch.int64)


def _tokens(chunk: Chunk) -> list[int]:
    return chunk.sequence.token_ids[chunk.start : chunk.start + chunk.count]
