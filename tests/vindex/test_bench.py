"""The bench judges every contender by one truth, says what it left out, and calls no target reached that is not."""

import numpy as np
import pytest

from llmsys.errors import UsageFault
from llmsys.vindex.bench import PEER_NAMES, compare, pareto, shown
from llmsys.vindex.workload import Workload
from tests.vindex.conftest import random_access

FAISS = tuple(name for name in PEER_NAMES if name.startswith("faiss"))


@pytest.fixture(scope="module")
def found():
    generator = np.random.default_rng(4)
    vectors = generator.normal(size=(600, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    work = Workload(vectors[:560], random_access(generator, 560), vectors[560:], ["t0", "t1"] * 20)
    return compare(work, k=5, seed=0, peers=(*FAISS, "Curator's layout"))


def test_exact_contenders_reach_full_recall_over_every_selectivity(found):
    exact = [row for row in found.rows if row.setting in ("exact", "", "nprobe 8", "ef 512", "ef 1024")]

    assert {row.visible for row in found.rows} == {"own tenants", *(f"{n} of 560" for n in (1, 10, 100, 560))}
    assert {row.recall for row in exact} == {1.0}
    assert {row.system for row in exact} == {"vindex", "vindex, a call each", *FAISS, "Curator's layout"}


def test_one_call_and_many_calls_give_the_same_answers(found):
    recalls = {(row.system, row.setting, row.visible): row.recall for row in found.rows}

    for (system, setting, visible), recall in recalls.items():
        if system == "vindex":
            assert recalls["vindex, a call each", setting, visible] == recall


def test_every_figure_follows_from_the_others(found):
    for row in found.rows:
        assert row.qps == pytest.approx(1e6 / row.us_per_query)
        assert row.bytes_per_vector == pytest.approx(32 + row.overhead_mb * 1e6 / 560)
        assert row.times_limit is None or row.times_limit > 0
    fastest = min(row.us_per_query for row in found.rows if row.system == "vindex" and row.visible == "10 of 560")
    flat = next(row for row in found.rows if (row.system, row.visible) == (FAISS[0], "10 of 560"))
    assert flat.times_vindex == pytest.approx(flat.us_per_query / fastest)


def test_each_target_is_reached_exactly_if_the_figure_is_on_its_side(found):
    assert len(found.targets) == 13
    for target in found.targets:
        right = target.measured is not None and (
            target.measured <= target.wanted if target.at_most else target.measured >= target.wanted
        )
        assert target.reached == right
    missing = {target.target: target.measured for target in found.targets if target.measured is None}
    assert list(missing) == ["hnswlib per tenant takes at recall 0.95, times"]


def test_the_paper_s_layout_stands_beside_the_index_and_finds_more_with_more_effort(found):
    paper = [row for row in found.rows if (row.system, row.visible) == ("Curator's layout", "own tenants")]

    assert [row.setting for row in paper] == ["ef 64", "ef 128", "ef 256", "ef 512"]
    assert [row.recall for row in paper] == sorted(row.recall for row in paper)
    assert paper[-1].recall == 1


def test_what_was_not_compared_is_named_with_its_reason(found):
    assert "Curator's own library" in found.missing
    with pytest.raises(UsageFault, match="no peer 'annoy'"):
        compare(Workload(np.ones((2, 2), np.float32), [[], []], np.ones((1, 2), np.float32), ["a"]), k=1, seed=0,
                peers=["annoy"])  # fmt: skip


def test_a_plot_and_a_table_hold_what_the_rows_hold(found):
    lines = list(pareto(found.rows))

    assert [name for name, _, _ in lines] == list(dict.fromkeys(row.system for row in found.rows))
    assert all(recalls == sorted(recalls) and len(recalls) == len(us) for _, recalls, us in lines)
    assert [row["recall"] for row in shown(found.rows)] == [row.recall for row in found.rows]
