"""Hash families against their formulas, tables against a fresh build, draws against their bound; error rates 1e-6."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.errors import BadInput, UsageFault
from llmsys.pse_hash import PairwiseSum, Settings
from llmsys.pse_hash.buckets import Buckets
from llmsys.pse_hash.coins import coins
from llmsys.pse_hash.families import Caps, Grid, Stable
from llmsys.pse_hash.resolution import second_moment

Z = 5.0
DRAWN = 8000


@pytest.mark.parametrize("family", [Stable(2.0, 1), Stable(4.0, 3), Grid(1.5)], ids=str)
@pytest.mark.parametrize("distance", np.linspace(0.05, 6, 10).tolist())
def test_pairs_at_a_distance_collide_as_often_as_the_formula_says(family, distance):
    """A z-test of DRAWN functions; the false-alarm rate per case is 6e-7."""
    rng = coins(5, int(distance * 1000))
    x, y = np.zeros((1, 3)), distance * np.array([[0.6, 0.0, 0.8]])
    hasher = family.drawn(3, DRAWN, rng)

    share = float((hasher.keys(x, asked=False) == hasher.keys(y, asked=True)).mean())

    p = float(np.exp(family.log_probability(y[0], x)[0]))
    assert abs(share - p) <= Z * np.sqrt(max(p * (1 - p), 1 / DRAWN) / DRAWN)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("cosine", [-0.95, -0.5, 0.0, 0.4, 0.9, 1.0])
def test_caps_collide_as_often_as_the_formula_says(sign, cosine):
    """A z-test of 4000 functions; the false-alarm rate per case is 6e-7."""
    family = Caps(1.0, sign=sign)
    x, y = np.array([[1.0, 0, 0]]), np.array([[cosine, np.sqrt(1 - cosine**2), 0]])
    hasher = family.drawn(3, 4000, coins(6, 0))

    share = float((hasher.keys(x, asked=False) == hasher.keys(y, asked=True)).mean())

    p = float(np.exp(family.log_probability(y[0], x)[0]))
    assert abs(share - p) <= Z * np.sqrt(max(p * (1 - p), 1 / 4000) / 4000)


def test_the_table_of_caps_has_an_error_below_a_thousandth():
    from scipy.stats import multivariate_normal, norm

    family, cosines = Caps(1.5, sign=1), np.array([-0.6, -0.111, 0.3337, 0.77, 0.95])
    points = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    tail = norm.sf(1.5)
    both = np.array([multivariate_normal([0, 0], [[1, c], [c, 1]]).cdf([-1.5, -1.5]) for c in cosines])

    right = both / (2 * tail - both) * (1 - (1 - 2 * tail + both) ** family.m)

    assert np.exp(family.log_probability(np.array([1.0, 0]), points)) == pytest.approx(right, rel=1e-3)


@pytest.mark.parametrize(
    ("kernel", "scale"), [("gaussian", 1.0), ("exponential", 1.0), ("laplacian", 3.0), ("dot", 2.0)]
)
def test_hashed_estimates_are_unbiased_and_their_variance_keeps_to_the_bound(kernel, scale):
    """4000 tables: a z-test of the mean (6e-7), and the second moment at most 1.1 times what was computed."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 4)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    sketch = PairwiseSum.build(points, Settings(kernel, scale, method="hbe", robust="none", tables=4000))
    source, query = sketch.source("hbe"), sketch.points.centred(np.array([[0.6, 0.0, 0.8, 0.0]]))[0]
    sampler = source.at(query, 0)

    draws = sampler.draw(4000, coins(1, 1))

    values = np.exp(sketch.kernel.log_row(query, sketch.points.values[:300]) - sampler.shift)
    log_p = np.array([family.log_probability(query, sketch.points.values[:300]) for family in source.families])
    assert abs(draws.mean() - values.sum()) <= Z * draws.std() / np.sqrt(len(draws))
    assert np.square(draws).mean() <= 1.1 * second_moment(values, log_p)
    assert draws.max() <= sampler.bound


