"""Slots are given in turn and never again; what a search was given stays as it was while slots come and go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.vindex.cluster_tree import TreeShape, assign, build_tree
from llmsys.vindex.codes import encode
from llmsys.vindex.slot_store import SlotStore

STEPS = st.lists(
    st.one_of(st.tuples(st.just("append"), st.integers(1, 40)), st.tuples(st.just("delete"), st.integers(1, 20))),
    max_size=8,
)


def started(count, *, text=False, dtype=np.float32):
    generator = np.random.default_rng(3)
    vectors = generator.normal(size=(count, 4)).astype(dtype)
    tree, leaf = build_tree(generator.normal(size=(200, 4)).astype(np.float32), TreeShape(3, 20, 10), seed=0)
    leaf = assign(tree, vectors.astype(np.float32))
    ids = [f"v{row}" if text else row for row in range(count)]
    return tree, SlotStore.of(vectors, leaf, ids, "l2"), generator


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@given(steps=STEPS)
def test_every_live_id_has_the_vector_that_it_came_with(text, dtype, steps):
    tree, store, generator = started(30, text=text, dtype=dtype)
    held = dict(zip(store.names(range(30)), store.vectors[:30].tolist(), strict=True))
    given_, slots_ever = 30, set(range(30))
    for kind, count in steps:
        if kind == "append":
            ids = [f"v{given_ + row}" if text else given_ + row for row in range(count)]
            vectors = generator.normal(size=(count, 4)).astype(np.float32)
            slots = store.append(tree, ids, vectors)
            assert slots_ever.isdisjoint(slots.tolist())
            slots_ever |= set(slots.tolist())
            held |= dict(zip(ids, vectors.astype(dtype).tolist(), strict=True))
            given_ += count
        else:
            gone = list(held)[:count]
            store.delete([store.slot_of[one] for one in gone])
            for one in gone:
                del held[one]

    live = store.live_slots()
    assert dict(zip(store.names(live), store.vectors[live].tolist(), strict=True)) == held
    assert store.slot_of == dict(zip(store.names(live), live.tolist(), strict=True))
    assert (store.live, store.used, store.dead) == (len(held), len(slots_ever), len(slots_ever) - len(held))
    assert np.array_equal(store.codes[live], encode(store.rows(live), store.mean, "l2"))
    assert np.array_equal(store.leaf[live], assign(tree, store.rows(live))) or not len(live)


def test_arrays_that_were_given_out_stay_as_they_were():
    tree, store, generator = started(50)
    vectors, codes, used = store.vectors, store.codes, store.used
    before = (vectors[:used].copy(), codes[:used].copy())

    store.delete([0, 7])
    for start in range(50, 500, 50):
        store.append(tree, list(range(start, start + 50)), generator.normal(size=(50, 4)).astype(np.float32))

    assert np.array_equal(vectors[:used], before[0])
    assert np.array_equal(codes[:used], before[1])


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_rows_start_on_cache_lines_once_they_are_in_memory(count):
    tree, store, generator = started(10)
    store.append(tree, list(range(10, 10 + count)), generator.normal(size=(count, 4)).astype(np.float32))

    assert store.codes.__array_interface__["data"][0] % 64 == 0
    assert store.codes.strides[0] % 64 == 0


@pytest.mark.parametrize("text", [False, True])
def test_ties_are_ordered_by_id_whatever_the_slot(text):
    tree, store, _ = started(0, text=text)
    ids = ["b", "a", "c"] if text else [20, 10, 30]
    store.append(tree, ids, np.ones((3, 4), np.float32))

    assert np.argsort(store.order[: store.used]).tolist() == [1, 0, 2]
    store.append(tree, ["0"] if text else [5], np.ones((1, 4), np.float32))
    assert np.argsort(store.order[: store.used]).tolist() == [3, 1, 0, 2]


def test_an_empty_store_takes_ids_of_either_kind():
    for ids, kind in (([1, 2], int), (["a", "b"], str)):
        tree, store, _ = started(0)
        assert store.id_type is None
        store.append(tree, ids, np.ones((2, 4), np.float32))
        assert (store.id_type, store.names([1, 0])) == (kind, ids[::-1])


def test_the_mean_is_that_of_the_vectors_under_l2_and_nothing_otherwise():
    vectors = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32) + 5
    leaf = np.zeros(40, np.int32)

    assert SlotStore.of(vectors, leaf, range(40), "ip").mean.tolist() == [0, 0, 0]
    np.testing.assert_allclose(SlotStore.of(vectors, leaf, range(40), "l2").mean, vectors.mean(axis=0), rtol=1e-6)
