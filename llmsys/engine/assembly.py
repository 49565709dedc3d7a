"""Put an engine's outside parts together: device, weights, tokenizer, adapter slots, runner.

Knows nothing about requests; everything heavy is imported when it is needed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmsys.engine.config import EngineConfig
from llmsys.engine.errors import RequestError
from llmsys.errors import Unavailable

if TYPE_CHECKING:
    from llmsys.engine.adapter_pool import AdapterPool
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
    """Load the model and size its caches; raises ModelError, Unavailable, or RequestError for what is not offered."""
    from llmsys.engine.adapter_pool import AdapterPool
    from llmsys.engine.loader import load_model
    from llmsys.engine.lora import LONG_ROWS
    from llmsys.engine.model_cache import ModelCache
    from llmsys.engine.runner import Runner
    from llmsys.gpu import choose_device, choose_dtype

    device = choose_device("cpu" if config.device == "auto" else config.device)
    if device.type != "cpu":
        raise Unavailable(f"the engine has no path for {device} yet", "give device cpu or auto")
    cache = ModelCache.of_user(limit_bytes=config.cache_bytes) if config.cache_bytes else None
    fixed = config.batch_invariant
    dtype = choose_dtype(config.dtype, device)
    loaded = load_model(
        model, device=device, dtype=dtype, cache=cache, four_bit=config.quant == "auto" and not fixed, tiled=fixed
    )
    max_len = min(config.max_len or ROW_TOKENS, loaded.config.max_len)
    adapters = AdapterPool(
        loaded.config,
        slots=config.lora_slots,
        rank_max=config.lora_rank_max,
        dtype=loaded.decoder.dtype,
        memory_bytes=config.lora_cpu_bytes,
        long_rows=1 << 62 if fixed else LONG_ROWS,
    )
    token_bytes = 2 * loaded.config.layers * loaded.config.kv_width * loaded.decoder.dtype.itemsize
    return EngineParts(
        runner=Runner(loaded.decoder, adapters, rows=config.kv_rows, max_len=max_len, token_by_token=fixed),
        tokenizer=loaded.tokenizer,
        adapters=adapters,
        blocks=_blocks(config, token_bytes),
        token_bytes=token_bytes,
        digest=loaded.digest,
        device_type=device.type,
        shared_blocks=False,
    )


def _blocks(config: EngineConfig, token_bytes: int) -> int:
    """Blocks of keys and values that the budget holds: kv_memory_bytes, or a quarter of the free memory."""
    from llmsys.gpu import host_memory

    budget = config.kv_memory_bytes or host_memory().free_bytes // 4
    blocks = budget // (config.block_tokens * token_bytes)
    if blocks < 1:
        raise RequestError(f"kv_memory_bytes is {budget}; expected {config.block_tokens * token_bytes} or more")
    return blocks
