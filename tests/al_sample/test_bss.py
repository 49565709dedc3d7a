"""Randomised BSS: its invariants at every step, its certificate and its cost. False-alarm rates are stated."""

import numpy as np
import pytest

from llmsys.al_sample import BSS, gamma_of_budget, gamma_of_eps, leverage, run_bss


def orthonormal(values):
    return np.linalg.qr(values)[0] * np.sqrt(len(values))


def spike(n, d):
    """A pool on which K = n: one point alone carries a direction."""
    values = np.random.default_rng(9).standard_normal((n, d))
    values[:, 0] = 0.0
    values[7, 0] = 1.0
    return values


POOLS = {
    "gauss": np.random.default_rng(0).standard_normal((400, 6)),
    "heavy": np.random.default_rng(1).standard_t(2, (400, 6)),
    "spike": spike(400, 6),
    "legendre": np.polynomial.legendre.legvander(np.linspace(-1, 1, 400), 5),
    "indicators": np.eye(6)[np.random.default_rng(2).choice(6, 400, p=[0.5, 0.2, 0.15, 0.1, 0.03, 0.02])],
}


@pytest.mark.parametrize("name", POOLS)
def test_the_barriers_hold_at_every_step_and_the_coefficients_stay_small(name):
    u = orthonormal(POOLS[name])
    mass = np.full(len(u), 1 / len(u))
    gamma = gamma_of_eps(0.5, 2.0)
    state = BSS(u.shape[1], gamma)
    rng = np.random.default_rng(0)
    draws = []
    while not state.done:
        draws.append(state.step(u, mass, rng))

        assert state.inside
    alpha = np.concatenate([one.alpha for one in draws]) / state.mid
    alpha_k = np.concatenate([one.alpha_k for one in draws]) / state.mid

    assert alpha.sum() <= 1.25
    assert alpha_k.max() <= gamma**2 / (1 - gamma**2) * (1 + 1e-9)


@pytest.mark.parametrize("name", POOLS)
def test_with_three_times_gamma_nine_runs_of_ten_are_within_a_quarter(name):
    """C0 = 3 and ε = 0.15, 20 fixed seeds: the same seeds give the same count, so there is no false alarm."""
    u = orthonormal(POOLS[name])
    mass = np.full(len(u), 1 / len(u))
    good = 0
    for seed in range(20):
        found = run_bss(u, mass, gamma_of_eps(0.15), np.random.default_rng(seed))
        sampled = u[found.index] * np.sqrt(found.weight)[:, None]
        eigenvalues = np.linalg.eigvalsh(sampled.T @ sampled)
        good += bool(eigenvalues[0] >= 0.75 and eigenvalues[-1] <= 1.25)

    assert good >= 19


@pytest.mark.parametrize("name", POOLS)
def test_the_number_of_draws_is_of_order_d_over_eps(name):
    u = orthonormal(POOLS[name])
    mass = np.full(len(u), 1 / len(u))
    eps, c0, d = 0.25, 2.0, u.shape[1]
    found = run_bss(u, mass, gamma_of_eps(eps, c0), np.random.default_rng(1))

    assert 1.0 <= len(found.index) * eps / (d * c0**2) <= 2.2


def test_a_budget_of_different_points_is_met_exactly():
    u = orthonormal(POOLS["heavy"])
    mass = np.full(len(u), 1 / len(u))
    found = run_bss(u, mass, gamma_of_budget(6, 50), np.random.default_rng(2), distinct=50, batch=4)

    assert len(np.unique(found.index)) == 50
    assert found.alpha.sum() == pytest.approx(1.0)


def test_the_weighted_sample_estimates_the_gram_matrix_without_bias():
    """Mean of Σ w over 300 runs against 1, at six standard errors: false alarms below 1e-6."""
    u = orthonormal(POOLS["gauss"])
    mass = np.full(len(u), 1 / len(u))
    rng = np.random.default_rng(3)
    totals = np.array([run_bss(u, mass, 0.5, rng).weight.sum() for _ in range(300)])

    assert abs(totals.mean() - 1) <= 6 * totals.std() / np.sqrt(300) + 0.02


def test_points_without_mass_are_never_drawn():
    u = orthonormal(POOLS["gauss"])
    mass = np.where(np.arange(len(u)) < 200, 1 / 200, 0.0)
    found = run_bss(u, mass, 0.4, np.random.default_rng(4))

    assert found.index.max() < 200


def test_more_points_than_there_are_is_refused():
    with pytest.raises(ValueError, match="5 distinct rows of 3"):
        run_bss(np.ones((3, 1)), np.full(3, 1 / 3), 0.5, np.random.default_rng(0), distinct=5)


@pytest.mark.parametrize("gamma", [0.0, 1.0, -0.5])
def test_a_gamma_outside_the_unit_interval_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma"):
        BSS(3, gamma)


def test_an_eps_that_gives_no_gamma_is_refused():
    with pytest.raises(ValueError, match="gives gamma"):
        gamma_of_eps(9.0, 3.0)


def test_the_spike_pool_has_condition_number_n():
    assert leverage(POOLS["spike"])[7] == pytest.approx(1.0)
