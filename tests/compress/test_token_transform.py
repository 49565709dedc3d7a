"""The transform over tokens against scipy's, its gain on a known source, and streams that lie."""

import numpy as np
import pytest
from scipy.fft import dct

from llmsys.compress.codecs import decode_all, decode_span
from llmsys.compress.coded import Target, in_memory
from llmsys.compress.encoding import Goal, encode_tensor
from llmsys.compress.errors import BadBitstream, TargetUnreachable
from llmsys.compress.planning import PlanLine
from llmsys.compress.tensor_encoder import encode_tq
from llmsys.compress.token_transform import cosines, decode_tokens, encode_tokens
from tests.compress.conftest import decoded


def smooth_tokens(tokens=500, channels=64, neighbour=0.9, seed=0):
    """Channels with means of their own that drift from token to token, [tokens, channels] float32."""
    rng = np.random.default_rng(seed)
    values = np.empty((tokens, channels))
    values[0] = rng.normal(size=channels)
    for at in range(1, tokens):
        values[at] = neighbour * values[at - 1] + np.sqrt(1 - neighbour**2) * rng.normal(size=channels)
    return (values + 3 * rng.normal(size=channels)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_the_transform_is_the_orthonormal_cosine_transform(count):
    values = np.random.default_rng(count).normal(size=(count, 5))

    assert np.allclose(cosines(count) @ values, dct(values, axis=0, norm="ortho"))
    assert np.allclose(cosines(count).T @ cosines(count), np.eye(count))


def test_smooth_tokens_take_fewer_bits_at_the_same_error():
    array = smooth_tokens()
    ours = encode_tokens(in_memory(array), Target(nmse=0.003))
    plain = encode_tq(in_memory(array), Target(nmse=0.003))

    assert 0.0027 < ours.entry.nmse <= 0.003
    # an AR(1) of 0.9 gains ½ log₂ 1/(1 − 0.81) = 1.2 bits without end; blocks of 32 and side information keep most
    assert 8 * (plain.entry.stored_bytes - ours.entry.stored_bytes) / array.size > 0.75


def test_a_rate_is_met_and_the_error_is_what_decoding_gives():
    array = smooth_tokens(tokens=300)
    coded = encode_tokens(in_memory(array), Target(stored_bytes=2 * array.size // 8, slack_bytes=40))
    gap = decoded(coded).astype(np.float64) - array

    assert 1.9 < 8 * coded.entry.stored_bytes / array.size <= 2.0
    assert coded.entry.nmse == pytest.approx(np.mean(gap**2) / array.astype(np.float64).var(), rel=1e-5)


def test_a_span_across_two_chunks_is_that_of_the_whole():
    array = smooth_tokens(tokens=1100, channels=1024).astype(np.float16)
    coded = encode_tokens(in_memory(array), Target(stored_bytes=array.size // 4, slack_bytes=20000), trellis=0)
    data = coded.data
    part = decode_span(coded.entry, lambda at, size: data[at : at + size], 1020 * 1024, 1028 * 1024, "test")

    assert len(coded.entry.chunks) == 2
    assert np.array_equal(part, decode_all(coded.entry, data, "test")[1020 * 1024 : 1028 * 1024])


def test_kind_kv_takes_the_transform_only_where_it_helps():
    noise = np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32)
    holes = smooth_tokens()
    holes[5, 5] = np.nan
    goal = Goal(kind="kv", nmse=0.01)
    codecs = [
        encode_tensor(in_memory(array), PlanLine("array", "tq"), goal).entry.codec
        for array in (smooth_tokens(), noise, holes, smooth_tokens().reshape(-1))
    ]

    assert codecs == ["ttq", "tq", "tq", "tq"]


def test_a_rate_that_means_alone_exceed_is_refused():
    with pytest.raises(TargetUnreachable, match="the means of 64 channels alone"):
        encode_tokens(in_memory(smooth_tokens(64)), Target(stored_bytes=100))


@pytest.mark.parametrize("cut", [0, 2, 90])
def test_a_shared_part_that_was_cut_is_refused(cut):
    coded = encode_tokens(in_memory(smooth_tokens(128)), Target(nmse=0.01), trellis=0)

    with pytest.raises(BadBitstream, match="test: "):
        decode_tokens(coded.entry, coded.blobs[0][:cut], coded.blobs[1], coded.entry.chunks[0], "test")
