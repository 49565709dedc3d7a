"""The gateway between a real client and a real socket: what passes, what is refused, what is charged."""

import json
import socket
import subprocess
from itertools import pairwise

import pytest
from gateway_process import KEYS, GatewayProcess, chat_body, tenants_toml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_backend import event, usage_event


def raw_exchange(gateway, data, *, until_close=True):
    """Send bytes as they are; everything that comes back until the gateway closes."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        connection.sendall(data)
        if until_close:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_whole_answer_passes_unchanged(gateway, backend):
    status, headers, body = gateway.chat(script={"tokens": 3})

    assert status == 200
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["usage"] == {"prompt_tokens": 7, "completion_tokens": 3}
    assert json.loads(backend.served[0].raw) == chat_body({"tokens": 3})


def test_a_stream_passes_unchanged_without_the_usage_that_only_the_gateway_asked_for(gateway, backend):
    status, headers, body = gateway.chat(script={"tokens": 2}, stream=True)

    assert status == 200
    assert headers["x-from"] == "backend"
    assert backend.served[0].body["stream_options"] == {"include_usage": True}
    assert body == (
        event({"delta": {"role": "assistant"}})
        + 2 * event({"delta": {"content": "tok "}})
        + event({"delta": {}, "finish_reason": "stop"})
        + b"data: [DONE]\n\n"
    )


def test_a_client_that_asks_for_usage_gets_it(gateway):
    _, _, body = gateway.chat(script={"tokens": 2}, stream=True, stream_options={"include_usage": True})

    assert usage_event(7, 2) in body


@given(
    texts=st.lists(st.text(max_size=6) | st.just('"usage":{'), max_size=6),
    cuts=st.lists(st.integers(0, 10**5), max_size=12),
    asked=st.booleans(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_stream_is_the_same_with_and_without_the_gateway_wherever_it_is_split(gateway, texts, cuts, asked):
    whole = b"".join(event({"delta": {"content": text}}) for text in texts) + b"data: [DONE]\n\n"
    with_usage = whole.removesuffix(b"data: [DONE]\n\n") + usage_event(3, 4) + b"data: [DONE]\n\n"
    bounds = [0, *sorted(cut % (len(with_usage) + 1) for cut in cuts), len(with_usage)]
    raw = [with_usage[a:b].decode("latin-1") for a, b in pairwise(bounds) if a < b]
    options = {"stream_options": {"include_usage": True}} if asked else {}
    _, _, body = gateway.chat(script={"raw": raw}, stream=True, **options)

    assert body == (with_usage if asked else whole)


def test_the_charge_is_what_the_backend_counted(gateway):
    gateway.chat(script={"tokens": 5, "prompt_tokens": 11}, stream=True)
    gateway.chat(script={"tokens": 6, "prompt_tokens": 13})
    account = gateway.tenants()["a"]

    assert (account["prompt_tokens"], account["output_tokens"], account["estimated"]) == (24, 11, 0)
    assert account["counter"] == 24 + 2 * 11


def test_without_usage_the_estimate_stands_and_is_counted(gateway):
    gateway.chat(script={"tokens": 5, "usage": False}, stream=True)
    account = gateway.tenants()["a"]

    assert account["estimated"] == 1
    assert 5 <= account["output_tokens"] <= 7
    assert account["prompt_tokens"] > 0
    assert gateway.metrics()["fair_estimated_total"] == 1


def test_a_refusal_of_the_backend_passes_and_costs_nothing(gateway):
    status, _, body = gateway.chat(script={"status": 422})

    assert (status, json.loads(body)) == (422, {"error": {"message": "as scripted"}})
    assert gateway.tenants()["a"]["counter"] == 0


def test_the_prompt_estimate_learns_from_usage(gateway):
    for _ in range(3):
        gateway.chat(script={"tokens": 1, "prompt_tokens": 1000})
    with_gate = gateway.open_chat(script={"gate": "g"})
    gateway.until(lambda: gateway.tenants()["a"]["running"] == 1)

    assert 3500 < gateway.tenants()["a"]["prompt_tokens"] < 4500
    with_gate.close()


def test_credentials_and_hop_by_hop_headers_stay_here_and_the_rest_goes_on(gateway, backend):
    headers = {"x-trace": "7", "connection": "keep-alive", "te": "trailers", "accept-encoding": "gzip"}
    gateway.request("POST", "/v1/completions?x=1", {"prompt": "p"}, headers=headers)
    (seen,) = backend.served

    assert seen.path == "/v1/completions?x=1"
    assert seen.headers["x-trace"] == "7"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["x-request-id"]
    assert not {"authorization", "te", "connection"} & set(seen.headers)
    assert all(key not in json.dumps(seen.headers) for key in KEYS.values())


def test_the_backends_own_key_is_sent(tmp_path, backend, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", "sk-upstream")
    with GatewayProcess(tmp_path, backend, options=("--backend-key-env", "UPSTREAM_KEY")) as gateway:
        gateway.chat()

        assert backend.served[0].headers["authorization"] == "Bearer sk-upstream"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("POST", "/tokenize", 200),
        ("GET", "/health", 200),
        ("GET", "/metrics", 404),
        ("GET", "/fair/tenants", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
    ],
)
def test_the_public_address_serves_the_api_and_nothing_of_the_operators(gateway, method, path, status):
    assert gateway.request(method, path)[0] == status


@pytest.mark.parametrize("tenant", ["nobody", None])
def test_an_unknown_key_is_refused_before_the_backend_is_asked(gateway, backend, tenant):
    status, _, body = gateway.chat(tenant=tenant)

    assert status == 401
    assert json.loads(body)["error"]["type"] == "authentication_error"
    assert backend.served == []


@pytest.mark.parametrize("raw", [b"", b"nonsense", b"[1]"])
def test_a_body_that_is_no_json_object_is_refused(gateway, raw):
    status, _, body = gateway.request("POST", "/v1/chat/completions", raw)

    assert status == 400
    assert "JSON" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", 501),
    ],
)
def test_a_request_that_breaks_the_rules_is_answered_and_cut(gateway, data, status):
    answer = raw_exchange(gateway, data, until_close=False)

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer


def test_a_body_that_grows_past_the_limit_is_cut_while_it_comes(tmp_path, backend):
    with GatewayProcess(tmp_path, backend, options=("--max-body", "64K")) as gateway:
        head = b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        answer = raw_exchange(gateway, head + b"10000\r\n" + b"x" * 65536 + b"\r\n1\r\nx", until_close=False)

        assert answer.startswith(b"HTTP/1.1 413 ")


def test_one_connection_serves_many_requests_however_they_are_cut(gateway):
    body = json.dumps(chat_body({"tokens": 1})).encode()
    one = (
        b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer key-a\r\ncontent-length: %d\r\n\r\n" % len(body)
    ) + body
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as connection:
        for cut in (0, 1, 30, len(one) - 1):
            connection.sendall(one[:cut])
            connection.sendall(one[cut:])
            answer = b""
            while b'"completion_tokens": 1}}' not in answer:
                answer += connection.recv(65536)

            assert answer.startswith(b"HTTP/1.1 200 ")


def test_an_http_1_0_client_gets_a_stream_that_ends_with_the_connection(gateway):
    body = json.dumps(chat_body({"tokens": 2}, stream=True)).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\nauthorization: Bearer key-a\r\ncontent-length: %d\r\n\r\n"
    answer = raw_exchange(gateway, head % len(body) + body, until_close=False)

    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")


def test_a_request_that_expects_100_continue_gets_it(gateway, tmp_path):
    body = tmp_path / "body.json"
    body.write_text(json.dumps(chat_body({"tokens": 1}, padding="x" * 2_000_000)))
    command = ["curl", "-sS", "-i", f"{gateway.url}/v1/chat/completions", "-H", "Authorization: Bearer key-a"]
    run = subprocess.run(
        [*command, "-H", "Expect: 100-continue", "--data-binary", f"@{body}"], capture_output=True, check=False
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(b"HTTP/1.1 100 Continue")
    assert b"HTTP/1.1 200 OK" in run.stdout


def test_the_openai_client_speaks_to_it(gateway):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEYS["b"], max_retries=0) as client:
        messages = [{"role": "user", "content": "hi"}]
        whole = client.chat.completions.create(model="m", messages=messages, extra_body={"script": {"tokens": 2}})
        stream = client.chat.completions.create(
            model="m", messages=messages, stream=True, extra_body={"script": {"tokens": 3}}
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()

    assert whole.usage.completion_tokens == 2
    assert text == "tok tok tok "


@pytest.mark.parametrize(
    ("options", "headers", "body", "tenant"),
    [
        (("--tenant-from", "header:X-Tenant", "--trust-header"), {"X-Tenant": "blue"}, {}, "blue"),
        (("--tenant-from", "user"), {"authorization": "Bearer key-a"}, {"user": "grün"}, "grün"),
        (("--tenant-from", "ip"), {}, {}, "127.0.0.1"),
        (("--allow-anonymous",), {}, {}, "anonymous"),
        (("--allow-anonymous",), {"authorization": "Bearer key-b"}, {}, "b"),
    ],
)
def test_a_tenant_is_known_by_what_was_chosen(tmp_path, backend, options, headers, body, tenant):
    with GatewayProcess(tmp_path, backend, options=options) as gateway:
        status, _, _ = gateway.request("POST", "/v1/chat/completions", chat_body(**body), tenant=None, headers=headers)

        assert status == 200
        assert list(gateway.tenants()) == [tenant]


@pytest.mark.parametrize(
    ("options", "headers", "body", "status"),
    [
        (("--tenant-from", "header:X-Tenant"), {"X-Tenant": "blue"}, {}, 401),
        (("--tenant-from", "header:X-Tenant", "--trust-header"), {}, {}, 400),
        (("--tenant-from", "user"), {}, {"user": "u"}, 401),
        (("--tenant-from", "user"), {"authorization": "Bearer key-a"}, {}, 400),
        (("--tenant-from", "header:X-Tenant", "--trust-header"), {"X-Tenant": "x" * 129}, {}, 400),
    ],
)
def test_a_name_that_nothing_vouches_for_is_refused(tmp_path, backend, options, headers, body, status):
    with GatewayProcess(tmp_path, backend, options=options) as gateway:
        sent = chat_body(**body)

        assert gateway.request("POST", "/v1/chat/completions", sent, tenant=None, headers=headers)[0] == status
        assert backend.served == []


def test_a_full_queue_says_when_to_come_back(tmp_path, backend):
    tenants = tenants_toml(a="max_queue = 2")
    with GatewayProcess(tmp_path, backend, tenants=tenants, options=("--window", 1)) as gateway:
        waiting = [gateway.open_chat(script={"gate": "g"}) for _ in range(3)]
        gateway.until(lambda: gateway.tenants()["a"]["queued"] == 2)
        status, headers, body = gateway.chat()
        other = gateway.open_chat(tenant="b", script={"gate": "g"})
        gateway.until(lambda: gateway.tenants()["b"]["queued"] == 1)
        backend.open_gate("g")

        assert status == 429
        assert int(headers["retry-after"]) >= 1
        assert json.loads(body)["error"]["type"] == "rate_limit_error"
        assert [one.getresponse().status for one in (*waiting, other)] == [200] * 4
        assert gateway.metrics()['fair_rejected_total{reason="queue"}'] == 1


def test_requests_a_minute_are_limited_where_the_file_says_so(tmp_path, backend):
    with GatewayProcess(tmp_path, backend, tenants=tenants_toml(a="rpm = 2")) as gateway:
        answers = [gateway.chat() for _ in range(3)]

        assert [status for status, _, _ in answers] == [200, 200, 429]
        assert 1 <= int(answers[2][1]["retry-after"]) <= 61
        assert gateway.chat(tenant="b")[0] == 200


def test_a_request_that_waits_too_long_gets_503(tmp_path, backend):
    with GatewayProcess(tmp_path, backend, options=("--window", 1, "--queue-timeout", 0.2)) as gateway:
        first = gateway.open_chat(script={"gate": "g"})
        backend.wait_for(1)
        status, _, body = gateway.chat()
        backend.open_gate("g")

        assert (status, json.loads(body)["error"]["code"]) == (503, "queue_timeout")
        assert first.getresponse().status == 200
        assert len(backend.served) == 1


def test_a_request_that_no_window_holds_gets_413(tmp_path, backend):
    with GatewayProcess(tmp_path, backend, options=("--window", "100tok")) as gateway:
        assert gateway.chat(max_tokens=1000)[0] == 413
        assert gateway.chat(max_tokens=20)[0] == 200


def test_every_policy_of_the_library_serves(tmp_path, backend):
    from llmsys.fair_queue.policy import POLICIES

    with GatewayProcess(tmp_path, backend, options=("--policy", "fcfs")) as gateway:
        for name in POLICIES:
            spec = {"rpm": "rpm=1000", "tpm": "tpm=100000"}.get(name, name)
            switched, _, _ = gateway.request("PUT", "/fair/policy", {"policy": spec}, admin=True)

            assert (name, switched, gateway.chat(script={"tokens": 2}, stream=True)[0]) == (name, 200, 200)
