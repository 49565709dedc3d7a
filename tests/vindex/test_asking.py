"""Queries from files are answered in order, each as its own tenant, the same as records and as arrays."""

import json

import numpy as np
import pytest

from llmsys.errors import BadInput, UsageFault
from llmsys.vindex import Index
from llmsys.vindex.asking import PIECE, Asker, answer, chosen_effort, chosen_threads, write_answers
from llmsys.vindex.scan import Effort


def asker(index, **fields):
    return Asker(**({"index": index, "k": 4, "where": None, "recall": None, "effort": None} | fields))


def asked(index, queries, *, tenant=None, tenants=None, everything=False, **fields):
    how = {"tenant": tenant, "tenants": tenants, "everything": everything}
    return list(answer(asker(index, **fields), str(queries), **how))


@pytest.fixture
def lines(tmp_path, built):
    """Three queries in a file, as t0, t1 and t2."""
    path = tmp_path / "q.jsonl"
    rows = [{"id": f"q{row}", "vector": built[1][row].tolist(), "tenant": f"t{row}"} for row in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_each_line_is_answered_as_its_own_tenant(built, lines):
    found = asked(built[0], lines)

    assert [(one["query"], one["tenant"]) for one in found] == [("q0", "t0"), ("q1", "t1"), ("q2", "t2")]
    for one in found:
        assert all(one["tenant"] in built[2][row] for row in one["ids"])


def test_tenants_may_stand_in_a_file_of_their_own(built, lines, tmp_path):
    (tmp_path / "tenants").write_text("t2\nt1\nt0\n")

    found = asked(built[0], lines, tenants=str(tmp_path / "tenants"))

    assert [one["tenant"] for one in found] == ["t2", "t1", "t0"]
    for text in ("t2\nt1\n", "t2\nt1\nt0\nt4\n"):
        (tmp_path / "tenants").write_text(text)
        with pytest.raises(BadInput, match="one for each"):
            asked(built[0], lines, tenants=str(tmp_path / "tenants"))


@pytest.mark.parametrize(
    "two",
    [{"tenant": "a", "everything": True}, {"tenant": "a", "tenants": "f"}, {"tenants": "f", "everything": True}],
)
def test_two_ways_to_say_the_tenant_contradict_each_other(built, lines, two):
    with pytest.raises(UsageFault, match="contradict"):
        asked(built[0], lines, **two)


def test_a_query_without_a_tenant_sees_everything_only_where_that_is_said(built, tmp_path):
    np.save(tmp_path / "q.npy", built[1][:2])

    with pytest.raises(BadInput, match="query 0: no tenant"):
        asked(built[0], tmp_path / "q.npy")
    found = asked(built[0], tmp_path / "q.npy", everything=True)
    assert [(one["query"], one["tenant"], one["ids"][0]) for one in found] == [(0, None, 0), (1, None, 1)]


@pytest.mark.parametrize("count", [0, 1, PIECE - 1, PIECE, PIECE + 1])
def test_pieces_of_a_file_join_without_a_seam(built, tmp_path, count):
    index, vectors, _ = built
    np.save(tmp_path / "q.npy", np.tile(vectors, (4, 1))[:count])

    wrote = write_answers(
        asker(index), str(tmp_path / "q.npy"), tmp_path / "out", tenant="t0", tenants=None, everything=False
    )

    ids, distances = np.load(tmp_path / "out" / "ids.npy"), np.load(tmp_path / "out" / "distances.npy")
    assert (wrote, ids.shape, distances.shape) == (count, (count, 4), (count, 4))
    found = asked(index, tmp_path / "q.npy", tenant="t0")
    assert ids.tolist() == [one["ids"] for one in found]
    assert distances.tolist() == [[float(number) for number in one["distances"]] for one in found]


def test_text_ids_are_written_line_by_line(tmp_path):
    with Index.build(tmp_path / "idx", np.eye(3), ["a", "b", "c"], [["t"], ["t"], []]) as index:
        np.save(tmp_path / "q.npy", np.eye(3)[:2])
        how = {"tenant": "t", "tenants": None, "everything": False}
        write_answers(asker(index), str(tmp_path / "q.npy"), tmp_path / "out", **how)

    assert (tmp_path / "out" / "ids.jsonl").read_text() == '["a","b"]\n["b","a"]\n'
    assert np.isnan(np.load(tmp_path / "out" / "distances.npy")[:, 2:]).all()


def test_a_distance_bounds_what_is_answered(built, lines):
    far = asked(built[0], lines)
    limit = float(far[0]["distances"][1])

    near = asked(built[0], lines, max_distance=limit)

    for whole, cut in zip(far, near, strict=True):
        kept = [one for one, gap in zip(whole["ids"], whole["distances"], strict=True) if gap <= limit]
        assert cut["ids"] == kept


def test_an_explanation_says_which_search_it_was_and_what_it_looked_at(built, lines):
    exact, *_ = asked(built[0], lines, explain=True)
    fast, *_ = asked(built[0], lines, explain=True, effort=Effort(5, 1))
    visible = sum("t0" in names for names in built[2])

    assert (exact["path"], exact["scanned"], exact["visible"]) == ("exact", visible, visible)
    assert (fast["path"], fast["width"], fast["patience"]) == ("best-first", 5, 1)
    assert fast["scanned"] <= visible


def test_a_wish_without_a_plan_is_said_and_two_wishes_are_refused(built):
    said = []
    how = {"k": 10, "recall": 0.95, "warn": said.append}

    assert chosen_effort(built[0], exact=False, effort=None, **how) is None
    assert "tune" in said.pop()
    assert chosen_effort(built[0], exact=True, effort=None, **how) is None
    assert chosen_effort(built[0], exact=False, effort=3, **how) == Effort.level(3, 10)
    assert said == []
    with pytest.raises(UsageFault, match="contradict"):
        chosen_effort(built[0], exact=True, effort=3, **how)


def test_threads_are_those_asked_for_or_all_that_there_are():
    assert chosen_threads(3) == 3
    assert chosen_threads(0) >= 1
