"""`llmsys moe-train run, eval, export` as a user runs them: the installed command on CPython's own help texts."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("moe-train-run")  # the finished run is made once

LLMSYS = str(Path(sys.executable).with_name("llmsys"))
MODEL = json.dumps(
    {"layers": 2, "d_model": 32, "d_ff": 32, "heads": 2, "experts": 4, "top_k": 2, "act": "swiglu", "norm_topk": True}
)
SIZES = ("--model", MODEL, "--seq", "32", "--batch", "8", "--dtype", "float64", "--heartbeat", "30s")


def command(*args):
    return [LLMSYS, "moe-train", *map(str, args)]


def llmsys(*args, given=None):
    return subprocess.run(command(*args), input=given, capture_output=True, text=True, check=False, timeout=120)


def trained(*args, given=None):
    """The events of a run that worked."""
    run = llmsys("run", *SIZES, *args, given=given)
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def losses(events):
    return [event["loss"] for event in events if event["event"] == "step"]


def named(events, name):
    return [event for event in events if event["event"] == name]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of twelve steps that nothing disturbed, with checkpoints after four, eight and twelve, and its timeline."""
    out = tmp_path_factory.mktemp("run")
    trace = out / "timeline.json"
    settings = ("--steps", 12, "--ckpt-every", 4, "--workers", 2, "--slots", 4)
    events = trained(*settings, "--out", out / "run", "--chrome-trace", trace)
    return events, out / "run", trace


def test_a_run_tells_every_step_and_ends_with_its_survivors(finished):
    events, out, _ = finished
    (start,), (end,) = named(events, "start"), named(events, "end")

    assert [event["step"] for event in named(events, "step")] == list(range(1, 13))
    assert all(event["tokens"] == 256 for event in named(events, "step"))
    assert start["pids"] == end["survivor_pids"]
    assert (end["steps"], end["samples"], end["final_loss"]) == (12, 96, losses(events)[-1])
    assert losses(events)[-1] < losses(events)[0] - 0.5
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-000000008", "step-000000012"]


@pytest.mark.slow
def test_kills_joins_and_notices_change_no_loss(finished, tmp_path):
    faults = tmp_path / "faults.txt"
    faults.write_text("3:kill:1\n4:add:2\n6@vote:kill:0\n8:notice:2\n")
    events = trained("--steps", 12, "--workers", 3, "--slots", 4, "--min-replicas", 3, "--faults", faults)

    assert losses(events) == pytest.approx(losses(finished[0]), abs=1e-9)
    assert [event["worker"] for event in named(events, "detect")] == [1, 0]
    assert len(named(events, "join")) == 2


@pytest.mark.slow
def test_a_fault_list_may_come_from_stdin(finished):
    events = trained("--steps", 12, "--workers", 3, "--slots", 4, "--faults", "-", given="2:kill:2;3:kill:9")

    assert losses(events) == pytest.approx(losses(finished[0]), abs=1e-9)
    assert events[-1]["faults_missed"] == 1


def follow(process):
    """Events of a running command, one at a time; it is killed after a minute."""
    limit = threading.Timer(60.0, process.kill)
    limit.start()
    try:
        for line in process.stdout:
            yield json.loads(line)
    finally:
        limit.cancel()


def test_a_worker_killed_from_outside_leaves_the_others_their_pids(finished):
    run = command("run", *SIZES, "--steps", 100, "--workers", 3, "--slots", 4)
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        events = []
        for event in follow(process):
            events.append(event)
            if event["event"] == "step" and event["step"] == 4:
                os.kill(events[0]["pids"]["0"], signal.SIGKILL)

    assert process.returncode == 0
    assert losses(events)[:12] == pytest.approx(losses(finished[0]), abs=1e-9)
    survivors = {worker: pid for worker, pid in events[0]["pids"].items() if worker != "0"}
    assert events[-1]["survivor_pids"] == survivors
    (change,) = [event for event in named(events, "reconfigure") if event["epoch"] > 1]
    parts = ("detect_s", "interrupt_s", "group_s", "plan_s", "transfer_s", "total_s", "moves", "bytes", "retried_step")
    assert change.keys() >= set(parts)


@pytest.mark.slow
def test_a_killed_supervisor_leaves_no_orphan_and_its_run_resumes(finished, tmp_path):
    settings = (*SIZES, "--workers", 2, "--slots", 4, "--ckpt-every", 4, "--out", tmp_path)
    run = command("run", *settings, "--steps", 1000)
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        for event in follow(process):
            if event["event"] == "start":
                handles = [os.pidfd_open(pid) for pid in event["pids"].values()]
            if event["event"] == "checkpoint":
                break
        process.kill()
    ended = [bool(select.select([handle], [], [], 60)[0]) for handle in handles]
    for handle in handles:
        os.close(handle)
    newest = max((tmp_path / "checkpoints").iterdir())
    for later in (tmp_path / "checkpoints").iterdir():
        if later != newest:
            shutil.rmtree(later)
    step = int(newest.name.removeprefix("step-"))
    events = trained("--workers", 3, "--slots", 2, "--steps", max(12, step + 2), "--resume", tmp_path)

    assert ended == [True, True]
    assert [event["step"] for event in named(events, "step")] == list(range(step + 1, max(12, step + 2) + 1))
    if step < 12:
        assert losses(events) == pytest.approx(losses(finished[0])[step:], abs=1e-9)


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_run_and_its_workers():
    run = command("run", *SIZES, "--steps", 100000, "--workers", 2, "--slots", 4)
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        start = json.loads(process.stdout.readline())
        handles = [os.pidfd_open(pid) for pid in start["pids"].values()]
        process.stdout.close()
        stderr = process.stderr.read()
    ended = [bool(select.select([handle], [], [], 60)[0]) for handle in handles]
    for handle in handles:
        os.close(handle)

    assert process.returncode == 0, stderr
    assert ended == [True, True]


