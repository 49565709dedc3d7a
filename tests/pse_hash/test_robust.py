"""The four modes: an adaptive attack breaks a fixed sample and no other; copies, lattices, budgets and medians."""

import numpy as np
import pytest

from llmsys.pse_hash import BudgetExhausted, PairwiseSum, Settings
from llmsys.pse_hash.answering import dp_copies, dp_price, net_copies, private_median
from llmsys.pse_hash.coins import coins
from llmsys.pse_hash.robust import copies_of, lattice, rounded
from tests.pse_hash.oracle import log_means

EPS = 0.3


@pytest.fixture(scope="module")
def cloud():
    return np.random.default_rng(0).normal(size=(20_000, 10)).astype(np.float32)


def attacked(cloud, robust, steps=250):
    """Climb to a query where the estimate is most wrong, then the error of the median of 15 more answers there."""
    made = PairwiseSum.build(cloud, Settings("gaussian", 1.3, method="rs", eps=EPS, delta=0.2, robust=robust, seed=3))
    rng = np.random.default_rng(1)
    place = cloud[0].astype(np.float64) * 0.5

    def error(at):
        truth = log_means(at[None], cloud, "gaussian", 1.3)[0]
        return float(np.expm1(made.query(at[None], ci="clt").log_value[0] - truth))

    worst = error(place)
    for _ in range(steps):
        step = place + rng.normal(size=10) * 0.15
        if np.linalg.norm(step) < 3 and (found := error(step)) > worst:
            place, worst = step, found
    return abs(float(np.median([error(place) for _ in range(15)])))


def test_an_adaptive_attack_breaks_the_fixed_sample_and_not_fresh_coins(cloud):
    """Re-asked at the place found, the fixed sample stays wrong by more than eps; fresh coins are within it."""
    assert attacked(cloud, "none") > EPS
    assert attacked(cloud, "fresh") <= EPS


@pytest.mark.parametrize("robust", ["net", "dp"])
def test_net_and_dp_hold_two_eps_at_the_place_that_breaks_the_fixed_sample(cloud, robust):
    settings = Settings("gaussian", 1.3, method="rs", eps=EPS, delta=0.2, tau=1e-3, robust=robust, max_queries=4)
    made = PairwiseSum.build(cloud, settings)
    queries = cloud[:3] * 0.5

    found = made.query(queries, ci="clt")

    truth = log_means(queries, cloud, "gaussian", 1.3)
    assert np.abs(np.expm1(found.log_value - truth)).max() <= 2 * EPS


def test_a_vote_of_copies_is_right_where_the_copies_are_cheap():
    """A wide kernel: each copy needs a few hundred points of 200,000, and the median of all copies is the answer."""
    points = np.random.default_rng(2).normal(size=(200_000, 1)).astype(np.float32)
    made = PairwiseSum.build(points, Settings("gaussian", 4.0, method="rs", eps=0.2, tau=0.1, robust="net"))
    query = np.array([[0.7]])

    found = made.query(query, ci="clt")

    assert found.intervals == ("net",)
    assert found.evals[0] < 200_000
    assert float(found.log_value[0]) == pytest.approx(log_means(query, points, "gaussian", 4.0)[0], abs=0.2)
    assert found.log_low[0] < found.log_value[0] < found.log_high[0]


def test_copies_follow_the_union_bound_over_the_net():
    assert net_copies(50, 1.0, 0.01, 0.01) == pytest.approx((50 * np.log(201) + np.log(100)) / 0.51, abs=2)
    points = PairwiseSum.build(np.eye(2), Settings("gaussian", 1.0)).points
    assert [copies_of(Settings("gaussian", 1.0, robust=mode), points) for mode in ("fresh", "none")] == [1, 1]
    assert copies_of(Settings("gaussian", 1.0, robust="net"), points) % 2 == 1


def test_no_query_is_further_from_its_lattice_point_than_the_net_allows():
    settings = Settings("gaussian", 1.0, eps=0.1, tau=1e-2, robust="net")
    queries = np.random.default_rng(0).normal(size=(500, 7))

    moved = np.linalg.norm(queries - np.array([rounded(one, lattice(settings, 7)) for one in queries]), axis=1)

    assert moved.max() <= 0.1 * 1e-2 * np.exp(0.5)


def test_dp_needs_copies_like_the_root_of_its_queries():
    assert dp_copies(400, 0.01, 1000) < 3 * dp_copies(100, 0.01, 1000)
    assert dp_price(400, 0.01) == pytest.approx(dp_price(100, 0.01) / 2)


def test_the_private_median_is_near_the_median_and_moves_little_with_one_copy():
    """Of 501 copies with 20 % far off; the score of rank loss 100 has odds below 1e-6 at this price."""
    logs = np.concatenate([np.random.default_rng(0).normal(-3, 0.05, 401), np.full(100, 50.0)])

    found = [private_median(logs.tolist(), 0.1, 1.0, coins(1, number)) for number in range(50)]

    assert np.abs(np.array(found) + 3).max() < 0.2


def test_dp_refuses_past_its_budget():
    made = PairwiseSum.build(np.eye(3), Settings("gaussian", 1.0, method="rs", robust="dp", max_queries=2))
    made.query(np.eye(3)[:2])

    with pytest.raises(BudgetExhausted, match="2 answers"):
        made.query(np.eye(3)[:1])
