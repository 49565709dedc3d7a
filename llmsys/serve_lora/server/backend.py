"""The engine behind a server: loaded, metered, opened for one event loop, with its registry of adapters.

Knows nothing of HTTP.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmsys.engine.assembly import assemble
from llmsys.engine.core import Engine
from llmsys.engine.model import ModelConfig
from llmsys.engine.parts import TextCodec
from llmsys.engine.server_loop import AsyncEngine
from llmsys.serve_lora.adapter_check import checked_reader
from llmsys.serve_lora.adapter_shelf import AdapterShelf
from llmsys.serve_lora.json_grammar import JsonGrammar
from llmsys.serve_lora.ledger import VERSION, Ledger, Opening
from llmsys.serve_lora.server.jobs import MakeMask
from llmsys.serve_lora.server.metering import Meter, MeteredExecutor
from llmsys.serve_lora.server.registry import AdapterRegistry, Slots
from llmsys.serve_lora.server.settings import ServerSettings
from llmsys.serve_lora.step_cost import StepModel

if TYPE_CHECKING:
    from llmsys.engine.adapter_pool import AdapterPool

__all__ = ["Backend", "Loaded", "load", "opened"]

KEPT_WINDOWS = 60


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine that nobody runs yet, and what was found while loading."""

    engine: Engine
    pool: "AdapterPool"
    model: ModelConfig
    meter: Meter
    ranks: dict[str, int]
    shelf: AdapterShelf


@dataclass(frozen=True, slots=True)
class Backend:
    """A running engine: its door, its texts, its adapters and its costs. `names` are those of the base model."""

    door: AsyncEngine
    tokenizer: TextCodec
    registry: AdapterRegistry
    pool: "AdapterPool"
    shelf: AdapterShelf
    meter: Meter
    masks: MakeMask | None
    names: tuple[str, ...]
    max_len: int
    vocab_size: int


def load(settings: ServerSettings) -> Loaded:
    """Load the model and put the meter in; takes seconds. Raises as `Engine.load` does."""
    from llmsys.engine.loader import read_config
    from llmsys.gpu import find_model

    config = settings.engine.config()
    model = read_config(find_model(settings.model))
    parts = assemble(settings.model, config)
    clock = _clock()
    opening = Opening(
        version=VERSION, devices=1, kv_token_bytes=parts.token_bytes, prices=settings.records.prices, unix_s=time.time()
    )
    ledger = Ledger(opening, model=StepModel(), start_s=clock(), path=settings.records.ledger, keep=KEPT_WINDOWS)
    meter = Meter(ledger, clock)
    ranks: dict[str, int] = {}
    shelf = AdapterShelf(
        checked_reader(model, rank_max=config.lora_rank_max), limit_bytes=settings.engine.host_adapters_bytes
    )
    parts.adapters.read_through(shelf.get)
    engine = Engine(
        MeteredExecutor(parts.runner, meter, rank_of=lambda name: ranks.get(name, 0)),
        parts.tokenizer,
        parts.adapters,
        config,
        blocks=parts.blocks,
        model=parts.digest,
        device_type=parts.device_type,
        shared_blocks=parts.shared_blocks,
        on_event=meter.on_event,
    )
    return Loaded(engine, parts.adapters, model, meter, ranks, shelf)


@asynccontextmanager
async def opened(loaded: Loaded, settings: ServerSettings) -> AsyncIterator[Backend]:
    """Run the engine in its thread until the block ends; then its ledger is complete."""
    try:
        async with AsyncEngine(loaded.engine) as door:

            async def in_engine(action: Callable[[Slots], None]) -> None:
                await door.call(lambda _: action(loaded.pool))

            yield Backend(
                door=door,
                tokenizer=loaded.engine.tokenizer,
                registry=AdapterRegistry(
                    settings.adapters,
                    settings.named,
                    shelf=loaded.shelf,
                    pins_max=settings.engine.lora_slots - 1,
                    in_engine=in_engine,
                    ranks=loaded.ranks,
                ),
                pool=loaded.pool,
                shelf=loaded.shelf,
                meter=loaded.meter,
                masks=_masks(loaded),
                names=tuple(dict.fromkeys((settings.model, Path(settings.model).stem))),
                max_len=loaded.engine.max_len,
                vocab_size=loaded.model.vocab,
            )
    finally:
        loaded.shelf.close()
        loaded.meter.close()


def _masks(loaded: Loaded) -> MakeMask | None:
    """What makes an answer's mask, None for a tokenizer that is not the engine's own."""
    from llmsys.engine.tokens import Tokenizer

    tokenizer = loaded.engine.tokenizer
    if not isinstance(tokenizer, Tokenizer):
        return None
    grammar, vocab = JsonGrammar(tokenizer), loaded.model.vocab
    return lambda schema, prompt_tokens: grammar.mask(schema, prompt_tokens=prompt_tokens, vocab=vocab)


def _clock() -> Callable[[], float]:
    started_s = time.monotonic()
    return lambda: time.monotonic() - started_s
