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
from llmsys.serve_lora.ledger import VERSION, Ledger, Opening
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


@dataclass(frozen=True, slots=True)
class Backend:
    """A running engine: its door, its texts, its adapters and its costs. `names` are those of the base model."""

    door: AsyncEngine
    tokenizer: TextCodec
    registry: AdapterRegistry
    pool: "AdapterPool"
    meter: Meter
    names: tuple[str, ...]
    max_len: int
    vocab_size: int


def load(settings: ServerSettings) -> Loaded:
    """Load the model and put the meter in; takes seconds. Raises as `Engine.load` does."""
    from llmsys.engine.loader import find_model, read_config

    config = settings.engine.config()
    model = read_config(find_model(settings.model))
    parts = assemble(settings.model, config)
    clock = _clock()
    opening = Opening(
        version=VERSION, devices=1, kv_token_bytes=parts.token_bytes, prices=settings.prices, unix_s=time.time()
    )
    ledger = Ledger(opening, model=StepModel(), start_s=clock(), path=settings.ledger, keep=KEPT_WINDOWS)
    meter = Meter(ledger, clock)
    ranks: dict[str, int] = {}
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
    return Loaded(engine, parts.adapters, model, meter, ranks)


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
                    config=loaded.model,
                    rank_max=settings.engine.lora_rank_max,
                    in_engine=in_engine,
                    ranks=loaded.ranks,
                ),
                pool=loaded.pool,
                meter=loaded.meter,
                names=tuple(dict.fromkeys((settings.model, Path(settings.model).stem))),
                max_len=loaded.engine.max_len,
                vocab_size=loaded.model.vocab,
            )
    finally:
        loaded.meter.close()


def _clock() -> Callable[[], float]:
    started_s = time.monotonic()
    return lambda: time.monotonic() - started_s
