"""The comparison of methods: its figures against brute force, and its order where the pool decides it."""

import numpy as np
import pytest

from llmsys.al_sample import (
    BenchRow,
    compare_methods,
    design_of,
    labels_to_target,
    pool_of,
    resolve_basis,
    run_bench,
    select,
)
from llmsys.errors import BadInput


def design(values):
    pool = pool_of(values)
    return design_of(pool, resolve_basis("linear", pool, intercept=False))


def row(method, k, median, p90):
    return BenchRow(method, k, median, 0.0, median, p90, 0)


def test_an_excess_is_what_brute_force_finds():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((300, 3))
    y = values @ [1.0, 2.0, 3.0] + rng.standard_normal(300)
    made = design(values)
    (found,) = compare_methods(made, y, ["pivotal"], [20], seeds=5)
    opt = np.square(y - values @ np.linalg.lstsq(values, y, rcond=None)[0]).sum()
    expected = []
    for seed in range(5):
        chosen = select(made, 20, seed=seed)
        root = np.sqrt(chosen.weight)
        fit = np.linalg.lstsq(values[chosen.index] * root[:, None], y[chosen.index] * root, rcond=None)[0]
        expected.append(np.square(y - values @ fit).sum() / opt - 1)

    assert found.mean == pytest.approx(np.mean(expected), rel=1e-8)
    assert found.median == pytest.approx(np.median(expected), rel=1e-8)
    assert found.p90 == pytest.approx(np.max(expected), rel=1e-8)
    assert found.half_width == pytest.approx(1.96 * np.std(expected, ddof=1) / np.sqrt(5), rel=1e-8)


def test_a_sample_that_misses_a_direction_counts_as_failed():
    values = np.random.default_rng(1).standard_normal((200, 2))
    values[:, 0] = 0
    values[3, 0] = 1.0
    y = np.random.default_rng(2).standard_normal(200)
    uniform, pivotal = compare_methods(design(values), y, ["uniform", "pivotal"], [20], seeds=10)

    assert uniform.failed > 0
    assert uniform.mean == uniform.half_width == float("inf")
    assert pivotal.failed == 0
    assert np.isfinite(pivotal.mean)


def test_the_labels_to_a_target_are_the_fewest_measured():
    rows = [row("a", 10, 0.9, 2.0), row("a", 20, 0.4, 0.8), row("a", 40, 0.1, 0.3), row("b", 10, 0.7, 0.9)]
    first, second = labels_to_target(rows, 0.5)

    assert (first.method, first.median_k, first.p90_k) == ("a", 20, 40)
    assert (second.method, second.median_k, second.p90_k) == ("b", None, None)


def test_targets_without_an_error_are_refused():
    values = np.random.default_rng(3).standard_normal((50, 2))

    with pytest.raises(BadInput, match="fits exactly"):
        compare_methods(design(values), values @ [1.0, 2.0], ["pivotal"], [10], seeds=2)


def test_default_budgets_stay_within_the_pool(tmp_path):
    values = np.random.default_rng(4).standard_normal((30, 4))
    np.save(tmp_path / "y.npy", np.random.default_rng(5).standard_normal(30))
    found = run_bench(design(values), tmp_path / "y.npy", ["pivotal"], None, seeds=2)

    assert [one.k for one in found.excess] == [8, 16]
    assert (found.n, found.rank, found.seeds) == (30, 4, 2)
