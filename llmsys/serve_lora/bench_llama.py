"""llama.cpp as a peer of the benches, through its own C interface: a closed loop of requests, or one batch.

A step of llama.cpp has one set of adapters for all of its rows, so requests run adapter by adapter, in order of first
arrival, each adapter's as one running batch with its prompts beside the decoding rows: the best that it can do here.
The same GGUF weights as ours, the same adapters converted. Knows nothing of tables.
"""

import ctypes
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmsys.engine.loader import read_config
from llmsys.errors import Unavailable
from llmsys.gpu import find_model, require
from llmsys.serve_lora.adapter_convert import convert_adapter
from llmsys.serve_lora.bench_servers import Clock, Served
from llmsys.serve_lora.punica_workload import Ask

__all__ = ["LlamaDecoder", "LlamaServer"]

CHUNK_TOKENS = 512


@dataclass(slots=True)
class _Row:
    """A sequence that runs: which request it answers, its length so far, the token that comes next."""

    at: int
    length: int
    token: int


class LlamaServer:
    """llama.cpp in this process. Raises Unavailable without llama-cpp-python, or for a model that is no GGUF file.

    place: where converted adapters are written; batch: sequences at once; limit: tokens of the longest. said: tokens of
    each request of the last `serve`.
    """

    name = "llama.cpp"

    def __init__(
        self,
        model: str,
        adapters: Mapping[str, Path],
        *,
        place: Path,
        batch: int,
        limit: int,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._kit: Any = require("llama_cpp")
        path = find_model(model)
        if path.suffix != ".gguf":
            raise Unavailable(f"llama.cpp cannot read {path}", "give --model a .gguf file")
        kit = self._kit
        kit.llama_log_set(_QUIET, None)
        kit.llama_backend_init()
        self._model = kit.llama_model_load_from_file(str(path).encode(), kit.llama_model_default_params())
        self._context = kit.llama_init_from_model(self._model, self._settings(batch, limit))
        self._vocab = kit.llama_vocab_n_tokens(kit.llama_model_get_vocab(self._model))
        self._batch_rows = kit.llama_batch_init(max(CHUNK_TOKENS, batch), 0, 1)
        self._batch, self._clock = batch, clock
        self.said: list[list[int]] = []
        self._adapters = self._load(adapters, place, path)

    def serve(self, asks: Sequence[Ask]) -> Served:
        """As the protocol says, one adapter after the other."""
        groups: dict[str | None, deque[int]] = {}
        for at, ask in enumerate(asks):
            groups.setdefault(ask.adapter, deque()).append(at)
        token_s: list[list[float]] = [[] for _ in asks]
        self.said = [[] for _ in asks]
        started_s = self._clock()
        for name, waiting in groups.items():
            self._use(name)
            self._run(waiting, asks, token_s, started_s)
        assert [len(times) for times in token_s] == [ask.output_tokens for ask in asks]
        return Served(token_s, [])

    def close(self) -> None:
        """Free what llama.cpp holds."""
        kit = self._kit
        kit.llama_batch_free(self._batch_rows)
        kit.llama_free(self._context)
        kit.llama_model_free(self._model)

    def _settings(self, batch: int, limit: int) -> Any:  # noqa: ANN401
        settings = self._kit.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = batch * (limit + 8), batch
        settings.n_batch = settings.n_ubatch = max(CHUNK_TOKENS, batch)
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        settings.no_perf = True
        return settings

    def _load(self, adapters: Mapping[str, Path], place: Path, model: Path) -> dict[str, Any]:
        """The adapters by name; a directory that several names share is converted once, and loaded for each."""
        config = read_config(model)
        converted: dict[Path, Path] = {}
        for path in adapters.values():
            if path not in converted:
                converted[path] = place / f"adapter-{len(converted)}.gguf"
                convert_adapter(path, converted[path], config)
        return {
            name: self._kit.llama_adapter_lora_init(self._model, str(converted[path]).encode())
            for name, path in adapters.items()
        }

    def _use(self, name: str | None) -> None:
        """Let the steps from now on have this adapter, or none."""
        used = [self._adapters[name]] if name is not None else []
        handles = (self._kit.llama_adapter_lora_p_ctypes * len(used))(*used)
        scales = (ctypes.c_float * len(used))(*[1.0] * len(used))
        self._kit.llama_set_adapters_lora(self._context, handles, len(used), scales)

    def _run(self, waiting: deque[int], asks: Sequence[Ask], token_s: list[list[float]], started_s: float) -> None:
        """The requests of one adapter, to the end."""
        memory = self._kit.llama_get_memory(self._context)
        running: dict[int, _Row] = {}
        while waiting or running:
            logits = self._step(waiting, running, asks)
            now_s = self._clock() - started_s
            for seat, row in list(running.items()):
                if seat not in logits:
                    continue
                row.token = logits[seat]
                token_s[row.at].append(now_s)
                self.said[row.at].append(row.token)
                if len(token_s[row.at]) == asks[row.at].output_tokens:
                    del running[seat]
                    self._kit.llama_memory_seq_rm(memory, seat, -1, -1)

    def _step(self, waiting: deque[int], running: dict[int, _Row], asks: Sequence[Ask]) -> dict[int, int]:
        """Decode every running row, and as many whole prompts as have room; the next token by seat."""
        rows = self._batch_rows
        rows.n_tokens = 0
        wanted: dict[int, int] = {}
        for seat, row in running.items():
            wanted[seat] = self._put(seat, [row.token], row.length)
            row.length += 1
        free = [seat for seat in range(self._batch) if seat not in running]
        while waiting and free and rows.n_tokens + len(asks[waiting[0]].prompt) <= max(CHUNK_TOKENS, self._batch):
            at, seat = waiting.popleft(), free.pop(0)
            wanted[seat] = self._put(seat, asks[at].prompt, 0)
            running[seat] = _Row(at, len(asks[at].prompt), -1)
        if status := self._kit.llama_decode(self._context, rows):
            raise RuntimeError(f"llama_decode says {status}")
        return {seat: self._best(place) for seat, place in wanted.items()}

    def _put(self, seat: int, tokens: Sequence[int], start: int) -> int:
        """Append tokens of one sequence to the step; the place of the last, whose logits are wanted."""
        rows = self._batch_rows
        for offset, token in enumerate(tokens):
            place = rows.n_tokens
            rows.token[place], rows.pos[place] = token, start + offset
            rows.n_seq_id[place], rows.seq_id[place][0] = 1, seat
            rows.logits[place] = offset == len(tokens) - 1
            rows.n_tokens += 1
        return int(rows.n_tokens) - 1

    def _best(self, place: int) -> int:
        logits = self._kit.llama_get_logits_ith(self._context, place)
        return int(np.ctypeslib.as_array(logits, shape=(self._vocab,)).argmax())


class LlamaDecoder:
    """llama.cpp with the file's own weights; base rows only. Raises Unavailable as `LlamaServer` does.

    batch: sequences at once, further ones wait; limit: tokens of the longest.
    """

    name = "llama.cpp"
    mixes = False

    def __init__(self, model: str, *, batch: int, limit: int) -> None:
        self._server = LlamaServer(model, {}, place=Path(), batch=batch, limit=limit)

    def decode(self, prompts: Sequence[list[int]], new_tokens: int, adapters: Sequence[str | None]) -> list[list[int]]:
        """As `GreedyDecoder` says; `adapters` are all None."""
        self._server.serve([Ask(tuple(ids), new_tokens, None) for ids in prompts])
        return self._server.said

    def close(self) -> None:
        """Free what llama.cpp holds."""
        self._server.close()


_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