def test_hashing_wins_where_one_point_in_a_crowd_makes_the_sum():
    """The regime of the paper: mu small and made by few points, where uniform draws almost never meet them."""
    rng = np.random.default_rng(1)
    crowd = rng.normal(size=(4000, 8)) + 12
    points = np.concatenate([crowd, np.zeros((4, 8)) + 0.01]).astype(np.float32)
    spreads = {}
    for method, robust in (("hbe", "none"), ("rs", "fresh")):
        made = PairwiseSum.build(points, Settings("gaussian", 1.0, method=method, robust=robust, tables=400))
        query = made.points.centred(np.zeros((1, 8)))[0]
        sampler = made.source(method).at(query, 0)
        draws = sampler.draw(400, coins(2, 0)) * np.exp(sampler.shift)
        spreads[method] = float(np.sqrt(np.square(draws - 4).mean())) / 4

    assert spreads["hbe"] < 1.0
    assert spreads["rs"] > 0.9
    assert spreads["hbe"] < 0.5 * max(spreads["rs"], 2.0)


updates = st.lists(st.tuples(st.sampled_from("idr"), st.integers(0, 11), st.floats(-3, 3, width=16)), max_size=40)


@given(updates)
@settings(max_examples=25)
def test_updated_tables_are_those_of_a_fresh_build_with_the_same_functions(changes):
    made = PairwiseSum.build(
        np.ones((1, 2)), Settings("gaussian", 1.0, method="hbe", robust="none", tables=3), ids=["x"]
    )
    source = made.source("hbe")
    source.at(np.zeros(2), 0)
    model = {"x": (1.0, 1.0)}
    for op, number, value in changes:
        one, place = str(number), (value, -value)
        if op == "i" and one not in model:
            made.insert([one], np.array([place]))
        elif op == "r" and one in model:
            made.replace([one], np.array([place]))
        elif op == "d" and one in model:
            made.delete([one])
            del model[one]
            continue
        else:
            continue
        model[one] = place

    assert buckets_of(made, source) == fresh_buckets(made, source)
    assert set(made.points.slot_of) == set(model)


def buckets_of(made, source):
    """For each table the sets of ids that share a bucket, through the buckets' own lists."""
    buckets = source._copies[0].buckets
    tables = []
    for home in buckets.home:
        groups = {int(number) for number in home if number >= 0}
        members = [frozenset(made.points.ids[slot] for slot in buckets.members(number)) for number in groups]
        tables.append(frozenset(members))
    return tables


def fresh_buckets(made, source):
    """The same from the hash functions, applied to the live points at once."""
    slots = made.points.live_slots()
    keys = source._copies[0]._keys(made.points.values[slots], asked=False)
    tables = []
    for column in keys.T:
        groups = {}
        for key, slot in zip(column.tolist(), slots.tolist(), strict=True):
            groups.setdefault(key, set()).add(made.points.ids[slot])
        tables.append(frozenset(frozenset(group) for group in groups.values()))
    return tables


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 4)), max_size=120))
@settings(max_examples=50)
def test_swap_remove_keeps_every_bucket_what_a_set_would_hold(steps):
    buckets, model = Buckets(1, 4), {}
    buckets.add_buckets(5)
    for insert, slot, bucket in steps:
        if insert and slot not in model:
            buckets.insert(np.array([slot]), np.array([[bucket]]))
            model[slot] = bucket
        elif not insert and slot in model:
            buckets.delete(np.array([slot]))
            del model[slot]

    for bucket in range(5):
        assert sorted(buckets.members(bucket).tolist()) == sorted(s for s, b in model.items() if b == bucket)


def test_a_vector_without_direction_is_bad_input_for_hashing_on_the_sphere():
    made = PairwiseSum.build(np.eye(3), Settings("dot", 1.0, method="hbe", robust="none", tables=2))
    made.query(np.eye(3)[:1])

    with pytest.raises(BadInput, match="norm 0"):
        made.source("hbe").at(np.zeros(3), 0)


def test_secret_hash_functions_with_fresh_coins_are_refused():
    with pytest.raises(UsageFault, match="secret"):
        Settings("gaussian", 1.0, method="hbe")
