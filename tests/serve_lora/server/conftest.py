"""A server in the test's own event loop, over the real engine and a model that spells; and adapters on disk for it."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import uvicorn
from openai import AsyncOpenAI
from safetensors.torch import save_file

from llmsys.engine.core import Engine
from llmsys.engine.model import ModelConfig
from llmsys.serve_lora.adapter_check import checked_reader
from llmsys.serve_lora.adapter_shelf import AdapterShelf
from llmsys.serve_lora.ledger import VERSION, Ledger, Opening
from llmsys.serve_lora.prices import PriceList
from llmsys.serve_lora.server.app import make_app
from llmsys.serve_lora.server.backend import Backend, Loaded, load, opened
from llmsys.serve_lora.server.metering import Meter, MeteredExecutor
from llmsys.serve_lora.server.service import Service
from llmsys.serve_lora.server.settings import Access, EngineSettings, Recording, ServerSettings
from llmsys.serve_lora.step_cost import StepModel
from tests.serve_lora.stand_ins import VOCAB, ByteCodec, Clock, Marks, Speller

SHAPE = ModelConfig(
    architecture="llama",
    hidden=16,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=8,
    mlp=24,
    vocab=VOCAB,
    rms_eps=1e-5,
    rope_theta=1e4,
    max_len=256,
)


class Slots(Marks):
    """Marks that can be forgotten and replaced, and say how often each was registered."""

    def __init__(self, slots=8):
        super().__init__([], slots)
        self.registered = []

    def register(self, name, path):
        self.registered.append(name)
        if name not in self._names:
            super().register(name, path)

    def unregister(self, name):
        self._names[self._names.index(name)] = f"gone {len(self.registered)}"

    def resident(self):
        return tuple(sorted({self._names[slot] for slot in self._held}))

    def references(self):
        return len(self._held)


class Endless(Speller):
    """Writes the alphabet for ever, so that only a limit or the client's leaving ends an answer."""

    max_len = 1 << 16

    def _row(self, chunk):
        logits = torch.zeros(VOCAB)
        logits[ord("a") + (chunk.start + chunk.count - chunk.sequence.prompt_tokens) % 26] = 50.0
        return logits


class Dice(Endless):
    """Every letter is as likely as any other."""

    def _row(self, chunk):
        logits = torch.full((VOCAB,), -100.0)
        logits[ord("a") : ord("z") + 1] = 0.0
        return logits


@dataclass
class Running:
    """A server that answers: its address, its engine, and an OpenAI client of it."""

    url: str
    backend: Backend
    engine: Engine
    service: Service
    client: AsyncOpenAI
    slots: Slots

    async def idle(self):
        """Wait until the engine has nothing to do; a call returns once the step under way has ended."""
        while await self.backend.door.call(lambda engine: engine.busy):
            await asyncio.sleep(0)

    def leaks(self):
        """Blocks and adapter slots that are held though nothing runs."""
        return self.engine.stats().blocks.referenced, self.slots.references()


@asynccontextmanager
async def running(*, model=None, runner=None, api_key="none", slots=8, blocks=256, **settings):
    """A server over `model`, or over stand-ins; `settings` are those of any part of ServerSettings."""
    limits = {name: settings.pop(name) for name in EngineSettings.__slots__ if name in settings}
    engine = EngineSettings(**{"max_sequences": 4} | limits)
    access = Access(**{name: settings.pop(name) for name in Access.__slots__ if name in settings})
    records = Recording(**{name: settings.pop(name) for name in Recording.__slots__ if name in settings})
    settings = ServerSettings(model=model or "speller", engine=engine, access=access, records=records, **settings)
    service = Service(settings)
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    config = uvicorn.Config(make_app(service), log_config=None, lifespan="off", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    loaded = load(settings) if model else load_stand_ins(runner or Speller(), settings, slots, blocks)
    try:
        async with (
            opened(loaded, settings) as backend,
            AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0) as client,
        ):
            service.open(backend)
            yield Running(url, backend, loaded.engine, service, client, loaded.pool)
            server.should_exit = True
            await serving
    finally:
        server.should_exit = True
        service.close()
        await serving


def load_stand_ins(runner, settings, slots, blocks, clock=None):
    """What `backend.load` returns, without weights; its clock stands still where none is given."""
    pool, clock = Slots(slots), clock or Clock()
    opening = Opening(version=VERSION, devices=1, kv_token_bytes=1, prices=PriceList(), unix_s=0.0)
    meter = Meter(Ledger(opening, model=StepModel(), start_s=0.0, path=settings.records.ledger), clock)
    ranks = {}
    config = replace(settings.engine.config(), block_tokens=4)
    executor = MeteredExecutor(runner, meter, rank_of=lambda name: ranks.get(name, 0))
    engine = Engine(executor, ByteCodec(), pool, config, blocks=blocks, on_event=meter.on_event)
    shelf = AdapterShelf(checked_reader(SHAPE, rank_max=64), limit_bytes=settings.engine.host_adapters_bytes)
    return Loaded(engine, pool, SHAPE, meter, ranks, shelf)


def at_server(check, **settings):
    """Run `await check(running server)` and return what it returns."""

    async def main():
        async with running(**settings) as server:
            return await check(server)

    return asyncio.run(asyncio.wait_for(main(), 100))


def write_adapter(path: Path, *, rank=2, seed=0, target="q_proj", shape=SHAPE, **config):
    """A random adapter that fits SHAPE, or another model's shape, as PEFT writes it."""
    path.mkdir(parents=True, exist_ok=True)
    made = torch.Generator().manual_seed(seed)
    width = {"q_proj": shape.q_width, "v_proj": shape.kv_width}[target]
    name = "base_model.model.model.layers.{}.self_attn." + target
    tensors = {}
    for layer in range(shape.layers):
        tensors[name.format(layer) + ".lora_A.weight"] = torch.randn(rank, shape.hidden, generator=made)
        tensors[name.format(layer) + ".lora_B.weight"] = torch.randn(width, rank, generator=made)
    save_file(tensors, path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": [target]} | config
    (path / "adapter_config.json").write_text(json.dumps(settings))
    return path
