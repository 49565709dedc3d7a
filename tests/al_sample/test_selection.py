"""Every method through one door: counts, weights, unbiased sums, balance, and the theorem's regression."""

import numpy as np
import pytest

from llmsys.al_sample import (
    BudgetTooSmall,
    certify,
    design_of,
    frame_of,
    lewis_residual,
    lewis_weights,
    parse_method,
    pool_of,
    resolve_basis,
    run_selection,
    select,
)
from llmsys.errors import UsageFault

METHODS = ["pivotal", "leverage", "bss", "uniform", "lewis:1", "ridge:5"]


def design(values, *, weights=None, intercept=True):
    pool = pool_of(values)
    return design_of(pool, resolve_basis("linear", pool, intercept=intercept), weights)


def heavy(n=600, d=4, seed=0):
    return np.random.default_rng(seed).standard_t(3, size=(n, d))


def spike(n=400, d=4):
    values = np.random.default_rng(9).standard_normal((n, d))
    values[:, 0] = 0.0
    values[7, 0] = 1.0
    return values


@pytest.mark.parametrize("method", [name for name in METHODS if name != "leverage"])
@pytest.mark.parametrize("k", [12, 60])
def test_a_method_of_fixed_size_chooses_k_different_points_in_order(method, k):
    found = select(design(heavy()), k, method, seed=3)

    assert len(found) == k
    assert (np.diff(found.index) > 0).all()
    assert (found.weight > 0).all()


def test_independent_coins_choose_k_points_on_average():
    """200 selections; the mean size at six standard errors: false alarms below 1e-6."""
    made = design(heavy())
    frame = frame_of(made)
    sizes = np.array([len(select(made, 40, "leverage", seed=s, frame=frame)) for s in range(200)])

    assert abs(sizes.mean() - 40) <= 6 * np.sqrt(40 / 200)


@pytest.mark.parametrize("method", METHODS)
def test_weighted_sums_estimate_sums_over_the_pool_without_bias(method):
    """200 selections of 30; Σ w·f against Σ f at six standard errors: false alarms below 1e-6.

    The function is a quadratic form of the orthonormal values, which no method but uniform could miss by chance.
    """
    made = design(heavy())
    frame = frame_of(made)
    u = frame.orthonormal(made.basis(made.pool.values))
    f = np.square(u[:, 1]) + 0.5 * np.square(u[:, 2])
    estimates = []
    for seed in range(200):
        found = select(made, 30, method, seed=seed, frame=frame)
        estimates.append((found.weight * f[found.index]).sum())
    bias = abs(np.mean(estimates) - f.sum())
    allowed = 0.03 * f.sum() if method == "bss" else 0.0  # stopping at k different points correlates with the draws

    assert bias <= 6 * np.std(estimates) / np.sqrt(200) + allowed


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_sample_and_another_seed_another(method):
    made = design(heavy())
    first, again, other = (select(made, 30, method, seed=s) for s in (5, 5, 6))

    assert first.index.tolist() == again.index.tolist()
    assert first.weight.tolist() == again.weight.tolist()
    assert first.index.tolist() != other.index.tolist()


@pytest.mark.parametrize("method", METHODS)
def test_excluded_points_and_points_without_weight_are_never_chosen(method):
    weights = np.ones(600)
    weights[:100] = 0.0
    out = np.arange(100, 200)
    found = select(design(heavy(), weights=weights), 40, method, exclude=out)

    assert found.index.min() >= 200


@pytest.mark.parametrize("method", ["pivotal", "bss", "uniform"])
def test_a_budget_beyond_the_pool_takes_every_point_with_weight_one(method):
    found = select(design(heavy(50, 3)), 80, method)

    assert found.index.tolist() == list(range(50))
    np.testing.assert_allclose(found.weight, 1.0)


def test_fewer_labels_than_dimensions_are_refused():
    with pytest.raises(BudgetTooSmall, match="at least 5 labels"):
        select(design(heavy()), 4)


def test_dear_points_are_chosen_less_often():
    values = np.random.default_rng(1).standard_normal((400, 3))
    price = np.where(np.arange(400) < 200, 25.0, 1.0)
    found = select(design(values), 60, price=price)

    assert np.count_nonzero(found.index < 200) < 20


@pytest.mark.parametrize("method", ["pivotal", "leverage", "bss"])
def test_leverage_methods_find_the_one_point_that_carries_a_direction(method):
    """K = n: its leverage is 1, so these designs always hold it; uniform with 40 of 400 mostly does not."""
    made = design(spike())

    assert all(7 in select(made, 40, method, seed=s).index for s in range(10))
    assert sum(7 in select(made, 40, "uniform", seed=s).index for s in range(10)) < 10


def test_a_sample_of_many_points_is_certified_as_balanced():
    made = design(heavy(2000, 4))
    found = select(made, 600, "bss", seed=1)
    alphas = np.stack([found.alpha, found.alpha_k], axis=1)
    seen = certify(made, frame_of(made), found.index, found.weight, draws=int(found.draws.sum()), alphas=alphas)

    assert seen.well_balanced
    assert seen.distinct == 600
    assert seen.alpha_sum == pytest.approx(1.0)
    assert seen.eps_spectral < 0.25


