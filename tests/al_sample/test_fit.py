"""Fits against scipy and brute force, the leave-one-out algebra, and the honesty of the excess estimate."""

import numpy as np
import pytest
from scipy.optimize import minimize

from llmsys.al_sample import (
    Labels,
    RankDeficient,
    design_of,
    estimate_excess,
    fit_labels,
    frame_of,
    left_out_changes,
    open_model,
    parse_loss,
    pool_of,
    predict,
    resolve_basis,
    run_fit,
    select,
    solve,
    solve_squares,
    write_model,
)
from llmsys.errors import BadInput, UsageFault


def data(k=40, r=4, outputs=1, seed=0):
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((k, r))
    return u, rng.standard_normal((k, outputs)) + u[:, :1], rng.uniform(0.5, 3, k)


def design(values, basis="linear"):
    pool = pool_of(values)
    return design_of(pool, resolve_basis(basis, pool))


def labels_of(found, y):
    y = y.reshape(len(y), -1)
    return Labels(found.index, found.weight, found.p, y[found.index], np.ones(len(found.index), np.int64))


@pytest.mark.parametrize("outputs", [1, 3])
def test_squares_are_those_of_the_normal_equations(outputs):
    u, y, w = data(outputs=outputs)
    expected = np.linalg.solve(u.T @ (u * w[:, None]), u.T @ (y * w[:, None]))

    np.testing.assert_allclose(solve_squares(u, y, w).coefficients, expected, rtol=1e-9)


def test_a_ridge_is_the_penalised_minimum():
    u, y, w = data()
    expected = np.linalg.solve(u.T @ (u * w[:, None]) + 3 * np.eye(4), u.T @ (y * w[:, None]))

    np.testing.assert_allclose(solve_squares(u, y, w, 3.0, np.eye(4)).coefficients, expected, rtol=1e-9)


def test_the_automatic_ridge_helps_where_labels_are_few_and_noisy():
    rng = np.random.default_rng(1)
    u = rng.standard_normal((22, 20))
    truth = rng.standard_normal((20, 1))
    y = u @ truth + 3 * rng.standard_normal((22, 1))
    plain = solve(u, y, np.ones(22), parse_loss("squared"))
    ridged = solve(u, y, np.ones(22), parse_loss("squared"), ridge=None, penalty=np.eye(20))

    assert ridged.ridge > 0
    assert np.linalg.norm(ridged.coefficients - truth) < np.linalg.norm(plain.coefficients - truth)


@pytest.mark.parametrize("p", [1.2, 1.5, 3.0, 4.0])
def test_an_lp_fit_is_the_minimum_that_scipy_finds(p):
    u, y, w = data(60, 3)
    found = solve(u, y, w, parse_loss(f"lp:{p}")).coefficients[:, 0]

    def cost(c):
        return float((w * np.abs(y[:, 0] - u @ c) ** p).sum())

    best = minimize(cost, found, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}).fun

    assert cost(found) <= best * (1 + 1e-6)


def test_an_l1_fit_of_a_constant_is_the_weighted_median():
    y = np.array([[0.0], [1.0], [2.0], [10.0], [50.0]])
    found = solve(np.ones((5, 1)), y, np.ones(5), parse_loss("lp:1"))

    assert found.coefficients[0, 0] == pytest.approx(2.0, abs=1e-3)


def test_huber_is_not_moved_by_one_wild_label():
    u, y, w = data(80, 3)
    y = u @ np.ones((3, 1)) + 0.1 * y
    y[5] += 1000
    robust = solve(u, y, w, parse_loss("huber")).coefficients
    plain = solve(u, y, w, parse_loss("squared")).coefficients

    assert np.abs(robust - 1).max() < 0.3
    assert np.abs(plain - 1).max() > 1


def test_logistic_recovers_the_log_odds():
    """5000 labels; coefficients within 0.3 of the truth, seven standard errors."""
    rng = np.random.default_rng(2)
    u = rng.standard_normal((5000, 2))
    y = (rng.random((5000, 1)) < 1 / (1 + np.exp(-(u @ np.array([[1.0], [-2.0]]))))).astype(float)
    found = solve(u, y, np.ones(5000), parse_loss("logistic"))

    np.testing.assert_allclose(found.coefficients[:, 0], [1, -2], atol=0.3)


@pytest.mark.parametrize("y", [[[0.0], [2.0]], [[1.0], [1.0]], [[0.0, 1.0], [1.0, 0.0]]])
def test_logistic_refuses_what_is_not_both_classes(y):
    with pytest.raises(BadInput, match="both 0 and 1"):
        solve(np.ones((2, 1)), np.array(y), np.ones(2), parse_loss("logistic"))


@pytest.mark.parametrize("text", ["cube", "lp", "lp:0.5", "lp:5", "lp:x", "huber:2"])
def test_an_unknown_loss_is_refused(text):
    with pytest.raises(UsageFault, match="expected squared"):
        parse_loss(text)


