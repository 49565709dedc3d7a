"""Compiled loops against their NumPy twins, on uneven sizes, with tails and after deletions."""

import numpy as np
import pytest

from llmsys.vindex import Index
from llmsys.vindex.scan import Effort, best_first, best_first_twin, exact, exact_twin
from tests.vindex.conftest import SMALL

COMPILE = 10**6


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize(("count", "dim"), [(1, 1), (63, 5), (65, 64), (700, 33)])
def test_the_compiled_searches_give_what_numpy_gives(tmp_path, generator, metric, count, dim):
    vectors = generator.normal(size=(count, dim))
    with Index.build(tmp_path / "idx", vectors, access=[["a"]] * count, metric=metric, shape=SMALL) as index:
        index.add(generator.normal(size=(10, dim)), range(count, count + 10), [["a"]] * 10)
        index.delete(range(0, count, 5))
        state, tenant = index.state, index.state.tenant("a")
        queries = state.store.vectors[: min(count, 20)].copy() + np.float32(0.01)

        for effort in (Effort(5, 2), Effort(20, 6), Effort(2000, 1000)):
            fast = best_first(state, tenant, queries, 5, effort, batch=COMPILE)
            slow = best_first_twin(state, tenant, queries, 5, effort)
            assert fast.slots.tolist() == slow.slots.tolist()
            assert fast.scanned.tolist() == slow.scanned.tolist()
            np.testing.assert_allclose(fast.scores, slow.scores, rtol=1e-9, atol=1e-12)
        fast, slow = exact(state, tenant, queries, 7, batch=COMPILE), exact_twin(state, tenant, queries, 7)
        assert fast.slots.tolist() == slow.slots.tolist()
        np.testing.assert_allclose(fast.scores, slow.scores, rtol=1e-9, atol=1e-12)


def test_more_effort_looks_at_more_and_finds_no_less(tmp_path, generator):
    vectors = generator.normal(size=(2000, 24))
    queries = generator.normal(size=(40, 24))
    with Index.build(tmp_path / "idx", vectors, access=[["a"]] * 2000, metric="l2", shape=SMALL) as index:
        right = index.search(queries, "a", recall=None).ids
        levels = [index.search(queries, "a", effort=Effort.level(level, 10)) for level in (0, 4, 8, 10)]

    recalls = [np.mean([np.isin(a, b).mean() for a, b in zip(hits.ids, right, strict=True)]) for hits in levels]
    assert recalls == sorted(recalls)
    assert recalls[-1] > 0.95
    assert [hits.scanned.sum() for hits in levels] == sorted(hits.scanned.sum() for hits in levels)
