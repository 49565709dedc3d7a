"""What `tune` promises holds on queries that it did not see; what its sample cannot support, it does not promise."""

import numpy as np
import pytest

from llmsys.errors import UsageFault
from llmsys.vindex import Index
from llmsys.vindex.tuning import lower_limit, tune
from tests.vindex.conftest import SMALL


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    generator = np.random.default_rng(5)
    centres = generator.normal(size=(40, 12)) * 2
    vectors = centres[generator.integers(0, 40, 3000)] + generator.normal(size=(3000, 12))
    access = [["all", "half"][: 1 + row % 2] for row in range(3000)]
    place = tmp_path_factory.mktemp("tune") / "idx"
    with Index.build(place, vectors[:2500], access=access[:2500], metric="l2", shape=SMALL) as index:
        yield index, vectors[2500:]


def test_a_promise_holds_for_vectors_that_were_held_back(clustered):
    """500 queries; a recall 0.02 below the promise has a chance far below 1e-6 if the promise is true."""
    index, queries = clustered
    index.keep_plans(tune(index.state, recall=0.9, k=10, sample=600, seed=1))

    found = index.search(queries, "all", recall=0.9)
    right = index.search(queries, "all", recall=None)

    recall = np.mean([np.isin(a, b).mean() for a, b in zip(right.ids, found.ids, strict=True)])
    assert recall >= 0.88
    assert found.scanned.mean() < 0.6 * right.scanned.mean()


def test_plans_cover_sizes_once_with_limits_that_reach_the_recall(clustered):
    plans = tune(clustered[0].state, recall=0.8, k=5, sample=200, seed=0)

    assert [plan.from_size for plan in plans] == [512]
    assert all(plan.measured > plan.lower_limit >= 0.8 for plan in plans)


def test_the_same_seed_keeps_the_same_plans(clustered):
    state = clustered[0].state

    assert tune(state, recall=0.9, k=3, sample=50, seed=4) == tune(state, recall=0.9, k=3, sample=50, seed=4)


def test_a_sample_too_small_for_the_promise_ends_in_the_exact_scan(clustered):
    plans = tune(clustered[0].state, recall=0.99, k=5, sample=20, seed=0)

    assert [(plan.width, plan.measured) for plan in plans] == [(0, 1.0)]


def test_plans_stay_through_compaction_and_reopening(clustered):
    index, _ = clustered
    index.keep_plans(tune(index.state, recall=0.85, k=4, sample=100, seed=0))
    index.compact()

    assert any(plan.recall == 0.85 and plan.k == 4 for plan in Index.open(index.path).plans)


@pytest.mark.parametrize(("mean", "count"), [(0.9, 50), (0.95, 200), (0.99, 1000)])
def test_the_lower_limit_covers_as_often_as_it_says(mean, count):
    """4 000 samples of queries with ten answers each: 95 % coverage within 0.02, over five standard errors."""
    generator = np.random.default_rng(0)
    chances = np.clip(generator.beta(mean * 20, (1 - mean) * 20, (4000, count)), 0, 1)
    recalls = generator.binomial(10, chances) / 10
    covered = np.mean([lower_limit(sample, 0.95) <= mean for sample in recalls])

    assert covered > 0.93


def test_a_sample_without_a_miss_does_not_promise_everything():
    limits = [lower_limit(np.ones(count), 0.95) for count in (0, 10, 100, 1000)]

    assert limits == sorted(limits)
    assert limits[0] == 0
    assert 0.99 < limits[-1] < 1


def test_wrong_wishes_are_refused(clustered):
    with pytest.raises(UsageFault, match="0 < recall < 1"):
        tune(clustered[0].state, recall=1.0, k=10, sample=10, seed=0)
