"""A request's logits have the same bits alone, in a crowd, and however its prompt is cut or cached."""

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
from llmsys.engine.lora import HostAdapters
from llmsys.engine.runner import Runner
from llmsys.engine.sequence import Chunk, Plan, Request, SamplingParams, Sequence

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
PROMPTS = [[(7 * i + 3 * k) % 300 + 3 for k in range(length)] for i, length in enumerate([1, 5, 17, 64, 90, 33, 2, 40])]


class Recorder:
    """A runner that remembers the bits of every row of logits, by sequence and position."""

    def __init__(self, runner):
        self._runner = runner
        self.seen = {}
        self.max_len, self.vocab_size = runner.max_len, runner.vocab_size
        self.release, self.copy_prefix = runner.release, runner.copy_prefix

    def execute(self, plan):
        logits = self._runner.execute(plan)
        for chunk, row in zip([c for c in plan.chunks if c.samples], logits, strict=True):
            key = (tuple(chunk.sequence.token_ids[:8]), chunk.sequence.request.adapter, chunk.start + chunk.count)
            self.seen[key] = row.view(torch.int32).clone()
        return logits


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two adapters of different ranks and targets, by name."""
    found = {}
    for name, rank, target in (("fr", 5, "self_attn.q_proj"), ("de", 2, "self_attn.o_proj")):
        path = found[name] = tmp_path_factory.mktemp(name)
        keys = [f"base_model.model.model.layers.{layer}.{target}.lora_" for layer in range(3)]
        tensors = {key + "A.weight": torch.randn(rank, 128) for key in keys}
        tensors |= {key + "B.weight": torch.randn(128, rank) for key in keys}
        save_file(tensors, path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 1}))
    return found


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
    config, kind = kinds[request.param]
    kind(config(**SHAPE, **({"head_dim": 32} if request.param == "qwen3" else {}))).save_pretrained(path)
    return path


def run(model, adapters, dtype, requests, *, quantise=False, **settings):
    """Bits of all logits of these requests, run together by an engine as `batch_invariant` sets it up."""
    decoder = load_decoder(
        model, device=torch.device("cpu"), dtype=dtype, tiled=True, four_bit=quantise, quantise=quantise
    )
    memory = HostAdapters(decoder.config, dtype=dtype, long_rows=1 << 62)
    pool = AdapterPool(decoder.config, slots=2, rank_max=8, dtype=dtype, memory=memory)
    for name, path in adapters.items():
        pool.register(name, path)
    config = EngineConfig(**({"max_sequences": 32, "max_len": 256, "prefix_cache": False} | settings))
    runner = Recorder(Runner.on_rows(decoder, pool, rows=config.kv_rows, max_len=256, token_by_token=True))
    silent = SimpleNamespace(eos_ids=frozenset(), decode=lambda ids: "")
    Engine(runner, silent, pool, config, blocks=2000).generate(requests)
    return runner.seen


def requests_of(prompts):
    params = SamplingParams(max_tokens=5, temperature=0.0, ignore_eos=True)
    return [Request(ids, params, adapter=("fr", None, "de")[i % 3]) for i, ids in enumerate(prompts)]


@pytest.mark.parametrize(
    ("dtype", "quantise"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]
)
def test_logits_have_the_same_bits_alone_in_two_in_a_crowd_and_in_any_chunks(model, adapters, dtype, quantise):
    requests = requests_of(PROMPTS)
    alone = {}
    for request in requests:
        alone |= run(model, adapters, dtype, [request], quantise=quantise)

    for crowd, settings in (
        (requests[:2], {}),
        (requests * 4, {}),
        (requests, {"max_batch_tokens": 7, "prefix_cache": True}),
        (requests[::-1], {"chunked_prefill": False, "prefix_cache": True, "block_tokens": 8}),
    ):
        together = run(model, adapters, dtype, crowd, quantise=quantise, **settings)
        assert together.keys() <= alone.keys()
        assert all(torch.equal(row, alone[key]) for key, row in together.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_base_rows_beside_adapters_have_the_bits_of_the_same_rows_without(model, adapters, dtype):
    """Without `batch_invariant`: the base rows stand in the same places, and no adapter's part touches them."""
    decoder = load_decoder(model, device=torch.device("cpu"), dtype=dtype)
    found = []
    for names in (("fr", "de", None, None, None), (None,) * 5):
        pool = AdapterPool(decoder.config, slots=2, rank_max=8, dtype=dtype)
        for name, path in adapters.items():
            pool.register(name, path)
        runner = Runner.on_rows(decoder, pool, rows=8, max_len=256)
        chunks = []
        for number, (name, ids) in enumerate(zip(names, PROMPTS, strict=False)):
            sequence = Sequence(number, Request(tuple(ids)), list(ids), len(ids))
            sequence.adapter_slot = -1 if name is None else pool.acquire(name)
            chunks.append(Chunk(sequence, 0, len(ids), samples=True))
        found.append(runner.execute(Plan(tuple(chunks))))

    assert torch.equal(found[0][2:], found[1][2:])
    assert not torch.equal(found[0][:2], found[1][:2])
