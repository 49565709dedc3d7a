"""The decoder against transformers' own llama, qwen2 and qwen3, random weights, odd sizes."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from llmsys.engine.adapter_pool import AdapterPool
from llmsys.engine.loader import load_decoder
from llmsys.engine.runner import Runner
from llmsys.engine.sequence import Chunk, Plan, Request, Sequence

SIZES = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, head_dim=8),
    "llama-tied": LlamaConfig(**SIZES, head_dim=8, tie_word_embeddings=True),
    "llama3-rope": LlamaConfig(**SIZES, head_dim=8, rope_parameters=LLAMA3),
    "linear-rope": LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}),
    "wide-heads": LlamaConfig(**SIZES, head_dim=16),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
}


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request, tmp_path_factory):
    """transformers' model with random weights, biases and norms included, and our decoder of the same directory."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()
    for name, parameter in theirs.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    path = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(path, max_shard_size="20KB")
    return theirs, load_decoder(path, device=torch.device("cpu"), dtype=torch.float32)


def sequence_of(tokens, number=0):
    return Sequence(number, Request(prompt=tokens), tokens, prompt_tokens=len(tokens))


def logits_by_steps(decoder, chunkings, tokens):
    """Logits after each chunk of each sequence, sequences advancing together, one plan a step."""
    pool = AdapterPool(decoder.config, slots=0, rank_max=8, dtype=torch.float32)
    runner = Runner.on_rows(decoder, pool, rows=len(tokens), max_len=decoder.config.max_len)
    sequences = [sequence_of(ids, number) for number, ids in enumerate(tokens)]
    found = [[] for _ in tokens]
    for step in range(max(map(len, chunkings))):
        chunks = [
            Chunk(s, sum(sizes[:step]), sizes[step], samples=True)
            for s, sizes in zip(sequences, chunkings, strict=True)
            if step < len(sizes)
        ]
        for chunk, row in zip(chunks, runner.execute(Plan(tuple(chunks))), strict=True):
            found[chunk.sequence.id].append(row)
    return found


@torch.inference_mode()
def test_logits_equal_those_of_transformers_however_the_tokens_are_cut(pair):
    theirs, decoder = pair
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randint(1, 131, (n,), generator=generator).tolist() for n in (23, 11, 140)]
    chunkings = [(7, 1, 1, 9, 1, 4), (1, 10), (130, 1, 1, 1, 7)]

    found = logits_by_steps(decoder, chunkings, tokens)

    for ids, sizes, rows in zip(tokens, chunkings, found, strict=True):
        expected = theirs(torch.tensor([ids])).logits[0]
        ends = torch.tensor(sizes).cumsum(0) - 1
        torch.testing.assert_close(torch.stack(rows), expected[ends], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_row_that_moved_into_a_hole_keeps_its_keys_and_values(pair):
    theirs, decoder = pair
    pool = AdapterPool(decoder.config, slots=0, rank_max=8, dtype=torch.float32)
    runner = Runner.on_rows(decoder, pool, rows=3, max_len=128)
    tokens = [[3, 5, 7, 11, 13, 17], [19, 23, 29, 31], [2, 4, 6, 8, 10, 12, 14]]
    sequences = [sequence_of(ids, number) for number, ids in enumerate(tokens)]
    runner.execute(Plan(tuple(Chunk(s, 0, len(s.token_ids) - 1, samples=False) for s in sequences)))
    runner.release(0)

    last = runner.execute(Plan(tuple(Chunk(s, len(s.token_ids) - 1, 1, samples=True) for s in sequences[1:])))

    for row, ids in zip(last, tokens[1:], strict=True):
        torch.testing.assert_close(row, theirs(torch.tensor([ids])).logits[0, -1], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("idle", [{1}, {0, 2}, {1, 2, 3}])
def test_idle_rows_between_decoding_ones_change_nothing(pair, idle):
    theirs, decoder = pair
    pool = AdapterPool(decoder.config, slots=0, rank_max=8, dtype=torch.float32)
    runner = Runner.on_rows(decoder, pool, rows=5, max_len=128)
    tokens = [[3, 5, 7, 11, 13, 17], [19, 23, 29], [2, 4, 6, 8, 10, 12, 14], [1, 2], [9, 9, 8, 8, 7]]
    sequences = [sequence_of(ids, number) for number, ids in enumerate(tokens)]
    runner.execute(Plan(tuple(Chunk(s, 0, len(s.token_ids) - 1, samples=False) for s in sequences)))

    live = [s for s in sequences if s.id not in idle]
    last = runner.execute(Plan(tuple(Chunk(s, len(s.token_ids) - 1, 1, samples=True) for s in live)))

    for row, sequence in zip(last, live, strict=True):
        expected = theirs(torch.tensor([sequence.token_ids])).logits[0, -1]
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_copied_prefix_continues_like_its_source(pair):
    theirs, decoder = pair
    pool = AdapterPool(decoder.config, slots=0, rank_max=8, dtype=torch.float32)
    runner = Runner.on_rows(decoder, pool, rows=2, max_len=128)
    source, branch = sequence_of([9, 8, 7, 6, 5]), sequence_of([9, 8, 7, 40, 41], 1)
    runner.execute(Plan((Chunk(source, 0, 5, samples=False),)))
    runner.copy_prefix(0, 1, 3)

    row = runner.execute(Plan((Chunk(branch, 3, 2, samples=True),)))[0]

    torch.testing.assert_close(row, theirs(torch.tensor([branch.token_ids])).logits[0, -1], rtol=1e-4, atol=1e-4)


def test_packed_bfloat16_multiplication_equals_the_plain_one():
    from llmsys.engine.linear import Linear

    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(33, 70, generator=generator).bfloat16()
    bias = torch.randn(33, generator=generator).bfloat16()

    for rows in (1, 7, 64):
        x = torch.randn(rows, 70, generator=generator).bfloat16()
        expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
        torch.testing.assert_close(Linear(weight, bias)(x).double(), expected, rtol=2e-2, atol=1e-1)
