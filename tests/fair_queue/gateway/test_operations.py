"""What an operator does to a running gateway: reload, change, look, stop."""

import json
import signal
import socket
import time

import pytest
from gateway_process import KEYS, GatewayProcess, tenants_toml
from scripted_backend import ScriptedBackend

from llmsys.fair_queue.gateway import hash_key

NEW_KEY = '[tenant.d]\nkeys = ["key-d"]\n'


def ask(gateway, key):
    headers = {"authorization": f"Bearer {key}"}
    return gateway.request("GET", "/v1/models", tenant=None, headers=headers)[0]


@pytest.mark.parametrize("how", ["hangup", "file", "admin"])
def test_a_changed_tenants_file_is_taken_over_without_a_restart(gateway, backend, how):
    waiting = gateway.open_chat(script={"gate": "g"})
    backend.wait_for(1)
    gateway.tenants_file.write_text(tenants_toml().replace("key-b", "key-b2") + NEW_KEY)
    if how == "hangup":
        gateway.process.send_signal(signal.SIGHUP)
    if how == "admin":
        assert gateway.request("POST", "/fair/reload", admin=True)[0] == 200
    gateway.until(lambda: ask(gateway, "key-d") == 200)
    backend.open_gate("g")

    assert ask(gateway, "key-b") == 401
    assert ask(gateway, "key-b2") == 200
    assert waiting.getresponse().status == 200


def test_a_broken_file_keeps_the_tenants_as_they_were_and_says_why(gateway):
    gateway.tenants_file.write_text("[tenant.a\n")
    status, _, body = gateway.request("POST", "/fair/reload", admin=True)

    assert status == 400
    assert not json.loads(body)["reloaded"]
    assert "kept the tenants as they were" in gateway.errors.read_text()
    assert ask(gateway, KEYS["a"]) == 200


def test_an_operator_changes_a_tenants_limits(gateway):
    status, _, body = gateway.request("PUT", "/fair/tenants/a", {"max_queue": 0, "weight": 2.5}, admin=True)

    assert (status, json.loads(body)["weight"]) == (200, 2.5)
    assert gateway.chat()[0] == 429
    assert gateway.chat(tenant="b")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/fair/tenants/a", {"weight": 0}, 400),
        ("PUT", "/fair/tenants/a", {"weihgt": 1}, 400),
        ("PUT", "/fair/tenants/", {"weight": 1}, 400),
        ("PUT", "/fair/policy", {"policy": "fairest"}, 400),
        ("PUT", "/fair/policy", b"nonsense", 400),
        ("GET", "/v1/models", None, 404),
        ("POST", "/metrics", b"", 404),
    ],
)
def test_the_admin_address_refuses_what_makes_no_sense(gateway, method, path, body, status):
    assert gateway.request(method, path, body, admin=True)[0] == status


def test_the_policy_is_switched_while_requests_wait_and_run(tmp_path, backend):
    with GatewayProcess(tmp_path, backend, options=("--window", 1, "--policy", "fcfs")) as gateway:
        running = gateway.open_chat(script={"gate": "g"})
        backend.wait_for(1)
        waiting = [gateway.open_chat(tenant="flood", script={"tokens": 1}) for _ in range(3)]
        gateway.until(lambda: gateway.tenants()["flood"]["queued"] == 3)
        waiting.append(gateway.open_chat(tenant="b", script={"tokens": 1}))
        gateway.until(lambda: gateway.tenants()["b"]["queued"] == 1)
        assert gateway.request("PUT", "/fair/policy", {"policy": "vtc"}, admin=True)[0] == 200
        backend.open_gate("g")

        assert [one.getresponse().status for one in (running, *waiting)] == [200] * 5
        users = [one.headers["x-request-id"].rpartition("-")[2] for one in backend.served]
        assert users.index("5") <= 2  # under fcfs the late tenant b would have been last


def test_metrics_name_each_tenants_service_and_the_live_bound(gateway):
    gateway.chat(script={"tokens": 5, "prompt_tokens": 11})
    gateway.chat(tenant="b", script={"tokens": 1, "prompt_tokens": 2}, stream=True)
    gateway.until(lambda: gateway.metrics()["fair_bound"] > 0)
    found = gateway.metrics()

    assert found['fair_service_tokens_total{kind="prompt",tenant="a"}'] == 11
    assert found['fair_service_tokens_total{kind="output",tenant="b"}'] == 1
    assert found['fair_counter{tenant="b"}'] == 21 + 4  # lifted to where a left
    assert found["fair_queue_depth"] == found["fair_inflight"] == 0
    assert found["fair_ttft_seconds_count"] == 2
    assert found["fair_gap"] == 0


