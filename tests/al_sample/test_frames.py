"""Leverage, rank and near-orthogonality against mpmath, numpy's SVD and the definitions."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.al_sample import (
    Design,
    RankDeficient,
    choose_frame,
    design_of,
    frame_of,
    leverage,
    measure_nearness,
    nearness_of_gram,
    pool_of,
    report_basis,
    resolve_basis,
    ridge_frame,
    score_points,
    triangular_factor,
)
from llmsys.errors import BadInput, UsageFault


def design(values, *, weights=None, block_rows=0, basis="linear", intercept=False) -> Design:
    pool = pool_of(values)
    return design_of(pool, resolve_basis(basis, pool, intercept=intercept), weights, block_rows=block_rows)


def heavy(n, d, seed=0):
    return np.random.default_rng(seed).standard_t(3, size=(n, d))


def planted(n, d, rho, rng):
    """Columns whose Gram matrix over the n rows is exactly (1 − ρ)I + ρ11ᵀ."""
    q = np.linalg.qr(rng.standard_normal((n, d)))[0] * np.sqrt(n)
    gram = (1 - rho) * np.eye(d) + rho * np.ones((d, d))
    return q @ np.linalg.cholesky(gram).T


def test_leverage_is_the_hat_matrix_at_fifty_digits():
    values = heavy(30, 5) * np.array([1.0, 1e3, 1e-4, 1.0, 7.0])
    mpmath.mp.dps = 50
    a = mpmath.matrix(values.tolist())
    inverse = (a.T * a) ** -1
    expected = [float((a[i, :] * inverse * a[i, :].T)[0]) for i in range(30)]

    np.testing.assert_allclose(leverage(values), expected, rtol=1e-10)


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 10**6))
def test_leverage_lies_in_the_unit_interval_and_sums_to_the_rank(n, d, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, (n, d)).astype(float)
    values[0, 0] = 1.0
    rank = np.linalg.matrix_rank(values)
    found = leverage(values)

    assert (found >= 0).all()
    assert (found <= 1).all()
    assert found.sum() == pytest.approx(rank, abs=1e-8)


@given(st.integers(0, 10**6))
def test_leverage_does_not_change_with_the_basis_of_the_column_space(seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((40, 4))
    mixing = rng.standard_normal((4, 4)) + 4 * np.eye(4)

    np.testing.assert_allclose(leverage(values @ mixing), leverage(values), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("block_rows", [1, 7, 64, 1000])
def test_a_pool_read_in_blocks_gives_the_scores_of_the_whole(block_rows):
    values = heavy(300, 6)
    blocked = design(values, block_rows=block_rows)
    found = score_points(blocked, frame_of(blocked))

    np.testing.assert_allclose(found.leverage, leverage(values), rtol=1e-9)


def test_blocks_of_one_factor_have_the_gram_matrix_of_all_rows():
    values = heavy(100, 5)
    factor = triangular_factor([values[:3], values[3:50], values[50:]])

    np.testing.assert_allclose(factor.T @ factor, values.T @ values, rtol=1e-10)
    with pytest.raises(ValueError, match="no block"):
        triangular_factor([])


def test_an_integer_weight_counts_as_so_many_copies_of_a_point():
    values = heavy(50, 3)
    counts = np.arange(50) % 4
    weighted = design(values, weights=counts.astype(float))
    found = score_points(weighted, frame_of(weighted)).leverage
    copies = leverage(np.repeat(values, counts, axis=0))
    totals = np.bincount(np.repeat(np.arange(50), counts), copies, 50)

    np.testing.assert_allclose(found, totals, rtol=1e-9)
    assert (found[counts == 0] == 0).all()


def test_a_column_that_others_span_is_dropped_and_named():
    values = heavy(80, 4)
    values = np.column_stack([values, values[:, 0] - 2 * values[:, 2], np.zeros(80)])
    frame = frame_of(design(values))

    assert frame.rank == 4
    assert 5 in frame.dropped
    assert np.linalg.matrix_rank(values[:, frame.kept]) == 4


def test_a_column_on_a_tiny_scale_is_kept():
    values = heavy(80, 3) * np.array([1.0, 1e-30, 1e20])

    assert frame_of(design(values)).rank == 3


def test_a_frame_makes_values_orthonormal_under_the_weights():
    values = heavy(200, 5)
    weights = np.random.default_rng(1).random(200)
    made = design(values, weights=weights)
    u = frame_of(made).orthonormal(values)

    np.testing.assert_allclose((u * made.measure[:, None]).T @ u / 200, np.eye(5), atol=1e-10)


def test_a_frame_knows_the_norm_of_a_function():
    values = heavy(200, 3)
    c = np.array([1.0, -2.0, 0.5])

    assert frame_of(design(values)).norm(c) == pytest.approx(np.sqrt(np.mean((values @ c) ** 2)), rel=1e-10)


def test_ridge_leverages_sum_to_the_effective_dimension():
    values = heavy(100, 5)
    made = design(values)
    frame = ridge_frame(made, frame_of(made), 30.0)
    eigenvalues = np.linalg.eigvalsh(values.T @ values)

    assert score_points(made, frame).leverage.sum() == pytest.approx((eigenvalues / (eigenvalues + 30)).sum(), rel=1e-9)


def test_a_pool_without_any_direction_is_refused():
    with pytest.raises(RankDeficient, match="rank 0"):
        frame_of(design(np.zeros((5, 2))))


def test_not_a_number_is_named_with_its_row():
    values = heavy(100, 3)
    values[57, 1] = np.nan

    with pytest.raises(BadInput, match="row 57"):
        frame_of(design(values, block_rows=10))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("rho", [0.0, 0.01, 0.05])
def test_a_planted_correlation_is_measured_and_its_inequalities_hold(rho, signed):
    """Section 2.3: Gershgorin's bounds on norms and leverages, exactly."""
    rng = np.random.default_rng(5)
    d = 6
    values = planted(400, d, rho, rng) * (rng.choice([-1.0, 1.0], d) if signed else 1.0)
    made = design(values)
    near = measure_nearness(made)
    tau = score_points(made, frame_of(made)).leverage * 400
    lengths = np.square(values).sum(axis=1)
    c = rng.standard_normal((50, d))
    norms = np.square(c @ values.T).mean(axis=1)

    assert near.rho == pytest.approx(rho, abs=1e-10)
    assert near.eta == pytest.approx((d - 1) * rho, abs=1e-9)
    assert near.gram_distance <= near.eta + 1e-9
    slack = 1e-9
    assert (lengths / (1 + near.eta) <= tau + slack).all()
    assert (tau <= lengths / (1 - near.eta) + slack).all()
    assert ((1 - near.eta) * np.square(c).sum(axis=1) <= norms + slack).all()
    assert (norms <= (1 + near.eta) * np.square(c).sum(axis=1) + slack).all()


