"""Decode steps in captured frames: the bits and the pages of the same steps outside them, in few frames."""

from types import SimpleNamespace

import pytest
import torch

from llmsys.engine.adapter_pool import AdapterPool
from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.decode_graphs import BUCKETS, DecodeGraphs, capture_cuda, run_again
from llmsys.engine.kv_store import Span
from llmsys.engine.loader import load_decoder
from llmsys.engine.paged_cache import PagedCache
from llmsys.engine.paged_store import PagedKV
from llmsys.engine.runner import Runner
from llmsys.engine.sequence import Request, SamplingParams

BLOCK, PAGES = 4, 60
PROMPTS = [tuple((7 * i + k) % 100 + 3 for k in range(n)) for i, n in enumerate([1, 3, 2, 5, 2])]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 120}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).save_pretrained(path)
    return path


def parts_of(model, device, *, graphs):
    decoder = load_decoder(model, device=device, dtype=torch.float32)
    shape = decoder.config
    store = PagedKV(
        layers=shape.layers,
        pages=PAGES,
        kv_heads=shape.kv_heads,
        page_tokens=BLOCK,
        head_dim=shape.head_dim,
        dtype=torch.float32,
        device=device,
    )
    pool = AdapterPool(shape, slots=0, rank_max=8, dtype=torch.float32)
    capture = capture_cuda if device.type == "cuda" else run_again
    captured = DecodeGraphs(decoder, store, capture) if graphs else None
    return Runner(decoder, pool, PagedCache(store), max_len=64, graphs=captured), store, pool, captured


def engine_of(model, device, *, graphs):
    runner, store, pool, captured = parts_of(model, device, graphs=graphs)
    config = EngineConfig(block_tokens=BLOCK, max_sequences=5, spare_rows=5)
    silent = SimpleNamespace(eos_ids=frozenset(), decode=lambda ids: "")
    return Engine(runner, silent, pool, config, blocks=PAGES - 10, shared_blocks=True), store, captured


def requests(tokens=(4, 2, 3, 4, 1)):
    return [
        Request(ids, SamplingParams(max_tokens=n, temperature=0.0, ignore_eos=True))
        for ids, n in zip(PROMPTS, tokens, strict=True)
    ]


def test_answers_in_frames_are_those_outside_them_as_the_batch_shrinks(model, device):
    plain, _, _ = engine_of(model, device, graphs=False)
    framed, _, captured = engine_of(model, device, graphs=True)

    expected = [done.token_ids for done in plain.generate(requests())]
    found = [done.token_ids for done in framed.generate(requests())]

    assert found == expected
    assert {rows for rows, _ in captured.sizes} <= set(BUCKETS)
    assert {rows for rows, _ in captured.sizes} >= {2, 4}


def test_a_frame_is_captured_once_and_used_for_every_step_that_fits(model, device):
    engine, _, captured = engine_of(model, device, graphs=True)
    engine.generate(requests())
    sizes = captured.sizes
    captured._capture = None  # another capture would fail

    again = engine.generate(requests())

    assert len(again) == len(PROMPTS)
    assert captured.sizes == sizes


def test_hidden_states_and_pages_are_those_of_the_step_outside(model, device):
    """Three rows in a frame of four: the fourth writes to no page that a sequence can hold."""
    plain, store, _, _ = parts_of(model, device, graphs=False)
    _, other, _, captured = parts_of(model, device, graphs=True)
    spans = [Span(number, number, 0, 1) for number in range(3)]
    decoder = plain._decoder

    with torch.inference_mode():
        attend = plain._cache.attend(spans, decoder.rotary, decoder.ops)
        expected = decoder.hidden_states(torch.tensor([5, 6, 7], device=device), attend, None)
        found = captured.hidden_states([5, 6, 7], spans)

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for mine, theirs in zip(other.layers, store.layers, strict=True):
        torch.testing.assert_close(mine[:PAGES], theirs[:PAGES], rtol=0, atol=1e-6)
    assert captured.sizes == ((4, 1),)


def test_more_rows_than_the_largest_frame_are_left_to_the_step_outside(model, device):
    _, store, _, captured = parts_of(model, device, graphs=True)
    many = BUCKETS[-1] + 1

    assert captured.hidden_states([1] * many, [Span(n, n, 0, 1) for n in range(many)]) is None
    assert store.free_pages == PAGES


def test_the_twin_repeats_into_the_same_memory():
    source = torch.tensor([1.0])
    replay, out = run_again(lambda: source * 2)
    source.fill_(5.0)
    replay()

    assert out.tolist() == [10.0]
