"""Vectors from Parquet and Arrow and access from sparse matrices are read as written; anything else is refused."""

import numpy as np
import pytest
from scipy import sparse

from llmsys.errors import BadInput
from llmsys.vindex import Index
from llmsys.vindex.access_matrix import read_matrix
from llmsys.vindex.sources import read_collection
from llmsys.vindex.tables import read_table

arrow = pytest.importorskip("pyarrow")
ipc = pytest.importorskip("pyarrow.ipc")
parquet = pytest.importorskip("pyarrow.parquet")

VECTORS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def write(path, table):
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=2)
        return
    opened = ipc.new_stream if path.suffix == ".arrows" else ipc.new_file
    with opened(str(path), table.schema) as stream:
        stream.write_table(table, max_chunksize=2)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather", ".arrows"])
@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("number", ["float32", "float64", "int8"])
def test_a_table_gives_its_ids_vectors_and_tenants(tmp_path, suffix, kind, number):
    of = getattr(arrow, number)()
    kinds = {"list": arrow.list_(of), "large": arrow.large_list(of), "fixed": arrow.list_(of, 2)}
    columns = {"id": ["a", "b", "c"], "tenants": [["x"], None, ["x", "y"]], "text": ["?"] * 3}
    table = arrow.table(columns | {"embedding": arrow.array(VECTORS, kinds[kind])})
    write(tmp_path / f"f{suffix}", table)

    read = read_table(tmp_path / f"f{suffix}")

    assert read.ids == ("a", "b", "c")
    assert read.tenants == (("x",), (), ("x", "y"))
    assert read.values.tolist() == VECTORS


def test_a_slice_of_a_table_is_read_from_its_own_first_row(tmp_path):
    write(tmp_path / "f.arrow", arrow.table({"vector": VECTORS}).slice(1, 2))

    assert read_table(tmp_path / "f.arrow").values.tolist() == VECTORS[1:]


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"text": ["a"]}, "at least vector"),
        ({"vector": [[1.0], [1.0, 2.0]]}, "several lengths"),
        ({"vector": [[1.0], None]}, "several lengths"),
        ({"vector": [[1.0, None]]}, "several lengths"),
        ({"vector": [[], []]}, "several lengths"),
        ({"vector": [1.0, 2.0]}, "lists of numbers"),
        ({"vector": [["a"]]}, "lists of numbers"),
        ({"vector": [[1.0]], "tenants": ["x"]}, "lists of text"),
        ({"vector": [[1.0]], "tenants": [[1]]}, "lists of text"),
        ({"vector": [[1.0], [2.0]], "id": [1, None]}, "empty values"),
    ],
)
def test_a_table_of_other_columns_is_refused_by_name(tmp_path, columns, named):
    write(tmp_path / "f.parquet", arrow.table(columns))

    with pytest.raises(BadInput, match=named):
        read_table(tmp_path / "f.parquet")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".arrows"])
def test_a_file_cut_short_at_any_place_is_refused(tmp_path, suffix):
    path = tmp_path / f"f{suffix}"
    write(path, arrow.table({"id": [1, 2, 3], "vector": VECTORS}))
    whole = path.read_bytes()
    for size in range(0, len(whole) - 16, 23):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInput):
            read_table(path)


def test_an_index_is_built_from_a_table_and_a_matrix(tmp_path):
    write(tmp_path / "v.parquet", arrow.table({"id": [7, 8, 9], "vector": VECTORS}))
    seen = sparse.csr_matrix(np.array([[1, 0], [1, 1], [0, 0]]))
    sparse.save_npz(tmp_path / "a.npz", seen)
    (tmp_path / "a.npz.tenants.txt").write_text("ann\nbob\n")

    read = read_collection(str(tmp_path / "v.parquet"), None, tmp_path / "a.npz")
    with Index.build(tmp_path / "idx", read.vectors, read.ids, read.access, metric="l2") as index:
        found = index.search(np.array([[1.0, 2.0]]), ["ann"], k=5, recall=None)

    assert found.row(0) == ([7, 8], [0.0, 8.0])


def test_a_matrix_is_read_as_scipy_reads_it(tmp_path, generator):
    for density in (0.0, 0.05, 0.5, 1.0):
        matrix = sparse.random(40, 6, density, format="csr", random_state=3)
        matrix.data[::5] = 0  # an explicit zero is a no
        sparse.save_npz(tmp_path / "a.npz", matrix)

        rows = read_matrix(tmp_path / "a.npz", 40)

        dense = matrix.toarray() != 0
        assert [sorted(map(int, row)) for row in rows] == [np.flatnonzero(row).tolist() for row in dense]


def spoil(tmp_path, **arrays):
    matrix = sparse.csr_matrix(np.eye(3))
    parts = {"indices": matrix.indices, "indptr": matrix.indptr, "format": np.array(b"csr")}
    np.savez(tmp_path / "a.npz", **(parts | {"shape": np.array([3, 3]), "data": matrix.data} | arrays))
    return tmp_path / "a.npz"


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"format": np.array(b"csc")}, "format"),
        ({"format": np.array("csr")}, "format"),
        ({"indices": np.array([0, 1, 3])}, "outside"),
        ({"indices": np.array([0, -1, 2])}, "outside"),
        ({"indptr": np.array([0, 3, 1, 3])}, "outside"),
        ({"indptr": np.array([0, 1, 2, 9])}, "outside"),
        ({"indptr": np.array([0, 3])}, "sizes"),
        ({"data": np.ones(2)}, "sizes"),
        ({"shape": np.array([3.0, 3.0])}, "sizes"),
        ({"shape": np.array([4, 3]), "indptr": np.array([0, 1, 2, 3, 3])}, "4 rows for 3"),
        ({"tenants": np.array(["a", "b"])}, "2 names for 3"),
        ({"tenants": np.array(["a", "b", "a"])}, "2 names for 3"),
        ({"tenants": np.array([{}, {}, {}], object)}, "pickle"),
    ],
)
def test_a_matrix_that_contradicts_itself_is_refused(tmp_path, arrays, named):
    with pytest.raises(BadInput, match=named):
        read_matrix(spoil(tmp_path, **arrays), 3)


def test_no_part_of_a_matrix_may_be_missing(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x05\x06" + bytes(18))
    with pytest.raises(BadInput, match="no array"):
        read_matrix(tmp_path / "a.npz", 3)
    (tmp_path / "a.npz").write_bytes(b"text")
    with pytest.raises(BadInput):
        read_matrix(tmp_path / "a.npz", 3)
