"""`llmsys fair-queue` as a user runs it: the installed command on real fixtures."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures"
ARENA = FIXTURES / "arena27-first60.jsonl"
LOG = FIXTURES / "fair-queue" / "a10g_VTC_overload.jsonl.gz"


def llmsys(*args, given=None):
    command = [sys.executable, "-m", "llmsys", "fair-queue", *map(str, args)]
    return subprocess.run(command, input=given, capture_output=True, check=False)


def records(run):
    assert run.returncode == 0, run.stderr.decode()
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def flood(tmp_path_factory):
    """A trace in which one tenant floods the server and another sends one request a second."""
    path = tmp_path_factory.mktemp("flood") / "trace.jsonl"
    run = llmsys(
        "trace", "generate", "--client", "rate=12,in=200,out=200", "--client", "rate=1,in=200,out=200", "--duration", 20
    )
    path.write_bytes(run.stdout)
    return path


def test_import_reads_a_measured_run_with_its_tenants():
    found = records(llmsys("trace", "import", "vtc-log", LOG))

    assert len(found) == 1620
    assert found[0]["tenant"] == "client-1"


def test_import_says_that_invented_tenants_are_an_assumption():
    run = llmsys(
        "trace", "import", "azure", FIXTURES / "fair-queue" / "azure2023_conv-first200.csv", "--tenants", "zipf:5"
    )

    assert len({record["tenant"] for record in records(run)}) == 5
    assert b"tenants are assumed: zipf:5" in run.stderr


def test_generate_repeats_what_was_measured():
    made, measured = (
        records(llmsys("trace", "generate", "overload")),
        records(llmsys("trace", "import", "vtc-log", LOG)),
    )

    assert [round(record["arrival_s"], 6) for record in made] == [record["arrival_s"] for record in measured]


def test_generate_wants_a_suite_or_clients():
    run = llmsys("trace", "generate")

    assert run.returncode == 2
    assert b"give either a SUITE or --client" in run.stderr


def test_stats_mix_and_scale_go_through_pipes():
    fast = llmsys("trace", "scale", ARENA, "--rate", 2)
    both = llmsys("trace", "mix", "-", ARENA, given=fast.stdout)
    (summary,) = records(llmsys("trace", "stats", "-", "--json", given=both.stdout))

    assert summary["requests"] == 120
    assert summary["span_s"] == pytest.approx(records(llmsys("trace", "stats", ARENA, "--json"))[0]["span_s"])


def test_a_trace_becomes_requests_that_order_passes_on_byte_for_byte():
    options = ("--prompts", FIXTURES / "vicuna40.jsonl", "--models", "base,ann", "--limit", 30, "--max-tokens", 24)
    made = llmsys("trace", "requests", ARENA, *options)
    found = records(made)
    ordered = llmsys("order", "-", "--window", 10, given=made.stdout)

    assert len(found) == 30
    assert {record["body"]["model"] for record in found} == {"base", "ann"}
    assert max(record["body"]["max_tokens"] for record in found) == 24
    assert ordered.returncode == 0
    assert ordered.stdout != made.stdout
    assert Counter(ordered.stdout.splitlines(keepends=True)) == Counter(made.stdout.splitlines(keepends=True))


def test_order_names_the_line_that_is_none():
    run = llmsys("order", given=b'{"tenant":"a","prompt_tokens":1,"output_tokens":1}\nnonsense\n')

    assert run.returncode == 65
    assert b"llmsys fair-queue order: error: <stdin>:2: " in run.stderr


def test_order_refuses_a_policy_that_does_not_exist():
    run = llmsys("order", ARENA, "--policy", "fair")

    assert run.returncode == 2
    assert b"no policy is named 'fair'; known: fcfs, rpm, tpm, lcf, vtc, drr" in run.stderr


@pytest.mark.parametrize("value", ["a", "a=0", "a=x"])
def test_a_weight_that_makes_no_sense_is_a_usage_fault(value):
    assert llmsys("order", ARENA, "--weight", value).returncode == 2


def test_a_fair_run_passes_its_audit_and_an_unfair_one_fails(flood):
    fair = llmsys("audit", "-", "--json", given=llmsys("simulate", flood, "--policy", "vtc").stdout)
    unfair = llmsys("audit", "-", "--json", given=llmsys("simulate", flood, "--policy", "fcfs").stdout)

    assert (fair.returncode, unfair.returncode) == (0, 1)
    assert json.loads(fair.stdout)["holds"]
    assert not json.loads(unfair.stdout)["holds"]
    assert json.loads(unfair.stdout)["worst_gap"] > json.loads(unfair.stdout)["bound"]
    assert {"U", "U_star", "U_log", "worst_pair", "worst_interval", "idle_violations", "jain", "tenants"} <= set(
        json.loads(fair.stdout)
    )


def test_the_audit_prints_tables_for_people_to_stderr(flood):
    run = llmsys("audit", "-", given=llmsys("simulate", flood).stdout)

    assert run.stdout.count(b"\n") == 1
    assert b"both backlogged" in run.stderr
    assert b"client-0" in run.stderr


def test_a_log_without_meta_is_bad_input():
    run = llmsys("audit", given=b'{"t_s":0,"event":"arrive","id":"x","tenant":"a"}\n')

    assert run.returncode == 65
    assert b"llmsys fair-queue audit: error: <stdin>:1: a first record 'arrive'" in run.stderr


def test_simulate_writes_one_line_per_request_if_asked():
    found = records(llmsys("simulate", ARENA, "--per-request"))

    assert len(found) == 60
    assert list(found[0]) == [
        *("id", "tenant", "arrival_s", "admit_s", "first_s", "finish_s", "prompt_tokens", "output_tokens", "refused")
    ]
    assert all(record["admit_s"] < record["first_s"] < record["finish_s"] for record in found)


def test_simulate_compares_policies_with_served_and_refused_beside_fairness(flood):
    run = llmsys("simulate", flood, "--policy", "fcfs;vtc:wq=2;rpm=5", "--compare")
    (rows,) = records(run)

    assert [row["policy"] for row in rows] == ["fcfs", "vtc:wq=2", "rpm=5"]
    assert [row["holds"] for row in rows[:2]] == [False, True]
    assert rows[2]["refused"] > 0
    assert b"served" in run.stderr


def test_simulate_wants_one_way_out():
    assert llmsys("simulate", ARENA, "--per-request", "--summary").returncode == 2
    assert llmsys("simulate", ARENA, "--policy", "fcfs,vtc").returncode == 2


def test_calibrate_writes_a_step_model_that_simulate_takes(tmp_path):
    out = tmp_path / "hardware.toml"
    fitted = llmsys("simulate", "calibrate", FIXTURES / "fair-queue" / "a10g_LShare_rpm5_real.jsonl.gz", "--out", out)
    (summary,) = records(fitted)
    (rows,) = records(llmsys("simulate", ARENA, "--hardware", out, "--summary", "--json"))

    assert abs(summary["errors"][0]["makespan"]) < 0.01
    assert rows[0]["served"] == 60


def test_a_reader_that_leaves_ends_the_verb_quietly():
    command = f"{sys.executable} -m llmsys fair-queue trace generate overload | head -1"
    run = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False)

    assert run.returncode == 0
    assert run.stderr == b""


def test_simulate_runs_replicas_chunks_and_prefix_caches(tmp_path):
    made = llmsys(
        "trace",
        "import",
        "mooncake",
        FIXTURES / "fair-queue" / "mooncake_conversation-first40.jsonl",
        "--tenants",
        "zipf:3",
    )
    machine = ("--memory", 200_000, "--replicas", 2, "--route", "d2lpm", "--chunked-prefill", 4096)
    events = records(llmsys("simulate", "-", "--policy", "dlpm", "--prefix-cache", *machine, given=made.stdout))
    admitted = [event for event in events if event["event"] == "admit"]

    assert {event.get("replica", 0) for event in admitted} == {0, 1}
    assert any(event.get("cached_tokens", 0) >= 512 for event in admitted)
    assert sum(event["event"] == "finish" for event in events) == 40


def test_a_log_of_replicas_is_audited_one_by_one(flood):
    log = llmsys("simulate", flood, "--replicas", 2).stdout
    whole, first = llmsys("audit", "-", given=log), llmsys("audit", "-", "--replica", 1, "--json", given=log)

    assert whole.returncode == 2
    assert b"judge one with --replica N" in whole.stderr
    assert first.returncode == 0
    assert json.loads(first.stdout)["holds"]


@pytest.mark.parametrize(
    "spec", ["priority:preempt=yes,age=30", "edf", "slo:tpot=0.2", "dlpm", "justitia", "equinox", "fairbatch", "drr"]
)
def test_every_other_policy_serves_the_real_trace(spec):
    (rows,) = records(llmsys("simulate", ARENA, "--policy", spec, "--compare"))

    assert (rows[0]["policy"], rows[0]["served"]) == (spec, 60)


def test_bench_real_prints_errors_on_measured_runs():
    (found,) = records(llmsys("bench", "real", FIXTURES / "fair-queue" / "a10g_LShare_rpm5_real.jsonl.gz"))

    assert abs(found["ttft_most"]) <= 0.20
    assert found["runs"][0]["refused"] == found["runs"][0]["refused_measured"] == 919


def test_bench_simulate_names_the_peers_that_it_cannot_run():
    run = llmsys("bench", "simulate", ARENA, "--times", 2, "--cut", 20)

    assert [row["requests"] for row in records(run)[0]] == [120, 120]
    assert b"VTC-artifact: no package" in run.stderr


def test_bench_order_prints_the_ratio_to_the_naive_script():
    run = llmsys("bench", "order", "--lines", 200, "--tenants", 5, "--rounds", 1, "--json")
    (found,) = records(run)

    assert found["ratio"] > 0
    assert {row["name"] for row in found["rows"]} == {"llmsys", "naive script", "copy (limit)"}
