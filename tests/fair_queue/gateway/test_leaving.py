"""Clients that leave, in every phase; readers that are slow; places that come free."""

import json
import socket
import time

import pytest
from gateway_process import GatewayProcess, chat_body


def test_a_client_that_leaves_while_queued_costs_nothing_and_never_reaches_the_backend(tmp_path, backend):
    with GatewayProcess(tmp_path, backend, options=("--window", 1)) as gateway:
        first = gateway.open_chat(tenant="b", script={"gate": "g"})
        backend.wait_for(1)
        gone = gateway.open_chat(tenant="a")
        gateway.until(lambda: gateway.tenants()["a"]["queued"] == 1)
        gone.close()
        gateway.until(lambda: gateway.tenants()["a"]["queued"] == 0)
        backend.open_gate("g")

        assert first.getresponse().status == 200
        assert gateway.chat(tenant="c")[0] == 200
        assert gateway.tenants()["a"]["output_tokens"] == 0
        assert len(backend.served) == 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_before_the_first_byte_frees_backend_and_place(tmp_path, backend, stream):
    with GatewayProcess(tmp_path, backend, options=("--window", 1)) as gateway:
        gone = gateway.open_chat(tenant="a", script={"gate": "never"}, stream=stream)
        (seen,) = backend.wait_for(1)
        left_s = time.monotonic()
        gone.close()

        assert seen.left.wait(10)
        assert time.monotonic() - left_s < 2.0  # at once, on any machine
        assert gateway.chat(tenant="b")[0] == 200
        assert gateway.metrics()["fair_inflight"] == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_while_tokens_come_pays_for_those_that_came(tmp_path, backend, stream):
    with GatewayProcess(tmp_path, backend, options=("--window", 1)) as gateway:
        gone = gateway.open_chat(script={"tokens": 1000, "gate": "never", "gate_at": 50}, stream=stream)
        (seen,) = backend.wait_for(1)
        if stream:
            gateway.until(lambda: gateway.tenants()["a"]["output_tokens"] == 50)
        gone.close()

        assert not stream or seen.left.wait(10)
        assert not stream or gateway.tenants()["a"]["output_tokens"] == 50
        assert gateway.chat(tenant="b")[0] == 200


def test_a_slow_reader_holds_the_backend_up_and_not_the_gateways_memory(gateway, backend):
    import psutil

    body = json.dumps(chat_body({"tokens": 30_000, "text": "x" * 1500}, stream=True)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer key-a\r\ncontent-length: %d\r\n\r\n"
    before = psutil.Process(gateway.process.pid).memory_info().rss
    with socket.create_connection(("127.0.0.1", gateway.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(head % len(body) + body)
        (seen,) = backend.wait_for(1)
        stuck = -1
        while stuck != seen.tokens:
            stuck = seen.tokens
            time.sleep(0.3)
        held = psutil.Process(gateway.process.pid).memory_info().rss - before

        assert stuck < 30_000
        assert held < 16 << 20
        assert gateway.chat(tenant="b")[0] == 200
    assert seen.left.wait(10)


def test_a_slow_reader_gets_everything_in_the_end(gateway, backend):
    connection = gateway.open_chat(script={"tokens": 3000, "text": "y" * 1500}, stream=True)
    answer = connection.getresponse()
    backend.wait_for(1)
    time.sleep(0.3)

    assert answer.read().count(b'"content":') == 3000


def test_a_crowd_of_queued_clients_that_leaves_at_once_leaves_nothing_behind(tmp_path, backend):
    count = 900  # of 1024 file descriptors; ten thousand leave in test_dispatch
    with GatewayProcess(tmp_path, backend, options=("--window", 1)) as gateway:
        first = gateway.open_chat(tenant="b", script={"gate": "g"})
        backend.wait_for(1)
        crowd = [gateway.open_chat(tenant="flood") for _ in range(count)]
        gateway.until(lambda: gateway.tenants()["flood"]["queued"] == count)
        for one in crowd:
            one.close()
        gateway.until(lambda: gateway.tenants()["flood"]["queued"] == 0)
        backend.open_gate("g")

        assert first.getresponse().status == 200
        assert len(backend.served) == 1
        assert gateway.metrics()["fair_queue_depth"] == 0