def test_the_whole_pool_is_a_perfect_sample_and_a_line_of_points_none():
    made = design(heavy(100, 3))
    whole = certify(made, frame_of(made), np.arange(100), np.ones(100))
    poor = certify(made, frame_of(made), np.arange(2), np.full(2, 50.0))

    assert whole.eps_spectral == pytest.approx(0, abs=1e-10)
    assert whole.well_balanced
    assert poor.lambda_min == 0
    assert poor.cond == float("inf")
    assert not poor.well_balanced


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 3.9])
def test_lewis_weights_solve_their_equation_and_sum_to_the_rank(p):
    made = design(heavy(200, 4))
    weights = lewis_weights(made, p)

    assert lewis_residual(made, p, weights) < 1e-8
    assert weights.sum() == pytest.approx(5, rel=1e-6)


def test_lewis_weights_need_p_below_four():
    with pytest.raises(UsageFault, match="below 4"):
        lewis_weights(design(heavy(20, 2)), 4.0)


@pytest.mark.parametrize("text", ["best", "lewis", "lewis:4", "lewis:x", "ridge:-1", "pivotal:3", "ridge:nan"])
def test_an_unknown_method_is_refused_with_the_known_ones(text):
    with pytest.raises(UsageFault, match="expected pivotal, leverage, bss"):
        parse_method(text)


def excess(values, y, method, k, seed):
    made = design(values, intercept=False)
    frame = frame_of(made)
    found = select(made, k, method, seed=seed, frame=frame)
    u = frame.orthonormal(values)
    best = u.T @ y / len(y)
    root = np.sqrt(found.weight)
    fit = np.linalg.lstsq(u[found.index] * root[:, None], y[found.index] * root, rcond=None)[0]
    return np.square(u @ fit - y).sum() / np.square(u @ best - y).sum() - 1


@pytest.mark.parametrize("method", ["pivotal", "bss", "leverage"])
def test_mean_excess_is_at_most_twice_eps_with_three_d_over_eps_labels(method):
    """The theorem's shape, 60 fixed seeds on a heavy-tailed pool with noise that grows with leverage."""
    values = heavy(1000, 6, seed=4)
    rng = np.random.default_rng(5)
    y = values @ np.arange(6) + rng.standard_normal(1000) * (1 + np.abs(values[:, 0]))
    eps = 0.25
    found = [excess(values, y, method, int(3 * 6 / eps), seed) for seed in range(60)]

    assert np.mean(found) <= 2 * eps


def test_uniform_fails_the_same_test_where_one_point_decides():
    """The test above can fail: on the pool with K = n, uniform sampling cannot determine the first coefficient."""
    values = spike(1000, 4)
    values[:, 0] *= 1000
    y = values @ np.ones(4) + np.random.default_rng(6).standard_normal(1000)
    uniform = [excess(values, y, "uniform", 48, seed) for seed in range(20)]
    pivotal = [excess(values, y, "pivotal", 48, seed) for seed in range(20)]

    assert np.mean(uniform) > 0.5
    assert np.mean(pivotal) <= 0.5


def test_noise_that_sits_on_the_highest_leverage_costs_no_more():
    values = heavy(1000, 6, seed=4)
    y = np.zeros(1000)
    y[np.argmax(np.square(values).sum(axis=1))] = 100.0
    found = [excess(values, y, "pivotal", 72, seed) for seed in range(40)]

    assert np.mean(found) <= 0.5


def test_a_nearly_orthonormal_basis_costs_hardly_more_labels():
    """Section 2.3: with the same labels the excess grows by at most 1.15/(1 − η) (mean of 100 fixed seeds)."""
    rng = np.random.default_rng(7)
    q = np.linalg.qr(rng.standard_t(4, (800, 5)))[0] * np.sqrt(800)
    rho = 0.02
    near = q @ np.linalg.cholesky((1 - rho) * np.eye(5) + rho).T
    y = near @ np.ones(5) + rng.standard_normal(800)
    made = design(near, intercept=False)
    means = {}
    for mode in ("near", "leverage"):
        total = []
        for seed in range(100):
            found, _ = run_selection(made, 50, "bss", mode=mode, seed=seed)
            root = np.sqrt(found.weight)
            fit = np.linalg.lstsq(near[found.index] * root[:, None], y[found.index] * root, rcond=None)[0]
            best = np.linalg.lstsq(near, y, rcond=None)[0]
            total.append(np.square(near @ (fit - best)).sum() / np.square(y - near @ best).sum())
        means[mode] = np.mean(total)

    assert means["near"] <= means["leverage"] * 1.15 / (1 - 4 * rho)


def test_a_summary_says_when_uniform_sampling_is_enough():
    even = run_selection(design(np.random.default_rng(0).uniform(-1, 1, (300, 3))), 20, "pivotal")[1]
    uneven = run_selection(design(spike()), 20, "pivotal")[1]

    assert "nearly as well" in even.advice
    assert "may miss" in uneven.advice


def test_eps_stands_for_three_times_rank_over_eps_labels():
    chosen, _ = run_selection(design(heavy()), None, "pivotal", eps=0.5)

    assert len(chosen) == 30
    with pytest.raises(UsageFault, match="exactly one"):
        run_selection(design(heavy()), 10, "pivotal", eps=0.5)
