"""`llmsys serve-lora` as a user runs it: a mixed batch of the shipped adapters, its ledger, its adapters' verbs."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmsys.engine.loader import read_config
from llmsys.serve_lora.tasks import TASKS
from tests.cli.conftest import Shell
from tests.serve_lora.conftest import write_tiny_model
from tests.serve_lora.server.test_adapters import KINDS, hostile

FIXTURES = Path(__file__).parents[2] / "fixtures" / "adapters"
PRICES = 'currency = "USD"\ndevice_per_hour = 3.6\nhost_ram_gb_per_hour = 0.01\n'

# one worker, so that the one run with the real model is made once
pytestmark = pytest.mark.xdist_group("serve-lora")


def chat(custom_id, text="hi", *, model="tiny", **body):
    messages = [{"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "max_tokens": 4, "temperature": 0} | body
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line) + "\n"


def records(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """One run of the shipped requests through the shipped adapters, with every record it can leave behind."""
    shell = Shell(tmp_path_factory.mktemp("mixed"))
    (shell.directory / "prices.toml").write_text(PRICES)
    run = shell.run(
        *("serve-lora", "run", str(FIXTURES / "requests.jsonl"), "--adapters", str(FIXTURES), "--ordered", "--json"),
        *("--ledger", "ledger.jsonl", "--events", "events.jsonl", "--chrome-trace", "trace.json"),
        *("--prices", "prices.toml", "--policy", "vtc", "--concurrency", "16"),
    )
    assert run.returncode == 0, run.stderr
    return shell, run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A shell in whose directory a small model stands, as `tiny`."""
    shell = Shell(tmp_path_factory.mktemp("tiny"))
    write_tiny_model(shell.directory / "tiny")
    return shell


def test_each_adapter_of_a_mixed_batch_keeps_its_own_property(mixed):
    _, run = mixed
    answers = {}
    for result in records(run.stdout):
        choice = result["response"]["body"]["choices"][0]
        name = result["custom_id"].partition("-")[0]
        answers.setdefault(name, []).append((choice["message"]["content"], choice["finish_reason"] == "stop"))

    assert {name: len(texts) for name, texts in answers.items()} == dict.fromkeys(
        ["bullet", "json", "lower", "terse", "smollm2"], 4
    )
    for task in ("bullet", "json", "lower", "terse"):
        held = {name: sum(TASKS[task].holds(*answer) for answer in texts) for name, texts in answers.items()}
        assert held[task] >= 3, (task, answers[task])
        assert held["smollm2"] == 0, (task, answers["smollm2"])


def test_ordered_results_stand_in_the_order_of_their_lines(mixed):
    _, run = mixed

    asked = [json.loads(line)["custom_id"] for line in (FIXTURES / "requests.jsonl").read_text().splitlines()]
    assert [result["custom_id"] for result in records(run.stdout)] == asked


def test_the_summary_names_every_tenant_with_tokens_and_cost(mixed):
    _, run = mixed

    summary = json.loads(run.stderr.splitlines()[-1])
    assert [row["tenant"] for row in summary["tenants"]] == ["ann", "bob", "cleo", "dan"]
    assert (summary["requests"], summary["failed"], summary["currency"]) == (20, 0, "USD")
    usage = [result["response"]["body"]["usage"]["completion_tokens"] for result in records(run.stdout)]
    assert summary["output_tokens"] == sum(usage)
    assert sum(row["share"] for row in summary["tenants"]) == pytest.approx(1.0)


def test_the_ledger_balances_and_agrees_with_the_summary(mixed):
    shell, run = mixed

    report = shell.run("serve-lora", "cost", "report", "ledger.jsonl", "--by", "tenant", "--json")

    found = json.loads(report.stdout)
    summary = json.loads(run.stderr.splitlines()[-1])
    balance = found["balance"]
    assert balance["holds"]
    total = balance["charged"] + balance["overhead"] + balance["idle"]
    assert total == pytest.approx(balance["owed"], rel=1e-9)
    assert {row["tenant"]: row["device_cost"] for row in found["rows"]} == pytest.approx(
        {row["tenant"]: row["cost"] for row in summary["tenants"]}, rel=1e-9
    )
    assert "balances" in report.stderr


