"""Kept views are those of the present version, the least recently used go first, and their bytes stay bounded."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmsys.vindex.tenant_list import Run
from llmsys.vindex.view_cache import ViewCache


def run_of(count):
    slots = np.arange(count, dtype=np.int32)
    return Run(slots, slots[:0], np.array([[0, 0, count, 0, 0]], np.int32))


SIZE = run_of(100)


def size_of(run):
    return 0 if run is None else run.slots.nbytes + run.tail.nbytes + run.records.nbytes


def test_a_view_of_nothing_is_kept_too():
    cache = ViewCache()
    cache.keep(("a", "x", 1), None)

    assert ("a", "x", 1) in cache
    assert (cache.get(("a", "x", 1)), cache.bytes) == (None, 0)


def test_a_change_makes_every_older_view_unreachable():
    cache = ViewCache()
    cache.keep(("a", "x", 1), run_of(10))
    cache.keep(("b", None, 1), run_of(10))
    cache.keep(("a", "x", 2), run_of(20))

    assert [key in cache for key in [("a", "x", 1), ("b", None, 1), ("a", "x", 2)]] == [False, False, True]
    assert cache.bytes == size_of(run_of(20))


def test_the_least_recently_used_goes_first():
    cache = ViewCache(most_bytes=2 * size_of(SIZE))
    cache.keep(("a", "x", 1), run_of(100))
    cache.keep(("b", "x", 1), run_of(100))
    cache.get(("a", "x", 1))
    cache.keep(("c", "x", 1), run_of(100))

    assert [(name, "x", 1) in cache for name in "abc"] == [True, False, True]


def test_one_view_larger_than_the_bound_is_kept_alone():
    cache = ViewCache(most_bytes=8)
    cache.keep(("a", "x", 1), run_of(5))
    cache.keep(("b", "x", 1), run_of(500))

    assert [(name, "x", 1) in cache for name in "ab"] == [False, True]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3), st.integers(0, 60)), max_size=30))
def test_bytes_are_the_sum_of_what_is_kept_and_stay_in_the_bound(steps):
    cache, most, held = ViewCache(most_bytes=400), 400, {}
    version = 1
    for name, forward, count in steps:
        version += forward == 3
        key = (name, "x", version)
        if key in cache:
            assert len(cache.get(key)) == held[key]
            continue
        cache.keep(key, run_of(count))
        held[key] = count
        kept = {one: size_of(run_of(size)) for one, size in held.items() if one in cache}
        assert cache.bytes == sum(kept.values())
        assert all(one[2] == version for one in kept)
        assert cache.bytes <= most or len(kept) == 1
