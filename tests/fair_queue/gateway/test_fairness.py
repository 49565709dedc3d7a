"""Shares, isolation and throughput through the gateway, by what the backend served and by the audit of its journal.

Shares are counted in tokens while every tenant named is backlogged, so they are the policy's doing and no clock's: a
slow machine makes fewer of them, not others.
"""

import json
import statistics
import subprocess
import sys
from collections import Counter

import pytest
from gateway_process import KEYS, GatewayProcess, tenants_toml
from load import crowd
from scripted_backend import ScriptedBackend

SHORT = {"tokens": 20, "prompt_tokens": 10, "delay_s": 0.001}
STREAM = {"stream": True, "max_tokens": 20}


def audit(path):
    """The verdict of `fair-queue audit` on a journal."""
    command = [sys.executable, "-m", "llmsys", "fair-queue", "audit", str(path), "--json"]
    run = subprocess.run(command, capture_output=True, check=False)
    assert run.returncode in (0, 1), run.stderr.decode()
    return json.loads(run.stdout)


def shares(backend, first, last):
    """Tokens that the backend served each tenant between the first-th and the last-th request."""
    tenants = {f"m-{name}": name for name in KEYS}
    return Counter(tenants[one.body["model"]] for one in backend.served[first:last])


def group(tenant, clients, script=SHORT):
    return (tenant, clients, script, STREAM | {"model": f"m-{tenant}"})


def test_three_tenants_of_weights_1_2_4_and_a_flood_share_by_weight_within_the_bound(tmp_path):
    """The flood has 40 clients, the others 10 each; all are backlogged until the last rounds, which are left out."""
    tenants = tenants_toml(a="weight = 1", b="weight = 2", c="weight = 4", flood="weight = 1")
    events = tmp_path / "events.jsonl"
    with (
        ScriptedBackend(slots=4) as backend,
        GatewayProcess(tmp_path, backend, tenants=tenants, options=("--window", 4, "--events", events)) as gateway,
    ):
        crowd(gateway.port, [group("a", 10), group("b", 10), group("c", 10), group("flood", 40)], seconds=5)
        assert gateway.stop() == 0
    count = shares(backend, 40, len(backend.served) - 80)
    found = audit(events)

    assert min(count.values()) >= 10
    for tenant, weight in (("b", 2), ("c", 4), ("flood", 1)):
        # U_log is at most the window's 4 requests, so counters of 50 a request differ by at most 2 x 4 of them
        assert abs(count[tenant] / weight - count["a"]) <= 8
    assert found["holds"], found["checks"]
    assert found["policy"] == "vtc/settled"


def test_the_audit_finds_that_first_come_first_served_was_unfair(tmp_path):
    events = tmp_path / "events.jsonl"
    options = ("--window", 2, "--policy", "fcfs", "--events", events)
    with ScriptedBackend(slots=2) as backend, GatewayProcess(tmp_path, backend, options=options) as gateway:
        crowd(gateway.port, [group("a", 3), group("flood", 60)], seconds=4)
        assert gateway.stop() == 0

    assert not audit(events)["holds"]


def test_a_weight_that_is_changed_while_they_wait_changes_the_shares(tmp_path):
    with (
        ScriptedBackend(slots=2) as backend,
        GatewayProcess(tmp_path, backend, options=("--window", 2)) as gateway,
    ):
        crowd(gateway.port, [group("a", 6), group("b", 6)], seconds=1.5)
        even = shares(backend, 12, len(backend.served) - 12)
        assert gateway.request("PUT", "/fair/tenants/b", {"weight": 3}, admin=True)[0] == 200
        start = len(backend.served) + 12
        crowd(gateway.port, [group("a", 6), group("b", 6)], seconds=2.5)
        weighted = shares(backend, start, len(backend.served) - 12)

    assert abs(even["a"] - even["b"]) <= 4
    assert abs(weighted["b"] / 3 - weighted["a"]) <= 4


