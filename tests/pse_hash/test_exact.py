"""`exact` against float64 sums over all pairs, far from the origin and far below what floats hold."""

import math

import numpy as np
import pytest

from llmsys.errors import UsageFault
from llmsys.pse_hash import DimensionMismatch, Kernel, PairwiseSum, Settings
from llmsys.pse_hash.compiled import DEAD, fold, fold_reference
from tests.pse_hash.oracle import FORMULAS, log_means


def sketch_of(points, kernel="gaussian", scale=1.0, weights=None, **settings):
    return PairwiseSum.build(points, Settings(kernel, scale, method="exact", **settings), weights=weights)


@pytest.mark.parametrize("kernel", FORMULAS)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (1030, 3), (700, 50), (97, 384)])
def test_exact_agrees_with_float64_for_every_kernel(kernel, n, d):
    rng = np.random.default_rng(n)
    points, queries = (rng.normal(size=(size, d)).astype(np.float32) for size in (n, 7))
    weights = rng.random(n) + 0.1
    scale = 1 / math.sqrt(d) if kernel == "dot" else math.sqrt(d)

    found = sketch_of(points, kernel, scale, weights).query(queries)

    assert found.log_value == pytest.approx(log_means(queries, points, kernel, scale, weights), abs=1e-5)
    assert set(found.methods) == {"exact"}
    assert (found.log_low == found.log_high).all()


@pytest.mark.parametrize("kernel", ["gaussian", "exponential", "laplacian", "cauchy"])
def test_exact_keeps_its_digits_ten_thousand_units_from_the_origin(kernel):
    rng = np.random.default_rng(1)
    points = (rng.integers(-64, 64, (300, 5)) / 64 + 1e4).astype(np.float32)
    queries = points[:5] + np.float32(1 / 64)

    found = sketch_of(points, kernel, 0.05).query(queries)

    assert found.log_value == pytest.approx(log_means(queries, points, kernel, 0.05), abs=1e-5)


@pytest.mark.parametrize("kernel", ["gaussian", "exponential"])
def test_logs_reach_far_below_the_smallest_float(kernel):
    points, query = np.zeros((5, 2)), np.array([[100.0, 0.0]])

    found = sketch_of(points, kernel, 0.05).query(query)

    assert found.log_value == pytest.approx(log_means(query, points, kernel, 0.05), rel=1e-6)
    assert found.log_value[0] < -700
    assert found.below_tau.all()


def test_the_compiled_fold_does_what_its_twin_does():
    rng = np.random.default_rng(2)
    tile = rng.normal(0, 30, (9, 77)).astype(np.float32)
    bias = rng.normal(size=77).astype(np.float32)
    bias[5] = DEAD
    power = np.empty(77, np.float32)
    tops, totals = [np.full(9, float(DEAD)) for _ in range(2)], [np.zeros(9) for _ in range(2)]

    for _ in range(2):
        fold_reference(tile.copy(), bias, tops[0], totals[0])
        fold(tile.copy(), bias, tops[1], totals[1], power, power.view(np.int32))

    assert tops[1] == pytest.approx(tops[0])
    assert totals[1] == pytest.approx(totals[0], rel=2e-6)


def test_an_empty_or_weightless_set_has_the_value_zero():
    assert sketch_of(np.zeros((0, 3))).query(np.zeros((1, 3))).value.tolist() == [0.0]
    assert sketch_of(np.zeros((4, 3)), weights=np.zeros(4)).query(np.zeros((1, 3))).value.tolist() == [0.0]


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "cauchy"])
def test_leaving_a_point_out_is_never_a_difference_without_digits(kernel):
    rng = np.random.default_rng(3)
    points = np.concatenate([rng.normal(size=(200, 4)), [[9.0, 9, 9, 9]]]).astype(np.float32)

    found = sketch_of(points, kernel, 0.7).query(points[-1:], leave_out=["200"])

    assert found.log_value == pytest.approx(log_means(points[-1:], points[:-1], kernel, 0.7), rel=1e-6)
    assert found.count.tolist() == [200]


@pytest.mark.parametrize(
    "settings", [{"scale": 0}, {"scale": float("nan")}, {"eps": 0}, {"eps": 1}, {"tau": 0}, {"kernel": "box"}]
)
def test_parameters_out_of_range_are_wrong_usage(settings):
    with pytest.raises(UsageFault):
        Settings(**({"kernel": "gaussian", "scale": 1.0} | settings))


@pytest.mark.parametrize("bad", [np.zeros((1, 2)), np.array([[0, 0, np.nan]])])
def test_a_query_of_another_shape_or_not_finite_is_refused(bad):
    with pytest.raises(DimensionMismatch):
        sketch_of(np.zeros((4, 3))).query(bad)


@pytest.mark.parametrize("name", ["gaussian", "exponential", "cauchy", "laplacian"])
def test_no_kernel_is_steeper_than_its_lipschitz_constant(name):
    kernel, line = Kernel(name, 0.7), np.linspace(0, 5, 20_001)[:, None]

    values = np.exp(kernel.log_row(np.zeros(1), line))

    slope = np.abs(np.diff(values)) / np.diff(line[:, 0])
    assert slope.max() <= kernel.lipschitz * (1 + 1e-6)
    assert slope.max() >= kernel.lipschitz * 0.99
