"""`llmsys moe-train simulate` as a user runs it: the installed command on real traces."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures" / "moe-train"
BAMBOO = FIXTURES / "bamboo-aws-p3.csv"
GCP = FIXTURES / "bamboo-gcp-a100.txt"
LOADS = FIXTURES / "eplb-loads.jsonl"


def simulate(*args):
    command = [sys.executable, "-m", "llmsys", "moe-train", "simulate", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, check=False, env=environment)


def summaries(run):
    assert run.returncode == 0, run.stderr.decode()
    found = [json.loads(line) for line in run.stdout.splitlines()]
    return {record["policy"]: record for record in found if record.get("event") == "summary"}


@pytest.fixture(scope="module")
def spot():
    """Every policy on the whole real trace, ten nodes at most."""
    return simulate("--trace", BAMBOO, "--policies", "all", "--loads", LOADS)


def test_every_policy_runs_the_real_trace_and_accounts_for_its_time(spot):
    found = summaries(spot)

    assert len(found) == 12
    assert set(found["best"]["breakdown"]) == {"compute", "ckpt", "restart", "reconfigure", "idle"}
    for one in found.values():
        assert sum(one["breakdown"].values()) == pytest.approx(40_920)
        assert one["goodput"] == pytest.approx(one["samples"] / 40_920)
        assert one["samples"] <= found["ideal"]["samples"]
        assert one["node_events"] == 343  # the last machine leaves at the very end
        assert one["samples_interval"] is None


def test_in_place_recovery_on_all_nodes_outruns_restarts(spot):
    found = summaries(spot)

    assert found["lazarus"]["samples"] > 2 * found["ds"]["samples"]
    assert found["best"]["samples"] >= 0.99 * found["lazarus"]["samples"]
    assert found["ds-ft"]["samples"] > found["ds"]["samples"]


def test_a_timeline_comes_before_its_summary_and_never_runs_backwards(spot):
    policy, last = None, -1.0
    for record in map(json.loads, spot.stdout.splitlines()):
        if record.get("event") == "summary":
            assert record["policy"] == policy
            policy, last = None, -1.0
            continue
        assert set(record) == {"policy", "t_s", "nodes", "samples"}
        assert policy in (None, record["policy"])
        assert record["t_s"] >= last
        assert record["nodes"] <= 10
        policy, last = record["policy"], record["t_s"]


def test_people_see_a_table_and_what_each_policy_is_a_model_of(spot):
    assert b"means over trials" in spot.stderr
    assert b"oobleck-like: a model of Oobleck from its paper" in spot.stderr


def test_drawn_failures_come_with_intervals_and_repeat_by_seed():
    options = ("--mtbf", "5m", "--arrivals", "fixed", "--horizon", "30m", "--trials", 4, "--json")
    once, again, other = simulate(*options), simulate(*options), simulate(*options, "--seed", 9)
    found = summaries(once)

    assert once.stdout == again.stdout != other.stdout
    assert b"means" not in once.stderr
    low, high = found["ds"]["samples_interval"]
    assert low <= found["ds"]["samples"] <= high
    assert found["best"]["samples"] > 4 * found["ds"]["samples"]


def test_a_horizon_past_the_trace_draws_blocks_of_it():
    found = summaries(simulate("--trace", BAMBOO, "--horizon", "3d", "--trials", 3, "--policies", "ds,lazarus"))

    assert found["ds"]["trials"] == 3
    assert sum(found["ds"]["breakdown"].values()) == pytest.approx(3 * 86_400)
    assert found["lazarus"]["samples_interval"][0] > found["ds"]["samples_interval"][1]


@pytest.mark.parametrize("victims", ["newest", "random"])
def test_counts_of_another_provider_are_followed(victims):
    run = simulate("--trace", GCP, "--nodes", 12, "--policies", "ds,ds-ft", "--victims", victims, "--trials", 2)

    assert summaries(run)["ds"]["trials"] == (2 if victims == "random" else 1)


def test_json_counts_of_a_gap_are_followed(tmp_path):
    path = tmp_path / "spot.json"
    path.write_text(json.dumps({"metadata": {"gap_seconds": 300}, "data": [0, 6, 6, 5, 9, 9]}))
    found = summaries(simulate("--trace", path, "--policies", "best", "--start", "5m"))

    assert found["best"]["reconfigures"] >= 1


def test_costs_of_a_file_change_what_is_simulated(tmp_path):
    cost = tmp_path / "cost.json"
    cost.write_text(json.dumps({"restart_s": 1, "reconfigure_s": {"*": 500}}))
    options = ("--mtbf", "5m", "--horizon", "1h", "--trials", 2, "--policies", "ds,ds-ft", "--cost", cost)
    found = summaries(simulate(*options))

    assert found["ds"]["samples"] > found["ds-ft"]["samples"]


@pytest.mark.parametrize("ending", ["svg", "png", "html"])
def test_a_figure_shows_every_policy(tmp_path, ending):
    pytest.importorskip("plotly" if ending == "html" else "matplotlib")
    out = tmp_path / f"samples.{ending}"
    run = simulate("--mtbf", "10m", "--horizon", "1h", "--trials", 1, "--policies", "ideal,ds", "--plot", out)

    assert run.returncode == 0, run.stderr.decode()
    assert out.stat().st_size > 5_000


@pytest.mark.parametrize(
    ("options", "code", "wrong"),
    [
        ((), 2, b"give either --trace FILE or --mtbf TIME"),
        (("--trace", BAMBOO, "--mtbf", "5m"), 2, b"give either"),
        (("--trace", BAMBOO, "--start", "12h"), 2, b"not within the trace"),
        (("--mtbf", "5m", "--policies", "deepspeed"), 2, b"expected all, or different ones of ideal, lazarus"),
        (("--mtbf", "often"), 2, b"--mtbf 'often' is no time"),
        (("--trace", FIXTURES / "eplb-loads.jsonl"), 65, b"eplb-loads.jsonl:1: "),
        (("--mtbf", "5m", "--loads", BAMBOO), 65, b"bamboo-aws-p3.csv:1: "),
        (("--mtbf", "5m", "--cost", BAMBOO), 65, b"bamboo-aws-p3.csv: "),
    ],
)
def test_inputs_that_do_not_fit_are_named(options, code, wrong):
    run = simulate(*options)

    assert run.returncode == code
    assert b"llmsys moe-train simulate: error: " in run.stderr
    assert wrong in run.stderr
