from types import SimpleNamespace

import pytest
import torch

from llmsys.engine.attention import AttentionPlan, as_places, attend, plan_runs
from llmsys.engine.kv_store import RowKV

HEADS, KV_HEADS, DIM = 6, 2, 8


@pytest.fixture
def store():
    torch.manual_seed(0)
    made = RowKV(layers=1, rows=8, kv_heads=KV_HEADS, max_len=320, head_dim=DIM, dtype=torch.float32)
    for arena in (*made.keys, *made.values):
        arena.normal_()
    return made


def decode(store, rows, lengths, order):
    """One decode step of `rows`, whose tokens stand at `order` in the batch; returns its inputs and output."""
    count = len(rows)
    q, k, v = (torch.randn(count, heads, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    plan = AttentionPlan(
        chunks=(),
        runs=plan_runs(rows, lengths, order),
        decode_tokens=as_places(order),
        decode_places=store.places(rows, [length - 1 for length in lengths]),
    )
    return SimpleNamespace(q=q, k=k, v=v, out=attend(plan, store, 0, q, k, v), plan=plan)


def by_hand(store, row, length, q):
    """Attention of one token by the formula, one head at a time."""
    heads = []
    for head in range(HEADS):
        keys = store.keys[0][row, head // (HEADS // KV_HEADS), :length]
        values = store.values[0][row, head // (HEADS // KV_HEADS), :length]
        heads.append(torch.softmax(keys @ q[head] / DIM**0.5, dim=0) @ values)
    return torch.cat(heads)


@pytest.mark.parametrize(
    ("rows", "lengths", "order"),
    [
        ([0], [1], [0]),
        ([2, 3, 4], [17, 17, 17], [0, 1, 2]),
        ([0, 1, 2, 3], [5, 90, 17, 128], [0, 1, 2, 3]),
        ([3, 0, 2, 1], [5, 90, 17, 128], [0, 1, 2, 3]),
        ([0, 1, 5, 6], [300, 20, 129, 40], [3, 0, 2, 1]),
    ],
)
def test_decoding_is_the_formula_whatever_the_order_of_rows_and_tokens(store, rows, lengths, order):
    step = decode(store, rows, lengths, order)

    for row, length, token in zip(rows, lengths, order, strict=True):
        assert torch.equal(store.keys[0][row, :, length - 1], step.k[token])
        assert torch.equal(store.values[0][row, :, length - 1], step.v[token])
        torch.testing.assert_close(step.out[token], by_hand(store, row, length, step.q[token]))


def test_writing_a_step_changes_no_other_token(store):
    before = store.keys[0].clone()
    decode(store, [1, 4], [7, 33], [0, 1])

    changed = (store.keys[0] != before).any(dim=-1).nonzero().tolist()

    assert changed == [[1, 0, 6], [1, 1, 6], [4, 0, 32], [4, 1, 32]]


def test_rows_of_one_length_in_order_need_neither_gathering_nor_a_mask(store):
    (run,) = decode(store, [2, 3, 4], [17, 17, 17], [0, 1, 2]).plan.runs

    assert (run.tokens, run.mask) == (slice(0, 3), None)


def test_places_are_a_slice_only_where_order_is_kept():
    assert as_places([4, 5, 6]) == slice(4, 7)
    assert as_places([5, 4]).tolist() == [5, 4]
    assert as_places([1, 3]).tolist() == [1, 3]
