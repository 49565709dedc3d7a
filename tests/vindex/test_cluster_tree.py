"""The clustering tree divides vectors as its own descent does, whatever they are, and splits without moving others."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.vindex.cluster_tree import TreeShape, assign, build_tree, divided, with_split

SHAPE = TreeShape(branching=3, max_leaf=6, max_shortlist=4)
ROWS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=80)


def assert_depth_first(tree):
    """Leaves are numbered as a walk of the tree meets them, and every node spans the leaves below it."""
    met = []

    def walk(node):
        first, count = int(tree.first_child[node]), int(tree.children[node])
        start = len(met)
        if count == 0:
            met.append(int(tree.leaf_start[node]))
        for child in range(first, first + count):
            assert child > node
            walk(child)
        assert (int(tree.leaf_start[node]), int(tree.leaf_end[node])) == (start, len(met))

    walk(0)
    assert met == list(range(tree.leaves))


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_any_vectors_make_a_tree_that_finds_each_in_its_leaf(rows):
    vectors = np.array(rows, np.float32)

    tree, leaf = build_tree(vectors, SHAPE, seed=1)

    assert_depth_first(tree)
    assert (assign(tree, vectors) == leaf).all()
    for number in range(tree.leaves):
        inside = {tuple(row) for row in vectors[leaf == number].tolist()}
        assert (leaf == number).sum() <= SHAPE.max_leaf or len(inside) == 1


def test_an_empty_collection_has_one_leaf():
    tree, leaf = build_tree(np.zeros((0, 3), np.float32), SHAPE, seed=0)

    assert (tree.leaves, len(leaf), tree.centroids.shape) == (1, 0, (1, 3))
    assert assign(tree, np.ones((2, 3), np.float32)).tolist() == [0, 0]


def test_descent_goes_to_the_nearest_child_at_every_level(generator):
    vectors = generator.normal(size=(500, 6)).astype(np.float32)
    tree, _ = build_tree(vectors, SHAPE, seed=2)

    for query in generator.normal(size=(30, 6)).astype(np.float32):
        node = 0
        while tree.children[node]:
            first, count = int(tree.first_child[node]), int(tree.children[node])
            gaps = ((tree.centroids[first : first + count].astype(np.float64) - query) ** 2).sum(axis=1)
            node = first + int(np.argmin(gaps))
        assert assign(tree, query[None])[0] == tree.leaf_start[node]


def test_a_far_origin_moves_no_vector_to_another_leaf(generator):
    vectors = np.round(generator.normal(size=(300, 4)) * 64).astype(np.float32)
    near, _ = build_tree(vectors, SHAPE, seed=3)
    far = vectors + np.float32(2**16)
    moved = type(near)(
        near.centroids + np.float32(2**16), near.first_child, near.children, near.leaf_start, near.leaf_end
    )

    same = (assign(near, vectors) == assign(moved, far)).mean()
    assert same > 0.98  # centroids round to 1/128 there


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize("leaf", [0, 4, "last"])
def test_a_split_leaf_becomes_several_and_the_others_keep_their_vectors(generator, parts, leaf):
    vectors = generator.normal(size=(400, 3)).astype(np.float32)
    tree, before = build_tree(vectors, SHAPE, seed=4)
    leaf = tree.leaves - 1 if leaf == "last" else leaf
    node = int(np.flatnonzero((tree.children == 0) & (tree.leaf_start == leaf))[0])
    centroids = tree.centroids[node] + generator.normal(size=(parts, 3)).astype(np.float32)

    split = with_split(tree, leaf, centroids)

    after = assign(split, vectors)
    assert split.leaves == tree.leaves + parts - 1
    assert (after[before < leaf] == before[before < leaf]).all()
    assert (after[before > leaf] == before[before > leaf] + parts - 1).all()
    inside = after[before == leaf]
    assert ((inside >= leaf) & (inside < leaf + parts)).all()
    spans = [(int(a), int(b)) for a, b in zip(split.leaf_start, split.leaf_end, strict=True)]
    for number in range(len(split.children)):
        first, count = int(split.first_child[number]), int(split.children[number])
        if count:
            edges = [spans[child] for child in range(first, first + count)]
            assert (edges[0][0], edges[-1][1]) == spans[number]
            assert all(one[1] == two[0] for one, two in itertools.pairwise(edges))


def test_equal_vectors_cannot_be_divided():
    assert divided(np.ones((50, 3), np.float32), np.arange(50), 4, seed=0) == []


def test_parts_are_all_rows_once_each_nearest_to_its_own_centre(generator):
    vectors = generator.normal(size=(200, 5)).astype(np.float32)
    rows = generator.choice(200, 90, replace=False)

    parts = divided(vectors, rows, 4, seed=5)

    assert sorted(row for _, part in parts for row in part.tolist()) == sorted(rows.tolist())
    centres = np.stack([centre for centre, _ in parts]).astype(np.float64)
    for number, (_, part) in enumerate(parts):
        gaps = ((vectors[part].astype(np.float64)[:, None] - centres) ** 2).sum(axis=2)
        assert (gaps.argmin(axis=1) == number).all()
