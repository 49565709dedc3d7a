"""What leaves an index is a function of its content alone, and under a tenant nobody else's name leaves."""

import numpy as np
import pytest

from llmsys.artifacts import read_vectors
from llmsys.vindex import Index, NotFound
from llmsys.vindex.exchange import content_of, export_arrays, export_lines
from tests.vindex.conftest import SMALL


def plain(records):
    return [(record.id, tuple(record.vector), record.tenants) for record in records]


def test_everything_leaves_in_the_order_of_ids_with_all_that_see_it(built):
    index, vectors, access = built

    found = plain(export_lines(index, None, None))

    right = [(row, tuple(vectors[row].astype(float).tolist()), tuple(access[row])) for row in range(300)]
    assert found == right


@pytest.mark.parametrize("tenant", ["t0", "t4"])
def test_a_tenant_s_export_names_it_alone(built, tenant):
    index, _, access = built

    found = plain(export_lines(index, tenant, None))

    assert [one for one, _, _ in found] == [row for row in range(300) if tenant in access[row]]
    assert {names for _, _, names in found} == {(tenant,)}
    assert content_of(index, tenant, None).tenants == [[tenant]] * len(found)


def test_history_and_compaction_do_not_show_in_the_bytes(tmp_path, generator):
    vectors = generator.normal(size=(60, 3)).astype(np.float32)
    access = [["a"] if row % 2 else ["a", "b"] for row in range(60)]
    with Index.build(tmp_path / "one", vectors, access=access, metric="l2", shape=SMALL) as one:
        pass
    with Index.build(tmp_path / "two", np.zeros((0, 3)), metric="l2", shape=SMALL) as two:
        for row in reversed(range(60)):
            two.add(vectors[row : row + 1] + 1, [row], [["c"]])
        two.add(vectors, range(60), access, upsert=True)
        before = plain(export_lines(two, None, None))
        two.compact(retrain=True)

    assert plain(export_lines(one, None, None)) == before == plain(export_lines(two, None, None))


def test_chosen_ids_leave_once_each(built):
    found = plain(export_lines(built[0], None, [7, 3, 7, 250]))

    assert [one for one, _, _ in found] == [3, 7, 250]


def test_an_id_of_others_and_one_that_is_not_there_are_one_error(built):
    index, _, access = built
    other = next(row for row in range(300) if "t0" not in access[row])

    said = []
    for one in (other, 4711):
        with pytest.raises(NotFound) as error:
            list(export_lines(index, "t0", [one]))
        said.append(str(error.value).replace(str(one), "ID"))

    assert said[0] == said[1]


@pytest.mark.parametrize("kind", ["npy", "fvecs"])
def test_arrays_leave_beside_their_ids(built, tmp_path, kind):
    index, vectors, _ = built

    count = export_arrays(index, tmp_path / "out", None, [5, 1], kind=kind)

    assert (count, np.load(tmp_path / "out" / "ids.npy").tolist()) == (2, [1, 5])
    assert np.array_equal(read_vectors(str(tmp_path / "out" / f"vectors.{kind}")).values, vectors[[1, 5]])


def test_text_ids_leave_as_lines(tmp_path):
    with Index.build(tmp_path / "idx", np.eye(2), ["ä", "b"], metric="ip") as index:
        export_arrays(index, tmp_path / "out", None, None)

    assert (tmp_path / "out" / "ids.jsonl").read_text() == '"b"\n"ä"\n'


def test_a_tenant_of_nothing_exports_nothing(built, tmp_path):
    assert list(export_lines(built[0], "nobody", None)) == []
    assert export_arrays(built[0], tmp_path / "out", "nobody", None) == 0
    assert np.load(tmp_path / "out" / "vectors.npy").shape == (0, 7)
