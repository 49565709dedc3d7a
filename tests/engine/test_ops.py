"""Compiled loops against torch's operations, in both number formats and for any team."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine import team
from llmsys.engine.kv_store import LayerCache
from llmsys.engine.model import ModelConfig
from llmsys.engine.ops import CompiledOps, DecodeRows, TorchOps, choose_ops
from llmsys.engine.rope import RotaryTable

DTYPES = [torch.float32, torch.bfloat16]
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.bfloat16: {"rtol": 2**-6, "atol": 0.0}}
"""Sums in another order move a float32 by its last bits, and a bfloat16 that lies on a border by two roundings."""


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    """Team sizes that divide the work evenly, unevenly, or leave threads without any."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def drawn(shape, seed, dtype, scale=3.0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25)
@given(rows=st.integers(1, 9), width=st.integers(1, 130), seed=st.integers(0, 99))
def test_the_norm_is_the_definition_up_to_the_order_of_its_sum(dtype, rows, width, seed):
    x, weight = drawn((rows, width), seed, dtype), drawn((width,), seed + 1, dtype)

    torch.testing.assert_close(
        CompiledOps(dtype).rms_norm(x, weight, 1e-5), TorchOps().rms_norm(x, weight, 1e-5), **CLOSE[dtype]
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_of_a_team_is_the_norm_of_one(dtype, threads):
    x, weight = drawn((7, 40), 0, dtype), drawn((40,), 1, dtype)

    torch.testing.assert_close(
        CompiledOps(dtype).rms_norm(x, weight, 1e-5), TorchOps().rms_norm(x, weight, 1e-5), **CLOSE[dtype]
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gate_is_the_definition_at_every_magnitude(dtype, threads):
    magnitudes = torch.logspace(-30, 30, 64)
    gate_up = torch.stack([torch.cat([sign * magnitudes, magnitudes.flip(0)]) for sign in (1, -1)]).to(dtype)

    ours, torchs = CompiledOps(dtype).silu_mul(gate_up), TorchOps().silu_mul(gate_up)

    torch.testing.assert_close(ours, torchs, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-30)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays_nan_in_its_row_and_in_no_other(dtype):
    x, weight = drawn((3, 16), 0, dtype), torch.ones(16, dtype=dtype)
    x[1, 3] = torch.nan

    normed, gated = CompiledOps(dtype).rms_norm(x, weight, 1e-5), CompiledOps(dtype).silu_mul(x)

    assert normed.isnan().all(dim=1).tolist() == [False, True, False]
    assert gated.isnan().nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (4, 4, 16), (8, 1, 128)])
def test_decoding_equals_the_definition(dtype, heads, kv_heads, dim, threads):
    config = ModelConfig("llama", heads * dim, 1, heads, kv_heads, dim, 16, 32, 1e-5, 1e4, 256)
    table = RotaryTable(config, dtype=dtype, device=torch.device("cpu"))
    rows = DecodeRows.of([2, 0, 1], [4, 1, 0], [1, 200, 33])
    fused = drawn((3, (heads + 2 * kv_heads) * dim), 5, dtype, scale=1.0)
    qk = fused[:, : (heads + kv_heads) * dim].view(3, heads + kv_heads, dim)
    v = fused[:, (heads + kv_heads) * dim :].view(3, kv_heads, dim)
    results = []
    for ops in (CompiledOps(dtype), TorchOps()):
        cache = LayerCache(*(drawn((5, kv_heads, 256, dim), seed, dtype, scale=1.0) for seed in (6, 7)))
        out = torch.zeros(3, heads * dim, dtype=dtype)
        ops.decode(rows, qk, v, table, cache, out)
        results.append((out, *cache))

    for ours, torchs in zip(*results, strict=True):
        bound = 1e-2 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(ours, torchs, rtol=bound, atol=bound)


def test_without_torchs_openmp_a_loop_runs_on_one_thread(monkeypatch):
    monkeypatch.setattr(team, "_runtime", lambda: None)
    x, weight = drawn((7, 40), 0, torch.float32), drawn((40,), 1, torch.float32)

    torch.testing.assert_close(
        CompiledOps(torch.float32).rms_norm(x, weight, 1e-5), TorchOps().rms_norm(x, weight, 1e-5)
    )


def test_formats_and_devices_without_a_compiled_loop_take_torchs_operations():
    cpu = torch.device("cpu")

    assert isinstance(choose_ops(cpu, torch.bfloat16), CompiledOps)
    assert isinstance(choose_ops(cpu, torch.float16), TorchOps)
    assert isinstance(choose_ops(torch.device("meta"), torch.bfloat16), TorchOps)
