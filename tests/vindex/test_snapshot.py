"""A snapshot is read as it was written, and arrays that contradict each other never reach the loops."""

import json

import numpy as np
import pytest

from llmsys.artifacts import write_directory
from llmsys.errors import BadInput
from llmsys.vindex import Corrupt, Index
from llmsys.vindex.cluster_tree import TreeShape
from llmsys.vindex.index_files import create, read_state
from llmsys.vindex.snapshot import KIND, VERSION, read_snapshot
from llmsys.vindex.state import build_state, compacted

ARRAYS = ("vectors", "codes", "leaf", "centroids", "first_child", "children", "leaf_start", "leaf_end", "mean")


@pytest.fixture
def parts(built):
    """The arrays and names of a snapshot, to be spoiled."""
    place = built[0].path / "snap-1"
    arrays = {path.stem: np.load(path) for path in place.glob("*.npy")}
    return arrays, json.loads((place / "names.json").read_text())


def resealed(place, arrays, names, version=VERSION):
    """A snapshot with right checksums of whatever it holds."""
    with write_directory(place, kind=KIND, version=version) as directory:
        for name, array in arrays.items():
            np.save(directory / f"{name}.npy", array)
        (directory / "names.json").write_text(names if isinstance(names, str) else json.dumps(names))
    return place


def changed(array, at, value):
    other = array.copy()
    other[at] = value
    return other


def test_what_is_sealed_anew_unchanged_is_read(parts, tmp_path):
    state = read_snapshot(resealed(tmp_path / "s", *parts), verify=True)

    assert (state.store.used, len(state.lists)) == (300, 5)


SPOILED = {
    "vectors": [lambda a: a[:-1], lambda a: a.astype(np.float64), lambda a: a[:, :-1], lambda a: a.ravel()],
    "codes": [lambda a: a[:-1], lambda a: a[:, :-1], lambda a: a.astype(np.int16)],
    "leaf": [lambda a: changed(a, 3, -1), lambda a: changed(a, 3, 10**6), lambda a: a[1:], lambda a: a.astype(float)],
    "centroids": [lambda a: a[:, 1:], lambda a: a[:-1], lambda a: a[:0]],
    "first_child": [lambda a: changed(a, 0, 0), lambda a: changed(a, 0, 10**6), lambda a: changed(a, 0, -5)],
    "children": [lambda a: changed(a, 0, 10**6), lambda a: changed(a, 0, -1), lambda a: a[1:]],
    "leaf_start": [lambda a: a[1:], lambda a: a.astype(np.int64)],
    "leaf_end": [lambda a: a[1:], lambda a: a[:, None]],
    "mean": [lambda a: a[1:], lambda a: a.astype(np.float64)],
    "lists": [lambda a: changed(a, 0, -1), lambda a: changed(a, 0, 300), lambda a: a[1:], lambda a: a.astype(float)],
    "list_ends": [lambda a: a[::-1].copy(), lambda a: a[1:], lambda a: a + 1, lambda a: changed(a, 0, -1)],
    "ids": [lambda a: a[1:], lambda a: a.astype(np.int32), lambda a: a[:, None]],
}


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, spoils in SPOILED.items() for number in range(len(spoils))]
)
def test_arrays_that_contradict_each_other_are_refused_under_right_checksums(parts, tmp_path, name, number):
    arrays, names = parts
    place = resealed(tmp_path / "s", arrays | {name: SPOILED[name][number](arrays[name])}, names)

    with pytest.raises(Corrupt, match=r"\.npy: numbers that do not fit"):
        read_snapshot(place, verify=True)


@pytest.mark.parametrize("name", [*ARRAYS, "lists", "list_ends", "ids"])
def test_a_missing_array_is_named(parts, tmp_path, name):
    arrays, names = parts
    del arrays[name]

    with pytest.raises(BadInput, match=f"{name}.npy: missing"):
        read_snapshot(resealed(tmp_path / "s", arrays, names), verify=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"metric": "dot"},
        {"seq": -1},
        {"shape": [0, 1, 1]},
        {"shape": [16, 128]},
        {"tenants": ["a"]},
        {"tenants": "abcde"},
        {"ids": ["one"]},
    ],
)
def test_names_that_contradict_the_arrays_are_refused(parts, tmp_path, fields):
    arrays, names = parts

    with pytest.raises(Corrupt):
        read_snapshot(resealed(tmp_path / "s", arrays, names | fields), verify=True)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_names_that_are_none_are_refused(parts, tmp_path, text):
    with pytest.raises(Corrupt, match=r"names\.json"):
        read_snapshot(resealed(tmp_path / "s", parts[0], text), verify=True)


def test_an_older_snapshot_is_refused_with_the_way_out(parts, tmp_path):
    with pytest.raises(BadInput, match="version 1; expected version 3: export it and build it anew"):
        read_snapshot(resealed(tmp_path / "s", *parts, version=1), verify=True)


def test_a_file_of_objects_is_never_unpickled(parts, tmp_path):
    arrays, names = parts
    arrays["ids"] = np.array([{}] * 300, object)

    with pytest.raises(BadInput):
        read_snapshot(resealed(tmp_path / "s", arrays, names), verify=True)


@pytest.mark.parametrize("count", [0, 1, 50])
@pytest.mark.parametrize("text", [False, True])
def test_a_state_of_any_size_comes_back_whole(tmp_path, generator, count, text):
    vectors = generator.normal(size=(count, 3)).astype(np.float32)
    ids = [f"v{row}" if text else row for row in range(count)]
    state = build_state(vectors, ids, [["a"]] * count, metric="l2", shape=TreeShape(3, 5, 4), seed=0)
    create(tmp_path / "idx", compacted(state))

    head, found, good, torn = read_state(tmp_path / "idx", verify=True)

    assert (head.generation, good, torn) == (1, 0, 0)
    assert found.store.names(found.store.live_slots()) == state.store.names(state.store.live_slots())
    assert np.array_equal(found.store.vectors, state.store.vectors)
    assert found.access() == state.access()
    with Index.open(tmp_path / "idx", "w") as index:
        index.add(np.ones((1, 3)), ["new" if text else 10**6], [["a"]])
        assert len(index) == count + 1
