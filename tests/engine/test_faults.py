"""What breaks around the engine: policies that raise, weights that lie, adapters full of NaN, readers that leave."""

import asyncio
import json
from contextlib import aclosing, suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from llmsys.engine import AsyncEngine, Engine, EngineConfig, EngineError, FirstComeFirstServed, Request, SamplingParams
from llmsys.engine.adapter_pool import AdapterPool
from llmsys.engine.errors import ModelError
from llmsys.engine.loader import load_decoder
from llmsys.engine.runner import Runner

pytestmark = pytest.mark.xdist_group("smollm2")
MOMENTS = ("on_arrival", "pick", "on_tokens", "on_finish")


class Failing(FirstComeFirstServed):
    """A policy that raises at its n-th call of one method."""

    def __init__(self, moment, count):
        self.left = count
        for name in MOMENTS:
            if name == moment:
                setattr(self, name, self.fail_or(getattr(self, name)))

    def fail_or(self, method):
        def called(*arguments, **named):
            self.left -= 1
            if self.left == 0:
                raise RuntimeError("the policy has lost its books")
            return method(*arguments, **named)

        return called


@pytest.mark.parametrize(
    ("moment", "count"),
    [("on_arrival", 1), ("on_arrival", 2), ("pick", 1), ("on_tokens", 1), ("on_tokens", 2), ("on_finish", 1)],
)
def test_a_policy_that_raises_ends_every_stream_with_its_words_and_nothing_stays_held(parts, moment, count):
    engine = parts.make_engine(policy=Failing(moment, count))

    async def read(door, request):
        return [event async for event in door.stream(request)]

    async def main():
        async with AsyncEngine(engine) as door:
            readings = [read(door, parts.greedy_request([1, 2, i], tokens=200)) for i in range(3)]
            results = await asyncio.gather(*readings, return_exceptions=True)
            return results, door.failure

    results, failure = asyncio.run(main())

    assert "the policy has lost its books" in failure
    assert any(isinstance(result, EngineError) for result in results)
    assert engine.stats().blocks.referenced == 0


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A tiny model directory and the bytes of its weights."""
    path = tmp_path_factory.mktemp("sound")
    torch.manual_seed(0)
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2)).save_pretrained(path)
    return path, (path / "model.safetensors").read_bytes()


@settings(max_examples=150)
@given(data=st.data())
def test_a_changed_byte_of_a_safetensors_header_is_a_model_error_or_the_same_shapes(sound, data):
    path, content = sound
    changed = bytearray(content)
    header = 8 + int.from_bytes(content[:8], "little")
    for offset in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=3)):
        changed[offset] = data.draw(st.integers(0, 255))
    (path / "model.safetensors").write_bytes(changed)

    with suppress(ModelError):
        assert load_decoder(path, device=torch.device("cpu"), dtype=torch.float32).config.hidden == 16


def write_huge_adapter(path, config):
    """An adapter whose product leaves float32: finite weights, logits that are no numbers."""
    name = "base_model.model.model.layers.0.mlp.down_proj.lora_"
    path.mkdir()
    tensors = {
        name + "A.weight": torch.full((4, config.mlp), 1e30),
        name + "B.weight": torch.full((config.hidden, 4), 1e30),
    }
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4}))
    return path


@pytest.fixture(scope="module")
def opened(smollm2, tmp_path_factory):
    """An engine over the real model, with one adapter that makes NaN of everything."""
    pool = AdapterPool(smollm2.config, slots=2, rank_max=8, dtype=torch.float32)
    pool.register("huge", write_huge_adapter(tmp_path_factory.mktemp("faults") / "huge", smollm2.config))
    config = EngineConfig(max_sequences=8, spare_rows=2, max_len=256, max_batch_tokens=48)
    runner = Runner.on_rows(smollm2.decoder, pool, rows=config.kv_rows, max_len=256)
    return Engine(runner, smollm2.tokenizer, pool, config, blocks=64, model=smollm2.digest)


def test_streams_of_the_real_model_survive_their_neighbours(opened, prompts):
    """One reader leaves, one adapter makes NaN; the others read what they read alone, and nothing stays held."""
    sampling = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
    alone = [opened.generate([Request(ids, sampling)])[0] for ids in prompts[:2]]

    async def read(door, request):
        return [event async for event in door.stream(request)]

    async def leave(door, request):
        async with aclosing(door.stream(request)) as events:
            async for _ in events:
                return

    async def main():
        async with AsyncEngine(opened) as door:
            kept = [read(door, Request(ids, sampling)) for ids in prompts[:2]]
            broken = read(door, Request(prompts[2], sampling, adapter="huge"))
            left = leave(door, Request(prompts[3], SamplingParams(max_tokens=100, temperature=0.0)))
            return await asyncio.gather(*kept, broken, left)

    *kept, broken, _ = asyncio.run(main())

    assert [tuple(event.token_id for event in events) for events in kept] == [done.token_ids for done in alone]
    assert ["".join(event.text for event in events) for events in kept] == [done.text for done in alone]
    assert (broken[-1].finish, broken[-1].error) == ("error", "not a number in logits (adapter huge)")
    assert opened.stats().blocks.referenced == 0
    assert opened.adapters.references() == 0
