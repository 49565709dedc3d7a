"""Compiled loops against their NumPy twins, on uneven sizes, with tails and after deletions."""

import numpy as np
import pytest

from llmsys.vindex import Index
from llmsys.vindex.codes import code_scores, encode, encode_queries, row_bytes
from llmsys.vindex.scan import Effort, Task, answer, answer_twin
from tests.vindex.conftest import SMALL


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize(("count", "dim", "dtype"), [(1, 1, "f16"), (63, 5, "f32"), (65, 64, "f16"), (700, 33, "f32")])
def test_the_compiled_searches_give_what_numpy_gives(tmp_path, generator, metric, count, dim, dtype):
    vectors = generator.normal(size=(count, dim))
    access = [["a", "b"] if row % 3 else ["a"] for row in range(count)]
    with Index.build(tmp_path / "idx", vectors, access=access, metric=metric, dtype=dtype, shape=SMALL) as index:
        index.add(generator.normal(size=(10, dim)), range(count, count + 10), [["a", "b"]] * 10)
        index.delete(range(0, count, 5))
        state = index.state
        queries = state.store.rows(np.arange(min(count, 20))) + np.float32(0.01)
        runs = [state.run("a"), state.run("b")]
        whose = np.arange(len(queries)) % 2

        for efforts in (
            [Effort(5, 2), Effort(7, 3)], [Effort(20, 6), None], [None, Effort(2000, 1000)], [None, None]
        ):  # fmt: skip
            task = Task(queries, runs, efforts, whose)
            fast = answer(state.space(), task, 5, compiling=True)
            several = answer(state.space(), task, 5, threads=3, compiling=True)
            slow = answer_twin(state.space(), task, 5)
            assert fast.slots.tolist() == slow.slots.tolist() == several.slots.tolist()
            assert fast.scanned.tolist() == slow.scanned.tolist() == several.scanned.tolist()
            np.testing.assert_allclose(fast.scores, slow.scores, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 55, 56, 57, 384, 4096])
def test_coded_scores_are_near_the_true_ones_at_every_width(generator, dim):
    """A code's error per dimension is half a step of 1/127 of the largest number, on both sides."""
    vectors = generator.normal(size=(50, dim)).astype(np.float32)
    queries = generator.normal(size=(3, dim)).astype(np.float32)
    mean = vectors.mean(axis=0)
    rows, coded = encode(vectors, mean, "l2"), encode_queries(queries, mean)

    assert rows.shape == (50, row_bytes(dim))
    for number, query in enumerate(queries):
        right = ((vectors - query) ** 2).sum(axis=1) - ((query - mean) ** 2).sum()
        steps = np.abs(vectors - mean).max(axis=1) * np.abs(query - mean).max()
        assert (np.abs(code_scores(rows, coded, number) - right) <= 2 * dim * steps * 1.01 / 127 + 1e-3).all()


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
