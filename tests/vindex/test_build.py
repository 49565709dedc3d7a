"""Trees, stores and intake: leaves partition what they should, wrong input is refused, files are read as they say."""

import json

import numpy as np
import pytest

from llmsys.errors import BadInput
from llmsys.vindex import Index, NotFound, TreeShape
from llmsys.vindex.check import check_index, faults
from llmsys.vindex.cluster_tree import assign, build_tree
from llmsys.vindex.figures import figures
from llmsys.vindex.sources import read_collection, read_names
from llmsys.vindex.tenant_list import TenantList
from tests.vindex.conftest import SMALL, random_access


def test_descent_ends_in_the_leaf_that_the_build_gave(generator):
    vectors = generator.normal(size=(900, 5)).astype(np.float32)

    tree, leaf = build_tree(vectors, SMALL, seed=3)

    assert (assign(tree, vectors) == leaf).all()
    assert sorted(set(leaf.tolist())) == list(range(tree.leaves))
    assert np.bincount(leaf).max() <= SMALL.max_leaf


def test_the_same_seed_builds_the_same_files(tmp_path, generator):
    vectors, access = generator.normal(size=(300, 6)), random_access(generator, 300)
    for name in ("one", "two"):
        Index.build(tmp_path / name, vectors, None, access, shape=SMALL, seed=4).close()

    for path in (tmp_path / "one" / "snap-1").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "snap-1" / path.name).read_bytes()


@pytest.mark.parametrize("count", [1, 6, 7, 63, 64, 65, 1000])
def test_a_tenant_of_any_size_passes_every_check(tmp_path, generator, count):
    vectors = generator.normal(size=(count, 4))
    access = [["all"] if row else ["all", "one"] for row in range(count)]
    Index.build(tmp_path / "idx", vectors, None, access, metric="l2", shape=SMALL).close()

    state, found = check_index(tmp_path / "idx", deep=True)

    assert found == []
    assert (len(state.tenant("all")), len(state.tenant("one"))) == (count, 1)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda state: state.lists["t0"].tail.append(int(state.lists["t0"].slots[0])), "a slot twice"),
        (lambda state: state.lists["t0"].tail.append(10_000), "holds no vector"),
        (lambda state: setattr(state.lists["t0"], "slots", state.lists["t0"].slots[::-1]), "out of order"),
        (lambda state: setattr(state.store, "dead", 3), "dead slots"),
        (lambda state: state.clusters.leaf_end.__setitem__(1, 99), "depth first"),
        (lambda state: setattr(state.store, "ids", 0 * state.store.ids), "one id"),
    ],
)
def test_a_spoiled_state_is_found(tmp_path, generator, spoil, named):
    vectors = generator.normal(size=(100, 4))
    with Index.build(tmp_path / "idx", vectors, None, random_access(generator, 100), shape=SMALL) as index:
        state = index.state
        state.clusters = type(state.clusters)(
            *(np.array(getattr(state.clusters, name)) for name in state.clusters.__dataclass_fields__)
        )
        assert faults(state) == []
        spoil(state)
        assert any(named in fault for fault in faults(state))