@pytest.mark.parametrize("idle", ["spread", "owner"])
def test_a_report_by_adapter_spreads_idle_time_and_names_the_groups(mixed, idle):
    shell, _ = mixed

    report = shell.run("serve-lora", "cost", "report", "ledger.jsonl", "--by", "adapter", "--idle", idle)

    found = json.loads(report.stdout)
    rows = found["rows"]
    assert found["balance"]["charged"] > 0.5 * found["balance"]["owed"]
    assert {row["adapter"] for row in rows} == {"(base)", "bullet", "json", "lower", "terse"}
    assert "cost in USD" in report.stderr


def test_the_event_log_says_the_policy_and_ends_every_request(mixed):
    shell, _ = mixed

    events = records((shell.directory / "events.jsonl").read_text())
    assert (events[0]["event"], events[0]["policy"], events[0]["clock"]) == ("meta", "vtc", "wall")
    assert sum(event["event"] == "finish" for event in events) == 20
    trace = json.loads((shell.directory / "trace.json").read_text())["traceEvents"]
    assert {"engine", "ann", "bob", "cleo", "dan"} <= {event["args"].get("name") for event in trace}


def test_check_passes_the_shipped_adapters_and_says_what_they_are(tiny):
    run = tiny.run("serve-lora", "adapters", "check", str(FIXTURES), "--json")

    assert run.returncode == 0, run.stderr
    found = {one["name"]: (one["rank"], one["targets"], one["task"]) for one in json.loads(run.stdout)}
    assert found == {
        "bullet": (8, "q,v", "bullet"),
        "json": (8, "q,k,v,o", "json"),
        "lower": (16, "q,k,v", "lower"),
        "terse": (4, "q,k,v,o,gate,up,down", "terse"),
    }
    assert all(one["file_bytes"] <= 3_000_000 for one in json.loads(run.stdout))


def test_check_of_another_base_names_the_tensor(tiny):
    run = tiny.run("serve-lora", "adapters", "check", str(FIXTURES / "json"), "--model", "tiny")

    assert run.returncode == 65
    assert "layers.10.self_attn.k_proj.lora_A.weight' is of layer 10; expected below 2" in run.stderr


