"""The engine behind a server: loaded, metered, opened for one event loop, with its registry of adapters.

Knows nothing of HTTP.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmsys.engine.assembly import EngineParts, assemble
from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.json_grammar import JsonGrammar
from llmsys.engine.model import ModelConfig
from llmsys.engine.parts import TextCodec
from llmsys.engine.policy import FirstComeFirstServed
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.engine.server_loop import AsyncEngine
from llmsys.serve_lora.adapter_check import checked_reader
from llmsys.serve_lora.adapter_shelf import AdapterShelf
from llmsys.serve_lora.ledger import VERSION, Ledger, Opening
from llmsys.serve_lora.server.doors import Door, Residency, Spending
from llmsys.serve_lora.server.jobs import MakeMask
from llmsys.serve_lora.server.metering import Meter, MeteredExecutor
from llmsys.serve_lora.server.registry import AdapterRegistry, Slots
from llmsys.serve_lora.server.settings import ServerSettings
from llmsys.serve_lora.step_cost import StepModel

if TYPE_CHECKING:
    from llmsys.engine.adapter_pool import AdapterPool
    from llmsys.serve_lora.fleet.fleet import Fleet

__all__ = ["Backend", "Loaded", "load", "make_masks", "opened"]

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
    """Running engines: their door, their texts, their adapters and their costs. `names` are those of the base model.

    fleet: the replicas, None for one engine in this process.
    """

    door: Door
    tokenizer: TextCodec
    registry: AdapterRegistry
    pool: Residency
    shelf: AdapterShelf
    meter: Spending
    masks: MakeMask | None
    names: tuple[str, ...]
    max_len: int
    vocab_size: int
    fleet: "Fleet | None" = None


def load(settings: ServerSettings, *, since_unix_s: float | None = None) -> Loaded:
    """Load the model and put the meter in; takes seconds. Raises as `Engine.load` does.

    since_unix_s: when the machine's time began to count, now if left out; what has passed since is overhead.
    """
    from llmsys.engine.loader import read_config
    from llmsys.gpu import find_model

    since_unix_s = time.time() if since_unix_s is None else since_unix_s
    clock = _clock(time.time() - since_unix_s)
    config = settings.engine.config()
    model = read_config(find_model(settings.model))
    parts = assemble(settings.model, config)
    opening = Opening(
        version=VERSION,
        devices=1,
        kv_token_bytes=parts.token_bytes,
        prices=settings.records.prices,
        unix_s=since_unix_s,
    )
    ledger = Ledger(opening, model=StepModel(), start_s=0.0, path=settings.records.ledger, keep=KEPT_WINDOWS)
    _warm_up(parts, config)
    ledger.wait(clock(), in_flight=True)
    meter = Meter(ledger, clock)
    ranks: dict[str, int] = {}
    read = checked_reader(model, rank_max=config.lora_rank_max)
    shelf = AdapterShelf(
        lambda path: parts.adapters.prepare(read(path)), limit_bytes=settings.engine.host_adapters_bytes
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
                masks=make_masks(loaded),
                names=tuple(dict.fromkeys((settings.model, Path(settings.model).stem))),
                max_len=loaded.engine.max_len,
                vocab_size=loaded.model.vocab,
            )
    finally:
        loaded.shelf.close()
        loaded.meter.close()


def make_masks(loaded: Loaded) -> MakeMask | None:
    """What makes an answer's mask, None for a tokenizer that is not the engine's own."""
    from llmsys.engine.tokens import Tokenizer

    tokenizer = loaded.engine.tokenizer
    if not isinstance(tokenizer, Tokenizer):
        return None
    grammar, vocab = JsonGrammar(tokenizer), loaded.model.vocab
    return lambda schema, prompt_tokens: grammar.mask(schema, prompt_tokens=prompt_tokens, vocab=vocab)


def _warm_up(parts: EngineParts, config: EngineConfig) -> None:
    """Run a prompt and a step of decoding, so that no client waits for what the first of each brings in."""
    throwaway = replace(config, prefix_cache=False, policy=FirstComeFirstServed())
    engine = Engine(parts.runner, parts.tokenizer, parts.adapters, throwaway, blocks=parts.blocks)
    engine.generate([Request([0] * 8, SamplingParams(max_tokens=2, temperature=1.0, seed=0, ignore_eos=True))])


def _clock(passed_s: float) -> Callable[[], float]:
    """Seconds, of which so many have passed already."""
    started_s = time.monotonic() - max(passed_s, 0.0)
    return lambda: time.monotonic() - started_s
