"""4-bit codes as files have them: what they mean, what the kernel makes of them, and where they are used."""

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine.gguf import _scales
from llmsys.engine.int4 import GROUP, Codes, FourBit
from llmsys.engine.linear import FEW_ROWS, Linear


def stored(kind, out, width, seed, scale=1.0):
    """A random matrix in a kind of GGUF: its codes, and what the gguf package says that it means."""
    values = np.random.default_rng(seed).normal(scale=scale, size=(out, width)).astype(np.float32)
    data = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
    blocks = data.reshape(out, width // GROUP, -1)
    nibbles = torch.from_numpy(blocks[:, :, -GROUP // 2 :].reshape(out, -1).copy())
    codes = Codes(nibbles, _scales(blocks).permute(1, 0, 2).contiguous())
    return codes, torch.from_numpy(gguf.dequantize(data, gguf.GGMLQuantizationType[kind]).copy())


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
@given(out=st.integers(1, 5), groups=st.integers(1, 4), seed=st.integers(0, 999), scale=st.sampled_from([1e-3, 1, 50]))
def test_codes_mean_what_the_file_means_up_to_the_rounding_of_two_scales(kind, out, groups, seed, scale):
    codes, meant = stored(kind, out, groups * GROUP, seed, scale)

    found = codes.dense()

    # d and z are rounded by 2^-9 each; a code counts d at most 8 times
    bound = (8 * codes.scales[..., 0].abs() + codes.scales[..., 1].abs()).float().amax() * 2**-8 + 1e-6
    assert float((found - meant).abs().max()) <= float(bound)


@settings(max_examples=30)
@given(rows=st.integers(1, 9), blocks=st.integers(1, 3), groups=st.integers(1, 6), seed=st.integers(0, 999))
def test_the_kernel_multiplies_by_what_the_codes_mean(rows, blocks, groups, seed):
    codes, _ = stored("Q4_1", 16 * blocks, GROUP * groups, seed)
    x = torch.randn(rows, GROUP * groups, generator=torch.Generator().manual_seed(seed)).bfloat16()
    expected = x.double() @ codes.dense().bfloat16().double().T

    found = FourBit(codes)(x)

    torch.testing.assert_close(found.double(), expected, rtol=2e-2, atol=5e-2 * groups**0.5)


@given(out=st.integers(1, 5), groups=st.integers(1, 4), seed=st.integers(0, 999), scale=st.sampled_from([1e-3, 1, 50]))
def test_the_nearest_codes_are_within_half_a_step_of_every_weight(out, groups, seed, scale):
    weight = torch.randn(out, groups * GROUP, generator=torch.Generator().manual_seed(seed)) * scale + scale

    codes = Codes.nearest(weight)

    step = codes.scales[..., 0].t().float().repeat_interleave(GROUP, dim=1)
    zero = codes.scales[..., 1].t().float().repeat_interleave(GROUP, dim=1)
    # d and z are rounded by 2^-9 each: so far may the ends of a group lie outside of what 16 codes reach
    bound = 0.5 * step + (8 * step + zero.abs()) * 2**-8
    assert bool(((codes.dense() - weight).abs() <= bound).all())


def test_what_has_codes_already_is_given_the_same_ones():
    codes, _ = stored("Q4_1", 32, 4 * GROUP, 3)

    again = Codes.nearest(codes.dense())

    torch.testing.assert_close(again.dense(), codes.dense(), rtol=0, atol=float(codes.scales[..., 0].max()) / 16)


def test_a_group_of_equal_weights_stays_what_it_is():
    assert torch.equal(Codes.nearest(torch.full((2, GROUP), -0.75)).dense(), torch.full((2, GROUP), -0.75))


def test_matrices_below_each_other_are_one_matrix():
    parts = [stored("Q4_1", out, 64, seed)[0] for seed, out in enumerate((16, 32))]

    assert torch.equal(Codes.fused(parts).dense(), torch.cat([part.dense() for part in parts]))


@pytest.mark.parametrize("bias", [None, torch.arange(32).bfloat16()])
def test_few_rows_read_the_codes_and_many_the_weights(bias):
    codes, _ = stored("Q4_1", 32, 64, 5)
    weight = torch.zeros(32, 64, dtype=torch.bfloat16)
    linear = Linear(weight, bias, codes=codes)
    offset = 0 if bias is None else bias.double()

    for rows in (1, FEW_ROWS, FEW_ROWS + 1):
        x = torch.randn(rows, 64).bfloat16()
        expected = x.double() @ codes.dense().bfloat16().double().T if rows <= FEW_ROWS else torch.zeros(rows, 32)
        torch.testing.assert_close(linear(x).double(), expected.double() + offset, rtol=2e-2, atol=0.2)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_in_tiles_all_rows_read_the_codes_whatever_their_number(rows):
    codes, _ = stored("Q4_1", 32, 64, 5)
    linear = Linear(torch.zeros(32, 64, dtype=torch.bfloat16), codes=codes, tiled=True)
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(1)).bfloat16()

    assert torch.equal(linear(x[:rows]), linear(x)[:rows])
    torch.testing.assert_close(linear(x).double(), x.double() @ codes.dense().double().T, rtol=2e-2, atol=0.2)


@pytest.mark.parametrize(("out", "dtype"), [(24, torch.bfloat16), (32, torch.float32)])
def test_a_matrix_that_the_kernel_does_not_take_keeps_its_weights(out, dtype):
    codes, _ = stored("Q4_1", out, 64, 6)
    weight = torch.randn(out, 64).to(dtype)
    x = torch.randn(2, 64).to(dtype)

    torch.testing.assert_close(Linear(weight, codes=codes)(x), Linear(weight)(x), rtol=0, atol=0)
