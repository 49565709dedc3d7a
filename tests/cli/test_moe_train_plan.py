"""`llmsys moe-train plan` as a user runs it: the installed command on real loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures" / "moe-train"
LOADS = FIXTURES / "eplb-loads.jsonl"


def llmsys(*args, given=None):
    command = [sys.executable, "-m", "llmsys", "moe-train", *map(str, args)]
    # the answers are tiny; threads of a BLAS library would only wait for each other
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, input=given, capture_output=True, check=False, env=environment)


def records(run):
    assert run.returncode == 0, run.stderr.decode()
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The plan of ten nodes with four slots, as `plan` prints it."""
    path = tmp_path_factory.mktemp("plan") / "plan.jsonl"
    path.write_bytes(llmsys("plan", LOADS, "--nodes", 10, "--slots", 4).stdout)
    return path


def test_a_plan_places_every_replica_and_says_what_it_survives(planned):
    *layers, model = map(json.loads, planned.read_text().splitlines())

    assert [record["event"] for record in (*layers, model)] == ["layer", "layer", "model"]
    for layer in layers:
        held = [expert for node in layer["nodes"] for expert in node]
        assert [held.count(expert) for expert in range(12)] == layer["replicas"]
        assert sum(layer["replicas"]) == 40
        assert layer["recovery"]["1"] == 1.0
        assert all(layer["recovery"][k] <= bound + 1e-6 for k, bound in layer["bound"].items())
        assert layer["optimal"] in (True, "unknown")
        for expert, shares in layer["split"].items():
            assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
            assert all(int(expert) in layer["nodes"][int(node)] for node in shares)
    assert model["node_ids"] == list(range(10))
    assert model["joint_recovery"]["2"] <= min(layer["recovery"]["2"] for layer in layers)
    assert model["balance"] >= 1.0


def test_losses_and_joins_move_only_what_is_missing(planned):
    found = records(llmsys("plan", LOADS, "--slots", 4, "--from", planned, "--lost", "3,7", "--add", 1))
    old = [json.loads(line)["nodes"] for line in planned.read_text().splitlines()[:2]]
    moves, model = [record for record in found if record["event"] == "move"], found[-1]
    new = [record["nodes"] for record in found if record["event"] == "layer"]

    assert model["node_ids"] == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert model["moves"] == len(moves) > 0
    assert model["bytes"] == sum(move["bytes"] for move in moves)
    assert {move["bytes"] for move in moves} == {63 * 2**20}
    for move in moves:
        assert move["from"] not in (3, 7, 10)
        assert move["expert"] in old[move["layer"]][move["from"]]
    for layer in range(2):
        for column, node in enumerate(model["node_ids"]):
            before = set(old[layer][node]) if node < 10 else set()
            fetched = {move["expert"] for move in moves if (move["layer"], move["to"]) == (layer, node)}
            assert fetched == set(new[layer][column]) - before


def test_a_plan_from_its_own_output_moves_nothing(planned):
    found = records(llmsys("plan", LOADS, "--slots", 4, "--from", "-", given=planned.read_bytes()))

    assert (found[-1]["moves"], found[-1]["bytes"]) == (0, 0)


def test_losing_every_holder_of_an_expert_fails_and_names_it(planned):
    layer = json.loads(planned.read_text().splitlines()[0])
    rare = layer["replicas"].index(2)
    holders = ",".join(str(node) for node, held in enumerate(layer["nodes"]) if rare in held)
    run = llmsys("plan", LOADS, "--slots", 4, "--from", planned, "--lost", holders)

    assert run.returncode == 1
    assert f"no living node holds layer 0 expert {rare}".encode() in run.stderr


def test_compare_shows_every_method_and_marks_what_nothing_dominates():
    run = llmsys("plan", LOADS, "--nodes", 8, "--slots", 4, "--compare", "--json", "--k", "1,2")
    rows = {record["method"]: record for record in records(run) if record["event"] == "method"}

    assert {"best", "mro", "spread", "compact", "eplb"} <= set(rows)
    assert rows["best"]["objective"] >= max(rows["mro"]["objective"], rows["spread"]["objective"])
    assert rows["best"]["objective"] == pytest.approx(sum(rows["best"]["joint_recovery"].values()) / 2)
    for row in rows.values():
        beaten = any(
            other["objective"] >= row["objective"]
            and other["balance"] <= row["balance"]
            and (other["objective"] > row["objective"] or other["balance"] < row["balance"])
            for other in rows.values()
        )
        assert row["front"] is not beaten


def test_compare_draws_a_table_for_people():
    run = llmsys("plan", LOADS, "--nodes", 8, "--slots", 4, "--compare")

    assert b"compact" in run.stderr
    assert len(records(run)) == 3


