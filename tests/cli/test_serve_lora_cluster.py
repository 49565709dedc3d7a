"""`llmsys serve-lora simulate`, `plan` and `calibrate` as a user runs them, on a trace of real tenants."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Shell
from tests.serve_lora.conftest import write_tiny_model
from tests.serve_lora.server.conftest import write_adapter

TRACE = str(Path(__file__).parents[2] / "fixtures" / "arena27-first60.jsonl")

# one worker, so that the calibration is made once
pytestmark = pytest.mark.xdist_group("serve-lora-cluster")


def test_a_simulation_accounts_for_every_machine_second_by_tenant(shell):
    (shell.directory / "p.toml").write_text('currency = "USD"\ndevice_per_hour = 3600\n')

    runs = {
        idle: shell.run("serve-lora", "simulate", TRACE, "--idle", idle, "--prices", "p.toml", "--json")
        for idle in ("owner", "spread", "platform")
    }

    for idle, run in runs.items():
        found = json.loads(run.stdout)
        assert found["machine_s"] == pytest.approx(found["busy_s"] + found["idle_s"] + found["start_s"], rel=1e-9)
        assert sum(tenant["cost"] for tenant in found["tenants"]) == pytest.approx(found["cost"], rel=1e-9)
        assert ("(platform)" in {tenant["tenant"] for tenant in found["tenants"]}) == (idle == "platform")
        assert sum(tenant["requests"] for tenant in found["tenants"]) == 60
        assert "unavoidable" in run.stderr


def test_a_plan_picks_the_cheapest_and_draws_it(shell):
    run = shell.run(
        *("serve-lora", "plan", TRACE, "--gpus", "1-3", "--policy", "punica,least-loaded,dedicated"),
        *("--slo-ttft-s", "8", "--popularity", "geometric:1.5", "--plot", "cost.svg", "--json"),
    )

    found = json.loads(run.stdout)
    good = [one for one in found["runs"] if one["meets_slo"]]
    assert len(found["runs"]) == 9
    assert found["best"]["machine_s"] == min(one["machine_s"] for one in good)
    assert (shell.directory / "cost.svg").read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--slo-ttft-s", "0.001"), 1, "more --gpus"),
        (("--policy", "nearest"), 2, "punica"),
        (("--gpus", "0"), 2, "--gpus"),
        (("--gpus", "4-1"), 2, "--gpus"),
        (("--keep-alive", "long"), 2, "ski-rental"),
        (("--popularity", "skewed"), 2, "geometric:X"),
        (("--profile", "absent.json"), 65, "absent.json"),
    ],
)
def test_a_plan_that_cannot_be_made_says_why(shell, options, code, said):
    run = shell.run("serve-lora", "plan", TRACE, *options)

    assert run.returncode == code
    assert said in run.stderr


def test_the_same_seed_gives_the_same_bytes(shell):
    command = ("serve-lora", "simulate", TRACE, "--popularity", "zipf:1.5", "--json", "--seed")

    first, again, other = (shell.run(*command, seed).stdout for seed in ("1", "1", "2"))

    assert first == again != other


def test_a_keep_alive_without_end_starts_once_per_replica(shell):
    run = shell.run("serve-lora", "simulate", TRACE, "--gpus", "2", "--keep-alive", "inf", "--json")

    assert json.loads(run.stdout)["cold_starts"] == 2


def test_a_calibration_measures_what_a_plan_can_use(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("calibrate"))
    write_tiny_model(shell.directory / "tiny")

    run = shell.run("serve-lora", "calibrate", "here.json", "--model", "tiny", "--max-batch", "8", "--json")
    plan = shell.run("serve-lora", "plan", TRACE, "--profile", "here.json", "--gpus", "1,2", "--slo-ttft-s", "60")

    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["profile"] == json.loads((shell.directory / "here.json").read_text())
    assert found["profile"]["step"]["fixed_s"] + found["profile"]["step"]["decode_s"] > 0
    assert (found["profile"]["max_batch"], found["profile"]["batch_tokens"]) == (8, 256)
    assert found["profile"]["cold_start_s"] > 0
    assert found["fit"]["samples"] >= 4 * 3 * 6
    assert plan.returncode == 0, plan.stderr


def test_an_adapter_that_does_not_fit_stops_a_calibration(shell):
    write_tiny_model(shell.directory / "tiny")
    write_adapter(shell.directory / "adapters" / "other")

    run = shell.run("serve-lora", "calibrate", "here.json", "--model", "tiny", "--adapters", "adapters")

    assert run.returncode == 65
    assert "lora_A" in run.stderr
    assert not (shell.directory / "here.json").exists()


def test_tenants_with_several_adapters_can_be_drawn_on_a_timeline(shell):
    run = shell.run(
        *("serve-lora", "simulate", TRACE, "--policy", "bounded", "--adapters-per-tenant", "3"),
        *("--chrome-trace", "timeline.json", "--json"),
    )

    assert run.returncode == 0, run.stderr
    events = json.loads((shell.directory / "timeline.json").read_text())["traceEvents"]
    bars = [event for event in events if event["ph"] == "X"]
    assert len(bars) == 120
    assert {event["args"]["adapter"].rpartition("-")[2] for event in bars} == {"0", "1", "2"}
