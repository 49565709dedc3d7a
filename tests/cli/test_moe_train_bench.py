"""`llmsys moe-train bench` as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BAMBOO = Path(__file__).parents[2] / "fixtures" / "moe-train" / "bamboo-aws-p3.csv"


def bench(*args):
    command = [sys.executable, "-m", "llmsys", "moe-train", "bench", *map(str, args)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, check=False, env=environment)


def test_simulate_measures_the_papers_settings_against_its_figures():
    run = bench("--what", "simulate", "--trace", BAMBOO, "--json")
    found = json.loads(run.stdout)
    ratios = {(row["setting"], row["policy"]): row["× ds"] for row in found["rows"]}

    assert [target["bar"] for target in found["targets"]] == ["≥ 5.7", "≥ 3.4", "≥ 1e+06"]
    assert found["missing"] == {}
    assert ratios["failure every 5 min", "best"] == pytest.approx(found["targets"][0]["measured"])
    assert ratios["failure every 5 min", "best"] > 4
    assert ratios["spot trace, first 80 min", "best"] > 2.5


def test_dispatch_prints_its_target_for_people():
    run = bench("--what", "dispatch", "--runs", 3)

    assert run.returncode == 0
    assert b"dispatch table of 64x64, ms" in run.stderr
    assert json.loads(run.stdout)["rows"][0]["name"] == "schedule"


def test_a_missing_peer_is_named():
    assert b"not compared: spot trace: no file given" in bench("--what", "simulate").stderr


def test_a_peer_that_is_no_file_is_unavailable():
    run = bench("--what", "plan", "--eplb", "nowhere.py")

    assert run.returncode == 69
    assert b"no Python file nowhere.py; give DeepSeek's eplb.py with --eplb" in run.stderr


@pytest.mark.slow
def test_recover_beats_stopping_and_resuming():
    run = bench("--what", "recover", "--runs", 1, "--json")
    found = json.loads(run.stdout)
    rows = {row["what"]: row for row in found["rows"]}

    assert rows.keys() | found["missing"].keys() == {"in process (ours)", "stop and resume", "torchrun restart"}
    assert rows["stop and resume"]["p50_s"] > rows["in process (ours)"]["p50_s"] > 0


@pytest.mark.slow
def test_train_compares_groups_with_a_loop_and_steps_with_a_plain_trainers():
    run = bench("--what", "train", "--runs", 3, "--json")
    found = json.loads(run.stdout)

    assert len(found["rows"]) + len(found["missing"]) == 4
    assert all(row["ms"] > 0 for row in found["rows"])


@pytest.mark.slow
def test_calibrate_writes_costs_that_simulate_reads(tmp_path):
    run = bench("--what", "calibrate", "--runs", 1, "--out", tmp_path / "cost.json", "--json")
    cost = json.loads((tmp_path / "cost.json").read_text())
    options = ["--mtbf", "5m", "--horizon", "1h", "--nodes", "4", "--trials", "1", "--policies", "best", "--cost"]
    command = [sys.executable, "-m", "llmsys", "moe-train", "simulate", *options, str(tmp_path / "cost.json")]
    simulated = subprocess.run(command, capture_output=True, check=False, timeout=60)
    summary = json.loads(simulated.stdout.splitlines()[-1])

    assert {row["what"]: row["measured"] for row in json.loads(run.stdout)["rows"]}["sample_s"] == cost["sample_s"]
    assert summary["samples"] > 0
    assert summary["goodput"] < 1 / cost["sample_s"] * 4


def test_a_file_is_refused_where_nothing_writes_it(tmp_path):
    run = bench("--what", "plan", "--out", tmp_path / "cost.json")

    assert run.returncode == 2
    assert b"only --what calibrate writes a file" in run.stderr
