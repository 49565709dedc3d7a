"""An open index: what may be done in which mode, what a batch makes durable, and what its counts say."""

import numpy as np
import pytest

from llmsys.errors import BadInput, UsageFault
from llmsys.vindex import Effort, Index
from tests.vindex.conftest import SMALL


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.add(np.ones((1, 7)), [900]),
        lambda index: index.delete([1]),
        lambda index: index.grant([1], "new"),
        lambda index: index.revoke([1], "t0"),
        lambda index: index.drop_tenant("t0"),
        lambda index: index.compact(),
        lambda index: index.keep_plans([]),
    ],
)
def test_a_reader_changes_nothing(built, change):
    reader = Index.open(built[0].path)

    with pytest.raises(UsageFault, match="open for reading; expected mode 'w'"):
        change(reader)

    assert (reader.seq, built[0].log_bytes) == (0, 0)


def test_a_mode_that_is_none_is_refused(built):
    with pytest.raises(ValueError, match="'a'; expected 'r' or 'w'"):
        Index.open(built[0].path, "a")


def test_nothing_of_a_batch_is_on_disk_before_its_end_and_all_of_it_after(built):
    index = built[0]
    with index.batch():
        index.grant([1], "new")
        index.delete([2])
        assert index.log_bytes == 0
        assert len(index) == 299

    assert index.log_bytes > 0
    assert (Index.open(index.path).seq, len(Index.open(index.path))) == (2, 299)


def test_what_changes_nothing_is_not_logged(built):
    index, _, access = built
    row = next(row for row in range(300) if "t0" in access[row])

    counts = [
        index.grant([row], "t0"),
        index.grant([], "t0"),
        index.revoke([row], "nobody"),
        index.delete([], skip_missing=True),
        index.delete([4711], skip_missing=True),
        index.drop_tenant("nobody"),
        index.add(np.zeros((0, 7)), []),
    ]

    assert counts[0] == {"granted": 0, "already": 1, "missing": 0}
    assert counts[2] == {"revoked": 0, "already": 1, "missing": 0}
    assert counts[4] == {"deleted": 0, "missing": 1}
    assert (index.seq, index.log_bytes) == (0, 0)


def test_a_summary_counts_what_is_there(built):
    index, _, access = built
    index.drop_tenant("t1")
    index.delete([0])

    found = index.summary()

    grants = sum(len(set(names) - {"t1"}) for names in access[1:])
    assert found == {"vectors": 299, "tenants": 4, "grants": grants, "seq": 2}


def test_a_search_takes_one_tenant_or_one_for_each_query(built):
    index, vectors, _ = built

    one = index.search(vectors[:3], "t1", recall=None)
    each = index.search(vectors[:3], ["t1", "t1", "t1"], recall=None)
    mixed = index.search(vectors[:3], ["t1", None, "nobody"], recall=None)

    assert one.ids.tolist() == each.ids.tolist()
    assert mixed.ids[0].tolist() == one.ids[0].tolist()
    assert mixed.ids[1, 0] == 1
    assert mixed.ids[2].tolist() == [-1] * 10
    assert np.isnan(mixed.distances[2]).all()
    assert mixed.scanned.tolist()[1:] == [300, 0]
    with pytest.raises(UsageFault, match="2 tenants for 3 queries"):
        index.search(vectors[:3], ["t1", "t2"])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_no_answer(built, threads):
    index, vectors, _ = built
    names = [f"t{row % 5}" for row in range(300)]

    alone = index.search(vectors, names, effort=Effort(10, 3))
    together = index.search(vectors, names, effort=Effort(10, 3), threads=threads)

    assert alone.ids.tolist() == together.ids.tolist()
    assert alone.scanned.tolist() == together.scanned.tolist()


def test_a_snapshot_is_an_index_of_its_own(built, tmp_path):
    index = built[0]
    index.grant([1, 2], "new")
    index.snapshot(tmp_path / "copy")
    index.drop_tenant("new")

    with Index.open(tmp_path / "copy", "w") as copy:
        assert copy.summary()["tenants"] == 6
        copy.delete([5])
        assert (len(copy), len(index), copy.seq, index.seq) == (299, 300, 2, 2)
    with pytest.raises(FileExistsError):
        index.snapshot(tmp_path / "copy")


def test_a_build_over_something_else_is_refused(built, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")

    with pytest.raises(FileExistsError):
        Index.build(tmp_path / "notes", np.ones((1, 2)))
    with pytest.raises(BadInput):
        Index.build(tmp_path / "notes", np.ones((1, 2)), overwrite=True)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "x"


def test_orphans_are_what_one_tenant_alone_sees(tmp_path):
    access = [["a"], ["a", "b"], [], ["a"], ["b"]]
    with Index.build(tmp_path / "idx", np.eye(5), access=access, shape=SMALL) as index:
        names = index.state.store.names

        assert sorted(names(index.state.orphans("a"))) == [0, 3]
        assert names(index.state.orphans("b")) == [4]
        assert names(index.state.orphans("nobody")) == []
        assert index.drop_tenant("a", orphans="delete") == {"revoked": 3, "deleted": 2}
        assert sorted(index.state.store.slot_of) == [1, 2, 4]
