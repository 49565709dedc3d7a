"""Unbiased draws, intervals that cover, and answers within eps; every false-alarm rate is at most 1e-6."""

import numpy as np
import pytest
from scipy.stats import binom

from llmsys.pse_hash import PairwiseSum, Settings
from llmsys.pse_hash.coins import coins
from llmsys.pse_hash.intervals import interval_of
from tests.pse_hash.oracle import log_means

Z = 5.0  # two-sided error 6e-7


def clustered(n=3000, d=6, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, d)) * 2
    return (centres[rng.integers(20, size=n)] + rng.normal(size=(n, d)) * 0.4).astype(np.float32)


def sketch_of(points, method, kernel="gaussian", scale=0.8, **settings):
    return PairwiseSum.build(points, Settings(kernel, scale, method=method, **settings))


@pytest.mark.parametrize("method", ["rs", "strat", "deann"])
@pytest.mark.parametrize(("kernel", "scale"), [("gaussian", 0.8), ("laplacian", 2.0), ("dot", 0.2), ("cauchy", 0.5)])
def test_draws_are_unbiased_and_within_their_bound(method, kernel, scale):
    """A z-test of 40,000 draws; the false-alarm rate per case is 6e-7."""
    points = clustered()
    sketch = sketch_of(points, method, kernel, scale)
    query = clustered(1, seed=0)[0].astype(np.float64)

    sampler = sketch.source(method).at(sketch.points.centred(query[None])[0], 0)
    draws = sampler.draw(40_000, coins(1, 2))

    truth = np.exp(log_means(query[None], points, kernel, scale)[0] - sampler.shift) * len(points)
    error = draws.std() / np.sqrt(len(draws)) + 1e-9 * truth
    assert abs(sampler.known + draws.mean() - truth) <= Z * error
    assert draws.max() <= sampler.bound * (1 + 1e-6)


def test_strat_has_less_variance_than_uniform_draws():
    points = clustered()
    queries = clustered(8)
    spreads = {}
    for method in ("rs", "strat"):
        sketch = sketch_of(points, method, scale=0.5)
        samplers = [sketch.source(method).at(one, 0) for one in sketch.points.centred(queries)]
        spreads[method] = np.mean([s.draw(5000, coins(3, at)).std() for at, s in enumerate(samplers)])

    assert spreads["strat"] < 0.5 * spreads["rs"]


@pytest.mark.parametrize("shape", [(0.5, 20.0), (5.0, 5.0), (0.02, 0.5)])
def test_the_rigorous_interval_covers_at_all_times_at_once(shape):
    """Misses at any of ten sizes stay under the quantile of Binomial(300, delta) of error rate 1e-6."""
    delta, misses = 0.05, 0
    truth = shape[0] / sum(shape)
    for seed in range(300):
        draws = np.random.default_rng(seed).beta(*shape, 2560)
        interval = interval_of("rigorous", delta, 1.0)
        inside = True
        for part in np.split(draws, 10):
            interval.add(part)
            _, low, high = interval.limits()
            inside &= low <= truth <= high
        misses += not inside

    assert misses <= binom.ppf(1 - 1e-6, 300, delta)


def test_the_rigorous_interval_narrows_and_its_pieces_do_not_depend_on_the_rounds():
    draws = np.random.default_rng(0).beta(2, 8, 4096)
    whole, parts = interval_of("rigorous", 0.01, 1.0), interval_of("rigorous", 0.01, 1.0)

    whole.add(draws)
    for part in np.split(draws, 16):
        parts.add(part)

    assert whole.limits()[0] == pytest.approx(parts.limits()[0])
    assert parts.limits()[2] - parts.limits()[1] < 0.05


@pytest.mark.parametrize("method", ["strat", "deann", "rs"])
@pytest.mark.parametrize("ci", ["rigorous", "clt"])
def test_answers_are_within_eps_as_often_as_promised(method, ci):
    """Failures of 200 queries stay under the binomial quantile of error rate 1e-6, at delta (clt: 10 %)."""
    points, queries = clustered(8000), clustered(200)
    sketch = sketch_of(points, method, eps=0.2, delta=0.02)

    found = sketch.query(queries, ci=ci)

    truth = log_means(queries, points, "gaussian", 0.8)
    misses = int((np.abs(np.expm1(found.log_value - truth)) > 0.2).sum())
    outside = int(((found.log_low > truth + 1e-5) | (truth > found.log_high + 1e-5)).sum())
    rate = 0.02 if ci == "rigorous" else 0.1
    assert max(misses, outside) <= binom.ppf(1 - 1e-6, 200, rate)


def test_the_same_stream_is_answered_alike_and_another_seed_draws_other_coins():
    points, queries = clustered(), clustered(5)
    first, again, other = (
        sketch_of(points, "strat", seed=seed, eps=0.3).query(queries, ci="clt").log_value for seed in (1, 1, 2)
    )

    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_a_query_asked_twice_gets_fresh_coins_unless_robustness_is_none():
    points, query = clustered(), clustered(1)
    values = {}
    for robust in ("fresh", "none"):
        sketch = sketch_of(points, "rs", scale=3.0, eps=0.3, robust=robust)
        values[robust] = [float(sketch.query(query, ci="clt").log_value[0]) for _ in range(2)]

    assert values["fresh"][0] != values["fresh"][1]
    assert values["none"][0] == values["none"][1]
