"""An index that keeps float16 holds, finds and rebuilds the rounded vectors, and refuses what float16 cannot hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import BadInput, UsageFault
from llmsys.vindex import Index
from llmsys.vindex.check import check_index
from llmsys.vindex.compiled import half_value
from llmsys.vindex.exchange import export_lines
from llmsys.vindex.repair import repair_index
from tests.vindex.conftest import SMALL, brute_force, random_access


@given(st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7C00 != 0x7C00))
def test_every_finite_half_is_read_as_numpy_reads_it(bits):
    assert half_value(np.uint16(bits)) == np.uint16(bits).view(np.float16)


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_searches_are_exact_over_the_rounded_vectors_through_every_change(tmp_path, generator, metric):
    vectors = generator.normal(size=(300, 9)).astype(np.float32)
    with Index.build(tmp_path / "idx", vectors, access=[["a"]] * 300, metric=metric, dtype="f16", shape=SMALL) as index:
        index.add(generator.normal(size=(80, 9)), range(300, 380), [["a"]] * 80)
        index.delete(range(0, 50))
        index.compact(retrain=True)
        index.add(generator.normal(size=(20, 9)), range(0, 20), [["a"]] * 20)
    assert check_index(tmp_path / "idx", deep=True)[1] == []

    opened = Index.open(tmp_path / "idx")
    store, live = opened.state.store, opened.state.store.live_slots()
    held, ids = store.vectors[live].astype(np.float64), store.names(live)
    found = opened.search(vectors[:40], "a", k=7, recall=None)
    asked = vectors[:40].astype(np.float64)
    if metric == "cosine":  # a query has unit length, a rounded vector nearly
        asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    for row, query in enumerate(asked):
        right = brute_force(held, ids, query, 7, "ip" if metric == "cosine" else metric)
        assert found.row(row)[0] == right[0]
        np.testing.assert_allclose(found.row(row)[1], right[1], rtol=1e-5, atol=1e-5)
    assert (store.dtype, store.vectors.itemsize) == ("f16", 2)


def test_a_number_beyond_float16_is_refused_when_it_comes(tmp_path):
    with pytest.raises(BadInput, match="row 1: a number beyond float16"):
        Index.build(tmp_path / "idx", np.array([[1.0], [65520.0]]), metric="l2", dtype="f16")
    with Index.build(tmp_path / "idx", np.array([[1.0]]), metric="l2", dtype="f16") as index:
        with pytest.raises(BadInput, match="beyond float16"):
            index.add(np.array([[-7e4]]), [5])
        assert (len(index), index.seq) == (1, 0)
    with pytest.raises(UsageFault, match="f32, f16"):
        Index.build(tmp_path / "other", np.array([[1.0]]), dtype="int8")


def test_repair_and_snapshots_keep_the_format(tmp_path, generator):
    vectors, access = generator.normal(size=(120, 6)), random_access(generator, 120)
    with Index.build(tmp_path / "idx", vectors, access=access, metric="l2", dtype="f16", shape=SMALL) as index:
        index.snapshot(tmp_path / "copy")
    held = list(export_lines(Index.open(tmp_path / "idx"), None, None))
    codes = tmp_path / "idx" / "snap-1" / "codes.npy"
    codes.write_bytes(codes.read_bytes()[:-1] + b"?")

    repair_index(tmp_path / "idx")

    for name in ("idx", "copy"):
        opened = Index.open(tmp_path / name)
        assert opened.state.store.dtype == "f16"
        assert list(export_lines(opened, None, None)) == held
