"""Put an engine's outside parts together: device, weights, tokenizer, adapter slots, runner.

Knows nothing about requests; everything heavy is imported when it is needed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmsys.engine.config import EngineConfig
from llmsys.engine.errors import RequestError

if TYPE_CHECKING:
    import torch

    from llmsys.engine.adapter_pool import AdapterMemory, AdapterPool
    from llmsys.engine.model import Decoder
    from llmsys.engine.runner import Runner
    from llmsys.engine.tokens import Tokenizer

__all__ = ["EngineParts", "assemble"]

ROW_TOKENS = 4096
"""A row's length where none is asked for: pages that no token touches cost nothing, address space does."""


@dataclass(frozen=True, slots=True)
class EngineParts:
    """What `Engine.load` stands its control side on; a token's keys and values take `token_bytes`."""

    runner: "Runner"
    tokenizer: "Tokenizer"
    adapters: "AdapterPool"
    blocks: int
    token_bytes: int
    digest: bytes
    device_type: str
    shared_blocks: bool


def assemble(model: str, config: EngineConfig) -> EngineParts:
    """Load the model and size its caches; raises ModelError, Unavailable, or RequestError for what is not offered.

    device "auto" is the CPU: the path of a GPU must be named, because no one has run it yet.
    """
    import torch

    from llmsys.engine.adapter_pool import AdapterPool
    from llmsys.engine.loader import load_model
    from llmsys.engine.model_cache import ModelCache
    from llmsys.gpu import choose_device, choose_dtype

    device = choose_device("cpu" if config.device == "auto" else config.device)
    fixed = config.batch_invariant
    if config.memory_bytes is not None and device.type != "cpu":
        raise RequestError(
            f"memory_bytes is not offered on {device}, whose pages are taken at once; expected device cpu"
        )
    if fixed and device.type != "cpu":
        raise RequestError(f"batch_invariant is not offered on {device}; expected device cpu")
    cache = ModelCache.of_user(limit_bytes=config.cache_bytes) if config.cache_bytes else None
    dtype = choose_dtype(config.dtype, device)
    int4 = config.quant == "int4"
    if int4 and (device.type, dtype) != ("cpu", torch.bfloat16):
        raise RequestError(f"quant int4 is not offered in {dtype} on {device}; expected dtype bfloat16, device cpu")
    four_bit = int4 or (config.quant == "auto" and not fixed and device.type == "cpu")
    loaded = load_model(model, device=device, dtype=dtype, cache=cache, four_bit=four_bit, quantise=int4, tiled=fixed)
    adapters = AdapterPool(
        loaded.config,
        slots=config.lora_slots,
        rank_max=config.lora_rank_max,
        dtype=loaded.decoder.dtype,
        memory_bytes=config.lora_cpu_bytes,
        memory=_adapter_memory(loaded.decoder, fixed),
    )
    token_bytes = 2 * loaded.config.layers * loaded.config.kv_width * loaded.decoder.dtype.itemsize
    blocks = _blocks(config, token_bytes, device)
    return EngineParts(
        runner=_runner(loaded.decoder, adapters, config, blocks),
        tokenizer=loaded.tokenizer,
        adapters=adapters,
        blocks=blocks,
        token_bytes=token_bytes,
        digest=loaded.digest,
        device_type=device.type,
        shared_blocks=device.type != "cpu",
    )


def _adapter_memory(decoder: "Decoder", fixed: bool) -> "AdapterMemory[Any]":
    from llmsys.engine.lora import LONG_ROWS, HostAdapters

    if decoder.device.type == "cpu":
        long_rows = 1 << 62 if fixed else LONG_ROWS
        return HostAdapters(decoder.config, dtype=decoder.dtype, long_rows=long_rows, decoder=decoder)
    from llmsys.engine.device_lora import DeviceAdapters

    return DeviceAdapters(decoder.config, dtype=decoder.dtype, device=decoder.device, decoder=decoder)


def _runner(decoder: "Decoder", adapters: "AdapterPool", config: EngineConfig, blocks: int) -> "Runner":
    """Rows on a CPU; on a GPU pages, and a spare one for each sequence that writes behind a shared prefix."""
    from llmsys.engine.runner import Runner

    shape = decoder.config
    max_len = min(config.max_len or ROW_TOKENS, shape.max_len)
    if decoder.device.type == "cpu":
        rows, fixed = config.kv_rows, config.batch_invariant
        return Runner.on_rows(decoder, adapters, rows=rows, max_len=max_len, token_by_token=fixed)
    from llmsys.engine.decode_graphs import DecodeGraphs, capture_cuda
    from llmsys.engine.paged_cache import PagedCache
    from llmsys.engine.paged_store import PagedKV

    store = PagedKV(
        layers=shape.layers,
        pages=blocks + config.kv_rows,
        kv_heads=shape.kv_heads,
        page_tokens=config.block_tokens,
        head_dim=shape.head_dim,
        dtype=decoder.dtype,
        device=decoder.device,
    )
    graphs = DecodeGraphs(decoder, store, capture_cuda)
    return Runner(decoder, adapters, PagedCache(store), max_len=max_len, graphs=graphs)


def _blocks(config: EngineConfig, token_bytes: int, device: "torch.device") -> int:
    """Blocks of keys and values that the budget holds: of the configuration, or a quarter of the free memory."""
    from llmsys.gpu import device_memory

    budget = config.memory_bytes or config.kv_memory_bytes or device_memory(device).free_bytes // 4
    blocks = budget // (config.block_tokens * token_bytes)
    if blocks < 1:
        name = "memory_bytes" if config.memory_bytes else "kv_memory_bytes"
        raise RequestError(f"{name} is {budget}; expected {config.block_tokens * token_bytes} or more")
    return blocks