def test_no_secret_is_in_metrics_logs_or_the_state(tmp_path, backend, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream-secret")
    state, events = tmp_path / "state.sqlite", tmp_path / "events.jsonl"
    options = ("--backend-key-env", "UPSTREAM_KEY", "--events", events)
    with GatewayProcess(tmp_path, backend, state=f"sqlite:{state}", options=options) as gateway:
        gateway.chat()
        page = b"".join(gateway.request("GET", path, admin=True)[2] for path in ("/metrics", "/fair/tenants"))
        assert gateway.stop() == 0
        written = page + gateway.errors.read_bytes() + events.read_bytes()
        written += b"".join(path.read_bytes() for path in tmp_path.glob("state.sqlite*"))

    for secret in (*KEYS.values(), "sk-upstream-secret"):
        assert secret.encode() not in written


def test_a_stop_signal_lets_running_requests_finish_and_turns_the_others_away(tmp_path, backend):
    with GatewayProcess(tmp_path, backend, options=("--window", 1)) as gateway:
        idle = socket.create_connection(("127.0.0.1", gateway.port))
        running = gateway.open_chat(script={"gate": "g", "tokens": 3}, stream=True)
        backend.wait_for(1)
        queued = gateway.open_chat(tenant="b")
        gateway.until(lambda: gateway.tenants()["b"]["queued"] == 1)
        gateway.process.send_signal(signal.SIGTERM)
        turned_away = queued.getresponse()
        assert idle.recv(10) == b""
        with pytest.raises(OSError, match="refused"):
            gateway.chat()
        backend.open_gate("g")
        answer = running.getresponse().read()

        assert turned_away.status == 503
        assert answer.endswith(b"data: [DONE]\n\n")
        assert gateway.process.wait(20) == 0
        assert len(backend.served) == 1


def test_a_drain_that_takes_too_long_is_cut_off(tmp_path, backend):
    with GatewayProcess(tmp_path, backend, options=("--drain-timeout", 0.1)) as gateway:
        running = gateway.open_chat(script={"gate": "never"})
        (seen,) = backend.wait_for(1)

        assert gateway.stop() == 0
        assert seen.left.wait(10)
        assert "1 requests were cut off" in gateway.errors.read_text()
        running.close()


def test_a_client_that_sends_nothing_for_long_is_let_go(tmp_path):
    from llmsys.fair_queue.gateway.client import ClientConnection, Limits

    class Transport:
        closed = False

        def set_write_buffer_limits(self, high):
            pass

        def close(self):
            self.closed = True

    def connection(data):
        made, transport = ClientConnection(lambda *_: None, Limits(max_body=10, request_s=60), set(), 0.0), Transport()
        made.connection_made(transport)
        if data:
            made.data_received(data)
        return made, transport

    for data, closes_s in ((b"", 301), (b"POST / HTTP/1.1\r\n", 61), (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", None)):
        made, transport = connection(data)
        made.close_if_stalled((closes_s or 10_000) - 2, idle_s=300)
        assert not transport.closed
        made.close_if_stalled(closes_s or 10_000, idle_s=300)
        assert transport.closed == (closes_s is not None)


def test_the_window_is_found_by_what_the_backend_reports(tmp_path):
    from load import crowd

    with ScriptedBackend(slots=3) as backend, GatewayProcess(tmp_path, backend) as gateway:
        window = f'fair_window{{backend="{backend.url}"}}'
        assert gateway.metrics()[window] == 8
        crowd(gateway.port, [("a", 24, {"tokens": 5, "delay_s": 0.005}, {"stream": True})], seconds=6)

        assert 2 <= gateway.metrics()[window] <= 5


def test_hash_key_prints_what_the_file_takes(tmp_path, backend):
    (tmp_path / "tenants.toml").write_text(f'[tenant.a]\nkeys = ["{hash_key("key-a")}"]\n')
    with GatewayProcess(tmp_path, backend) as gateway:
        assert gateway.chat()[0] == 200
        assert "plain" not in gateway.errors.read_text()


def test_requests_still_run_when_the_events_file_cannot_be_written(tmp_path, backend):
    with GatewayProcess(tmp_path, backend, options=("--events", "/dev/full", "--log-every", 1)) as gateway:
        assert gateway.chat(script={"tokens": 3}, stream=True)[0] == 200
        gateway.until(lambda: "No space left" in gateway.errors.read_text())
        time.sleep(0.3)
        assert gateway.errors.read_text().count("No space left") == 1
        assert gateway.chat()[0] == 200
