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
from llmsys.engine.sequence import Request, SamplingParams

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
def adapter(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter")
    names = [f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_" for layer in range(3)]
    tensors = {name + "A.weight": torch.randn(5, 128) for name in names}
    save_file(tensors | {name + "B.weight": torch.randn(128, 5) for name in names}, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 5, "lora_alpha": 1}))
    return path


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
    config, kind = kinds[request.param]
    kind(config(**SHAPE, **({"head_dim": 32} if request.param == "qwen3" else {}))).save_pretrained(path)
    return path


def run(model, adapter, dtype, requests, *, quantise=False, **settings):
    """Bits of all logits of these requests, run together by an engine as `batch_invariant` sets it up."""
    decoder = load_decoder(
        model, device=torch.device("cpu"), dtype=dtype, tiled=True, four_bit=quantise, quantise=quantise
    )
    memory = HostAdapters(decoder.config, dtype=dtype, long_rows=1 << 62)
    pool = AdapterPool(decoder.config, slots=2, rank_max=8, dtype=dtype, memory=memory)
    pool.register("fr", adapter)
    config = EngineConfig(**({"max_sequences": 32, "max_len": 256, "prefix_cache": False} | settings))
    runner = Recorder(Runner.on_rows(decoder, pool, rows=config.kv_rows, max_len=256, token_by_token=True))
    silent = SimpleNamespace(eos_ids=frozenset(), decode=lambda ids: "")
    Engine(runner, silent, pool, config, blocks=2000).generate(requests)
    return runner.seen


def requests_of(prompts):
    params = SamplingParams(max_tokens=5, temperature=0.0, ignore_eos=True)
    return [Request(ids, params, adapter=("fr", None)[i % 2]) for i, ids in enumerate(prompts)]


@pytest.mark.parametrize(
    ("dtype", "quantise"), [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)]
)
def test_logits_have_the_same_bits_alone_in_two_in_a_crowd_and_in_any_chunks(model, adapter, dtype, quantise):
    requests = requests_of(PROMPTS)
    alone = {}
    for request in requests:
        alone |= run(model, adapter, dtype, [request], quantise=quantise)

    for crowd, settings in (
        (requests[:2], {}),
        (requests * 4, {}),
        (requests, {"max_batch_tokens": 7, "prefix_cache": True}),
        (requests[::-1], {"chunked_prefill": False, "prefix_cache": True, "block_tokens": 8}),
    ):
        together = run(model, adapter, dtype, crowd, quantise=quantise, **settings)
        assert together.keys() <= alone.keys()
        assert all(torch.equal(row, alone[key]) for key, row in together.items())
