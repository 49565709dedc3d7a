"""Two models resident in one process, each with its engine: neither changes a token of the other."""

import asyncio
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llmsys.engine.adapter_pool import AdapterPool
from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.loader import load_decoder
from llmsys.engine.runner import Runner
from llmsys.engine.sequence import Request, SamplingParams
from llmsys.engine.server_loop import AsyncEngine

KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"hidden_size": 96, "vocab_size": 300}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"hidden_size": 64, "vocab_size": 411, "head_dim": 32}),
}
SHAPE = {"intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
PROMPTS = [[(11 * i + 5 * k) % 290 + 3 for k in range(4 + 9 * i)] for i in range(4)]
DEADLINE_S = 60


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A directory of each model, and beside it an adapter of its own shape under the same name."""
    found = {}
    for name, (config, kind, sizes) in KINDS.items():
        path = tmp_path_factory.mktemp(name)
        torch.manual_seed(len(name))
        kind(config(**SHAPE, **sizes)).save_pretrained(path / "model")
        width, key = sizes["hidden_size"], "base_model.model.model.layers.1.mlp.down_proj.lora_"
        tensors = {key + "A.weight": torch.randn(4, 128), key + "B.weight": torch.randn(width, 4)}
        (path / "fr").mkdir()
        save_file(tensors, path / "fr" / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 4}
        (path / "fr" / "adapter_config.json").write_text(json.dumps(settings))
        found[name] = path
    return found


def engine_of(path, dtype):
    decoder = load_decoder(path / "model", device=torch.device("cpu"), dtype=dtype)
    pool = AdapterPool(decoder.config, slots=2, rank_max=8, dtype=dtype)
    pool.register("fr", path / "fr")
    config = EngineConfig(max_sequences=4, spare_rows=4, max_len=128, max_batch_tokens=24)
    runner = Runner.on_rows(decoder, pool, rows=config.kv_rows, max_len=128)
    codec = SimpleNamespace(eos_ids=frozenset(), decode=lambda ids: "")
    return Engine(runner, codec, pool, config, blocks=64, model=str(path).encode())


def requests():
    params = SamplingParams(max_tokens=10, temperature=0.8, seed=3, ignore_eos=True)
    return [Request(ids, params, adapter=("fr", None)[i % 2]) for i, ids in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def alone(models, dtype):
    """Each model's answers when it is the only one."""
    return {
        name: [done.token_ids for done in engine_of(path, dtype).generate(requests())] for name, path in models.items()
    }


def test_engines_that_take_turns_answer_as_each_does_alone(models, dtype, alone):
    engines = {name: engine_of(path, dtype) for name, path in models.items()}
    numbers = {name: [engine.add(request) for request in requests()] for name, engine in engines.items()}
    found = {name: {number: [] for number in numbers[name]} for name in engines}
    for _ in range(100):
        for name, engine in engines.items():
            for event in engine.step():
                found[name][event.request_id].append(event.token_id)

    assert {name: [tuple(found[name][number]) for number in numbers[name]] for name in engines} == alone
    assert all(engine.stats().blocks.referenced == engine.adapters.references() == 0 for engine in engines.values())
    assert alone["llama"] != alone["qwen3"]


def test_engines_in_threads_of_their_own_answer_as_each_does_alone(models, dtype, alone):
    async def read(door, request):
        return tuple([event.token_id async for event in door.stream(request)])

    async def main():
        async with (
            AsyncEngine(engine_of(models["llama"], dtype)) as llama,
            AsyncEngine(engine_of(models["qwen3"], dtype)) as qwen,
        ):
            doors = {"llama": llama, "qwen3": qwen}
            jobs = {name: [read(door, request) for request in requests()] for name, door in doors.items()}
            return {name: await asyncio.gather(*reading) for name, reading in jobs.items()}

    assert asyncio.run(asyncio.wait_for(main(), DEADLINE_S)) == alone