def test_list_shows_a_pickled_adapter_as_broken_and_opens_nothing(tiny):
    place = tiny.directory / "adapters" / "pickled"
    place.mkdir(parents=True)
    shutil.copy(FIXTURES / "json" / "adapter_config.json", place)
    (place / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")

    run = tiny.run("serve-lora", "adapters", "list", "adapters", "--model", "tiny")

    assert run.returncode == 0
    assert json.loads(run.stdout)[0]["state"] == "broken"
    assert "a pickle is never opened" in json.loads(run.stdout)[0]["fault"]
    assert not (tiny.directory / "pwned").exists()


def test_check_refuses_every_hostile_adapter_with_one_line(tiny):
    """A header and a file of ten gigabytes, NaN, wrong shapes, ranks 0 and 300, a pickle, deep JSON."""
    shape = read_config(tiny.directory / "tiny")
    named = {kind: hostile(tiny.directory / "hostile" / kind.replace(" ", "-"), kind, shape=shape) for kind in KINDS}

    listed = tiny.run("serve-lora", "adapters", "list", "hostile", "--model", "tiny", "--json")
    checked = tiny.run("serve-lora", "adapters", "check", "hostile", "--model", "tiny", "--quiet")

    faults = {one["name"]: (one["state"], one["fault"]) for one in json.loads(listed.stdout)}
    assert set(faults) == {kind.replace(" ", "-") for kind in KINDS}
    for kind, words in named.items():
        state, fault = faults[kind.replace(" ", "-")]
        assert (state, fault.count("\n")) == ("broken", 0)
        assert words in fault
    assert (checked.returncode, checked.stderr.count("\n")) == (65, 1), checked.stderr
    assert f"and {len(KINDS) - 1} more" in checked.stderr


def test_an_adapter_is_made_merged_and_converted(tiny):
    (tiny.directory / "chats.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}) + "\n"
    )
    make = ("adapters", "make", "made/yes", "--data", "chats.jsonl", "--model", "tiny", "--steps", "3", "--rank", "2")
    runs = [
        tiny.run("serve-lora", *verb)
        for verb in (
            make,
            ("adapters", "merge", "made/yes", "merged", "--model", "tiny"),
            ("adapters", "convert", "made/yes", "yes.gguf", "--model", "tiny"),
            ("adapters", "check", "made/yes", "--model", "tiny"),
        )
    ]

    assert [run.returncode for run in runs] == [0, 0, 0, 0], runs[0].stderr + runs[1].stderr
    assert json.loads(runs[0].stdout)["steps"] == 3
    assert (tiny.directory / "merged" / "model.safetensors").is_file()
    assert (tiny.directory / "yes.gguf").is_file()


def test_make_without_peft_says_how_to_get_it(tiny):
    absent = tiny.directory / "absent" / "peft"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ImportError('not here')\n")

    run = tiny.run(
        *("serve-lora", "adapters", "make", "never", "--task", "json", "--model", "tiny"),
        env=tiny.env | {"PYTHONPATH": str(absent.parent)},
    )

    assert run.returncode == 69
    assert "pip install 'llmsys[train]'" in run.stderr
    assert not (tiny.directory / "never").exists()


def test_unreadable_lines_end_the_run_after_the_others_are_answered(tiny):
    lines = chat("a") + chat("b", model="tinny") + '{"custom_id": "c"\n' + chat("d")
    (tiny.directory / "bad.jsonl").write_text(lines)

    failed = tiny.run("serve-lora", "run", "bad.jsonl", "--model", "tiny", "--ordered")
    skipped = tiny.run("serve-lora", "run", "bad.jsonl", "--model", "tiny", "--ordered", "--on-error", "skip")

    assert (failed.returncode, skipped.returncode) == (65, 0)
    assert "bad.jsonl:3" in failed.stderr
    assert "skipped: bad.jsonl:3" in skipped.stderr
    assert [result["custom_id"] for result in records(failed.stdout)] == ["a", "b"]
    assert [result["custom_id"] for result in records(skipped.stdout)] == ["a", "b", "d"]
    assert "closest: tiny" in records(failed.stdout)[1]["error"]["message"]


def test_a_run_goes_on_where_a_cut_one_stopped(tiny):
    (tiny.directory / "all.jsonl").write_text(chat("a") + chat("b") + chat("c"))
    whole = tiny.run("serve-lora", "run", "all.jsonl", "--model", "tiny", "--ordered").stdout
    (tiny.directory / "out.jsonl").write_text(whole[: whole.index("\n") + 30])

    rest = tiny.run("serve-lora", "run", "all.jsonl", "--model", "tiny", "--ordered", "--resume", "out.jsonl").stdout

    assert (tiny.directory / "out.jsonl").read_text() + rest == whole


def test_a_closed_pipe_ends_the_run_quietly(tiny):
    """The answers are more than a pipe holds, so that the run cannot be done before its reader is gone."""
    (tiny.directory / "many.jsonl").write_text("".join(chat(f"r{at}") for at in range(400)))

    run = tiny.pipeline("llmsys serve-lora run many.jsonl --model tiny -q --events e.jsonl | head -1")

    assert (run.returncode, run.stderr, len(run.stdout.splitlines())) == (0, "", 1)
    assert not (tiny.directory / "e.jsonl").exists()


def test_an_interrupt_ends_with_130_after_whole_lines(tiny):
    command = [sys.executable, "-m", "llmsys", "serve-lora", "run", "-", "--model", "tiny", "--ledger", "led.jsonl"]
    process = subprocess.Popen(
        command, cwd=tiny.directory, env=tiny.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(chat("a").encode())
    process.stdin.flush()
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)

    assert (json.loads(first)["custom_id"], rest, process.returncode) == ("a", b"", 130)
    report = tiny.run("serve-lora", "cost", "report", "led.jsonl")
    assert json.loads(report.stdout)["balance"]["holds"]


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("run", "none.jsonl", "--adapter", "fr"), 2, "NAME=PATH"),
        (("run", "none.jsonl", "--adapters", "nowhere"), 65, "no adapter is here"),
        (("run", "none.jsonl", "--prices", "none.toml"), 65, "none.toml"),
        (("run", "none.jsonl", "--policy", "fastest"), 2, "fastest"),
        (("cost", "report", "none.jsonl"), 1, "none.jsonl"),
        (("cost", "report", "none.jsonl", "--idle", "nobody"), 2, "platform, spread, owner"),
        (("adapters", "make", "x", "--task", "json", "--data", "y"), 2, "one thing"),
        (("adapters", "make", "x", "--task", "json", "--targets", "lm_head"), 2, "lm_head"),
        (("adapters", "check", "nowhere"), 65, "no adapter is here"),
        (("bench",), 2, "--engine"),
        (("bench", "--engine", "--popularity", "all"), 2, "one of"),
        (("bench", "--replay", "none.jsonl"), 1, "none.jsonl"),
        (("bench", "--popularity", "skewed"), 2, "geometric:X"),
        (("bench", "--engine", "--batch", "0"), 2, "--batch"),
        (("bench", "--engine", "--peers", "vllm"), 2, "transformers, peft"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_would_be_right(shell, arguments, code, named):
    run = shell.run("serve-lora", *arguments)

    assert run.returncode == code, run.stderr
    assert named in run.stderr
    assert run.stderr.count("\n") == 1


def test_popularities_are_measured_beside_the_ways_of_others(tiny):
    run = tiny.run(
        *("serve-lora", "bench", "--popularity", "distinct,geometric:1.5", "--model", "tiny", "--requests", "5"),
        *("--tokens", "20", "--batch", "3", "--rank", "2", "--peers", "peft", "--dtype", "float32", "--json"),
    )

    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    servers = ["llmsys", "llmsys by adapter", "llmsys base", "peft"]
    assert [row["server"] for row in found["rows"]] == servers * 2
    assert found["plan"]["rank"] == 2
    assert "shrink" in run.stderr


def test_a_trace_is_predicted_and_then_run(tiny):
    rows = [
        {"id": f"{at}", "tenant": "t", "arrival_s": at / 50, "prompt_tokens": 9, "output_tokens": 5} for at in range(30)
    ]
    (tiny.directory / "trace.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    run = tiny.run("serve-lora", "bench", "--replay", "trace.jsonl", "--model", "tiny", "--batch", "4", "--json")

    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["predicted"]["requests"] == found["live"]["requests"] == 30
    assert found["throughput_error"] == found["predicted"]["output_tok_s"] / found["live"]["output_tok_s"] - 1
    assert "of what was measured" in run.stderr


@pytest.mark.slow
def test_the_engine_is_measured_beside_its_peers(shell):
    run = shell.run(
        *("serve-lora", "bench", "--engine", "--adapters", str(FIXTURES), "--batch", "1,4", "--tokens", "4"),
        *("--runs", "1", "--json"),
    )

    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    rows, decoders = found["rows"], {row["decoder"] for row in found["rows"]}
    assert decoders - {"llama.cpp"} == {"llmsys", "transformers generate", "peft adapter_names"}
    assert ("llama.cpp" in decoders) != ("llama_cpp is not installed" in "".join(found["skipped"]))
    assert all(row["gap"] < 0.5 and (row["tok_s"] is not None or row["doubts"]) for row in rows)


@pytest.mark.slow
def test_the_shipped_adapters_are_accepted(shell):
    prompts = str(FIXTURES / "prompts.jsonl")

    run = shell.run("serve-lora", "adapters", "bench-quality", str(FIXTURES), "--prompts", prompts, "--json")

    assert run.returncode == 0, run.stderr
    assert all(row["accepted"] for row in json.loads(run.stdout))
