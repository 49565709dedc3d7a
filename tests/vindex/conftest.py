"""Small indexes of random vectors, and brute force in float64 to judge them by."""

import numpy as np
import pytest

from llmsys.vindex import Index, TreeShape

SMALL = TreeShape(branching=4, max_leaf=8, max_shortlist=6)


def random_access(generator, count, tenants=5, per_vector=2):
    names = [f"t{number}" for number in range(tenants)]
    return [sorted(set(generator.choice(names, per_vector).tolist())) for _ in range(count)]


def brute_force(vectors, ids, query, k, metric):
    """(ids, distances) of the k nearest, ties to the smaller id."""
    wide, query = np.asarray(vectors, np.float64), np.asarray(query, np.float64)
    if metric == "cosine":
        wide = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        query = query / np.linalg.norm(query)
    near = ((wide - query) ** 2).sum(axis=1) if metric == "l2" else -(wide @ query)
    best = sorted(range(len(ids)), key=lambda row: (near[row], ids[row]))[:k]
    return [ids[row] for row in best], [near[row] if metric == "l2" else -near[row] for row in best]


@pytest.fixture
def generator():
    return np.random.default_rng(20260101)


@pytest.fixture
def built(tmp_path, generator):
    """An index of 300 vectors of 7 numbers under l2 for five tenants, with the vectors and who may see them."""
    vectors = generator.normal(size=(300, 7)).astype(np.float32)
    access = random_access(generator, 300)
    index = Index.build(tmp_path / "idx", vectors, None, access, metric="l2", shape=SMALL)
    yield index, vectors, access
    index.close()
