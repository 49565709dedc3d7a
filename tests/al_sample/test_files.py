"""Pools, bases and label lines from files: every format, and what hostile ones are told."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.al_sample import (
    BudgetTooSmall,
    RankDeficient,
    open_design,
    open_pool,
    pool_of,
    read_column,
    read_excluded,
    read_labels,
    read_selection,
    resolve_basis,
    select,
    selection_lines,
)
from llmsys.artifacts import encode, write_vectors
from llmsys.errors import BadInput, UsageFault

POINTS = np.arange(12, dtype=np.float32).reshape(4, 3) ** 2


@pytest.fixture
def pool():
    return pool_of(np.random.default_rng(0).standard_normal((30, 2)))


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.mark.parametrize("name", ["pool.npy", "pool.safetensors", "pool.fvecs", "pool.jsonl"])
def test_a_pool_is_the_same_from_every_format(tmp_path, name):
    write_vectors(tmp_path / name, POINTS)
    opened = open_pool(str(tmp_path / name))

    np.testing.assert_array_equal(opened.values, POINTS)
    assert opened.checksum() == pool_of(POINTS).checksum()
    assert opened.id_of(2) == "2"


@pytest.mark.parametrize("compress", [False, True])
def test_a_pool_is_found_by_its_key_in_an_archive(tmp_path, compress):
    path = tmp_path / "pool.npz"
    (np.savez_compressed if compress else np.savez)(path, a=POINTS, b=POINTS[:2])

    np.testing.assert_array_equal(open_pool(f"{path}:b").values, POINTS[:2])
    with pytest.raises(BadInput, match="one of a, b"):
        open_pool(str(path))
    with pytest.raises(BadInput, match="no array 'c'"):
        open_pool(f"{path}:c")


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"x" * 200])
def test_a_damaged_archive_is_told(tmp_path, damage):
    path = tmp_path / "pool.npz"
    path.write_bytes(damage)

    with pytest.raises(BadInput, match="npz"):
        open_pool(str(path))


@given(st.integers(0, 400), st.integers(0, 255))
def test_an_archive_with_one_byte_changed_is_read_or_refused(tmp_path_factory, at, byte):
    path = tmp_path_factory.mktemp("npz") / "pool.npz"
    np.savez(path, a=POINTS)
    content = bytearray(path.read_bytes())
    content[at % len(content)] = byte
    path.write_bytes(bytes(content))
    try:
        opened = open_pool(f"{path}:a")
    except BadInput:
        return

    assert opened.values.ndim == 2


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros((3, 0)), np.zeros(3), np.array([["a"]])])
def test_a_pool_is_a_table_of_numbers(values):
    with pytest.raises(BadInput, match="expected numbers of shape"):
        pool_of(values)


def test_ids_name_the_points(tmp_path):
    np.save(tmp_path / "pool.npy", POINTS)
    (tmp_path / "ids").write_text("a\nb\nc\nd\n")

    assert open_pool(str(tmp_path / "pool.npy"), ids=tmp_path / "ids").id_of(3) == "d"


@pytest.mark.parametrize(("ids", "wrong"), [("a\nb\n", "2 ids"), ("a\nb\nc\na\n", "second time")])
def test_ids_that_do_not_fit_are_refused(tmp_path, ids, wrong):
    np.save(tmp_path / "pool.npy", POINTS)
    (tmp_path / "ids").write_text(ids)

    with pytest.raises(BadInput, match=wrong):
        open_pool(str(tmp_path / "pool.npy"), ids=tmp_path / "ids")


def test_a_checksum_sees_another_shape_and_other_numbers():
    other = POINTS.copy()
    other[3, 2] += 1

    assert len({pool_of(values).checksum() for values in (POINTS, other, POINTS.T, POINTS[:3])}) == 4


def test_a_column_comes_from_text_or_from_npy(tmp_path):
    (tmp_path / "w.txt").write_text("1\n2.5\n0\n")
    np.save(tmp_path / "w.npy", np.array([1, 2.5, 0]))

    assert read_column(tmp_path / "w.txt", 3).tolist() == [1, 2.5, 0]
    assert read_column(tmp_path / "w.npy", 3).tolist() == [1, 2.5, 0]


@pytest.mark.parametrize(
    ("text", "wrong"), [("1\n2\n", "shape"), ("1\n-1\n1\n", "row 1"), ("1\nnan\n1\n", "row 1"), ("1\nx\n1\n", ":2")]
)
def test_a_column_that_does_not_fit_is_refused(tmp_path, text, wrong):
    (tmp_path / "w.txt").write_text(text)

    with pytest.raises(BadInput, match=wrong):
        read_column(tmp_path / "w.txt", 3)


def test_a_price_of_nothing_is_refused(tmp_path):
    (tmp_path / "w.txt").write_text("1\n0\n")

    with pytest.raises(BadInput, match="above 0"):
        read_column(tmp_path / "w.txt", 2, positive=True)


def test_weights_that_are_all_nothing_are_refused(tmp_path):
    np.save(tmp_path / "pool.npy", POINTS)
    np.save(tmp_path / "w.npy", np.zeros(4))

    with pytest.raises(BadInput, match="all 0"):
        open_design(str(tmp_path / "pool.npy"), weights=tmp_path / "w.npy")


@pytest.mark.parametrize("basis", ["legendre:3", "chebyshev:3"])
def test_a_polynomial_basis_is_orthonormal_under_its_own_measure(basis):
    x = (np.arange(20_000) + 0.5) / 20_000 * 2 - 1
    x = np.cos(np.pi * (x + 1) / 2) if basis.startswith("chebyshev") else x
    pool = pool_of(np.r_[-1.0, x, 1.0][:, None])
    values = resolve_basis(basis, pool)(pool.values)[1:-1]

    assert values.shape[1] == 4
    np.testing.assert_allclose(values.T @ values / 20_000, np.eye(4), atol=1e-3)


def test_characters_are_orthonormal_on_a_grid():
    pool = pool_of(np.linspace(0, 1, 257)[:, None])
    values = resolve_basis("fourier:4", pool)(pool.values)[:-1]

    np.testing.assert_allclose(values.T @ values / 256, np.eye(9), atol=1e-12)


def test_monomials_of_two_inputs_are_all_those_up_to_the_degree():
    pool = pool_of(np.array([[2.0, 3.0], [5.0, 7.0]]))

    assert resolve_basis("poly:2", pool)(pool.values)[0].tolist() == [1, 2, 3, 4, 6, 9]


def test_random_features_approach_their_kernel():
    x = np.random.default_rng(0).standard_normal((20, 3))
    pool = pool_of(x)
    values = resolve_basis("rff:8000:1.5", pool, intercept=False)(x)
    distances = np.square(x[:, None] - x[None]).sum(axis=2)

    np.testing.assert_allclose(values @ values.T / 8000, np.exp(-distances / (2 * 1.5**2)), atol=0.08)


def test_an_intercept_comes_first_unless_a_column_is_constant_already():
    plain, constant = np.eye(3) + 1, np.column_stack([np.eye(3), np.full(3, 2.0)])

    assert resolve_basis("linear", pool_of(plain)).intercept
    assert not resolve_basis("linear", pool_of(constant)).intercept
    assert not resolve_basis("linear", pool_of(plain), intercept=False).intercept
    assert resolve_basis("linear", pool_of(plain))(plain)[:, 0].tolist() == [1, 1, 1]


def test_a_basis_of_the_users_own_is_called(tmp_path, pool):
    path = tmp_path / "mine.py"
    path.write_text("import numpy as np\ndef f(x):\n    return np.exp(x)\ndef bad(x):\n    return 3\n")
    values = resolve_basis(f"{path}:f", pool)(pool.values)

    np.testing.assert_allclose(values[:, 1:], np.exp(pool.values))
    with pytest.raises(UsageFault, match="no function 'g'"):
        resolve_basis(f"{path}:g", pool)
    with pytest.raises(UsageFault, match="returned shape"):
        resolve_basis(f"{path}:bad", pool)
    with pytest.raises(UsageFault, match="no such Python file"):
        resolve_basis(f"{tmp_path}/other.py:f", pool)


@pytest.mark.parametrize(
    "spec", ["cubic", "poly", "poly:0", "poly:x", "linear:2", "rff:3", "rff:3:0", "rff:3:inf", "poly:2:2"]
)
def test_an_unknown_basis_is_refused(spec, pool):
    with pytest.raises(UsageFault, match="expected linear"):
        resolve_basis(spec, pool)


def test_a_basis_that_would_be_enormous_is_refused_before_it_is_made():
    with pytest.raises(UsageFault, match="at most 8192"):
        resolve_basis("poly:9", pool_of(np.ones((2, 500))))


def test_a_basis_refuses_points_of_another_dimension(pool):
    with pytest.raises(ValueError, match=r"expected \[n, 2\]"):
        resolve_basis("linear", pool)(np.ones((3, 5)))


def test_a_selection_reads_back_as_it_was_written(tmp_path, pool):
    design = open_design_of(pool)
    chosen = select(design, 10, "bss")
    path = tmp_path / "todo.jsonl"
    path.write_bytes(b"".join(encode(line) for line in selection_lines(pool, chosen, with_x=True)))
    lines = read_selection(str(path), pool)

    assert [line.index for line in lines] == chosen.index.tolist()
    assert [line.weight for line in lines] == chosen.weight.tolist()
    assert [line.x for line in lines] == pool.values[chosen.index].tolist()
    assert read_excluded(str(path), pool).tolist() == chosen.index.tolist()


def open_design_of(pool):
    from llmsys.al_sample import design_of

    return design_of(pool, resolve_basis("linear", pool))


def test_labels_are_averaged_and_refusals_counted(tmp_path, pool):
    path = write_lines(
        tmp_path / "labels.jsonl",
        {"index": 4, "weight": 2.0, "y": 1, "note": "unknown fields pass"},
        {"index": 1, "weight": 3.0, "y": 5, "p": 0.5},
        {"index": 4, "weight": 2.0, "y": 2},
        {"index": 9, "weight": 1.0, "y": None},
    )
    found = read_labels(path, pool)

    assert found.index.tolist() == [1, 4]
    assert found.y.tolist() == [[5.0], [1.5]]
    assert found.weight.tolist() == [3.0, 2.0]
    assert found.p.tolist() == [0.5, 0.0]
    assert (found.repeats.tolist(), found.refused) == ([1, 2], 1)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ({"index": 30, "y": 1}, "a row of the pool, 0 to 29"),
        ({"index": -1, "y": 1}, "a row of the pool"),
        ({"index": 2, "y": 1, "weight": 0}, "above 0"),
        ({"index": 2, "y": 1, "pool": "0123456789abcdef"}, "made from this pool"),
        ({"index": 2, "y": [1, 2]}, "1, as before"),
        ({"index": 0, "y": 1, "weight": 9}, "the weight 1.0 of before"),
        ({"index": 2, "y": []}, "finite numbers"),
        ({"index": 2, "y": "high"}, "`str`"),
        ({"index": 2}, "missing required field"),
        ({"y": 2}, "missing required field"),
    ],
)
def test_a_bad_label_is_named_with_its_line_or_skipped(tmp_path, pool, line, wrong):
    path = write_lines(tmp_path / "labels.jsonl", {"index": 0, "y": 1}, line)
    skipped = []

    with pytest.raises(BadInput, match=wrong) as told:
        read_labels(path, pool)
    assert told.value.where == f"{path}:2"
    assert len(read_labels(path, pool, on_error="skip", on_skip=skipped.append)) == 1
    assert len(skipped) == 1


def test_files_without_a_line_are_refused(tmp_path, pool):
    path = write_lines(tmp_path / "empty.jsonl")

    with pytest.raises(BadInput, match="no label"):
        read_labels(path, pool)
    with pytest.raises(BadInput, match="no line"):
        read_selection(path, pool)


def test_a_selection_names_a_row_once(tmp_path, pool):
    path = write_lines(tmp_path / "twice.jsonl", {"index": 1, "weight": 1}, {"index": 1, "weight": 1})

    with pytest.raises(BadInput, match="second time"):
        read_selection(path, pool)


@pytest.mark.parametrize("error", [BudgetTooSmall(3, 9), RankDeficient("labels", 2, 4)])
def test_errors_cross_processes(error):
    import pickle

    again = pickle.loads(pickle.dumps(error))

    assert (type(again), str(again)) == (type(error), str(error))
