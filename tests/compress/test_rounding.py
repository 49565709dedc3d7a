"""Round to nearest: the arithmetic by hand, every width, and streams that lie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.compress.codecs import decode_span
from llmsys.compress.coded import Target, in_memory
from llmsys.compress.encoding import Goal, encode_tensor
from llmsys.compress.errors import BadBitstream, TargetUnreachable
from llmsys.compress.planning import PlanLine
from llmsys.compress.rounding import GROUP, decode_rounded, encode_rounded
from tests.compress.conftest import decoded


def at_bits(array, bits):
    return encode_rounded(in_memory(array), Target(stored_bytes=int(bits * array.size / 8)))


def by_hand(values, bits):
    """What RTN gives for one group whose ends float16 holds."""
    low, high = values.min(), values.max()
    step = np.float32(np.float16((high - low) / (2**bits - 1)))
    return low + np.clip(np.round((values - low) / step), 0, 2**bits - 1) * step


@pytest.mark.parametrize("bits", range(1, 9))
def test_each_group_is_rounded_as_by_hand(bits):
    rng = np.random.default_rng(bits)
    array = rng.normal(size=(128, GROUP)).astype(np.float16).astype(np.float32)
    coded = at_bits(array, bits + 0.6)

    expected = np.stack([by_hand(group, bits) for group in array])
    assert np.allclose(decoded(coded), expected, atol=1e-6)
    assert 8 * coded.entry.stored_bytes / array.size == pytest.approx(bits + 0.5, abs=0.01)
    assert coded.entry.nmse == pytest.approx(((array - expected) ** 2).mean() / array.var(), rel=1e-3)


def test_a_rate_between_two_widths_takes_the_lower(k_proj):
    assert 8 * at_bits(k_proj, 4.4).entry.stored_bytes / k_proj.size == pytest.approx(3.5, abs=0.001)


def test_an_error_takes_the_fewest_bits_that_stay_within_it(k_proj):
    coded = encode_rounded(in_memory(k_proj), Target(nmse=0.01))
    fewer = at_bits(k_proj, 8 * coded.entry.stored_bytes / k_proj.size - 0.9)

    assert coded.entry.nmse <= 0.01 < fewer.entry.nmse


def test_a_rate_below_one_bit_is_refused_with_what_can_be_had(k_proj):
    with pytest.raises(TargetUnreachable, match=r"rtn takes 1\.50\d bits per value or more"):
        at_bits(k_proj, 1.2)


@given(st.integers(1, 700), st.integers(0, 2**32 - 1))
def test_any_length_comes_back_within_half_a_step(size, seed):
    array = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    coded = encode_rounded(in_memory(array), Target(nmse=1.0 if size > 1 and array.var() > 0 else 1e9))

    assert decoded(coded).shape == array.shape
    spread = float(array.max() - array.min())
    assert np.abs(decoded(coded) - array).max() <= 0.51 * spread + 0.002 * np.abs(array).max()


def test_infinities_and_values_beyond_float16_are_kept_exactly():
    array = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    array[3, 5], array[9, 1], array[60, 127] = np.inf, np.nan, 1e30
    back = decoded(at_bits(array, 4.6))

    assert (back[3, 5], back[60, 127]) == (np.inf, np.float32(1e30))
    assert np.isnan(back[9, 1])


@pytest.mark.parametrize("cut", [0, 3, 100, -1])
def test_a_stream_of_the_wrong_length_is_refused(k_proj, cut):
    coded = at_bits(k_proj, 3.6)
    payload = coded.blobs[1][:cut]

    with pytest.raises(BadBitstream, match="test: "):
        decode_rounded(coded.entry, coded.blobs[0], payload, coded.entry.chunks[0], "test")


def test_a_strange_value_outside_of_its_chunk_is_refused():
    array = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    array[0, 0] = np.inf
    coded = at_bits(array, 4.6)
    payload = bytearray(coded.blobs[1])
    payload[4:8] = (2**31).to_bytes(4, "little")

    with pytest.raises(BadBitstream, match="an exact value outside of the chunk"):
        decode_rounded(coded.entry, coded.blobs[0], bytes(payload), coded.entry.chunks[0], "test")


def test_a_span_is_that_of_the_whole(k_proj):
    coded = at_bits(k_proj, 4.6)
    data = coded.data
    part = decode_span(coded.entry, lambda at, length: data[at : at + length], 1000, 1500, "test")

    assert np.array_equal(part.view(np.float16), decoded(coded).astype(np.float16).reshape(-1)[1000:1500])


def test_auto_takes_the_codec_with_the_least_error(k_proj):
    tensor = in_memory(k_proj)
    best = encode_tensor(tensor, PlanLine("k", "auto", 3.0), Goal())
    plain = encode_tensor(tensor, PlanLine("k", "tq", 3.0), Goal())

    assert best.entry.nmse <= plain.entry.nmse
    assert best.entry.codec == "tq"


def test_auto_leaves_an_encoder_that_is_missing_out(k_proj, monkeypatch):
    monkeypatch.setattr("llmsys.compress.encoding.TRIED", ("tq", "hevc_nvenc"))

    assert encode_tensor(in_memory(k_proj), PlanLine("k", "auto", 3.0), Goal()).entry.codec == "tq"