def test_points_that_do_not_determine_the_fit_are_refused():
    u, y, w = data(3, 4)

    with pytest.raises(RankDeficient, match="rank 4"):
        solve_squares(u, y, w)


def test_the_changes_without_each_point_are_those_of_fitting_again():
    u, y, w = data(20, 3, outputs=2)
    found = solve_squares(u, y, w)
    changes = left_out_changes(u, found)
    for i in range(20):
        rest = np.arange(20) != i
        again = solve_squares(u[rest], y[rest], w[rest]).coefficients

        np.testing.assert_allclose(changes[i], again - found.coefficients, atol=1e-10)


def test_an_exact_fit_has_no_excess():
    u, _, w = data()
    y = np.full((40, 1), 0.0)
    found = solve_squares(u, y, w)

    assert estimate_excess(u, y, w, np.zeros(40), found).excess == 0


def test_a_point_that_was_certain_to_be_chosen_adds_nothing():
    u, y, w = data()
    found = solve_squares(u, y, w)

    assert estimate_excess(u, y, w, np.ones(40), found).excess == 0
    assert estimate_excess(u, y, w, np.zeros(40), found).excess > 0


@pytest.mark.parametrize(("method", "k"), [("leverage", 60), ("pivotal", 60), ("bss", 60)])
def test_the_estimated_excess_is_of_the_size_of_the_true_one(method, k):
    """Means over 60 fixed seeds: within 0.7 and 2.5 of the truth; a jackknife errs on the safe side."""
    rng = np.random.default_rng(3)
    values = rng.standard_t(4, (1500, 5))
    y = values @ np.arange(5) + rng.standard_normal(1500)
    made = design(values)
    frame = frame_of(made)
    u = frame.orthonormal(made.basis(values))
    best = u.T @ y / 1500
    opt = np.square(y - u @ best).mean()
    true, told, opts = [], [], []
    for seed in range(60):
        found = select(made, k, method, seed=seed, frame=frame)
        fit = fit_labels(made, frame, labels_of(found, y))
        true.append(np.square(made.basis(values) @ fit.model.coefficients[:, 0] - u @ best).mean() / opt)
        told.append(fit.excess.excess)
        opts.append(fit.excess.opt)

    assert 0.7 <= np.mean(told) / np.mean(true) <= 2.5
    assert np.mean(opts) == pytest.approx(opt, rel=0.15)


def test_a_model_with_all_labels_is_the_least_squares_fit_with_the_intercept_first():
    rng = np.random.default_rng(4)
    values = rng.standard_normal((100, 3))
    y = values @ [1.0, 2.0, 3.0] + 7
    made = design(np.column_stack([values, values[:, 0]]))
    everything = Labels(np.arange(100), np.ones(100), np.ones(100), y[:, None], np.ones(100, np.int64))
    found, summary = run_fit(made, everything)

    fitted = found.model.coefficients[:, 0]
    assert fitted[0] == pytest.approx(7)
    assert fitted[2:4].tolist() == pytest.approx([2.0, 3.0])
    assert sorted([fitted[1], fitted[4]]) == pytest.approx([0.0, 1.0])
    assert len(found.model.dropped) == 1
    assert "coefficient 0" in summary.warnings[0]


@pytest.mark.parametrize("ridge", ["-1", "much", "inf", "nan"])
def test_a_ridge_that_is_no_number_of_at_least_zero_is_refused(ridge):
    made = design(np.eye(3))
    everything = Labels(np.arange(3), np.ones(3), np.ones(3), np.ones((3, 1)), np.ones(3, np.int64))

    with pytest.raises(UsageFault, match="--ridge"):
        run_fit(made, everything, ridge=ridge)


@pytest.mark.parametrize("basis", ["linear", "poly:2", "legendre:2", "chebyshev:2", "fourier:1", "rff:6:2.0"])
def test_a_model_predicts_the_same_after_it_was_written(tmp_path, basis):
    rng = np.random.default_rng(5)
    values = rng.uniform(0, 4, (200, 2))
    y = np.column_stack([values[:, 0], np.sin(values[:, 1])])
    made = design(values, basis)
    frame = frame_of(made)
    found = fit_labels(made, frame, labels_of(select(made, 60, frame=frame), y))
    path = tmp_path / "model.safetensors"
    write_model(path, found.model)
    first = path.read_bytes()
    write_model(path, found.model)
    before, after = list(predict(found.model, made.pool)), list(predict(open_model(path), made.pool))

    assert path.read_bytes() == first
    assert before == after
    assert len(before) == 200
    assert len(before[0].y) == len(before[0].se) == 2


def test_predictions_refuse_points_of_another_dimension():
    made = design(np.eye(3))
    everything = Labels(np.arange(3), np.ones(3), np.ones(3), np.ones((3, 1)), np.ones(3, np.int64))
    model = run_fit(made, everything, ridge="1")[0].model

    with pytest.raises(BadInput, match="points of 2 numbers"):
        list(predict(model, pool_of(np.ones((4, 2)))))
