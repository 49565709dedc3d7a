"""The gateway's journal: a log that `audit` reads, whole after a crash, with the tokens that were really served."""

import json
import subprocess
import sys

import pytest
from gateway_process import GatewayProcess
from load import crowd
from scripted_backend import ScriptedBackend

from llmsys.artifacts import Event, read_events
from llmsys.fair_queue.gateway import Journal
from llmsys.fair_queue.gateway.journal import log_policy, meta_event
from llmsys.fair_queue.policy import POLICIES


def test_the_journal_says_what_happened_to_each_request(tmp_path):
    path = tmp_path / "events.jsonl"
    with ScriptedBackend() as backend, GatewayProcess(tmp_path, backend, options=("--events", path)) as gateway:
        gateway.chat(script={"tokens": 20, "prompt_tokens": 30}, stream=True)
        gateway.chat(tenant="b", script={"tokens": 3, "prompt_tokens": 4})
        gateway.chat(tenant="b", script={"status": 400})
        gone = gateway.open_chat(tenant="c", script={"tokens": 9, "gate": "never", "gate_at": 4}, stream=True)
        gateway.until(lambda: gateway.tenants().get("c", {}).get("output_tokens") == 4)
        gone.close()
        gateway.until(lambda: gateway.tenants()["c"]["running"] == 0)
        assert gateway.stop() == 0
    meta, *events = read_events(path)
    by_id = {}
    for event in events:
        by_id.setdefault(event.id, []).append(event)
    first, second, refused, left = by_id.values()

    assert (meta.event, meta.policy, meta.clock, meta.log_every) == ("meta", "vtc/settled", "wall", 16)
    assert [one.event for one in first if one.event != "token"] == ["arrive", "admit", "finish"]
    assert sum(one.n for one in first if one.event == "token") == 20
    assert first[-1].prompt_tokens == 30
    assert (sum(one.n for one in second if one.event == "token"), second[-1].prompt_tokens) == (3, 4)
    assert sum(one.n for one in refused if one.event == "token") == 0
    assert [one.event for one in left] == ["arrive", "admit", "token", "cancel"]
    assert (left[-1].reason, left[2].n) == ("client", 4)


def test_an_old_journal_is_moved_aside_because_what_ran_in_it_has_no_end(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("old\n")
    with Journal(path, every=1) as journal:
        journal.record(Event(t_s=0.0, event="meta"))
    path.with_name("events.1.jsonl").rename(tmp_path / "kept")
    with Journal(path, every=1) as journal:
        journal.record(Event(t_s=0.0, event="meta"))

    assert (tmp_path / "kept").read_text() == "old\n"
    assert len(list(read_events(path))) == 1
    assert len(list(read_events(tmp_path / "events.1.jsonl"))) == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_journal_is_audited_after_a_kill(tmp_path, seed):
    path = tmp_path / "events.jsonl"
    with (
        ScriptedBackend(slots=2) as backend,
        GatewayProcess(tmp_path, backend, options=("--events", path, "--window", 2)) as gateway,
    ):
        load = {"tokens": 5, "prompt_tokens": 3}
        crowd(gateway.port, [(t, 4, load, {"stream": True}) for t in "ab"], rounds=8 + seed)
        running = gateway.open_chat(script={"gate": "never"})
        gateway.until(lambda: path.read_bytes().count(b'"admit"') == 2 * 4 * (8 + seed) + 1)
        gateway.kill()
        running.close()
    command = [sys.executable, "-m", "llmsys", "fair-queue", "audit", str(path), "--json"]
    run = subprocess.run(command, capture_output=True, check=False)

    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["tenants"]["a"]["requests"] == 4 * (8 + seed) + 1


def test_a_write_that_fails_leaves_no_cut_line(tmp_path):
    import resource

    path = tmp_path / "events.jsonl"
    with Journal(path, every=1) as journal:
        journal.record(Event(t_s=0.0, event="meta"))
        journal.flush()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
        try:
            journal.record(Event(t_s=1.0, event="arrive", id="lost", tenant="a"))
            journal.flush()
            fault = journal.fault
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        journal.record(Event(t_s=2.0, event="arrive", id="kept", tenant="a"))

    assert "File too large" in fault
    assert journal.fault is None
    assert [one.id for one in read_events(path)] == ["", "kept"]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_has_a_name_in_the_log(name):
    assert log_policy(name).partition("/")[0] == name


def test_meta_tells_the_prices_of_the_policy():
    event = meta_event("vtc:wp=3, wq=4", {"a": 2.0}, every=5, t_s=1.5)

    assert (event.prompt_weight, event.output_weight, event.weights, event.log_every) == (3.0, 4.0, {"a": 2.0}, 5)
    assert event.policy == "vtc/settled:wp=3, wq=4"
