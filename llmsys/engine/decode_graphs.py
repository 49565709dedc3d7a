"""Decode steps on pages captured once per size and replayed: a GPU's answer to a thousand small launches a step.

A step of n decoding rows runs in the frame of the next larger bucket. What differs between steps of a frame (tokens,
positions, pages) stands in one buffer that is written before the replay; rows that nobody needs read nothing and write
to a page that nobody reads. Steps with prompts or adapters are not captured. Knows nothing of requests.

On a CPU `run_again` stands in for CUDA's graphs, with the same buffers and the same frames; that is what has run.
Capture on a GPU has never run on any.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmsys.engine.kv_store import Span
from llmsys.engine.model import Decoder
from llmsys.engine.paged_store import PagedKV
from llmsys.gpu import next_power_of_2
from llmsys.gpu.kernels.paged_attention import paged_attention

__all__ = ["BUCKETS", "Capture", "DecodeGraphs", "capture_cuda", "run_again"]

BUCKETS = (1, 2, 4, 8, *range(16, 257, 8))
"""Rows of the frames; more rows are not captured."""
ID, POSITION, PAGE, CONTEXT, TABLE = range(5)
"""Columns of a frame's buffer; the table's pages go on to the end."""

Run = Callable[[], Tensor]
Capture = Callable[[Run], tuple[Callable[[], None], Tensor]]
"""From a function to what repeats its work into the same memory, and that memory."""


def capture_cuda(run: Run) -> tuple[Callable[[], None], Tensor]:
    """Capture as a CUDA graph, after one run aside that compiles kernels and fills caches. Never run on a GPU yet."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    return graph.replay, out


def run_again(run: Run) -> tuple[Callable[[], None], Tensor]:
    """The twin for a CPU: repeat the function itself."""
    out = run()

    def replay() -> None:
        out.copy_(run())

    return replay, out


@dataclass(frozen=True, slots=True)
class _Frame:
    """One size: the buffer [rows, TABLE + pages] int64 that a replay reads, and the hidden states that it writes."""

    buffer: Tensor
    replay: Callable[[], None]
    hidden: Tensor


class DecodeGraphs:
    """Captured decode steps of one decoder on one store of pages, by rows and pages per row."""

    def __init__(self, decoder: Decoder, store: PagedKV, capture: Capture) -> None:
        self._decoder = decoder
        self._store = store
        self._capture = capture
        self._frames: dict[tuple[int, int], _Frame] = {}

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Rows and pages per row of what has been captured, in order of first use."""
        return tuple(self._frames)

    def hidden_states(self, ids: Sequence[int], spans: Sequence[Span]) -> Tensor | None:
        """The last layer's output [n, hidden] of n decoding rows, valid until the next call; None for too many.

        ids: one token per span, each of which has one. Keys and values are written to the pages.
        """
        bucket = next((rows for rows in BUCKETS if rows >= len(spans)), None)
        if bucket is None:
            return None
        for span in spans:
            self._store.prepare(span.sequence_id, span.start, span.end)
        tables = [self._store.table(span.sequence_id) for span in spans]
        width = next_power_of_2(max(map(len, tables)))
        frame = self._frame(bucket, width)
        page_tokens = self._store.page_tokens
        rows = [
            [token, span.start, table[span.start // page_tokens], span.end, *table, *[0] * (width - len(table))]
            for token, span, table in zip(ids, spans, tables, strict=True)
        ]
        rows += [self._idle(width)] * (bucket - len(rows))
        frame.buffer.copy_(torch.tensor(rows, dtype=torch.int64), non_blocking=True)
        frame.replay()
        return frame.hidden[: len(spans)]

    def _idle(self, width: int) -> list[int]:
        """A row that attends to nothing and writes where nobody reads."""
        return [0, 0, self._store.spare_page, 0, *[0] * width]

    def _frame(self, rows: int, width: int) -> _Frame:
        if (rows, width) not in self._frames:
            buffer = torch.tensor([self._idle(width)] * rows, dtype=torch.int64, device=self._store.device)
            replay, hidden = self._capture(lambda: self._step(buffer))
            self._frames[rows, width] = _Frame(buffer, replay, hidden)
        return self._frames[rows, width]

    def _step(self, buffer: Tensor) -> Tensor:
        """What a frame does, from its buffer alone."""
        store, table = self._store, self._decoder.rotary
        pages, offsets = buffer[:, PAGE], buffer[:, POSITION] % store.page_tokens
        tables, contexts = buffer[:, TABLE:], buffer[:, CONTEXT].contiguous()
        angles, longest = table.at(buffer[:, POSITION]), tables.shape[1] * store.page_tokens

        def attend(layer: int, qk: Tensor, v: Tensor) -> Tensor:
            cache = store.layers[layer]
            heads, dim = qk.shape[1] - cache.shape[2], qk.shape[2]
            rotated = table.rotate(qk, *angles)
            cache[pages, 0, :, offsets] = rotated[:, heads:]
            cache[pages, 1, :, offsets] = v
            scale = dim**-0.5
            out = paged_attention(rotated[:, :heads], cache, tables, contexts, scale=scale, longest=longest)
            return out.flatten(1)

        return self._decoder.hidden_states(buffer[:, ID], attend, None)