def test_a_tenant_alone_gets_everything(tmp_path):
    with (
        ScriptedBackend(slots=4) as backend,
        GatewayProcess(tmp_path, backend, options=("--window", 4)) as gateway,
    ):
        answers = crowd(gateway.port, [group("a", 8)], rounds=5)["a"]

        assert [status for status, _ in answers.whole] == [200] * 40
        assert gateway.tenants()["a"]["output_tokens"] == 40 * 20


def test_a_light_tenant_waits_for_few_of_a_floods_requests(tmp_path):
    """Isolation, counted in requests instead of seconds: at most the window and one more per tenant go first."""
    with (
        ScriptedBackend(slots=4) as backend,
        GatewayProcess(tmp_path, backend, options=("--window", 4)) as gateway,
    ):
        held = [gateway.open_chat(tenant="flood", script={"gate": "g", "tokens": 20}) for _ in range(4)]
        backend.wait_for(4)
        rest = [gateway.open_chat(tenant="flood", script={"tokens": 20}, model="m-flood") for _ in range(60)]
        gateway.until(lambda: gateway.tenants()["flood"]["queued"] == 60)
        light = gateway.open_chat(tenant="a", script={"tokens": 1}, model="m-a")
        gateway.until(lambda: gateway.tenants()["a"]["queued"] == 1)
        backend.open_gate("g")

        assert light.getresponse().status == 200
        assert [one.body["model"] for one in backend.served].index("m-a") <= 4 + 4
        for one in (*held, *rest):
            one.close()


@pytest.mark.slow
def test_time_to_the_first_byte_of_a_light_tenant_under_a_tenfold_flood_stays_within_threefold(tmp_path):
    """Medians of closed loops at window 8: alone, then beside a flood that asks for ten times the capacity."""
    light = ("a", 2, SHORT, STREAM)
    with (
        ScriptedBackend(slots=8) as backend,
        GatewayProcess(tmp_path, backend, options=("--window", 8)) as gateway,
    ):
        alone = crowd(gateway.port, [light], seconds=4)["a"].first_byte_s
        beside = crowd(gateway.port, [light, ("flood", 80, SHORT, STREAM)], seconds=8)["a"].first_byte_s
    request_s = SHORT["tokens"] * 0.002  # a place comes free once in 1/8 of this; asyncio's sleep takes its time too

    assert statistics.median(beside) <= 3 * statistics.median(alone) + request_s


@pytest.mark.slow
def test_two_saturating_tenants_get_97_percent_of_the_backends_own_throughput(tmp_path):
    """The backend's steps take fixed time, so it is not the CPU that is shared out; best of three pairs of runs."""
    script = {"tokens": 20, "prompt_tokens": 10, "delay_s": 0.01}
    ratios = []
    with (
        ScriptedBackend(slots=16) as backend,
        GatewayProcess(tmp_path, backend, options=("--window", 24)) as gateway,
    ):
        for _ in range(3):
            direct = crowd(backend.port, [("a", 24, script, STREAM), ("b", 24, script, STREAM)], seconds=5)
            before = sum(len(one.whole) for one in direct.values())
            through = crowd(gateway.port, [("a", 24, script, STREAM), ("b", 24, script, STREAM)], seconds=5)
            ratios.append(sum(len(one.whole) for one in through.values()) / before)

    assert max(ratios) >= 0.97, ratios


@pytest.mark.parametrize("streams", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_thousand_streams_at_once_all_arrive_whole(tmp_path, streams):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4 * streams:
        pytest.skip(f"{hard} file descriptors are too few for {streams} streams")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4 * streams), hard))
    script = {"tokens": 30, "prompt_tokens": 5, "gate": "all", "gate_at": 1}
    with (
        ScriptedBackend() as backend,
        GatewayProcess(tmp_path, backend, options=("--window", streams)) as gateway,
    ):
        backend.open_when(streams, "all")
        answers = crowd(gateway.port, [(t, streams // 4, script, {"stream": True}) for t in KEYS], rounds=1)

        whole = [body for one in answers.values() for _, body in one.whole]
        assert len(whole) == streams
        assert {body.count(b'"content":') for body in whole} == {30}
        assert all(body.endswith(b"data: [DONE]\n\n") for body in whole)
        assert sum(one["output_tokens"] for one in gateway.tenants().values()) == 30 * streams
