"""Leaves that grow are split in place: the tree stays sound, every vector keeps its path, and answers stay exact."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.vindex import Index
from llmsys.vindex.check import faults
from llmsys.vindex.cluster_tree import assign
from llmsys.vindex.leaf_growth import LeafGrowth
from llmsys.vindex.scan import Effort
from tests.vindex.conftest import SMALL, brute_force


def largest_leaf(state):
    live = state.store.live_slots()
    return int(np.bincount(state.store.leaf[live]).max())


def test_an_index_that_starts_empty_grows_a_tree(tmp_path, generator):
    vectors = generator.normal(size=(600, 5)).astype(np.float32)
    with Index.build(tmp_path / "idx", np.zeros((0, 5)), metric="l2", shape=SMALL) as index:
        with index.batch():
            for row in range(600):
                index.add(vectors[row : row + 1], [row], [["a", "b"] if row % 5 == 0 else ["a"]])
        state = index.state

        assert state.clusters.leaves > 600 / (2 * SMALL.max_leaf)
        assert largest_leaf(state) <= 2 * SMALL.max_leaf
        assert faults(state) == []
        live = state.store.live_slots()
        assert (assign(state.clusters, state.store.vectors[live]) == state.store.leaf[live]).all()
        hits = index.search(vectors[:40], "b", recall=None)
        seen = list(range(0, 600, 5))
        for query, row in zip(vectors[:40], hits.ids.tolist(), strict=True):
            assert row == brute_force(vectors[seen], seen, query, 10, "l2")[0]
        near = index.search(vectors[:40], "a", effort=Effort(40, 20))
        assert (near.ids[:, 0] == np.arange(40)).all()


def test_recovery_replays_splits_and_a_reader_sees_the_same(tmp_path, generator):
    vectors = generator.normal(size=(300, 4))
    with Index.build(tmp_path / "idx", vectors[:50], access=[["a"]] * 50, shape=SMALL) as index:
        index.add(vectors[50:], range(50, 300), [["a"]] * 250)
        index.delete(range(0, 300, 7))
        index.grant(range(1, 300, 7), "late")
        right = index.search(vectors, "a", recall=None).ids.tolist()
        assert index.state.splits > 0

    with Index.open(tmp_path / "idx", "w") as again:
        assert faults(again.state) == []
        assert again.search(vectors, "a", recall=None).ids.tolist() == right
        again.compact()
        assert faults(again.state) == []
        assert again.search(vectors, "a", recall=None).ids.tolist() == right


def test_vectors_that_are_all_equal_stay_in_one_leaf_and_are_tried_ever_more_rarely(tmp_path):
    with Index.build(tmp_path / "idx", np.ones((10, 3)), metric="l2", shape=SMALL) as index:
        for start in range(10, 400, 10):
            index.add(np.ones((10, 3)), range(start, start + 10), [["a"]] * 10)

        assert index.state.clusters.leaves == 1
        assert index.state._growth.limits[0] >= 400
        assert index.search(np.ones((1, 3)), "a", k=4, recall=None).ids.tolist() == [[10, 11, 12, 13]]


def test_growth_counts_deleted_vectors_only_until_it_is_looked_at():
    growth = LeafGrowth.of(np.array([0, 0, 1], np.int32), leaves=2, max_leaf=2)
    growth.add(np.array([0, 0, 0, 1], np.int32))

    assert growth.overfull(np.array([0, 1], np.int32)) == [0]
    assert not growth.counted(0, 3)
    assert growth.overfull(np.array([0, 1], np.int32)) == []
    growth.split(0, [2, 1], max_leaf=2)
    assert (growth.sizes.tolist(), growth.limits.tolist()) == ([2, 1, 2], [4, 4, 4])


@settings(max_examples=60)
@given(
    started=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    steps=st.lists(st.tuples(st.sampled_from(["add", "split", "refuse"]), st.integers(0, 5), st.integers(1, 40))),
)
def test_sizes_and_limits_follow_what_is_done_to_each_leaf(started, steps):
    """Beside a list of sizes: a leaf is over its limit exactly if it holds more than twice what needs no split."""
    most, sizes = 4, list(started)
    leaf = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    growth = LeafGrowth.of(leaf, len(sizes), most)
    limits = [2 * size if size > 2 * most else 2 * most for size in sizes]
    for what, number, count in steps:
        number %= len(sizes)  # noqa: PLW2901
        if what == "add":
            growth.add(np.full(count, number, np.int32))
            sizes[number] += count
        elif what == "refuse":
            growth.refuse(number)
            limits[number] = 2 * sizes[number]
        else:
            growth.split(number, [count, 3], most)
            sizes[number : number + 1] = [count, 3]
            limits[number : number + 1] = [max(2 * most, count), max(2 * most, 3)]
        asked = np.arange(len(sizes), dtype=np.int32)
        right = [one for one in range(len(sizes)) if sizes[one] > limits[one]]
        assert growth.sizes.tolist() == sizes
        assert growth.overfull(asked) == right[::-1]
