"""The exact scan that passes over vectors by their codes finds what comparing everything finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.vindex.codes import encode
from llmsys.vindex.scan import Task, answer, answer_twin
from llmsys.vindex.search_space import SearchSpace
from llmsys.vindex.tenant_list import Run

METRICS = ["l2", "ip", "cosine"]
SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 60), st.integers(1, 12))


def space_of(vectors, metric):
    vectors = np.ascontiguousarray(vectors, np.float32)
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32) if metric == "l2" else np.zeros_like(vectors[0])
    nodes = encode(mean[None], mean, metric)
    return SearchSpace(metric, mean, vectors, encode(vectors, mean, metric), np.arange(len(vectors)), nodes)


def both(vectors, queries, metric, k):
    space, count = space_of(vectors, metric), len(vectors)
    slots, tail = np.arange(count // 3, count, dtype=np.int32), np.arange(count // 3, dtype=np.int32)
    run = Run(slots, tail, np.array([[0, 0, len(slots), 0, 0]], np.int32))
    asked = np.ascontiguousarray(queries, np.float32)
    task = Task(asked, [run], [None], np.zeros(len(asked), np.int64))
    return answer(space, task, k, compiling=True), answer_twin(space, task, k)


def assert_same(fast, slow):
    assert fast.slots.tolist() == slow.slots.tolist()
    assert fast.scanned.tolist() == slow.scanned.tolist()
    np.testing.assert_allclose(fast.scores, slow.scores, rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=60)
@given(shape=SHAPES, scale=st.integers(-12, 12), offset=st.sampled_from([0, 1, 1e3, 1e6]), seed=st.integers(0, 2**32))
def test_no_scale_and_no_distance_from_the_origin_loses_a_neighbour(metric, shape, scale, offset, seed):
    """Scores in float64 of numbers that float32 holds: the twin and the loop agree where no two scores nearly tie."""
    count, dim, k = shape
    generator = np.random.default_rng(seed)
    spread = 10.0 ** generator.integers(-3, 4, (count, 1))
    vectors = ((generator.normal(size=(count, dim)) * spread + offset) * 10.0**scale).astype(np.float32)
    queries = vectors[generator.integers(0, count, 3)] * np.float32(1.01)

    fast, slow = both(vectors, queries, metric, k)

    np.testing.assert_allclose(fast.scores, slow.scores, rtol=1e-9, atol=1e-9 * np.abs(vectors).max() ** 2)


@pytest.mark.parametrize("metric", METRICS)
@given(rows=st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=1, max_size=80), k=st.integers(1, 12))
def test_ties_go_to_the_smaller_number_as_in_the_twin(metric, rows, k):
    assert_same(*both(np.array(rows), np.array([[1, 0, -1], [0, 0, 0]]), metric, k))


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("largest", [1e18, 1e-18, 1e-30, 1e-44, 0.0])
def test_numbers_at_the_ends_of_float32_lose_nothing(generator, metric, largest):
    vectors = generator.uniform(-1, 1, size=(200, 9)) * largest

    assert_same(*both(vectors, vectors[:4], metric, 5))


def test_the_length_of_what_a_code_leaves_out_is_never_too_short(generator):
    vectors = (generator.normal(size=(500, 23)) * 10.0 ** generator.integers(-6, 6, (500, 1))).astype(np.float32)
    mean = vectors.mean(axis=0)
    rows = encode(vectors, mean, "l2")
    numbers = rows.view(np.float32)[:, -3:].astype(np.float64)

    coded = numbers[:, -2:-1] * (rows[:, :23].astype(np.float64) - 128)
    left = np.linalg.norm(vectors.astype(np.float64) - mean - coded, axis=1)

    assert (numbers[:, -3] >= left).all()
    assert (numbers[:, -3] <= left * 1.001 + 1e-12).all()


@pytest.mark.parametrize("metric", METRICS)
def test_a_vector_that_its_code_rules_out_is_never_read(generator, metric):
    """Behind ten near vectors stand far ones, whose numbers, but not codes, are swapped for the query itself."""
    query = np.ones((1, 16), np.float32) / 4
    near = query + generator.normal(size=(10, 16)) * 0.01
    space = space_of(np.concatenate([near, generator.normal(size=(500, 16)) - 3]), metric)
    swapped = space.vectors.copy()
    swapped[10:] = query * 50 if metric != "l2" else query
    spoiled = SearchSpace(metric, space.mean, swapped, space.rows, space.order, space.nodes)
    run = Run(np.arange(510, dtype=np.int32), np.zeros(0, np.int32), np.array([[0, 0, 510, 0, 0]], np.int32))

    found = answer(spoiled, Task(query, [run], [None], np.zeros(1, np.int64)), 10, compiling=True)

    assert sorted(found.slots[0].tolist()) == list(range(10))
    assert found.scanned.tolist() == [510]
