"""Scores order as the metrics do in float64; what no metric can serve is refused; formats round as NumPy does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llmsys.errors import BadInput, UsageFault
from llmsys.vindex.metric import check_metric, distances, kept, prepared, scores

MATRICES = arrays(np.float32, (4, 3), elements=st.floats(-1e6, 1e6, width=32))


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@given(rows=MATRICES)
def test_the_smaller_score_is_the_nearer_vector(metric, rows):
    query, vectors = rows[0], rows[1:]

    found = scores(query, vectors, metric)

    wide, asked = vectors.astype(np.float64), query.astype(np.float64)
    right = [sum((a - b) ** 2 for a, b in zip(row, asked, strict=True)) for row in wide]
    if metric != "l2":
        right = [-sum(a * b for a, b in zip(row, asked, strict=True)) for row in wide]
    np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-3)
    assert found.dtype == np.float64


@pytest.mark.parametrize(("metric", "sign"), [("l2", 1), ("ip", -1), ("cosine", -1)])
def test_a_user_sees_squared_distances_and_similarities(metric, sign):
    assert distances(np.array([0.5, -2.0]), metric).tolist() == [0.5 * sign, -2.0 * sign]


@given(MATRICES.filter(lambda rows: (np.abs(rows).max(axis=1) > 1e-3).all()))
def test_cosine_keeps_directions_of_unit_length(rows):
    unit = prepared(rows, "cosine", "here")

    np.testing.assert_allclose(np.linalg.norm(unit.astype(np.float64), axis=1), 1, atol=1e-6)
    assert (np.sign(unit) * np.sign(rows) >= 0).all()


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.float16, np.float64])
def test_numbers_of_any_kind_become_float32(metric, dtype):
    rows = prepared(np.array([[1, 2], [3, 4]], dtype), metric, "here")

    assert (rows.dtype, rows.tolist()) == (np.float32, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("values", "metric", "named"),
    [
        (np.zeros(3), "l2", r"shape \(3,\)"),
        (np.zeros((2, 0)), "l2", "d from 1"),
        (np.zeros((1, 4097)), "l2", "to 4096"),
        (np.zeros((2, 3)), "l2", "vectors of 3 numbers"),
        (np.array([[0, 1], [np.nan, 0]]), "l2", "row 1: NaN"),
        (np.array([[0, np.inf]]), "ip", "row 0"),
        (np.array([[1, 1], [1e19, 0]]), "l2", "row 1.*1e18"),
        (np.array([[1e300, 0]]), "ip", "row 0"),
        (np.array([[1, 0], [0, 0]]), "cosine", "row 1: a zero vector"),
    ],
)
def test_what_no_metric_serves_is_refused_at_its_row(values, metric, named):
    with pytest.raises(BadInput, match=f"here.*{named}"):
        prepared(values, metric, "here", 2)


def test_a_metric_that_is_none_is_named():
    assert check_metric("ip") == "ip"
    with pytest.raises(UsageFault, match="'dot' is not one of l2, ip, cosine"):
        check_metric("dot")


@given(MATRICES.map(lambda rows: rows / np.float32(100)))
def test_half_numbers_are_numpy_s(rows):
    assert kept(rows, "f16", "here").tolist() == rows.astype(np.float16).tolist()
    assert kept(rows, "f32", "here") is rows


@pytest.mark.parametrize("number", [65520.0, -65520.0, 1e18])
def test_a_number_beyond_half_is_named_at_its_row(number):
    with pytest.raises(BadInput, match="here: row 2: a number beyond float16"):
        kept(np.array([[1], [65504], [number]], np.float32), "f16", "here")