@pytest.mark.parametrize(
    ("vectors", "options", "named"),
    [
        (np.zeros(3), {}, "shape"),
        (np.zeros((2, 4097)), {}, "1 to 4096"),
        (np.array([[1.0, np.nan]]), {}, "row 0"),
        (np.array([[1.0, 0.0], [0.0, 0.0]]), {}, "row 1: a zero vector"),
        (np.ones((2, 2)), {"ids": [1, 1]}, "a second time"),
        (np.ones((2, 2)), {"ids": [1, "a"]}, "type int"),
        (np.ones((2, 2)), {"ids": [1, 2**63]}, "64 bits"),
        (np.ones((2, 2)), {"ids": [1, True]}, "an integer or text"),
        (np.ones((2, 2)), {"ids": [1]}, "1 ids for 2"),
        (np.ones((2, 2)), {"access": [["a"]]}, "1 lists"),
        (np.ones((2, 2)), {"access": [["a"], ["b\n"]]}, "control characters"),
        (np.ones((2, 2)), {"access": {7: ["a"]}}, "no vector has the id 7"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path, vectors, options, named):
    with pytest.raises(BadInput, match=named):
        Index.build(tmp_path / "idx", vectors, **options)

    assert not (tmp_path / "idx").exists()


def test_an_add_that_does_not_fit_changes_nothing(built):
    index = built[0]
    for vectors, ids in ((np.ones((2, 7)), [300, 5]), (np.ones((1, 6)), [300]), (np.full((1, 7), np.inf), [300])):
        with pytest.raises(BadInput):
            index.add(vectors, ids)

    assert (len(index), index.seq, index.log_bytes) == (300, 0, 0)


def test_an_unknown_id_is_not_found_and_nothing_happens(built):
    index = built[0]
    for change in (index.delete, lambda ids: index.grant(ids, "x"), lambda ids: index.revoke(ids, "t0")):
        with pytest.raises(NotFound, match="4711"):
            change([1, 4711])

    assert index.seq == 0


def test_overwrite_replaces_an_index_and_nothing_else(built, tmp_path):
    index = built[0]
    index.close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")

    with Index.build(index.path, np.ones((2, 3)), overwrite=True) as replaced:
        assert len(replaced) == 2
    with pytest.raises(BadInput, match="vindex build"):
        Index.build(tmp_path / "other", np.ones((2, 3)), overwrite=True)
    assert (tmp_path / "other" / "letter.txt").read_text() == "dear"


def test_bytes_by_part_add_up_and_lists_cost_four_bytes_a_grant(built):
    shown = figures(built[0])
    parts = dict(shown.bytes)
    total, overhead = parts.pop("total"), parts.pop("overhead")

    assert sum(parts.values()) == total == overhead + parts["store"]
    assert 0 < parts["lists"] - 4 * shown.grants - 4 * shown.vectors < 800 * shown.tenants
    assert parts["store"] == 300 * 7 * 4
    assert 0 < shown.drift < 7


def test_a_collection_says_its_ids_and_tenants_once(tmp_path):
    (tmp_path / "v.jsonl").write_text('{"id":"a","vector":[1,2],"tenants":["x"]}\n')
    (tmp_path / "ids").write_text("5\n\n6\n")
    (tmp_path / "access.jsonl").write_text('{"id":5,"tenants":["x"]}\n{"id":5,"tenants":["y"]}\n')
    np.save(tmp_path / "v.npy", np.ones((2, 2)))

    read = read_collection(str(tmp_path / "v.npy"), tmp_path / "ids", tmp_path / "access.jsonl")
    assert (read.ids, read.access) == ([5, 6], {5: ["x", "y"]})
    with pytest.raises(BadInput, match="bring their own"):
        read_collection(str(tmp_path / "v.jsonl"), tmp_path / "ids", None)
    with pytest.raises(BadInput, match="bring their own"):
        read_collection(str(tmp_path / "v.jsonl"), None, tmp_path / "access.jsonl")


def test_names_come_as_a_list_or_as_lines(tmp_path):
    (tmp_path / "list").write_text(json.dumps(["a b", "c"]))
    (tmp_path / "lines").write_text('a b\n\n"c"\n')
    (tmp_path / "bad").write_bytes(b"\xff\n")

    assert read_names(str(tmp_path / "list")) == read_names(str(tmp_path / "lines")) == ["a b", "c"]
    with pytest.raises(BadInput, match="bad:1"):
        read_names(str(tmp_path / "bad"))


def test_a_removal_from_tail_and_list_leaves_the_rest():
    leaf = np.array([2, 0, 1, 0, 2, 1], np.int32)
    found = TenantList(np.array([1, 3, 2, 0], np.int32))
    found.add(np.array([5], np.int32), leaf)

    assert [found.holds(slot, leaf) for slot in range(6)] == [True, True, True, True, False, True]
    found.remove(5, leaf)
    found.remove(2, leaf)
    assert found.members().tolist() == [1, 3, 0]


def test_a_shape_is_kept_through_compaction(tmp_path, generator):
    shape = TreeShape(branching=3, max_leaf=20, max_shortlist=10)
    with Index.build(tmp_path / "idx", generator.normal(size=(100, 3)), shape=shape) as index:
        index.compact(retrain=True)

    assert Index.open(tmp_path / "idx").state.shape == shape
