import math
from types import SimpleNamespace

import pytest
import torch

from llmsys.engine.attention import AttentionPlan, PromptChunk, StepAttention
from llmsys.engine.kv_store import RowKV
from llmsys.engine.model import ModelConfig
from llmsys.engine.ops import CompiledOps, DecodeRows, TorchOps
from llmsys.engine.rope import RotaryTable

HEADS, KV_HEADS, DIM = 6, 2, 8
CONFIG = ModelConfig("llama", HEADS * DIM, 1, HEADS, KV_HEADS, DIM, 16, 32, 1e-5, 100.0, 320)


@pytest.fixture(params=["torch", "compiled"])
def ops(request):
    return TorchOps() if request.param == "torch" else CompiledOps(torch.float32)


@pytest.fixture
def store():
    torch.manual_seed(0)
    made = RowKV(layers=1, rows=8, kv_heads=KV_HEADS, max_len=320, head_dim=DIM, dtype=torch.float32)
    for arena in (*made.keys, *made.values):
        arena.normal_()
    return made


def rotated(x, position):
    """The rotation by its formula, in float64: x [heads, DIM]."""
    half = DIM // 2
    angles = [position * 100.0 ** (-2 * i / DIM) for i in range(half)]
    out = x.double().clone()
    for i, angle in enumerate(angles):
        low, high = x[:, i].double(), x[:, half + i].double()
        out[:, i] = low * math.cos(angle) - high * math.sin(angle)
        out[:, half + i] = high * math.cos(angle) + low * math.sin(angle)
    return out.float()


def step(store, ops, decodes, chunks=(), tokens=None):
    """One layer's attention over random q, k, v; `decodes` are (token, row, length)."""
    count = tokens or len(decodes)
    qk, v = torch.randn(count, HEADS + KV_HEADS, DIM), torch.randn(count, KV_HEADS, DIM)
    plan = AttentionPlan(chunks, (DecodeRows.of(*zip(*decodes, strict=True)),) if decodes else ())
    table = RotaryTable(CONFIG, dtype=torch.float32, device=torch.device("cpu"))
    return SimpleNamespace(qk=qk, v=v, out=StepAttention(plan, store, table, ops)(0, qk, v))


def by_hand(store, row, length, q):
    """Attention of one token by the formula, one head at a time; q [HEADS, DIM] rotated."""
    heads = []
    for head in range(HEADS):
        keys = store.keys[0][row, head // (HEADS // KV_HEADS), :length]
        values = store.values[0][row, head // (HEADS // KV_HEADS), :length]
        heads.append(torch.softmax(keys @ q[head] / DIM**0.5, dim=0) @ values)
    return torch.cat(heads)


@pytest.mark.parametrize(
    "decodes",
    [
        [(0, 0, 1)],
        [(0, 2, 17), (1, 3, 17), (2, 4, 17)],
        [(0, 0, 5), (1, 1, 90), (2, 2, 17), (3, 3, 128)],
        [(3, 0, 300), (0, 1, 20), (2, 5, 129), (1, 6, 40)],
    ],
)
def test_decoding_is_the_formula_whatever_the_order_of_rows_and_tokens(store, ops, decodes):
    done = step(store, ops, decodes)

    for token, row, length in decodes:
        turned = rotated(done.qk[token], length - 1)
        torch.testing.assert_close(store.keys[0][row, :, length - 1], turned[HEADS:])
        assert torch.equal(store.values[0][row, :, length - 1], done.v[token])
        torch.testing.assert_close(done.out[token], by_hand(store, row, length, turned[:HEADS]))


def test_a_prompt_chunk_is_the_formula_beside_decoding_rows(store, ops):
    chunk = PromptChunk(row=7, first=1, start=3, count=4)
    done = step(store, ops, [(0, 2, 9), (5, 4, 30)], (chunk,), tokens=6)

    for token, row, length in [(0, 2, 9), (5, 4, 30), *((1 + i, 7, 4 + i) for i in range(4))]:
        turned = rotated(done.qk[token], length - 1)
        torch.testing.assert_close(done.out[token], by_hand(store, row, length, turned[:HEADS]))


def test_writing_a_step_changes_no_other_token(store, ops):
    before = store.keys[0].clone()
    step(store, ops, [(0, 1, 7), (1, 4, 33)])

    changed = (store.keys[0] != before).any(dim=-1).nonzero().tolist()

    assert changed == [[1, 0, 6], [1, 1, 6], [4, 0, 32], [4, 1, 32]]


def test_nothing_beyond_a_row_is_read(store, ops):
    store.keys[0][3, :, 20:] = torch.nan
    store.values[0][3, :, 20:] = torch.nan

    assert step(store, ops, [(0, 3, 20)]).out.isfinite().all()
