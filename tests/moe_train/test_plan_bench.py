"""The bench of the planner: peers stand beside ours on the same loads, targets say what was measured."""

import numpy as np
import pytest
from hypothesis import given, settings

from llmsys.errors import Unavailable
from llmsys.moe_train import allocate, schedule, segment_sizes
from llmsys.moe_train.loads import zipf_loads
from llmsys.moe_train.plan_bench import PlanCase, Target, bench_dispatch, bench_plan, schedule_by_loop
from llmsys.moe_train.plan_peers import greedy_overlap, load_eplb
from tests.moe_train.brute import small_replicas

# what DeepSeek's file promises, at its simplest: replicas dealt in turn, one row of experts per layer
EPLB = """
import torch

def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    row = torch.arange(num_replicas) % weight.shape[1]
    return row.repeat(weight.shape[0], 1), None, None
"""


def test_a_case_has_a_row_per_planner_and_says_which_peer_is_missing(tmp_path):
    case = PlanCase(2, 6, 4, 3, target_ms=1e9)
    file = tmp_path / "eplb.py"
    file.write_text(EPLB)
    alone, beside = bench_plan(cases=[case], runs=1), bench_plan(cases=[case], runs=1, eplb=file)

    assert [row["planner"] for row in alone.rows] == ["best", "mro", "spread", "eplb", "greedy MRO"]
    assert alone.missing.keys() == {"EPLB"}
    assert [row["planner"] for row in beside.rows][-1] == "EPLB (file)"
    assert beside.missing == {}
    assert all(0 <= row["k=1"] <= 1 and row["balance lp"] <= row["balance equal"] + 1e-6 for row in beside.rows)
    assert [target.reached for target in beside.targets] == [True, True]


def test_a_file_that_is_no_eplb_is_unavailable(tmp_path):
    other = tmp_path / "other.py"
    other.write_text("x = 1\n")

    with pytest.raises(Unavailable, match="has no rebalance_experts"):
        load_eplb(other)
    with pytest.raises(Unavailable, match="no Python file"):
        load_eplb(tmp_path / "none.py")


@given(small_replicas())
@settings(max_examples=60)
def test_greedy_overlap_places_every_replica_and_spares_second_copies(case):
    replicas, nodes, slots = case
    placed = greedy_overlap(np.array(replicas), nodes, slots)

    assert placed.replicas().tolist() == replicas
    # the first group's experts go together, as in MRO
    first = segment_sizes(replicas, nodes, slots)[0][0]
    rarest = int(np.argsort(replicas, kind="stable")[0])
    assert placed.holders()[rarest].sum() == min(first, nodes) == min(replicas[rarest], nodes)


def test_the_loop_that_dispatch_is_measured_against_makes_the_same_table():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 9, (5, 7))
    cap = rng.permuted(tokens, axis=1)

    assert np.array_equal(schedule(tokens, cap), schedule_by_loop(tokens, cap))


def test_dispatch_is_shown_beside_the_loop_and_the_limit():
    found = bench_dispatch(experts=4, ranks=5, runs=2)

    assert [row["name"] for row in found.rows] == ["schedule", "Python loop", "zeros (limit)"]
    assert found.rows[-1]["× limit"] == 1.0


def test_targets_say_which_way_they_are_met():
    assert Target("time", 2.0, 1.0).row() == {"target": "time", "measured": 2.0, "bar": "≤ 1", "reached": False}
    assert Target("ratio", 2.0, 1.0, at_least=True).reached


def test_stand_in_loads_are_as_skewed_as_the_trace_that_they_stand_for():
    loads = zipf_loads(3, 32, tokens=1_000_000)
    shares = np.sort(loads, axis=1)[:, -2:].sum(axis=1) / loads.sum(axis=1)

    assert shares == pytest.approx(0.55, abs=0.02)
    assert len({tuple(row) for row in loads.tolist()}) == 3
    assert allocate(loads[0], 16, 6).sum() == 96