def test_best_beats_the_literal_theorem_on_its_smallest_counterexample():
    loads = b'{"layer":0,"load":[5,5,5]}\n'
    chance = {
        method: records(llmsys("plan", "-", "--nodes", 3, "--slots", 2, "--placement", method, given=loads))[-1]
        for method in ("mro", "best")
    }

    assert chance["mro"]["joint_recovery"]["1"] == pytest.approx(2 / 3, abs=1e-5)
    assert chance["best"]["joint_recovery"]["1"] == 1.0


def test_racks_are_what_fails(tmp_path):
    racks = tmp_path / "racks.json"
    racks.write_text(json.dumps({str(node): f"rack-{node // 2}" for node in range(6)}))
    apart = records(llmsys("plan", LOADS, "--nodes", 6, "--slots", 6, "--k", "1", "--domains", racks))

    assert apart[-1]["joint_recovery"] == {"1": 1.0}
    assert apart[0]["bound"] == {}
    for layer in apart[:-1]:
        for expert in range(12):
            assert len({node // 2 for node, held in enumerate(layer["nodes"]) if expert in held}) >= 2


def test_a_threshold_that_the_slots_do_not_allow_is_lowered_with_a_warning():
    run = llmsys("plan", LOADS, "--nodes", 4, "--slots", 3, "--min-replicas", 3)

    assert records(run)[-1]["min_replicas"] == 1
    assert b"warning: --min-replicas 3 lowered to 1: 4 nodes of 3 slots for 12 experts allow no more" in run.stderr


def test_too_few_slots_are_bad_data_and_say_the_least():
    run = llmsys("plan", LOADS, "--nodes", 4, "--slots", 2)

    assert run.returncode == 65
    assert b"4 nodes with 2 slots each cannot hold 12 experts; expected at least 3 slots a node" in run.stderr


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b'{"layer":0,"load":[]}', b"stdin:1: "),
        (b'{"layer":0,"load":[1,-2]}', b"stdin:1: "),
        (b'{"layer":0,"load":[1,NaN]}', b"stdin:1: "),
        (b'{"layer":0,"load":[1,2.5]}', b"stdin:1: "),
        (b'{"layer":1,"load":[1,2]}', b"stdin:1: layer 1; expected layer 0"),
        (b'{"layer":0,"load":[1,2]}\n{"layer":1,"load":[1]}', b"stdin:2: 1 experts in layer 1; expected 2"),
        (b"", b"stdin: no layer"),
    ],
)
def test_loads_that_are_none_are_named_by_line(line, wrong):
    run = llmsys("plan", "-", "--nodes", 2, "--slots", 2, given=line)

    assert run.returncode == 65
    assert b"llmsys moe-train plan: error: " + wrong in run.stderr


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ((), b"give --nodes N, or --from PLAN"),
        (("--nodes", 4, "--lost", "1"), b"give --nodes N, or --from PLAN"),
        (("--nodes", 4, "--k", "4"), b"--k 4"),
        (("--nodes", 4, "--k", "one"), b"--k 'one'"),
        (("--nodes", 4, "--mtbf", "soon"), b"--mtbf 'soon' is no time"),
        (("--nodes", 4, "--placement", "worst"), b"'worst' is not one of best"),
    ],
)
def test_options_that_do_not_fit_are_usage_faults(options, wrong):
    run = llmsys("plan", LOADS, *options)

    assert run.returncode == 2
    assert wrong in run.stderr


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_cut_plan_is_bad_data(planned, tmp_path, cut):
    part = tmp_path / "part.jsonl"
    part.write_bytes(b"".join(planned.read_bytes().splitlines(keepends=True)[:cut]))
    run = llmsys("plan", LOADS, "--slots", 4, "--from", part)

    assert run.returncode == 65
    assert f"{part}: {cut} layers and no model record".encode() in run.stderr


def test_a_plan_that_does_not_hold_its_replicas_is_bad_data(planned, tmp_path):
    lines = [json.loads(line) for line in planned.read_text().splitlines()]
    lines[1]["nodes"][0][0] = (lines[1]["nodes"][0][0] + 1) % 12
    bad = tmp_path / "bad.jsonl"
    bad.write_text("\n".join(map(json.dumps, lines)))
    run = llmsys("plan", LOADS, "--slots", 4, "--from", bad)

    assert run.returncode == 65
    assert f"{bad}:2: nodes that do not hold the replicas".encode() in run.stderr


def test_a_reader_that_leaves_ends_the_verb_quietly():
    command = f"{sys.executable} -m llmsys moe-train plan {LOADS} --nodes 200 --slots 6 -q | head -c 10"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False)

    assert run.returncode == 0
    assert run.stderr == b""
