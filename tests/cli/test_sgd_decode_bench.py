"""`llmsys sgd-decode bench`: recorded plans against their optimum, routers against labels, modes against one piece."""

import json
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures" / "sgd-decode"


def test_recorded_plans_meet_the_targets_in_virtual_time(shell):
    run = shell.run("sgd-decode", "bench", "plans", str(FIXTURES / "plans.jsonl"))
    found = json.loads(run.stdout)

    assert run.returncode == 0
    assert found["worst_of_optimum"] <= 1.03
    assert found["mean_over_v1"] >= 1.29
    assert found["wide_speed_up"] >= 2.3
    assert found["prefill_below"] >= 0.75
    assert found["least_auto"] >= 0.97
    assert found["dependence"] == {"sgd": 1.0, "sgd-v1": 1.0, "sot": 0.0}
    assert "parts that see what they need: sgd 100%, sgd-v1 100%, sot 0%" in run.stderr


def test_step_times_and_slots_are_the_users(shell):
    args = ("sgd-decode", "bench", "plans", str(FIXTURES / "plans.jsonl"), "--json")
    narrow = json.loads(shell.run(*args, "--max-batch", "2", "--prefill-ms", "0").stdout)
    linear = json.loads(shell.run(*args, "--alpha-ms", "0", "--beta-ms", "10", "--prefill-ms", "0").stdout)
    wide = json.loads(shell.run(*args, "--prefill-ms", "0").stdout)

    assert narrow["wide_speed_up"] < wide["wide_speed_up"]
    assert linear["wide_speed_up"] < 1.0  # a batch that costs as much as its parts gains nothing, and a plan costs
    assert linear["least_auto"] >= 0.97


def test_routers_are_counted_beside_the_constant_guess(shell):
    (shell.directory / "s.jsonl").write_text('{"text": "A"}\n')
    labels = str(FIXTURES / "vicuna80.jsonl")
    run = shell.run("sgd-decode", "bench", "routers", labels, "--large", "script:s.jsonl", "--json")
    found = {row["router"]: row for row in json.loads(run.stdout)["routers"]}

    assert list(found) == ["constant", "labels", "model"]
    assert {row["questions"] for row in found.values()} == {80}
    assert found["model"]["recall"] == 1.0  # it always says A
    assert found["labels"]["accuracy"] > found["constant"]["accuracy"] - 0.05


def test_the_bench_of_a_script_is_in_its_own_time_and_by_category(shell):
    """The engine's bench on a backend of known speed: sgd's rate over ar's, and peers left out."""
    lines = (FIXTURES / "vicuna80.jsonl").read_text(encoding="utf-8").splitlines()
    coding = next(line for line in lines if json.loads(line)["category"] == "coding")
    chosen = [lines[0], lines[1], coding]
    (shell.directory / "q.jsonl").write_text("\n".join(chosen))
    plan = "\n".join(f"{number}. Part {number} | needs - | level 2" for number in range(1, 6)) + "\nend"
    rules = [
        {"match": {"contains": "Write an outline"}, "text": plan},
        {"match": {"contains": "about part"}, "tokens": 60},
        {"tokens": 5000},
    ]
    (shell.directory / "s.jsonl").write_text("".join(json.dumps(rule) + "\n" for rule in rules))
    args = ("--large", "script:s.jsonl", "--modes", "sgd,sgd-v1", "--no-peers", "--full", "--json")
    run = shell.run("sgd-decode", "bench", "engine", "q.jsonl", *args)
    found = json.loads(run.stdout)
    speeds = {(row["mode"], row["category"]): row for row in found["modes"]}

    assert run.returncode == 0
    assert list(speeds) == [(mode, group) for group in ("", "generic", "coding") for mode in ("sgd", "sgd-v1")]
    assert [row["questions"] for row in speeds.values()] == [3, 3, 2, 2, 1, 1]
    assert speeds["sgd", ""]["speed_up"] > 2
    assert speeds["sgd", ""]["speed_up"] > speeds["sgd-v1", ""]["speed_up"]
    assert all(row["ar_s"] == pytest.approx(row["answer_tokens"] * 0.0215) for row in found["rows"])
    assert "t(8) is 1.49 times t(1)" in run.stderr


@pytest.mark.parametrize("line", ['{"id": "a"}', "nonsense", '{"id": "a", "question": "q", "nodes": [{"id": 1}]}'])
def test_plans_that_are_none_are_told_with_their_place(shell, line):
    (shell.directory / "p.jsonl").write_text(line + "\n")
    run = shell.run("sgd-decode", "bench", "plans", "p.jsonl")

    assert run.returncode == 65
    assert "p.jsonl:1" in run.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("smollm2")
def test_the_embedded_model_is_measured_beside_its_peers(shell):
    args = ("--limit", "1", "--modes", "sgd", "--node-tokens", "8", "--max-nodes", "3", "--peer-tokens", "4", "--json")
    run = shell.run(
        *("sgd-decode", "bench", "engine", str(FIXTURES / "vicuna80.jsonl")), *args, env={"OMP_NUM_THREADS": "1"}
    )
    found = json.loads(run.stdout)

    assert run.returncode == 0
    assert found["step_time"]["alpha_s"] > 0
    assert [peer["peer"] for peer in found["peers"]] == ["transformers generate", "transformers prompt lookup"]
    assert found["modes"][0]["questions"] == 1
