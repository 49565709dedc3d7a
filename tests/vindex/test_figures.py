"""`stats` accounts for the memory that is really there: every object that the index reaches, weighed one by one."""

import gc
import mmap
import sys
from types import BuiltinFunctionType, FunctionType, ModuleType

import numpy as np
import pytest

from llmsys.vindex import Index
from llmsys.vindex.figures import figures
from tests.vindex.conftest import random_access


def weighed(root):
    """Bytes of everything that can be reached, each object once; mapped files by their length."""
    seen, total, pending = set(), 0, [root]
    while pending:
        one = pending.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType | BuiltinFunctionType | np.dtype):
            continue
        seen.add(id(one))
        total += len(one) if isinstance(one, mmap.mmap) else sys.getsizeof(one)
        if isinstance(one, np.ndarray):
            pending += [] if one.base is None else [one.base]
            pending += [one._mmap] if isinstance(one, np.memmap) and one._mmap is not None else []
        elif isinstance(one, memoryview):
            pending.append(one.obj)
        else:
            pending += gc.get_referents(one)
    return total


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("changed", [False, True])
def test_the_bytes_of_stats_are_within_a_tenth_of_what_is_weighed(tmp_path, generator, text, changed):
    vectors = generator.normal(size=(6000, 40)).astype(np.float32)
    ids = [f"document number {row}" for row in range(6000)] if text else None
    Index.build(tmp_path / "idx", vectors, ids, random_access(generator, 6000, 30, 6)).close()
    with Index.open(tmp_path / "idx", "w") as index:
        if changed:
            new = ["x", "y"] if text else [7000, 7001]
            index.add(vectors[:2], new, [["t1", "t2"]] * 2)
            index.delete(["document number 5"] if text else [5])
        index.search(vectors[:30], [f"t{number}" for number in range(30)], recall=None)
        parts = figures(index).bytes
        right = weighed(index.state)

    assert parts["total"] == parts["store"] + parts["overhead"]
    assert parts["overhead"] == sum(parts[name] for name in ("codes", "lists", "trees", "ids", "filters"))
    assert parts["total"] == pytest.approx(right, rel=0.1)


def test_a_figure_per_vector_is_the_total_over_the_vectors(tmp_path, generator):
    with Index.build(tmp_path / "idx", generator.normal(size=(500, 8)), access=[["a"]] * 500) as index:
        found = figures(index)

    assert found.bytes_per_vector == found.bytes["total"] / 500
    assert found.bytes["store"] == 500 * 8 * 4
    assert found.bytes["codes"] == 500 * 64
