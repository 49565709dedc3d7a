"""Codes order vectors as the metric does, up to an error that their own numbers bound."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llmsys.vindex.codes import PIECE, code_scores, encode, encode_queries, row_bytes
from llmsys.vindex.scan import Effort

VECTORS = arrays(np.float32, (6, 5), elements=st.floats(-1e4, 1e4, width=32))


def decoded(rows, mean):
    """The vectors that rows of codes stand for, in float64."""
    numbers = np.ascontiguousarray(rows[:, -12:]).view(np.float32).astype(np.float64)
    whole = rows[:, : len(mean)].astype(np.float64) - 128
    return mean + numbers[:, 1:2] * whole, numbers


@pytest.mark.parametrize(("dim", "size"), [(1, 64), (52, 64), (53, 128), (116, 128), (117, 192), (384, 448)])
def test_a_row_fills_whole_cache_lines(dim, size):
    assert row_bytes(dim) == size
    assert encode(np.ones((2, dim), np.float32), np.zeros(dim, np.float32), "ip").shape == (2, size)


@given(VECTORS)
def test_a_number_is_off_by_half_a_step_at_most(vectors):
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)

    found, numbers = decoded(encode(vectors, mean, "l2"), mean.astype(np.float64))

    step = numbers[:, 1]
    assert (np.abs(found - vectors).max(axis=1) <= 0.5001 * step + 1e-30).all()
    assert (np.linalg.norm(found - vectors.astype(np.float64), axis=1) <= numbers[:, 0]).all()
    gaps = ((vectors.astype(np.float64) - mean) ** 2).sum(axis=1)
    np.testing.assert_allclose(numbers[:, 2], gaps, rtol=1e-6, atol=1e-40)


@given(VECTORS)
def test_scores_are_those_of_the_vectors_that_the_codes_stand_for(vectors):
    mean = np.zeros(5, np.float32)
    rows, coded = encode(vectors[1:], mean, "ip"), encode_queries(vectors[:1], mean)

    found, _ = decoded(rows, mean)

    query = coded.code[0, :5].astype(np.float64) * coded.twice_scale[0] / 2
    np.testing.assert_allclose(code_scores(rows, coded, 0), -2 * (found @ query), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_codes_order_well_separated_vectors_as_the_metric_does(generator, metric):
    mean = np.zeros(24, np.float32)
    vectors = (np.arange(1, 41)[:, None] * np.full((1, 24), 0.1)).astype(np.float32)
    vectors += generator.normal(size=vectors.shape).astype(np.float32) * np.float32(0.001)
    query = np.full((1, 24), 0.05 if metric == "l2" else 1.0, np.float32)

    order = np.argsort(code_scores(encode(vectors, mean, metric), encode_queries(query, mean), 0))

    assert order.tolist() == (list(range(40)) if metric == "l2" else list(range(39, -1, -1)))


def test_pieces_make_no_difference(generator):
    vectors = generator.normal(size=(PIECE + 3, 2)).astype(np.float32)
    mean = vectors.mean(axis=0)

    whole = encode(vectors, mean, "l2")

    assert np.array_equal(whole[-5:], encode(vectors[-5:], mean, "l2"))
    assert np.array_equal(whole[:5], encode(vectors[:5], mean, "l2"))


def test_a_zero_vector_has_a_code_of_zeros():
    rows = encode(np.zeros((1, 3), np.float32), np.zeros(3, np.float32), "l2")
    found, numbers = decoded(rows, np.zeros(3))

    assert found.tolist() == [[0, 0, 0]]
    assert numbers[0, 1:].tolist() == [1, 0]
    assert 0 < numbers[0, 0] < 1e-40


def test_efforts_rise_level_by_level_and_keep_room_for_k():
    for k in (1, 10, 500):
        levels = [Effort.level(level, k) for level in range(11)]
        assert [one.width for one in levels] == sorted(one.width for one in levels)
        assert [one.patience for one in levels] == sorted({one.patience for one in levels})
        assert levels[0].width >= 2 * k
