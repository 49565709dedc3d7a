"""A fleet as a server's backend: replicas started, their tokenizer fetched, one registry of adapters for all.

Knows nothing of HTTP.
"""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from llmsys.engine.json_grammar import JsonGrammar
from llmsys.engine.tokens import Tokenizer
from llmsys.errors import LlmsysError
from llmsys.serve_lora.adapter_check import checked_reader
from llmsys.serve_lora.adapter_shelf import AdapterShelf
from llmsys.serve_lora.fleet.door import FleetDoor, FleetMeter, FleetSlots
from llmsys.serve_lora.fleet.fleet import Alike, Fleet
from llmsys.serve_lora.fleet.launching import Launcher, ProcessLauncher
from llmsys.serve_lora.fleet.settings import LOCAL, FleetSettings
from llmsys.serve_lora.fleet.spec import ReplicaSpec
from llmsys.serve_lora.server.backend import Backend
from llmsys.serve_lora.server.registry import AdapterRegistry, Slots
from llmsys.serve_lora.server.settings import ServerSettings

__all__ = ["fleet_of", "launcher_of", "opened_fleet"]


def launcher_of(fleet: FleetSettings, spec: ReplicaSpec) -> Launcher:
    """Where a fleet's replicas come from. Raises Unavailable without Ray where that is asked for."""
    if fleet.cluster == LOCAL:
        return ProcessLauncher(spec, standby=fleet.standby)
    from llmsys.serve_lora.fleet.ray_launching import RayLauncher

    return RayLauncher(spec, fleet.cluster)


@asynccontextmanager
async def fleet_of(
    settings: ServerSettings, fleet_settings: FleetSettings, launcher: Launcher
) -> AsyncIterator[tuple[Fleet, Alike]]:
    """A fleet with its first replica there, until the block ends. Raises LlmsysError if that does not start."""
    engine = settings.engine
    fleet = Fleet(launcher, engine.policy, fleet_settings, max_queue=engine.max_queue)
    try:
        yield fleet, await fleet.open()
    finally:
        await fleet.close()


@asynccontextmanager
async def opened_fleet(settings: ServerSettings, fleet: Fleet, alike: Alike) -> AsyncIterator[Backend]:
    """The backend around a fleet that is open."""
    from llmsys.engine.loader import read_config
    from llmsys.gpu import find_model

    ready, tokenizer = alike.ready, _tokenizer(alike.texts)
    grammar = JsonGrammar(tokenizer)
    model = read_config(find_model(settings.model))
    shelf = AdapterShelf(
        checked_reader(model, rank_max=settings.engine.lora_rank_max), limit_bytes=settings.engine.host_adapters_bytes
    )
    slots, meter = FleetSlots(fleet, shelf), FleetMeter(fleet)

    async def in_engine(action: Callable[[Slots], None]) -> None:
        action(slots)

    try:
        yield Backend(
            door=FleetDoor(fleet, slots, meter, seed=settings.engine.seed, max_len=ready.max_len),
            tokenizer=tokenizer,
            registry=AdapterRegistry(
                settings.adapters,
                settings.named,
                shelf=shelf,
                pins_max=settings.engine.lora_slots - 1,
                in_engine=in_engine,
                ranks={},
            ),
            pool=slots,
            shelf=shelf,
            meter=meter,
            masks=lambda schema, prompt: grammar.mask(schema, prompt_tokens=prompt, vocab=ready.vocab_size),
            names=tuple(dict.fromkeys((settings.model, Path(settings.model).stem))),
            max_len=ready.max_len,
            vocab_size=ready.vocab_size,
            fleet=fleet,
        )
    finally:
        shelf.close()


def _tokenizer(files: dict[str, bytes]) -> Tokenizer:
    """The tokenizer of what a replica sent. Raises LlmsysError."""
    try:
        with tempfile.TemporaryDirectory() as place:
            for name, content in files.items():
                (Path(place) / Path(name).name).write_bytes(content)
            return Tokenizer.restore(Path(place))
    except (OSError, ValueError, KeyError) as error:
        raise LlmsysError(f"a replica sent no usable tokenizer: {error}") from error