def test_the_distance_of_a_gram_matrix_is_its_largest_eigenvalue_off_one():
    gram = np.array([[1.0, 0.3, 0.3], [0.3, 1.0, 0.3], [0.3, 0.3, 1.0]])

    assert nearness_of_gram(gram).gram_distance == pytest.approx(0.6)


def test_auto_takes_a_nearly_orthonormal_basis_as_it_is_and_no_other():
    rng = np.random.default_rng(2)

    assert choose_frame(design(planted(300, 5, 0.01, rng)))[1] == "near"
    assert choose_frame(design(planted(300, 5, 0.2, rng)))[1] == "leverage"


def test_near_refuses_a_basis_that_promises_nothing_and_believes_a_given_eta():
    values = planted(300, 5, 0.9, np.random.default_rng(2))

    with pytest.raises(UsageFault, match="eta is"):
        choose_frame(design(values), "near")
    assert choose_frame(design(values), "near", eta=0.05)[1] == "near"
    with pytest.raises(UsageFault, match="expected auto, leverage, near"):
        choose_frame(design(values), "far")


def test_a_report_names_the_points_of_largest_leverage():
    values = np.ones((100, 1))
    values[42] = 50.0
    found = report_basis(design(values))

    assert found.largest[0] == (42, pytest.approx(2500 / 2599))
    assert found.condition_number == pytest.approx(100 * 2500 / 2599)
    assert found.uneven == found.condition_number
