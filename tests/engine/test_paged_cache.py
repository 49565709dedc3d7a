"""An engine on pages gives the tokens of the same engine on rows, whatever is shared, cut, parked or preempted."""

import json

import pytest
import torch
from safetensors.torch import save_file

from llmsys.engine.adapter_pool import AdapterPool
from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.device_lora import DeviceAdapters
from llmsys.engine.loader import load_decoder
from llmsys.engine.paged_cache import PagedCache
from llmsys.engine.paged_store import PagedKV
from llmsys.engine.runner import Runner
from llmsys.engine.sequence import Request, SamplingParams

BLOCK = 4
SHARED = tuple(range(3, 22))
PROMPTS = [(*SHARED[:n], 30 + n) for n in (1, 7, 12, 19)] + [(5,), (9, 8, 7)]


class Silent:
    """A tokenizer without text: no token ends an answer."""

    eos_ids = frozenset()

    def decode(self, ids):
        return ""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    path = tmp_path_factory.mktemp("qwen3")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16, "vocab_size": 120}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    Qwen3ForCausalLM(Qwen3Config(**sizes, **heads)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter")
    names = [f"base_model.model.model.layers.{layer}.self_attn.o_proj.lora_" for layer in range(2)]
    tensors = {name + "A.weight": torch.randn(5, 64) for name in names}
    save_file(tensors | {name + "B.weight": torch.randn(32, 5) for name in names}, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 5, "lora_alpha": 5}))
    return path


def engine_of(model, adapter, device, *, paged, blocks=200, **settings):
    """An engine in float32 over pages of `device`, or over rows of the CPU."""
    config = EngineConfig(**({"block_tokens": BLOCK, "max_sequences": 6, "spare_rows": 6} | settings))
    decoder = load_decoder(model, device=device if paged else torch.device("cpu"), dtype=torch.float32)
    shape = decoder.config
    memory = DeviceAdapters(shape, dtype=torch.float32, device=decoder.device) if paged else None
    pool = AdapterPool(shape, slots=2, rank_max=8, dtype=torch.float32, memory=memory)
    pool.register("fr", adapter)
    if paged:
        store = PagedKV(
            layers=shape.layers,
            pages=blocks + config.kv_rows,
            kv_heads=shape.kv_heads,
            page_tokens=BLOCK,
            head_dim=shape.head_dim,
            dtype=torch.float32,
            device=decoder.device,
        )
        runner = Runner(decoder, pool, PagedCache(store), max_len=256)
    else:
        runner = Runner.on_rows(decoder, pool, rows=config.kv_rows, max_len=256)
    return Engine(runner, Silent(), pool, config, blocks=blocks, shared_blocks=paged)


def requests(tokens=9):
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    return [Request(ids, params, adapter=("fr", None)[i % 2]) for i, ids in enumerate(PROMPTS)]


def tokens_of(engine):
    return [completion.token_ids for completion in engine.generate(requests())]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_batch_tokens": 5},
        {"prefix_cache": False, "chunked_prefill": False},
        {"blocks": 12},
    ],
    ids=["plain", "chunks", "bare", "preempted"],
)
def test_answers_are_those_of_rows(model, adapter, device, settings):
    rows = tokens_of(engine_of(model, adapter, device, paged=False, **settings))
    pages = tokens_of(engine_of(model, adapter, device, paged=True, **settings))

    assert pages == rows


def test_forks_share_pages_and_parked_requests_keep_theirs(model, adapter, device):
    def answers(engine):
        params = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True)
        first = engine.add(Request(SHARED, params))
        events = engine.step() + engine.step()
        forks = engine.fork(first, 3, suffixes=[(40,), (41, 42), (43,) * 5])
        engine.park(first)
        while engine.busy and not all(engine.unfinished(n) == 0 for n in forks):
            events += engine.step()
        engine.resume(first)
        while engine.busy:
            events += engine.step()
        return [[e.token_id for e in events if e.request_id == number] for number in (first, *forks)]

    assert answers(engine_of(model, adapter, device, paged=True)) == answers(
        engine_of(model, adapter, device, paged=False)
    )


def test_when_all_have_ended_only_the_prefix_cache_holds_pages(model, adapter, device):
    engine = engine_of(model, adapter, device, paged=True, prefix_cache=False)
    store = engine._runner._cache._store
    free = store.free_pages

    tokens_of(engine)

    assert store.free_pages == free
