"""Paged decode attention: the kernels against dense attention in float64, on odd shapes, and unread memory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.gpu.kernels.paged_attention import SPLIT_TOKENS, paged_attention, paged_attention_reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _random(*shape: int, dtype=torch.float32, device="cpu", seed=0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(device, dtype)


def _case(contexts, *, heads=(9, 3), dim=64, block_tokens=16, dtype=torch.float32, device="cpu", seed=0):
    """Queries, a cache with NaN where unused, shuffled block tables, contexts; and keys, values per sequence."""
    query_heads, kv_heads = heads
    counts = [math.ceil(context / block_tokens) for context in contexts]
    order = torch.randperm(sum(counts) + 2, generator=torch.Generator().manual_seed(seed)).tolist()
    cache = torch.full((len(order), 2, kv_heads, block_tokens, dim), math.nan, dtype=dtype, device=device)
    tables = torch.full((len(contexts), max([1, *counts])), -7, dtype=torch.int32, device=device)
    dense = []
    for row, (context, count) in enumerate(zip(contexts, counts, strict=True)):
        pairs = _random(2, kv_heads, context, dim, dtype=dtype, device=device, seed=seed + row + 1)
        for block in range(count):
            number = order.pop()
            tables[row, block] = number
            part = pairs[:, :, block * block_tokens : (block + 1) * block_tokens]
            cache[number, :, :, : part.shape[2]] = part
        dense.append(pairs)
    q = _random(len(contexts), query_heads, dim, dtype=dtype, device=device, seed=seed)
    return q, cache, tables, torch.tensor(contexts, dtype=torch.int32, device=device), dense


def _exact(q: torch.Tensor, dense: list[torch.Tensor], scale: float) -> torch.Tensor:
    """Dense attention in float64, without pages: the definition again, by other means."""
    rows = []
    for query, pairs in zip(q.double(), dense, strict=True):
        keys, values = pairs.double().repeat_interleave(q.shape[1] // pairs.shape[1], dim=1)
        weights = torch.softmax((keys @ query[:, :, None])[:, :, 0] * scale, dim=1)
        rows.append((weights[:, :, None] * values).sum(1))
    return torch.stack(rows) if rows else q.double()


def _bound(dtype: torch.dtype, dense: list[torch.Tensor], dim: int) -> float:
    """8·eps·√D of the largest value: scores and weights round once in float32 or in the storage type."""
    largest = max((float(pairs[1].abs().max()) for pairs in dense if pairs.numel()), default=1.0)
    return 8 * torch.finfo(dtype).eps * math.sqrt(dim) * largest


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "contexts",
    [[1], [16], [17, 1, 33], [SPLIT_TOKENS], [SPLIT_TOKENS + 1, 5], [3 * SPLIT_TOKENS - 1]],
    ids=str,
)
def test_attention_equals_the_dense_one_in_float64(contexts, dtype, device):
    q, cache, tables, lengths, dense = _case(contexts, dtype=dtype, device=device)

    found = paged_attention(q, cache, tables, lengths, scale=0.125)

    assert found.dtype == dtype
    assert ((found - _exact(q, dense, 0.125)).abs() <= _bound(dtype, dense, 64)).all()


@pytest.mark.parametrize(("heads", "dim"), [((1, 1), 1), ((4, 4), 33), ((32, 8), 128), ((20, 1), 80), ((6, 2), 96)])
@pytest.mark.parametrize("block_tokens", [1, 8, 24])
def test_odd_heads_dimensions_and_block_sizes_are_masked(heads, dim, block_tokens, device):
    q, cache, tables, lengths, dense = _case([70, 3], heads=heads, dim=dim, block_tokens=block_tokens, device=device)

    found = paged_attention(q, cache, tables, lengths, scale=dim**-0.5)

    assert ((found - _exact(q, dense, dim**-0.5)).abs() <= _bound(torch.float32, dense, dim)).all()


@settings(max_examples=20, deadline=None)
@given(
    contexts=st.lists(st.integers(1, 2 * SPLIT_TOKENS + 9), max_size=3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 5),
    dim=st.integers(1, 40),
    block_tokens=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_the_reference_and_the_kernel_agree_on_any_shape(contexts, kv_heads, group, dim, block_tokens, seed):
    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    heads = (kv_heads * group, kv_heads)
    case = _case(contexts, heads=heads, dim=dim, block_tokens=block_tokens, device=device, seed=seed)
    q, cache, tables, lengths, dense = case

    kernel = paged_attention(q, cache, tables, lengths, scale=0.3)
    reference = paged_attention_reference(q, cache, tables, lengths, scale=0.3)

    bound = _bound(torch.float32, dense, dim)
    assert ((kernel - reference).abs() <= bound).all()
    assert ((reference - _exact(q, dense, 0.3)).abs() <= bound).all()


def test_an_empty_context_gives_zeros(device):
    q, cache, tables, lengths, _ = _case([0, 5, 0], device=device)

    for attend in (paged_attention, paged_attention_reference):
        found = attend(q, cache, tables, lengths, scale=1.0)
        assert (found[::2] == 0).all()
        assert (found[1] != 0).all()


def test_no_sequence_gives_no_row(device):
    q, cache, tables, lengths, _ = _case([], device=device)

    assert paged_attention(q, cache, tables, lengths, scale=1.0).shape == (0, 9, 64)


def test_scores_far_apart_neither_overflow_nor_vanish(device):
    q, cache, tables, lengths, dense = _case([300], device=device)
    q *= 1e4

    found = paged_attention(q, cache, tables, lengths, scale=1.0)

    torch.testing.assert_close(found.double(), _exact(q, dense, 1.0), rtol=1e-3, atol=1e-3)


def test_equal_scores_give_the_mean_of_the_values(device):
    q, cache, tables, lengths, dense = _case([SPLIT_TOKENS * 2 + 3], heads=(3, 3), device=device)

    found = paged_attention(torch.zeros_like(q), cache, tables, lengths, scale=1.0)

    torch.testing.assert_close(found[0], dense[0][1].mean(1), rtol=1e-5, atol=1e-6)


def test_a_sequence_gets_the_same_bits_alone_and_in_a_batch(device):
    q, cache, tables, lengths, _ = _case([300, 17, 600], device=device)
    together = paged_attention(q, cache, tables, lengths, scale=0.125)

    for row, context in enumerate([300, 17, 600]):
        one = slice(row, row + 1)
        alone = paged_attention(q[one], cache, tables[one], lengths[one], scale=0.125, longest=context)
        assert torch.equal(alone[0], together[row])


def test_strided_queries_and_caches_are_addressed_by_their_strides(device):
    q, cache, tables, lengths, _ = _case([40, 9], device=device)
    fused = torch.full((2, 64, 30), math.nan, device=device)
    fused[:, :, 3:12] = q.transpose(1, 2)
    tokens_first = cache.permute(0, 3, 1, 2, 4).contiguous().permute(0, 2, 3, 1, 4)

    strided = paged_attention(
        fused[:, :, 3:12].transpose(1, 2), tokens_first, tables.T.contiguous().T, lengths, scale=0.2
    )

    assert torch.equal(strided, paged_attention(q, cache, tables, lengths, scale=0.2))


Q, CACHE = torch.zeros(2, 4, 8), torch.zeros(5, 2, 2, 16, 8)
TABLES, CONTEXTS = torch.tensor([[0, 1], [4, 9]]), torch.tensor([32, 16])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"q": torch.zeros(2, 4, 9)}, r"q \[2, 4, 9\], cache \[5, 2, 2, 16, 8\].* do not fit"),
        ({"q": torch.zeros(4, 8)}, "do not fit"),
        ({"q": torch.zeros(3, 4, 8)}, "as many tables and contexts as queries"),
        ({"q": torch.zeros(2, 5, 8)}, "KV heads divide"),
        ({"q": Q.half()}, "cache of torch.float32 does not fit q of torch.float16"),
        ({"cache": torch.zeros(5, 3, 2, 16, 8)}, "do not fit"),
        ({"cache": torch.zeros(5, 2, 0, 16, 8)}, "KV heads divide"),
        ({"tables": TABLES.float()}, "expected int32 or int64"),
        ({"tables": torch.tensor([[0, 1], [5, 0]])}, "tables name blocks 0 to 5; expected 0 to 4"),
        ({"tables": torch.tensor([[0, -1], [4, 0]])}, "tables name blocks -1 to 4"),
        ({"contexts": torch.tensor([33, 1])}, "contexts reach from 1 to 33 tokens; expected 0 to 32"),
        ({"contexts": torch.tensor([-1, 1])}, "expected 0 to 32"),
        ({"contexts": torch.tensor([1])}, "as many tables"),
        ({"longest": 31}, "expected 0 to 31"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(changed, words):
    usual = {"q": Q, "cache": CACHE, "tables": TABLES, "contexts": CONTEXTS, "scale": 1.0}
    with pytest.raises(ValueError, match=words):
        paged_attention(**(usual | changed))


def test_a_block_number_past_the_context_may_be_anything():
    assert paged_attention(Q, CACHE, TABLES, CONTEXTS, scale=1.0).isfinite().all()


def test_without_the_interpreter_the_cpu_uses_the_reference(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    q, cache, tables, lengths, _ = _case([20, 3])

    found = paged_attention(q, cache, tables, lengths, scale=0.5)

    assert torch.equal(found, paged_attention_reference(q, cache, tables, lengths, scale=0.5))
