"""What is written for another store comes back whole, and damaged files are refused in one line."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.errors import BadInput
from llmsys.vindex.content import Content
from llmsys.vindex.interchange import FORMS, read, write

LANCE = pytest.mark.skipif(find_spec("lancedb") is None, reason="lancedb is not installed")
INSTALLED = [pytest.param(form, marks=LANCE if form == "lancedb" else ()) for form in FORMS]
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6)
ROWS = st.lists(
    st.tuples(
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), st.lists(NAMES, max_size=3, unique=True)
    ),
    min_size=1,
    max_size=6,
)


def content(rows, ids, metric):
    vectors = np.array([vector for vector, _ in rows], np.float32).reshape(len(rows), 3)
    return Content(vectors, ids, [tenants for _, tenants in rows], metric)


@pytest.mark.parametrize("form", INSTALLED)
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@settings(max_examples=15)
@given(rows=ROWS, text=st.booleans(), data=st.data())
def test_a_round_trip_keeps_everything(tmp_path_factory, form, metric, rows, text, data):
    kind = NAMES if text and form != "faiss" else st.integers(-(1 << 62), 1 << 62)
    ids = data.draw(st.lists(kind, min_size=len(rows), max_size=len(rows), unique=True))
    given_ = content(rows, ids, metric)
    place = tmp_path_factory.mktemp(form)

    write(form, given_, place)
    found = read(form, place)

    assert np.array_equal(found.vectors, given_.vectors)
    assert (found.ids, found.tenants) == (given_.ids, given_.tenants)
    assert found.metric in {metric, None} | ({"ip"} if form == "faiss" else set())


@pytest.mark.parametrize("form", INSTALLED)
def test_files_cut_short_are_refused(tmp_path, form):
    write(form, content([([1.0, 2.0, 3.0], ["a"])] * 3, [4, 5, 6], "l2"), tmp_path)
    for file in [path for path in tmp_path.rglob("*") if path.is_file()]:
        file.write_bytes(file.read_bytes()[:-9])

    with pytest.raises(BadInput):
        read(form, tmp_path)


@pytest.mark.parametrize("form", INSTALLED)
def test_a_directory_without_them_is_named(tmp_path, form):
    with pytest.raises(FileNotFoundError, match=r"\w"):
        read(form, tmp_path)


def test_faiss_takes_no_text_for_an_id(tmp_path):
    with pytest.raises(BadInput, match="integers"):
        write("faiss", content([([1.0, 2.0, 3.0], [])], ["one"], "l2"), tmp_path)


def test_qdrants_collection_marks_the_tenants_and_its_points_are_upserts(tmp_path):
    write("qdrant", content([([1.0, 2.0, 3.0], ["a", "b"])], ["doc"], "cosine"), tmp_path)

    assert json.loads((tmp_path / "collection.json").read_text()) == {"vectors": {"size": 3, "distance": "Cosine"}}
    assert json.loads((tmp_path / "index.json").read_text())["field_schema"] == {"type": "keyword", "is_tenant": True}
    (point,) = json.loads((tmp_path / "points.jsonl").read_text())["points"]
    assert point == {"id": 0, "vector": [1.0, 2.0, 3.0], "payload": {"tenants": ["a", "b"], "id": "doc"}}


@LANCE
def test_a_lance_table_is_one_that_lancedb_searches(tmp_path):
    rows = [([1.0, 0.0, 0.0], ["a"]), ([0.9, 0.1, 0.0], ["b"]), ([0.0, 1.0, 0.0], ["a", "b"])]
    write("lancedb", content(rows, [4, 5, 6], "cosine"), tmp_path)

    lancedb = pytest.importorskip("lancedb")
    table = lancedb.connect(tmp_path).open_table("vectors")
    found = table.search([1.0, 0.0, 0.0]).where("array_has(tenants, 'b')", prefilter=True).limit(3).to_arrow()

    assert found["id"].to_pylist() == [5, 6]