@pytest.mark.slow
def test_ctrl_c_ends_the_run_with_130_and_its_workers():
    run = command("run", *SIZES, "--steps", 100000, "--workers", 2, "--slots", 4)
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        start = json.loads(process.stdout.readline())
        handles = [os.pidfd_open(pid) for pid in start["pids"].values()]
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        process.communicate()
    ended = [bool(select.select([handle], [], [], 60)[0]) for handle in handles]
    for handle in handles:
        os.close(handle)

    assert process.returncode == 130
    assert ended == [True, True]


def test_eval_prints_bits_per_byte_of_any_text(finished, tmp_path):
    novel = tmp_path / "novel.txt"
    novel.write_text("It was the best of times, it was the worst of times. " * 20)
    found = [json.loads(llmsys("eval", finished[1], *given, "--json").stdout) for given in ((), ("--text", novel))]

    assert [one["step"] for one in found] == [12, 12]
    assert found[0]["bytes"] > 10_000
    assert found[1]["bytes"] == 20 * 53 - 1
    assert all(3.0 < one["bits_per_byte"] < 7.5 for one in found)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_read(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished[1], out)
    part = next((out / "checkpoints" / "step-000000012").glob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-1])
    found = llmsys("eval", out, "--json")
    resumed = llmsys("run", *SIZES, "--workers", 2, "--slots", 4, "--steps", 9, "--resume", out)

    assert json.loads(found.stdout)["step"] == 8
    assert part.name in found.stderr
    assert losses([json.loads(line) for line in resumed.stdout.splitlines()]) == pytest.approx(
        losses(finished[0])[8:9], abs=1e-9
    )


def test_an_exported_model_computes_the_same_in_transformers(finished, tmp_path):
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from llmsys.moe_train.train import evaluate, open_run

    run = llmsys("export", finished[1], tmp_path / "model", "--json")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    text = np.frombuffer(b"The import statement binds names", np.uint8)
    tokens = torch.from_numpy(text.astype(np.int64))[None]
    with torch.no_grad():
        nats = theirs(tokens, labels=tokens).loss.item()
    ours = evaluate(open_run(finished[1])[0], text)

    assert json.loads(run.stdout)["transformers"] is True
    assert theirs.num_parameters() == json.loads(run.stdout)["parameters"] == named(finished[0], "start")[0]["params"]
    assert ours.bits_per_byte == pytest.approx(nats / np.log(2), rel=1e-5)


def test_the_timeline_holds_every_step(finished):
    events = json.loads(finished[2].read_text())["traceEvents"]
    names = {event["name"] for event in events if event["ph"] == "X"}

    assert {f"step {step}" for step in range(1, 13)} | {"epoch 1", "transfer"} <= names


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--faults", "3:explode:1"), 2, "--faults: '3:explode:1'; expected STEP:kill:W"),
        pytest.param(
            ("--faults", "3@lunch:kill:1"),
            2,
            "expected kill or stop at one of forward, dispatch",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--workers", "2", "--slots", "1"),
            65,
            "2 nodes with 1 slots each cannot hold 4 experts",
            marks=pytest.mark.slow,
        ),
        pytest.param(("--model", '{"layers":2,"colour":"red"}'), 65, "--model", marks=pytest.mark.slow),
        pytest.param(
            ("--model", "gpt-xxl"), 65, "no model 'gpt-xxl'; expected one of tiny, gpt-s", marks=pytest.mark.slow
        ),
        pytest.param(("--top-k", "9"), 2, "top_k 9 of 4 experts", marks=pytest.mark.slow),
        pytest.param(
            ("--seq", "10000000"), 65, "bytes to train on; expected more than --seq 10000000", marks=pytest.mark.slow
        ),
        (("--resume", "."), 65, "no whole checkpoint"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line_before_anything_starts(tmp_path, args, code, words):
    run = subprocess.run(
        command("run", *SIZES, *args), capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path
    )

    assert run.returncode == code, run.stderr
    assert words in run.stderr
    assert run.stderr.count("\n") == 1
    assert run.stdout == ""


@pytest.mark.slow
def test_a_place_that_is_taken_is_not_exported_to(finished, tmp_path):
    run = llmsys("export", finished[1], tmp_path)

    assert run.returncode == 1
    assert str(tmp_path) in run.stderr


@pytest.mark.slow
def test_a_traced_run_with_spares_writes_loads_that_plan_reads(tmp_path):
    trace, loads = tmp_path / "spot.csv", tmp_path / "loads.jsonl"
    trace.write_text("0,add,a\n0,add,b\n6000,remove,a\n")
    options = ("--trace", trace, "--speedup", 60000, "--spares", 1, "--loads-out", loads, "--optimizer", "sgd")
    kinds = ("--lr", 0.1, "--balance", "bias", "--no-norm-topk", "--transfer-codec", "lossless")
    events = trained("--steps", 8, "--workers", 2, "--slots", 4, *options, *kinds)
    plan = llmsys("plan", loads, "--nodes", 3, "--slots", 4)

    assert len(events[0]["spares"]) == 1
    assert [event["worker"] for event in named(events, "fault")] == [0]
    assert [event["worker"] for event in named(events, "join")][:1] == [2]
    assert [event["step"] for event in named(events, "step")] == list(range(1, 9))
    assert json.loads(plan.stdout.splitlines()[-1])["event"] == "model"
